"""The two actors between Tune and the slots.

    a trial's road:   Tune -> relay -> pool.lease -> mailbox.post -> worker (mailbox.take)
    a report's road:  worker -> mailbox.report -> relay (mailbox.read) -> tune.report -> searcher and scheduler
    a stop's road:    scheduler -> pool.mark -> mailbox -> the answer to the worker's next report

They hold only what is on its way; everything that must survive them is in the trial's folder.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

STARTS = 3  # of a slot's workers that may fail in a row before their first trial
POLL_S = 0.5  # how often a waiting call looks whether the mailbox was closed


@ray.remote(num_cpus=0)
class Mailbox:
    """One slot's: the trial it is at, the reports on their way out, and the stop mark."""

    def __init__(self, max_failures: int):
        self._max_failures = max_failures
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._now: dict[str, Any] | None = None
        self._attempts = 0
        self._rows: dict[str, list[dict[str, Any]]] = {}  # of the trial that is here, or was last
        self._news = asyncio.Condition()
        self._marked: set[str] = set()
        self._closed = False
        self._starts = 0
        self._cause = "their processes died; ray's logs say how"

    async def starting(self) -> bool:
        """The workers start; False if they should not, because they have failed at it too often."""
        self._starts += 1
        return self._starts <= STARTS

    async def start_failed(self, cause: str) -> None:
        """What a worker raised before it could take a trial."""
        self._cause = cause

    async def broken(self) -> str | None:
        """Why the workers cannot start; None if they can."""
        return f"failed to start {STARTS} times in a row: {self._cause}" if self._starts > STARTS else None

    async def post(self, job: dict[str, Any]) -> None:
        """Hand a trial to the slot; said again by a relay that was started anew, it changes nothing."""
        if job["trial_id"] not in self._rows:
            self._rows = {job["trial_id"]: []}
            await self._waiting.put(job)

    async def take(self) -> dict[str, Any] | None:
        """The worker's next trial; the same one again if the worker died in it; None when the slot is to end."""
        self._starts = 0
        if self._now is not None:
            self._attempts += 1
            if self._attempts <= self._max_failures:
                return self._now
            await self.end(
                {"state": "failed", "error": f"its worker died {self._attempts} times; the last cause is in ray's logs"}
            )
        while not self._closed:
            try:
                self._now = await asyncio.wait_for(self._waiting.get(), POLL_S)
                self._attempts = 0
                return self._now
            except asyncio.TimeoutError:
                continue
        return None

    async def report(self, row: dict[str, Any]) -> bool:
        """One row of the running trial; True if it is to stop."""
        assert self._now is not None
        trial_id = self._now["trial_id"]
        await self._add(trial_id, row)
        return trial_id in self._marked

    async def end(self, last: dict[str, Any]) -> None:
        """The running trial's last word, with `state` and, if it failed, `error`."""
        assert self._now is not None
        trial_id = self._now["trial_id"]
        self._now = None
        self._marked.discard(trial_id)
        await self._add(trial_id, last)

    async def _add(self, trial_id: str, row: dict[str, Any]) -> None:
        async with self._news:
            self._rows[trial_id].append(row)
            self._news.notify_all()

    async def read(self, trial_id: str, number: int) -> dict[str, Any]:
        """The trial's report `number`, from 0, waiting for it. None is used up, so that a relay may begin again."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._rows[trial_id]) > number)
            return self._rows[trial_id][number]

    async def mark(self, trial_id: str) -> None:
        """Ask a trial to stop; a trial that has ended is left alone."""
        if self._now is not None and self._now["trial_id"] == trial_id:
            self._marked.add(trial_id)

    async def close(self) -> None:
        """No more trials: `take` answers None."""
        self._closed = True

    async def alive(self) -> None:
        """Answers when closed, and so never before this process dies."""
        while not self._closed:
            await asyncio.sleep(POLL_S)


@ray.remote(num_cpus=0)
class Pool:
    """Which slots are free. A slot comes in when its workers are up, and is given to the trial that waits longest;
    a free slot that last ran the trial's arm goes first, because its kernels and data are warm."""

    def __init__(self) -> None:
        self._boxes: dict[int, Any] = {}
        self._free: list[int] = []
        self._last_arm: dict[int, str] = {}
        self._at: dict[str, int] = {}
        self._change = asyncio.Condition()

    async def offer(self, slot: int, box: Any) -> None:
        """A slot whose workers are up; said again after each restart of the group, and counted once."""
        async with self._change:
            if slot not in self._boxes:
                self._boxes[slot] = box
                self._free.append(slot)
                self._change.notify_all()

    async def lease(self, trial_id: str, arm: str) -> Any:
        """Wait for a slot; returns its mailbox, for a trial that has one the same again."""
        if trial_id in self._at:
            return self._boxes[self._at[trial_id]]
        async with self._change:
            await self._change.wait_for(lambda: self._free)
            slot = next((s for s in self._free if self._last_arm.get(s) == arm), self._free[0])
            self._free.remove(slot)
            self._at[trial_id], self._last_arm[slot] = slot, arm
            return self._boxes[slot]

    async def release(self, trial_id: str) -> None:
        """The trial has ended; its slot is free."""
        async with self._change:
            if trial_id in self._at:
                self._free.append(self._at.pop(trial_id))
                self._change.notify_all()

    async def alive(self) -> None:
        """Never answers."""
        await asyncio.Event().wait()

    async def mark(self, trial_id: str) -> None:
        """Ask a trial to stop, wherever it runs."""
        if trial_id in self._at:
            await self._boxes[self._at[trial_id]].mark.remote(trial_id)
