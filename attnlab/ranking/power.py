"""How many seeds tell two arms apart, by the test that `common_model` makes of them.

Two of a arms, with n seeds each, that differ by d standard deviations of a run are told apart with probability

    P(|T| > q / sqrt(2))     T noncentral t, d sqrt(n / 2), (a - 1)(n - 1) degrees of freedom; q Tukey's quantile

and once in 1 / CLEARLY sweeps, where equal variances look different, by the pair's own scatter at Sidak's level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attnlab.ranking.common_model import CLEARLY, PairDifference
from attnlab.ranking.quantiles import sidak_level, tukey_quantile
from attnlab.ranking.tests import ALPHA

POWER = 0.8
MOST = 1000  # seeds per arm; no sweep has as many
EXACT = 20  # degrees of freedom up to which Tukey's quantile is scipy's own, at 0.1 s each
NODES = 6  # above, it is interpolated between so many: exact to 1e-5
POINTS = 4000  # of the scale's distribution, over which a noncentral t is averaged: exact to 1e-4


def tails(limit: float, freedom: int, centre: float) -> tuple[float, float]:
    """P(T < -limit) and P(T > limit) of a noncentral t; scipy's is nan at few degrees of freedom."""
    from scipy.special import ndtr

    off = limit * _scales(freedom)
    return float(ndtr(-off - centre).mean()), float(ndtr(centre - off).mean())


@lru_cache(maxsize=256)
def _scales(freedom: int) -> np.ndarray:
    """Standard deviations, as quantiles of their distribution, of errors of 1."""
    from scipy.stats import chi2

    return np.asarray(np.sqrt(chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, freedom) / freedom))


@lru_cache(maxsize=4096)
def power(d: float, arms: int, n: int) -> float:
    """The chance that two of `arms` arms of n seeds are told apart, d standard deviations apart."""
    from scipy.stats import t

    centre, freedom = d * math.sqrt(n / 2), (arms - 1) * (n - 1)
    pooled = sum(tails(_quantile(arms, freedom), freedom, centre))
    if arms == 2:  # one scatter: that of their difference
        return pooled
    level = sidak_level(arms * (arms - 1) // 2)
    own = sum(tails(float(t.ppf(1 - level / 2, n - 1)), n - 1, centre))
    return (1 - CLEARLY) * pooled + CLEARLY * own


def _quantile(arms: int, freedom: int) -> float:
    """`tukey_quantile`, which many numbers of seeds are tried with."""
    return tukey_quantile(arms, freedom) if freedom <= EXACT else float(_interpolated(arms)(1 / freedom))


@lru_cache(maxsize=64)
def _interpolated(arms: int) -> Any:
    """Scipy's function of 1 / freedom, in which the quantile is nearly a straight line."""
    from scipy.interpolate import BarycentricInterpolator

    places = np.linspace(1e-6, 1 / EXACT, NODES)
    return BarycentricInterpolator(places, [tukey_quantile(arms, float(1 / place)) for place in places])


def detectable(arms: int, n: int) -> float | None:
    """The smallest difference, in standard deviations, found with POWER; None for single runs, which no test judges."""
    from scipy.optimize import brentq

    if n < 2 or arms < 2:
        return None
    high = 1.0
    while power(high, arms, n) < POWER:
        high *= 2
    return float(brentq(lambda d: power(d, arms, n) - POWER, 0.0, high))


def seeds_for(d: float, arms: int) -> int | None:
    """Seeds per arm that find d standard deviations with POWER; None above MOST."""
    return fewest(lambda n: power(d, arms, n), MOST)


def fewest(chance: Callable[[int], float], most: int) -> int | None:
    """The smallest n >= 2 with a (growing) `chance` of POWER; None above `most`."""
    low, high = 1, 2
    while chance(high) < POWER - 1e-6:  # rounding
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= POWER - 1e-6 else (middle, high)
    return high


@dataclass(frozen=True)
class SeedsNeeded:
    """Seeds per arm that would decide a pair, with the 95 % interval that the pair's own effect leaves open."""

    seeds: int
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.seeds} [{self.low}, {self.high}]"


def seeds_to_decide(pair: PairDifference, arms: int, n: int) -> SeedsNeeded | None:
    """Seeds that would tell an undecided pair apart; None where its effect's interval reaches zero or none suffices.

    The effect's interval is that of the noncentral t (Steiger and Fouladi 1997, in What If There Were No Significance
    Tests, chapter 9).
    """
    if not pair.error or pair.freedom is None:
        return None
    seen, freedom = abs(pair.difference) / pair.error, max(1, round(pair.freedom))
    least = _centre(seen, freedom, 1 - ALPHA / 2)
    most = _centre(seen, freedom, ALPHA / 2)
    if least <= 0:  # before what takes a second
        return None
    ends = [seeds_for(centre * math.sqrt(2 / n), arms) for centre in (least, seen, most)]
    if None in ends:
        return None
    high, middle, low = (int(each) for each in ends if each is not None)
    return SeedsNeeded(max(middle, n + 1), low, max(high, n + 1))


def _centre(seen: float, freedom: int, below: float) -> float:
    """The noncentrality of which a share `below` of t values lies below `seen`."""
    from scipy.optimize import brentq

    def gap(centre: float) -> float:
        return 1 - tails(seen, freedom, centre)[1] - below

    return float(brentq(gap, -10.0, 10.0 + 10.0 * seen))
