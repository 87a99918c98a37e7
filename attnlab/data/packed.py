"""Tokens on disk: built once per (documents, tokenizer), read by memmap by every worker.

    <cache>/packed/<key>/meta.json  tokenizer.json  train.bin  validation.bin

The .bin files are little-endian uint16 (vocabularies up to 65,536) or uint32, every document followed by the
end-of-document token. A folder is written under another name, fsynced and renamed, so it appears whole or not at all.
A lock only saves processes from doing the same work at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.data.sources import Source
from attnlab.data.splits import Split
from attnlab.data.tokenizer import BUILT_IN, ByteTokenizer, RoundTrip, Spec, Tokenizer, load, train_bpe
from attnlab.util.files import cache_root, json_digest, naming_full_disk, read_json, remove_leftovers, replacing

VERSION = 1  # of the format and of everything that decides tokens besides sources and tokenizers: splits, pieces
SPLITS = ("train", "validation")
PIECE_CHARS = 1 << 18  # a long document is encoded in pieces of about so much, cut after a newline
BATCH_CHARS = 1 << 22  # text handed to the tokenizer at once, which spreads it over the cores


@dataclass(frozen=True)
class Packed:
    """A finished folder of tokens."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Facts about the tokens.

        The keys are `dtype`, `vocab_size`, `eos_id`, `tokenizer`, `tokenizer_sha256`, `corpus_sha256`, `unigram_loss`
        (nats per token), and, absent in older folders, `copies` and `blank` (see `Split`) and `lost`: None, or the
        share of the validation text's characters that its tokens do not give back (see `RoundTrip`). `train` and
        `validation` hold `tokens`, `bytes` (UTF-8, of the text alone) and `documents`.
        """
        return dict(read_json(self.path / "meta.json"))

    @cached_property
    def train(self) -> NDArray[np.unsignedinteger]:
        """The training tokens, [N] memmap."""
        return self._tokens("train")

    @cached_property
    def validation(self) -> NDArray[np.unsignedinteger]:
        """The validation tokens, [N] memmap."""
        return self._tokens("validation")

    @property
    def tokenizer_json(self) -> str:
        """The text of tokenizer.json."""
        return (self.path / "tokenizer.json").read_text(encoding="utf-8")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, ready to encode and decode."""
        name = self.meta["tokenizer"]
        return ByteTokenizer() if name == "bytes" else Tokenizer(self.tokenizer_json, self.meta["eos"], name)

    def _tokens(self, split: str) -> NDArray[np.unsignedinteger]:
        return np.memmap(self.path / f"{split}.bin", np.dtype(self.meta["dtype"]).newbyteorder("<"), "r")


def pack(source: Source, spec: Spec, max_tokens: int | None = None, cache: Path | None = None) -> Packed:
    """The packed tokens of `source` under `spec`, built unless the cache has them.

    Args:
        max_tokens: training tokens, at most.
        cache: its root; None: `cache_root()`.

    Raises:
        ValueError: the source or the tokenizer cannot be read, or a split has no text.
    """
    cache = cache or cache_root()
    tokenizer = None if spec.name == "bpe" else load(spec, cache)  # a BPE depends on the training text
    who = tokenizer.sha256 if tokenizer else f"bpe {spec.size}"
    facts = {"source": source.identity, "tokenizer": who, "max_tokens": max_tokens, "version": VERSION}
    if spec.name not in BUILT_IN:  # those give every text back
        facts["round_trip"] = 1
    key = json_digest(facts)
    folder = cache / "packed" / key
    if not (folder / "meta.json").exists():
        _build_once(folder, source, spec, tokenizer, max_tokens)
    return Packed(folder)


def _build_once(folder: Path, source: Source, spec: Spec, tokenizer: Tokenizer | None, max_tokens: int | None) -> None:
    from filelock import FileLock

    with naming_full_disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(folder), FileLock(f"{folder}.lock"):
        if (folder / "meta.json").exists():
            return  # another process was first
        remove_leftovers(folder)  # of a builder on this host that was killed, so that its lock is free
        with replacing(folder, overwrite=False) as scratch:  # without locks, another host's folder is as good
            scratch.mkdir()
            _build(scratch, source, spec, tokenizer, max_tokens)


def _build(scratch: Path, source: Source, spec: Spec, tokenizer: Tokenizer | None, max_tokens: int | None) -> None:
    split = Split(source)
    if tokenizer is None:
        tokenizer = train_bpe((piece for document in split.train() for piece in pieces(document)), spec.size)
    (scratch / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    writer = _Writer(tokenizer, np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"))
    facts = {"train": writer.write(scratch / "train.bin", split.train(), f"{source.name} train", max_tokens)}
    writer.returned = None if spec.name in BUILT_IN else RoundTrip()
    facts["validation"] = writer.write(scratch / "validation.bin", split.validation(), f"{source.name} validation")
    for name in SPLITS:
        if not facts[name]["tokens"]:
            raise ValueError(
                f"dataset {source.name}: the {name} split has no text (duplicates of training documents do not count)"
            )
    meta: dict[str, Any] = {
        "version": VERSION,
        "source": {"name": source.name, **source.identity},
        "tokenizer": spec.name,
        "tokenizer_sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
        "eos_id": tokenizer.eos_id,
        "dtype": writer.dtype.name,
        "corpus_sha256": writer.sha256.hexdigest(),
        "copies": split.copies,
        "blank": split.blank,
        "lost": writer.returned and writer.returned.lost,
        **facts,
    }
    train, validation = (np.memmap(scratch / f"{name}.bin", writer.dtype, "r") for name in SPLITS)
    meta["unigram_loss"] = unigram_loss(train, validation, tokenizer.vocab_size)
    (scratch / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


class _Writer:
    """Encodes documents into a file of tokens.

    `sha256` is of their text, with a zero byte after each document. `returned`, if any, counts what comes back.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]):
        self.tokenizer, self.dtype, self.sha256 = tokenizer, dtype, hashlib.sha256()
        self.returned: RoundTrip | None = None

    def write(self, path: Path, documents: Iterable[str], what: str, max_tokens: int | None = None) -> dict[str, int]:
        """Write one split up to exactly `max_tokens`; returns its tokens, UTF-8 bytes and documents."""
        from tqdm import tqdm

        tokens = size = count = 0
        bar = tqdm(desc=f"tokenising {what}", unit=" tokens", unit_scale=True, delay=3, disable=None)  # None: TTY only
        with path.open("wb") as file, bar, contextlib.closing(_batches(documents)) as batches:
            for batch in batches:
                texts = [text for text, _ in batch]
                encoded = self.tokenizer.encode(texts)
                if self.returned:
                    self.returned.add(texts, self.tokenizer.decode_all(encoded))
                for (text, last), ids in zip(batch, encoded, strict=True):
                    row = np.append(ids, self.tokenizer.eos_id) if last else ids
                    left = len(row) if max_tokens is None else max_tokens - tokens
                    raw = (text if left >= len(ids) else self.tokenizer.decode(ids[:left])).encode()
                    self.sha256.update(raw + b"\0" * last)
                    size += len(raw)
                    row[:left].astype(self.dtype).tofile(file)
                    tokens += min(left, len(row))
                    count += last
                    if max_tokens is not None and tokens >= max_tokens:
                        return {"tokens": tokens, "bytes": size, "documents": count + (not last)}
                bar.update(tokens - bar.n)
        return {"tokens": tokens, "bytes": size, "documents": count}


def _batches(documents: Iterable[str]) -> Generator[list[tuple[str, bool]], None, None]:
    """Yield lists of (piece, whether it ends its document), about BATCH_CHARS of text each."""
    batch, chars = [], 0
    for document in documents:
        cut = list(pieces(document))
        for number, piece in enumerate(cut, 1):
            batch.append((piece, number == len(cut)))
            chars += len(piece)
            if chars >= BATCH_CHARS:
                yield batch
                batch, chars = [], 0
    if batch:
        yield batch


def pieces(document: str) -> Iterator[str]:
    """Cut a document into about PIECE_CHARS each, after a newline if possible, to encode them in parallel."""
    start = 0
    while len(document) - start > PIECE_CHARS:
        cut = document.rfind("\n", start, start + PIECE_CHARS) + 1
        end = cut if cut > start else start + PIECE_CHARS
        yield document[start:end]
        start = end
    yield document[start:]


def unigram_loss(train: NDArray[Any], validation: NDArray[Any], vocab_size: int) -> float:
    """Nats per validation token under the training split's token frequencies, with add-one smoothing.

    H = -sum_v n_val(v) / N_val * ln((n_train(v) + 1) / (N_train + V)), which a model without context could reach.
    """
    seen, scored = (_counts(split, vocab_size) for split in (train, validation))
    return float(-(scored * np.log((seen + 1) / (seen.sum() + vocab_size))).sum() / scored.sum())


def _counts(tokens: NDArray[Any], vocab_size: int) -> NDArray[np.int64]:
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), 1 << 24):  # a memmap of any size, 16M tokens at a time
        counts += np.bincount(tokens[start : start + (1 << 24)], minlength=vocab_size)
    return counts
