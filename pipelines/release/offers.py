"""Keep the catalog of what services could return to as the ledger is; forms show it without asking a database."""

from __future__ import annotations

import logging
import threading

from pipelines import ledger
from pipelines.errors import SlipwayError
from pipelines.formats.catalog import KnownBackup, Offers, ReleaseCatalog, ServedVersion, write_catalog
from pipelines.ledger.backups import list_saved_versions
from pipelines.settings import Settings

logger = logging.getLogger(__name__)

NUM_OFFERED = 20
"""Latest versions, and latest backups, of each service; a form with more is no help. Older ones go by plain value."""

REFRESH_SECONDS = 10.0


def refresh(settings: Settings) -> None:
    """Write the catalog anew where the ledger's facts differ from it. That it fails is told, and harms nobody."""
    try:
        if write_catalog(settings.resolved_home(), _catalog(settings.ledger_url())):
            logger.info("the catalog of releases and backups is new")
    except (SlipwayError, OSError) as error:
        logger.warning("the form of the DAG rollback may show what is old: %s", error)


def keep_fresh(settings: Settings, stopping: threading.Event) -> None:
    """Refresh the catalog until told to stop."""
    while not stopping.is_set():
        refresh(settings)
        stopping.wait(REFRESH_SECONDS)


def _catalog(url: str) -> ReleaseCatalog:
    return ReleaseCatalog(services={service: _offers(url, service) for service in ledger.list_services(url)})


def _offers(url: str, service: str) -> Offers:
    champion = ledger.champion(url, service)
    return Offers(
        serving=None if champion is None else champion.number,
        versions=tuple(
            ServedVersion(number=number, since=since) for number, since in ledger.promotions(url, service, NUM_OFFERED)
        ),
        backups=tuple(
            KnownBackup(name=name, version=number) for name, number in list_saved_versions(url, service, NUM_OFFERED)
        ),
    )
