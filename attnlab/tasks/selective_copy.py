"""Selective copying: tokens scattered among blanks; after the copy token they are to be told in their order.

The MAD suite, Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), section 3
and appendix B. Its baseline is a vocabulary of 16, 16 tokens to copy, 256 positions and 12,800 training rows, and it
grows to 128, 96, 1024 and shrinks to 800. Here the places are uniform. With `vocab_size=6, n_copy=3, seq_len=12`:

    inputs      4    1    4    4    3    0    4    4    5    4    4    4
    targets  -100 -100 -100 -100 -100 -100 -100 -100 -100    1    3    0

V - 2 is the blank, V - 1 the copy token; the answers are told over blanks, so nothing said before helps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch


class Task(Generated):
    """Selective copying. At another length as many tokens are copied, from among more blanks.

    Args:
        vocab_size: V; V - 2 tokens to copy.
        n_copy: tokens to copy per row; 2 `n_copy` + 1 positions at least.
    """

    settings = ("n_copy",)
    least = {"vocab_size": 4, "n_copy": 1}

    def __init__(self, *, vocab_size: int = 16, n_copy: int = 16, n_train: int | None = 12800, **common: Any):
        super().__init__(n_train=n_train, **common)
        self.vocab_size, self.answers, self.n_copy = vocab_size, vocab_size - 2, n_copy

    def fits(self, seq_len: int) -> str | None:
        """The tokens, the copy token, the answers."""
        if 2 * self.n_copy + 1 <= seq_len:
            return None
        return f"n_copy: {self.n_copy} tokens and their copies need seq_len {2 * self.n_copy + 1}, not {seq_len}"

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        blank, k = self.answers, self.n_copy
        inputs = np.full((n, self.seq_len), blank)
        targets = np.full((n, self.seq_len), IGNORE)
        tokens = rng.integers(blank, size=(n, k))
        places = rng.random((n, self.seq_len - k - 1)).argsort(axis=1)[:, :k]
        np.put_along_axis(inputs, np.sort(places, axis=1), tokens, axis=1)
        inputs[:, -k - 1] = blank + 1
        targets[:, -k:] = tokens
        return Batch(inputs, targets)
