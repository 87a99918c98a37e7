"""FLA's other fused modules in PyTorch: activations, rotary, short convolution, token shift, cross entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.dispatch import substitute

ACTIVATIONS = {
    "swish": lambda x: F.silu(x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "logsigmoid": lambda x, temperature=1.0: (F.logsigmoid(x.float()) / temperature).to(x.dtype),
    "sqrelu": lambda x: F.relu(x).square(),
    "swiglu": lambda x, y: F.silu(x) * y,
    "swiglu_linear": lambda x, y, weight, bias: F.linear(F.silu(x) * y, weight, bias),
    "sigmoidglu": lambda x, y: torch.sigmoid(x) * y,
}
for _name, _activation in ACTIVATIONS.items():
    substitute(f"fla.modules.activations.ops:{_name}")(_activation)


@substitute("fla.modules.rotary.ops:rotary_embedding")
def rotary_embedding(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, seqlen_offsets: int | Tensor, cu_seqlens: Tensor | None
) -> Tensor:
    """Turn the first 2R channels by position (Su et al. 2021, arXiv 2104.09864, equation 34).

    Args:
        x: [B, T, H, D]; with `cu_seqlens` B is 1 and positions restart at each sequence.
        cos, sin: [longest, R].
        interleaved: pairs are (0, 1), (2, 3), ... instead of (0, R), (1, R + 1), ...
        seqlen_offsets: the first position, an int or one per sequence.
    """
    steps, rotated = x.shape[1], 2 * cos.shape[-1]
    positions = torch.arange(steps, device=x.device)
    if cu_seqlens is not None:
        lengths = cu_seqlens.diff()
        offsets = torch.as_tensor(seqlen_offsets, device=x.device).expand(len(lengths))
        positions = (positions + torch.repeat_interleave(offsets - cu_seqlens[:-1], lengths))[None]
    elif isinstance(seqlen_offsets, Tensor):
        positions = positions + seqlen_offsets[:, None]
    else:
        positions = positions[None] + seqlen_offsets
    c, s = (table[positions].unsqueeze(2).float() for table in (cos, sin))  # [B or 1, T, 1, R]
    turned = x[..., :rotated].float()
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (a * c - b * s, a * s + b * c)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([turned.to(x.dtype), x[..., rotated:]], -1)


@substitute("fla.modules.causal_conv1d.ops:causal_conv1d")
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None,
    initial_state: Tensor | None = None, output_final_state: bool = False, activation: str | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Depthwise causal convolution.

    y_t = act(sum_w weight[:, w] x_{t - W + 1 + w} + bias) + residual_t.

    Args:
        x, residual: [B, T, D] (or [B, T, H, D / H]).
        weight: [D, W].
        initial_state: [N, D, W], the W inputs before the first, or None for zeros.
        activation: None, "silu" or "swish".
        cu_seqlens: [N + 1]; sequences end to end in x with B = 1.

    Returns:
        y shaped and typed as x, and the last W inputs [N, D, W] if `output_final_state`.
    """
    if cu_seqlens is not None:
        bounds, parts = cu_seqlens.tolist(), []
        for i, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            state = None if initial_state is None else initial_state[i : i + 1]
            added = None if residual is None else residual[:, start:end]
            piece = x[:, start:end]
            parts.append(causal_conv1d(piece, weight, bias, added, state, output_final_state, activation))
        final = torch.cat([state for _, state in parts]) if output_final_state else None
        return torch.cat([y for y, _ in parts], 1), final
    taps = weight.shape[-1]
    inputs = x.flatten(2).transpose(1, 2)  # [B, D, T]
    before = inputs.new_zeros(*inputs.shape[:2], taps) if initial_state is None else initial_state.to(x.dtype)
    history = torch.cat([before, inputs], -1)
    kernel, offset = weight.float().unsqueeze(1), None if bias is None else bias.float()
    y = F.conv1d(history[..., 1:].float(), kernel, offset, groups=inputs.shape[1])
    if activation in ("swish", "silu"):
        y = F.silu(y)
    y = y.transpose(1, 2).reshape(x.shape)
    if residual is not None:
        y = y + residual
    return y.to(x.dtype).contiguous(), history[..., -taps:].contiguous() if output_final_state else None


@substitute("fla.modules.causal_conv1d.ops:causal_conv1d_update")
def causal_conv1d_update(
    x: Tensor, cache: Tensor, residual: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, activation: str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One step of `causal_conv1d`: x [N, D] or with a dimension of 1; cache [N, D, W], in place."""
    newest = x.reshape(-1, x.shape[-1])
    cache.copy_(torch.cat([cache[..., 1:], newest.unsqueeze(-1).to(cache.dtype)], -1))
    y = cache.float().sum(-1) if weight is None else (cache.float() * weight.float()).sum(-1)
    if bias is not None:
        y = y + bias.float()
    if activation in ("swish", "silu"):
        y = F.silu(y)
    y = y.view(x.shape)
    if residual is not None:
        y = y + residual
    return y.to(x.dtype), cache


@substitute("fla.modules.token_shift:token_shift")
def token_shift(x: Tensor, cu_seqlens: Tensor | None, cache: Tensor | None, output_cache: bool):
    """RWKV's shift x_{t-1} - x_t of x [B, T, D]; cache [N, 1, D]: the inputs before."""
    previous = F.pad(x, (0, 0, 1, -1))
    if cu_seqlens is None:
        if cache is not None:
            previous = torch.cat([cache.view(x.shape[0], 1, -1).to(x.dtype), x[:, :-1]], 1)
        last = x[:, -1:]
    else:
        starts = cu_seqlens[:-1].long()
        previous = previous.index_fill(1, starts, 0.0)
        if cache is not None:
            previous = previous.index_add(1, starts, cache.reshape(1, -1, x.shape[-1]).to(x.dtype))
        last = x[0, cu_seqlens[1:].long() - 1].unsqueeze(1)
    return (previous - x, last) if output_cache else previous - x


@substitute("fla.modules.fused_cross_entropy.ops:cross_entropy_loss")
def cross_entropy_loss(
    logits: Tensor, target: Tensor, label_smoothing: float = 0.0, logit_scale: float = 1.0,
    lse_square_scale: float = 0.0, logit_softcapping: float | None = None, ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss and its z-loss part per row, fp32 [N]. logits: [N, vocabulary]; target: [N]."""
    scores = logits.float() * logit_scale
    if logit_softcapping is not None:
        scores = logit_softcapping * torch.tanh(scores / logit_softcapping)
    loss = F.cross_entropy(scores, target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none")
    if not lse_square_scale:
        return loss, torch.zeros_like(loss)
    z_loss = lse_square_scale * scores.logsumexp(-1).square() * (target != ignore_index)
    return loss + z_loss, z_loss.detach()


@substitute("fla.modules.fused_linear_cross_entropy.ops:fused_linear_cross_entropy_loss")
def fused_linear_cross_entropy_loss(
    x, target, weight, bias, ignore_index, label_smoothing, logit_scale, logit_softcapping, reduction
):  # fmt: skip
    """`cross_entropy_loss` of x [N, D] @ weight.T + bias, summed or averaged over the targets."""
    logits = F.linear(x, weight, bias)
    loss, _ = cross_entropy_loss(logits, target, label_smoothing, logit_scale, 0.0, logit_softcapping, ignore_index)
    return loss.sum() / (target != ignore_index).sum() if reduction == "mean" else loss.sum()


@substitute("fla.ops.rwkv7.fused_addcmul:fused_addcmul_rwkv7")
def fused_addcmul_rwkv7(hidden_states, delta, xr, xw, xk, xv, xa, xg=None):
    """RWKV7's six interpolations with the previous token (arXiv 2503.14456): h + delta * x."""
    return tuple(None if x is None else torch.addcmul(hidden_states, delta, x) for x in (xr, xw, xk, xv, xa, xg))


@substitute("fla.ops.rwkv7.fused_k_update:fused_k_rwkv7")
def fused_k_rwkv7(k: Tensor, a: Tensor, ka: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """RWKV7's replacement key k (1 + (a - 1) ka), elementwise; k, a: [B, T, D]."""
    return k.addcmul(k * (a - 1), ka)


@substitute("fla.ops.rwkv7.gate_output_correction:gate_output_correction")
def gate_output_correction(o: Tensor, r: Tensor, k: Tensor, r_k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """RWKV7's bonus and gate, (o + (r . r_k k) v) g; o, g: [B, T, H V]."""
    bonus = (r.float() * k.float() * r_k.float()).sum(-1, keepdim=True) * v.float()
    return ((o.float() + bonus.reshape(o.shape)) * g.float()).to(o.dtype)
