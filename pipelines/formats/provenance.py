"""Where a packaged model comes from: the digests of everything that made it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from pipelines.artifacts import canonical_json
from pipelines.errors import ArtifactCorrupt
from pipelines.spec import Frozen

PROVENANCE_FILE = "provenance.json"

Digest = Field(pattern=r"^[0-9a-f]{64}$")


class Provenance(Frozen):
    """Digests of a model's ancestors. No time, host or run id, so that equal inputs give equal files.

    Neither the spec nor the record of the training is here: a gate that is set otherwise, or a training that is done
    again and ends with the same weights, must not make another bento. The ledger links those.
    """

    name: str
    """Model name."""

    model_digest: str = Digest
    """The weights, their configuration and tokenizer."""

    tokens_digest: str = Digest
    """The tokens that it was trained and measured on."""

    dataset_digest: str = Digest
    """The validated documents that the tokens came from."""

    code_digest: str = Digest
    """The sources that the bento serves with."""

    python_version: str
    """Python that packaged the model."""

    libraries: dict[str, str]
    """Locked versions of the libraries that the bento serves with."""

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        (folder / PROVENANCE_FILE).write_bytes(canonical_json(self.model_dump(mode="json")))


def read_provenance(folder: Path) -> Provenance:
    """Return the provenance in a folder.

    Raises:
        ArtifactCorrupt: when there is none, or it is not valid.
    """
    try:
        return Provenance.model_validate_json((folder / PROVENANCE_FILE).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise ArtifactCorrupt(f"{folder / PROVENANCE_FILE}: no valid provenance: {error}") from error
