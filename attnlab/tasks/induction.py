"""Induction heads: a trigger came once, with a token after it; when the trigger comes again, tell that token.

Olsson et al. 2022 (arXiv 2209.11895) describe the circuit; the row, its vocabulary of 16 and the test at other lengths
are those of Gu and Dao 2023, "Mamba" (arXiv 2312.00752), section 4.1.2, who train at 256. With `vocab_size=5`:

    inputs      3    1    0    2    4    1    4    0
    targets  -100 -100 -100 -100 -100 -100 -100    2

0 is the trigger, which stands once at random and once at the row's end; the other tokens are random.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch


class Task(Generated):
    """Induction heads.

    Args:
        vocab_size: V, the trigger included.
    """

    least = {"vocab_size": 3}

    def __init__(self, *, vocab_size: int = 16, **common: Any):
        super().__init__(**common)
        self.vocab_size, self.answers = vocab_size, vocab_size - 1

    def fits(self, seq_len: int) -> str | None:
        """Trigger, answer, trigger."""
        return f"seq_len: at least 3, not {seq_len}" if seq_len < 3 else None

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        inputs = rng.integers(1, self.vocab_size, size=(n, self.seq_len))
        targets = np.full_like(inputs, IGNORE)
        rows, first = np.arange(n), rng.integers(self.seq_len - 2, size=n)
        inputs[rows, first] = inputs[:, -1] = 0
        targets[:, -1] = inputs[rows, first + 1]
        return Batch(inputs, targets)
