"""Restore an installation: verify everything first, build it beside its place, and put it there in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pipelines import artifacts
from pipelines.artifacts import MANIFEST
from pipelines.backup.catalog import Catalog
from pipelines.backup.contents import MODELS, check_complete
from pipelines.backup.dumps import restore_dump
from pipelines.backup.errors import BackupDamaged, RestoreRefused
from pipelines.backup.manifest import STORE, BackupManifest, SavedDatabase, SavedRoute
from pipelines.backup.objects import Objects
from pipelines.ledger import backups as ledger_backups
from pipelines.ledger import list_services, migrate, read_service
from pipelines.store import Store

logger = logging.getLogger(__name__)

RECORD = "restored.json"
"""File in a restored home that says where it came from."""


class Databases(Protocol):
    """The database servers of an installation that does not run."""

    def check(self, databases: tuple[SavedDatabase, ...]) -> None:
        """Refuse when a dump could not be restored; writes nothing."""

    def opened(self, home: Path) -> contextlib.AbstractContextManager[Mapping[str, str]]:
        """Run what is needed for a block, with its files in `home`; gives the URL of each empty database."""

    def discard(self, home: Path) -> None:
        """Remove what a restore that was killed left outside of `home`."""


def choose(catalog: Catalog, backup: str = "", not_older_than: float | None = None) -> BackupManifest:
    """Return the manifest of the wanted backup: a named one, or the newest.

    Raises:
        BackupMissing: when there is none.
        BackupDamaged: when it is not what its name says, or when the newest was taken away.
        RestoreRefused: when it is older than asked, in seconds since the epoch.
    """
    manifest = catalog.read(backup or catalog.newest())
    if not_older_than is not None and manifest.created_at < not_older_than:
        raise RestoreRefused(
            f"restore: backup {manifest.id} is older than asked ({_moment(not_older_than)}); "
            "name a newer one, or ask for less"
        )
    return manifest


def verify(manifest: BackupManifest, objects: Objects, scratch: Path) -> None:
    """Read every byte of a backup, and see that it holds all of everything that it speaks of.

    Raises:
        BackupDamaged: names what is missing, changed or not listed.
    """
    objects.check_all(manifest.files)
    own = {}
    for ref in manifest.artifacts():
        file = manifest.file(f"{STORE}{ref.uri}/{MANIFEST}")
        if file is None or file.sha256 != ref.digest:
            raise BackupDamaged(f"backup {manifest.id}: {ref.uri} is not the artifact that it is listed as")
        objects.fetch(file, scratch / MANIFEST)
        own[ref] = (scratch / MANIFEST).read_bytes()
    check_complete(manifest, own)


def restore(
    manifest: BackupManifest, objects: Objects, home: Path, databases: Databases, store_url: str = ""
) -> list[str]:
    """Bring an installation back into an empty home; return the names of the services that it has.

    Everything is built in `<home>.restoring` and renamed at the end. A restore that was killed leaves the home empty
    as it was, and the next one begins again. The caller has verified the backup; every copy is verified once more.

    Args:
        manifest: of the backup.
        objects: of the backup store.
        home: absolute path that does not exist, or is an empty folder.
        databases: where the dumps go.
        store_url: artifact store outside of the home; empty: inside.

    Raises:
        RestoreRefused: when the home is not empty, a database is not, or another restore is at work.
        BackupDamaged: when a copy is not what was verified.
    """
    refuse_occupied(home)
    _refuse_unknown_schema(manifest)
    databases.check(manifest.databases)
    _refuse_small_disk(manifest, home)
    with _building_site(home, databases) as site:
        _copy_files(manifest, objects, site, store_url)
        with databases.opened(site) as urls:
            for database in manifest.databases:
                restore_dump(database, urls[database.name], site / database.path)
            services = _settle(manifest, urls["ledger"])
        shutil.rmtree(site / "databases")
        record = {"backup": manifest.id, "digest": manifest.digest, "restored_at": _moment(time.time())}
        (site / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        _put_in_place(site, home)
    return services


def refuse_occupied(home: Path) -> None:
    """Raise RestoreRefused unless a home does not exist or is an empty folder."""
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise RestoreRefused(f"restore: {home} is not empty; move it away, or set SLIPWAY_HOME to a new folder")


def _refuse_unknown_schema(manifest: BackupManifest) -> None:
    for database in manifest.databases:
        if database.name == "ledger" and not ledger_backups.knows_schema(database.schema_revision):
            raise RestoreRefused(
                f"restore: the ledger's dump has schema {database.schema_revision}, which this version of Slipway does "
                "not know; restore with the version that made the backup, or a newer one"
            )


def _refuse_small_disk(manifest: BackupManifest, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.parent).free
    if free < manifest.size_bytes:
        raise RestoreRefused(
            f"restore: {home.parent} has {free} bytes free, the backup {manifest.size_bytes}; free space, or set "
            "SLIPWAY_HOME to a larger disk"
        )


@contextlib.contextmanager
def _building_site(home: Path, databases: Databases) -> Iterator[Path]:
    """Give an empty folder beside the home to one restore at a time."""
    site = home.with_name(f"{home.name}.restoring")
    site.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(site, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RestoreRefused(f"restore: another restore into {home} is at work; wait for it") from None
        refuse_occupied(home)
        _empty(site, databases)
        try:
            yield site
        except BaseException:
            _empty(site, databases)
            raise
    finally:
        os.close(handle)


def _empty(site: Path, databases: Databases) -> None:
    databases.discard(site)
    for path in site.iterdir() if site.exists() else ():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _copy_files(manifest: BackupManifest, objects: Objects, site: Path, store_url: str) -> None:
    store = Store(store_url or f"file://{site / 'store'}")
    for file in manifest.files:
        if file.path.startswith((MODELS, "databases/")):
            objects.fetch(file, site / file.path)
            continue
        copy = site / "copy"
        objects.fetch(file, copy)
        store.put_file(file.path.removeprefix(STORE), copy)
        copy.unlink()
    for ref in manifest.artifacts():
        artifacts.verify(store, ref)
    logger.info("restored %d files of %.1f MB", len(manifest.files), manifest.size_bytes / 1e6)


def _settle(manifest: BackupManifest, ledger: str) -> list[str]:
    """Bring the ledger to this code's schema, end what was under way, and see that it names what the backup holds."""
    migrate(ledger)
    ledger_backups.settle(ledger, manifest.id)
    services = list_services(ledger)
    found = {_route(ledger, service) for service in services}
    if found != set(manifest.routes):
        raise BackupDamaged(f"backup {manifest.id}: the ledger's dump does not name the routes that the backup lists")
    return services


def _route(ledger: str, name: str) -> SavedRoute:
    service = read_service(ledger, name)
    champion = None if service is None or service.champion is None else service.champion.number
    return SavedRoute(service=name, port=None if service is None else service.port, champion=champion)


def _put_in_place(site: Path, home: Path) -> None:
    try:
        site.rename(home)  # onto nothing, or onto an empty folder
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise RestoreRefused(
                f"restore: {home} was filled in the meantime; move it away and restore again"
            ) from None
        raise
    handle = os.open(home.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
