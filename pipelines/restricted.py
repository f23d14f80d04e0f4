"""Security contexts that meet Kubernetes' PodSecurity level "restricted", for every pod of ours."""

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
