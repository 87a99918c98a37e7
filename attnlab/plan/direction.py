"""Whether less or more of a metric is better: what the arms' tasks say of it, and what a sweep says.

A sweep names `mode` only for a metric that has no direction of its own. One that contradicts the metric would rank the
worst arm first, and search for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from attnlab import tasks
from attnlab.config.resolved import Plan
from attnlab.config.trial import Mode

PACE: Mapping[str, Mode] = {"tokens_per_s": "max"}  # of training, whatever the task; not for a search
WORDS = {"min": "less", "max": "more"}


def mode_of(plan: Plan, metric: str) -> Mode | None:
    """The metric's own direction, where the arms' tasks agree. None where they do not, or none has one."""
    found = {PACE.get(metric) or tasks.mode_of(arm.trial.task, metric) for arm in plan.arms}
    return found.pop() if len(found) == 1 else None


def filled(plan: Plan) -> Plan:
    """The plan with the metric's own direction as its `mode`, where it names none."""
    section = "search" if plan.sweep.search else "rank"
    node = plan.sweep.search or plan.sweep.rank
    if node is None or node.mode or (mode := mode_of(plan, node.metric)) is None:
        return plan
    return Plan.of(plan.sweep.model_copy(update={section: node.model_copy(update={"mode": mode})}))


def problem(plan: Plan) -> str | None:
    """What is wrong with a plan's `mode`, in one line."""
    node, section = plan.sweep.search or plan.sweep.rank, "search" if plan.sweep.search else "rank"
    if node is None:
        return None
    own = mode_of(plan, node.metric)
    if own is None and node.mode is None:
        return f"{section}.mode: missing; say whether less (min) or more (max) of {node.metric} is better"
    if own and node.mode and own != node.mode:
        return f"{section}.mode: {node.mode}, but {WORDS[own]} of {node.metric} is better; write {own}, or leave it out"
    return None
