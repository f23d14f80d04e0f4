"""What a lifecycle makes, as Airflow assets: other DAGs can be scheduled on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

if TYPE_CHECKING:
    from pipelines.step import Receipt

GROUP = "slipway"


def asset(model: str, what: str) -> Asset:
    """Return the asset `<model>/<what>`. It has no URI scheme: for one, Airflow would load every provider's hooks."""
    return Asset(name=f"{model}/{what}", group=GROUP)


def event_extra(receipt: Receipt) -> dict[str, Any]:
    """Return what an asset event says about the finished step: run, digests, numbers, names."""
    extra: dict[str, Any] = {"run_id": receipt.run.run_id, "reused": receipt.reused}
    for name, value in receipt.result.items():
        match value:
            case {"kind": str(), "digest": str(digest)}:
                extra[name] = digest
            case str() | int() | float() | bool():
                extra[name] = value
    return extra
