"""The mailbox of a slot; with the pool (`pool.py`), what lies between Tune and the slots.

    a trial:   Tune -> relay -> pool.lease -> mailbox.post -> worker (mailbox.take)
    a report:  worker -> mailbox.report -> relay (mailbox.read) -> tune.report -> searcher and scheduler
    a stop:    scheduler -> pool.mark -> mailbox -> the answer to the worker's next report
    a slot without workers:  mailbox -> `moved` to the relay, which leases another slot for the trial

The two actors live on the launcher's node. All that must survive them is in the trial's folder. A mailbox also
watches over its workers (see `heartbeat.py`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray

from attnlab.sweep.slots.heartbeat import LOST_S, HangClock

STARTS = 3  # of a slot's workers that may fail in a row before their first trial
POLL_S = 0.5  # how often a mailbox looks after its workers


class Superseded(RuntimeError):
    """A call of workers that the slot has replaced."""


@ray.remote(num_cpus=0)
class Mailbox:
    """One slot's trial, its reports, its stop mark, and its workers' health.

    A group is one start of the workers. Each of their calls names it, so that replaced ones are refused.
    """

    def __init__(self, slot: int, pool: Any, max_failures: int, hang_s: float | None):
        self._slot, self._pool, self._max_failures, self._hang_s = slot, pool, max_failures, hang_s
        self._news = asyncio.Condition()
        self._halted: str | None = None  # why
        self._closed = self._interrupted = False  # to end after its trial; at once, with its trial saved
        # the trial
        self._key, self._job = "", dict[str, Any]()
        self._open = self._begun = self._marked = False  # posted and not ended, being trained, to be stopped
        self._rows: list[dict[str, Any]] = []  # of the open trial, or the last one
        self._failures, self._failed_at = 0, -1  # deaths of its workers, and its step at the last one
        # the workers
        self._group, self._starts = 0, 0
        self._workers: list[Any] = []
        self._hang_clock: HangClock | None = None  # while a trial is trained
        self._down_since: float | None = time.monotonic()  # None: they are up
        self._causes: dict[str, str] = {}  # of their last death, by witness

    # --- the workers ---

    async def starting(self) -> int | None:
        """Begin a group of workers. Returns its number, None if they failed to start too often."""
        self._starts += 1
        self._group += 1
        self._workers, self._hang_clock = [], None
        return self._group if self._starts <= STARTS else None

    async def join(self, group: int, worker: Any, traceback: str | None) -> None:
        """Note a rank's actor, and the traceback of its previous process's crash."""
        self._check(group)
        self._workers.append(worker)
        if traceback:
            self._causes["crash"] = traceback

    async def start_failed(self, why: str) -> None:
        """Note what a worker raised before it took a trial."""
        self._causes["start"] = why

    async def broken(self) -> str | None:
        """Why the workers cannot start; None if they can."""
        return f"failed to start {STARTS} times in a row: {self._cause}" if self._starts > STARTS else None

    async def take(self, group: int) -> dict[str, Any] | None:
        """The next trial, or the one a worker died in. None when the slot is to end."""
        self._check(group)
        self._starts, self._down_since = 0, None
        if self._begun:
            await self._count_death()
        self._causes = {}
        async with self._news:
            await self._news.wait_for(lambda: self._closed or group != self._group or self._has_work)
        self._check(group)
        return None if self._closed else self._job

    async def begun(self, group: int) -> None:
        """Note that the worker trains: its death now counts against the trial."""
        self._check(group)
        self._begun, self._hang_clock = True, HangClock(self._hang_s)

    async def heartbeat(self, group: int, count: int) -> bool:
        """Note a sign of life; False if the worker was replaced and is to end."""
        if group == self._group and self._hang_clock:
            self._hang_clock.heartbeat(count, time.monotonic())
        return group == self._group

    async def hangs(self, group: int, line: str) -> bool:
        """Kill the worker, which did no step in `hang_s` and hangs at `line`."""
        if group == self._group and self._hang_clock:
            self._kill(f"it hung: no step was done in {self._hang_s:g} s (resources.hang_s); it stood at {line}")
        return group == self._group

    async def report(self, group: int, row: dict[str, Any]) -> bool:
        """Pass on one row of the running trial; True if it is to stop."""
        self._check(group)
        if self._begun:  # else another rank ended it
            await self._add(row)
        return self._marked or not self._begun

    async def end(self, group: int, last: dict[str, Any]) -> None:
        """End the running trial with `state` and perhaps `error`; the first rank's call counts."""
        self._check(group)
        if self._begun:
            await self._end(last)

    async def halt(self, group: int, why: str) -> None:
        """Note why the sweep cannot go on; the trial stays unfinished."""
        self._check(group)
        self._halted, self._begun, self._hang_clock = why, False, None

    async def saved(self, group: int) -> None:
        """Note that the trial was saved, as `interrupt` asks; it stays unfinished."""
        if group == self._group:
            self._hang_clock = None
            async with self._news:
                self._begun = False
                self._news.notify_all()

    async def interrupted(self, group: int) -> bool:
        """Wait until the trial is to be saved at once (True), or the workers are to end or were replaced (False)."""
        async with self._news:
            await self._news.wait_for(lambda: self._interrupted or self._closed or group != self._group)
        return self._interrupted and group == self._group

    @property
    def _has_work(self) -> bool:
        return self._open and not self._halted and not self._interrupted

    async def died(self, why: str) -> None:
        """Note that the workers are gone, which their TorchTrainer replaces."""
        self._causes["ray"] = why
        self._down_since = self._down_since or time.monotonic()
        self._group += 1  # so that their waiting calls are refused
        self._workers, self._hang_clock = [], None
        await self._pool.withdraw.remote(self._slot)
        async with self._news:
            self._news.notify_all()

    def _check(self, group: int) -> None:
        if group != self._group:
            raise Superseded(f"slot {self._slot} has other workers now")

    def _kill(self, why: str) -> None:
        """Kill every rank's process, which the TorchTrainer replaces."""
        self._causes["hang"], self._hang_clock = why, None
        for worker in self._workers:
            ray.kill(worker)

    async def _count_death(self) -> None:
        """Count a death against the trial, from 1 if it got further since the last."""
        step = max((row["step"] for row in self._rows), default=0)
        self._failures = self._failures + 1 if step <= self._failed_at else 1
        self._failed_at, self._begun = step, False
        if self._failures > self._max_failures:
            times = f" {self._failures} times, the last time" if self._failures > 1 else ""
            await self._end({"state": "failed", "error": f"its worker died{times}: {self._cause}"})

    @property
    def _cause(self) -> str:
        """What the workers died of, by the best witness."""
        causes = (self._causes[who] for who in ("hang", "start", "crash", "ray") if who in self._causes)
        return next(causes, "nobody knows of what; ray's logs may say")

    # --- the trial ---

    async def post(self, key: str, job: dict[str, Any], state: dict[str, Any]) -> None:
        """Hand a trial to the slot, with its `state` from a slot before."""
        if key == self._key:  # a relay repeats it
            return
        async with self._news:
            self._key, self._job, self._rows = key, job, []
            self._open, self._begun = True, False
            self._marked = state.get("marked", False)
            self._failures, self._failed_at = state.get("failures", (0, -1))
            self._news.notify_all()

    async def read(self, key: str, number: int) -> dict[str, Any]:
        """Wait for the trial's report `number`, from 0. All stay for a relay that begins again."""
        assert key == self._key
        async with self._news:
            await self._news.wait_for(lambda: len(self._rows) > number)
            return self._rows[number]

    async def mark(self, trial_id: str) -> None:
        """Ask a trial to stop, unless it ended."""
        if self._open and self._job["trial_id"] == trial_id:
            self._marked = True

    async def _send_away(self) -> None:
        """Let the trial go on in another slot. This one's workers did not come back in time."""
        if self._begun:
            await self._count_death()
        if self._open:
            await self._end({"moved": True, "marked": self._marked, "failures": (self._failures, self._failed_at)})

    async def _add(self, row: dict[str, Any]) -> None:
        async with self._news:
            self._rows.append(row)
            self._news.notify_all()

    async def _end(self, last: dict[str, Any]) -> None:
        self._open, self._begun, self._hang_clock = False, False, None
        await self._add(last)

    # --- the launcher ---

    async def watch(self) -> str | None:
        """Look after the workers until the slot closes. Returns why the sweep cannot go on, if so."""
        while not self._closed and not self._halted:
            now = time.monotonic()
            if self._hang_clock and (why := self._hang_clock.hung(now)):
                self._kill(why)
            if self._open and self._down_since and now - self._down_since > LOST_S:
                await self._send_away()
            await asyncio.sleep(POLL_S)
        return self._halted

    async def interrupt(self) -> None:
        """Have the running trial saved and left, and give out no more; returns when that is done."""
        async with self._news:
            self._interrupted = True
            self._news.notify_all()
            await self._news.wait_for(lambda: not self._begun)

    async def close(self) -> None:
        """Give out no more trials: `take` answers None."""
        async with self._news:
            self._closed = True
            self._news.notify_all()
