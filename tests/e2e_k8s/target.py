"""On which cluster, with which images and store: variables of the environment, which `make e2e-k8s NAME=value` sets.

KUBECONFIG says which cluster. No pod of Slipway has a sidecar, so none is asked for an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import BadInput
from pipelines.settings import REPOSITORY

OVERLAYS = REPOSITORY / "docker" / "k8s" / "overlays"
_EXAMPLE = "make e2e-k8s STORE=s3://bucket/path"


def _known_overlay(name: str) -> str:
    known = sorted(path.name for path in OVERLAYS.iterdir())
    if name not in known:
        raise ValueError(f"there is no overlay of that name; known: {', '.join(known)}")
    return name


def _in_a_bucket(url: str) -> str:
    if not url.startswith("s3://"):
        raise ValueError("pods reach no folder of this machine; write s3://bucket/path")
    return url


class Target(BaseSettings):
    """One run. Every field is a variable of that name in capital letters."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    overlay: Annotated[str, AfterValidator(_known_overlay)] = "kind"
    """Which overlay is applied."""

    context: str = ""
    """Context of the kubeconfig; empty: the current one."""

    store: Annotated[str, AfterValidator(_in_a_bucket)]
    """`s3://bucket/path`, reachable from the pods and from here; credentials and address in AWS_* variables."""

    registry: str = ""
    """Registry and path before the names of the images; empty: they are on the nodes."""

    image_prefix: str = "slipway"
    """Images are called `<prefix>-<image>`."""

    tag: str = ""
    """Tag of the images; empty: the project's version."""

    airflow_image: str = ""
    """Full name, instead of the name that the three above make."""

    trainer_image: str = ""
    """Full name, instead of the name that the three above make."""

    service_image: str = ""
    """Full name, instead of the name that the three above make."""

    base_image: str = ""
    """Image on which the images are built and pushed to REGISTRY before; empty: they are there."""

    gateway_address: str = ""
    """host:port at which the Gateway is reached from here; empty: the address in its status."""

    prometheus: str = ""
    """URL of the Prometheus that scrapes the Gateway, as seen from here; empty: no release under traffic is tried."""

    model: str = "docs-gpt"
    """Model that is released; SLIPWAY_MODELS_DIR says where specs are."""

    max_steps: int | None = Field(default=None, ge=1)
    """Training steps of the first version; empty: the spec's."""

    def image(self, name: str) -> str:
        """Return the full name of an image."""
        from images.context import project_version

        folder = f"{self.registry.rstrip('/')}/" if self.registry else ""
        made = f"{folder}{self.image_prefix}-{name}:{self.tag or project_version()}"
        return str(getattr(self, f"{name}_image") or made)


def read_target() -> Target:
    """Return what the environment says.

    Raises:
        BadInput: names the variable, the rule and the way out.
    """
    try:
        return Target()
    except ValidationError as error:
        problem = error.errors()[0]
        name, rule = str(problem["loc"][0]).upper(), problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            raise BadInput(f"{name} is not set: name the bucket that takes the artifacts: {_EXAMPLE}") from None
        where = Path(__file__).relative_to(REPOSITORY)
        raise BadInput(f"{name}: {rule}, got {problem['input']!r}; {where} explains every variable") from None
