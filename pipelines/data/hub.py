"""A model repository on the Hugging Face Hub, or on a server that speaks its API (`HF_ENDPOINT`)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.errors import DataRejected, StoreUnavailable
from pipelines.locations import without_users
from pipelines.trouble import explain

logger = logging.getLogger(__name__)

_LONGEST_REASON = 300
"""Characters of what the server or the library said."""


class Repository:
    """One commit of a repository: a branch that moves while it is read gives no mixture."""

    def __init__(self, name: str, revision: str, *, field: str) -> None:
        """Look a repository up.

        Args:
            name: owner/name.
            revision: commit, tag or branch; empty: the newest commit of the main branch.
            field: key of the spec that names it, for messages.

        Raises:
            DataRejected: when there is no such repository or revision, or this user may not read it.
            StoreUnavailable: when the server cannot be reached at present.
        """
        from huggingface_hub import HfApi

        self._name = name
        self._place = f"hf://{name}{f' at {revision}' if revision else ''}"
        self._field = field
        with self._plain_errors():
            found = HfApi().model_info(name, revision=revision or None, files_metadata=True)
        self._commit = str(found.sha)
        self._files = {file.rfilename: file for file in found.siblings or () if "/" not in file.rfilename}
        logger.info("%s: %s is commit %s", field, self._place, self._commit)

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            self.download([name], Path(folder))
            return (Path(folder) / name).read_bytes()

    def sha256(self, name: str) -> str:
        """Return what the Hub says of a large file, whose name there is its digest; small ones are read."""
        large = self._files[name].lfs
        return str(large.sha256) if large else hashlib.sha256(self.read(name)).hexdigest()

    def download(self, names: Iterable[str], folder: Path) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        with self._plain_errors():
            snapshot_download(self._name, revision=self._commit, allow_patterns=list(names), local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's own notes

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as error:
            raise self._rejected("its owner grants access on request", "ask there, and set HF_TOKEN") from error
        except errors.RepositoryNotFoundError as error:
            raise self._rejected("no such repository", "check the spelling; for a private one, set HF_TOKEN") from error
        except errors.RevisionNotFoundError as error:
            raise self._rejected("no such revision", "check its spelling") from error
        except Exception as error:
            if explain(error) is None:
                raise
            said = without_users(" ".join(str(error).split()))[:_LONGEST_REASON]
            if getattr(getattr(error, "response", None), "status_code", 0) in (401, 403):
                raise self._rejected(said, "set HF_TOKEN to a token that may read it") from error
            problem = f"{self._field}: cannot read {self._place}: {said}; check HF_ENDPOINT and the network"
            raise StoreUnavailable(problem) from error

    def _rejected(self, reason: str, way_out: str) -> DataRejected:
        return DataRejected(f"{self._field}: cannot read {self._place}: {reason}; {way_out}")
