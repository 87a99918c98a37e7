"""Language modelling: each position predicts the next token of a packed stream of documents.

One row, seq_len 8:

    inputs   It  is  a  truth  universally  acknowledged  ,     that
    targets  is  a   truth  universally  acknowledged  ,  that  a

Documents follow one another, each ended by the end-of-document token, and a row may hold parts of several; attention
is not masked between them. Training and validation tokens are separate arrays, so no row ever holds both.
"""

from __future__ import annotations

import contextlib
import json
import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.data.overlap import contained
from attnlab.data.packed import Packed, pack
from attnlab.data.sampler import Blocks, Sampler
from attnlab.data.sources import Dataset, Source, check_dataset, open_dataset
from attnlab.data.tokenizer import Spec, load, lost_text
from attnlab.tasks import base
from attnlab.tasks.base import Batch
from attnlab.util.files import cache_root, json_digest, write_json
from attnlab.util.text import one_line

# A run so long that two texts have it by copying: the 50 tokens of Lee et al. 2022, "Deduplicating Training Data Makes
# Language Models Better" (arXiv 2107.06499, section 4.1), in bytes of English at 4 a token.
SPAN_BYTES = 200
MOST_SPANS = 1 << 17
KEEP_BEYOND = 1 << 24  # training tokens; of more the look-up, some 0.1 s per million, is stored with them
PASSAGE = 80  # characters shown of a passage that both splits have


class Task(base.Task):
    """Next-token prediction on a text corpus.

    Args:
        dataset: `austen` (built in), a local file or folder (.txt, .jsonl, .json, .parquet, `save_to_disk`), a hub id.
        config: of a hub dataset, which of its configs; of a local folder, one of its card or a folder within.
        split: the split trained on; of a local folder, by its card or its files' names (docs/data.md).
        revision: of a hub dataset, a branch, tag or commit; None: what its main branch was when the cache first asked.
        field: the text column.
        max_tokens: training tokens used, at most.
        validation: the validation split's name; None: a local folder's files so named, else 5 % of the text, whole
            documents chosen by a hash of their content, or the tail of a single document.
        files: of a local folder, a pattern that the paths of its files match, such as `*.parquet`.
        tokenizer: `bpe` (trained on the training split), `bytes`, a tokenizer.json, a folder with one, or a hub id;
            or `{name: ..., vocab_size: ..., revision: ...}`.
        vocab_size: of the `bpe`; None: 4096.
        eval_tokens: validation tokens per evaluation, at most: blocks spread evenly over the validation split, always
            the same ones.
    """

    metrics: tuple[str, ...] = ("val_loss", "val_bpb")

    def __init__(
        self,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        dataset: str = "austen",
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        field: str = "text",
        max_tokens: int | None = None,
        validation: str | None = None,
        tokenizer: str | dict[str, Any] = "bpe",
        vocab_size: int | None = None,
        eval_tokens: int = 65536,
        files: str | None = None,
    ):
        super().__init__(seq_len=seq_len, batch_size=batch_size, seed=seed)
        self.dataset = Dataset(dataset, config, split, revision, field, validation, files)
        self.max_tokens, self.eval_tokens = max_tokens, eval_tokens
        self._tokenizer_form, self._bpe_size = tokenizer, vocab_size

    def check(self) -> list[str]:
        """What is wrong with the dataset's and the tokenizer's names and with the sizes."""
        problems = check_dataset(self.dataset)
        try:
            Spec.parse(self._tokenizer_form, self._bpe_size)
        except ValueError as error:
            problems.append(str(error))
        if self.max_tokens is not None and self.max_tokens <= self.seq_len:
            problems.append(f"max_tokens: {self.max_tokens} do not fill one block of seq_len + 1 = {self.seq_len + 1}")
        if self.eval_tokens < self.seq_len:
            problems.append(f"eval_tokens: at least seq_len {self.seq_len}, not {self.eval_tokens}")
        return problems

    def prepare(self) -> None:
        """Tokenise the corpus, or find it in the cache.

        Raises:
            ValueError: one line: the corpus or the tokenizer cannot be had, or a split is shorter than one block.
        """
        assert self.packed

    @cached_property
    def _source(self) -> Source:
        return open_dataset(self.dataset, cache_root())

    @cached_property
    def packed(self) -> Packed:
        """The corpus's tokens and the facts about them. Bits per byte are no metric where text does not come back."""
        packed = pack(self._source, Spec.parse(self._tokenizer_form, self._bpe_size), self.max_tokens, cache_root())
        for name in ("train", "validation"):
            if (tokens := packed.meta[name]["tokens"]) <= self.seq_len:
                raise ValueError(
                    f"dataset {self.dataset.name}: the {name} split has {tokens} tokens, fewer than one block of "
                    f"seq_len + 1 = {self.seq_len + 1}; use more text or seq_len at most {tokens - 1}"
                )
        if (lost := packed.meta.get("lost")) is not None:
            why = f"{lost_text(lost, 'the validation text')} come back from its tokens, so there are no bits per byte"
            self.missing = {"val_bpb": f"tokenizer {packed.meta['tokenizer']}: {why}"}
            self.metrics = ("val_loss",)
        return packed

    def notes(self) -> list[str]:
        """Which files of a folder are read, rows without text, and a tokenizer that loses text."""
        blank = self.packed.meta.get("blank", {})
        rows = " and ".join(f"{n:,} {side}" for side, n in blank.items() if n)
        passed = [f"dataset {self.dataset.name}: {rows} rows are null or blank and were passed over"] if rows else []
        return [*filter(None, [self._source.note]), *passed, *self.missing.values()]

    def regrouped(self) -> str:
        """Tell of a local folder's own validation files, of whose text older versions trained on the most."""
        given = self.dataset
        if not given.is_local or given.validation is not None or self._source.validation is None:
            return ""
        return f"the division of task.dataset {given.name} (its own validation files, no longer a part of all its text)"

    def hashes(self) -> dict[str, str]:
        """Of the documents' files, in order, and of the tokenizer's; a `bpe` is named by its size."""
        spec = Spec.parse(self._tokenizer_form, self._bpe_size)
        if spec.name == "bpe":
            tokenizer = f"bpe {spec.size}"
        elif "packed" in vars(self):  # a large one takes a second to load
            tokenizer = self.packed.meta["tokenizer_sha256"]
        else:
            tokenizer = load(spec, cache_root()).sha256
        return {"corpus": json_digest(self._source.identity, 64), "tokenizer": tokenizer}

    @cached_property
    def _sampler(self) -> Sampler:
        return Sampler(Blocks(self.packed.train, self.seq_len), self.batch_size, self.seed)

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """V, which a BPE of a small corpus may keep below the size given."""
        return int(self.packed.meta["vocab_size"])

    @property
    def eos_id(self) -> int:  # type: ignore[override]
        """The end-of-document token."""
        return int(self.packed.meta["eos_id"])

    @property
    def bytes_per_token(self) -> float | None:  # type: ignore[override]
        """UTF-8 bytes per token over the whole validation split; None if the text does not come back from its tokens.

        Bits per byte are loss / ln 2 / bytes_per_token. End-of-document tokens count as tokens of 0 bytes.
        """
        return self._bytes_per_token if self.packed.meta.get("lost") is None else None

    @property
    def _bytes_per_token(self) -> float:
        return float(self.packed.meta["validation"]["bytes"] / self.packed.meta["validation"]["tokens"])

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Training blocks [B / world, T], every block once per epoch."""
        return _shifted(self._sampler.batch(step, rank, world))

    def eval_examples(self, limit: int | None = None) -> Batch:
        """Validation blocks [N, T], spread evenly over the split; N tokens are at most `eval_tokens`."""
        blocks = Blocks(self.packed.validation, self.seq_len)
        n = min(len(blocks), self.eval_tokens // self.seq_len)
        n = n if limit is None else min(n, limit)
        return _shifted(blocks[np.arange(n) * len(blocks) // max(n, 1)])

    def baselines(self) -> dict[str, float]:
        """Nats per token of a uniform guess and of the training split's token frequencies."""
        return {"unigram_loss": self.packed.meta["unigram_loss"], "uniform_loss": math.log(self.vocab_size)}

    def tokenizer_json(self) -> str:
        """The text of tokenizer.json."""
        return self.packed.tokenizer_json

    def leakage(self) -> dict[str, Any]:
        """Looked up in the packed tokens, at every offset of the training split.

        Returns:
            `windows`: sequences of `window_tokens` validated on, `in_training`: the share of them that occur there
            whole; `tokens`, `documents` of the validation split; `tokens_in_training`: the share of these tokens that
            lie in a run of `span_tokens` that occurs there; `copies`: further documents that were left out because
            training has them too (None: packed by a version that did not count); `passage`: the beginning of one
            sequence or run that both have, on one line, None where there is none.
        """
        file = self.packed.path / f"overlap-{self.seq_len}-{self.eval_tokens}.json"  # the folder is of this content
        large = len(self.packed.train) > KEEP_BEYOND
        overlap: dict[str, Any] = (
            json.loads(file.read_text(encoding="utf-8")) if large and file.exists() else self._overlap()
        )
        if large and not file.exists():
            with contextlib.suppress(OSError):  # a cache that others own
                write_json(file, overlap)
        return overlap

    def _overlap(self) -> dict[str, Any]:
        packed, windows = self.packed, self.eval_examples().inputs
        n = max(1, min(round(SPAN_BYTES / self._bytes_per_token), len(packed.validation)))
        every = max(1, n // 4, len(packed.validation) // MOST_SPANS)
        spans = np.lib.stride_tricks.sliding_window_view(packed.validation, n)[::every]
        repeated, copied = (contained(runs, packed.train, self.vocab_size) for runs in (windows, spans))
        edges = np.zeros(len(packed.validation) + 1, np.int64)  # +1 where a run that was found begins, -1 where it ends
        starts = np.flatnonzero(copied) * every
        edges[starts] += 1
        np.subtract.at(edges, starts + n, 1)
        return {
            "windows": len(windows),
            "window_tokens": self.seq_len,
            "in_training": float(repeated.mean()),
            "tokens": len(packed.validation),
            "span_tokens": n,
            "tokens_in_training": float((edges.cumsum()[:-1] > 0).mean()),
            "documents": packed.meta["validation"]["documents"],
            "copies": packed.meta.get("copies"),
            "passage": self._passage(windows[repeated] if repeated.any() else spans[copied]),
        }

    def _passage(self, found: NDArray[np.integer[Any]]) -> str | None:
        """The beginning of the first of the sequences found [N, T], as text."""
        if not len(found):
            return None
        return one_line(self.packed.tokenizer.decode(found[0].tolist()))[:PASSAGE]

    def describe(self) -> dict[str, Any]:
        """The corpus, its splits and its tokenizer."""
        meta = self.packed.meta
        keys = ("source", "train", "validation", "corpus_sha256", "tokenizer", "tokenizer_sha256", "unigram_loss")
        facts = {"dataset": self.dataset.name, "eval_tokens": self.eval_tokens, "bytes_per_token": self.bytes_per_token}
        facts["lost"] = meta.get("lost")
        return super().describe() | facts | {key: meta[key] for key in keys}


def _shifted(blocks: np.ndarray) -> Batch:
    """int64 [B, T + 1] -> inputs and targets [B, T], contiguous."""
    return Batch(np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, 1:]))
