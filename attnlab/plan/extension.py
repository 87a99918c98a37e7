"""Extends the search when a best setting lies at the edge of its range.

The rule follows from the plan and its ended trials alone: searcher, records, report and a resumed sweep agree.

Once every arm's quota of search trials has ended, each arm's best one is placed in its ranges. If any of its settings
lies at an end (`search_coverage.EDGE`) that can be moved, every arm gets `search.extend` trials more. Arms at an end
get them in ranges widened there (`Dimension.widened`), the others in their own. An end that would make a trial invalid
(a dropout of 1.2) is moved half, a quarter, ... as far, or not at all. Where an arm's space has too few settings left,
all arms get as many trials as it can have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attnlab.config.resolved import Arm, Plan
from attnlab.config.space import RANGES, Dimension
from attnlab.plan.checks.validate import trial_problems
from attnlab.ranking.leaderboard import Leaderboard, rank_arms
from attnlab.ranking.search_coverage import Extension, number_of, tuning_summary
from attnlab.records.results import Results

HALVINGS = 5


def extension(plan: Plan, results: Sequence[Results]) -> Extension | None:
    """What a plan's ended trials call for. None while that is not known."""
    search, spaces = plan.sweep.search, {arm.name: arm.space for arm in plan.arms}
    if not (search and search.extend):
        return Extension(0, spaces)
    widened = {}
    for arm in plan.arms:
        quota = plan.quota(arm.name)
        searched = sorted((r for r in results if r["arm"] == arm.name and r["phase"] == "search"), key=number_of)
        if len(searched) < quota:
            return None
        edges = {k: s["edge"] for k, s in tuning_summary(plan, arm.name, searched[:quota])["settings"].items()}
        widened[arm.name] = {k: _widened(arm, k, d, edges[k]) if edges.get(k) else d for k, d in arm.space.items()}
    if widened == spaces:
        return Extension(0, spaces)
    room = [math.prod(d.points for d in widened[name].values()) - plan.quota(name) for name in spaces]
    trials = int(min(search.extend, *room))
    return Extension(trials, widened if trials else spaces)


def planned_trials(plan: Plan, results: Sequence[Results]) -> int:
    """Trials that the sweep comes to, those of an extension included once it is known."""
    extended = extension(plan, results)
    return plan.total_trials + (extended.trials * len(plan.arms) if extended else 0)


def leaderboard(
    plan: Plan,
    results: Sequence[Results],
    baselines: Mapping[str, float] | None = None,
    guards: Mapping[str, Any] | None = None,
) -> Leaderboard:
    """The leaderboard of a plan's ended trials, with what they call for. See `attnlab.ranking.leaderboard`."""
    return rank_arms(plan, results, extension(plan, results), baselines, guards)


def _widened(arm: Arm, key: str, dimension: Dimension, edge: str) -> Dimension:
    """The range, widened at one end as far as the arm's trial stays valid."""
    wide = dimension.widened(edge)
    side = "low" if edge == "lower" else "high"
    start = getattr(dimension, side)
    for _ in range(HALVINGS):
        end = getattr(wide, side)
        if wide == dimension or not any(trial_problems(arm.tree({key: end}))):
            return wide
        middle = math.sqrt(start * end) if dimension.log else (start + end) / 2
        middle = round(middle) if RANGES[dimension.kind] is int else middle
        wide = replace(wide, low=middle) if side == "low" else replace(wide, high=middle)
    return dimension
