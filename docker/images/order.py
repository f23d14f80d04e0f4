"""What to build and how it is called: variables of the environment, which `make images NAME=value` sets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict

from images.context import project_version
from images.recipes import REPOSITORY


class Order(BaseSettings):
    """One build. Every field is a variable of that name in capital letters."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    images: str = "airflow trainer service"
    """Which images, separated by spaces."""

    registry: str = ""
    """Registry and path before the names; empty: none."""

    image_prefix: str = "slipway"
    """Images are called `<prefix>-<image>`."""

    tag: str = ""
    """Tag; empty: the project's version."""

    base_image: str = ""
    """Image to stand on, with `python3.11`; empty: see `base.ensure`."""

    variant: Literal["cpu", "cuda"] = "cpu"
    """Which build of torch; the tag of one with CUDA ends in `-cuda`."""

    bento: str = ""
    """Folder of a packaged bento; when set, the service is also built with it inside."""

    push: bool = False
    """Whether to push the images to the registry."""

    save: str = ""
    """Folder for archives of the images; empty: none are written."""

    images_work: Path = REPOSITORY / ".slipway" / "images"
    """Folder for wheels, and for the data of an engine that is started for the build."""

    @property
    def work(self) -> Path:
        """The work folder, from wherever it is asked for."""
        return self.images_work.resolve()

    def reference(self, name: str) -> str:
        """Return the full name of an image."""
        folder = f"{self.registry.rstrip('/')}/" if self.registry else ""
        ending = "-cuda" if self.variant == "cuda" else ""
        return f"{folder}{self.image_prefix}-{name}:{self.tag or project_version()}{ending}"
