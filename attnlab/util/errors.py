"""Errors that a user's mistake or machine causes, caught by kind."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from attnlab.util.text import shortened, visible

LONGEST = 400  # characters of a problem's line; values in it are cut to far less (`attnlab.util.text.quoted`)


class UserError(ValueError):
    """A mistake in a request, or something missing that it needs.

    `problems` has one line each: without control characters, and cut in the middle beyond LONGEST characters.
    """

    def __init__(self, problems: str | Sequence[str]):
        lines = [problems] if isinstance(problems, str) else problems
        self.problems = [shortened(visible(line), LONGEST) for line in lines]
        super().__init__("\n".join(self.problems))


class StorageError(UserError):
    """The storage of the results cannot be used. Its one line begins with the URI or path."""


class DiskFull(OSError):
    """The disk of results or cache is full, read-only or gone. Names the file that could not be written."""

    @property
    def line(self) -> str:
        """The disk's refusal and the file, in words."""
        return f"{self.strerror}: {self.filename}"


class SweepStopped(RuntimeError):
    """A sweep cannot go on here, such as for a full disk. What ended stays, and `--resume` goes on."""


class Interrupted(KeyboardInterrupt):
    """A signal ends the program: Ctrl-C, SIGTERM or SIGHUP. `code` is the exit code that shells expect of it."""

    def __init__(self, signum: int = signal.SIGINT):
        super().__init__()
        self.signum, self.code = signum, 128 + signum


class TrialInterrupted(RuntimeError):
    """A trial was told to stop at once. Its checkpoint is saved."""
