"""Look after the store: verify what is there, remove what nobody needs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from pipelines import artifacts
from pipelines.artifacts import MANIFEST, ArtifactRef
from pipelines.errors import ArtifactCorrupt, ArtifactMissing
from pipelines.settings import Settings
from pipelines.step import KeyRecord, Receipt, references
from pipelines.store import Store

LIVE_SECONDS = 24 * 3600
"""A run or artifact younger than this counts as live: its step may still be at work."""

_RECEIPT = re.compile(r"/\d+\.json$")
"""What `RunInfo.receipt_uri` ends with; inputs, progress and spec files lie beside the receipts."""


@dataclass
class GarbageReport:
    """What nobody reaches."""

    deleted: bool
    artifacts: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    size_bytes: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain data."""
        return asdict(self)

    def as_text(self) -> str:
        """Return the report for people."""
        verb = "removed" if self.deleted else "would remove"
        lines = [f"{verb} {path}" for path in [*self.artifacts, *self.keys, *self.checkpoints]]
        total = f"{verb} {len(self.artifacts)} artifacts ({self.size_bytes / 1e6:.1f} MB), {len(self.keys)} keys, "
        total += f"{len(self.checkpoints)} checkpoints"
        hint = [] if self.deleted or not lines else ["nothing was removed: give --delete to remove"]
        return "\n".join([*lines, total, *hint])


def verify_artifacts(settings: Settings, uris: Iterable[str] | None, tell: Callable[[str], None]) -> int:
    """Read artifacts whole and tell the state of each; None means all. Return how many are damaged or missing."""
    store = Store(settings.store_url())
    refs = _all_artifacts(store) if uris is None else [ArtifactRef.parse(store.relative(uri)) for uri in uris]
    problems = 0
    for ref in refs:
        try:
            manifest = artifacts.verify(store, ref)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            problems += 1
            tell(f"DAMAGED  {error}")
        else:
            tell(f"sound    {ref.uri} ({len(manifest.files)} files, {artifacts.size_bytes(manifest)} bytes)")
    return problems


def collect_garbage(settings: Settings, *, delete: bool, now: float | None = None) -> GarbageReport:
    """Find, and with `delete` remove, what no ledger row and no live run reaches.

    Raises:
        LedgerUnavailable: when the ledger cannot be asked; without its answer nothing is garbage.
    """
    from pipelines.ledger import referenced_artifacts

    return sweep(
        Store(settings.store_url()),
        roots=referenced_artifacts(settings.ledger_url()),
        delete=delete,
        oldest_live=(time.time() if now is None else now) - LIVE_SECONDS,
    )


def sweep(store: Store, *, roots: Iterable[ArtifactRef], delete: bool, oldest_live: float) -> GarbageReport:
    """Mark from `roots` and from receipts since `oldest_live`, then sweep older artifacts that are not marked.

    An artifact reaches those that it was made from, and those that the same step made with it. A key record goes with
    its artifacts; checkpoints go when their training is finished.
    """
    report = GarbageReport(deleted=delete)
    by_digest = {ref.digest: ref for ref in _all_artifacts(store)}
    records = {path: KeyRecord.model_validate_json(store.read(path) or b"") for path in store.list("keys")}
    siblings = [{ref.digest for ref in references(record.result)} for record in records.values()]
    reached = _reach(store, by_digest, [*roots, *_live_references(store, oldest_live)], siblings)
    garbage = {digest for digest in by_digest.keys() - reached if _is_older(store, by_digest[digest], oldest_live)}
    for digest in sorted(garbage):
        ref = by_digest[digest]
        report.artifacts.append(ref.uri)
        report.size_bytes += artifacts.size_bytes(artifacts.read_manifest(store, ref))
    for path, record in records.items():
        if any(ref.digest in garbage for ref in references(record.result)):
            report.keys.append(path)
        if record.step == "train":
            report.checkpoints.extend(store.list(f"checkpoints/{record.key}"))
    if delete:
        _remove(store, report)
    return report


def _remove(store: Store, report: GarbageReport) -> None:
    """Remove names before bytes, so that a death in between leaves unnamed bytes and never a name without bytes."""
    for path in report.keys:
        store.delete(path)
    for uri in report.artifacts:
        store.delete(f"{uri}/{MANIFEST}")
        for path in store.list(uri):
            store.delete(path)
    for path in report.checkpoints:
        store.delete(path)


def _all_artifacts(store: Store) -> list[ArtifactRef]:
    return [
        ArtifactRef.parse(path.rpartition("/")[0])
        for path in store.list("artifacts")
        if path.endswith(f"/{MANIFEST}") and path.count("/") == 3
    ]


def _is_older(store: Store, ref: ArtifactRef, moment: float) -> bool:
    return store.modified(f"{ref.uri}/{MANIFEST}") < moment


def _live_references(store: Store, oldest_live: float) -> Iterable[ArtifactRef]:
    for path in store.list("runs"):
        if _RECEIPT.search(path) is None:
            continue
        receipt = Receipt.model_validate_json(store.read(path) or b"")
        if receipt.started >= oldest_live:
            yield from references(receipt.result)


def _reach(
    store: Store, by_digest: dict[str, ArtifactRef], roots: Iterable[ArtifactRef], siblings: Iterable[set[str]]
) -> set[str]:
    made_with: dict[str, set[str]] = {}
    for group in siblings:
        for digest in group:
            made_with.setdefault(digest, set()).update(group)
    reached: set[str] = set()
    waiting = [ref.digest for ref in roots]
    while waiting:
        digest = waiting.pop()
        if digest in reached or digest not in by_digest:
            continue
        reached.add(digest)
        waiting.extend(artifacts.read_manifest(store, by_digest[digest]).inputs)
        waiting.extend(made_with.get(digest, ()))
    return reached
