"""Rewrite the leaderboard and show the progress as Tune's trials go on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from attnlab.config.resolved import Plan
from attnlab.plan.extension import leaderboard
from attnlab.ranking.leaderboard import Leaderboard, sweep_verdicts
from attnlab.records.mirror import Mirror
from attnlab.sweep.search.searcher import ArmSearch
from attnlab.sweep.search.snapshot import EmptySnapshot
from attnlab.sweep.ui.interrupt import Interrupts
from attnlab.sweep.ui.progress import Progress
from attnlab.util.errors import Interrupted
from attnlab.util.files import write_json, write_json_rows

SHARE = 0.02  # of the driver's time that writing the sweep's records may take: they grow with every trial


class ProgressCallback(EmptySnapshot, tune.Callback):
    """Keeps leaderboard.json, verdicts.json, experiment_suite_results.json and the terminal current.

    Ended trials are the searcher's, which Tune calls first. The first of the slots' `errors` ends the sweep.
    """

    def __init__(
        self,
        plan: Plan,
        mirror: Mirror,
        search: ArmSearch,
        progress: Progress,
        baselines: Mapping[str, float],
        guards: Mapping[str, Any] | None,
        interrupts: Interrupts,
        errors: Sequence[str],
    ):
        self._plan, self._mirror, self._search, self._progress = plan, mirror, search, progress
        self._baselines, self._guards, self._interrupts, self._errors = baselines, guards, interrupts, errors
        self._shown = set[tuple[str, str]]()  # trials whose end was shown
        self._stale, self._write_from = False, 0.0  # a trial ended since the last write; earliest time of the next

    def leaderboard(self) -> Leaderboard:
        """The leaderboard as it stands."""
        return leaderboard(self._plan, self._search.results(), self._baselines, self._guards)

    def write(self) -> None:
        """Write the records of the whole sweep."""
        start, folder, results = time.monotonic(), self._mirror.folder, self._search.results()
        folder.must_exist()
        write_json(folder.verdicts_file, sweep_verdicts(self._plan, results)[0])
        write_json(folder.leaderboard_file, self.leaderboard())
        write_json_rows(folder.suite_file, results)
        self._mirror.push(folder.leaderboard_file, folder.verdicts_file, folder.suite_file, folder.journal_file)
        now = time.monotonic()
        self._stale, self._write_from = False, now + (now - start) / SHARE

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show that a trial began."""
        self._progress.began(self._search.job_of(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Show a trial's report."""
        self._progress.reported(self._search.job_of(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show that a trial ended, once: Tune may say so again."""
        job = self._search.job_of(trial)
        results = self._search.arms[job.arm].ended.get(job.trial_id)
        if results is None or (job.arm, job.trial_id) in self._shown:  # None: its records could not be written
            return
        self._shown.add((job.arm, job.trial_id))
        self._progress.ended(job, results)
        self._stale = True  # written as the step ends: what is raised in here, Tune logs whole and goes on

    on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End the sweep where it should, else write the records and show the progress."""
        if self._interrupts.came:
            raise Interrupted(self._interrupts.came)
        if self._errors:  # a trial would be waited for in vain
            raise RuntimeError(self._errors[0])
        if self._search.refused:
            raise self._search.refused
        self._mirror.folder.must_exist()
        self._progress.extended(self._search.extended)
        if self._stale and time.monotonic() >= self._write_from:
            self.write()
        self._progress.update(self._search.ended, self.leaderboard)
