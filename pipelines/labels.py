"""Labels and annotations of everything that Slipway makes on a cluster: by them it is found, shown and removed.

A label's value has at most 63 characters of a small set, so a run stands there as a digest of its id; the id itself is
in an annotation.
"""

from __future__ import annotations

import hashlib
import re

MANAGED_BY = "app.kubernetes.io/managed-by"
SLIPWAY = "slipway"
"""Value of `MANAGED_BY`."""

COMPONENT = "app.kubernetes.io/component"
"""What an object is for: one of the four below."""

STEP = "step"
"""A work step's pod."""

TRAINING = "training"
"""What a training on several nodes consists of."""

SERVICE = "service"
"""What serves a model."""

CONTROLLER = "controller"
"""The controller of releases."""

MODEL = "slipway.dev/model"
RUN = "slipway.dev/run"
"""Digest of the run id: `run_digest`."""

TASK = "slipway.dev/task"
"""Task id, with '-' for what a label may not hold."""

TRY = "slipway.dev/try"
COPY = "slipway.dev/copy"
"""Name of a copy of a model version, as the ledger has it."""

NODE = "batch.kubernetes.io/job-completion-index"
"""Number of a pod in its Job, as Kubernetes labels it."""

QUEUE = "kueue.x-k8s.io/queue-name"
"""Queue in which Kueue lets a Job wait for room."""

RUN_ID = "slipway.dev/run-id"
"""Annotation with the run id as it is."""

BENTO = "slipway.dev/bento"
"""Annotation with the URI of the bento that a copy serves."""

_DIGEST_LENGTH = 12
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9-]+")


def run_digest(run_id: str) -> str:
    """Return a run id as a label's value: hexadecimal, always the same for the same run."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:_DIGEST_LENGTH]


def step_labels(model: str, run_id: str, task_id: str, try_number: int, *, component: str = STEP) -> dict[str, str]:
    """Return the labels of a work step's pod; of all that a training on several nodes consists of, with `TRAINING`."""
    return {
        MANAGED_BY: SLIPWAY,
        COMPONENT: component,
        MODEL: model,
        RUN: run_digest(run_id),
        TASK: _NOT_ALLOWED.sub("-", task_id).strip("-"),
        TRY: str(try_number),
    }


def service_labels(service: str | None = None) -> dict[str, str]:
    """Return what everything of a service is found by, its route and its copies; of all services without a name."""
    common = {MANAGED_BY: SLIPWAY, COMPONENT: SERVICE}
    return common if service is None else {**common, MODEL: service}


def selector(labels: dict[str, str]) -> str:
    """Return labels as the API's label selector."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
