"""How sure a figure is, and whether two arms differ: intervals, paired tests, Holm's correction, the n that decides.

The tests themselves are scipy's and statsmodels'; here is which one a question gets.

    a share of items            Wilson's interval                               (Wilson 1927, JASA 22)
    a mean over items           BCa bootstrap, seeded                           (Efron 1987, JASA 82)
    a mean over seeds           Student's t: a bootstrap of 3 or 5 values is too narrow
    two arms, the same items    exact McNemar; other per-item values: paired t  (McNemar 1947, Psychometrika 12)
    two arms, the same seeds    paired t; other seeds: Welch's                  (Welch 1947, Biometrika 34)
    all pairs at once           Holm's step-down correction                     (Holm 1979, Scand. J. Stat. 6)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import special, stats

LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8  # the chance to decide that `needed` promises
MOST = 1_000_000  # an n above this decides nothing in practice
RESAMPLES, SEED = 2000, 0


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; without one where too few values are known."""

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Pair:
    """One comparison of two arms: value of `a` minus value of `b`.

    `p` is two-sided against no difference, `p_holm` the same corrected over the comparisons made together; None where
    nothing varies or one side has a single value. `needed`: the n per arm that decides it with probability POWER if
    the difference and the scatter are as seen; None where that cannot be said or is beyond MOST.
    """

    a: str
    b: str
    difference: Interval
    p: float | None
    test: str
    unit: str  # what n counts: seeds or items
    needed: int | None = None
    p_holm: float | None = None
    share: float | None = None  # of items on which exactly one of the two is right, where that is the test

    @property
    def decided(self) -> bool:
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
    if n == 0:
        return Interval(math.nan, None, None, 0)
    low, high = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / n, float(low), float(high), n)


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """A mean with Student's interval; no interval for a single value or values that are all alike."""
    found, n = np.asarray(values, float), len(values)
    if n < 2 or _alike(found):
        return Interval(float(found.mean()), None, None, n)
    return _student(float(found.mean()), float(found.std(ddof=1)) / math.sqrt(n), n - 1, n)[0]


def _student(middle: float, error: float, freedom: float, n: int) -> tuple[Interval, float]:
    """A mean with its interval, and the two-sided p of zero, from its standard error."""
    half = float(special.stdtrit(freedom, 1 - ALPHA / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(middle) / error))
    return Interval(middle, middle - half, middle + half, n), p


def mean_over_items(values: Sequence[float]) -> Interval:
    """A mean with a BCa bootstrap interval of RESAMPLES resamples; the same for the same values."""
    found = np.asarray(values, float)
    if len(found) < 2 or _alike(found):
        return Interval(float(found.mean()), None, None, len(found))
    ends = stats.bootstrap((found,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa",
                           rng=np.random.default_rng(SEED)).confidence_interval  # fmt: skip
    return Interval(float(found.mean()), float(ends.low), float(ends.high), len(found))


def over_seeds(a: str, b: str, left: Mapping[int, float], right: Mapping[int, float]) -> Pair:
    """Two arms' values by seed: paired over the seeds if both have the same ones, else Welch's t.

    Paired differences that do not vary at all say nothing about their scatter; then, too, it is Welch's t.
    """
    same = set(left) == set(right) and len(left) > 1
    x = np.array([left[s] for s in sorted(left)])
    y = np.array([right[s] for s in sorted(right)])
    if same and not _alike(x - y, max(abs(x).max(), abs(y).max())):
        return paired(a, b, x, y, "seeds")
    n, middle = min(len(x), len(y)), float(x.mean() - y.mean())
    if n < 2 or (_alike(x) and _alike(y)):
        return Pair(a, b, Interval(middle, None, None, n), None, "none: one value or no scatter", "seeds")
    left_part, right_part = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    both = left_part + right_part
    freedom = both**2 / (left_part**2 / (len(x) - 1) + right_part**2 / (len(y) - 1))
    difference, p = _student(middle, math.sqrt(both), freedom, n)
    return Pair(a, b, difference, p, "Welch's t", "seeds")


def paired(a: str, b: str, x: np.ndarray, y: np.ndarray, unit: str) -> Pair:
    """Two arms' values [n] on the same n things, by a paired t-test."""
    gaps = np.asarray(x, float) - np.asarray(y, float)
    middle, n = float(gaps.mean()), len(gaps)
    if n < 2 or _alike(gaps, max(np.abs(x).max(initial=0), np.abs(y).max(initial=0))):
        return Pair(a, b, Interval(middle, None, None, n), None, "none: no scatter", unit)
    difference, p = _student(middle, float(gaps.std(ddof=1)) / math.sqrt(n), n - 1, n)
    return Pair(a, b, difference, p, "paired t", unit)


def over_items(a: str, b: str, left: Sequence[float], right: Sequence[float]) -> Pair:
    """Two arms on the same items, in the same order: exact McNemar for right and wrong, else a paired t-test."""
    x, y = np.asarray(left, float), np.asarray(right, float)
    if not np.isin(x, (0, 1)).all() or not np.isin(y, (0, 1)).all():
        return paired(a, b, x, y, "items")
    n, only_a, only_b = len(x), int((x > y).sum()), int((y > x).sum())
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    share = (only_a + only_b) / n if n else 0.0
    return Pair(a, b, mcnemar_interval(only_a, only_b, n), float(p), "exact McNemar", "items", share=share)


def mcnemar_interval(only_a: int, only_b: int, n: int) -> Interval:
    """Difference of two shares on the same items: Wald with one item added to each kind of disagreement.

    Bonett and Price 2012, J. Educ. Behav. Stat. 37(4), equation 6: it covers where the plain Wald interval does not.
    """
    one, other = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = float(stats.norm.ppf(1 - ALPHA / 2)) * math.sqrt((one + other - (one - other) ** 2) / (n + 2))
    middle = one - other
    return Interval((only_a - only_b) / n, max(-1.0, middle - half), min(1.0, middle + half), n)


def holm(pairs: Sequence[Pair]) -> list[Pair]:
    """The same comparisons, in order, with `p_holm` over those that have a p, and `needed` at the strictest level."""
    from statsmodels.stats.multitest import multipletests  # not at the top: it takes a second

    known = [pair.p for pair in pairs if pair.p is not None]
    corrected = iter(multipletests(known, alpha=ALPHA, method="holm")[1] if known else ())
    out = [replace(pair, p_holm=float(next(corrected))) if pair.p is not None else pair for pair in pairs]
    return [replace(pair, needed=None if pair.decided else needed(pair, ALPHA / max(1, len(known)))) for pair in out]


def all_pairs(values: Mapping[str, Mapping[int, float]]) -> list[Pair]:
    """Every pair of arms over seeds, Holm-corrected together. Values by arm and seed; arms without values stay out."""
    arms = [arm for arm, found in values.items() if found]
    return holm([over_seeds(a, b, values[a], values[b]) for a, b in combinations(arms, 2)])


def needed(pair: Pair, alpha: float = ALPHA, shift: float = 0.0) -> int | None:
    """The n per arm at which a two-sided test at `alpha` finds the difference seen, less `shift`, with POWER.

    McNemar: Connor 1987, Biometrics 43, equation 3. t-tests: the noncentral t, the scatter from the interval's width.
    """
    middle, n = pair.difference.value - shift, pair.difference.n
    if pair.difference.low is None or middle == 0 or pair.p is None:
        return None
    if pair.share is not None and shift == 0:
        z, gap = stats.norm.ppf(1 - alpha / 2), abs(middle)
        top = z * math.sqrt(pair.share) + stats.norm.ppf(POWER) * math.sqrt(max(0.0, pair.share - gap**2))
        return _cut((top / gap) ** 2, n)
    # half width = t * sd / sqrt(n): turned round for the scatter of one paired difference (Welch: of the difference)
    freedom = n - 1 if pair.test != "Welch's t" else 2 * (n - 1)
    half = (pair.difference.high - pair.difference.low) / 2
    scatter = half / stats.t.ppf(1 - ALPHA / 2, freedom) * math.sqrt(n)
    return _least(abs(middle) / scatter, alpha, welch=pair.test == "Welch's t")


def _least(effect: float, alpha: float, welch: bool) -> int | None:
    """The smallest n at which |mean| / scatter = `effect` is found, by bisection over the noncentral t's power."""

    def power(n: int) -> float:
        freedom = 2 * (n - 1) if welch else n - 1
        critical, centre = stats.t.ppf(1 - alpha / 2, freedom), effect * math.sqrt(n)
        return float(stats.nct.sf(critical, freedom, centre))

    if effect * math.sqrt(MOST) < 4 and power(MOST) < POWER:
        return None
    low, high = 1, 2
    while power(high) < POWER and high < MOST:
        low, high = high, high * 2
    if high >= MOST:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def _cut(n: float, have: int) -> int | None:
    return None if n > MOST else max(math.ceil(n), have + 1)


def _alike(values: np.ndarray, scale: float | None = None) -> bool:
    """Whether values differ by no more than rounding."""
    size = scale if scale is not None else float(np.abs(values).max())
    return bool(np.ptp(values) <= 1e-12 * max(size, 1e-300))
