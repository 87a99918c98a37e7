"""Log-likelihoods and greedy answers of one checkpoint.

What is asked is always (context, continuation) -> the continuation's log-likelihood in nats, and whether greedy
decoding would give it. How the model is run is `analysis.scoring.batches`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.scoring.batches import MAX_LENGTH, BatchedModel, Request
from attnlab.data.tokenizer import Tokenizer
from attnlab.util.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KEPT = 32  # lists of texts, two per benchmark; HellaSwag's 40,168 texts, the largest, make some 20 MB (reckoned)

TokenPair = tuple[Sequence[int], Sequence[int]]  # token ids of a context (at least one) and of its continuation
Advance = Callable[[int], None]  # called with how many requests are done since the last call


@dataclass(frozen=True)
class Scored:
    """One continuation's score."""

    loglikelihood: float  # nats, summed over its tokens
    greedy: bool  # whether each of its tokens is the likeliest one


class Encodings:
    """Token ids of the KEPT last lists of texts, which arms mostly share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # threads that ask for the same texts wait for whoever asked first
        self._tokenizers: dict[str, Tokenizer] = {}
        self._encode = lru_cache(maxsize=KEPT)(lambda digest, texts: self._tokenizers[digest].encode(texts))

    def of(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """As `Tokenizer.encode`; not to be changed."""
        with self._lock:
            self._tokenizers.setdefault(tokenizer.sha256, tokenizer)
            return self._encode(tokenizer.sha256, tuple(texts))


class Scorer(BatchedModel):
    """One model with its tokenizer."""

    def __init__(
        self,
        model: Any,  # a `BackboneForCausalLM`; it is put on `device`, in evaluation mode
        tokenizer: Tokenizer | None,  # None for a model of a task without text: only token ids can be scored
        device: str | torch.device = "cpu",
        dtype: str = "auto",  # bf16 autocast on CUDA, fp32 elsewhere; or one of DTYPES
        max_tokens: int | None = None,  # per batch; None: by device
        max_length: int = MAX_LENGTH,  # tokens the model reads at most; longer contexts lose their beginning
        encodings: Encodings | None = None,  # shared with other scorers; None: texts are tokenised each time
    ):
        device = torch.device(device)
        super().__init__(model, device, dtype_of(device, dtype), max_tokens, max_length)
        self.tokenizer, self.encodings = tokenizer, encodings

    def loglikelihoods(self, requests: Sequence[tuple[str, str]], advance: Advance = lambda n: None) -> list[Scored]:
        """Score (context, continuation) texts; an empty context is the end-of-document token."""
        return self.score(self.encode_pairs(requests), advance)

    def encode_pairs(self, requests: Sequence[tuple[str, str]]) -> list[TokenPair]:
        """Texts as token ids, split as lm-eval does (`TemplateLM._encode_pair`).

        Spaces at the context's end go to the continuation, and both are tokenised as one text. The border is where the
        context alone, tokenised, ends.
        """
        tokenizer = self._text()
        split = [_move_spaces(context, continuation) for context, continuation in requests]
        contexts = list(dict.fromkeys(context for context, _ in split))
        ids = dict(zip(contexts, self._encode(contexts), strict=True))
        wholes = self._encode([context + continuation for context, continuation in split])
        pairs = []
        for (context, continuation), whole in zip(split, wholes, strict=True):
            before, rest = ids[context].tolist(), whole[len(ids[context]) :].tolist()
            if not rest:  # a tokenizer that merges across the border left nothing on this side of it
                rest = tokenizer.encode([continuation])[0].tolist()
            if not rest:
                raise UserError(f"a continuation without tokens after {context[-40:]!r}")
            pairs.append((before or [tokenizer.eos_id], rest))
        return pairs

    def rolling(self, texts: Sequence[str], window: int, advance: Advance = lambda n: None) -> list[tuple[float, int]]:
        """(nats, tokens) of each whole text, every token predicted once, in windows of `window` tokens.

        The first window follows the end-of-document token, each later one its predecessor's last token. A last one with
        fewer tokens follows as many of those before it as fill the window up (lm-eval's `get_rolling_token_windows`
        with a context of 1, `make_disjoint_window`).
        """
        pairs, owner = [], []
        window = min(window, self.max_length)
        for i, ids in enumerate(self._encode(texts)):
            tokens = [self._text().eos_id, *ids.tolist()]
            for start in range(1, len(tokens), window):
                end = min(start + window, len(tokens))
                pairs.append((tokens[max(0, end - 1 - window) : start], tokens[start:end]))
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

    def score(self, pairs: Sequence[TokenPair], advance: Advance = lambda n: None) -> list[Scored]:
        """Score token ids, equal requests once. Raises UserError: a continuation longer than the model reads."""
        positions: dict[Request, list[int]] = {}
        for i, (context, continuation) in enumerate(pairs):
            keep = self.max_length + 1 - len(continuation)
            if keep < 1:
                raise UserError(f"a continuation of {len(continuation)} tokens; the model reads {self.max_length}")
            positions.setdefault((tuple(context[-keep:]), tuple(continuation)), []).append(i)
        out: list[Scored | None] = [None] * len(pairs)
        waiting: tuple[list[Request], Tensor] | None = None
        for launched in [*self.launch(list(positions)), None]:
            if waiting:  # read one batch late, so that the device never waits for the host
                done = 0
                for request, (total, wrong) in zip(waiting[0], waiting[1].tolist(), strict=True):
                    for i in positions[request]:
                        out[i] = Scored(total, wrong == 0)
                        done += 1
                advance(done)
            waiting = launched
        return out  # type: ignore[return-value]

    @torch.inference_mode()
    def greedy(self, contexts: Sequence[str], new: Sequence[int], advance: Advance = lambda n: None) -> list[str]:
        """Greedy text after each context: at least new[i] tokens, unless the document ends."""
        tokenizer = self._text()
        out, ids = [""] * len(contexts), [i.tolist() or [tokenizer.eos_id] for i in self._encode(contexts)]
        lengths: dict[int, list[int]] = {}
        for i in sorted(range(len(ids)), key=lambda i: (len(ids[i]), new[i])):
            lengths.setdefault(len(ids[i]), []).append(i)
        for length, group in lengths.items():  # of equal length, so that no state ever holds padding
            while group:
                n = self.fits(length + new[group[0]])
                batch, group = group[:n], group[n:]
                written = self.decode([ids[i] for i in batch], max(new[i] for i in batch))
                for i, tokens in zip(batch, written, strict=True):
                    end = tokens.index(tokenizer.eos_id) if tokenizer.eos_id in tokens else None
                    out[i] = tokenizer.decode(tokens[:end])
                advance(len(batch))
        return out

    @torch.inference_mode()
    def aligned(
        self, inputs: NDArray[np.int64], targets: NDArray[np.int64], ignore: int, advance: Advance = lambda n: None
    ) -> tuple[list[float], list[int]]:
        """Nats and hits of each row of a task's examples, `inputs` and `targets` [N, T].

        Position t predicts targets[:, t] unless that is `ignore`. Raises UserError: tokens that the model lacks.
        """
        if max(inputs.max(), targets.max()) >= self.model.config.vocab_size:
            raise UserError(f"the task has more tokens than the model's {self.model.config.vocab_size}")
        nats, hits = [], []
        n = self.fits(inputs.shape[1])
        for start in range(0, len(inputs), n):
            x, y = (self.index(torch.from_numpy(array[start : start + n])) for array in (inputs, targets))
            row, column = (y != ignore).nonzero(as_tuple=True)
            with self.running():
                out = self.read_head(self.model.hidden(self._filled(x))[row, column], row, len(x), y[row, column])
            counts = (y != ignore).sum(1).double()
            for loglikelihood, right in torch.stack([out[:, 0], counts - out[:, 1]], 1).tolist():
                nats.append(-loglikelihood)
                hits.append(int(right))
            advance(len(x))
        return nats, hits

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        return self.encodings.of(self._text(), texts) if self.encodings else self._text().encode(texts)

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("the checkpoint has no tokenizer.json, so no text can be scored with it")
        return self.tokenizer


def dtype_of(device: torch.device, name: str) -> torch.dtype | None:
    """What to autocast to; None: fp32 throughout. Raises UserError: no such name."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    if name not in DTYPES:
        raise UserError(f"--dtype {name}: one of auto, {', '.join(DTYPES)}")
    return None if name == "float32" else DTYPES[name]


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
