"""Parity: is the number of ones even or odd? The smallest state to be tracked.

Grazzi et al. 2024, "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues" (arXiv 2411.12537), section
5.1: trained on strings of 3 to 40 bits, tested on longer ones. (So is it in Deletang et al. 2023, "Neural Networks and
the Chomsky Hierarchy", arXiv 2207.02098.) With `seq_len=8`, the string 0110 1 and padding:

    inputs      1    2    2    1    2    0    0    0
    targets  -100 -100 -100 -100    2 -100 -100 -100

0 is padding, 1 and 2 are the bits 0 and 1; the answer, odd here, is asked at the last bit, or by `ask: every` at each.
At another length T every string has T bits.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch

PAD, ZERO = 0, 1


class Task(Generated):
    """Parity of a bit string. Very short strings exist in few kinds, of which some are then always held out.

    Args:
        min_length: bits of a training string, at least; `seq_len` is the most.
        ask: `last`, for the whole string's parity, as in the papers, or `every`, for every prefix's as well.
    """

    settings = ("min_length", "ask")
    least = {"min_length": 1}
    vocab_size, answers = 3, 2  # padding and two bits

    def __init__(self, *, min_length: int = 3, ask: Literal["last", "every"] = "last", **common: Any):
        super().__init__(**common)
        self.min_length, self.ask = min_length, ask

    def fits(self, seq_len: int) -> str | None:
        """The shortest string."""
        return f"min_length: at most seq_len {seq_len}, not {self.min_length}" if self.min_length > seq_len else None

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        most, t = self.seq_len, np.arange(self.seq_len)
        length = rng.integers(most if self.other_length else self.min_length, most + 1, size=(n, 1))
        bits = rng.integers(2, size=(n, most))
        is_answer = t == length - 1 if self.ask == "last" else t < length
        return Batch(
            np.where(t < length, ZERO + bits, PAD), np.where(is_answer, ZERO + np.cumsum(bits, axis=1) % 2, IGNORE)
        )
