"""Mamba and Mamba2 where the `mamba_ssm` package is missing, on either device.

FLA's own fallbacks take 1 to 2 s and 57 GiB per training step of Mamba2 on an H100 (d_model 384, 6 layers, 32 x 512
tokens), and refuse more than one new token after a prefix. Here Mamba calls `selective_scan`, which has a Triton kernel
of ours on CUDA. Mamba2's recurrence is `simple_gla`'s, state-space duality (Dao and Gu 2024, arXiv 2405.21060, section
5: C is the query, B the key, dt x the value, dt A the log decay), so it calls FLA's `chunk_simple_gla`: Triton's on
CUDA, ours on the CPU.

Both forwards take x [B, T, D], the layer's state from the cache or None, and a mask [B, T], 1 at tokens and 0 at the
padding to the left; they return the output [B, T, D], the convolution's state [B, channels, W] and the recurrent state.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.cpu.recurrent.scan import selective_scan
from attnlab.kernels.dispatch import bypassed, calls


def patch() -> None:
    """Put both in place; called once, with FLA imported."""
    from fla.layers import mamba, mamba2

    for module in (mamba, mamba2):  # they warn of the slow fallback and the convolution's backend, replaced here
        module.logger.setLevel(logging.ERROR)
    mamba.Mamba.slow_forward = _instead(mamba.Mamba.slow_forward, mamba_forward)
    mamba2.Mamba2.torch_forward = _instead(mamba2.Mamba2.torch_forward, mamba2_forward)


def _instead(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(self, x, last_state=None, use_cache=False, attention_mask=None, **kwargs: Any):
        if bypassed():
            return original(self, x, last_state, use_cache, attention_mask, **kwargs)
        if x.device.type == "cpu":
            calls.add(ours.__name__)
        return ours(self, x, last_state, use_cache, attention_mask)

    return forward


def _convolve(layer: Any, x: Tensor, mask: Tensor | None, state: Tensor | None, keep: bool):
    """The layer's short convolution and activation over [B, T, channels], padding zeroed before and after."""
    from fla.layers.mamba2 import apply_mask_to_padding_states
    from fla.modules.convolution import causal_conv1d

    fused = layer.activation in ("silu", "swish")
    x, state = causal_conv1d(
        x=apply_mask_to_padding_states(x, mask),
        weight=layer.conv1d.weight.squeeze(1),
        bias=layer.conv1d.bias,
        initial_state=state,
        output_final_state=keep,
        activation=layer.activation if fused else None,
    )
    return apply_mask_to_padding_states(x if fused else layer.act(x), mask), state


def _states(last: dict | None) -> tuple[Tensor | None, Tensor | None]:
    """(convolution's, recurrent) state from the cache."""
    return (None, None) if last is None else (last["conv_state"], last["recurrent_state"])


def mamba_forward(layer: Any, x: Tensor, last_state: dict | None, use_cache: bool, attention_mask: Tensor | None):
    """`Mamba.slow_forward`'s contract (Gu and Dao 2023, arXiv 2312.00752); recurrent state [B, E, N]."""
    keep = use_cache or last_state is not None
    mask = attention_mask if attention_mask is not None and attention_mask.shape == x.shape[:2] else None
    conv_state, state = _states(last_state)
    values, gate = layer.in_proj(x).chunk(2, -1)
    values, conv_state = _convolve(layer, values, mask, conv_state, keep)
    states = layer.ssm_state_size
    dt, B, C = layer.x_proj(values).split([layer.dt_rank, states, states], -1)
    delta = F.softplus(layer.dt_proj(dt).float())
    y, state = selective_scan(values, delta, -layer.A_log.float().exp(), B, C, layer.D, state)
    return layer.out_proj(y.to(x.dtype) * layer.act(gate)), conv_state, state if keep else None


def mamba2_forward(layer: Any, x: Tensor, last_state: dict | None, use_cache: bool, attention_mask: Tensor | None):
    """`Mamba2.torch_forward`'s contract; recurrent state [B, H, P, N]."""
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    (batch, steps, _), heads, groups, state_size = x.shape, layer.num_heads, layer.n_groups, layer.ssm_state_size
    width, keep = layer.intermediate_size, use_cache or last_state is not None
    mask = attention_mask if attention_mask is not None and attention_mask.shape == x.shape[:2] else None
    conv_state, state = _states(last_state)
    gate, mixed, dt = layer.in_proj(x).split([width, layer.conv_dim, heads], -1)
    mixed, conv_state = _convolve(layer, mixed, mask, conv_state, keep)
    values, B, C = mixed.split([width, groups * state_size, groups * state_size], -1)
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
        initial_state=state,
        output_final_state=keep,
        state_v_first=True,
    )
    y = (y + values * layer._get_D(expand_to_head_dim=True)).reshape(batch, steps, width)
    y = layer.norm(y, gate) if layer.rmsnorm else y * layer.act(gate)
    return layer.out_proj(y.to(x.dtype)), conv_state, state
