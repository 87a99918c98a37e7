"""FLA's fused norms in PyTorch: statistics in fp32, the result in the input's dtype.

`prenorm=True` returns also the residual sum, which is what the next block adds to.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.dispatch import substitute

LAYERNORM = "fla.modules.norm.layernorm"
GATED, GATED_MAMBA = "fla.modules.norm.fused_norm_gate", "fla.modules.norm.layernorm_gated"


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None = None, eps: float = 1e-5,
    prenorm: bool = False, residual_in_fp32: bool = False, rms: bool = False, num_groups: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Layer norm, or RMS norm with `rms`, of x + residual in `num_groups` groups of channels.

    x, residual: [..., D]; weight, bias: [D]. Returns [..., D] in x's dtype; with `prenorm` also x + residual.
    """
    total = x.float() if residual is None else x.float() + residual.float()
    grouped = total.unflatten(-1, (num_groups, -1))
    width = grouped.shape[-1:]
    out = F.rms_norm(grouped, width, eps=eps) if rms else F.layer_norm(grouped, width, eps=eps)
    out = out.flatten(-2)
    if weight is not None:
        out = out * weight.float()
    if bias is not None:
        out = out + bias.float()
    out = out.to(x.dtype)
    if not prenorm:
        return out
    residual_dtype = torch.float32 if residual_in_fp32 else x.dtype if residual is None else residual.dtype
    return out, total.to(residual_dtype)


def then(result: Tensor | tuple[Tensor, Tensor], function) -> Tensor | tuple[Tensor, Tensor]:
    """`function` over the normalised tensor, the residual sum (if there is one) passed along."""
    return (function(result[0]), result[1]) if isinstance(result, tuple) else function(result)


# `is_rms_norm=True` is for those of FLA's functions that have no such argument.
@substitute(f"{LAYERNORM}:layer_norm", f"{LAYERNORM}:rms_norm", f"{LAYERNORM}:group_norm")
def layer_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm=True, num_groups=1):
    """Normalise by mean and variance or by the mean square, each group by itself."""
    return normalize(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm, num_groups)


@substitute(f"{LAYERNORM}:layer_norm_linear", f"{LAYERNORM}:rms_norm_linear")
def layer_norm_linear(
    x, norm_weight, norm_bias, linear_weight, linear_bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm=True,
    num_groups=1,
):  # fmt: skip
    """`layer_norm`, then map by a matrix."""
    normed = normalize(x, norm_weight, norm_bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm, num_groups)
    return then(normed, lambda y: F.linear(y, linear_weight, linear_bias))


def _gate(g: Tensor, activation: str) -> Tensor:
    if activation in ("swish", "silu"):
        return F.silu(g.float())
    if activation == "sigmoid":
        return torch.sigmoid(g.float())
    raise ValueError(f"a gate's activation is swish, silu or sigmoid, not {activation!r}")


def _gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps, rms):
    """norm(x) * act(g), multiplied in fp32 before the one rounding to x's dtype."""
    normed = normalize(x.float(), weight, bias, residual, eps, prenorm, residual_in_fp32, rms)
    return then(normed, lambda y: (y * _gate(g, activation)).to(x.dtype))


@substitute(f"{GATED}:rms_norm_gated")
def rms_norm_gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps):
    """Normalise x by the mean square and multiply it with act(g)."""
    return _gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps, rms=True)


@substitute(f"{GATED}:layer_norm_gated")
def layer_norm_gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps):
    """Normalise x by mean and variance and multiply it with act(g)."""
    return _gated(x, g, weight, bias, activation, residual, prenorm, residual_in_fp32, eps, rms=False)


@substitute(f"{GATED}:rms_norm_swish_gate_linear")
def rms_norm_swish_gate_linear(
    x, g, norm_weight, norm_bias, linear_weight, linear_bias, residual, prenorm, residual_in_fp32, eps
):  # fmt: skip
    """`rms_norm_gated` with swish, then map by a matrix."""
    normed = _gated(x, g, norm_weight, norm_bias, "swish", residual, prenorm, residual_in_fp32, eps, rms=True)
    return then(normed, lambda y: F.linear(y, linear_weight, linear_bias))


@substitute(f"{GATED}:layer_norm_swish_gate_linear")
def layer_norm_swish_gate_linear(
    x, g, norm_weight, norm_bias, linear_weight, linear_bias, residual, prenorm, residual_in_fp32, eps
):  # fmt: skip
    """`layer_norm_gated` with swish, then map by a matrix."""
    normed = _gated(x, g, norm_weight, norm_bias, "swish", residual, prenorm, residual_in_fp32, eps, rms=False)
    return then(normed, lambda y: F.linear(y, linear_weight, linear_bias))


@substitute(f"{GATED_MAMBA}:layernorm_fn", f"{GATED_MAMBA}:rmsnorm_fn")
def mamba_norm(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm=True):
    """Mamba2's gated norm: silu(z) multiplies the input of the norm, or its output with `norm_before_gate`."""
    y = x.float()
    if z is not None and not norm_before_gate:
        y = y * F.silu(z.float())
    groups = x.shape[-1] // group_size if group_size else 1
    y = normalize(y, weight, bias, eps=eps, rms=is_rms_norm, num_groups=groups)
    if z is not None and norm_before_gate:
        y = y * F.silu(z.float())
    return y.to(x.dtype)


@substitute("fla.modules.fused_bitlinear:layer_norm_linear_quant")
def layer_norm_linear_quant(
    x, norm_weight, norm_bias, linear_weight, linear_bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm
):  # fmt: skip
    """BitNet's map: the norm rounded to 8 bits per token, the matrix to three values.

    These are -1, 0 and 1 times the matrix's mean magnitude. As in FLA the gradients pass the roundings unchanged,
    except that the input's meets the rounded matrix.
    """
    normed = normalize(x.float(), norm_weight, norm_bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm)

    def project(y: Tensor) -> Tensor:
        step = y.detach().abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127.0
        away = torch.sign(y.detach()) * torch.floor(y.detach().abs() / step + 0.5)  # halves away from zero
        y = y + (away.clamp(-128, 127) * step - y).detach()
        size = linear_weight.detach().float().abs().mean().clamp(min=1e-5)
        ternary = (linear_weight.detach().float() / size).round().clamp(-1, 1) * size
        weight = linear_weight + (ternary - linear_weight).detach()
        return F.linear(y.to(x.dtype), weight.to(x.dtype), linear_bias)

    return then(normed, project)


@substitute("fla.modules.norm.l2norm:l2norm")
def l2norm(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> Tensor:
    """Compute x / sqrt(|x|^2 + eps) over the last dimension."""
    exact = x.float()
    return (exact * torch.rsqrt(exact.square().sum(-1, keepdim=True) + eps)).to(output_dtype or x.dtype)
