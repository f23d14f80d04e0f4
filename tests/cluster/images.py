"""Images: which ones the nodes can get, by patterns that a test gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

_REFERENCE = re.compile(
    r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(:\d+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?$"
)


@dataclass(frozen=True)
class Refusal:
    """Why an image cannot be run: the first reason, and the one while the kubelet waits before it tries again."""

    reason: str
    message: str
    later: str
    later_message: str


def refusal(image: str, policy: str, known: tuple[str, ...]) -> Refusal | None:
    """Return why an image cannot be run; None when it can.

    Args:
        policy: the container's `imagePullPolicy`.
        known: patterns of the images that exist.
    """
    if not _REFERENCE.match(image):
        message = (
            f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": invalid reference'
        )
        return Refusal("InvalidImageName", message, "InvalidImageName", message)
    if any(fnmatchcase(image, pattern) for pattern in known):
        return None
    if policy == "Never":
        message = f'Container image "{image}" is not present with pull policy of Never'
        return Refusal("ErrImageNeverPull", message, "ErrImageNeverPull", message)
    message = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
    return Refusal(
        "ErrImagePull", message, "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {message}'
    )
