"""The noise floor: how runs scatter by seed alone, and so what a sweep detects.

`noise: {arm: X, seeds: 5}` trains one arm as declared over seeds of its own, before the search. Of k such values, whose
standard deviation is s, and n seeds per arm in the comparison:

    smallest difference found  d s, with d the difference in standard deviations that the report's own test of all pairs
                               finds with a power of 80 % (`attnlab.ranking.power`); none for single runs, which no test
                               judges
    its interval               d times the 95 % interval of the standard deviation itself, s sqrt((k - 1) / c) with c
                               the quantiles of chi-squared, k - 1 degrees of freedom: 5 seeds know it to 0.6 to 2.9 s
    seeds for a difference D   the smallest n with which that test finds D / s with that power

All of it supposes that the other arms scatter as this one does. Where seeds shift all arms alike, the comparison within
seeds finds a little more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import mean, stdev
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.ranking.candidates import final_value
from attnlab.ranking.power import MOST, detectable, seeds_for
from attnlab.ranking.tests import ALPHA
from attnlab.records.results import STATES, Results

FEWEST = 3  # values; the standard deviation of two is known from 0.4 to 32 times itself
MULTIPLES = (4.0, 2.0, 1.0, 0.5)  # of s, for which the needed seeds are given


def noise_floor(plan: Plan, results: Sequence[Results]) -> dict[str, Any] | None:
    """leaderboard.json's `noise`; None where the sweep asks for none.

    Returns:
        {arm, asked: seeds, counts: {state: n}, steps, tokens, seconds, device_seconds (of these runs alone), values:
        [last value of each completed run], mean, std, std_interval: [low, high] (95 %), n: seeds per arm that the
        comparison has, detects: {difference, low, high} or None, needed: [{difference, seeds or None}]}. std and what
        follows from it are None before FEWEST runs have completed; `detects` is None for one arm or one run each, too.
    """
    if plan.sweep.noise is None:
        return None
    runs = [r for r in results if r["phase"] == "noise" and planned_for(plan, r)]
    runs.sort(key=lambda r: r["seed"])
    values = tuple(float(v) for r in runs if (v := final_value(r, plan.metric)) is not None)
    return {
        "arm": plan.sweep.noise.arm,
        "asked": plan.sweep.noise.seeds,
        "counts": {state: sum(r["state"] == state for r in runs) for state in STATES},
        **{key: sum(r[key] for r in runs) for key in ("steps", "tokens", "seconds", "device_seconds")},
        "values": list(values),
        "mean": mean(values) if values else None,
        "n": max(1, len(plan.seeds)),
        **_scatter(values, len(plan.names), max(1, len(plan.seeds))),
    }


def planned_for(plan: Plan, result: Results) -> bool:
    """Whether the sweep asks for this run, not a `noise` that it once had."""
    noise = plan.sweep.noise
    asked = noise is not None and noise.arm == result["arm"] and result["seed"] in noise.values
    return asked or result["phase"] != "noise"


@lru_cache(maxsize=64)
def _scatter(values: tuple[float, ...], arms: int, n: int) -> dict[str, Any]:
    if len(values) < FEWEST or (s := stdev(values)) == 0:
        return {"std": None, "std_interval": None, "detects": None, "needed": []}
    low, high = std_interval(s, len(values))
    d = detectable(arms, n)
    needed = [{"difference": multiple * s, "seeds": seeds_for(multiple, arms)} for multiple in MULTIPLES]
    return {
        "std": s,
        "std_interval": [low, high],
        "detects": {"difference": d * s, "low": d * low, "high": d * high} if d else None,
        "needed": needed if arms > 1 else [],
    }


def std_interval(s: float, k: int) -> tuple[float, float]:
    """The 95 % interval of a standard deviation `s` of k values."""
    from scipy.stats import chi2

    ends = chi2.ppf((1 - ALPHA / 2, ALPHA / 2), k - 1)
    return s * math.sqrt((k - 1) / ends[0]), s * math.sqrt((k - 1) / ends[1])


def sentences(noise: dict[str, Any] | None, metric: str) -> list[str]:
    """What the noise floor says, in plain words, once all its runs have ended."""
    if not noise or sum(noise["counts"].values()) < noise["asked"]:
        return []
    if noise["std"] is None:
        return [f"noise: {len(noise['values'])} runs of {noise['arm']} gave a value, so its scatter is not known"]
    s, (low, high), detects = noise["std"], noise["std_interval"], noise["detects"]
    line = (
        f"noise: {len(noise['values'])} runs of {noise['arm']} that differ in their seed alone scatter by {s:.2g} in "
        f"{metric} (standard deviation; 95 %: {low:.2g} to {high:.2g})."
    )
    if detects:
        difference, least, most = (f"{detects[key]:.2g}" for key in ("difference", "low", "high"))
        line += (
            f" With {noise['n']} seeds per arm a difference of {difference} ({least} to {most}) is found four times in "
            "five, by the test of all pairs together."
        )
    elif noise["n"] == 1:
        line += " Single runs are judged by no test."
    if noise["needed"]:
        seeds = (f"{each['difference']:.2g} takes {each['seeds'] or f'over {MOST}'}" for each in noise["needed"])
        line += f" Seeds per arm for a difference: {'; '.join(seeds)}."
    return [line]
