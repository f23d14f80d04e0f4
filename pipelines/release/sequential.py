"""Sequential tests of a release: pure functions on counts, valid at any look and any stopping time.

Every test is an **e-process**: a product of factors whose expected value is at most 1 while its null hypothesis holds,
whatever was seen before. By Ville's inequality (1939) the chance that it ever reaches 1/alpha is then at most alpha, so
one may look as often as one likes and stop when one likes (Robbins 1970; Ramdas, Grünwald, Vovk and Shafer,
"Game-theoretic statistics and safe anytime-valid inference", 2023). The functions return the *logarithms of the
factors* of one look, one per alternative on the last axis. The caller adds them up over looks and strata; `mixture`
turns the sums into one log E: a mean of e-processes is an e-process.

Counts may have leading batch dimensions, written `[...]`; they broadcast against each other. Whatever is passed besides
the counts of a look (weights, thresholds, design effects) must be known before that look. Counts that cannot be
(negative, not finite, more bad events than exposures) raise ValueError: what is not data must never count as evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RATIOS: Floats = np.geomspace(1.25, 200.0, 20)
"""How many times worse than allowed the canary may be: the alternatives of `worse_increment`."""

BETS: Floats = np.array([0.5, 0.9, 0.99])
"""Shares of the capital staked on every exposure by `evidence_increment`."""

SPLIT_ALPHA = 1e-4
"""Most that a split which is as planned ever raises the alarm."""

SPLIT_ODDS: Floats = np.concatenate([1.0 / np.geomspace(1.05, 8.0, 8)[::-1], np.geomspace(1.05, 8.0, 8)])
"""Odds of reaching the canary, relative to the planned odds: the alternatives of `split_increment`."""

MIN_BLOCKS = 4
"""Counts from which `design_effects` takes a variance."""

PRIOR_BLOCKS = 4
"""As how many counts its prior weighs."""

PRIOR_DISPERSION = 2.0
"""Its prior: latencies cluster a little, until enough looks have shown that they do not."""

MIN_BAD_TO_REFUSE = 5
"""Bad events below which `may_ever_advance` does not trust a rate."""


def worse_increment(
    canary_n: ArrayLike,
    canary_bad: ArrayLike,
    stable_n: ArrayLike,
    stable_bad: ArrayLike,
    *,
    tau: ArrayLike,
    design_effect: ArrayLike = 1.0,
) -> Floats:
    """Return what one look at one stratum says for "canary's rate of bad events is more than tau times stable's".

    A bad event hits the canary with chance th0 = tau n_c / (tau n_c + n_s) when canary's rate is just tau times
    stable's, and with th1(r) > th0 when it is r times more; each bad event multiplies E_r by its likelihood ratio. With
    rates p_c <= tau p_s, x = th1/th0 and y = (1-th1)/(1-th0), the expected factor of a look is
    (1 + p_c (x-1))^n_c (1 + p_s (y-1))^n_s <= exp(p_s (tau n_c (x-1) + n_s (y-1))) = exp(0): so the weights may change
    from look to look, and an incident that raises both rates changes nothing.

    Args:
        canary_n, stable_n: exposures of each arm completed since the last look, `[...]`.
        canary_bad, stable_bad: those that were bad, `[...]`.
        tau: rate of bad events allowed to the canary, as a multiple of stable's, >= 1.
        design_effect: by how much bad events cluster (`design_effects`), >= 1. The logarithm is divided by it: the root
            of an e-value is an e-value (Jensen), and a cluster of so many events then counts as one.

    Returns:
        Log factors, `[..., 20]`, one per element of `RATIOS`; 0 when one of the arms had no exposures.
    """
    n_c, b_c = _counts(canary_n, canary_bad)
    n_s, b_s = _counts(stable_n, stable_bad)
    tau_, design = _at_least(1.0, tau, "tau"), _at_least(1.0, design_effect, "design_effect")
    compared = (n_c > 0.0) & (n_s > 0.0)
    chance = tau_ * n_c / np.where(compared, tau_ * n_c + n_s, 1.0)
    increment: Floats = b_c * np.log(RATIOS) - (b_c + b_s) * np.log1p((RATIOS - 1.0) * chance)
    return np.asarray(np.where(compared, increment, 0.0) / design)


def pair_increment(canary_worse: ArrayLike, stable_worse: ArrayLike) -> Floats:
    """Return what one look at pairs says for "of the two answers to one request, the canary's is more often the worse".

    The sequential sign test: pairs in which neither is worse say nothing, and under the null the canary is the worse in
    at most half of the others, against r/(1+r) under an alternative.

    Args:
        canary_worse, stable_worse: pairs since the last look in which that version was worse, `[...]`.

    Returns:
        Log factors, `[..., 20]`, one per element of `RATIOS`.
    """
    pairs = np.asarray(canary_worse) + np.asarray(stable_worse)
    discordant, worse = _counts(pairs, canary_worse)
    _counts(pairs, stable_worse)
    return np.asarray(worse * np.log(RATIOS) - discordant * np.log((1.0 + RATIOS) / 2.0))


def absolute_increment(n: ArrayLike, bad: ArrayLike, *, max_bad_rate: float) -> Floats:
    """Return what one look says for "the rate of bad events is above `max_bad_rate`", where nothing is left to compare.

    Wald's binomial likelihood ratio of p1 = r p0 against p0. Its expected factor p p1/p0 + (1-p) (1-p1)/(1-p0) rises
    with p and is 1 at p0. Ratios that would lead out of the unit interval are cut half way between p0 and 1.

    Returns:
        Log factors, `[..., 20]`, one per element of `RATIOS`.
    """
    exposures, events = _counts(n, bad)
    _rate(max_bad_rate)
    worse: Floats = np.minimum(RATIOS * max_bad_rate, (1.0 + max_bad_rate) / 2.0)
    if_bad, if_good = np.log(worse / max_bad_rate), np.log1p(-worse) - np.log1p(-max_bad_rate)
    return np.asarray(events * if_bad + (exposures - events) * if_good)


def evidence_increment(good: ArrayLike, bad: ArrayLike, *, max_bad_rate: float) -> Floats:
    """Return what one look says against "the rate of bad events is `max_bad_rate` or more": evidence to advance.

    Betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024): a share f of the
    capital is staked at fair odds on every exposure's being good. The expected factor 1 + f ((1-p) p_T/(1-p_T) - p) is
    at most 1 for every p >= p_T.

    Args:
        good, bad: exposures since the last look that were good and bad, `[...]`.
        max_bad_rate: p_T, above 0 and below 1.

    Returns:
        Log factors, `[..., 3]`, one per element of `BETS`.
    """
    exposures, bad_ = _counts(np.asarray(good) + np.asarray(bad), bad)
    _rate(max_bad_rate)
    return (exposures - bad_) * np.log1p(BETS * max_bad_rate / (1.0 - max_bad_rate)) + bad_ * np.log1p(-BETS)


def split_increment(canary_n: ArrayLike, total_n: ArrayLike, *, share: ArrayLike) -> Floats:
    """Return what one look says for "users do not reach the canary as often as planned".

    The binomial likelihood ratio on both sides of the planned share. At a share of 0 (or 1) every user on the canary
    (or on stable) counts against the plan.

    Args:
        canary_n: exposures of users (sessions, with affinity) that the canary had since the last look, `[...]`.
        total_n: those of both arms, `[...]`.
        share: planned share of the canary, 0 to 1, `[...]`.

    Returns:
        Log factors, `[..., 16]`, one per element of `SPLIT_ODDS`; the alarm is `mixture(sum) >= log(1/SPLIT_ALPHA)`.
    """
    total, canary = _counts(total_n, canary_n)
    planned = np.asarray(share, dtype=np.float64)[..., None]
    if not np.all((planned >= 0.0) & (planned <= 1.0)):
        raise ValueError(f"share must lie within 0..1, got {share!r}")
    return canary * np.log(SPLIT_ODDS) - total * np.log1p((SPLIT_ODDS - 1.0) * planned)


def mixture(log_e: ArrayLike) -> Floats:
    """Return the logarithm of the mean of exp(log_e) over the last axis, `[..., K]` to `[...]`, without overflow."""
    logs = np.asarray(log_e, dtype=np.float64)
    return combined(logs, np.ones(logs.shape[-1]))


def combined(log_es: ArrayLike, weights: ArrayLike) -> Floats:
    """Return log sum_m v_m E_m, the e-process of several metrics, with weights v that are normalised to sum to 1.

    The metrics may depend on each other in any way: the mean of e-processes is one, their product is not.

    Args:
        log_es: `mixture` of each metric, `[..., M]`.
        weights: how much of alpha each metric may use, `[M]`, at least 0 and not all 0.

    Raises:
        ValueError: when no weight is above 0, or one is negative or not finite.
    """
    logs, shares = np.asarray(log_es, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not (np.all(np.isfinite(shares)) and np.all(shares >= 0.0) and shares.sum() > 0.0):
        raise ValueError(f"weights must be at least 0 and not all 0, got {weights!r}")
    used = shares > 0.0
    terms = logs[..., used] + np.log(shares[used] / shares.sum())
    peak = terms.max(axis=-1)
    base = np.where(np.isfinite(peak), peak, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(terms - base[..., None]).sum(axis=-1)) + base)


def exposures_needed(max_bad_rate: float, beta: float) -> int:
    """Return how many exposures without one bad event are evidence to advance: E of `evidence_increment` >= 1/beta."""
    enough = -np.log(beta)
    low, high = 0, 1
    while mixture(evidence_increment(high, 0, max_bad_rate=max_bad_rate)) < enough:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if mixture(evidence_increment(middle, 0, max_bad_rate=max_bad_rate)) < enough:
            low = middle
        else:
            high = middle
    return high


def may_ever_advance(stable_n: int, stable_bad: int, *, max_bad_rate: float) -> bool:
    """Say whether a canary as good as stable has a fair chance to collect evidence to advance.

    It has not when stable's own rate is above half of `max_bad_rate`: at 0.8 % against 1 % only about a quarter of good
    canaries ever advance. Fewer bad events than `MIN_BAD_TO_REFUSE` are no rate yet.
    """
    _counts(stable_n, stable_bad)
    return stable_bad < MIN_BAD_TO_REFUSE or stable_bad <= stable_n * max_bad_rate / 2.0


def design_effect(bad: ArrayLike, exposures: ArrayLike) -> float:
    """Return `design_effects` of one series of looks."""
    return float(design_effects(bad, exposures))


def design_effects(bad: ArrayLike, exposures: ArrayLike) -> Floats:
    """Estimate by how much bad events cluster, from one arm's own past looks.

    The largest dispersion (`_dispersion`) of the counts of single looks, of two looks in a row, of four and so on: a
    burst may outlast a look, and then only the longer blocks show its size. A burst that stable has not had yet cannot
    be known: the more past looks, the better, those before the rollout included.

    Args:
        bad, exposures: per look, oldest first, `[..., L]`; L may be 0.

    Returns:
        Variance ratios, `[...]`, at least 1.
    """
    n, b = np.broadcast_arrays(*(counts[..., 0] for counts in _counts(exposures, bad)))
    largest, looks = _dispersion(b, n), 2
    while n.shape[-1] // looks >= MIN_BLOCKS:
        largest = np.maximum(largest, _dispersion(_blocks(b, looks), _blocks(n, looks)))
        looks *= 2
    return np.asarray(np.maximum(largest, 1.0))


def _blocks(per_look: Floats, looks: int) -> Floats:
    """Return sums over blocks of looks, `[..., L]` to `[..., L // looks]`; the oldest looks may be left out."""
    num = per_look.shape[-1] // looks
    newest = per_look[..., per_look.shape[-1] - num * looks :]
    return np.asarray(newest.reshape(*per_look.shape[:-1], num, looks).sum(axis=-1))


def _dispersion(bad: Floats, exposures: Floats) -> Floats:
    """Return the variance of counts `[..., L]` over that of independent events with the same overall rate.

    Pearson's estimate (McCullagh and Nelder, "Generalized Linear Models", 4.5), drawn to `PRIOR_DISPERSION` while the
    counts are few.
    """
    rate = bad.sum(axis=-1, keepdims=True) / np.maximum(exposures.sum(axis=-1, keepdims=True), 1.0)
    variance = exposures * rate * (1.0 - rate)
    varies = variance > 0.0
    squares = np.where(varies, (bad - exposures * rate) ** 2 / np.where(varies, variance, 1.0), 0.0).sum(axis=-1)
    freedom = np.maximum(np.count_nonzero(varies, axis=-1) - 1.0, 0.0)
    return np.asarray((PRIOR_BLOCKS * PRIOR_DISPERSION + squares) / (PRIOR_BLOCKS + freedom))


def quantile_bucket(buckets: ArrayLike, quantile: float, margin: float, bounds: Sequence[float]) -> int:
    """Return `quantile_buckets` of one histogram and one quantile."""
    return int(quantile_buckets(buckets, [quantile], margin, bounds)[0])


def quantile_buckets(
    buckets: ArrayLike, quantiles: Sequence[float], margin: float, bounds: Sequence[float]
) -> NDArray[np.intp]:
    """Return the first bucket in which every duration is above a quantile times (1 + margin).

    Args:
        buckets: counts of histograms, `[..., B]` with B = len(bounds) + 1; bucket i holds durations above bounds[i-1]
            up to bounds[i].
        quantiles: above 0 and at most 1, `[Q]`; interpolated within a bucket as Prometheus' `histogram_quantile` does.
        margin: at least 0.
        bounds: upper bounds of the buckets, rising; the last bucket has none.

    Returns:
        Indices for `above`, `[..., Q]`; B, above which is nothing, when a histogram is empty or the threshold lies
        beyond the last bound.
    """
    counts = np.asarray(buckets, dtype=np.float64)
    if counts.shape[-1] != len(bounds) + 1:
        raise ValueError(f"{len(bounds)} bounds need {len(bounds) + 1} buckets, got {counts.shape[-1]}")
    if not (min(quantiles) > 0.0 and max(quantiles) <= 1.0 and margin >= 0.0):
        raise ValueError(f"quantiles must lie above 0 and up to 1, margin at 0 or above; got {quantiles!r}, {margin}")
    edges = np.concatenate([[0.0], np.asarray(bounds, dtype=np.float64), [np.inf]])
    upto = counts.cumsum(axis=-1)
    rank = np.asarray(quantiles) * upto[..., -1:]
    place = (upto[..., None, :] < rank[..., None]).sum(axis=-1)
    held = np.take_along_axis(counts, place, axis=-1)
    below = np.take_along_axis(upto, place, axis=-1) - held
    within = np.divide(rank - below, held, out=np.ones_like(rank), where=held > 0)
    # An empty histogram has no quantile: its threshold is infinite, as is one in the bucket without a bound.
    upper = np.where(held > 0, edges[place + 1], np.inf)
    threshold = (edges[place] + within * (upper - edges[place])) * (1.0 + margin)
    return np.asarray(np.searchsorted(edges[:-1], threshold))


def above(buckets: ArrayLike, index: int) -> int:
    """Return how many durations of a histogram lie in the bucket with this index and in those above it."""
    return int(np.asarray(buckets)[index:].sum())


def _counts(n: ArrayLike, bad: ArrayLike) -> tuple[Floats, Floats]:
    """Return exposures and bad events as `[..., 1]`, ready for the axis of alternatives."""
    exposures, events = np.asarray(n, dtype=np.float64), np.asarray(bad, dtype=np.float64)
    if not np.all(np.isfinite(exposures) & (events >= 0.0) & (events <= exposures)):
        raise ValueError(f"counts must be finite with 0 <= bad <= exposures, got bad {bad!r} of {n!r}")
    return exposures[..., None], events[..., None]


def _at_least(low: float, value: ArrayLike, name: str) -> Floats:
    """Return a parameter as `[..., 1]`."""
    number = np.asarray(value, dtype=np.float64)[..., None]
    if not np.all(np.isfinite(number) & (number >= low)):
        raise ValueError(f"{name} must be at least {low:g}, got {value!r}")
    return number


def _rate(max_bad_rate: float) -> None:
    if not 0.0 < max_bad_rate < 1.0:
        raise ValueError(f"max_bad_rate must lie between 0 and 1, got {max_bad_rate}")
