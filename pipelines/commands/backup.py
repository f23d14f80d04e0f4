"""`python -m pipelines backup`: create, list, verify, restore. Works with Airflow down."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.errors import BadInput, LedgerUnavailable
from pipelines.settings import Settings, read_settings

if TYPE_CHECKING:
    from pipelines.backup.catalog import Catalog
    from pipelines.backup.manifest import BackupManifest
    from pipelines.backup.objects import Objects

app = typer.Typer(no_args_is_help=True, help="Save the installation, and bring it back.")

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


@app.command(epilog="Example: python -m pipelines backup create --reason 'before the move'")
def create(reason: Annotated[str, typer.Option(help="Why; kept in the backup.")] = "by hand") -> None:
    """Back up champions, routes, ledger, Airflow's database and specs to SLIPWAY_BACKUP."""
    from pipelines.backup.create import create_backup
    from pipelines.release import offers

    settings = read_settings()
    created = create_backup(settings, reason)
    offers.refresh(settings)
    typer.echo(created.detail)
    for removed in created.removed:
        typer.echo(f"removed {removed}: retention does not keep it")


@app.command("list", epilog="Example: python -m pipelines backup list --json")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False) -> None:
    """List the backups, newest first."""
    from pipelines.backup.catalog import Catalog
    from pipelines.backup.create import open_store
    from pipelines.backup.errors import BackupDamaged

    catalog = Catalog(open_store(read_settings()))
    rows = []
    for backup in reversed(catalog.ids()):
        try:
            rows.append(_row(catalog.read(backup)))
        except BackupDamaged as damage:
            rows.append({"id": backup, "damage": str(damage)})
    if as_json:
        typer.echo(json.dumps(rows))
    else:
        typer.echo("\n".join(_line(row) for row in rows) or "no backups")


@app.command(epilog="Example: python -m pipelines backup verify")
def verify(backup: Annotated[str, typer.Argument(help="Name of a backup; without it, all.")] = "") -> None:
    """Read every byte of a backup, or of all; the exit status is 0 only if everything is sound."""
    from pipelines.backup.create import open_store
    from pipelines.backup.errors import BackupDamaged, BackupMissing

    settings = read_settings()
    store = open_store(settings)
    with _opened(settings) as (catalog, objects, scratch):
        ids = [backup] if backup else catalog.ids()
        problems = [] if backup else _forgotten(settings, set(ids))
        for name in ids:
            started = time.monotonic()
            try:
                manifest = catalog.read(name)
                _verify(manifest, objects, scratch)
            except BackupDamaged as damage:
                problems.append(f"DAMAGED  {name}: {damage}")
            else:
                seconds = max(time.monotonic() - started, 1e-9)
                rate = manifest.size_bytes / 1e6 / seconds
                typer.echo(
                    f"sound    {name}: {len(manifest.files)} files, {manifest.size_bytes} bytes, {rate:.0f} MB/s"
                )
    for problem in problems:
        typer.echo(problem)
    if problems:
        raise BackupDamaged(f"backup verify: {len(problems)} damaged or missing in {store.url}")
    if not ids:
        raise BackupMissing(f"backup verify: there is no backup in {store.url}; check SLIPWAY_BACKUP")


@app.command(epilog="Example: SLIPWAY_HOME=/srv/new python -m pipelines backup restore --not-older-than 24h")
def restore(
    backup: Annotated[str, typer.Option(help="Name of a backup; without it, the newest.")] = "",
    not_older_than: Annotated[
        str, typer.Option(help="Refuse an older one: an age such as 90m, 24h or 7d, or an ISO 8601 moment.")
    ] = "",
) -> None:
    """Bring the installation back into an empty SLIPWAY_HOME: verify all of it, then write, then `make up`.

    Airflow's secrets are not in a backup: to read connections that Airflow encrypted, copy airflow/secrets.json of the
    old home into the new one before `make up`.
    """
    from pipelines.backup.restore import choose, refuse_occupied
    from pipelines.backup.restore import restore as restore_backup
    from pipelines.stack.restoring import StackDatabases

    settings = read_settings()
    home = settings.resolved_home()
    refuse_occupied(home)
    with _opened(settings) as (catalog, objects, scratch):
        manifest = choose(catalog, backup, parse_moment(not_older_than, time.time()) if not_older_than else None)
        _verify(manifest, objects, scratch)
        typer.echo(f"verified {manifest.id}: {len(manifest.files)} files, {manifest.size_bytes} bytes")
        services = restore_backup(manifest, objects, home, StackDatabases(settings), settings.store)
    typer.echo(f"restored into {home}: services {', '.join(services) or 'none'}; model specs in {home / 'models'}")
    typer.echo("next: `make up`; the controller starts the champions by itself")


def parse_moment(text: str, now: float) -> float:
    """Return the moment that an age or an ISO 8601 text names, in seconds since the epoch; without a zone it is UTC.

    Raises:
        BadInput: when it is neither.
    """
    if age := re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text):
        return now - float(age[1]) * _UNITS[age[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--not-older-than: {text!r} is neither an age (90m, 24h, 7d) nor an ISO 8601 moment") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@contextlib.contextmanager
def _opened(settings: Settings) -> Iterator[tuple[Catalog, Objects, Path]]:
    """Give the backup store's catalog and objects, with a scratch folder outside of the home, for a block."""
    from pipelines.backup.catalog import Catalog
    from pipelines.backup.create import open_store
    from pipelines.backup.objects import Objects

    store = open_store(settings)
    with tempfile.TemporaryDirectory(prefix="slipway-backup-") as scratch:
        yield Catalog(store), Objects(store, Path(scratch)), Path(scratch)


def _verify(manifest: BackupManifest, objects: Objects, scratch: Path) -> None:
    from pipelines.backup.restore import verify as verify_backup

    verify_backup(manifest, objects, scratch)


def _forgotten(settings: Settings, present: set[str]) -> list[str]:
    """Return what is wrong when the ledger, if it can be asked, knows backups that are not there."""
    from pipelines.ledger.backups import list_backups

    try:
        known = list_backups(settings.ledger_url())
    except LedgerUnavailable:
        typer.echo("the ledger does not answer: not asked for backups that are missing")
        return []
    return [f"MISSING  {record.id}: the ledger knows it" for record in known if record.id not in present]


def _row(manifest: BackupManifest) -> dict[str, object]:
    return {
        "id": manifest.id,
        "digest": manifest.digest,
        "created_at": manifest.created_at,
        "reason": manifest.reason,
        "num_files": len(manifest.files),
        "size_bytes": manifest.size_bytes,
        "champions": {route.service: route.champion for route in manifest.routes if route.champion is not None},
    }


def _line(row: dict[str, object]) -> str:
    if "damage" in row:
        return f"{row['id']}  DAMAGED: {row['damage']}"
    champions = row["champions"]
    serving = (
        ", ".join(f"{name} v{number}" for name, number in champions.items()) if isinstance(champions, dict) else ""
    )
    size = float(str(row["size_bytes"])) / 1e6
    return f"{row['id']}  {size:9.1f} MB  {serving or 'no version in production'}  ({row['reason']})"
