"""Errors that a user's mistake or machine causes, caught by kind."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in what was asked, or something that it needs is not there; `problems` has one line each."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class StorageError(UserError):
    """The storage of the results cannot be used; one line that begins with its URI or path."""


class DiskFull(OSError):
    """The disk of the results is full, or a quota of it: no trial's fault. Names the file that did not fit."""


class SweepStopped(RuntimeError):
    """A sweep cannot go on here, such as for a full disk; what ended is kept, and `--resume` goes on."""
