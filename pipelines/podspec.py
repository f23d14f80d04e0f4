"""What every pod of ours has: security contexts that meet PodSecurity level "restricted", and credentials by name."""

from __future__ import annotations

from typing import Any

USER = 65532
"""Account of the containers: nobody's on a node. The images have it."""


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


def environment_of(secret: str) -> dict[str, Any]:
    """Return the part of a container that makes environment variables of a secret's keys; of no secret, nothing."""
    return {"envFrom": [{"secretRef": {"name": secret}}]} if secret else {}
