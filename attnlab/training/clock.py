"""When a trial ends and how far its schedule is, by steps or seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from attnlab.config.trial import TrainConfig


class TrainingClock:
    """The clock of one trial. It runs from its construction, except between `pause` and `resume`.

    A trial ends at `max_steps`, or after `train.seconds` of training if that is sooner. The schedule follows whichever
    of the two is further on, so that the rate has come down when training ends.
    """

    def __init__(self, train: TrainConfig, trained: float, now: Callable[[], float] = time.perf_counter):
        """Start the clock after `trained` seconds of earlier sessions."""
        self._train, self._before, self._now = train, trained, now
        self._since: float | None = now()

    @property
    def trained(self) -> float:
        """Seconds of training so far, without validation."""
        return self._before + (self._now() - self._since if self._since is not None else 0.0)

    def pause(self) -> None:
        """Stop the clock for a validation."""
        self._before, self._since = self.trained, None

    def resume(self) -> None:
        """Let the clock go on."""
        self._since = self._now()

    def schedule_step(self, step: int) -> int:
        """The schedule's step, in 1 .. max_steps, for optimizer step `step` (1-based)."""
        if self._train.seconds is None:
            return step
        by_time = math.ceil(self.trained / self._train.seconds * self._train.max_steps)
        return max(step, min(by_time, self._train.max_steps))

    def over(self) -> bool:
        """Whether the seconds are used up."""
        return self._train.seconds is not None and self.trained >= self._train.seconds
