"""What Tune's snapshots hold of our objects: nothing."""

from __future__ import annotations

from typing import Any


class EmptySnapshot:
    """Pickles as nothing.

    Tune snapshots its searcher, scheduler and callbacks. Ours hold open files and terminals, and a sweep resumes from
    its own records, so a snapshot has nothing to say.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}
