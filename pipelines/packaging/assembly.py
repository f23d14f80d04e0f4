"""Put a bento together: code, settings, provenance, requests, then the model."""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass
from pathlib import Path

from pipelines.artifacts import MANIFEST, Manifest
from pipelines.formats import bento
from pipelines.formats.bento import ServiceFile
from pipelines.formats.provenance import Provenance
from pipelines.formats.requests import GOLDEN_FILE, REFERENCE_FILE, write_requests
from pipelines.packaging import build, sources
from pipelines.packaging.requests import Requests
from pipelines.spec import ServiceConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ancestors:
    """Digests of the artifacts that a model comes from."""

    tokens: str
    dataset: str


@dataclass(frozen=True)
class Assembled:
    """A finished bento on local disk."""

    folder: Path
    tag: str


def assemble(
    *,
    name: str,
    service_name: str,
    service: ServiceConfig,
    model: Path,
    manifest: Manifest,
    ancestors: Ancestors,
    requests: Requests,
    scratch: Path,
) -> Assembled:
    """Return a bento that `bentoml serve <folder>` starts.

    Args:
        name: model name; the bento's name.
        service_name: folder below `bentos/`.
        service: limits that the bento serves with.
        model: verified folder of the model artifact.
        manifest: manifest of the model artifact.
        ancestors: where the model comes from.
        requests: golden and reference requests.
        scratch: temporary folder.

    Raises:
        BentoBuildFailed: when BentoML refuses.
    """
    source = scratch / "source"
    (source / bento.MODEL).mkdir(parents=True)
    versions = sources.library_versions()
    sources.copy_service(service_name, source)
    ServiceFile(name=name, service=service).write(source)
    Provenance(
        name=name,
        model_digest=manifest.digest,
        tokens_digest=ancestors.tokens,
        dataset_digest=ancestors.dataset,
        code_digest=sources.code_digest(service_name),
        python_version=platform.python_version(),
        libraries=versions,
    ).write(source)
    write_requests(source / GOLDEN_FILE, requests.golden)
    write_requests(source / REFERENCE_FILE, requests.reference)
    (source / bento.MODEL / MANIFEST).write_bytes(manifest.canonical())
    version = bento.seal(source)

    build.write_build_file(source, name=name, service=service_name, libraries=versions)
    folder = scratch / "bento"
    build.build(source, version=version, target=folder)
    build.place_model(model, manifest, folder / bento.SOURCE / bento.MODEL)  # last, so that BentoML copies no weights
    identity = bento.verify(folder / bento.SOURCE)
    logger.info("packaged %s:%s, model digest %s", name, version, identity.digest)
    return Assembled(folder=folder, tag=f"{name}:{version}")
