"""Services, versions, rollouts, permits, events and heartbeats."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables. Services and versions name each other, so one foreign key comes last."""
    op.create_table(
        "services",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("port", sa.Integer),
        sa.Column("champion", sa.Integer),
        sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
        sa.Column("head_seq", sa.Integer, nullable=False, server_default="0"),
        sa.Column("head_hash", sa.String(64), nullable=False, server_default=""),
        sa.UniqueConstraint("port", name="uq_services_port"),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("service", sa.String(40), sa.ForeignKey("services.name"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("bento", sa.String(120), nullable=False),
        sa.Column("tag", sa.String(120), nullable=False),
        sa.Column("model", sa.String(120), nullable=False),
        sa.Column("evaluation", sa.String(120), nullable=False),
        sa.Column("evaluated_against", sa.String(120)),
        sa.Column("numbers", sa.JSON, nullable=False),
        sa.Column("spec", sa.String(120), nullable=False),
        sa.Column("rollout", sa.JSON, nullable=False),
        sa.Column("is_idempotent", sa.Boolean, nullable=False),
        sa.Column("run_id", sa.String(250), nullable=False),
        sa.Column("registered_at", sa.Float, nullable=False),
        sa.UniqueConstraint("service", "number", name="uq_versions_service_number"),
        sa.UniqueConstraint("service", "bento", "evaluation", name="uq_versions_service_bento_evaluation"),
    )
    with op.batch_alter_table("services") as services:
        services.create_foreign_key("fk_services_champion", "versions", ["champion"], ["id"])
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("service", sa.String(40), sa.ForeignKey("services.name"), nullable=False),
        sa.Column("run_id", sa.String(250), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("candidate", sa.Integer, sa.ForeignKey("versions.id"), nullable=False),
        sa.Column("stable", sa.Integer, sa.ForeignKey("versions.id")),
        sa.Column("phase", sa.String(40), nullable=False),
        sa.Column("is_done", sa.Boolean, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("canary_bp", sa.Integer, nullable=False),
        sa.Column("confirmed_bp", sa.Integer),
        sa.Column("deadline", sa.Float),
        sa.Column("hold_reason", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(40), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.UniqueConstraint("service", "run_id", "attempt", name="uq_rollouts_service_run_id_attempt"),
        sa.CheckConstraint("canary_bp between 0 and 10000", name="ck_rollouts_canary_bp"),
    )
    op.create_index(
        "uq_rollouts_one_active",
        "rollouts",
        ["service"],
        unique=True,
        postgresql_where=sa.text("is_active"),
        sqlite_where=sa.text("is_active"),
    )
    op.create_table(
        "permits",
        sa.Column("rollout", sa.Integer, sa.ForeignKey("rollouts.id"), primary_key=True),
        sa.Column("transition", sa.String(40), primary_key=True),
        sa.Column("inserted_at", sa.Float, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("service", sa.String(40), sa.ForeignKey("services.name"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("rollout", sa.Integer, sa.ForeignKey("rollouts.id")),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_table(
        "heartbeats",
        sa.Column("process", sa.String(40), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )
