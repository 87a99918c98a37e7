"""Which documents are for validation, by content alone, so that none is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice

from attnlab.data.sources import Source

FRACTION = 0.05  # of the text, held out where the dataset names no validation split
SMALL = 1000  # documents up to which the fraction is met by choosing among them all
VALIDATION_BYTES = 16 << 20  # text kept for validation, at most (some 4 M tokens); held in memory while packing


def digest_of(document: str) -> bytes:
    """16 bytes that stand for a document's content."""
    return hashlib.blake2b(document.encode(), digest_size=16).digest()


class Split:
    """A source's two sides. Validation is settled first and does not depend on how much is trained on."""

    def __init__(self, source: Source):
        self.source = source
        self._copies: set[bytes] = set()  # validation documents met among the training documents
        self.blank = {"train": 0, "validation": 0}  # documents passed over as null or blank, in each side's last pass

    @cached_property
    def _rule(self) -> Callable[[bytes], bool] | None:
        return held_out_rule(self._documents())

    @cached_property
    def _held(self) -> dict[bytes, str]:
        """Digest -> validation document, each once, up to VALIDATION_BYTES of text."""
        held, size = {}, 0
        for document in self._candidates():
            held[digest_of(document)] = document
            size += len(document.encode())
            if size >= VALIDATION_BYTES:
                break
        return held

    def train(self) -> Iterator[str]:
        """Read the training documents in the source's order, without whitespace-only ones."""
        held = self._held
        for document in self._documents():
            if not self.source.validation:
                if self._rule is None:
                    document = cut_tail(document)[0]
                elif self._rule(digest_of(document)):
                    continue
            if (digest := digest_of(document)) in held:
                self._copies.add(digest)
            yield document

    def validation(self) -> list[str]:
        """Validation documents without exact duplicates and without copies of what `train` has given."""
        return [document for digest, document in self._held.items() if digest not in self._copies]

    @property
    def copies(self) -> int:
        """Number of documents that `validation` leaves out because `train` has given them."""
        return len(self._copies)

    def _candidates(self) -> Iterator[str]:
        if self.source.validation:
            return self._written(self.source.validation(), "validation")
        if self._rule is None:
            return (cut_tail(document)[1] for document in self._documents())
        return (document for document in self._documents() if self._rule(digest_of(document)))

    def _documents(self) -> Iterator[str]:
        return self._written(self.source.train(), "train")

    def _written(self, documents: Iterable[str], side: str) -> Iterator[str]:
        self.blank[side] = 0
        for document in documents:
            if document and not document.isspace():
                yield document
            else:
                self.blank[side] += 1


def held_out_rule(documents: Iterable[str]) -> Callable[[bytes], bool] | None:
    """The test whether a document's digest is held out; None without two distinct documents.

    Beyond `SMALL` documents a digest is held out when it lies in the lowest `FRACTION` of all digests. Among fewer
    that could miss the fraction widely. Then documents are taken in the order of their digests until the fraction of
    the text is reached, except any that would bring it above half.
    """
    first = list(islice(documents, SMALL + 1))
    if len(first) > SMALL:
        limit = int(FRACTION * 2**64)
        return lambda digest: int.from_bytes(digest[:8], "big") < limit
    sizes = {digest_of(document): len(document) for document in first}
    total, taken, held = sum(sizes.values()), 0, set()
    for digest in sorted(sizes):
        if taken < FRACTION * total and taken + sizes[digest] <= total / 2:
            held.add(digest)
            taken += sizes[digest]
    return held.__contains__ if held else None


def cut_tail(document: str) -> tuple[str, str]:
    """Cut off the last `FRACTION` of a document, at a line's (else a word's) beginning."""
    start = int(len(document) * (1 - FRACTION))
    for mark in ("\n", " "):
        if (cut := document.find(mark, start)) != -1 and cut + 1 < len(document):
            return document[: cut + 1], document[cut + 1 :]
    return document[:start], document[start:]
