"""The command line: `python -m pipelines --help`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipelines.commands import backup, ledger, plan, release, train
from pipelines.errors import BadInput, ExitCode, SlipwayError
from pipelines.settings import REPOSITORY, read_settings

SCHEMA_FILE = REPOSITORY / "docs" / "model-spec.schema.json"

logger = logging.getLogger("pipelines")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Slipway: take a model from data to a safely released service.",
)
spec_app = typer.Typer(no_args_is_help=True, help="Check model specs.")
app.add_typer(spec_app, name="spec")
app.add_typer(release.app, name="release")
app.add_typer(backup.app, name="backup")
app.add_typer(ledger.app, name="ledger")
app.add_typer(train.app, name="train")
app.command(epilog="Example: python -m pipelines plan dags/models/docs_gpt.yaml --max-steps 50")(plan.plan)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command(epilog="Example: python -m pipelines step prepare --spec artifacts/spec/<digest> --inputs I --result R")
def step(
    name: Annotated[str, typer.Argument(help="freeze, validate, prepare, train, evaluate or package.")],
    spec: Annotated[str, typer.Option(help="URI of the frozen spec; for freeze, of the spec file.")],
    inputs: Annotated[str, typer.Option(help="URI of the inputs document in the store.")],
    result: Annotated[str, typer.Option(help="URI in the store for the receipt.")],
) -> None:
    """Execute one work step: what Airflow's tasks and the pods run. All but the first of several pods help it."""
    from pipelines import process
    from pipelines.step import assist, execute
    from pipelines.training.nodes import Place

    process.die_with_parent()
    place = Place.of(os.environ)
    if place.node_rank:
        assist(name, spec_uri=spec, inputs_uri=inputs, settings=read_settings())
        logger.info("step %s: node %d of %d has done its part", name, place.node_rank, place.num_nodes)
        return
    receipt = execute(name, spec_uri=spec, inputs_uri=inputs, result_uri=result, settings=read_settings())
    done = f"reused from run {receipt.reused_from}" if receipt.reused else "done"
    logger.info("step %s: %s in %.1f s; receipt %s", name, done, receipt.seconds, result)


@app.command(epilog="Example: python -m pipelines run --spec dags/models/docs_gpt.yaml --max-steps 50")
def run(
    *,
    spec: Annotated[Path, typer.Option(help="Spec file.")],
    max_steps: Annotated[int | None, typer.Option(help="Training steps instead of the spec's.")] = None,
    source: Annotated[str | None, typer.Option(help="Data source instead of the spec's.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="Step to run again; may be repeated.")] = None,
    note: Annotated[str, typer.Option(help="Why this run.")] = "",
    seed: Annotated[int | None, typer.Option(help="Training seed instead of the spec's.")] = None,
    override: Annotated[str, typer.Option(help="Why a version that was rolled back may try again.")] = "",
) -> None:
    """Run the lifecycle without Airflow, on the same stack and controller. Ctrl-C aborts."""
    from pipelines.driver import run_lifecycle

    params = {
        "max_steps": max_steps,
        "source": source,
        "force": tuple(force or ()),
        "note": note,
        "seed": seed,
        "override": override,
    }
    run_lifecycle(spec, params, read_settings())


@app.command(epilog="Example: python -m pipelines trigger docs-gpt --max-steps 50")
def trigger(
    model: Annotated[str, typer.Argument(help="Model name.")],
    *,
    max_steps: Annotated[int | None, typer.Option(help="Training steps instead of the spec's.")] = None,
    source: Annotated[str | None, typer.Option(help="Data source instead of the spec's.")] = None,
    force: Annotated[list[str] | None, typer.Option(help="Step to run again; may be repeated.")] = None,
    note: Annotated[str, typer.Option(help="Why this run.")] = "",
    seed: Annotated[int | None, typer.Option(help="Training seed instead of the spec's.")] = None,
    override: Annotated[str, typer.Option(help="Why a version that was rolled back may try again.")] = "",
) -> None:
    """Trigger a model's DAG through Airflow's REST API, show its progress and check that the model serves."""
    from pipelines.stack import trigger_and_follow

    given = {"max_steps": max_steps, "source": source, "seed": seed}
    params: dict[str, object] = {"force": list(force or ()), "note": note, "override": override}
    params |= {name: value for name, value in given.items() if value is not None}
    trigger_and_follow(read_settings(), model, params)


@app.command(epilog="Example: SLIPWAY_AIRFLOW_PORT=8081 python -m pipelines up")
def up() -> None:
    """Start the local stack: Postgres, Envoy, controller and Airflow under one supervisor."""
    from pipelines import stack

    stack.up(read_settings())


@app.command(epilog="Example: python -m pipelines down")
def down() -> None:
    """Stop the local stack and check that no process and no port is left."""
    from pipelines import stack

    stack.down(read_settings())


@app.command(epilog="Example: python -m pipelines status")
def status() -> None:
    """Show what runs and what serves; the exit status is not 0 when something is down."""
    from pipelines import stack

    if not stack.status(read_settings()):
        raise typer.Exit(ExitCode.UNEXPECTED)


@app.command(epilog="Example: python -m pipelines controller (the stack's supervisor starts it)")
def controller() -> None:
    """Run the controller: the only process that looks, decides and raises weights."""
    from pipelines.release.controller import run_controller

    run_controller(read_settings())


@spec_app.command("validate", epilog="Example: python -m pipelines spec validate dags/models/docs_gpt.yaml")
def spec_validate(files: Annotated[list[Path], typer.Argument(help="Spec files.")]) -> None:
    """Check spec files; name every broken rule."""
    from pipelines.errors import SpecError
    from pipelines.spec import load_spec

    problems = []
    for file in files:
        try:
            typer.echo(f"{file}: model {load_spec(file).name}, valid")
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise SpecError("\n".join(problems))


@spec_app.command("schema", epilog="Example: python -m pipelines spec schema > model-spec.schema.json")
def spec_schema(
    check: Annotated[bool, typer.Option("--check", help="Fail when the committed schema is stale.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the committed schema.")] = False,
) -> None:
    """Print the JSON Schema of spec files, for editors."""
    from pipelines.spec import schema_json

    if write:
        SCHEMA_FILE.write_text(schema_json(), encoding="utf-8")
    elif check:
        if not SCHEMA_FILE.is_file() or SCHEMA_FILE.read_text(encoding="utf-8") != schema_json():
            raise BadInput(f"{SCHEMA_FILE.relative_to(REPOSITORY)} is stale; run `make schema`")
    else:
        typer.echo(schema_json(), nl=False)


@app.command(epilog="Example: python -m pipelines verify --all")
def verify(
    uris: Annotated[list[str] | None, typer.Argument(help="URIs of artifacts.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify every artifact of the store.")] = False,
) -> None:
    """Read every byte of artifacts and compare it with their manifests."""
    from pipelines.maintenance import verify_artifacts

    if not uris and not everything:
        raise BadInput("verify: name artifacts (artifacts/<kind>/<digest>) or give --all")
    problems = verify_artifacts(read_settings(), None if everything else uris, typer.echo)
    if problems:
        raise BadInput(f"verify: {problems} damaged or missing")


@app.command(epilog="Example: python -m pipelines fetch --artifact artifacts/bento/<digest> --to /bento/content")
def fetch(
    artifact: Annotated[str, typer.Option(help="URI of the artifact.")],
    to: Annotated[Path, typer.Option(help="Folder that is made, or replaced when its files are not the artifact's.")],
) -> None:
    """Bring an artifact from the store into a folder, every byte verified."""
    from pipelines.artifacts import ArtifactRef
    from pipelines.commands.fetch import fetch_to
    from pipelines.store import Store

    fetch_to(Store(read_settings().store_url()), ArtifactRef.parse(artifact), to)
    logger.info("%s is in %s", artifact, to)


@app.command(epilog="Example: python -m pipelines gc --delete")
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Really remove; without it, only list.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List or remove artifacts that no ledger row, receipt of a live run or serving copy reaches."""
    from pipelines.maintenance import collect_garbage

    report = collect_garbage(read_settings(), delete=delete)
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
    else:
        typer.echo(report.as_text())


class _Interrupted(SystemExit):
    """A signal asked this process to stop; leaves through every `finally`."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.status = 128 + number


def _stop(number: int, _frame: object) -> NoReturn:
    raise _Interrupted(number)


def main() -> int:
    """Run the command line and return the exit status; a user's mistake prints one plain error and no stack trace."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpx2", "alembic", "matplotlib", "fsspec", "aiobotocore", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(app(standalone_mode=False) or 0)  # the status of a typer.Exit is returned, not raised
    except (typer.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except _Interrupted as interrupted:
        return interrupted.status
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told
        return _tell(error)


def _tell(error: Exception) -> int:
    if isinstance(error, SlipwayError):
        typer.echo(f"error: {error}", err=True)
        return int(error.exit_code)
    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # the command line itself was wrong
        typer.echo(f"error: {format_message()} See --help.", err=True)
        return int(ExitCode.REFUSED)
    logger.error("unexpected error", exc_info=error)
    return int(ExitCode.UNEXPECTED)


if __name__ == "__main__":
    sys.exit(main())
