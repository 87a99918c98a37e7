"""One layer of the decoder: a mixer and an MLP, each normed and on a residual branch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnlab.config.trial import ModelConfig
from attnlab.models.build import build_mixer
from attnlab.models.checks import spec_of
from attnlab.models.cost.least import mlp_width

if TYPE_CHECKING:
    from fla.models.utils import Cache

NORM_EPS = 1e-6
INIT_STD = 0.02  # GPT-2's, and that of FLA's own language models
RESIDUAL_WRITERS = ("o_proj", "out_proj", "down_proj", "down")  # a mixer's or MLP's last matrix


class MLP(nn.Module):
    """The position-wise part. swiglu: down(silu(gate(x)) * up(x)); gelu: down(gelu(up(x)))."""

    def __init__(self, d_model: int, width: int, kind: str):
        super().__init__()
        self.gate = nn.Linear(d_model, width, bias=False) if kind == "swiglu" else None
        self.up = nn.Linear(d_model, width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position by itself: [B, T, D] -> [B, T, D]."""
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One layer; `mlp: none` leaves out the second half."""

    def __init__(self, model: ModelConfig, layer: int):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(model.d_model, eps=NORM_EPS)
        self.mixer = build_mixer(model.mixer_at(layer), model, layer)
        spec = spec_of(model.mixer_at(layer).name)
        self.shares, self.padded, self.mask_to_cache = spec.shares, spec.padded, spec.mask_to_cache
        self.compiled, self.varlen, self.own_init = spec.compiled, spec.varlen, spec.own_init
        self.mlp_norm = self.mlp = None
        if model.mlp != "none":
            self.mlp_norm = nn.RMSNorm(model.d_model, eps=NORM_EPS)
            self.mlp = MLP(model.d_model, model.d_ff or mlp_width(model.d_model, model.mlp), model.mlp)
        self.dropout = nn.Dropout(model.dropout)

    def initialize(self, branches: int) -> None:
        """Draw the matrices from N(0, 0.02), as GPT-2 (Radford et al. 2019, section 2.3).

        Those that write to the residual stream, of so many `branches`, are divided by their square root. In a mixer
        this reaches its `nn.Linear` weights, as in FLA's own language models. Decay rates, time steps, convolutions,
        biases and norms stay as its constructor made them, and so does what its row names in `own_init`.
        """
        kept = self.own_init
        redrawn = [(self.mlp, ())] if kept is True else [(self.mlp, ()), (self.mixer, kept or ())]
        for half, excepted in redrawn:
            for name, module in half.named_modules() if half is not None else ():
                if isinstance(module, nn.Linear) and name not in excepted:
                    writes = name in RESIDUAL_WRITERS
                    nn.init.normal_(module.weight, std=INIT_STD / math.sqrt(branches) if writes else INIT_STD)

    def forward(self, x: Tensor, cache: Cache | None, shared: dict[str, Tensor], **extra: Any) -> Tensor:
        """Run the whole layer: [B, T, D] -> [B, T, D]."""
        return self.after(x, self.mix(self.mixer_norm(x), cache, shared, **extra))

    def mix(self, normed: Tensor, cache: Cache | None, shared: dict[str, Tensor], **extra: Any) -> Tensor:
        """Run the mixer alone: normed [B, T, D] -> [B, T, D].

        Its state in `cache` moves on by T. What mixers of its kind hand to later layers (`MixerSpec.shares`) is read
        from `shared` and left there. Of `extra`, `attention_mask` [B, T] shows padding, `cu_seqlens` [sequences + 1]
        where the sequences laid end to end in one row begin.
        """
        if "cu_seqlens" in extra and not self.varlen:
            return self._each_alone(normed, [(0, slice(*ends)) for ends in pairwise(extra["cu_seqlens"].tolist())])
        if not (self.padded or cache is not None or "attention_mask" not in extra):
            return self._each_alone(normed, enumerate(extra["attention_mask"].bool()))
        if self.mask_to_cache and cache is not None and "attention_mask" not in extra:
            seen = cache.get_seq_length(self.mixer.layer_idx) + normed.shape[1]
            extra["attention_mask"] = torch.ones(normed.shape[0], seen, dtype=torch.long, device=normed.device)
        extra |= {name: shared.get(name) for name in self.shares}
        mixed = self.mixer(normed, past_key_values=cache, use_cache=cache is not None, **extra)
        shared.update({name: mixed[position] for name, position in self.shares.items()})
        return mixed[0] if isinstance(mixed, tuple) else mixed

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Run what follows the mixer, from x [B, T, D] and its output to the next layer's x."""
        x = x + self.dropout(mixed)
        if self.mlp is not None:
            x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x

    def _each_alone(self, x: Tensor, sequences: Iterable[tuple[int, Tensor | slice]]) -> Tensor:
        """Run the mixer on each sequence by itself: the row of x [B, T, D] that it is in, and where."""
        out = torch.zeros_like(x)
        for row, where in sequences:
            mixed = self.mixer(x[row : row + 1, where])
            out[row, where] = (mixed[0] if isinstance(mixed, tuple) else mixed)[0]
        return out
