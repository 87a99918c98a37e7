"""Errors that a user's mistake or machine causes, caught by kind."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """A mistake in a request, or something missing that it needs. `problems` has one line each."""

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class StorageError(UserError):
    """The storage of the results cannot be used. Its one line begins with the URI or path."""


class DiskFull(OSError):
    """The disk of the results is full, or a quota of it. Names the file that did not fit."""


class SweepStopped(RuntimeError):
    """A sweep cannot go on here, such as for a full disk. What ended stays, and `--resume` goes on."""
