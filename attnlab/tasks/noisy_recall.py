"""Noisy in-context recall: `in_context_recall` with pairs of noise tokens, of a vocabulary of their own, in between.

The MAD suite, Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures" (arXiv 2403.17844), section 3
and appendix B. Its baseline is a vocabulary of 16 and 16 noise tokens more, noise at 0.2 of the pairs, 128 positions
and 12,800 training rows; the noise grows to 0.8. With `vocab_size=10, noise_vocab_size=4, seq_len=10`:

    inputs      1    4    8    6    0    3    7    7    1    4
    targets  -100 -100 -100 -100 -100 -100 -100 -100    4 -100

As in MAD, `vocab_size` counts the noise tokens, which are its last.
"""

from __future__ import annotations

from typing import Any

from attnlab.tasks import in_context_recall


class Task(in_context_recall.Task):
    """Noisy in-context recall. At another length there are more pairs, of the same keys.

    Args:
        vocab_size: V, noise included.
        noise_vocab_size: noise tokens.
        noise_ratio: the chance that a pair is noise, from 0 to below 1.
    """

    settings = ("noise_vocab_size", "noise_ratio")

    def __init__(self, *, vocab_size: int = 32, noise_vocab_size: int = 16, noise_ratio: float = 0.2, **common: Any):
        self.noise_vocab_size, self.noise_ratio = noise_vocab_size, noise_ratio  # the parent counts with them
        super().__init__(vocab_size=vocab_size, **common)
        self.least = {"noise_vocab_size": 1, **self.least}

    def check(self) -> list[str]:
        """Nothing but noise, besides the common problems."""
        wrong = [] if 0 <= self.noise_ratio < 1 else [f"noise_ratio: from 0 to below 1, not {self.noise_ratio}"]
        return super().check() + wrong
