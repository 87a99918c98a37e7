"""Confirm seeds apart from the search's: the run that was selected is never among those that confirm it.

A search trains every trial with its arm's `train.seed`, and the best of them is the best by luck too. The same setting
under the same seed is that very run. It would bring its luck into the mean, and cost a run that tells nothing new.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from attnlab.config.resolved import Plan
from attnlab.config.values import MOST
from attnlab.util.text import listed


def with_own_seeds(plan: Plan, folder: Plan | None = None) -> Plan:
    """The plan whose confirm seeds are none that its search trains with. A replacement is told in its `notes`.

    A seed that any arm is searched with is replaced for all arms, by the next one that is free, so that arms keep their
    seeds in common.

    Args:
        folder: the plan in the sweep's folder. One of before, whose seeds have an equal one, keeps those given.
    """
    confirm = plan.sweep.confirm
    if not (plan.sweep.search and confirm):
        return plan
    selecting = selecting_seeds(plan)
    if folder and folder.sweep.search and selecting_seeds(folder) & set(folder.seeds):
        return plan
    seeds, replaced = list(confirm.seeds), dict[int, int]()
    for place, seed in enumerate(seeds):
        if seed in selecting:
            seeds[place] = replaced[seed] = _next_free(seed, {*seeds, *selecting})
    if not replaced:
        return plan
    sweep = plan.sweep.model_copy(update={"confirm": confirm.model_copy(update={"seeds": tuple(seeds)})})
    return replace(plan, sweep=sweep, notes=(*plan.notes, _told(replaced)))


def selecting_seeds(plan: Plan) -> set[int]:
    """The training seeds of the arms, with which a search chooses settings."""
    return {arm.trial.train.seed for arm in plan.arms}


def _next_free(seed: int, taken: set[int]) -> int:
    return next(free for step in count(1) if (free := (seed + step) % (MOST + 1)) not in taken)


def _told(replaced: dict[int, int]) -> str:
    old, new = (listed([str(seed) for seed in seeds]) for seeds in (replaced, replaced.values()))
    if len(replaced) == 1:
        return (
            f"confirm.seeds: {old} is the search's own (train.seed), so {new} takes its place: no run confirms itself"
        )
    return f"confirm.seeds: {old} are the search's own (train.seed), so {new} take their place: no run confirms itself"
