"""HTTP headers between router, service and clients, and the label that keeps kinds of traffic apart."""

from __future__ import annotations

from enum import StrEnum

VERSION = "X-Slipway-Version"
"""On every response: version of the bento that answered, as in its tag."""

DIGEST = "X-Slipway-Digest"
"""On every response: digest of the model, computed by the answering process from the files that it loaded."""

TRAFFIC = "X-Slipway-Traffic"
"""On a request: what kind of traffic it is; see `Traffic`."""

PIN = "X-Slipway-Pin"
"""On a request to the router: the arm that must answer it, `stable` or `canary`; such a request is not a user's."""

COPY = "X-Slipway-Copy"
"""On a request from a router that marks mirrored requests in no other way: the copy that was chosen to answer it. Any
other copy got a mirrored one."""

COPY_VARIABLE = "SLIPWAY_COPY"
"""Environment variable with a serving process's own copy; unset where the router marks mirrored requests itself."""

SHADOW_SUFFIX = "-shadow"
"""Envoy puts this after the host name (before a port) of a mirrored request."""


class Traffic(StrEnum):
    """Kinds of traffic; each is counted apart."""

    USER = "user"
    PINNED = "pinned"
    """Sent to one version on purpose: replayed, smoke and warm-up requests."""

    SHADOW = "shadow"
    """A mirrored copy; nobody waits for the answer."""


def traffic_of(label: str | None, host: str | None, chosen: str | None = None, own: str | None = None) -> Traffic:
    """Return the kind of a request; anything unclear is a user's.

    Args:
        label: its header `TRAFFIC`.
        host: its header `Host`.
        chosen: its header `COPY`.
        own: the copy that got it, by `COPY_VARIABLE`.
    """
    is_for_another = bool(chosen and own) and chosen != own
    if is_for_another or (host or "").partition(":")[0].endswith(SHADOW_SUFFIX):
        return Traffic.SHADOW
    return Traffic.PINNED if label == Traffic.PINNED else Traffic.USER
