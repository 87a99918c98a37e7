"""Fuzzy in-context recall: keys and values are several tokens long; at a key seen before, tell its value.

The MAD suite, Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), section 3
and appendix B. Its baseline is a vocabulary of 16, keys and values of 1 to 3 tokens, 128 positions and 12,800 training
rows. With `vocab_size=8, key_size=2, value_size=2, seq_len=12`, keys of {0, 1, 2}, values of {3, 4, 5, 6}:

    inputs      7    7    7    2    0    5    4    1    6    2    0    5
    targets  -100 -100 -100 -100 -100 -100 -100 -100 -100 -100    5    4

V - 1 is padding, on the left. A key's tokens are distinct, and so are a value's; [2, 0] and [2] are two keys. Each row
has its own values, and its last pair always repeats a key. The accuracy is told by the key's length too
(`val_accuracy_key3`): MAD tests the longest alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch
from attnlab.tasks.mqar import distinct


class Task(Generated):
    """Fuzzy in-context recall. At another length there are more pairs.

    Args:
        vocab_size: V; floor((V - 1) / 2) tokens for keys, the rest for values.
        key_size, value_size: tokens of a key and of a value, at most; every number from 1 on is as likely.
    """

    settings = ("key_size", "value_size")
    least = {"key_size": 1, "value_size": 1}

    def __init__(
        self,
        *,
        vocab_size: int = 16,
        key_size: int = 3,
        value_size: int = 3,
        n_train: int | None = 12800,
        **common: Any,
    ):
        super().__init__(n_train=n_train, **common)
        self.vocab_size, self.key_size, self.value_size = vocab_size, key_size, value_size
        self.n_keys = (vocab_size - 1) // 2  # key tokens are those below it, value tokens the others except the last
        self.answers = vocab_size - 1 - self.n_keys
        self.kind_names = tuple(f"key{n}" for n in range(1, key_size + 1))

    def check(self) -> list[str]:
        """Motifs longer than their vocabulary, besides the common problems."""
        problems, least = super().check(), 2 * max(2, self.key_size, self.value_size) + 1
        if self.vocab_size < least:
            problems.append(f"vocab_size: at least {least} for motifs of distinct tokens, not {self.vocab_size}")
        return problems

    def fits(self, seq_len: int) -> str | None:
        """The longest pair twice, without the last token."""
        least = 2 * (self.key_size + self.value_size) - 1
        return f"seq_len: at least {least} for a pair and its repeat, not {seq_len}" if seq_len < least else None

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n rows."""
        k, v, rows = self.key_size, self.value_size, np.arange(n)
        longest, width = k + v, self.seq_len + 1  # the last token is answered, not read
        pairs = (width - longest) // 2
        keys, key_sizes = self._motifs(rng, n, pairs, k, self.n_keys)
        values, value_sizes = self._motifs(rng, n, pairs, v, self.answers)
        # a key that came before brings the value it had
        names = (np.where(np.arange(k) < key_sizes[..., None], keys + 1, 0) * (self.n_keys + 1) ** np.arange(k)).sum(-1)
        first = (names[:, :, None] == names[:, None, :]).argmax(axis=2)
        values, value_sizes = values[rows[:, None], first], value_sizes[rows[:, None], first]
        # as many as leave room for the repeat of the longest
        used = (key_sizes + value_sizes).cumsum(axis=1) <= width - longest
        probe = (rng.random(n) * used.sum(axis=1)).astype(int)

        tokens = np.concatenate([keys, self.n_keys + values], axis=2)
        is_answer = np.broadcast_to((first < np.arange(pairs))[..., None] & (np.arange(longest) >= k), tokens.shape)
        is_used = np.concatenate([np.arange(k) < key_sizes[..., None], np.arange(v) < value_sizes[..., None]], axis=2)
        last = np.broadcast_to(np.arange(longest) >= k, (n, 1, longest))
        tokens = np.concatenate([tokens, tokens[rows, probe][:, None]], axis=1)
        is_answer = np.concatenate([is_answer, last], axis=1)
        is_used = np.concatenate([is_used & used[..., None], is_used[rows, probe][:, None]], axis=1)

        # what is kept of each row, in order, ends at its end
        row, answer = np.full((n, width), self.vocab_size - 1), np.full((n, width), IGNORE)
        filled = np.arange(width) >= width - is_used.sum(axis=(1, 2))[:, None]
        row[filled], answer[filled] = tokens[is_used], np.where(is_answer, tokens, IGNORE)[is_used]
        return Batch(row[:, :-1].copy(), answer[:, 1:].copy())

    def _motifs(
        self, rng: np.random.Generator, n: int, pairs: int, size: int, below: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct tokens in [0, below) [n, pairs, size]; how many of them count [n, pairs]."""
        tokens = distinct(rng, n * pairs, size, below).reshape(n, pairs, size)
        return tokens, rng.integers(1, size + 1, size=(n, pairs))

    def kinds(self, batch: Batch) -> NDArray[np.int64]:
        """The length, less 1, of the last run of key tokens before the answer."""
        is_key, t = batch.inputs < self.n_keys, np.arange(batch.inputs.shape[1])
        last_key = np.maximum.accumulate(np.where(is_key, t, 0), axis=1)
        last_other = np.maximum.accumulate(np.where(is_key, -1, t), axis=1)
        length: NDArray[np.int64] = last_key - np.take_along_axis(last_other, last_key, axis=1)
        return np.maximum(length - 1, 0)
