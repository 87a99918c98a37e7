"""Log-likelihoods and greedy answers of one checkpoint, as fast as its model allows.

What is asked is always (context, continuation) -> the continuation's log-likelihood in nats, and whether greedy
decoding would give it. Three things make it fast: requests of like length go through the model together, as many as a
token budget allows; the head reads the continuation's positions alone; and a context that several continuations share
is read once, its state (a recurrent state, a key-value cache) then standing for it. Padding is to the right, where a
causal model never sees it. Whether the state is exact is tried on each model; where it is not, it is not used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnlab.data.tokenizer import Tokenizer

MAX_LENGTH = 2048  # tokens a model reads at most, as lm-eval's HFLM has it for a model that names no limit
TOKENS = {"cpu": 1024, "cuda": 65536}  # per batch, padding included; cpu: measured, the caches' size
HEAD_BYTES = 1 << 28  # of fp32 logits at once
SHARED_FROM = 12  # context tokens from which on its state is worth its launches
SPREAD = 16  # tokens by which the contexts of a batch differ at most: what the shortest lacks is read per continuation
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Key = tuple[tuple[int, ...], tuple[int, ...]]  # a request
Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a context (at least one) and of its continuation
Advance = Callable[[int], None]  # told how many requests are done since the last call


class ScoringError(ValueError):
    """A checkpoint cannot be scored as asked; the message is one line for the user."""


@dataclass(frozen=True)
class Scored:
    """Of one continuation."""

    loglikelihood: float  # nats, summed over its tokens
    greedy: bool  # whether each of its tokens is the likeliest one


class Scorer:
    """One model with its tokenizer.

    Args:
        model: a `BackboneForCausalLM`; it is put on `device`, in evaluation mode.
        tokenizer: None for a model of a task without text: only token ids can be scored.
        device: `cpu`, `cuda`, ...
        dtype: `auto` (bf16 autocast on CUDA, fp32 elsewhere), `float32`, `bfloat16`, `float16`.
        max_tokens: per batch; None: by device.
        max_length: tokens the model reads at most; longer contexts lose their beginning.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None,
        device: str | torch.device = "cpu",
        dtype: str = "auto",
        max_tokens: int | None = None,
        max_length: int = MAX_LENGTH,
    ):
        self.device = torch.device(device)
        self.model, self.tokenizer = model.to(self.device).eval(), tokenizer
        self.dtype = dtype_of(self.device, dtype)
        self.max_tokens = max_tokens or TOKENS.get(self.device.type, TOKENS["cpu"])
        self.max_length = max_length

    def loglikelihoods(self, requests: Sequence[tuple[str, str]], advance: Advance = lambda n: None) -> list[Scored]:
        """Of (context, continuation) texts, in order. An empty context is the end-of-document token."""
        return self.score(self.encode_pairs(requests), advance)

    def encode_pairs(self, requests: Sequence[tuple[str, str]]) -> list[Pair]:
        """Texts as token ids, parted as lm-eval parts them (`TemplateLM._encode_pair`): spaces at the context's end
        go to the continuation, both are tokenised as one text, and the context's own length in tokens is the border."""
        tokenizer = self._text()
        parted = [_move_spaces(context, continuation) for context, continuation in requests]
        contexts = list(dict.fromkeys(context for context, _ in parted))
        ids = dict(zip(contexts, tokenizer.encode(contexts), strict=True))
        wholes = tokenizer.encode([context + continuation for context, continuation in parted])
        pairs = []
        for (context, continuation), whole in zip(parted, wholes, strict=True):
            before, rest = ids[context].tolist(), whole[len(ids[context]) :].tolist()
            if not rest:  # a tokenizer that merges across the border left nothing on this side of it
                rest = tokenizer.encode([continuation])[0].tolist()
            if not rest:
                raise ScoringError(f"a continuation without tokens after {context[-40:]!r}")
            pairs.append((before or [tokenizer.eos_id], rest))
        return pairs

    def rolling(self, texts: Sequence[str], window: int, advance: Advance = lambda n: None) -> list[tuple[float, int]]:
        """(nats, tokens) of each whole text, every token predicted once: windows of `window` tokens one after another,
        the first after the end-of-document token, each later one after its predecessor's last token (lm-eval's
        `get_rolling_token_windows` with a context of 1)."""
        pairs, owner = [], []
        window = min(window, self.max_length)
        for i, ids in enumerate(self._text().encode(list(texts))):
            tokens = [self._text().eos_id, *ids.tolist()]
            for start in range(1, len(tokens), window):
                pairs.append((tokens[start - 1 : start], tokens[start : start + window]))
                owner.append(i)
        nats, counts, done = [0.0] * len(texts), [0] * len(texts), 0

        def texts_done(windows: int) -> None:
            nonlocal done
            done += windows
            advance(done * len(texts) // len(pairs) - (done - windows) * len(texts) // len(pairs))

        for i, pair, scored in zip(owner, pairs, self.score(pairs, texts_done), strict=True):
            nats[i] -= scored.loglikelihood
            counts[i] += len(pair[1])
        return list(zip(nats, counts, strict=True))

    def score(self, pairs: Sequence[Pair], advance: Advance = lambda n: None) -> list[Scored]:
        """Of token ids; equal requests are computed once.

        Raises:
            ScoringError: a continuation is longer than the model reads.
        """
        asked: dict[Key, list[int]] = {}
        for i, (context, continuation) in enumerate(pairs):
            keep = self.max_length + 1 - len(continuation)
            if keep < 1:
                raise ScoringError(f"a continuation of {len(continuation)} tokens; the model reads {self.max_length}")
            asked.setdefault((tuple(context[-keep:]), tuple(continuation)), []).append(i)
        out: list[Scored | None] = [None] * len(pairs)
        waiting: tuple[list[Key], Tensor] | None = None
        for launched in [*self._launch(list(asked)), None]:
            if waiting:  # read one batch late, so that the device never waits for the host
                done = 0
                for key, (total, wrong) in zip(waiting[0], waiting[1].tolist(), strict=True):
                    for i in asked[key]:
                        out[i] = Scored(total, wrong == 0)
                        done += 1
                advance(done)
            waiting = launched
        return out  # type: ignore[return-value]

    def _launch(self, keys: list[Key]) -> Iterator[tuple[list[Key], Tensor]]:
        """Batch by batch: the requests, and what `_rows` makes of them. Longest first, so that memory runs out at once
        or never."""
        groups: dict[tuple[int, ...], list[Key]] = {}
        for key in keys:
            groups.setdefault(key[0], []).append(key)
        shared, alone = [], []
        for context, group in groups.items():
            if len(group) > 1 and len(context) > SHARED_FROM and self.reuses:
                shared.append(group)
            else:
                alone += group
        shared.sort(key=lambda group: -len(group[0][0]))
        while shared:
            longest = len(shared[0][0][0])
            n = max(1, self.max_tokens // longest)
            some = [group for group in shared[:n] if longest - len(group[0][0]) <= SPREAD]
            shared = shared[len(some) :]
            yield from self._after_contexts(some)
        for rows in self._by_length(alone, 0):
            yield rows, self._rows(rows, 0, None)

    def _after_contexts(self, groups: list[list[Key]]) -> Iterator[tuple[list[Key], Tensor]]:
        """Each group's context is read once, up to the shortest one's last token but one (the last predicts the first
        token of every continuation); the state after it stands before the rest of every request."""
        cut = len(groups[-1][0][0]) - 1
        place = {group[0][0]: i for i, group in enumerate(groups)}
        with torch.inference_mode(), self.autocast():
            cache, nowhere = self._cache(), self._index([])
            self.model.backbone.hidden(self._tensor([context[:cut] for context in place]), cache, (nowhere, nowhere))
        for rows in self._by_length([key for group in groups for key in group], cut):
            yield rows, self._rows(rows, cut, select(cache, self._index([place[context] for context, _ in rows])))

    def _by_length(self, keys: list[Key], cut: int) -> Iterator[list[Key]]:
        """The requests, longest first, as many at once as the budget allows for the tokens after the first `cut`."""
        keys = sorted(keys, key=lambda key: -len(key[0]) - len(key[1]))
        while keys:
            n = max(1, self.max_tokens // (len(keys[0][0]) + len(keys[0][1]) - 1 - cut))
            yield keys[:n]
            keys = keys[n:]

    @torch.inference_mode()
    def _rows(self, rows: list[Key], cut: int, cache: Any) -> Tensor:
        """[rows, 2]: the log-likelihood, and how many of its tokens are not the likeliest. On the device, not awaited.

        `cache` holds the state of every row's first `cut` tokens.
        """
        inputs = [(context + continuation)[cut:-1] for context, continuation in rows]
        counts = torch.tensor([len(continuation) for _, continuation in rows])
        ends = torch.tensor([len(tokens) for tokens in inputs])
        row = torch.repeat_interleave(torch.arange(len(rows)), counts)
        within = torch.arange(len(row)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        row, at = self._index(row), self._index((ends - counts)[row] + within)
        targets = self._index([token for _, continuation in rows for token in continuation])
        with self.autocast():
            hidden = self.model.backbone.hidden(self._tensor(inputs), cache, (row, at))
            return self._read(hidden, row, len(rows), targets)

    @torch.inference_mode()
    def greedy(self, contexts: Sequence[str], new: Sequence[int], advance: Advance = lambda n: None) -> list[str]:
        """What greedy decoding writes after each context: at least new[i] tokens of it, unless the document ends."""
        tokenizer = self._text()
        out, ids = [""] * len(contexts), [i.tolist() or [tokenizer.eos_id] for i in tokenizer.encode(list(contexts))]
        lengths: dict[int, list[int]] = {}
        for i in sorted(range(len(ids)), key=lambda i: (len(ids[i]), new[i])):
            lengths.setdefault(len(ids[i]), []).append(i)
        for length, group in lengths.items():  # of equal length, so that no state ever holds padding
            while group:
                n = max(1, self.max_tokens // (length + new[group[0]]))
                batch, group = group[:n], group[n:]
                written = self._decode([ids[i] for i in batch], max(new[i] for i in batch))
                for i, tokens in zip(batch, written, strict=True):
                    end = tokens.index(tokenizer.eos_id) if tokenizer.eos_id in tokens else None
                    out[i] = tokenizer.decode(tokens[:end])
                advance(len(batch))
        return out

    def _decode(self, prompts: list[list[int]], steps: int) -> list[list[int]]:
        read, cache, written = self._tensor([p[-self.max_length :] for p in prompts]), None, []
        for _ in range(steps):
            with self.autocast():
                if self.model.backbone.cached:
                    got = self.model.backbone(read, past_key_values=cache, use_cache=True)
                    hidden, cache = got.last_hidden_state, got.past_key_values
                else:
                    hidden = self.model.backbone.hidden(read)
                token = self.model.head(hidden[:, -1]).argmax(-1, keepdim=True)
            written.append(token)
            read = token if self.model.backbone.cached else torch.cat([read, token], 1)
        return torch.cat(written, 1).tolist()

    @cached_property
    def reuses(self) -> bool:
        """Whether a state of some tokens may stand for them when several more follow at once: tried here. FLA 0.6's
        forgetting, path and log-linear layers take one token at a time; some mixers keep no state at all."""
        if not self.model.backbone.cached:
            return False
        half = self.dtype is not None or self.device.type != "cpu"
        draw = torch.Generator().manual_seed(0)
        for before, after in ((2 * SHARED_FROM, 9), (70, 70)):  # FLA's layers switch kernels at 64 tokens
            tokens = torch.randint(0, self.model.config.vocab_size, (2, before + after), generator=draw)
            tokens = tokens.to(self.device)
            try:
                with torch.inference_mode(), self.autocast():
                    whole = self.model.backbone.hidden(tokens)[:, before:]
                    cache = self._cache()
                    self.model.backbone.hidden(tokens[:, :before], cache)
                    part = self.model.backbone.hidden(tokens[[1, 0, 1], before:], select(cache, self._index([1, 0, 1])))
            except (AssertionError, ValueError, NotImplementedError, AttributeError):
                return False
            # hidden states are normed to 1; in half precision their rounding alone is some 1e-2
            if not (part - whole[[1, 0, 1]]).abs().float().mean() < (2e-2 if half else 1e-4):
                return False
        return True

    @torch.inference_mode()
    def aligned(
        self, inputs: NDArray[np.int64], targets: NDArray[np.int64], ignore: int, advance: Advance = lambda n: None
    ) -> tuple[list[float], list[int]]:
        """A task's examples [N, T], where position t predicts targets[:, t] unless that is `ignore`: of each row, the
        nats of its targets and how many are the likeliest token.

        Raises:
            ScoringError: the examples have tokens that the model lacks.
        """
        if max(inputs.max(), targets.max()) >= self.model.config.vocab_size:
            raise ScoringError(f"the task has more tokens than the model's {self.model.config.vocab_size}")
        nats, hits = [], []
        n = max(1, self.max_tokens // inputs.shape[1])
        for start in range(0, len(inputs), n):
            x, y = (self._index(torch.from_numpy(part[start : start + n])) for part in (inputs, targets))
            row, at = (y != ignore).nonzero(as_tuple=True)
            with self.autocast():
                out = self._read(self.model.hidden(x)[row, at], row, len(x), y[row, at])
            counts = (y != ignore).sum(1).double()
            for loglikelihood, right in torch.stack([out[:, 0], counts - out[:, 1]], 1).tolist():
                nats.append(-loglikelihood)
                hits.append(int(right))
            advance(len(x))
        return nats, hits

    def _read(self, hidden: Tensor, row: Tensor, rows: int, targets: Tensor) -> Tensor:
        """What the head says at states `hidden` [N, D] of the sequences `row` [N]: [rows, 2], the targets' [N]
        log-likelihoods summed by sequence, and how many of them are not the likeliest."""
        out = torch.zeros(rows, 2, dtype=torch.float64, device=self.device)
        step = max(1, HEAD_BYTES // (4 * self.model.head.weight.shape[0]))
        for part in range(0, len(targets), step):
            some = slice(part, part + step)
            logits = self.model.head(hidden[some]).float()
            losses = F.cross_entropy(logits, targets[some], reduction="none")
            wrong = (logits.argmax(-1) != targets[some]).double()
            out.index_add_(0, row[some], torch.stack([-losses.double(), wrong], 1))
        return out

    def autocast(self) -> AbstractContextManager[Any]:
        """As in training: matrices in half precision, the residual stream in fp32."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def _tensor(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """[rows, longest], padded to the right with token 0."""
        longest = max(map(len, rows))
        filled = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        return filled.to(self.device, non_blocking=True)

    def _index(self, values: Sequence[int] | Tensor) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long).to(self.device, non_blocking=True)

    def _cache(self) -> Any:
        from fla.models.utils import Cache

        return Cache()

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ScoringError("the checkpoint has no tokenizer.json, so no text can be scored with it")
        return self.tokenizer


def dtype_of(device: torch.device, name: str) -> torch.dtype | None:
    """What to autocast to; None: fp32 throughout.

    Raises:
        ScoringError: no such name.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    if name not in DTYPES:
        raise ScoringError(f"--dtype {name}: one of auto, {', '.join(DTYPES)}")
    return None if name == "float32" else DTYPES[name]


def select(cache: Any, index: Tensor) -> Any:
    """A cache of the sequences `index` of `cache`, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.reorder_cache(index)  # FLA's gives each layer new tensors
    return chosen


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
