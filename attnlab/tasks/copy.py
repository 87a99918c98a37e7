"""Copying: a string, a separator, the string again; the second time every token is to be told before it comes.

Jelassi et al. 2024, "Repeat After Me: Transformers are Better than State Space Models at Copying" (arXiv 2402.01032),
section 3: strings over 26 letters, uniform in length up to the longest that fits, tested on longer ones. With
`vocab_size=6, seq_len=10`, a string of 4 and padding:

    inputs      4    2    5    5    1    4    2    5    0    0
    targets  -100 -100 -100 -100    4    2    5    5 -100 -100

0 is padding, 1 the separator. At another length T every string is floor(T / 2) long.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch

PAD, SEPARATOR, FIRST = 0, 1, 2


class Task(Generated):
    """Copying a string.

    Args:
        vocab_size: V; V - 2 letters.
        min_length: of a string in training; the longest is `seq_len` / 2.
    """

    settings = ("min_length",)
    least = {"vocab_size": 4, "min_length": 1}

    def __init__(self, *, vocab_size: int = 28, min_length: int = 1, **common: Any):
        super().__init__(**common)
        self.vocab_size, self.answers, self.min_length = vocab_size, vocab_size - FIRST, min_length

    def fits(self, seq_len: int) -> str | None:
        """A string twice."""
        if 2 * self.min_length <= seq_len and seq_len > 1:
            return None
        return f"min_length: strings of {self.min_length} need seq_len {2 * self.min_length}, not {seq_len}"

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        most = self.seq_len // 2
        length = rng.integers(most if self.other_length else self.min_length, most + 1, size=(n, 1))
        letters = rng.integers(FIRST, self.vocab_size, size=(n, most))
        t, i = np.arange(self.seq_len), np.arange(self.seq_len) - length  # i = 0 at the separator
        second = np.take_along_axis(letters, np.clip(i - 1, 0, most - 1), axis=1)
        padded = np.pad(letters, ((0, 0), (0, self.seq_len - most)))
        inputs = np.where(i < 0, padded, np.where(i == 0, SEPARATOR, second))
        inputs[t >= 2 * length] = PAD
        answers = np.take_along_axis(letters, np.clip(i, 0, most - 1), axis=1)
        return Batch(inputs, np.where((i >= 0) & (t < 2 * length), answers, IGNORE))
