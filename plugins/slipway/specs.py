"""What a DAG file reads of this installation: model specs, and the known versions and backups."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow.sdk import get_parsing_context

from pipelines.errors import SpecError
from pipelines.formats.catalog import ReleaseCatalog, read_catalog
from pipelines.settings import Settings
from pipelines.spec import ModelSpec, load_spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedSpec:
    """A spec file with what it says, or why it cannot be read."""

    path: Path
    spec: ModelSpec
    problem: str = ""
    """The plain error of a broken file. `spec` then holds defaults only, so that the DAG keeps its shape: a run in
    progress goes on with the spec that it froze, and a new one fails in its first task with this very error.
    (An import error would be the file's: it takes every model's DAG away, and the runs in progress with it.)"""

    @property
    def dag_id(self) -> str:
        """Id of the lifecycle DAG."""
        return self.dag_of("lifecycle")

    def dag_of(self, purpose: str) -> str:
        """Return the id of the model's DAG for a purpose."""
        return f"{purpose}_{re.sub(r'[^A-Za-z0-9_.-]', '_', self.path.stem)}"


def lifecycle_id(model: str) -> str:
    """Return the id of a model's lifecycle DAG: model `docs-gpt` is `docs_gpt.yaml`, `lifecycle_docs_gpt`."""
    return f"lifecycle_{model.replace('-', '_')}"


def listed_specs(purpose: str = "lifecycle") -> Iterator[ListedSpec]:
    """Yield the specs to build: one in a task's process, which knows its DAG, all of them in the DAG processor."""
    wanted = get_parsing_context().dag_id
    for path in sorted(Settings().models_dir.glob("*.yaml")):
        listed = ListedSpec(path, _placeholder(path))
        if wanted in (None, listed.dag_of(purpose)):
            yield _read(listed)


def model_names() -> list[str]:
    """Return the names of all models that have a spec, broken ones too; from the files' names, in every process."""
    return sorted({_placeholder(path).name for path in Settings().models_dir.glob("*.yaml")})


def known_releases() -> ReleaseCatalog | None:
    """Return the versions and backups that a form may offer, or None when they are not known here.

    A task's process shows no form. It takes what a person picked as it is: what is known may have changed since, or may
    not be known on the machine where the task runs, and the ledger is asked anyway.
    """
    return None if get_parsing_context().dag_id else read_catalog(Settings().resolved_home())


def _read(listed: ListedSpec) -> ListedSpec:
    try:
        return ListedSpec(listed.path, load_spec(listed.path))
    except SpecError as problem:
        logger.error("broken model spec: %s", problem)
        return ListedSpec(listed.path, listed.spec, str(problem))


def _placeholder(path: Path) -> ModelSpec:
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")
    return ModelSpec(name=f"m-{name}"[:40] if not name[:1].isalpha() else name[:40])
