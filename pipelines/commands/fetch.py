"""`python -m pipelines fetch`: what a service pod's init container runs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.errors import ArtifactCorrupt, ArtifactMissing
from pipelines.store import Store


def fetch_to(store: Store, ref: ArtifactRef, folder: Path) -> None:
    """Make a folder hold exactly an artifact's files, every one verified; one that does already is left as it is.

    Raises:
        ArtifactMissing: when the artifact or one of its files does not exist.
        ArtifactCorrupt: when a file differs from the manifest; names it. The folder is then not there.
    """
    manifest = artifacts.read_manifest(store, ref)
    if folder.exists():
        try:
            artifacts.verify_folder(folder, manifest, ref.uri)
        except (ArtifactMissing, ArtifactCorrupt):
            shutil.rmtree(folder)
        else:
            return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        found = artifacts.fetch(store, ref, Path(scratch))
        if not found.is_relative_to(scratch):  # a store on a mounted disk is its own folder: the copy is verified again
            found = shutil.copytree(found, Path(scratch) / "copy")
            artifacts.verify_folder(found, manifest, ref.uri)
        found.rename(folder)
