"""What a machine does that helps the first one to train."""

from __future__ import annotations

import itertools
import logging

from pipelines.errors import RanksFailed
from pipelines.training.job import TrainingJob
from pipelines.training.nodes import Meeting
from pipelines.training.supervision.supervise import supervise

logger = logging.getLogger(__name__)


def help_first_node(job: TrainingJob, meeting: Meeting) -> None:
    """Run this machine's ranks each time the first machine starts, until that has left its receipt.

    When ranks of another machine die, those here fail as well. The first machine then starts again or gives up, and
    who is to be replaced is for the Job to say; so this one only waits.

    Raises:
        SlipwayError: when a rank here knows why it fails, or this machine was told to end.
    """
    for number in itertools.count(1):
        place = meeting.wait(job.place)
        if place is None:
            return
        here = job.at(place).model_copy(update={"workspace": job.workspace / f"start-{number}"})
        try:
            supervise(here, _not_told)
        except RanksFailed as error:
            logger.warning("%s", error)


def _not_told(**_numbers: float) -> None:
    """The first machine tells how far the training is."""
