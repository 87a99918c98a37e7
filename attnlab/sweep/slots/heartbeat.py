"""Watch over a slot's workers: their sign of life, when they count as hung, and what they died of.

A worker that trains: its `Heartbeat` counts steps and tells the mailbox every few seconds, whose `HangClock` it sets.
One that hangs: its `Heartbeat` says where it stands. The mailbox kills the group, which its TorchTrainer restarts.
One that dies: `CrashLog` keeps a signal's traceback for the next process, `worker_death` tells what Ray saw.
One that is cut off: it ends itself (FENCE_S) before another worker is given its trial (LOST_S).
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray._private.worker
import ray.exceptions

HEARTBEAT_S = 5.0  # between two signs of life, at most
FIRST_STEP_S = 6 * 3600.0  # a worker may take to its first step: no data or kernels take as long
FENCE_S = 30.0  # without an answer of its mailbox a worker ends: another may soon train its trial
LOST_S = 90.0  # without workers a slot gives its trial to another one; they may take a minute to start
CRASH_LINES = 12  # of a crash's traceback that are kept


@dataclass
class HangClock:
    """The mailbox's clock for the trial that is being trained.

    Steps are expected every `hang_s` only once there was one: before it data are prepared and kernels tuned, or waited
    for while another process does it. A word from the process is expected all along.
    """

    hang_s: float | None  # None: never hung
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.moved = self.heard

    def heartbeat(self, count: int, now: float) -> None:
        """A sign of life, with the number of things done so far (steps, batches of a validation)."""
        self.heard = now
        if count != self.count:
            self.count, self.moved = count, now

    def hung(self, now: float) -> str | None:
        """Why the worker counts as hung; None while it does not. Leaves the worker time to tell by itself."""
        if self.hang_s is None:
            return None
        if now - self.heard > self.hang_s + HEARTBEAT_S:
            return f"it hung: its process gave no sign of life for {self.hang_s:g} s (resources.hang_s)"
        if not self.count and now - self.moved > FIRST_STEP_S:
            return f"it hung: no first step was done in {FIRST_STEP_S / 3600:g} hours"
        if self.count and now - self.moved > self.hang_s + 2 * HEARTBEAT_S:
            return f"it hung: no step was done in {self.hang_s:g} s (resources.hang_s)"
        return None


class Heartbeat:
    """A worker's sign of life while it trains (a context manager). Called at every step, it counts; a thread tells."""

    def __init__(self, box: Any, group: int, hang_s: float | None):
        self._box, self._group, self._hang_s = box, group, hang_s
        self._every = min(HEARTBEAT_S, hang_s / 4) if hang_s else HEARTBEAT_S
        self.count = 0
        self._over = threading.Event()
        self._trains = threading.get_ident()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __call__(self) -> None:
        self.count += 1

    def __enter__(self) -> Heartbeat:
        ray.get(self._box.begun.remote(self._group))
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()  # no word of this trial's is to come in the next one's time

    def _tell(self) -> None:
        """Tell the count; end the process if nobody answers, or if its group is not the slot's any more."""
        told, since, said = 0, time.monotonic(), False
        while not self._over.wait(self._every):
            if self.count != told:
                told, since, said = self.count, time.monotonic(), False
            elif told and not said and self._hang_s and time.monotonic() - since > self._hang_s:
                self._send(self._box.hangs, where(self._trains))
                said = True
            if not self._send(self._box.heartbeat, told) and not self._over.is_set():
                os._exit(1)

    def _send(self, call: Any, value: Any) -> bool:
        try:
            return ray.get(call.remote(self._group, value), timeout=FENCE_S)
        except ray.exceptions.RayError:
            return False


def where(thread: int) -> str:
    """The line at which a thread of this process stands."""
    frame = sys._current_frames().get(thread)
    at = traceback.extract_stack(frame)[-1] if frame else None
    return f"{at.filename}:{at.lineno} in {at.name}: {at.line}" if at else "its thread is gone"


class Crash:
    """A file among this host's Ray logs into which a fatal signal's traceback goes, for the next process."""

    def __init__(self, slot: str, rank: int):
        """`slot` is unlike any other slot's, of this sweep or another."""
        self._path = Path(ray._private.worker._global_node.get_logs_dir_path()) / f"attnlab-{slot}-{rank}.crash"

    def last_words(self) -> str | None:
        """Of the process before this one; None if it said nothing, or did not run on this host."""
        text = self._path.read_text(errors="replace") if self._path.exists() else ""
        lines = [line for line in text.splitlines() if line and not line.startswith("Extension modules")]
        return "\n".join(lines[:CRASH_LINES]) or None

    def keep(self) -> None:
        """From now on, SIGSEGV, SIGFPE, SIGABRT, SIGBUS and SIGILL of this process leave a traceback there."""
        self._file = self._path.open("w")
        faulthandler.enable(self._file, all_threads=False)

    def close(self) -> None:
        """The process ends well."""
        faulthandler.disable()
        self._file.close()
        self._path.unlink(missing_ok=True)
