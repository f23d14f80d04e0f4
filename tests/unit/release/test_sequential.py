"""The sequential tests of a release: their guarantees under the null, exactly and by simulation, and their power."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.release.sequential import (
    PRIOR_DISPERSION,
    RATIOS,
    SPLIT_ALPHA,
    SPLIT_ODDS,
    absolute_increment,
    combined,
    design_effect,
    design_effects,
    evidence_increment,
    exposures_needed,
    may_ever_advance,
    mixture,
    pair_increment,
    quantile_bucket,
    split_increment,
    worse_increment,
)
from pipelines.release.sequential import above as count_above

Floats = NDArray[np.float64]

ALPHA = 0.05
RUNS = 600
LOOKS = 50

rates = st.floats(min_value=0.001, max_value=0.6)
few = st.integers(min_value=0, max_value=12)
counts = st.integers(min_value=0, max_value=10_000)
exact = settings(max_examples=25, deadline=None, derandomize=True)
simulated = settings(max_examples=6, deadline=None, derandomize=True)


def chance(n: int, rate: float) -> Floats:
    """Return the binomial distribution of 0..n events."""
    return np.array([math.comb(n, k) * rate**k * (1.0 - rate) ** (n - k) for k in range(n + 1)])


def most_by_chance(runs: int, rate: float) -> int:
    """Return the count that a binomial exceeds with a chance below one in a million."""
    log_chance = np.array(
        [
            math.lgamma(runs + 1) - math.lgamma(k + 1) - math.lgamma(runs - k + 1)
            + k * math.log(rate) + (runs - k) * math.log1p(-rate)
            for k in range(runs + 1)
        ]
    )  # fmt: skip
    tail = np.exp(log_chance)[::-1].cumsum()[::-1]
    return int(np.argmax(tail < 1e-6))


MOST_FALSE_ALARMS = most_by_chance(RUNS, ALPHA)


def ever_reaches(increments: Floats, alpha: float = ALPHA) -> int:
    """Count runs, `[runs, looks, alternatives]`, whose mixture is ever at 1/alpha or above."""
    log_e = mixture(increments.cumsum(axis=1))
    return int((log_e >= -math.log(alpha)).any(axis=1).sum())


# The exact expectation of one look's factor, by summing over every outcome: at most 1 under the null.


@exact
@given(n_c=few, n_s=few, stable_rate=rates, tau=st.floats(1.0, 4.0), share=st.floats(0.0, 1.0))
def test_a_canary_that_is_not_worse_multiplies_e_by_at_most_one_on_average(
    n_c: int, n_s: int, stable_rate: float, tau: float, share: float
) -> None:
    canary_rate = min(tau * stable_rate, 1.0) * share
    b_c, b_s = np.arange(n_c + 1)[:, None], np.arange(n_s + 1)
    outcomes = chance(n_c, canary_rate)[:, None] * chance(n_s, stable_rate)
    factors = np.exp(worse_increment(n_c, b_c, n_s, b_s, tau=tau))
    assert np.all((outcomes[..., None] * factors).sum(axis=(0, 1)) <= 1.0 + 1e-9)


@exact
@given(pairs=few, stable_rate=rates, tau=st.floats(1.0, 3.0), mirrored=st.floats(0.0, 1.0))
def test_requests_that_fail_on_both_arms_at_once_keep_the_bound(
    pairs: int, stable_rate: float, tau: float, mirrored: float
) -> None:
    """A mirrored request is the same for both arms: here it fails on both with a chance, else each fails for itself."""
    both = stable_rate * mirrored
    alone = stable_rate - both
    outcome = np.array([[1.0 - both - alone, alone * 0.5], [alone * 0.5, both]])
    factor = np.array([[worse_increment(1, c, 1, s, tau=tau) for s in (0, 1)] for c in (0, 1)])
    expected = (outcome[..., None] * np.exp(factor)).sum(axis=(0, 1)) ** pairs
    assert np.all(expected <= 1.0 + 1e-9)


@exact
@given(clusters=few, size=st.integers(1, 30), rate=rates)
def test_clusters_as_large_as_the_design_effect_keep_the_bound(clusters: int, size: int, rate: float) -> None:
    b_c, b_s = np.arange(clusters + 1)[:, None] * size, np.arange(clusters + 1) * size
    outcomes = chance(clusters, rate)[:, None] * chance(clusters, rate)
    n = clusters * size

    def expected(design: float) -> Floats:
        factors = np.exp(worse_increment(n, b_c, n, b_s, tau=1.0, design_effect=design))
        return np.asarray((outcomes[..., None] * factors).sum(axis=(0, 1)))

    assert np.all(expected(size) <= 1.0 + 1e-9)
    assert clusters == 0 or size < 3 or np.any(expected(1.0) > 1.0)  # the control: without it the bound breaks


@exact
@given(n=few, max_bad_rate=rates, share=st.floats(0.0, 1.0))
def test_the_absolute_test_is_fair_at_its_limit_and_below(n: int, max_bad_rate: float, share: float) -> None:
    factors = np.exp(absolute_increment(n, np.arange(n + 1), max_bad_rate=max_bad_rate))
    assert chance(n, max_bad_rate) @ factors == pytest.approx(1.0)
    assert np.all(chance(n, max_bad_rate * share) @ factors <= 1.0 + 1e-9)


@exact
@given(n=few, max_bad_rate=rates, share=st.floats(0.0, 1.0))
def test_bets_are_fair_at_their_limit_and_above(n: int, max_bad_rate: float, share: float) -> None:
    bad = np.arange(n + 1)
    factors = np.exp(evidence_increment(n - bad, bad, max_bad_rate=max_bad_rate))
    assert chance(n, max_bad_rate) @ factors == pytest.approx(1.0)
    assert np.all(chance(n, max_bad_rate + share * (1.0 - max_bad_rate)) @ factors <= 1.0 + 1e-9)


@exact
@given(n=few, share=st.floats(0.0, 1.0))
def test_the_split_alarm_is_fair_at_the_planned_share(n: int, share: float) -> None:
    factors = np.exp(split_increment(np.arange(n + 1), n, share=share))
    outcomes = chance(n, share)
    certain = outcomes > 0.0
    assert outcomes[certain] @ factors[certain] == pytest.approx(1.0)


@exact
@given(n=few, share=st.floats(0.0, 0.5))
def test_the_sign_test_is_fair_at_one_half_and_below(n: int, share: float) -> None:
    worse = np.arange(n + 1)
    factors = np.exp(pair_increment(worse, n - worse))
    assert chance(n, 0.5) @ factors == pytest.approx(1.0)
    assert np.all(chance(n, share) @ factors <= 1.0 + 1e-9)


# Whole rollouts under the null: 1/alpha is reached by at most a share alpha of them, at whatever look.


@simulated
@given(seed=st.integers(0, 2**32), rate=rates, tau=st.floats(1.0, 2.0), weight=st.floats(0.01, 0.99))
def test_false_alarms_stay_below_alpha_at_any_look(seed: int, rate: float, tau: float, weight: float) -> None:
    rng = np.random.default_rng(seed)
    n = rng.poisson(100, (RUNS, LOOKS))
    n_c = rng.binomial(n, weight)
    b_c, b_s = rng.binomial(n_c, min(rate * tau, 1.0)), rng.binomial(n - n_c, rate)
    assert ever_reaches(worse_increment(n_c, b_c, n - n_c, b_s, tau=tau)) <= MOST_FALSE_ALARMS


def test_the_false_alarm_check_can_fail() -> None:
    rng = np.random.default_rng(1)
    n = np.full((RUNS, LOOKS), 50)
    slightly_worse = worse_increment(n, rng.binomial(n, 0.13), n, rng.binomial(n, 0.1), tau=1.0)
    assert ever_reaches(slightly_worse) > MOST_FALSE_ALARMS


def test_a_weight_that_follows_what_was_seen_gives_no_more_false_alarms() -> None:
    """The worst schedule allowed: more traffic for the canary whenever the evidence against it is high."""
    rng = np.random.default_rng(2)
    log_e = np.zeros((RUNS, len(RATIOS)))
    reached = np.zeros(RUNS, dtype=bool)
    for _ in range(LOOKS):
        weight = np.where(mixture(log_e) > 0.0, 0.6, 0.05)
        n_c = rng.binomial(100, weight)
        b_c, b_s = rng.binomial(n_c, 0.05), rng.binomial(100 - n_c, 0.05)
        log_e += worse_increment(n_c, b_c, 100 - n_c, b_s, tau=1.0)
        reached |= mixture(log_e) >= -math.log(ALPHA)
    assert reached.sum() <= MOST_FALSE_ALARMS


def test_an_incident_on_both_arms_gives_no_more_false_alarms() -> None:
    rng = np.random.default_rng(3)
    rate = np.where((np.arange(LOOKS) // 10) % 2 == 1, 0.4, 0.001)
    n_c, n_s = np.full((RUNS, LOOKS), 25), np.full((RUNS, LOOKS), 75)
    b_c, b_s = rng.binomial(n_c, rate), rng.binomial(n_s, rate)
    assert ever_reaches(worse_increment(n_c, b_c, n_s, b_s, tau=1.0)) <= MOST_FALSE_ALARMS
    without_stable = absolute_increment(n_c, b_c, max_bad_rate=0.01)
    assert ever_reaches(without_stable) == RUNS  # the control: a fixed limit takes the incident for the canary's fault


def test_strata_with_different_shares_add_up() -> None:
    """Users at 5 %, mirrored traffic at 100 % and pinned pairs; stable is bad more often in one than in another."""
    rng = np.random.default_rng(4)
    increments = np.zeros((RUNS, LOOKS, len(RATIOS)))
    pooled = np.zeros((4, RUNS, LOOKS))
    for n_c, n_s, rate in ((5, 95, 0.01), (100, 100, 0.2), (2, 2, 0.5)):
        b_c, b_s = rng.binomial(n_c, rate, (RUNS, LOOKS)), rng.binomial(n_s, rate, (RUNS, LOOKS))
        increments += worse_increment(n_c, b_c, n_s, b_s, tau=1.0)
        pooled += np.stack(np.broadcast_arrays(n_c, b_c, n_s, b_s))
    assert ever_reaches(increments) <= MOST_FALSE_ALARMS
    assert ever_reaches(worse_increment(*pooled, tau=1.0)) == RUNS  # the control: pooled strata mislead (Simpson)


@pytest.mark.parametrize("n_c", [pytest.param(1, id="one-request-a-look"), pytest.param(0, id="none")])
def test_thin_strata_keep_the_bound(n_c: int) -> None:
    rng = np.random.default_rng(5)
    b_c, b_s = rng.binomial(n_c, 0.02, (RUNS, LOOKS)), rng.binomial(3, 0.02, (RUNS, LOOKS))
    assert ever_reaches(worse_increment(n_c, b_c, 3, b_s, tau=1.0)) <= MOST_FALSE_ALARMS


def test_several_metrics_that_are_one_and_the_same_keep_the_bound() -> None:
    rng = np.random.default_rng(6)
    bad = rng.binomial(50, 0.05, (2, RUNS, LOOKS))
    log_e = mixture(worse_increment(50, bad[0], 50, bad[1], tau=1.0).cumsum(axis=1))
    log_star = combined(np.stack([log_e] * 3, axis=-1), [0.4, 0.3, 0.3])
    np.testing.assert_allclose(log_star, log_e, atol=1e-9)
    assert (log_star >= -math.log(ALPHA)).any(axis=1).sum() <= MOST_FALSE_ALARMS


def test_a_bad_canary_collects_evidence_to_advance_no_more_often_than_beta() -> None:
    rng = np.random.default_rng(7)
    bad = rng.binomial(100, 0.01, (RUNS, LOOKS))
    assert ever_reaches(evidence_increment(100 - bad, bad, max_bad_rate=0.01)) <= MOST_FALSE_ALARMS
    good = rng.binomial(100, 0.001, (RUNS, LOOKS))
    assert ever_reaches(evidence_increment(100 - good, good, max_bad_rate=0.01)) >= 0.99 * RUNS


def test_a_split_as_planned_raises_no_alarm_and_a_wrong_one_does() -> None:
    rng = np.random.default_rng(8)
    total = rng.poisson(200, (RUNS, LOOKS))
    assert ever_reaches(split_increment(rng.binomial(total, 0.25), total, share=0.25), SPLIT_ALPHA) <= 5
    for observed in (0.2, 0.3):
        assert ever_reaches(split_increment(rng.binomial(total, observed), total, share=0.25), SPLIT_ALPHA) == RUNS


@pytest.mark.parametrize(("share", "canary"), [(0.0, 10), (1.0, 90)])
def test_users_where_none_belong_raise_the_split_alarm(share: float, canary: int) -> None:
    assert mixture(split_increment(canary, 100, share=share)) >= -math.log(SPLIT_ALPHA)


# What the increments are made of.


@exact
@given(n_c=counts, n_s=counts, looks=st.integers(1, 50), tau=st.floats(1.0, 10.0), data=st.data())
def test_one_large_look_says_the_same_as_many_small_ones(
    n_c: int, n_s: int, looks: int, tau: float, data: st.DataObject
) -> None:
    bad = st.lists(st.tuples(st.integers(0, n_c), st.integers(0, n_s)), min_size=looks, max_size=looks)
    b_c, b_s = np.array(data.draw(bad)).T
    small = worse_increment(n_c, b_c, n_s, b_s, tau=tau).sum(axis=0)
    large = worse_increment(n_c * looks, b_c.sum(), n_s * looks, b_s.sum(), tau=tau)
    np.testing.assert_allclose(small, large, rtol=1e-9, atol=1e-6)


@exact
@given(n_c=counts, n_s=counts, tau=st.floats(1.0, 100.0), data=st.data())
def test_increments_are_finite_and_shaped(n_c: int, n_s: int, tau: float, data: st.DataObject) -> None:
    b_c, b_s = data.draw(st.integers(0, n_c)), data.draw(st.integers(0, n_s))
    assert np.isfinite(worse_increment(n_c, b_c, n_s, b_s, tau=tau)).all()
    assert np.isfinite(absolute_increment(n_c, b_c, max_bad_rate=0.999)).all()
    assert np.isfinite(evidence_increment(n_c - b_c, b_c, max_bad_rate=0.999)).all()
    assert np.isfinite(split_increment(b_c, n_c, share=0.0)).all()
    assert pair_increment([b_c, n_c], [[b_s], [n_s], [0]]).shape == (3, 2, len(RATIOS))
    assert worse_increment([n_c] * 4, b_c, n_s, b_s, tau=tau).shape == (4, len(RATIOS))


@pytest.mark.parametrize(
    ("n_c", "b_c", "n_s", "b_s"),
    [
        pytest.param(0, 0, 0, 0, id="no-traffic"),
        pytest.param(0, 0, 100, 7, id="canary-empty"),
        pytest.param(100, 100, 0, 0, id="stable-empty"),
        pytest.param(100, 0, 100, 0, id="nothing-bad"),
    ],
)
def test_what_compares_nothing_says_nothing(n_c: int, b_c: int, n_s: int, b_s: int) -> None:
    assert not worse_increment(n_c, b_c, n_s, b_s, tau=1.1).any()


@exact
@given(n_c=st.integers(10, 500), n_s=st.integers(10, 500), b_c=few, b_s=few, tau=st.floats(1.0, 5.0))
def test_e_moves_the_way_the_counts_do(n_c: int, n_s: int, b_c: int, b_s: int, tau: float) -> None:
    b_c, b_s = min(b_c, n_c - 1), min(b_s, n_s - 1)

    def log_e(canary: int, stable: int, tau: float) -> float:
        return float(mixture(worse_increment(n_c, canary, n_s, stable, tau=tau)))

    assert log_e(b_c + 1, b_s, tau) > log_e(b_c, b_s, tau)
    assert log_e(b_c, b_s + 1, tau) < log_e(b_c, b_s, tau)
    assert log_e(b_c + 1, b_s, tau + 1.0) < log_e(b_c + 1, b_s, tau)


def test_a_design_effect_divides_what_a_look_says() -> None:
    plain = worse_increment(50, 5, 50, 1, tau=1.0)
    np.testing.assert_allclose(worse_increment(50, 5, 50, 1, tau=1.0, design_effect=4.0), plain / 4.0)


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(lambda: worse_increment(10, 11, 10, 0, tau=1.0), id="more-bad-than-exposures"),
        pytest.param(lambda: worse_increment(10, math.nan, 10, 0, tau=1.0), id="nan"),
        pytest.param(lambda: worse_increment(10, 1, math.inf, 0, tau=1.0), id="infinite"),
        pytest.param(lambda: pair_increment(-1, 3), id="negative"),
        pytest.param(lambda: pair_increment(3, -1), id="negative-stable"),
        pytest.param(lambda: evidence_increment(-5, 10, max_bad_rate=0.01), id="negative-good"),
        pytest.param(lambda: split_increment(math.nan, 10, share=0.5), id="split-nan"),
    ],
)
def test_what_is_not_a_count_is_refused(count: Callable[[], Floats]) -> None:
    with pytest.raises(ValueError, match="counts must be finite with 0 <= bad <= exposures"):
        count()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: worse_increment(1, 0, 1, 0, tau=0.9), "tau must be at least 1, got 0.9"),
        (lambda: worse_increment(1, 0, 1, 0, tau=1.0, design_effect=0.5), "design_effect must be at least 1, got 0.5"),
        (lambda: absolute_increment(1, 0, max_bad_rate=0.0), "max_bad_rate must lie between 0 and 1, got 0.0"),
        (lambda: evidence_increment(1, 0, max_bad_rate=1.0), "max_bad_rate must lie between 0 and 1, got 1.0"),
        (lambda: split_increment(1, 2, share=1.5), "share must lie within 0..1, got 1.5"),
        (lambda: combined([0.0, 0.0], [0.0, 0.0]), "weights must be at least 0 and not all 0"),
        (lambda: combined([0.0, 0.0], [1.0, -1.0]), "weights must be at least 0 and not all 0"),
        (lambda: quantile_bucket([1, 2], 0.5, 0.0, [1, 2]), "2 bounds need 3 buckets, got 2"),
        (lambda: quantile_bucket([1, 2], 0.0, 0.0, [1]), "quantiles must lie above 0"),
    ],
)
def test_parameters_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Mixtures.


@exact
@given(logs=st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=8), data=st.data())
def test_a_mixture_is_the_logarithm_of_the_weighted_mean(logs: list[float], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.floats(0.1, 5.0), min_size=len(logs), max_size=len(logs)))
    assert float(mixture(logs)) == pytest.approx(math.log(np.mean(np.exp(logs))))
    assert float(combined(logs, weights)) == pytest.approx(math.log(np.average(np.exp(logs), weights=weights)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        pytest.param([5_000.0, 0.0], 5_000.0 - math.log(2), id="large"),
        pytest.param([-5_000.0, -5_000.0], -5_000.0, id="small"),
        pytest.param([-math.inf, 0.0], -math.log(2), id="one-is-zero"),
        pytest.param([-math.inf, -math.inf], -math.inf, id="all-are-zero"),
        pytest.param([math.inf, 0.0], math.inf, id="one-is-infinite"),
    ],
)
def test_a_mixture_does_not_overflow(logs: list[float], expected: float) -> None:
    assert float(mixture(logs)) == pytest.approx(expected)


def test_a_metric_without_weight_has_no_say() -> None:
    np.testing.assert_allclose(combined([[math.inf, 1.0], [3.0, 2.0]], [0.0, 0.7]), [1.0, 2.0])


# Figures of a rollout.


@pytest.mark.parametrize(("max_bad_rate", "needed"), [(0.01, 347), (0.005, 695), (0.001, 3_479)])
def test_clean_requests_needed_are_those_of_the_plan(max_bad_rate: float, needed: int) -> None:
    assert exposures_needed(max_bad_rate, 0.05) == needed
    reached = mixture(evidence_increment([needed - 1, needed], 0, max_bad_rate=max_bad_rate)) >= math.log(20.0)
    assert reached.tolist() == [False, True]


@pytest.mark.parametrize(
    ("n", "bad", "may"),
    [
        pytest.param(10_000, 10, True, id="far-below"),
        pytest.param(10_000, 50, True, id="at-half"),
        pytest.param(10_000, 80, False, id="above-half"),
        pytest.param(20, 4, True, id="too-few-to-be-a-rate"),
        pytest.param(0, 0, True, id="nothing-known"),
    ],
)
def test_a_stable_version_near_the_limit_leaves_no_room_to_advance(n: int, bad: int, may: bool) -> None:
    assert may_ever_advance(n, bad, max_bad_rate=0.01) is may


def test_half_the_limit_is_where_advancing_becomes_likely() -> None:
    rng = np.random.default_rng(11)

    def advanced(rate: float) -> float:
        bad = rng.binomial(50, rate, (RUNS, 180))
        return ever_reaches(evidence_increment(50 - bad, bad, max_bad_rate=0.01)) / RUNS

    assert advanced(0.005) > 0.95
    assert advanced(0.008) < 0.35


@pytest.mark.parametrize(
    ("bad", "exposures", "expected"),
    [
        pytest.param([], [], PRIOR_DISPERSION, id="no-looks"),
        pytest.param([7], [50], PRIOR_DISPERSION, id="one-look"),
        pytest.param([0, 0, 0], [50, 50, 50], PRIOR_DISPERSION, id="nothing-bad"),
        pytest.param([50, 50, 50], [50, 50, 50], PRIOR_DISPERSION, id="all-bad"),
        pytest.param([0, 0], [0, 0], PRIOR_DISPERSION, id="no-traffic"),
        pytest.param([5] * 50, [50] * 50, 1.0, id="more-even-than-chance"),
    ],
)
def test_a_design_effect_starts_at_its_prior_and_is_never_below_one(
    bad: list[int], exposures: list[int], expected: float
) -> None:
    assert design_effect(bad, exposures) == expected


def test_a_design_effect_is_the_size_of_the_clusters() -> None:
    rng = np.random.default_rng(9)
    events = rng.binomial(10, 0.1, 4_000)
    alone = design_effects(events.reshape(40, 100), np.full(100, 10))
    assert 1.0 <= np.median(alone) < 1.8
    in_twelves = design_effects(events.reshape(40, 100) * 12, np.full(100, 120))
    assert np.median(in_twelves) == pytest.approx(12.0, rel=0.4)
    assert in_twelves.min() > 6.0


def test_bursts_that_outlast_a_look_are_seen() -> None:
    rng = np.random.default_rng(10)
    in_one_look = rng.binomial(50, rng.choice([0.05, 0.5], (20, 240), p=[0.9, 0.1]))
    over_eight = rng.binomial(50, np.repeat(rng.choice([0.05, 0.5], (20, 30), p=[0.9, 0.1]), 8, axis=1))
    assert np.median(design_effects(over_eight, 50)) > 3.0 * np.median(design_effects(in_one_look, 50))


BOUNDS = (1.0, 2.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("buckets", "margin", "index"),
    [
        pytest.param([0, 10, 10, 0, 0], 0.0, 2, id="on-a-bound"),
        pytest.param([0, 10, 10, 0, 0], 0.25, 3, id="margin-snaps-up"),
        pytest.param([0, 10, 10, 0, 0], 2.0, 4, id="into-the-last-bucket"),
        pytest.param([0, 10, 10, 0, 0], 4.0, 5, id="beyond-the-last-bound"),
        pytest.param([0, 0, 0, 0, 9], 0.0, 5, id="quantile-without-a-bound"),
        pytest.param([0, 0, 0, 0, 0], 0.0, 5, id="empty"),
        pytest.param([9, 0, 0, 0, 0], 0.0, 1, id="in-the-first-bucket"),
    ],
)
def test_a_threshold_snaps_up_to_a_bucket(buckets: list[int], margin: float, index: int) -> None:
    assert quantile_bucket(buckets, 0.5, margin, BOUNDS) == index


@exact
@given(buckets=st.lists(counts, min_size=5, max_size=5), quantile=st.floats(0.05, 1.0), margin=st.floats(0.0, 3.0))
def test_no_more_than_the_quantile_s_share_is_above_the_threshold(
    buckets: list[int], quantile: float, margin: float
) -> None:
    index = quantile_bucket(buckets, quantile, margin, BOUNDS)
    slow = count_above(buckets, index)
    assert slow == sum(buckets[index:])
    assert slow <= (1.0 - quantile) * sum(buckets) * (1.0 + 1e-9) + 1e-6


def test_split_alternatives_lie_on_both_sides() -> None:
    assert (SPLIT_ODDS < 1.0).sum() == (SPLIT_ODDS > 1.0).sum() == len(SPLIT_ODDS) // 2
