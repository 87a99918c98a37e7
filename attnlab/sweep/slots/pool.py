"""The pool of slots, from which a trial leases one; see `mailbox.py`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import ray

POLL_S = 0.5  # how often the pool looks whether any slot is up


@ray.remote(num_cpus=0)
class Pool:
    """The slots whose workers are up, and the trials that have them.

    The trial that waits longest gets a free slot, best one that last ran its arm: its kernels and data are warm.
    """

    def __init__(self, node_wait_s: float) -> None:
        self._node_wait_s = node_wait_s
        self._mailboxes: dict[int, Any] = {}
        self._up: dict[int, None] = {}  # in the order of becoming free
        self._last_arm: dict[int, str] = {}
        self._slot_of: dict[str, int] = {}  # by trial_id
        self._leases: Counter[str] = Counter()  # by trial_id
        self._none_since: float | None = None  # since when every slot that was up is down
        self._change = asyncio.Condition()

    async def offer(self, slot: int, mailbox: Any) -> None:
        """Add a slot whose workers are up, unless it is in."""
        async with self._change:
            self._mailboxes[slot] = mailbox
            self._up.setdefault(slot)
            self._none_since = None
            self._change.notify_all()

    async def withdraw(self, slot: int) -> None:
        """Remove a slot without workers; its trial stays until the mailbox sends it away."""
        if slot in self._up:
            del self._up[slot]
            self._none_since = None if self._up else time.monotonic()

    async def up(self) -> list[int]:
        """The slots with workers."""
        return list(self._up)

    async def lease(self, trial_id: str, arm: str) -> tuple[Any, str]:
        """Wait for a slot, unless the trial has one; its mailbox and the lease's name."""
        if trial_id not in self._slot_of:
            async with self._change:
                await self._change.wait_for(lambda: self._free or trial_id in self._slot_of)
                if trial_id not in self._slot_of:  # else a relay killed while it waited got one
                    slot = next((s for s in self._free if self._last_arm.get(s) == arm), self._free[0])
                    self._slot_of[trial_id], self._last_arm[slot] = slot, arm
                    self._leases[trial_id] += 1
        return self._mailboxes[self._slot_of[trial_id]], f"{trial_id}/{self._leases[trial_id]}"

    async def release(self, trial_id: str) -> None:
        """Take the trial from its slot, which is then free if its workers are up."""
        async with self._change:
            slot = self._slot_of.pop(trial_id, None)
            if slot in self._up:
                self._up[slot] = self._up.pop(slot)
                self._change.notify_all()

    async def watch(self) -> str:
        """Wait until no slot has had workers for `node_wait_s`, after one had; returns the reason."""
        while self._none_since is None or time.monotonic() - self._none_since < self._node_wait_s:
            await asyncio.sleep(POLL_S)
        wait = f"{self._node_wait_s:g} s (resources.node_wait_s)"
        return f"no node could run a slot's workers for {wait}; nodes were lost or are taken by others"

    async def mark(self, trial_id: str) -> None:
        """Ask a trial to stop, wherever it runs."""
        if trial_id in self._slot_of:
            await self._mailboxes[self._slot_of[trial_id]].mark.remote(trial_id)

    @property
    def _free(self) -> list[int]:
        taken = self._slot_of.values()
        return [slot for slot in self._up if slot not in taken]
