"""In-context recall: key-value pairs, keys coming back; at a key that was seen before, tell its value.

The MAD suite, Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), section 3
and appendix B. Its baseline is a vocabulary of 16, half keys and half values, 128 positions and 12,800 training rows,
and it grows to 128 and 1024 and shrinks to 800. With `vocab_size=6, seq_len=10`:

    inputs      1    4    0    3    1    4    2    4    0    3
    targets  -100 -100 -100 -100    4 -100 -100 -100    3 -100

Each row has its own values; two keys may share one. The last pair always repeats a key, drawn from those seen. MAD
trains on every next token and scores these targets; here both are on these targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch


class Task(Generated):
    """In-context recall. At another length there are more pairs, of the same keys.

    Args:
        vocab_size: V; floor(V / 2) keys, the rest values.
    """

    noise_vocab_size, noise_ratio = 0, 0.0

    def __init__(self, *, vocab_size: int = 16, n_train: int | None = 12800, **common: Any):
        super().__init__(n_train=n_train, **common)
        self.vocab_size = vocab_size
        self.n_keys = (vocab_size - self.noise_vocab_size) // 2  # keys, then values, then noise
        self.answers = vocab_size - self.noise_vocab_size - self.n_keys
        self.least = {"vocab_size": 4 + self.noise_vocab_size}

    def fits(self, seq_len: int) -> str | None:
        """A pair and its key again."""
        return f"seq_len: at least 3, not {seq_len}" if seq_len < 3 else None

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        pairs, rows = (self.seq_len + 1) // 2, np.arange(n)[:, None]  # an odd length leaves out the last value
        keys = rng.integers(self.n_keys, size=(n, pairs))
        noise = rng.random((n, pairs)) < self.noise_ratio
        noise[rows[:, 0], rng.integers(pairs - 1, size=n)] = False  # there is a pair before the last
        noise[:, -1] = False
        first = np.full((n, self.n_keys), pairs)
        earlier = np.where(noise, pairs, np.arange(pairs))[:, :-1]
        np.minimum.at(first, (rows, keys[:, :-1]), earlier)
        keys[:, -1] = np.where(first < pairs, rng.random(first.shape), -1).argmax(axis=1)  # one of the keys seen
        values = self.n_keys + rng.integers(self.answers, size=(n, self.n_keys))[rows, keys]
        is_repeat = (np.arange(pairs) > first[rows, keys]) & ~noise

        row = np.stack([keys, values], axis=-1)
        row[noise] = self.vocab_size - 1 - rng.integers(max(1, self.noise_vocab_size), size=(int(noise.sum()), 2))
        answers = np.stack([np.where(is_repeat, values, IGNORE), np.full_like(values, IGNORE)], axis=-1)
        return Batch(*(np.ascontiguousarray(a.reshape(n, -1)[:, : self.seq_len]) for a in (row, answers)))
