"""Passkey: a short number hidden somewhere in a long filler, asked for at the end. For length extrapolation.

Mohtashami and Jaggi 2023, "Landmark Attention: Random-Access Infinite Context Length for Transformers" (arXiv
2305.16300), section 4.2, in tokens instead of sentences; told by depth, as in needle-in-a-haystack tests. With
`vocab_size=16, n_digits=2, seq_len=12`:

    inputs     13   15   12   10    4    7   14   12   15   13   11    4
    targets  -100 -100 -100 -100 -100 -100 -100 -100 -100 -100    4    7

0 to 9 are digits, 10 stands before the number, 11 asks for it, and the tokens from 12 on are the filler.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch

DIGITS, MARK, ASK, FILLER = 10, 10, 11, 12


class Task(Generated):
    """A passkey in a filler. At another length the filler is as much longer.

    Args:
        vocab_size: V; V - 12 tokens of filler, which are random.
        n_digits: of the number.
        depths: where it stands in validation, each in as many rows: 0 at the row's start, 1 just before the question;
            `val_accuracy_depth50` tells of 0.5. None: 0, 0.25, 0.5, 0.75, 1. In training it stands anywhere.
    """

    settings = ("n_digits", "depths")
    least = {"vocab_size": FILLER + 1, "n_digits": 1}
    answers = DIGITS

    def __init__(self, *, vocab_size: int = 64, n_digits: int = 5, depths: list[float] | None = None, **common: Any):
        super().__init__(**common)
        self.vocab_size, self.n_digits = vocab_size, n_digits
        self.depths = [0.0, 0.25, 0.5, 0.75, 1.0] if depths is None else depths
        self.kind_names = tuple(f"depth{100 * depth:g}" for depth in self.depths)

    def check(self) -> list[str]:
        """Depths that are none, besides the common ones."""
        problems = super().check()
        if not self.depths or not all(0 <= d <= 1 for d in self.depths) or len({*self.depths}) < len(self.depths):
            problems.append(f"depths: distinct numbers from 0 to 1, not {self.depths}")
        return problems

    def fits(self, seq_len: int) -> str | None:
        """Mark, number, question, number without its last digit; and a place for each depth."""
        least = 2 * self.n_digits + 1 + len(self.depths)
        if seq_len >= least:
            return None
        return f"seq_len: at least {least} for {self.n_digits} digits at {len(self.depths)} depths, not {seq_len}"

    def _places(self) -> NDArray[np.int64]:
        """Where the mark stands at each depth."""
        places: NDArray[np.float64] = np.rint(np.array(self.depths) * (self.seq_len - 2 * self.n_digits - 1))
        return places.astype(np.int64)

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        k, T = self.n_digits, self.seq_len
        inputs, targets = rng.integers(FILLER, self.vocab_size, size=(n, T)), np.full((n, T), IGNORE)
        digits = rng.integers(DIGITS, size=(n, k))
        mark = rng.choice(self._places(), size=n) if validation else rng.integers(T - 2 * k, size=n)
        np.put_along_axis(inputs, mark[:, None], MARK, axis=1)
        np.put_along_axis(inputs, mark[:, None] + 1 + np.arange(k), digits, axis=1)
        inputs[:, T - k] = ASK
        inputs[:, T - k + 1 :] = digits[:, :-1]
        targets[:, T - k :] = digits
        return Batch(inputs, targets)

    def kinds(self, batch: Batch) -> NDArray[np.int64]:
        """The depth nearest to where the mark stands."""
        mark = (batch.inputs == MARK).argmax(axis=1)
        nearest = abs(mark[:, None] - self._places()).argmin(axis=1)
        return np.repeat(nearest[:, None], self.seq_len, axis=1)
