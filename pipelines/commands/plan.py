"""`python -m pipelines plan`: what a training will take, before anything is spent on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.settings import read_settings
from pipelines.spec import TokenizerConfig, load_spec, merge, parse_params


def plan(
    spec: Annotated[Path, typer.Argument(help="Spec file.")],
    *,
    max_steps: Annotated[int | None, typer.Option(help="Training steps instead of the spec's.")] = None,
    calibrate: Annotated[bool, typer.Option(help="Take 20 steps on this machine, for time and cost.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Tell parameters, FLOPs, memory, checkpoint size, time and cost of a training, on this machine and its devices.

    The plan is kept in the store; the training's receipt and report compare it with what it came to.
    """
    params = {} if max_steps is None else {"max_steps": max_steps}
    wanted = merge(load_spec(spec), parse_params(params))  # before torch is loaded: a mistake is told at once

    from pipelines.store import Store
    from pipelines.training.planning.estimate import check_fits
    from pipelines.training.planning.planner import make_plan
    from pipelines.training.planning.words import plan_text

    training, vocabulary_size = wanted.training, _vocabulary_size(wanted.preparation.tokenizer)
    made = make_plan(wanted.architecture, training, vocabulary_size, is_calibrated=calibrate)
    typer.echo(made.model_dump_json(indent=1) if as_json else plan_text(made, training))
    check_fits(made, training)
    made.keep(Store(read_settings().store_url()), wanted.architecture, training)


def _vocabulary_size(config: TokenizerConfig) -> int:
    """Return the entries of a tokenizer; one that is still to be trained has at most as many as were asked for."""
    from pipelines.data import tokenizer

    if not config.uri:
        return config.vocabulary_size
    return int(tokenizer.open_for_encoding(tokenizer.load_existing(config.uri)).get_vocab_size())
