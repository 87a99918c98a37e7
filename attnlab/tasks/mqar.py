"""Multi-query associative recall: key-value pairs, then some of the keys again; each asks for its value.

Arora, Eyuboglu et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models" (arXiv 2312.04927),
section 4 and its appendix on the synthetic task. One row with `vocab_size=12, n_pairs=2, seq_len=12`:

    inputs      2    8    4    7    4    0    0    0    2    0    0    0
    targets  -100 -100 -100 -100    7 -100 -100 -100    8 -100 -100 -100
            |--- the pairs -----|  query               query

Keys come from [1, vocab_size / 2), values from [vocab_size / 2, vocab_size), each distinct within a row. Queries stand
at every other position after the pairs; the slot g = 1, 2, ... of a query is drawn without replacement with probability
proportional to g^(power_a - 1), the power law of the gap between two mentions of the same words in real text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.tasks._generated import Generated
from attnlab.tasks.base import IGNORE, Batch


class Task(Generated):
    """Multi-query associative recall. At another length the pairs stay as many and the gaps grow.

    Args:
        vocab_size: V; above 1000 it tells architectures apart best (Arora et al. 2023).
        n_pairs: key-value pairs, and queries, per example; at most `seq_len` / 4.
        power_a: exponent of the gaps' power law: small for queries soon after the pairs, 1.0 for uniform.
        random_fill: positions that are neither pair nor query hold random tokens (which may be keys) instead of 0.
    """

    settings = ("n_pairs", "power_a", "random_fill")
    least = {"n_pairs": 1}

    def __init__(
        self,
        *,
        vocab_size: int = 8192,
        n_pairs: int = 8,
        power_a: float = 0.01,
        random_fill: bool = False,
        **common: Any,
    ):
        super().__init__(**common)
        self.vocab_size, self.n_pairs, self.power_a, self.random_fill = vocab_size, n_pairs, power_a, random_fill

    def check(self) -> list[str]:
        """Values that no example could be drawn with, besides the common problems."""
        problems = super().check()
        if self.n_pairs > self.vocab_size // 2 - 1:
            problems.append(
                f"vocab_size: {self.n_pairs} distinct keys need at least {2 * self.n_pairs + 2}, not {self.vocab_size}"
            )
        if not self.power_a > 0:
            problems.append(f"power_a: above 0, not {self.power_a}")
        return problems

    def fits(self, seq_len: int) -> str | None:
        """Two positions per pair and two per query."""
        if 4 * self.n_pairs <= seq_len:
            return None
        return (
            f"n_pairs: {self.n_pairs} pairs and their queries need seq_len {4 * self.n_pairs}, not {seq_len}; "
            f"at most {seq_len // 4} fit"
        )

    def draw(self, rng: np.random.Generator, n: int, validation: bool) -> Batch:
        """Draw n fresh examples, int64 [n, T] each."""
        half, context = self.vocab_size // 2, 2 * self.n_pairs
        keys = 1 + distinct(rng, n, self.n_pairs, half - 1)
        values = half + distinct(rng, n, self.n_pairs, self.vocab_size - half)
        inputs = np.zeros((n, self.seq_len), np.int64)
        if self.random_fill:
            inputs[:, context:] = rng.integers(self.vocab_size, size=(n, self.seq_len - context))
        targets = np.full((n, self.seq_len), IGNORE, np.int64)
        inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
        queries = context + 2 * self._slots(rng, n)
        np.put_along_axis(inputs, queries, keys, axis=1)
        np.put_along_axis(targets, queries, values, axis=1)
        return Batch(inputs, targets)

    def _slots(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """For each row, the 0-based slots of its queries [n, n_pairs], by the Gumbel-top-k trick.

        The k largest of log p + Gumbel noise are k draws without replacement (Kool et al. 2019, arXiv 1903.06059).
        """
        slots = (self.seq_len - 2 * self.n_pairs) // 2
        logits = (self.power_a - 1) * np.log(np.arange(1, slots + 1))
        return np.argsort(-(logits + rng.gumbel(size=(n, slots))), axis=1)[:, : self.n_pairs]

    def baselines(self) -> dict[str, float]:
        """A uniform guess among all values, and among those in the prompt."""
        values = self.vocab_size - self.vocab_size // 2
        accuracies = {"chance_accuracy": 1 / values, "prompt_value_accuracy": 1 / self.n_pairs}
        return accuracies | {"chance_loss": math.log(values)}


def distinct(rng: np.random.Generator, rows: int, n: int, below: int) -> NDArray[np.int64]:
    """Rows of n distinct whole numbers in [0, below), uniform over all such rows: [rows, n].

    Repeats of an earlier column are drawn again until there are none. Relabelling the numbers turns any run of this
    into an equally likely one, so every row without repeats is equally likely.
    """
    if 4 * n > below:  # repeats would be many: shuffle instead
        return rng.permuted(np.tile(np.arange(below), (rows, 1)), axis=1)[:, :n]
    out = rng.integers(below, size=(rows, n))
    while True:
        order = np.argsort(out, axis=1, kind="stable")
        ranked = np.take_along_axis(out, order, axis=1)
        repeat = np.zeros(out.shape, bool)
        np.put_along_axis(repeat, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
        if not (count := int(repeat.sum())):
            return out
        out[repeat] = rng.integers(below, size=count)
