"""What every pod of ours has: security contexts that meet PodSecurity level "restricted", and credentials by name."""

from __future__ import annotations

import re
from typing import Any

USER = 65532
"""Account of the containers: nobody's on a node. The images have it."""

STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""Without these a pod does not start."""

STORE_ADDRESS = ("AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Where the store is, and what temporary keys have besides; each may be missing."""

CONTROLLER_SECRET = "slipway-secrets"  # noqa: S105 - a name
"""Secret with the ledger's URL; the node that runs the controller reads it, and no pod of a step may name it."""

_SECRET = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<secret>[a-z0-9]([a-z0-9.-]*[a-z0-9])?)/(?P<key>[-._a-zA-Z0-9]+)")


def pod_security() -> dict[str, Any]:
    """Return the security context of a pod: no root, files of its volumes are its own, only usual system calls."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Return the security context of a container: no rights to gain, none to lose, nothing of the image to change."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def pull_secrets(names: str) -> dict[str, Any]:
    """Return the part of a pod's spec that names the secrets of its image's registry.

    Args:
        names: separated by commas; empty: none.
    """
    secrets = [{"name": name.strip()} for name in names.split(",") if name.strip()]
    return {"imagePullSecrets": secrets} if secrets else {}


def secret_variable(name: str, secret: str, key: str, *, is_optional: bool = False) -> dict[str, Any]:
    """Return an environment variable that a node fills in from a key of a Secret; no object holds its value."""
    reference = {"name": secret, "key": key, **({"optional": True} if is_optional else {})}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def step_secret(name: str) -> str:
    """Return the name of a Secret that a step may have.

    Raises:
        ValueError: when it is the controller's.
    """
    if name == CONTROLLER_SECRET:
        raise ValueError(
            f"Secret {name} holds the ledger's URL, which no step may have; name a Secret of the step's own"
        )
    return name


def store_variables(secret: str) -> list[dict[str, Any]]:
    """Return the variables by which S3 is reached with a Secret whose keys are named like them; of no secret, none.

    Each is named here, so that no other key of the Secret sets anything.
    """
    if not secret:
        return []
    needed = [secret_variable(name, secret, name) for name in STORE_KEYS]
    return [*needed, *(secret_variable(name, secret, name, is_optional=True) for name in STORE_ADDRESS)]


def parse_secrets(text: str) -> dict[str, tuple[str, str]]:
    """Return Secret and key of each variable that a setting names: `HF_TOKEN=hugging-face/token`, separated by commas.

    Raises:
        ValueError: when an entry is of another form, or names the controller's Secret.
    """
    found: dict[str, tuple[str, str]] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _SECRET.fullmatch(entry)
        if match is None:
            raise ValueError(
                f"secrets are written VARIABLE=secret/key, such as HF_TOKEN=hugging-face/token; got {entry!r}"
            )
        found[match["name"]] = (step_secret(match["secret"]), match["key"])
    return found
