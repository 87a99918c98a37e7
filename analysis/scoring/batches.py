"""Token ids through one model in batches, as fast as the model allows.

Three things make it fast. Requests of like length go through the model together, as many as a token budget allows. The
head reads the continuations' positions alone. And a context that several continuations share is read once: its state (a
recurrent state, a key-value cache) then stands for it. Padding is to the right, where a causal model never sees it.
Whether the state is exact is tried on each model; where it is not, it is not used.

On CUDA a batch has a power of two of rows, the missing ones filled with token 0: FLA's kernels are compiled, some of
them tuned (rotary positions: 15 candidates), for every number of rows they meet. For every shape so is cuDNN's
attention, which is therefore left out. An H100 scored HellaSwag 6.4 times as fast as HFLM so, in the faster of two runs
(`bench/scoring.py`, standard of 16.9M parameters; docs/analysis.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from attnlab.kernels.cpu.attention import NOT_CUDNN

MAX_LENGTH = 2048  # tokens a model reads at most, as lm-eval's HFLM has it for a model that names no limit
TOKENS = {"cpu": 1024, "cuda": 65536}  # per batch, padding included; cpu: measured, the caches' size
HEAD_BYTES = 1 << 28  # of fp32 logits at once
SHARED_FROM = 12  # context tokens from which on its state is worth its launches
SPREAD = 16  # tokens by which the contexts of a batch differ at most: what the shortest lacks is read per continuation

Request = tuple[tuple[int, ...], tuple[int, ...]]  # context and continuation


class BatchedModel:
    """One model on a device, and how it reads many requests."""

    def __init__(
        self,
        model: Any,  # a `BackboneForCausalLM`; it is put on `device`, in evaluation mode
        device: torch.device,
        dtype: torch.dtype | None,  # to autocast to; None: fp32 throughout
        max_tokens: int | None = None,  # per batch; None: by device
        max_length: int = MAX_LENGTH,  # tokens the model reads at most
    ):
        self.device, self.dtype, self.max_length = device, dtype, max_length
        self.model = model.to(device).eval()
        self.powers = device.type == "cuda"  # of two: what a batch's rows are filled up to
        self.max_tokens = max_tokens or TOKENS.get(device.type, TOKENS["cpu"])

    def launch(self, keys: list[Request]) -> Iterator[tuple[list[Request], Tensor]]:
        """Yield batches of requests with their `_rows`, longest first: memory runs out early or never."""
        groups: dict[tuple[int, ...], list[Request]] = {}
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
            some = [group for group in shared[: self.fits(longest)] if longest - len(group[0][0]) <= SPREAD]
            shared = shared[len(some) :]
            yield from self._after_contexts(some)
        for rows in self._by_length(alone, 0):
            yield rows, self._rows(rows, 0, None)

    def _after_contexts(self, groups: list[list[Request]]) -> Iterator[tuple[list[Request], Tensor]]:
        """Read each group's context once, up to a common cut, and continue from there.

        A context's last token predicts the first token of every continuation, so it belongs to the rest.
        """
        cut = len(groups[-1][0][0]) - 1
        rows_of = {group[0][0]: i for i, group in enumerate(groups)}
        with torch.inference_mode(), self.running():
            cache, nowhere = new_cache(), self.index([])
            self.model.backbone.hidden(self._tensor([context[:cut] for context in rows_of]), cache, (nowhere, nowhere))
        for rows in self._by_length([key for group in groups for key in group], cut):
            states = self._filled(self.index([rows_of[context] for context, _ in rows]))
            yield rows, self._rows(rows, cut, select(cache, states))

    def _by_length(self, keys: list[Request], cut: int) -> Iterator[list[Request]]:
        """The requests, longest first, as many at once as the budget allows after `cut`."""
        keys = sorted(keys, key=lambda key: -len(key[0]) - len(key[1]))
        while keys:
            n = self.fits(len(keys[0][0]) + len(keys[0][1]) - 1 - cut)
            yield keys[:n]
            keys = keys[n:]

    @torch.inference_mode()
    def _rows(self, rows: list[Request], cut: int, cache: Any) -> Tensor:
        """[rows, 2]: log-likelihoods and how many tokens are not the likeliest; not awaited.

        `cache` holds the state of every row's first `cut` tokens.
        """
        inputs = [(context + continuation)[cut:-1] for context, continuation in rows]
        counts = torch.tensor([len(continuation) for _, continuation in rows])
        ends = torch.tensor([len(tokens) for tokens in inputs])
        row = torch.repeat_interleave(torch.arange(len(rows)), counts)
        within = torch.arange(len(row)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        row, column = self.index(row), self.index((ends - counts)[row] + within)
        targets = self.index([token for _, continuation in rows for token in continuation])
        with self.running():
            hidden = self.model.backbone.hidden(self._tensor(inputs), cache, (row, column))
            return self.read_head(hidden, row, len(rows), targets)

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], steps: int) -> list[list[int]]:
        """`steps` greedy tokens after each prompt; all prompts are equally long."""
        read, cache, written = self._tensor([p[-self.max_length :] for p in prompts]), None, []
        for _ in range(steps):
            with self.running():
                if self.model.backbone.cached:
                    output = self.model.backbone(read, past_key_values=cache, use_cache=True)
                    hidden, cache = output.last_hidden_state, output.past_key_values
                else:
                    hidden = self.model.backbone.hidden(read)
                token = self.model.head(hidden[:, -1]).argmax(-1, keepdim=True)
            written.append(token)
            read = token if self.model.backbone.cached else torch.cat([read, token], 1)
        return torch.cat(written, 1)[: len(prompts)].tolist()

    @cached_property
    def reuses(self) -> bool:
        """Whether a state may stand for its tokens when several more follow: tried here.

        FLA 0.6's forgetting, path and log-linear layers take one token at a time; some mixers keep no state at all.
        """
        if not self.model.backbone.cached:
            return False
        half = self.dtype is not None or self.device.type != "cpu"
        draw = torch.Generator().manual_seed(0)
        for before, after in ((2 * SHARED_FROM, 9), (70, 70)):  # FLA's layers switch kernels at 64 tokens
            tokens = torch.randint(0, self.model.config.vocab_size, (2, before + after), generator=draw)
            tokens = tokens.to(self.device)
            try:
                with torch.inference_mode(), self.running():
                    whole = self.model.backbone.hidden(tokens)[:, before:]
                    cache = new_cache()
                    self.model.backbone.hidden(tokens[:, :before], cache)
                    rest = self.model.backbone.hidden(tokens[[1, 0, 1], before:], select(cache, self.index([1, 0, 1])))
            except (AssertionError, ValueError, NotImplementedError, AttributeError):
                return False
            # hidden states are normed to 1; in half precision their rounding alone is some 1e-2
            if not (rest - whole[[1, 0, 1]]).abs().float().mean() < (2e-2 if half else 1e-4):
                return False
        return True

    def read_head(self, hidden: Tensor, row: Tensor, rows: int, targets: Tensor) -> Tensor:
        """[rows, 2]: `targets`' [N] log-likelihoods and misses, summed by `row` [N]; `hidden` [N, D]."""
        out = torch.zeros(rows, 2, dtype=torch.float64, device=self.device)
        step = max(1, HEAD_BYTES // (4 * self.model.head.weight.shape[0]))
        for start in range(0, len(targets), step):
            some = slice(start, start + step)
            logits = self.model.head(hidden[some]).float()
            losses = F.cross_entropy(logits, targets[some], reduction="none")
            wrong = (logits.argmax(-1) != targets[some]).double()
            out.index_add_(0, row[some], torch.stack([-losses.double(), wrong], 1))
        return out

    def autocast(self) -> AbstractContextManager[Any]:
        """As in training: matrices in half precision, the residual stream in fp32."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def running(self) -> AbstractContextManager[Any]:
        """`autocast`, and on CUDA no kernel that is built for one shape."""
        both = ExitStack()
        both.enter_context(self.autocast())
        if self.device.type == "cuda":
            both.enter_context(sdpa_kernel(NOT_CUDNN))
        return both

    def fits(self, length: int) -> int:
        """How many rows of that many tokens make a batch, at least 1."""
        n = max(1, self.max_tokens // length)
        return 1 << (n.bit_length() - 1) if self.powers else n

    def _filled(self, rows: Tensor) -> Tensor:
        """[rows, ...] -> as many rows as the device wants, the new ones 0."""
        n = len(rows)
        wanted = 1 << (n - 1).bit_length() if self.powers else n
        return torch.cat([rows, rows.new_zeros(wanted - n, *rows.shape[1:])]) if wanted > n else rows

    def _tensor(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """[rows, longest], padded to the right with token 0, then filled up (`_filled`)."""
        longest = max(map(len, rows))
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        return self._filled(padded).to(self.device, non_blocking=True)

    def index(self, values: Sequence[int] | Tensor) -> Tensor:
        """Indices on the device."""
        return torch.as_tensor(values, dtype=torch.long).to(self.device, non_blocking=True)


def new_cache() -> Any:
    """FLA's empty cache."""
    from fla.models.utils import Cache  # not at the top: importing FLA has to follow attnlab's own layers

    return Cache()


def select(cache: Any, index: Tensor) -> Any:
    """A cache of the sequences `index` of `cache`, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.reorder_cache(index)  # FLA's gives each layer new tensors
    return chosen
