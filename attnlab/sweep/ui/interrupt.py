"""Ctrl-C, SIGTERM and SIGHUP end a sweep in order; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attnlab.util import command
from attnlab.util.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGTERM: Slurm, Kubernetes, spot machines, `timeout`
CURSOR = "\x1b[?25h"  # a live table hides it
EARLY = b"\nstopped before Ray was up; no trial has begun\n"
TWICE = "interrupted twice; what ended is kept. Go on with --resume"


class Interrupts:
    """A context that handles the signals that end a sweep.

    Any raises Interrupted, but the first one within `patient` only sets `came`. Later ones change nothing, as `timeout`
    and Slurm send SIGTERM more than once. A Ctrl-C that is not the first signal raises in a user's process. In one of
    the sweep's own it ends it at once with all that it started, as kill -9 does. So does any signal there until Ray is
    up, which would have to be waited for.
    """

    def __init__(self, own_process: bool = False) -> None:
        self.came = 0  # the first signal's number
        self._own_process, self._patient = own_process, False
        self._at_once = False  # nothing is up yet that needs an orderly end
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        self._handles = threading.current_thread() is threading.main_thread()  # others get no signals
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        self.handle()
        self._at_once = self._own_process
        return self

    def handle(self) -> None:
        """Handle the signals from now on. Called again once Ray is up, which takes SIGTERM as it connects."""
        self._at_once = False
        for signum in SIGNALS if self._handles else ():
            now = signal.getsignal(signum)
            if signum == signal.SIGHUP and now is signal.SIG_IGN:  # nohup
                continue
            if now != self._note:
                self._before.setdefault(signum, now or signal.SIG_DFL)
            signal.signal(signum, self._note)

    def __exit__(self, *error: Any) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)
        if self.came not in (0, signal.SIGINT) and not self._own_process:
            os.kill(os.getpid(), self.came)  # to the user's process it now does what it would have done

    @contextmanager
    def patient(self) -> Iterator[None]:
        """While it is open, only note the first signal."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _note(self, signum: int, frame: Any) -> None:
        if self._at_once:
            os.write(2, EARLY)
            command.leave(signum)
        first = not self.came
        self.came = self.came or signum
        if signum == signal.SIGHUP:
            self._leave_terminal()
        if first and not self._patient:
            raise Interrupted(signum)
        if not first and signum == signal.SIGINT:
            if not self._own_process:
                raise Interrupted(signum)
            os.write(2, f"{CURSOR if sys.stdout.isatty() else ''}\n{TWICE}\n".encode())
            os._exit(Interrupted(signum).code)

    def _leave_terminal(self) -> None:
        """Write to nowhere from now on what went to the terminal, which is gone."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for fd in self._terminals:
            os.dup2(nowhere, fd)
        os.close(nowhere)
