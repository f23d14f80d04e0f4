"""The ledger's schema, versioned by alembic inside this package."""

from __future__ import annotations

from pathlib import Path

from pipelines.ledger.database import transaction


def migrate(url: str) -> None:
    """Bring a ledger to the schema of this code; one that is there already costs a query.

    Raises:
        LedgerUnavailable: when the database cannot be reached.
    """
    from alembic import command  # not at the top: whoever only reads the ledger should start quickly
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with transaction(url) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
