"""Compression: the last position must know the whole row, and every token is read out of it alone.

The MAD suite, Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), section 3
and appendix B. Its baseline is a vocabulary of 16, 32 positions and 12,800 training rows, and it grows to 128 and 256
and shrinks to 800. With `vocab_size=6, seq_len=6`:

    inputs      3    0    4    4    1    5
    targets     3    0    4    4    1 -100

V - 1 is the compression token. MAD trains an encoder of the layers under test, whose last output, plus a sinusoidal
position, an MLP decodes into the token at that position. So here: the task asks for `readout = "last"`, with which a
model answers for position t from its hidden state at the last position and t (`attnlab.models.readout`, MAD's decoder);
the mixers stay causal. Training and validation have the same length, to which the decoder's positions belong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch


class Task(Generated):
    """Compression.

    Args:
        vocab_size: V; V - 1 tokens to be compressed.
        eval_seq_lens: None only: one length.
    """

    readout = "last"
    least = {"vocab_size": 3}

    def __init__(self, *, vocab_size: int = 16, n_train: int | None = 12800, eval_seq_lens: None = None, **common: Any):
        super().__init__(n_train=n_train, **common)
        self.vocab_size, self.answers = vocab_size, vocab_size - 1

    def fits(self, seq_len: int) -> str | None:
        """A token and the compression token."""
        return f"seq_len: at least 2, not {seq_len}" if seq_len < 2 else None

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        inputs = rng.integers(self.vocab_size - 1, size=(n, self.seq_len))
        targets = inputs.copy()
        inputs[:, -1], targets[:, -1] = self.vocab_size - 1, IGNORE
        return Batch(inputs, targets)
