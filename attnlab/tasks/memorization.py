"""Memorization: keys and the values that belong to them, the same in every row, to be learnt by heart.

The MAD suite, Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), section 3
and appendix B. Its baseline is a vocabulary of 256, 32 positions and 256 training rows, and it grows to 8192. With
`vocab_size=7` and facts 0 -> 5, 1 -> 3, 2 -> 4:

    inputs      2    6    0    6    2    6    1    6
    targets  -100    4 -100    5 -100    4 -100    3

V - 1 is the token that asks. The facts are drawn once from `fact_seed` and are the same for training, validation and
every training seed: validation rows are held out, the facts in them are not. Nothing in a row is a context for
anything else in it, so there is no `eval_seq_lens`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch


class Task(Generated):
    """Memorizing facts.

    Args:
        vocab_size: V; floor((V - 1) / 2) keys, each with a value of its own.
        fact_seed: the facts' seed; MAD's.
        eval_seq_lens: None only: one length.
    """

    settings = ("fact_seed",)
    least = {"vocab_size": 5, "fact_seed": 0}

    def __init__(
        self,
        *,
        vocab_size: int = 256,
        fact_seed: int = 12345,
        n_train: int | None = 256,
        eval_seq_lens: None = None,
        **common: Any,
    ):
        super().__init__(n_train=n_train, **common)
        self.vocab_size, self.fact_seed, self.answers = vocab_size, fact_seed, (vocab_size - 1) // 2

    def fits(self, seq_len: int) -> str | None:
        """A key and its question."""
        return f"seq_len: an even number, not {seq_len}" if seq_len % 2 else None

    @cached_property
    def facts(self) -> NDArray[np.int64]:
        """The value of each key, int64 [keys]."""
        values = np.random.default_rng(self.fact_seed).permutation(np.arange(self.answers, self.vocab_size - 1))
        return values[: self.answers]

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        inputs = np.full((n, self.seq_len), self.vocab_size - 1)
        targets = np.full((n, self.seq_len), IGNORE)
        inputs[:, ::2] = rng.integers(self.answers, size=(n, self.seq_len // 2))
        targets[:, 1::2] = self.facts[inputs[:, ::2]]
        return Batch(inputs, targets)
