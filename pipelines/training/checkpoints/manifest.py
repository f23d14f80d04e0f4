"""What a checkpoint says of itself: JSON that carries its own digest, so that no damage to it passes for content."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import Field, JsonValue, ValidationError

from pipelines.artifacts import canonical_json
from pipelines.errors import ArtifactCorrupt
from pipelines.spec import Frozen


class Sealed(Frozen):
    """A value that is kept as `{"content": ..., "sha256": ...}`."""

    def seal(self) -> bytes:
        """Return this value with its digest; equal values give equal bytes."""
        content = self.model_dump(mode="json")
        return canonical_json({"content": content, "sha256": hashlib.sha256(canonical_json(content)).hexdigest()})

    @classmethod
    def unseal(cls, data: bytes | None) -> Self:
        """Return the value in sealed bytes.

        Raises:
            ArtifactCorrupt: when there are none, or a byte of them is not as it was written.
        """
        if data is None:
            raise ArtifactCorrupt("is missing")
        try:
            value = cls.model_validate(_content(data))
        except (ValueError, ValidationError, TypeError, KeyError) as error:
            raise ArtifactCorrupt("cannot be read") from error
        if value.seal() != data:
            raise ArtifactCorrupt("differs from its digest")
        return value


def _content(data: bytes) -> Any:
    return json.loads(data)["content"]


class ShardFile(Frozen):
    """One file of a checkpoint."""

    size_bytes: int
    sha256: str


class Chunk(Frozen):
    """The part of a tensor that one file holds."""

    file: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class SavedTensor(Frozen):
    """A tensor, whole, and where its chunks are."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class Manifest(Sealed):
    """Everything that belongs to a checkpoint."""

    step: int = Field(ge=1)
    """Optimizer steps that it holds."""

    world_size: int
    strategy: str
    """Kind of the strategy that wrote it."""

    model: dict[str, JsonValue]
    """What the model is: a training goes on with no other."""

    progress: dict[str, JsonValue]
    """What the loop remembers."""

    files: dict[str, ShardFile]
    tensors: dict[str, SavedTensor]


class Latest(Sealed):
    """The pointer to the newest complete checkpoint."""

    step: int = Field(ge=1)
