"""Weights that a training starts from: which files they are, their digest, and how they get here. Safetensors only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.artifacts import canonical_json, file_sha256
from pipelines.data.places import Place, open_place
from pipelines.errors import DataRejected
from pipelines.spec import StartConfig
from pipelines.storage.parts import in_order

CONFIG = "config.json"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
"""Where it lies beside the weights, it proves that tokens were made for them."""

FIELD = "training.start.weights"
_SUFFIXES = (CONFIG, INDEX, TOKENIZER, ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def fingerprint(start: StartConfig) -> str:
    """Return a digest of the names and bytes of the weights' files, wherever they lie; empty: from scratch.

    Raises:
        DataRejected: when there are none, or none in safetensors.
        StoreUnavailable: when the place cannot be reached at present.
    """
    if not start.weights:
        return ""
    place = _open(start)
    names = _wanted(place, start.weights)
    return _digest(dict(zip(names, in_order(place.sha256, names), strict=True)))


def download(start: StartConfig, folder: Path, expected: str) -> Path | None:
    """Bring the weights into a folder and return it; None: from scratch.

    Args:
        start: where they are.
        folder: new, and only theirs.
        expected: what `fingerprint` gave.

    Raises:
        DataRejected: when they changed since.
        StoreUnavailable: when the place cannot be reached at present.
    """
    if not start.weights:
        return None
    place = _open(start)
    folder.mkdir(parents=True)
    place.download(_wanted(place, start.weights), folder)
    if _digest({file.name: file_sha256(file) for file in folder.iterdir()}) != expected:
        raise DataRejected(f"{FIELD}: {start.weights} changed while the step began; clear the task")
    return folder


def _open(start: StartConfig) -> Place:
    revision = f"@{start.revision}" if start.revision else ""
    return open_place(f"{start.weights}{revision}", _SUFFIXES, field=FIELD)


def _wanted(place: Place, origin: str) -> list[str]:
    """Return the names of the files that make up the model, as `transformers` chooses them."""
    names = place.names()
    if CONFIG not in names:
        raise DataRejected(f"{FIELD}: no {CONFIG} in {origin}; it must be a folder that save_pretrained wrote")
    if WHOLE in names:
        tensors = [WHOLE]
    elif INDEX in names:
        tensors = [INDEX, *_shards(place.read(INDEX), names, origin)]
    else:
        others = ", ".join(name for name in names if Path(name).suffix not in ("", ".json")) or "no weights"
        raise DataRejected(
            f"{FIELD}: {origin} holds {others}, but no {WHOLE} and no {INDEX}; other formats are never read: "
            "convert them with save_pretrained"
        )
    return sorted([CONFIG, *tensors, *({TOKENIZER} & set(names))])


def _shards(index: bytes, names: list[str], origin: str) -> list[str]:
    try:
        shards = sorted(set(json.loads(index)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataRejected(f"{FIELD}: {origin}: {INDEX} cannot be read: {error}; save the model again") from error
    missing = [str(shard) for shard in shards if shard not in names]
    if missing:
        raise DataRejected(f"{FIELD}: {origin} lacks {', '.join(missing)}, which {INDEX} names; copy it whole")
    return shards


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(canonical_json(dict(files))).hexdigest()
