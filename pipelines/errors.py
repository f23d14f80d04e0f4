"""One tree of errors. Whether a retry may help is a property of the error, not of the caller."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a step's process says with its exit status."""

    DONE = 0
    UNEXPECTED = 1
    RETRY = 10
    REFUSED = 20


class SlipwayError(Exception):
    """Base of all errors that Slipway raises on purpose; the message is for the user: field, value, rule, way out."""

    retryable: ClassVar[bool] = False

    @property
    def exit_code(self) -> ExitCode:
        """Return the exit status with which a step process reports this error."""
        return ExitCode.RETRY if self.retryable else ExitCode.REFUSED


class BadInput(SlipwayError):
    """What the user gave cannot work; trying again cannot help."""


class SpecError(BadInput):
    """A model spec, or the parameters of a trigger, break a rule."""


class DataRejected(BadInput):
    """Data that is missing, malformed, changed since validation, or refused by its suite."""


class GateRefused(SlipwayError):
    """An offline gate refused a model; carries the evidence in its message."""


class TrainingDiverged(SlipwayError):
    """The loss stopped being a finite number, or jumped; the same seed would diverge again."""


class AdapterUnsound(SlipwayError):
    """An adapter did not move while it was trained, or weights that it leaves alone did; nothing is published."""


class ArtifactMissing(SlipwayError):
    """A named artifact has no valid manifest, so it does not exist."""


class ArtifactCorrupt(SlipwayError):
    """Bytes of an artifact differ from its manifest."""


class ReceiptMissing(SlipwayError):
    """A step's process ended without its receipt: a failure, whatever its exit status."""

    retryable: ClassVar[bool] = True


class StoreUnavailable(SlipwayError):
    """The store cannot be read or written at present (network, space)."""

    retryable: ClassVar[bool] = True


class StoreRefused(StoreUnavailable):
    """The store cannot be used as it is set up (credentials, right, bucket, region, clock): a person has to act."""

    retryable: ClassVar[bool] = False


class LeaseHeld(SlipwayError):
    """Another process works on the same key."""

    retryable: ClassVar[bool] = True


class RanksFailed(SlipwayError):
    """A rank of a training died or hung for a reason that may pass (killed, a device or a link that failed)."""

    retryable: ClassVar[bool] = True


class OutOfMemory(SlipwayError):
    """A rank of a training needs more memory than it may have; trying again would need as much."""


class PodRefused(BadInput):
    """The cluster will not run a step's pod as spec and settings ask for it."""


class PodLost(SlipwayError):
    """The cluster, not the step, ended a pod, or cannot run it at present."""

    retryable: ClassVar[bool] = True


class PodTakenAway(PodLost):
    """The cluster took a pod's place or its node: nothing is wrong with the step, which goes on elsewhere at once."""


class NoRoom(PodLost):
    """No node has room for a pod, or its quota is used up: others have to end first."""


class TrainingStopped(SlipwayError):
    """A training was told to end, and saved what it had done."""

    retryable: ClassVar[bool] = True


class StackError(SlipwayError):
    """The local stack cannot be started, reached or stopped."""


class LedgerUnavailable(SlipwayError):
    """The ledger's database cannot be reached."""

    retryable: ClassVar[bool] = True


class ReleaseRefused(SlipwayError):
    """A rollout may not start or go on; the message says what would release it."""


class RouterRejected(SlipwayError):
    """The router did not accept a desired state; it keeps the old one."""

    retryable: ClassVar[bool] = True


class RolledBack(SlipwayError):
    """A rollout ended with the old version serving."""
