"""Ctrl-C: the first one ends a sweep in order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CURSOR = "\x1b[?25h"  # a live table hides it
TWICE = "interrupted twice; what ended is kept. Go on with --resume"


class Interrupts:
    """A context that handles Ctrl-C.

    Any raises KeyboardInterrupt, but the first one within `patient` only sets `came`. In a process of the sweep's own
    the second one ends it at once with all that it started, as kill -9 does.
    """

    def __init__(self, own_process: bool = False) -> None:
        self.came, self._own_process, self._patient = False, own_process, False

    def __enter__(self) -> Interrupts:
        self._handles = threading.current_thread() is threading.main_thread()  # others get no signals
        if self._handles:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._handles:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """While it is open, only note the first Ctrl-C."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _note(self, signum: int, frame: Any) -> None:
        if self.came and self._own_process:
            os.write(sys.stderr.fileno(), f"{CURSOR if sys.stdout.isatty() else ''}\n{TWICE}\n".encode())
            os._exit(130)
        again, self.came = self.came, True
        if again or not self._patient:
            raise KeyboardInterrupt
