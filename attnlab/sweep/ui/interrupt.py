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
    """Handles Ctrl-C while it is open (a context manager).

    The first one raises KeyboardInterrupt. In a `patient` part it only sets `came`, to be read where nothing is half
    done. A second one raises wherever it comes. Where the process is the sweep's alone, it ends the process at once, as
    kill -9 does, and with it all that it started.
    """

    def __init__(self, own_process: bool = False) -> None:
        self.came, self._own_process = False, own_process
        self._patient = False

    def __enter__(self) -> Interrupts:
        self._ours = threading.current_thread() is threading.main_thread()  # others get no signals
        if self._ours:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """In this part, only note the first Ctrl-C."""
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
