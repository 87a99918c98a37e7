"""ASHA per arm: `Bracket` is the rule alone, `ArmAsha` gives Tune one for each arm."""

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
from attnlab.sweep.search.snapshot import EmptySnapshot

Reports = tuple[Job, list[dict[str, Any]]]  # a trial's job and its rows


class Bracket:
    """Asynchronous successive halving, stopping variant.

    Li et al. 2020, arXiv 1810.05934, section 3. As in Ray Tune and Syne Tune, trials stop and are never paused.

    Rungs are at grace_steps * reduction_factor^k below max_steps. At a rung with n values so far, its own included, a
    trial goes on if it is among the best max(1, floor(n / reduction_factor)). The first to arrive always goes on.
    """

    def __init__(self, asha: AshaConfig, max_steps: int, mode: str):
        self._sign = 1.0 if mode == "min" else -1.0
        self._factor = asha.reduction_factor
        self.rungs: dict[int, dict[str, float]] = {rung: {} for rung in asha.rungs(max_steps)}
        self._sorted: dict[int, list[float]] = {rung: [] for rung in self.rungs}

    def judge(self, trial_id: str, step: int, value: float | None) -> bool:
        """Record a report. True if the trial is to stop, as it is without a finite value.

        A trial is judged once per rung, at its first report there or beyond. If that passes more, the highest judges.
        """
        reached = [rung for rung in self.rungs if rung <= step and trial_id not in self.rungs[rung]]
        if not reached:
            return False
        finite = value is not None and math.isfinite(value)
        mine = self._sign * value if finite else math.inf  # type: ignore[operator]
        for rung in reached:  # those passed over too, so that none is judged late
            self.rungs[rung][trial_id] = mine
            bisect.insort(self._sorted[rung], mine)
        seen = self._sorted[max(reached)]
        ahead = bisect.bisect_left(seen, mine)
        return not finite or ahead >= max(1, math.floor(len(seen) / self._factor))


class ArmAsha(EmptySnapshot, FIFOScheduler):
    """Judges every report by its arm's bracket, rebuilt from `earlier` sessions' reports.

    `mark` leaves a stop mark for a trial's id: with its next report the trial reads it, saves and ends.
    """

    def __init__(
        self, plan: Plan, job_of: Callable[[Any], Job], mark: Callable[[str], Any], earlier: Iterable[Reports] = ()
    ):
        super().__init__()
        self._metric, self._job_of, self._mark = plan.metric, job_of, mark
        asha = plan.sweep.search.asha if plan.sweep.search else None
        self.brackets = {
            arm.name: Bracket(asha, arm.trial.train.max_steps, plan.mode) if asha else None for arm in plan.arms
        }
        for job, rows in earlier:
            for row in rows:
                self._judge(job, row)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Do nothing: metric and mode come from the plan."""
        return True

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a report; the trial always continues until it reads the mark."""
        if "state" not in result and self._judge(job := self._job_of(trial), result):
            self._mark(job.trial_id)
        return TrialScheduler.CONTINUE

    def _judge(self, job: Job, row: Mapping[str, Any]) -> bool:
        bracket, last = self.brackets[job.arm], job.trial.train.max_steps
        if not bracket or job.phase != "search" or row["step"] >= last or not pruning_reports(job, [dict(row)]):
            return False
        return bracket.judge(job.trial_id, row["step"], row.get(self._metric))
