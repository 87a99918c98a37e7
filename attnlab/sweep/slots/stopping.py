"""Have a worker's trial saved and left at once: because the launcher says so, or for SIGTERM to the worker itself.

SIGTERM reaches workers where a scheduler sends it to every process of a job, and where one is killed by hand.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.exceptions

SAVE_S = 20.0  # from SIGTERM to the end of a process whose trial comes to no end of a step
POLL_S = 0.1
_sigterm = threading.Event()  # came to this process


class Stopping:
    """Tells a rank's training when to stop at once, by a call. Ends the process after SIGTERM."""

    def __init__(self, mailbox: Any, group: int, rank: int):
        self._mailbox, self._group = mailbox, group
        self._training, self._told = False, False
        # only the main thread may set handlers, and this is another one
        ray.get(ray.get_runtime_context().current_actor.execute.remote(handle_sigterm))
        threading.Thread(target=self._end_after_sigterm, daemon=True).start()
        if rank == 0:
            threading.Thread(target=self._listen, daemon=True).start()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._told or _sigterm.is_set()

    @contextmanager
    def training(self) -> Iterator[None]:
        """While it is open, SIGTERM waits until the trial is saved, up to `SAVE_S`."""
        self._training = True
        try:
            yield
        finally:
            self._training = False

    def _listen(self) -> None:
        try:
            self._told = ray.get(self._mailbox.interrupted.remote(self._group))
        except ray.exceptions.RayError:  # the mailbox is gone, and the sweep with it
            return

    def _end_after_sigterm(self) -> None:
        _sigterm.wait()
        end = time.monotonic() + SAVE_S
        while self._training and time.monotonic() < end:
            time.sleep(POLL_S)
        os._exit(128 + signal.SIGTERM)


def handle_sigterm() -> None:
    """Note SIGTERM from now on, in the process that runs this."""
    signal.signal(signal.SIGTERM, lambda *_: _sigterm.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
