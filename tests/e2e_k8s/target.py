"""On which cluster, with which images and store: variables of the environment, which `make e2e-k8s NAME=value` sets.

No pod of Slipway has a sidecar, so none is asked for an image."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class Target(BaseSettings):
    """One run. Every field is a variable of that name in capital letters; KUBECONFIG says where."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    overlay: str = "kind"
    """Which overlay is applied."""

    context: str = ""
    """Context of the kubeconfig; empty: the current one."""

    store: str
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
    """Image that the images are built on before; empty: they are there."""

    gateway_address: str = ""
    """host:port at which the Gateway is reached from here; empty: the address in its status."""

    prometheus: str = ""
    """URL of Prometheus as seen from here; empty: no counts, so a release under traffic is not tried."""

    max_steps: int = 30
    """Training steps of the demo."""

    def image(self, name: str) -> str:
        """Return the full name of an image."""
        from images.context import project_version

        folder = f"{self.registry.rstrip('/')}/" if self.registry else ""
        made = f"{folder}{self.image_prefix}-{name}:{self.tag or project_version()}"
        return str(getattr(self, f"{name}_image") or made)
