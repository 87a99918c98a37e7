"""Patches of FLA's layers whose own `forward` refuses a device or is slow on it.

Mamba and Mamba2 have their forwards in `mamba`. Attention without `flash_attn` goes to PyTorch's SDPA.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from typing import Any

import torch
from torch import Tensor

from attnlab.kernels.cpu import attention
from attnlab.kernels.cpu.recurrent import linear_ops, mamba
from attnlab.kernels.cuda import padded
from attnlab.kernels.cuda.rotary import rotary_triton
from attnlab.kernels.dispatch import bypassed, takes_substitute

MIN_TABLE = 256  # positions of the smallest rotary table; a short text grows through few sizes


def patch() -> None:
    """Apply every patch of this module; called once by `install`, with FLA imported."""
    from fla.modules.fused_cross_entropy.ops import FusedCrossEntropyLoss

    _patch_flash_attention()
    mamba.patch()
    _patch_abc()
    _patch_guards()
    _patch_rotary()
    padded.patch()
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


def _patch_abc() -> None:
    """Route ABC with a state through `linear_ops.abc`, and have padding weigh nothing.

    FLA's own loses the weights' sum, and zeroes only the values of padding.
    """
    from fla.layers import abc

    stateless, forward = abc.chunk_abc, abc.ABCAttention.forward

    def chunk_abc(q, k, v, s, initial_state=None, output_final_state=False):
        if bypassed() or not (output_final_state or initial_state is not None):
            return stateless(q=q, k=k, v=v, s=s)
        return linear_ops.abc(q, k, v, s, initial_state, output_final_state)

    @functools.wraps(forward)
    def masked(self, hidden_states, attention_mask=None, *args: Any, **kwargs: Any):
        if attention_mask is None:
            return forward(self, hidden_states, attention_mask, *args, **kwargs)
        padding = attention_mask[:, -hidden_states.shape[1] :, None] == 0
        # the layer clamps the logits to -32 from below
        hook = self.s_proj.register_forward_hook(lambda module, inputs, logits: logits.masked_fill(padding, -torch.inf))
        try:
            return forward(self, hidden_states, attention_mask, *args, **kwargs)
        finally:
            hook.remove()

    abc.chunk_abc, abc.ABCAttention.forward = chunk_abc, masked


def _patch_rotary() -> None:
    """Make the tables of angles as long as a power of two of positions.

    FLA makes them as long as the text, anew at each decoded token, and their length is a constant of its kernel, which
    is compiled anew then: on an H100 RetNet decoded 79 to 97 tokens per second, eight rows together, and 669 to 1,049
    with these tables (`bench/lengths.py`).

    On CUDA the usual case (one position for all rows to begin at, halves paired, no scales) runs our kernel.
    """
    from fla.modules.rotary import RotaryEmbedding

    update, theirs = RotaryEmbedding._update_cos_sin_cache, RotaryEmbedding.forward

    @functools.wraps(update)
    def rounded(self, seqlen: int, *args: Any, **kwargs: Any) -> Any:
        if self.scale is None:  # else the angles' scales are centred on the table's middle
            seqlen = max(MIN_TABLE, padded.power_of_two(int(seqlen)))  # of padded rows it is a tensor
        return update(self, seqlen, *args, **kwargs)

    @functools.wraps(theirs)
    def forward(self, q, k, seqlen_offset=0, cu_seqlens=None, max_seqlen=None, chunk_indices=None):
        usual = isinstance(seqlen_offset, int) and cu_seqlens is None and self.scale is None and not self.interleaved
        same_shapes = q.dtype == k.dtype and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]
        if not (usual and same_shapes and q.is_cuda):
            return theirs(self, q, k, seqlen_offset, cu_seqlens, max_seqlen, chunk_indices)
        longest = q.shape[1] + seqlen_offset if max_seqlen is None else max_seqlen
        self._update_cos_sin_cache(longest, device=q.device, dtype=q.dtype)
        return rotary_triton(q, k, self._cos_cached, self._sin_cached, seqlen_offset)

    RotaryEmbedding._update_cos_sin_cache, RotaryEmbedding.forward = rounded, forward


def _patch_guards() -> None:
    """Let layers run whose forward needlessly asks for a GPU, half precision or a compiler."""
    from fla.layers import log_linear_mamba2
    from fla.layers.log_linear_mamba2 import LogLinearMamba2
    from fla.layers.mla import MultiheadLatentAttention
    from fla.layers.path_attn import PaTHAttention
    from fla.layers.stickbreaking_attn import StickBreakingAttention

    log_linear_mamba2.logger.setLevel(logging.ERROR)  # as for Mamba2: its convolution is routed
    StickBreakingAttention.forward = _on_cpu(StickBreakingAttention.forward, _stick_breaking)
    LogLinearMamba2.forward = _on_cpu(LogLinearMamba2.forward, _log_linear_mamba2)
    PaTHAttention.forward = _on_cpu(PaTHAttention.forward, _uncompiled(PaTHAttention.forward))
    latent = MultiheadLatentAttention.forward  # every other layer's mask is optional
    if inspect.signature(latent).parameters["attention_mask"].default is inspect.Parameter.empty:
        latent.__defaults__ = (None, *latent.__defaults__)


def _on_cpu(original: Any, ours: Any) -> Any:
    @functools.wraps(original)
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (ours if hidden_states.device.type == "cpu" else original)(self, hidden_states, *args, **kwargs)

    return forward


def _uncompiled(forward: Any) -> Any:
    """PaTH compiles a function anew at each decoded token."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return forward(*args, **kwargs)

    return run


def _stick_breaking(layer, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs: Any):
    """`StickBreakingAttention.forward` in any precision; it keeps no cache."""
    from fla.layers.utils import repad_hidden_states, unpad_hidden_states
    from fla.ops.stickbreaking_attn import parallel_stickbreaking_attn

    if use_cache or past_key_values is not None:
        raise NotImplementedError("stick-breaking attention keeps no cache; use_cache=False")
    batch, steps, _ = hidden_states.shape
    x, indices, cu_seqlens = unpad_hidden_states(hidden_states, kwargs.get("cu_seqlens"), attention_mask, steps)
    q, k, v = (proj(x).unflatten(-1, (-1, layer.head_dim)) for proj in (layer.q_proj, layer.k_proj, layer.v_proj))
    if layer.qk_norm:
        q, k = layer.q_norm(q), layer.k_norm(k)
    o, _ = parallel_stickbreaking_attn(q=q, k=k, v=v, attend_current=layer.attend_current, cu_seqlens=cu_seqlens)
    return repad_hidden_states(layer.o_proj(o.flatten(-2)), indices, batch, steps), None, None


def _log_linear_mamba2(layer, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs: Any):
    """`LogLinearMamba2.forward` without its demand for a GPU."""
    from fla.layers.utils import get_layer_cache, update_layer_cache

    last = get_layer_cache(layer, past_key_values)
    out, conv_state, state = layer.cuda_kernels_forward(hidden_states, last, use_cache, attention_mask)
    update_layer_cache(
        layer, past_key_values, recurrent_state=state, conv_state=conv_state, offset=hidden_states.shape[1]
    )
    return out, None, past_key_values


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
