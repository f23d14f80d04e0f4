"""Immutable artifacts: a folder of files named by the digest of its manifest.

Data is written first and the manifest last; what has no valid manifest does not exist. Readers verify what they use.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import Field

from pipelines import verified
from pipelines.errors import ArtifactCorrupt, ArtifactMissing, BadInput
from pipelines.spec import Frozen
from pipelines.storage.parts import PART_BYTES, in_order
from pipelines.store import Store

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_MEDIA_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".html": "text/html",
    ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/vnd.safetensors",
    ".txt": "text/plain",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".yaml": "application/yaml",
    ".py": "text/x-python",
}


class ArtifactRef(Frozen):
    """Names immutable bytes. `uri` is relative to the store, so that a store can be moved or restored elsewhere."""

    kind: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")

    @property
    def uri(self) -> str:
        """Folder of the artifact, relative to the store."""
        return f"artifacts/{self.kind}/{self.digest}"

    @property
    def short(self) -> str:
        """First 12 hexadecimal digits of the digest, for names and logs."""
        return self.digest[:12]

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Return the reference that a relative URI `artifacts/<kind>/<digest>` names.

        Raises:
            BadInput: when the URI has another shape.
        """
        match uri.strip("/").split("/"):
            case ["artifacts", kind, digest] if len(digest) == 64:
                return cls(kind=kind, digest=digest)
            case _:
                raise BadInput(f"uri: {uri!r} is not artifacts/<kind>/<sha256>")


class ManifestFile(Frozen):
    """One file of an artifact."""

    path: str
    size_bytes: int
    sha256: str
    media_type: str


class Manifest(Frozen):
    """Everything an artifact is. No time, host or run, so that equal inputs give equal digests."""

    kind: str
    files: tuple[ManifestFile, ...]
    inputs: tuple[str, ...] = ()
    """Digests of the artifacts that this one was made from, sorted."""

    def canonical(self) -> bytes:
        """Return the bytes whose sha256 is the artifact's digest."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """The artifact's name."""
        return hashlib.sha256(self.canonical()).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe(kind: str, folder: Path, inputs: Iterable[ArtifactRef] = ()) -> Manifest:
    """Return the manifest of a local folder.

    Raises:
        BadInput: when the folder holds no file, or anything but regular files and folders.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadInput(f"artifact {kind}: {path.name} is not a regular file; artifacts hold regular files only")
        if path.is_file() and path != folder / MANIFEST:
            files.append(
                ManifestFile(
                    path=path.relative_to(folder).as_posix(),
                    size_bytes=path.stat().st_size,
                    sha256=file_sha256(path),
                    media_type=_MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
                )
            )
    if not files:
        raise BadInput(f"artifact {kind}: nothing to publish in the folder")
    files.sort(key=lambda file: file.path)
    return Manifest(kind=kind, files=tuple(files), inputs=tuple(sorted({ref.digest for ref in inputs})))


def publish(store: Store, kind: str, folder: Path, inputs: Iterable[ArtifactRef] = ()) -> ArtifactRef:
    """Write a folder's files into the store and return their reference.

    An artifact that exists already and is sound is left as it is; a damaged one is written again.

    Raises:
        StoreUnavailable: when the store cannot be written; nothing is then visible under the digest.
    """
    manifest = describe(kind, folder, inputs)
    ref = ArtifactRef(kind=kind, digest=manifest.digest)
    if exists(store, ref):
        try:
            verify(store, ref)
        except ArtifactCorrupt as damage:
            logger.warning("%s; writing it again", damage)
        else:
            return ref
    _each_file(manifest, lambda file: store.put_file(f"{ref.uri}/{file.path}", folder / file.path))
    store.put(f"{ref.uri}/{MANIFEST}", manifest.canonical())
    logger.info("published %s: %d files, %d bytes", ref.uri, len(manifest.files), size_bytes(manifest))
    return ref


def publish_files(
    store: Store, kind: str, files: Mapping[str, bytes], scratch: Path, inputs: Iterable[ArtifactRef] = ()
) -> ArtifactRef:
    """Publish small files given as bytes; keys are paths inside the artifact."""
    folder = scratch / f"publish-{uuid.uuid4().hex}"
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    try:
        return publish(store, kind, folder, inputs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def exists(store: Store, ref: ArtifactRef) -> bool:
    """Return whether a manifest is there; says nothing about the data."""
    try:
        next(store.chunks(f"{ref.uri}/{MANIFEST}"), b"")
    except FileNotFoundError:
        return False
    return True


def read_manifest(store: Store, ref: ArtifactRef) -> Manifest:
    """Return an artifact's manifest, verified against the artifact's name.

    Raises:
        ArtifactMissing: when there is none.
        ArtifactCorrupt: when its bytes do not hash to the digest.
    """
    try:
        data = verified.read(store, f"{ref.uri}/{MANIFEST}", ref.digest)
    except FileNotFoundError:
        problem = f"artifact {ref.uri} has no manifest in {store.url}; run the step that makes it again"
        raise ArtifactMissing(problem) from None
    if data is None:
        raise ArtifactCorrupt(f"artifact {ref.uri}: {MANIFEST} does not hash to its name; {_REPAIR}")
    return Manifest.model_validate_json(data)


def fetch(store: Store, ref: ArtifactRef, cache: Path) -> Path:
    """Return a local folder with the artifact's files, every one verified. Never write into it.

    A local store's own folder is returned as it is; a remote artifact is downloaded below `cache` once.

    Raises:
        ArtifactMissing: when the artifact or one of its files does not exist.
        ArtifactCorrupt: when a file differs from the manifest; names it.
    """
    manifest = read_manifest(store, ref)
    local = store.local_path(ref.uri)
    if local is not None:
        verify_folder(local, manifest, ref.uri)
        return local
    target = cache / ref.kind / ref.digest
    if not _is_sound(target, manifest):
        _download(store, ref, manifest, target)
    return target


def read_file(store: Store, ref: ArtifactRef, path: str) -> bytes:
    """Return one file of an artifact, verified.

    Raises:
        ArtifactMissing: when the artifact or the file does not exist.
        ArtifactCorrupt: when the bytes differ from the manifest.
    """
    manifest = read_manifest(store, ref)
    entry = next((file for file in manifest.files if file.path == path), None)
    if entry is None:
        raise ArtifactMissing(f"artifact {ref.uri} has no file {path}")
    with _found(ref, entry):
        data = verified.read(store, f"{ref.uri}/{path}", entry.sha256)
    if data is None:
        raise _damaged(ref, entry)
    return data


def verify(store: Store, ref: ArtifactRef) -> Manifest:
    """Read every byte of an artifact and compare it with the manifest.

    Raises:
        ArtifactMissing: when the artifact or one of its files does not exist.
        ArtifactCorrupt: when a file differs from the manifest; names it.
    """
    manifest = read_manifest(store, ref)
    local = store.local_path(ref.uri)
    if local is not None:
        verify_folder(local, manifest, ref.uri)
    else:
        _each_file(manifest, lambda file: _verify_object(store, ref, file))
    return manifest


def verify_folder(folder: Path, manifest: Manifest, name: str) -> None:
    """Compare a local folder with a manifest.

    Raises:
        ArtifactMissing: when a file does not exist.
        ArtifactCorrupt: when a file differs.
    """
    for file in manifest.files:
        path = folder / PurePosixPath(file.path)
        if not path.is_file():
            raise ArtifactMissing(f"artifact {name}: {file.path} is missing; {_REPAIR}")
        if path.stat().st_size != file.size_bytes or file_sha256(path) != file.sha256:
            raise ArtifactCorrupt(f"artifact {name}: {file.path} differs from its manifest; {_REPAIR}")


def size_bytes(manifest: Manifest) -> int:
    """Return the size of all files together."""
    return sum(file.size_bytes for file in manifest.files)


_REPAIR = "run the step that makes it again (trigger with force), or restore the store"


def _is_sound(folder: Path, manifest: Manifest) -> bool:
    try:
        verify_folder(folder, manifest, folder.name)
    except (ArtifactMissing, ArtifactCorrupt):
        return False
    return True


def _each_file(manifest: Manifest, act: Callable[[ManifestFile], object]) -> None:
    """Do something with every file: small ones several at a time, then the large ones, whose parts are."""
    small = [file for file in manifest.files if file.size_bytes <= PART_BYTES]
    for _ in in_order(act, small):
        continue
    for file in manifest.files:
        if file.size_bytes > PART_BYTES:
            act(file)


def _download(store: Store, ref: ArtifactRef, manifest: Manifest, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        _each_file(manifest, lambda file: _download_file(store, ref, file, partial / PurePosixPath(file.path)))
        _install(partial, target, manifest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download_file(store: Store, ref: ArtifactRef, file: ManifestFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _found(ref, file):
        if not verified.download(store, f"{ref.uri}/{file.path}", file.sha256, path):
            raise _damaged(ref, file)


def _verify_object(store: Store, ref: ArtifactRef, file: ManifestFile) -> None:
    with _found(ref, file):
        if not verified.is_sound(store, f"{ref.uri}/{file.path}", file.sha256):
            raise _damaged(ref, file)


@contextlib.contextmanager
def _found(ref: ArtifactRef, file: ManifestFile) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArtifactMissing(f"artifact {ref.uri}: {file.path} is missing; {_REPAIR}") from None


def _damaged(ref: ArtifactRef, file: ManifestFile) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"artifact {ref.uri}: {file.path} differs from its manifest; {_REPAIR}")


def _install(partial: Path, target: Path, manifest: Manifest) -> None:
    """Give a downloaded folder its name, unless another process was first: a sound folder there may be in use."""
    while True:
        try:
            partial.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return
        if _is_sound(target, manifest):
            return
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            shutil.rmtree(target)
