"""`python -m pipelines train ...`: look again at trainings that are done."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.errors import ExitCode
from pipelines.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="Look again at trainings that are done.")


@app.callback()
def _group() -> None:
    """Keep the command's name: a group of one command would be that command."""


@app.command(epilog="Example: python -m pipelines train replay manual__2026-11-21T04:52:23.421866+00:00")
def replay(
    run: Annotated[str, typer.Argument(help="Run whose training is done again.")],
    model: Annotated[str, typer.Option(help="Model, where runs of several have this id.")] = "",
) -> None:
    """Train again from a run's own inputs, and compare: the exit status is 0 only if every bit is equal.

    Otherwise the measured difference is told, and what else is not as it was: versions, hardware, flags, code.
    """
    from pipelines.replay import replay as train_again
    from pipelines.training.comparison import outcome_text

    difference = train_again(run, model, read_settings(), lambda line: typer.echo(line, err=True))
    typer.echo(outcome_text(difference))
    if not difference.weights.is_equal:
        raise typer.Exit(ExitCode.UNEXPECTED)
