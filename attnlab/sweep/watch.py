"""Tune's callback: as trials end, the leaderboard is rewritten and the board drawn."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray import tune

from attnlab.config import Sweep
from attnlab.runs import Job, Results, SweepDir, write_json, write_lines
from attnlab.standings import Leaderboard, standings
from attnlab.sweep.board import Board
from attnlab.sweep.search import ArmSearch
from attnlab.sweep.transient import Transient

SHARE = 0.02  # of the driver's time that the whole sweep's records may take: they grow with every trial


class Watch(Transient, tune.Callback):
    """Keeps leaderboard.json and experiment_suite_results.json true, and the terminal informed.

    Ended trials are taken from the searcher, which Tune tells before its callbacks.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: SweepDir,
        search: ArmSearch,
        board: Board,
        baselines: Mapping[str, float],
        guards: Mapping[str, Any] | None = None,
    ):
        self._sweep, self._folder, self._search, self._board = sweep, folder, search, board
        self._baselines, self._guards = dict(baselines), guards
        self._interrupted = False
        self._stale, self._write_from = False, 0.0  # something ended since the last write; earliest time of the next
        self._slot_errors: Sequence[BaseException] = ()
        board.resumed(self.results())

    def results(self) -> list[Results]:
        """Every trial that has ended, in this session and before, by arm and number."""
        return [r for arm in self._search.arms.values() for _, r in sorted(arm.ended.items())]

    def board(self) -> Leaderboard:
        """The leaderboard as it stands."""
        return standings(self._sweep, self.results(), self._baselines, self._guards)

    def write(self) -> None:
        """Both records of the whole sweep, now."""
        start = time.monotonic()
        write_json(self._folder.leaderboard_file, self.board())
        write_lines(self._folder.suite_file, self.results())
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
        self._board.reported(_job(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = _job(trial)
        self._board.ended(job, self._search.arms[job.arm].ended[job.trial_id])
        self._stale = True
        self._write_in_time()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial)

    @contextmanager
    def listening(self, slot_errors: Sequence[BaseException]) -> Iterator[None]:
        """While open, Ctrl-C is taken up between two steps of Tune's, where nothing is half done; a second at once."""
        self._slot_errors = slot_errors
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, frame: Any) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        if self._slot_errors:  # its trial would be waited for in vain
            raise RuntimeError("a slot failed") from self._slot_errors[0]
        self._board.extended(self._search.extended)
        self._write_in_time()
        self._board.update(self.results)


def _job(trial: Any) -> Job:
    return Job.model_validate(trial.config["job"])
