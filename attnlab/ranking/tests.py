"""How sure a figure is, whether two arms differ, and which test answers which.

The tests are scipy's. Corrections over all pairs and the n that decides are in `attnlab.ranking.pairs`.

    a share of items            Wilson's interval                               (Wilson 1927, JASA 22)
    a mean over items           BCa bootstrap, seeded                           (Efron 1987, JASA 82)
    a mean over seeds           Student's t: a bootstrap of 3 or 5 values is too narrow
    two arms, the same items    exact McNemar; other per-item values: paired t  (McNemar 1947, Psychometrika 12)
    two arms, the same seeds    paired t; other seeds: Welch's                  (Welch 1947, Biometrika 34)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

LEVEL = 0.95
ALPHA = 1 - LEVEL
RESAMPLES, SEED = 2000, 0


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; without one where too few values are known."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """One comparison of two arms: value of `a` minus value of `b`."""

    a: str
    b: str
    difference: Interval
    p: float | None  # two-sided against no difference; None where nothing varies or one side has a single value
    test: str
    unit: str  # what n counts: seeds or items
    needed: int | None = None  # n per arm that decides it (`attnlab.ranking.pairs.needed`)
    p_holm: float | None = None  # p corrected over the comparisons made together
    share: float | None = None  # of items on which exactly one of the two is right, where that is the test

    @property
    def decided(self) -> bool:
        """Whether the corrected test finds a difference."""
        return self.p_holm is not None and self.p_holm <= ALPHA and self.difference.value != 0

    def better(self, mode: str) -> str | None:
        """The better arm, or None while undecided."""
        if not self.decided:
            return None
        return self.a if (self.difference.value < 0) == (mode == "min") else self.b

    def verdict(self, mode: str) -> str:
        """`gla better than standard`, or `undecided`."""
        better = self.better(mode)
        return f"{better} better than {self.b if better == self.a else self.a}" if better else "undecided"


def proportion(successes: int, n: int) -> Interval:
    """A share with Wilson's score interval."""
    from scipy import stats

    if n == 0:
        return Interval(math.nan, None, None, 0)
    low, high = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / n, float(low), float(high), n)


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """A mean with Student's interval; no interval for a single value or for equal ones."""
    array, n = np.asarray(values, float), len(values)
    if n < 2 or _equal(array):
        return Interval(float(array.mean()), None, None, n)
    return _student(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(n), n - 1, n)[0]


def _student(middle: float, error: float, freedom: float, n: int) -> tuple[Interval, float]:
    """A mean with its interval, and the two-sided p of zero, from its standard error."""
    from scipy import special

    half = float(special.stdtrit(freedom, 1 - ALPHA / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(middle) / error))
    return Interval(middle, middle - half, middle + half, n), p


def mean_over_items(values: Sequence[float]) -> Interval:
    """A mean with a BCa bootstrap interval of RESAMPLES resamples, seeded."""
    from scipy import stats

    array = np.asarray(values, float)
    if len(array) < 2 or _equal(array):
        return Interval(float(array.mean()), None, None, len(array))
    ends = stats.bootstrap((array,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa",
                           rng=np.random.default_rng(SEED)).confidence_interval  # fmt: skip
    return Interval(float(array.mean()), float(ends.low), float(ends.high), len(array))


def over_seeds(a: str, b: str, left: Mapping[Any, float], right: Mapping[Any, float]) -> Comparison:
    """Compare two arms by seed: paired if the seeds are the same, else Welch's t.

    Paired differences that do not vary at all say nothing about their scatter; then, too, it is Welch's t.
    """
    x = np.array([left[s] for s in sorted(left)])
    y = np.array([right[s] for s in sorted(right)])
    same = set(left) == set(right) and len(left) > 1
    if same and not _equal(x - y, max(abs(x).max(), abs(y).max())):
        return paired(a, b, x, y, "seeds")
    n, middle = min(len(x), len(y)), float(x.mean() - y.mean())
    if n < 2 or (_equal(x) and _equal(y)):
        return Comparison(a, b, Interval(middle, None, None, n), None, "none: one value or no scatter", "seeds")
    of_left, of_right = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    both = of_left + of_right
    freedom = both**2 / (of_left**2 / (len(x) - 1) + of_right**2 / (len(y) - 1))
    difference, p = _student(middle, math.sqrt(both), freedom, n)
    return Comparison(a, b, difference, p, "Welch's t", "seeds")


def paired(a: str, b: str, x: np.ndarray, y: np.ndarray, unit: str) -> Comparison:
    """Compare two arms' values [n] on the same n things by a paired t-test."""
    gaps = x - y
    middle, n = float(gaps.mean()), len(gaps)
    if n < 2 or _equal(gaps, max(np.abs(x).max(initial=0), np.abs(y).max(initial=0))):
        return Comparison(a, b, Interval(middle, None, None, n), None, "none: no scatter", unit)
    difference, p = _student(middle, float(gaps.std(ddof=1)) / math.sqrt(n), n - 1, n)
    return Comparison(a, b, difference, p, "paired t", unit)


def over_items(a: str, b: str, left: Sequence[float], right: Sequence[float]) -> Comparison:
    """Compare two arms on the same items: exact McNemar for 0/1, else a paired t-test."""
    from scipy import stats

    x, y = np.asarray(left, float), np.asarray(right, float)
    if not np.isin(x, (0, 1)).all() or not np.isin(y, (0, 1)).all():
        return paired(a, b, x, y, "items")
    n, only_a, only_b = len(x), int((x > y).sum()), int((y > x).sum())
    if n == 0:
        return Comparison(a, b, Interval(math.nan, None, None, 0), None, "none: no item in common", "items")
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    share = (only_a + only_b) / n
    return Comparison(a, b, mcnemar_interval(only_a, only_b, n), float(p), "exact McNemar", "items", share=share)


def mcnemar_interval(only_a: int, only_b: int, n: int) -> Interval:
    """Difference of shares by Bonett and Price 2012, J. Educ. Behav. Stat. 37(4), equation 6."""
    # Wald with one item added to each kind of disagreement: it covers where the plain interval does not
    one, other = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    middle = one - other
    half = NormalDist().inv_cdf(1 - ALPHA / 2) * math.sqrt((one + other - middle**2) / (n + 2))
    return Interval((only_a - only_b) / n, max(-1.0, middle - half), min(1.0, middle + half), n)


def _equal(values: np.ndarray, scale: float | None = None) -> bool:
    """Whether values differ by no more than rounding."""
    size = scale if scale is not None else float(np.abs(values).max())
    return bool(np.ptp(values) <= 1e-12 * max(size, 1e-300))
