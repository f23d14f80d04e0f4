"""How a candidate is run."""

from __future__ import annotations

from pathlib import Path

from pipelines.settings import REPOSITORY, Settings
from tests.load.candidates import Candidate
from tests.load.follow import environment


def test_a_candidate_from_sources_that_lie_elsewhere_is_released_on_the_same_installation(tmp_path: Path) -> None:
    candidate = Candidate(tmp_path / "tiny.yaml", seed=1, max_steps=1, tree=tmp_path)

    told = environment(Settings(home=Path(".slipway")), candidate)

    assert told["SLIPWAY_HOME"] == str(REPOSITORY / ".slipway")
    assert told["PYTHONPATH"].startswith(str(tmp_path))
