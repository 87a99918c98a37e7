"""The noise floor: how runs scatter by seed alone, and so what a sweep detects.

`noise: {arm: X, seeds: 5}` trains one arm as declared over seeds of its own, before the search. Of k such values, whose
standard deviation is s, and n seeds per arm in the comparison:

    smallest difference found  d s, with d the standardised difference that a two-sample t-test on n values per arm
                               finds at two-sided 5 % with a power of 80 % (Cohen 1988, Statistical Power Analysis for
                               the Behavioral Sciences, section 2; noncentral t, as statsmodels' TTestIndPower has it)
    its interval               d times the 95 % interval of the standard deviation itself, s sqrt((k - 1) / c) with c
                               the quantiles of chi-squared, k - 1 degrees of freedom: 5 seeds know it to 0.6 to 2.9 s
    seeds for a difference D   the smallest n whose test finds D / s with that power

Where each arm's value is of a single run (n = 1) the test has s from the noise runs alone, with k - 1 degrees of
freedom. All of it supposes that the other arms scatter as this one does, and that their seeds differ: a paired test
over common seeds may find a little more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import mean, stdev
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.records.results import STATES, Results

ALPHA, POWER = 0.05, 0.8
POINTS = 4000
FEWEST = 3  # values; the standard deviation of two is known from 0.4 to 32 times itself
MULTIPLES = (4.0, 2.0, 1.0, 0.5)  # of s, for which the needed seeds are given
MOST = 1000  # seeds per arm; no sweep has as many


def noise_floor(plan: Plan, results: Sequence[Results]) -> dict[str, Any] | None:
    """leaderboard.json's `noise`; None where the sweep asks for none.

    Returns:
        {arm, asked: seeds, counts: {state: n}, steps, tokens, seconds, device_seconds (of these runs alone), values:
        [last value of each completed run], mean, std, std_interval: [low, high] (95 %), n: seeds per arm that the
        comparison has, detects: {difference, low, high} or None, needed: [{difference, seeds or None}]}. std and what
        follows from it are None before FEWEST runs have completed.
    """
    if plan.sweep.noise is None:
        return None
    runs = [r for r in results if r["phase"] == "noise" and planned_for(plan, r)]
    runs.sort(key=lambda r: r["seed"])
    lasts = [(r["last"] or {}).get(plan.metric) for r in runs if r["state"] == "completed"]
    values = tuple(float(value) for value in lasts if value is not None)
    return {
        "arm": plan.sweep.noise.arm,
        "asked": plan.sweep.noise.seeds,
        "counts": {state: sum(r["state"] == state for r in runs) for state in STATES},
        **{key: sum(r[key] for r in runs) for key in ("steps", "tokens", "seconds", "device_seconds")},
        "values": list(values),
        "mean": mean(values) if values else None,
        "n": max(1, len(plan.seeds)),
        **_scatter(values, max(1, len(plan.seeds))),
    }


def planned_for(plan: Plan, result: Results) -> bool:
    """Whether the sweep asks for this run, not a `noise` that it once had."""
    noise = plan.sweep.noise
    asked = noise is not None and noise.arm == result["arm"] and result["seed"] in noise.values
    return asked or result["phase"] != "noise"


@lru_cache(maxsize=64)
def _scatter(values: tuple[float, ...], n: int) -> dict[str, Any]:
    if len(values) < FEWEST or (s := stdev(values)) == 0:
        return {"std": None, "std_interval": None, "detects": None, "needed": []}
    low, high = std_interval(s, len(values))
    d = detectable(n, len(values) - 1)
    return {
        "std": s,
        "std_interval": [low, high],
        "detects": {"difference": d * s, "low": d * low, "high": d * high},
        "needed": [{"difference": multiple * s, "seeds": seeds_for(multiple)} for multiple in MULTIPLES],
    }


def std_interval(s: float, k: int) -> tuple[float, float]:
    """The 95 % interval of a standard deviation `s` of k values."""
    from scipy.stats import chi2

    ends = chi2.ppf((1 - ALPHA / 2, ALPHA / 2), k - 1)
    return s * math.sqrt((k - 1) / ends[0]), s * math.sqrt((k - 1) / ends[1])


def power(d: float, n: int, noise_freedom: int | None = None) -> float:
    """The chance to separate two arms of n values, d standard deviations apart.

    `noise_freedom`: for n = 1, degrees of freedom of the standard deviation, which is then the noise runs'.
    """
    if n == 1 and noise_freedom:
        return _power_of_one(d, noise_freedom)
    from statsmodels.stats.power import TTestIndPower  # not at the top: it takes a second

    return float(TTestIndPower().power(d, n, ALPHA))


def _power_of_one(d: float, freedom: int) -> float:
    """Average the noncentral t's tails; scipy's own are nan at so few degrees of freedom."""
    import numpy as np
    from scipy.stats import chi2, norm, t

    off = np.sqrt(chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, freedom) / freedom) * t.ppf(1 - ALPHA / 2, freedom)
    centre = d / math.sqrt(2)
    return float((norm.sf(off - centre) + norm.cdf(-off - centre)).mean())


def detectable(n: int, noise_freedom: int) -> float:
    """The smallest difference, in standard deviations, that n values per arm detect with POWER."""
    from scipy.optimize import brentq

    high = 0.1
    while power(high, n, noise_freedom) < POWER:  # far beyond it, scipy's noncentral t is nan
        high *= 2
    return float(brentq(lambda d: power(d, n, noise_freedom) - POWER, high / 2, high))


def seeds_for(d: float) -> int | None:
    """Seeds per arm to detect d standard deviations with POWER; None above MOST."""
    return fewest(lambda n: power(d, n), MOST)


def fewest(power: Callable[[int], float], most: int) -> int | None:
    """The smallest n >= 2 with a (growing) `power` of POWER; None above `most`."""
    low, high = 1, 2
    while power(high) < POWER:
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def sentences(noise: dict[str, Any] | None, metric: str) -> list[str]:
    """What the noise floor says, in plain words, once all its runs have ended."""
    if not noise or sum(noise["counts"].values()) < noise["asked"]:
        return []
    if noise["std"] is None:
        return [f"noise: {len(noise['values'])} runs of {noise['arm']} gave a value, so its scatter is not known"]
    s, (low, high), detects = noise["std"], noise["std_interval"], noise["detects"]
    whose = f"{noise['n']} seeds per arm" if noise["n"] > 1 else "one run per arm"
    needed = "; ".join(f"{each['difference']:.2g} takes {each['seeds'] or f'over {MOST}'}" for each in noise["needed"])
    difference, least, most = (f"{detects[key]:.2g}" for key in ("difference", "low", "high"))
    return [
        f"noise: {len(noise['values'])} runs of {noise['arm']} that differ in their seed alone scatter by {s:.2g} in "
        f"{metric} (standard deviation; 95 %: {low:.2g} to {high:.2g}). With {whose} a difference of {difference} "
        f"({least} to {most}) is found four times in five (two-sided 5 %). Seeds per arm for a difference: {needed}."
    ]
