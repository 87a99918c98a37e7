"""Guards that make a comparison's answer true, checked before anything is trained.

    duplicate_arms  two arms that are the same experiment under two names            an error
    confounds       what differs between arms besides their declared difference      a warning
    leakage         validation that was trained on                                   an error, or a warning
    `noise`         how far apart equal runs come (attnlab.ranking.noise_floor)      a phase of the sweep

With `guards: strict` in the sweep file warnings are errors. What was found goes to the board, to leaderboard.json under
`guards` and from there to the report. Importing this package imports no torch; `examine` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnlab.config.sweep import Sweep
from attnlab.util.errors import UserError

if TYPE_CHECKING:
    from attnlab.tasks import Task


def examine(sweep: Sweep, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Run all guards.

    Args:
        tasks: each arm's, as `attnlab.plan.prepare.prepared` gives them.

    Returns:
        leaderboard.json's `guards`: {mode: "warn" | "strict", warnings: [sentence], no_op: {arms, compared, unsure:
        [sentence]}, confounds (see `confounds.find`), leakage: [{arms: [arm], and the figures of `Task.leakage`}]}.

    Raises:
        UserError: arms that are the same, leakage, and with `guards: strict` what else was found; one line each.
    """
    from attnlab.plan.guards import confounds, duplicate_arms, leakage

    same, leaks, mixed = duplicate_arms.find(sweep, tasks), leakage.find(tasks), confounds.find(sweep, tasks)
    warnings = [*mixed.warnings, *leaks.warnings]
    errors = [*same.same, *leaks.errors, *(warnings if sweep.guards == "strict" else [])]
    if errors:
        raise UserError(errors)
    return {
        "mode": sweep.guards,
        "warnings": warnings,
        "no_op": {"arms": len(sweep.arms), "compared": same.compared, "unsure": same.unsure},
        "confounds": mixed.record,
        "leakage": leaks.record,
    }
