"""By which kubeconfig or account a process reaches the Kubernetes API: decided here for every client of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import BadInput
from pipelines.settings import Settings


@dataclass(frozen=True)
class Access:
    """A kubeconfig and a context of it, or the account of the pod in which this process runs."""

    file: str | None
    """Kubeconfig, or several as KUBECONFIG joins them; None: the pod's own service account."""

    context: str | None
    """Context in the file; None: its current one."""

    @property
    def is_in_cluster(self) -> bool:
        """Whether this process is a pod and uses its own service account."""
        return self.file is None

    def __str__(self) -> str:
        """Return what is used, for messages."""
        if self.is_in_cluster:
            return "the pod's service account"
        return f"context {self.context!r} of {self.file}" if self.context else f"the current context of {self.file}"


def is_in_a_pod() -> bool:
    """Return whether this process runs in a pod of a cluster, by what every node tells its pods."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def access(settings: Settings) -> Access:
    """Return how this process reaches the API.

    What somebody said counts first, in a pod too: SLIPWAY_KUBERNETES_CONTEXT, then KUBECONFIG. A pod for which nobody
    said anything uses its own account; a process elsewhere what kubectl would use.
    """
    said = os.environ.get("KUBECONFIG")
    if not (settings.kubernetes_context or said) and is_in_a_pod():
        return Access(None, None)
    return Access(said or str(Path.home() / ".kube" / "config"), settings.kubernetes_context or None)


def unusable(settings: Settings, reason: str) -> BadInput:
    """Return the error for a kubeconfig, or an account, that cannot be used."""
    return BadInput(
        f"kubernetes: load {access(settings)}: {reason}; set SLIPWAY_KUBERNETES_CONTEXT to a name that "
        "`kubectl config get-contexts` shows, and KUBECONFIG to the file"
    )
