"""Errors that a user's mistake or machine causes, caught by kind."""

from __future__ import annotations

from collections.abc import Sequence


class SweepError(ValueError):
    """Everything wrong with a sweep, one line each in `problems`."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class NoRoom(OSError):
    """The disk of the results is full, or a quota of it: no trial's fault. Says which file did not fit."""
