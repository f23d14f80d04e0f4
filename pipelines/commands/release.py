"""`python -m pipelines release ...`: look at rollouts and order them about; works with Airflow down."""

from __future__ import annotations

import getpass
import json
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.errors import BadInput, ReleaseRefused
from pipelines.settings import read_settings

if TYPE_CHECKING:
    from pipelines.ledger import Rollout
    from pipelines.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Look at rollouts; promote, abort, roll back. Works with Airflow down.")

ServiceArgument = Annotated[str, typer.Argument(help="Name of the service, which is the model's.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command(epilog="Example: python -m pipelines release status docs-gpt")
def status(
    service: Annotated[str | None, typer.Argument(help="Service; without it, all.")] = None, as_json: JsonFlag = False
) -> None:
    """Show what serves, and the running rollout in numbers."""
    from pipelines.release import report

    url = read_settings().ledger_url()
    found = [report.present(url, name) for name in _services(url, service)]
    if as_json:
        typer.echo(json.dumps([present.model_dump(mode="json") for present in found]))
    else:
        typer.echo("\n".join(present.text() for present in found) or "nothing was released yet")


@app.command(epilog="Example: python -m pipelines release explain 7")
def explain(
    rollout_id: Annotated[int, typer.Argument(help="Number of the rollout, as `release status` shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """Compute every verdict of a rollout again from its events; the exit status is not 0 when one does not follow."""
    from pipelines import ledger
    from pipelines.release import audit, report

    url = read_settings().ledger_url()
    rollout = _rollout(url, rollout_id)
    ledger.verify_chain(url, rollout.service)
    events = ledger.events(url, rollout.service, rollout=rollout.id)
    looks = list(audit.replayed(rollout, events))
    if as_json:
        typer.echo(json.dumps([report.look_facts(look) for look in looks]))
    else:
        typer.echo(report.explained(rollout, events, looks))


@app.command(epilog="Example: python -m pipelines release promote docs-gpt")
def promote(service: ServiceArgument) -> None:
    """Permit all that is left of the running rollout, approvals included; the evidence is still asked for."""
    from pipelines.release import orders

    rollout = orders.promote(read_settings().ledger_url(), service, _person())
    typer.echo(f"{rollout}: every transition is permitted; it goes on when the evidence allows")


@app.command(epilog="Example: python -m pipelines release abort docs-gpt")
def abort(service: ServiceArgument) -> None:
    """Take the users back to the old version at once, and wait until it is all over."""
    from pipelines.release import inline, orders

    settings = read_settings()
    fleet, router, _ = _adapters(settings)
    rollout = orders.abort(settings.ledger_url(), service, _person(), fleet=fleet, router=router)
    _tell_end(inline.wait_for_end(rollout, settings), settings)


@app.command(epilog="Example: python -m pipelines release rollback docs-gpt --to 3")
def rollback(
    service: ServiceArgument,
    to: Annotated[int | None, typer.Option(help="Version that was in production; without it, the one before.")] = None,
    backup: Annotated[str, typer.Option(help="Backup whose version in production is wanted; all of it is read.")] = "",
) -> None:
    """Return to an earlier version, without analysis. A running rollout is aborted; that is all if nothing is named."""
    from pipelines.release import inline, orders

    settings = read_settings()
    url = settings.ledger_url()
    present = orders.running(url, service)
    to = _version_wanted(settings, service, to, backup)
    fleet, router, _ = _adapters(settings)
    if present is not None:
        ended = inline.wait_for_end(orders.abort(url, service, _person(), fleet=fleet, router=router), settings)
        if to in (None, _serving(url, service)):
            _tell_end(ended, settings)
            return
    rollout = orders.return_to(url, service, to, run_id=f"cli__rollback-{uuid.uuid4().hex[:12]}", person=_person())
    ended = inline.wait_for_end(rollout, settings)
    _tell_end(ended, settings)
    if ended.state.outcome not in ("promoted", "already_serving"):
        raise ReleaseRefused(f"{ended}: {ended.state.outcome}: {ended.state.detail}")


def _version_wanted(settings: Settings, service: str, to: int | None, backup: str) -> int | None:
    from pipelines.backup.held import version_held
    from pipelines.release import orders

    if to is not None and backup:
        raise BadInput(f"--to {to} and --backup {backup}: name one of them")
    if to is not None:
        orders.check_promoted(settings.ledger_url(), service, to)
    return version_held(settings, backup, service) if backup else to


def _serving(url: str, service: str) -> int | None:
    from pipelines import ledger

    champion = ledger.champion(url, service)
    return None if champion is None else champion.number


def _services(url: str, service: str | None) -> list[str]:
    from pipelines import ledger
    from pipelines.release import orders

    if service is None:
        return ledger.list_services(url)
    orders.running(url, service)  # an unknown one is refused here
    return [service]


def _rollout(url: str, rollout_id: int) -> Rollout:
    from pipelines import ledger

    rollout = ledger.find_rollout_by_id(url, rollout_id)
    if rollout is None:
        raise BadInput(f"rollout {rollout_id} is not in the ledger; `release status` names the latest ones")
    return rollout


def _adapters(settings: Settings) -> Any:
    from pipelines.release import adapters

    return adapters.connect(settings)


def _person() -> str:
    return getpass.getuser()


def _tell_end(rollout: Rollout, settings: Settings) -> None:
    from pipelines.release import report

    state = rollout.state
    why = f" ({state.outcome}: {state.detail})" if state.detail else ""
    typer.echo(f"{rollout}: {state.phase}{why}")
    typer.echo(report.present(settings.ledger_url(), rollout.service).text())
