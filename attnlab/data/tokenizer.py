"""Tokenizers: a byte-level BPE trained here, plain bytes, a local file or a hub id.

All are `tokenizers.Tokenizer` inside, so that each exports as `tokenizer.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlab.data import backend
from attnlab.util.files import exists, read_json, text_digest, write_text
from attnlab.util.text import did_you_mean, first_line, quoted, shortened

EOS = "<|endoftext|>"
# names of published tokenizers' end-of-document tokens, where no tokenizer_config.json gives it
EOS_NAMES = (EOS, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")
BUILT_IN = ("bpe", "bytes")  # the tokenizers that need no file
BPE_VOCAB_SIZE = 4096
SMALLEST_BPE = 257  # 256 bytes and the end-of-document token
TRAIN_BYTES = 64 << 20  # text a BPE is trained on, at most: 64 MiB settle a vocabulary of 65,536


@dataclass(frozen=True)
class Spec:
    """Which tokenizer: `bpe` (with `vocab_size`), `bytes`, a local path, or a hub id (with `revision`)."""

    name: str = "bpe"
    vocab_size: int | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, form: str | Mapping[str, Any], vocab_size: int | None = None) -> Spec:
        """Read `name` or `{name: ..., vocab_size: ..., revision: ...}`; `vocab_size` may be given separately.

        Raises ValueError in one line that begins with the key that is wrong.
        """
        tree = {"name": form} if isinstance(form, str) else dict(form)
        for key, value in tree.items():
            kind = {"name": str, "vocab_size": int, "revision": str}.get(key)
            if kind is None:
                near = did_you_mean(key, ("name", "vocab_size", "revision"))
                raise ValueError(f"tokenizer.{shortened(str(key), 60)}: unknown key{near}")
            if not isinstance(value, kind):
                raise ValueError(
                    f"tokenizer.{key}: {'a whole number' if kind is int else 'a text'}, not {quoted(value)}"
                )
        if vocab_size is not None and "vocab_size" in tree:
            raise ValueError("vocab_size: said twice, also in tokenizer; say it once")
        spec = cls(**{"name": "bpe", "vocab_size": vocab_size, **tree})
        shown = shortened(spec.name, 120)
        if spec.name != "bpe" and spec.vocab_size is not None:
            raise ValueError(f"vocab_size: only tokenizer bpe is trained to a size; {shown} has its own")
        if spec.name == "bpe" and spec.size < SMALLEST_BPE:
            raise ValueError(f"vocab_size: a byte-level BPE needs at least {SMALLEST_BPE}, not {spec.size}")
        path, here = Path(spec.name), exists(spec.name)
        if (path.suffix == ".json" or spec.name.startswith((".", "/", "~"))) and not here:
            raise ValueError(f"tokenizer: no file {shown}; a tokenizer.json, a folder with one, bpe, bytes or a hub id")
        local = spec.name in BUILT_IN or here
        near = did_you_mean(spec.name, BUILT_IN)
        if not local and "/" not in spec.name and near.startswith("; did"):
            raise ValueError(f"tokenizer: no {quoted(spec.name)}{near}")
        if local and spec.revision is not None:
            raise ValueError(f"tokenizer.revision: {shown} is local; only a hub id has one")
        return spec

    @property
    def size(self) -> int:
        """The vocabulary size a BPE is trained to."""
        return BPE_VOCAB_SIZE if self.vocab_size is None else self.vocab_size


class Tokenizer:
    """Encodes text to token ids and back.

    Args:
        text: the content of a `tokenizer.json`.
        eos: the token that ends a document; None: looked up among EOS_NAMES.
        name: as the user wrote it, for messages.

    Raises:
        ValueError: no tokenizer in `text`, or no end-of-document token.
    """

    def __init__(self, text: str, eos: str | None, name: str):
        self._backend = backend.build(text, f"tokenizer {name}: no tokenizer.json")
        self._backend.encode_special_tokens = True  # text that looks like a special token is text
        self.json, self.name = text, name
        if not self._backend.get_vocab_size(with_added_tokens=True):
            raise ValueError(f"tokenizer {name}: no tokenizer.json: it has no tokens")
        names = [eos] if eos else EOS_NAMES
        known = [(e, i) for e in names if (i := self._backend.token_to_id(e)) is not None]
        if not known:
            raise ValueError(f"tokenizer {name}: no end-of-document token; it has none of {', '.join(names)}")
        self.eos, self.eos_id = known[0]

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id (published vocabularies may have holes)."""
        return int(max(self._backend.get_vocab(with_added_tokens=True).values())) + 1

    @property
    def sha256(self) -> str:
        """The digest of the tokenizer.json."""
        return text_digest(self.json)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each text, encoded in parallel, without any special token."""
        with backend.refusing(f"tokenizer {self.name}: cannot encode"):
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encoded]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens included."""
        with backend.refusing(f"tokenizer {self.name}: cannot decode"):
            return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=False))

    def decode_all(self, encoded: Sequence[NDArray[np.uint32]]) -> list[str]:
        """The text of each array of ids, decoded in parallel."""
        with backend.refusing(f"tokenizer {self.name}: cannot decode"):
            return list(self._backend.decode_batch([ids.tolist() for ids in encoded], skip_special_tokens=False))


class ByteTokenizer(Tokenizer):
    """The 256 bytes and, as id 256, the end of a document."""

    def __init__(self) -> None:
        built = _byte_level({char: byte for byte, char in enumerate(byte_alphabet())})
        built.add_special_tokens([EOS])
        super().__init__(built.to_str(), EOS, "bytes")

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Token ids of each text, as the tokenizer.json would give them."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]


@dataclass
class RoundTrip:
    """Whether texts come back from their tokens."""

    exact: bool = True
    characters: int = 0
    missing: int = 0  # of the characters, counted by kind; order is left out, so it is the least

    def add(self, texts: Sequence[str], returned: Sequence[str]) -> None:
        """Count some texts and what their tokens give back."""
        for text, back in zip(texts, returned, strict=True):
            self.characters += len(text)
            if text != back:
                self.exact = False
                self.missing += (Counter(text) - Counter(back)).total()

    @property
    def lost(self) -> float | None:
        """The share of the characters that is missing; None if all texts come back as they are."""
        return None if self.exact else self.missing / self.characters


def lost_text(lost: float, text: str) -> str:
    """Words for `RoundTrip.lost`, such as `at least 0.002% of the text's characters do not`.

    Rounded down, and to a digit that says something. 0: characters come back in another order.
    """
    if not lost:
        return f"{text} does not"
    percent = Decimal(f"{100 * lost:.12g}")
    shown = percent.quantize(Decimal(1).scaleb(min(-1, percent.adjusted())), ROUND_DOWN)
    return f"at least {shown:f}% of {text}'s characters do not"


def byte_alphabet() -> list[str]:
    """The character for each byte in GPT-2's byte-level map: from U+0100 on if it is not printable Latin-1."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)]


def _byte_level(vocab: dict[str, int] | None = None) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    built = Backend(models.BPE(vocab, []) if vocab else models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    return built


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (GPT-2's splitting), deterministically, on at most `TRAIN_BYTES` of text.

    A small corpus may yield fewer than `vocab_size` tokens.
    """
    from tokenizers import trainers

    built = _byte_level()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS], initial_alphabet=byte_alphabet(), show_progress=False
    )
    built.train_from_iterator(_up_to(texts, TRAIN_BYTES), trainer)
    return Tokenizer(built.to_str(), EOS, "bpe")


def _up_to(texts: Iterable[str], limit_bytes: int) -> Iterable[str]:
    for text in texts:
        yield text[:limit_bytes]
        limit_bytes -= len(text.encode())
        if limit_bytes <= 0:
            return


def load(spec: Spec, cache: Path) -> Tokenizer:
    """The tokenizer `bytes`, or that of a path or a hub id.

    `cache` keeps the hub's, so that later runs agree. Raises ValueError in one line if it cannot be read.
    """
    if spec.name == "bytes":
        return ByteTokenizer()
    path = Path(spec.name).expanduser()
    if path.is_file():
        return Tokenizer(_text(path, spec.name), None, spec.name)
    if (path / "tokenizer.json").is_file():
        return Tokenizer(_text(path / "tokenizer.json", spec.name), eos_of(path), spec.name)
    if path.is_dir():
        return Tokenizer(*_from_transformers(spec), spec.name)
    cached = cache / "tokenizers" / f"{text_digest(f'{spec.name}@{spec.revision}', 20)}.json"
    if not cached.exists():
        text, eos = _from_transformers(spec)
        tree = {"name": spec.name, "revision": spec.revision, "eos": eos, "tokenizer": text}
        write_text(cached, json.dumps(tree), overwrite=False)
    tree = read_json(cached)
    return Tokenizer(tree["tokenizer"], tree["eos"], spec.name)


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"tokenizer {name}: no tokenizer.json: not UTF-8 text (byte {error.start})") from None


def eos_of(folder: Path) -> str | None:
    """The eos token that a folder's tokenizer_config.json names, if there is one that can be read."""
    try:
        tree = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    eos = tree.get("eos_token") if isinstance(tree, dict) else None
    eos = eos.get("content") if isinstance(eos, dict) else eos
    return eos if isinstance(eos, str) else None


def _from_transformers(spec: Spec) -> tuple[str, str | None]:
    """(tokenizer.json, eos token) through transformers, which also converts older formats."""
    from transformers import AutoTokenizer

    try:
        # whatever the hub, the network or a conversion may raise
        with backend.refusing("it cannot be read"), backend.panics_unsaid():
            # without code of the folder's own, for which transformers would ask on the terminal
            tokenizer = AutoTokenizer.from_pretrained(
                spec.name, revision=spec.revision or "main", trust_remote_code=False
            )
            return tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token
    except ValueError as error:
        raise ValueError(
            f"tokenizer {spec.name}: no local file or folder, and not to be had from the hub ({first_line(error)}); "
            "give bpe, bytes, a tokenizer.json, or a hub id that can be reached"
        ) from None
