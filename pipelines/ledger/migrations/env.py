"""What alembic executes: all migrations in the transaction that `migrate` opened."""

from __future__ import annotations

from alembic import context

from pipelines.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
