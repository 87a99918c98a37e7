"""What every command line does: Ctrl-C ends it from its first import on, `| head` and old terminals are no errors."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from attnlab.util.secret import masked

CTRL_C = 130  # 128 + SIGINT, as shells count
CLOSED_PIPE = 141  # 128 + SIGPIPE


def answer_ctrl_c() -> None:
    """Have Ctrl-C end this process at once, until something that needs an orderly end takes it over.

    KeyboardInterrupt, Python's own answer, prints a traceback while modules are imported, or is caught by what is
    imported. Nothing that this process starts outlives it.
    """
    signal.signal(signal.SIGINT, leave)


def leave(signum: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """End this process at once, by the exit code of a signal."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the signal may have come while it was written
            stream.flush()
    os._exit(128 + signum)


def again() -> str:
    """The command that resumes what this process was started for, without passwords."""
    return shlex.join([sys.executable, *map(masked, sys.argv), *([] if "--resume" in sys.argv else ["--resume"])])


def run(main: Callable[[], int], orderly: bool = False) -> int:
    """Run a command line's `main` and give its exit code, also where whoever reads its output has read enough.

    `orderly`: Ctrl-C raises KeyboardInterrupt in it, for it may have threads and processes of its own to end.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal's encoding may lack a letter, which is no reason to end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if orderly:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = main()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes it once more as it ends
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return CTRL_C
