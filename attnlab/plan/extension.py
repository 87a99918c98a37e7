"""Searching on where a best setting lies at the end of its range: the rule, from the sweep and its ended trials alone,
so that searcher, records and report agree and a resumed sweep finds the same.

Once the search trials of every arm's quota have ended, each arm's best one is placed in its ranges. If any of its
settings lies at an end (`certificate.EDGE`) that can be moved, every arm alike gets `search.extend` trials more: arms
at an end in ranges widened there (`Dimension.widened`), the others in their own. An end that would make the arm's trial
invalid (a dropout of 1.2) is moved half, a quarter, ... as far, or not at all. Where an arm's space has too few
settings left, all arms get as many trials as it can have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attnlab.config.space import RANGES, Dimension
from attnlab.config.sweep import Sweep
from attnlab.ranking.search_coverage import certificate, number_of
from attnlab.records.results import Results

HALVINGS = 5


@dataclass(frozen=True)
class Extension:
    """`trials`: more for every arm, 0 if the search ends with its quota; `spaces`: what each arm searches last."""

    trials: int
    spaces: Mapping[str, Mapping[str, Dimension]]


def extension(sweep: Sweep, results: Sequence[Results]) -> Extension | None:
    """What a sweep's ended trials call for; None while that is not known."""
    spaces = {arm: sweep.dimensions_of(arm) for arm in sweep.arms}
    if not (sweep.search and sweep.search.extend):
        return Extension(0, spaces)
    widened = {}
    for arm, space in spaces.items():
        quota = sweep.search.trials_of(space)
        searched = sorted((r for r in results if r["arm"] == arm and r["phase"] == "search"), key=number_of)
        if len(searched) < quota:
            return None
        places = certificate(sweep, arm, searched[:quota])["settings"]
        at_end = {key: place["edge"] for key, place in places.items() if place["edge"]}
        widened[arm] = {k: _widened(sweep, arm, k, d, at_end[k]) if k in at_end else d for k, d in space.items()}
    if widened == spaces:
        return Extension(0, spaces)
    room = [math.prod(d.points for d in widened[arm].values()) - sweep.search.trials_of(spaces[arm]) for arm in spaces]
    trials = int(min(sweep.search.extend, *room))
    return Extension(trials, widened if trials else spaces)


def planned(sweep: Sweep, results: Sequence[Results]) -> int:
    """Trials that the sweep comes to, those of an extension included once it is known."""
    found = extension(sweep, results)
    return sweep.total_trials + (found.trials * len(sweep.arms) if found else 0)


def _widened(sweep: Sweep, arm: str, key: str, dimension: Dimension, edge: str) -> Dimension:
    """The range, widened at one end as far as the arm's trial stays valid."""
    wide = dimension.widened(edge)
    side = "low" if edge == "lower" else "high"
    own = getattr(dimension, side)
    for _ in range(HALVINGS):
        if wide == dimension or _valid(sweep, arm, key, getattr(wide, side)):
            return wide
        end = getattr(wide, side)
        middle = math.sqrt(own * end) if dimension.log else (own + end) / 2
        wide = replace(wide, **{side: round(middle) if RANGES[dimension.kind] is int else middle})
    return dimension


def _valid(sweep: Sweep, arm: str, key: str, value: Any) -> bool:
    from attnlab.plan.validate import trial_problems  # with the tables of mixers and tasks, which records do not need

    try:
        tree = sweep.trial_of(arm, {key: value}).model_dump()
    except ValueError:
        return False
    return not list(trial_problems(tree, ""))
