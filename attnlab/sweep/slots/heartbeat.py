"""Watch over a slot's workers: their sign of life, hangs and crashes.

A worker that trains: its `Heartbeat` sends its count of steps to the mailbox, which sets its `HangClock`.
One that hangs: its `Heartbeat` sends the line. The mailbox kills the group, which its TorchTrainer restarts.
One that dies: `CrashLog` keeps a signal's traceback for the next process, `worker_death` reports what Ray saw.
One that is cut off: it ends itself (FENCE_S) before another worker gets its trial (LOST_S).
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
FIRST_STEP_S = 6 * 3600.0  # until the first step, at most: no data or kernels take as long
FENCE_S = 30.0  # without an answer of its mailbox, until a worker ends: another may soon train its trial
LOST_S = 90.0  # without workers, which may take a minute to start, until a slot gives its trial to another one
CRASH_LINES = 12  # kept of a crash's traceback


@dataclass
class HangClock:
    """The mailbox's clock for the trial that is being trained.

    A sign of life is expected all along, steps only after the first one: before it come data and kernels.
    """

    hang_s: float | None  # None: never hung
    heard: float = field(default_factory=time.monotonic)
    moved: float = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.moved = self.heard

    def heartbeat(self, count: int, now: float) -> None:
        """Note a sign of life, with the number of steps done."""
        self.heard = now
        if count != self.count:
            self.count, self.moved = count, now

    def hung(self, now: float) -> str | None:
        """Why the worker counts as hung, if it does. It had time to report that itself."""
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
    """A worker's sign of life, a context. A call counts a step; a thread sends the count to the mailbox."""

    def __init__(self, mailbox: Any, group: int, hang_s: float | None):
        self._mailbox, self._group, self._hang_s = mailbox, group, hang_s
        self._every_s = min(HEARTBEAT_S, hang_s / 4) if hang_s else HEARTBEAT_S
        self.count, self._over, self._training_thread = 0, threading.Event(), threading.get_ident()
        self._thread = threading.Thread(target=self._send_counts, daemon=True)

    def __call__(self) -> None:
        """Count a step, or a batch of a validation."""
        self.count += 1

    def __enter__(self) -> Heartbeat:
        ray.get(self._mailbox.begun.remote(self._group))
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()  # none of this trial's counts may come in the next one's time

    def _send_counts(self) -> None:
        """Send the count; end the process if nobody answers or its group was replaced."""
        sent, since, reported = 0, time.monotonic(), False
        while not self._over.wait(self._every_s):
            if self.count != sent:
                sent, since, reported = self.count, time.monotonic(), False
            elif sent and not reported and self._hang_s and time.monotonic() - since > self._hang_s:
                self._send(self._mailbox.hangs, current_line(self._training_thread))
                reported = True
            if not self._send(self._mailbox.heartbeat, sent) and not self._over.is_set():
                os._exit(1)

    def _send(self, method: Any, value: Any) -> bool:
        try:
            return ray.get(method.remote(self._group, value), timeout=FENCE_S)
        except ray.exceptions.RayError:
            return False


def current_line(thread: int) -> str:
    """The line that a thread of this process runs."""
    frame = sys._current_frames().get(thread)
    top = traceback.extract_stack(frame)[-1] if frame else None
    return f"{top.filename}:{top.lineno} in {top.name}: {top.line}" if top else "its thread is gone"


class CrashLog:
    """A file among this host's Ray logs for a fatal signal's traceback. `slot` is unique among all sweeps."""

    def __init__(self, slot: str, rank: int):
        self._path = Path(ray._private.worker._global_node.get_logs_dir_path()) / f"attnlab-{slot}-{rank}.crash"

    def read_previous(self) -> str | None:
        """The traceback that the previous process left on this host, if any."""
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        lines = [line for line in text.splitlines() if line and not line.startswith("Extension modules")]
        return "\n".join(lines[:CRASH_LINES]) or None

    def open(self) -> None:
        """From now on, let SIGSEGV, SIGFPE, SIGABRT, SIGBUS and SIGILL leave a traceback."""
        self._file = self._path.open("w", encoding="utf-8")
        faulthandler.enable(self._file, all_threads=False)

    def close(self) -> None:
        """Remove the file: the process ends well."""
        faulthandler.disable()
        self._file.close()
        self._path.unlink(missing_ok=True)
