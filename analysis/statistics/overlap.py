"""Whether a benchmark's items are in the text that an arm was trained on.

The training shards are decoded and read as words (lower case, without punctuation; signs of arithmetic are words), and
so is every item with its right answer. A stretch of GRAM words that both have is a match (Brown et al. 2020, arXiv
2005.14165, appendix C); of an item with fewer words, all of it must match. An item counts as seen when at least SHARE
of its words lie in a match, so that a quotation common to both is none. Only verbatim copies are found: a paraphrase, a
translation or another spelling is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRAM = 13  # words
SHARE = 0.5  # of an item's words
SCAN_TOKENS = 1 << 26  # of the shards, at most; beyond, stretches spread evenly over them are read
PIECE_TOKENS = 1 << 17  # decoded at once
WORD = re.compile(r"[^\W_]+|[+=*/-]")

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass
class Items:
    """The items of one exam as hashes of their stretches of words."""

    texts: Sequence[Sequence[str]]  # of each item its wordings (one per candidate); the one that matches most counts
    vocabulary: dict[str, int]  # a number per word, shared by all that is compared with a text; new words are added
    grams: dict[int, tuple[Hashes, NDArray[np.bool_]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        words = [WORD.findall(text.lower()) for wordings in self.texts for text in wordings]
        self.lengths = np.array([len(item) for item in words], np.int64)
        self.starts = self.lengths.cumsum() - self.lengths
        number = self.vocabulary.setdefault
        self.ids = np.array([number(word, len(self.vocabulary)) for item in words for word in item], np.int64)
        for n in {min(int(length), GRAM) for length in self.lengths if length}:
            hashes = np.unique(self._of(n)[1])
            self.grams[n] = hashes, np.zeros(len(hashes), bool)

    def _of(self, n: int) -> tuple[Ids, Hashes]:
        """Beginnings and hashes of the stretches of n words, or of texts as short."""
        which = self.lengths >= n if n == GRAM else self.lengths == n
        begins = [np.arange(s, s + m - n + 1) for s, m in zip(self.starts[which], self.lengths[which], strict=True)]
        starts = np.concatenate([*begins, np.zeros(0, np.int64)]).astype(np.int64)
        return starts, hashed(self.ids, n)[starts]

    def read(self, ids: Ids) -> None:
        """Mark what occurs in a text, words by their numbers and -1."""
        for n, (hashes, matched) in self.grams.items():
            stretches = hashed(ids, n)
            nearest = np.minimum(np.searchsorted(hashes, stretches), len(hashes) - 1)
            matched[nearest[hashes[nearest] == stretches]] = True

    def seen(self) -> list[int]:
        """Per item 1 or 0."""
        covered = np.zeros(len(self.ids) + 1, np.int64)  # +1 where a matched stretch begins, -1 after its end
        for n, (hashes, matched) in self.grams.items():
            starts, stretches = self._of(n)
            starts = starts[matched[np.searchsorted(hashes, stretches)]]
            np.add.at(covered, starts, 1)
            np.add.at(covered, starts + n, -1)
        inside = np.concatenate([[0], (covered.cumsum()[:-1] > 0).cumsum()])
        share = (inside[self.starts + self.lengths] - inside[self.starts]) / np.maximum(self.lengths, 1)
        counts = np.array([len(wordings) for wordings in self.texts])
        ends = counts.cumsum()
        return [int(share[end - n : end].max(initial=0) >= SHARE) for end, n in zip(ends, counts, strict=True)]


def hashed(ids: Ids, n: int) -> Hashes:
    """64-bit hashes of every n ids in a row, mixed as in splitmix64.

    Polynomials over the mixed ids (Steele et al. 2014). Two different stretches agree with probability 2^-64, so among
    10^14 comparisons hardly ever.
    """
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    out = np.zeros(max(0, len(x) - n + 1), np.uint64)
    for k in range(n):
        out = out * np.uint64(0xD6E8FEB86659FD93) + x[k : len(x) - n + 1 + k]
    return out


def scan(
    exams: Mapping[str, Sequence[Sequence[str]]], packed: Any, advance: Callable[[int], None] = lambda n: None
) -> dict[str, dict[str, Any]]:
    """Look for every exam's texts, by its digest, in the training tokens of an `attnlab.data.packed.Packed`.

    Returns:
        by digest `{corpus, tokens, scanned, n, seen, items}`: whose text, its training tokens and how many of them were
        read, the number of items and of those seen, and 1 or 0 per item.
    """
    vocabulary: dict[str, int] = {}
    exam_items = {digest: Items(texts, vocabulary) for digest, texts in exams.items()}
    number, scanned = vocabulary.get, 0
    for text, tokens in pieces(packed):
        ids = np.array([number(word, -1) for word in WORD.findall(text.lower())], np.int64)
        for items in exam_items.values():
            items.read(ids)
        scanned += tokens
        advance(tokens)
    scan_of = {"corpus": packed.meta["source"]["name"], "tokens": len(packed.train), "scanned": scanned}
    seen = {digest: items.seen() for digest, items in exam_items.items()}
    return {digest: {**scan_of, "n": len(row), "seen": sum(row), "items": row} for digest, row in seen.items()}


def pieces(packed: Any) -> Iterator[tuple[str, int]]:
    """(text, tokens) of the training shards, in stretches that overlap by a match's reach."""
    tokens, total = packed.train, len(packed.train)
    n = -(-total // PIECE_TOKENS)
    wanted = min(n, max(1, SCAN_TOKENS // PIECE_TOKENS))
    overlap = 16 * GRAM  # tokens: more than GRAM words take, except for words in single bytes
    for i in range(wanted):
        start = (i * n // wanted) * PIECE_TOKENS
        end = min(total, start + PIECE_TOKENS)
        text = packed.tokenizer.decode(np.asarray(tokens[start : min(total, end + overlap)]).tolist())
        yield text, end - start
