"""All guards in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.plan.guards import confounds, duplicate_arms, leakage
from attnlab.tasks import Task
from attnlab.util.errors import UserError


def run_guards(plan: Plan, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Run all guards on a plan. `tasks`: each arm's, from `attnlab.plan.prepare.prepare_tasks`.

    Returns:
        leaderboard.json's `guards`: {mode: "warn" | "strict", warnings: [sentence], no_op: {arms, compared, unsure:
        [sentence]}, confounds (see `confounds.find`), leakage: [{arms: [arm], and the figures of `Task.leakage`}],
        data: [{arms: [arm], note: one of `Task.notes`}]}.

    Raises:
        UserError: arms that are the same, leakage, and with `guards: strict` all other findings; one line each.
    """
    same, leaks, mixed = duplicate_arms.find(plan, tasks), leakage.find(tasks), confounds.find(plan, tasks)
    warnings = [*mixed.warnings, *leaks.warnings]
    notes: dict[str, list[str]] = {}
    for arm, task in tasks.items():
        for line in task.notes():
            notes.setdefault(line, []).append(arm)
    errors = [*same.same, *leaks.errors, *(warnings if plan.sweep.guards == "strict" else [])]
    if errors:
        raise UserError(errors)
    return {
        "mode": plan.sweep.guards,
        "warnings": warnings,
        "no_op": {"arms": len(plan.arms), "compared": same.compared, "unsure": same.unsure},
        "confounds": mixed.record,
        "leakage": leaks.record,
        "data": [{"arms": arms, "note": line} for line, arms in notes.items()],
    }
