"""Four releases under 20 requests/s, of which one is bad: `make soak` in small. The users' own record is the judge."""

from __future__ import annotations

import pytest

from tests.load.endings import Kind
from tests.load.releases import Releases
from tests.local_stack import LocalStack

QUICK = {"look_seconds": 0.5, "shadow_seconds": 6, "bake_seconds": 3, "bake_full_seconds": 2}


@pytest.fixture(scope="module")
def releases(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Return a service of its own on the shared stack, whose first version serves."""
    folder = tmp_path_factory.mktemp("soak")
    made = Releases(stack.settings, stack.settings.models_dir / "tiny.yaml", folder, **QUICK)
    made.begin()
    return made


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Kind.SAME, id="the-same-weights-as-both-arms-are-promoted", marks=pytest.mark.slow),
        pytest.param(Kind.BETTER, id="a-better-model-is-promoted", marks=pytest.mark.slow),
        pytest.param(Kind.ERRORS, id="a-copy-that-fails-users-is-rolled-back"),
        pytest.param(Kind.BETTER, id="another-better-model-is-promoted", marks=pytest.mark.slow),
    ],
)
def test_every_release_ends_as_it_should_and_no_user_goes_without_an_answer(releases: Releases, kind: Kind) -> None:
    ended = releases.release(kind)

    assert ended.problems() == [], ended
