"""Layers and modules of FLA whose own `forward` would refuse a device or be slow on it, mended in place.

Mamba2 without the `mamba_ssm` package falls back to a loop that takes 1 to 2 s and 57 GiB per training step on an H100
(d_model 384, 6 layers, 32 x 512 tokens). Its recurrence is `simple_gla`'s, state-space duality (Dao and Gu 2024,
arXiv 2405.21060, section 5: C is the query, B the key, dt x the value, dt A the log decay), so here it calls FLA's
`chunk_simple_gla`: Triton's on CUDA, ours on the CPU. Attention without `flash_attn` goes to PyTorch's SDPA.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels import attention
from attnlab.kernels.routing import bypassed, calls, takes_substitute


def patch() -> None:
    """Apply every mend of this module; called once by `routing.install`, with FLA imported."""
    from fla.layers import mamba2
    from fla.layers.mamba2 import Mamba2
    from fla.modules.fused_cross_entropy.ops import FusedCrossEntropyLoss

    _patch_flash_attention()
    mamba2.logger.setLevel(logging.ERROR)  # it warns of the slow fallback and the conv backend that are replaced here
    Mamba2.torch_forward = _mamba2(Mamba2.torch_forward)
    FusedCrossEntropyLoss.forward = _cross_entropy(FusedCrossEntropyLoss.forward)


def _patch_flash_attention() -> None:
    """Where flash_attn is missing SDPA serves both devices; where it is installed, CPU tensors."""
    ours = {"flash_attn_func": attention.attend, "flash_attn_varlen_func": attention.attend_varlen}

    def either(theirs: Any, mine: Any) -> Any:
        @functools.wraps(theirs)
        def route(*args: Any, **kwargs: Any) -> Any:
            return (mine if takes_substitute(*args, *kwargs.values()) else theirs)(*args, **kwargs)

        return route

    for name, module in list(sys.modules.items()):
        if name.startswith("fla.") and module is not None and "flash_attn_func" in vars(module):
            for key, mine in ours.items():
                theirs = getattr(module, key, None)
                setattr(module, key, mine if theirs is None else either(theirs, mine))


def _cross_entropy(original: Any) -> Any:
    """FusedCrossEntropyLoss asserts CUDA tensors; the function below it does not care."""

    @functools.wraps(original)
    def forward(self, input: Tensor, target: Tensor) -> Any:
        if not takes_substitute(input):
            return original(self, input, target)
        import fla.modules.fused_cross_entropy.ops as ops

        loss, z_loss = ops.cross_entropy_loss(
            input, target, self.label_smoothing, self.logit_scale, self.lse_square_scale, self.logit_softcapping,
            self.ignore_index,
        )  # fmt: skip
        if self.reduction != "none":
            counted = (target != self.ignore_index).sum() if self.reduction == "mean" else 1
            loss, z_loss = loss.sum() / counted, z_loss.sum() / counted
        return (loss, z_loss) if self.return_z_loss else loss

    return forward


def _mamba2(original: Any) -> Any:
    @functools.wraps(original)
    def torch_forward(
        self, x: Tensor, last_state: dict | None = None, use_cache: bool = False, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x: [B, T, D] -> out [B, T, D], convolution state [B, channels, W], recurrent state [B, H, P, N]."""
        if bypassed():
            return original(self, x, last_state, use_cache, attention_mask)
        calls.add("mamba2")
        return _mamba2_forward(self, x, last_state, use_cache, attention_mask)

    return torch_forward


def _mamba2_forward(layer, x: Tensor, last_state: dict | None, use_cache: bool, attention_mask: Tensor | None):
    from fla.layers.mamba2 import apply_mask_to_padding_states
    from fla.modules.convolution import causal_conv1d
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    (batch, steps, _), heads, groups, state_size = x.shape, layer.num_heads, layer.n_groups, layer.ssm_state_size
    width = layer.intermediate_size
    gate, mixed, dt = layer.in_proj(x).split([width, layer.conv_dim, heads], -1)

    mask = attention_mask if attention_mask is not None and attention_mask.shape == x.shape[:2] else None
    conv_state = None if last_state is None else last_state["conv_state"]
    mixed, conv_state = causal_conv1d(
        x=apply_mask_to_padding_states(mixed, mask),
        weight=layer.conv1d.weight.squeeze(1),
        bias=layer.conv1d.bias,
        initial_state=conv_state,
        output_final_state=use_cache or last_state is not None,
        activation=layer.activation if layer.activation in ("silu", "swish") else None,
    )
    if layer.activation not in ("silu", "swish"):
        mixed = layer.act(mixed)
    values, B, C = apply_mask_to_padding_states(mixed, mask).split(
        [width, groups * state_size, groups * state_size], -1
    )
    # head h reads group h // (H / G), as mamba_ssm's kernels do
    B, C = (t.reshape(batch, steps, groups, state_size).repeat_interleave(heads // groups, 2) for t in (B, C))
    values = values.reshape(batch, steps, heads, layer.head_dim)
    dt = F.softplus(dt.float() + layer.dt_bias.float())
    if layer.dt_limit != (0.0, float("inf")):
        dt = dt.clamp(*layer.dt_limit)

    recurrent = steps <= 64 and not torch.is_grad_enabled()
    y, state = (fused_recurrent_simple_gla if recurrent else chunk_simple_gla)(
        q=C,
        k=B,
        v=(values * dt.unsqueeze(-1)).to(values.dtype),
        g=-layer.A_log.float().exp() * dt,
        scale=1.0,
        initial_state=None if last_state is None else last_state["recurrent_state"],
        output_final_state=use_cache or last_state is not None,
        state_v_first=True,
    )
    y = (y + values * layer._get_D(expand_to_head_dim=True)).reshape(batch, steps, width)
    y = layer.norm(y, gate) if layer.rmsnorm else y * layer.act(gate)
    return layer.out_proj(y.to(x.dtype)), conv_state, state
