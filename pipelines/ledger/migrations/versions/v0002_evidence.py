"""Evidence of rollouts, pairs of reference answers, and what a person may override."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what a rollout on evidence keeps."""
    op.add_column("versions", sa.Column("silence_seconds", sa.Integer, nullable=False, server_default="120"))
    for column in (
        sa.Column("override", sa.Text, nullable=False, server_default=""),
        sa.Column("is_direct", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("config", sa.JSON, nullable=False, server_default="{}"),
        sa.Column("step", sa.Integer, nullable=False, server_default="0"),
        sa.Column("evidence", sa.JSON, nullable=False, server_default="{}"),
    ):
        op.add_column("rollouts", column)
    op.create_table(
        "pairs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("service", sa.String(40), sa.ForeignKey("services.name"), nullable=False),
        sa.Column("stable", sa.String(120), nullable=False),
        sa.Column("candidate", sa.String(120), nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("stable_score", sa.Float),
        sa.Column("candidate_score", sa.Float),
        sa.UniqueConstraint("service", "stable", "candidate", "reference"),
    )
