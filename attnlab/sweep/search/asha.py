"""ASHA per arm: which trials stop at which rung.

`Bracket` is the rule alone, free of ray, so that a resumed sweep rebuilds it from metrics.jsonl and a study of the rule
can replay saved curves. `ArmAsha` is Tune's view of one bracket per arm: rungs are never shared between arms.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from attnlab.config.resolved import Plan
from attnlab.config.sweep import AshaConfig
from attnlab.records.metrics import pruning_reports
from attnlab.records.results import Job
from attnlab.sweep.search.transient import Transient


class Bracket:
    """Asynchronous successive halving, stopping variant (Li et al. 2020, arXiv 1810.05934, section 3; the variant that
    stops instead of promoting is the one of Ray Tune and Syne Tune: no trial is ever paused).

    Rungs stand at grace_steps * reduction_factor^k below max_steps. A trial that reaches a rung goes on if its value
    there is among the best max(1, floor(n / reduction_factor)) of the n values seen at that rung so far, its own
    included. The first to arrive always goes on.
    """

    def __init__(self, asha: AshaConfig, max_steps: int, mode: str):
        self._sign = 1.0 if mode == "min" else -1.0
        self._factor = asha.reduction_factor
        self.rungs: dict[int, dict[str, float]] = {rung: {} for rung in asha.rungs(max_steps)}
        self._sorted: dict[int, list[float]] = {rung: [] for rung in self.rungs}

    def judge(self, trial_id: str, step: int, value: float | None) -> bool:
        """Record a report; True if the trial is to stop. A value that is missing or not finite stops at any rung.

        Each trial is judged once per rung, at its first report at or beyond it; at the highest such rung if a report
        passes several.
        """
        reached = [rung for rung in self.rungs if rung <= step and trial_id not in self.rungs[rung]]
        if not reached:
            return False
        finite = value is not None and math.isfinite(value)
        mine = self._sign * value if finite else math.inf  # type: ignore[operator]
        for rung in reached:  # a rung that was passed over counts as met, so that it is not judged late
            self.rungs[rung][trial_id] = mine
            bisect.insort(self._sorted[rung], mine)
        seen = self._sorted[max(reached)]
        ahead = bisect.bisect_left(seen, mine)
        return not finite or ahead >= max(1, math.floor(len(seen) / self._factor))


class ArmAsha(Transient, FIFOScheduler):
    """Routes every report to its arm's bracket; a stop is a mark the trial reads with its next report, so it saves and
    ends by itself and its worker goes on to the next trial."""

    def __init__(self, plan: Plan, mark: Callable[[str], Any]):
        """`mark(trial_id)` leaves the stop mark where the trial will read it."""
        super().__init__()
        self._metric, self._mark = plan.metric, mark
        asha = plan.sweep.search.asha if plan.sweep.search else None
        self.brackets = {
            arm: Bracket(asha, plan.arm(arm).trial.train.max_steps, plan.mode) if asha else None for arm in plan.names
        }

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # the sweep has said both

    def replay(self, job: Job, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Record an earlier session's reports; True if the last of them calls for a stop."""
        return [self._judge(job, row) for row in rows][-1:] == [True]

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "state" not in result and self._judge(job := Job.model_validate(trial.config["job"]), result):
            self._mark(job.trial_id)
        return TrialScheduler.CONTINUE

    def _judge(self, job: Job, row: Mapping[str, Any]) -> bool:
        bracket = self.brackets[job.arm]
        if bracket is None or job.phase != "search" or row["step"] >= job.trial.train.max_steps:
            return False
        if not pruning_reports(job, [dict(row)]):
            return False
        return bracket.judge(job.trial_id, row["step"], row.get(self._metric))
