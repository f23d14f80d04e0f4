"""The ledger's tables. Times are seconds since the epoch by the database's clock; artifacts are relative URIs."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

services = Table(
    "services",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("port", Integer, unique=True),
    Column("champion", Integer, ForeignKey("versions.id", use_alter=True)),
    Column("generation", Integer, nullable=False, server_default="0"),  # of the last route that anybody asked for
    Column("head_seq", Integer, nullable=False, server_default="0"),
    Column("head_hash", String(64), nullable=False, server_default=""),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("service", String(40), ForeignKey("services.name"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("bento", String(120), nullable=False),
    Column("tag", String(120), nullable=False),
    Column("model", String(120), nullable=False),
    Column("evaluation", String(120), nullable=False),
    Column("evaluated_against", String(120)),  # model that was champion when this one was evaluated
    Column("numbers", JSON, nullable=False),  # what the evaluation found, for people
    Column("spec", String(120), nullable=False),
    Column("rollout", JSON, nullable=False),  # the spec's rules for the release
    Column("is_idempotent", Boolean, nullable=False),
    Column("silence_seconds", Integer, nullable=False, server_default="120"),
    Column("run_id", String(250), nullable=False),
    Column("registered_at", Float, nullable=False),
    UniqueConstraint("service", "number"),
    UniqueConstraint("service", "bento", "evaluation"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("service", String(40), ForeignKey("services.name"), nullable=False),
    Column("run_id", String(250), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("override", Text, nullable=False, server_default=""),
    Column("is_direct", Boolean, nullable=False, server_default=false()),
    Column("config", JSON, nullable=False, server_default="{}"),  # the spec's rules, frozen when it was opened
    Column("candidate", Integer, ForeignKey("versions.id"), nullable=False),
    Column("stable", Integer, ForeignKey("versions.id")),  # champion when the rollout got the lock; null: first release
    Column("phase", String(40), nullable=False),
    Column("is_done", Boolean, nullable=False),
    Column("step", Integer, nullable=False, server_default="0"),
    Column("generation", Integer, nullable=False),
    Column("canary_bp", Integer, nullable=False),  # desired weight, basis points
    Column("confirmed_bp", Integer),  # weight that the router was seen to have
    Column("deadline", Float),
    Column("hold_reason", Text, nullable=False),
    Column("outcome", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Column("evidence", JSON, nullable=False, server_default="{}"),
    Column("revision", Integer, nullable=False),  # rises with every save: a writer must have read the latest
    Column("is_active", Boolean, nullable=False),  # holds the service's lock
    Column("opened_at", Float, nullable=False),
    Column("ended_at", Float),
    UniqueConstraint("service", "run_id", "attempt"),
    CheckConstraint("canary_bp between 0 and 10000", name="canary_bp"),
    Index(
        "uq_rollouts_one_active",
        "service",
        unique=True,
        postgresql_where=text("is_active"),
        sqlite_where=text("is_active"),
    ),
)

permits = Table(
    "permits",
    metadata,
    Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=True),
    Column("transition", String(40), primary_key=True),
    Column("inserted_at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("service", String(40), ForeignKey("services.name"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("rollout", Integer, ForeignKey("rollouts.id")),
    Column("facts", JSON, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

pairs = Table(
    "pairs",  # each reference is scored once per pair of models: a fixed set replayed again holds no information
    metadata,
    Column("id", Integer, primary_key=True),
    Column("service", String(40), ForeignKey("services.name"), nullable=False),
    Column("stable", String(120), nullable=False),
    Column("candidate", String(120), nullable=False),
    Column("reference", String(64), nullable=False),
    Column("stable_score", Float),  # mean log-probability per token, nats; null: no valid answer
    Column("candidate_score", Float),
    UniqueConstraint("service", "stable", "candidate", "reference"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("process", String(40), primary_key=True),
    Column("at", Float, nullable=False),
)

backups = Table(
    "backups",
    metadata,
    Column("id", String(60), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("num_files", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("written_bytes", BigInteger, nullable=False),
)
