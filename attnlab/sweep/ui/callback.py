"""Tune's callback: as trials end, the leaderboard is rewritten and the board drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune

from attnlab.config.resolved import Plan
from attnlab.plan.extension import leaderboard
from attnlab.ranking.leaderboard import Leaderboard
from attnlab.records.mirror import Mirror
from attnlab.records.results import Job, Results
from attnlab.sweep.search.searcher import ArmSearch
from attnlab.sweep.search.transient import Transient
from attnlab.sweep.ui.interrupt import Interrupts
from attnlab.sweep.ui.progress import Board
from attnlab.util.files import write_json, write_json_rows

SHARE = 0.02  # of the driver's time that the whole sweep's records may take: they grow with every trial


class Watch(Transient, tune.Callback):
    """Keeps leaderboard.json and experiment_suite_results.json true, and the terminal informed.

    Ended trials are taken from the searcher, which Tune tells before its callbacks.
    """

    def __init__(
        self,
        plan: Plan,
        mirror: Mirror,
        search: ArmSearch,
        board: Board,
        baselines: Mapping[str, float],
        guards: Mapping[str, Any] | None = None,
        interrupts: Interrupts | None = None,
    ):
        self._plan, self._mirror, self._search, self._board = plan, mirror, search, board
        self._baselines, self._guards = dict(baselines), guards
        self.errors: Sequence[str] = ()  # the slots': why the sweep cannot go on
        self._interrupts = interrupts or Interrupts()
        self._stale, self._write_from = False, 0.0  # something ended since the last write; earliest time of the next
        board.resumed(self.results())

    def results(self) -> list[Results]:
        """Every trial that has ended, in this session and before, by arm and number."""
        return [r for arm in self._search.arms.values() for _, r in sorted(arm.ended.items())]

    def board(self) -> Leaderboard:
        """The leaderboard as it stands."""
        return leaderboard(self._plan, self.results(), self._baselines, self._guards)

    def write(self) -> None:
        """Both records of the whole sweep, now."""
        start, folder = time.monotonic(), self._mirror.folder
        write_json(folder.leaderboard_file, self.board())
        write_json_rows(folder.suite_file, self.results())
        self._mirror.push(folder.leaderboard_file, folder.suite_file, folder.journal_file)
        now = time.monotonic()
        self._stale, self._write_from = False, now + (now - start) / SHARE

    def _write_in_time(self) -> None:
        """The same if a trial ended since, as soon as it takes no more than SHARE of the time."""
        if self._stale and time.monotonic() >= self._write_from:
            self.write()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._board.began(_job(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._search.most = None
        self._board.reported(_job(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = _job(trial)
        self._search.most = None
        self._board.ended(job, self._search.arms[job.arm].ended[job.trial_id])
        self._stale = True  # written as the step ends: what is raised in here, Tune logs whole and goes on

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._interrupts.came:
            raise KeyboardInterrupt
        if self.errors:  # a trial would be waited for in vain
            raise RuntimeError(self.errors[0])
        self._board.extended(self._search.extended)
        self._write_in_time()
        self._board.update(self.results)


def _job(trial: Any) -> Job:
    return Job.model_validate(trial.config["job"])
