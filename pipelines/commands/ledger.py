"""`python -m pipelines ledger ...`: what an installation without the local stack needs to do with the ledger."""

from __future__ import annotations

import typer

from pipelines.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="Prepare the ledger; ask it whether the controller lives.")


@app.command(epilog="Example: python -m pipelines ledger migrate")
def migrate() -> None:
    """Make the ledger's tables, or bring them up to date; done before anything else uses it."""
    from pipelines import ledger

    ledger.migrate(read_settings().ledger_url())
    typer.echo("the ledger is up to date")


@app.command(epilog="Example: python -m pipelines ledger alive")
def alive() -> None:
    """Say for how long the controller was silent; the exit status is not 0 when that is too long."""
    from pipelines import ledger
    from pipelines.release.lowering import SILENCE_SECONDS, ControllerSilent

    url = read_settings().ledger_url()
    silent = ledger.silence_seconds(url, since=0.0)
    if silent > SILENCE_SECONDS:
        raise ControllerSilent(f"the controller gave no sign of life within {SILENCE_SECONDS:.0f} s; see its log")
    typer.echo(f"the controller spoke {silent:.0f} s ago")
