"""How a sweep ends early; each in one line for its user."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The sweep cannot be run here; one line says why and what would help. Nothing has been written."""


class SweepStopped(RuntimeError):
    """The sweep cannot go on here: no workers, no room on the disk. What had ended is kept, and it can be resumed."""
