"""Slipway's errors in Airflow's words: what must not be retried fails at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipelines.errors import SlipwayError

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol


class TryFailed(AirflowException):
    """A try failed for a reason that may pass; the retry policy reads which."""

    def __init__(self, error: SlipwayError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def translated(ti: RuntimeTaskInstanceProtocol, retries: int) -> Iterator[None]:
    """Raise Slipway's errors as Airflow's: retryable or final; an unexpected end is retried once.

    Raises:
        AirflowFailException: when a retry cannot help.
        TryFailed: when it may.
    """
    from pipelines.runner import Ending, StepFailed

    try:
        yield
    except StepFailed as error:
        match error.ending:
            case Ending.REFUSED:
                raise AirflowFailException(str(error)) from None
            case Ending.UNEXPECTED if _attempt(ti, retries) > 1:
                raise AirflowFailException(f"{error} (for the second time: not retried)") from None
            case _:
                raise TryFailed(error) from None
    except SlipwayError as error:
        if error.retryable:
            raise TryFailed(error) from None
        raise AirflowFailException(str(error)) from None


def _attempt(ti: RuntimeTaskInstanceProtocol, retries: int) -> int:
    """Return which attempt since the last clear this is: Airflow counts tries on, and raises their limit."""
    return ti.try_number - (ti.max_tries - retries)
