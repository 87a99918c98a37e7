"""FLA's recurrent operations in terms of `linear_rnn` and `gated_scan`.

Each function has its FLA namesake's arguments, by name (`routing.substitute` fills in FLA's defaults) and keeps its
conventions: [B, T, H, D] tensors, fp32 state [N, H, K, V] ([N, H, V, K] with `state_v_first`), decays as natural
logarithms, scale K^-0.5 unless said otherwise. A final state of None is returned where none was asked for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels.linear_rnn import linear_rnn
from attnlab.kernels.norms import l2norm
from attnlab.kernels.routing import substitute
from attnlab.kernels.scan import gated_scan

# Per-channel decays halve the chunk to start with: in layers as trained, 64 steps would mostly be split anyway.
CHANNEL_CHUNK = 32


def by_sequence(*along_time: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: gives a function `cu_seqlens` (sequences laid end to end, B = 1) by running it once per sequence.

    Args:
        along_time: the arguments that are cut; their second dimension is a multiple of the total length.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*, cu_seqlens: Tensor | None = None, **given: Any) -> Any:
            if cu_seqlens is None:
                return function(**given)
            bounds, state = cu_seqlens.tolist(), given.pop("initial_state", None)
            cut = {name: given.pop(name) for name in along_time if given.get(name) is not None}
            outs, finals = [], []
            for i, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
                stretch = {name: x.shape[1] // bounds[-1] for name, x in cut.items()}
                part = {name: x[:, start * stretch[name] : end * stretch[name]] for name, x in cut.items()}
                out, final = function(**given, **part, initial_state=_map(lambda s, i=i: s[i : i + 1], state))
                outs.append(out)
                finals.append(final)
            return torch.cat(outs, 1), _join(finals)

        # `routing` reads the names that the function takes
        run.__signature__ = _with_cu_seqlens(function)  # type: ignore[attr-defined]
        return run

    return wrap


def _with_cu_seqlens(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    extra = inspect.Parameter("cu_seqlens", inspect.Parameter.KEYWORD_ONLY, default=None)
    return signature.replace(parameters=[*signature.parameters.values(), extra])


def _map(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    if state is None or isinstance(state, Tensor):
        return None if state is None else function(state)
    return type(state)(_map(function, part) for part in state)


def _join(finals: list[Any]) -> Any:
    if finals[0] is None or isinstance(finals[0], Tensor):
        return None if finals[0] is None else torch.cat(finals)
    return type(finals[0])(_join(list(parts)) for parts in zip(*finals, strict=True))


def _scale(scale: float | None, q: Tensor) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _expand(x: Tensor | None, heads: int, dim: int = 2) -> Tensor | None:
    """Repeat grouped heads: head h of the result is head h // (heads / groups)."""
    return x if x is None or x.shape[dim] == heads else x.repeat_interleave(heads // x.shape[dim], dim)


def _swap(state: Tensor | None, v_first: bool) -> Tensor | None:
    """Between FLA's two state layouts, contiguous as its kernels leave it."""
    return state.mT.contiguous() if v_first and state is not None else state


def _keep(final: Any, wanted: bool) -> Any:
    return final if wanted else None


# ---- decay without erasing ------------------------------------------------------------------------------------------
def _gla(q, k, v, gk, gv, scale, initial_state, output_final_state, state_v_first):
    start = _swap(initial_state, state_v_first)
    o, final = linear_rnn(
        q, k, v, gk, value_log_decay=gv, scale=_scale(scale, q), initial_state=start, chunk=CHANNEL_CHUNK
    )
    return o, _keep(_swap(final, state_v_first), output_final_state)


@substitute("fla.ops.gla.chunk:chunk_gla")
@by_sequence("q", "k", "v", "g")
def chunk_gla(q, k, v, g, scale, initial_state, output_final_state, state_v_first):
    """Gated linear attention (arXiv 2312.06635, equation 3): g [B, T, H, K] decays each key channel."""
    return _gla(q, k, v, g, None, scale, initial_state, output_final_state, state_v_first)


@substitute("fla.ops.gla.fused_recurrent:fused_recurrent_gla")
@by_sequence("q", "k", "v", "gk", "gv")
def fused_recurrent_gla(
    q, k, v, scale, initial_state, output_final_state, state_v_first, gk=None, gv=None
):  # fmt: skip
    """The same with the decay on key channels (gk), value channels (gv) or none."""
    if gk is not None and gv is not None:
        raise NotImplementedError("fused_recurrent_gla with both gk and gv has no CPU implementation")
    return _gla(q, k, v, gk, gv, scale, initial_state, output_final_state, state_v_first)


@substitute(
    "fla.ops.simple_gla.chunk:chunk_simple_gla",
    "fla.ops.simple_gla.fused_recurrent:fused_recurrent_simple_gla",
    "fla.ops.simple_gla.fused_chunk:fused_chunk_simple_gla",
)
@by_sequence("q", "k", "v", "g")
def simple_gla(
    q, k, v, scale, initial_state, output_final_state, state_v_first=False, g=None, g_gamma=None
):  # fmt: skip
    """One decay per head: g [B, T, H], or the constant g_gamma [H]."""
    if g_gamma is not None:
        constant = g_gamma.float().expand(*v.shape[:3])
        g = constant if g is None else g + constant
    q, k = _expand(q, v.shape[2]), _expand(k, v.shape[2])
    start = _swap(initial_state, state_v_first)
    o, final = linear_rnn(q, k, v, g, scale=_scale(scale, q), initial_state=start)
    return o, _keep(_swap(final, state_v_first), output_final_state)


@substitute(
    "fla.ops.retention.chunk:chunk_retention",
    "fla.ops.retention.fused_recurrent:fused_recurrent_retention",
    "fla.ops.retention.fused_chunk:fused_chunk_retention",
)
def retention(
    q, k, v, scale, initial_state, output_final_state, state_v_first=False, cu_seqlens=None
):  # fmt: skip
    """Retention (arXiv 2307.08621, equation 8): head h decays by gamma = 1 - 2^(-5 - h)."""
    head = torch.arange(q.shape[2], dtype=torch.float32, device=q.device)
    gamma = torch.log1p(-torch.exp2(-5.0 - head))
    return simple_gla(
        q=q, k=k, v=v, g_gamma=gamma, scale=scale, initial_state=initial_state, output_final_state=output_final_state,
        state_v_first=state_v_first, cu_seqlens=cu_seqlens,
    )  # fmt: skip


@substitute("fla.ops.retention.parallel:parallel_retention")
def parallel_retention(q, k, v, scale, cu_seqlens=None):
    """The same without states. Returns (o, None): the scores are never formed here."""
    return retention(q, k, v, scale, None, False, cu_seqlens=cu_seqlens)


@substitute(
    "fla.ops.linear_attn.chunk:chunk_linear_attn",
    "fla.ops.linear_attn.fused_recurrent:fused_recurrent_linear_attn",
    "fla.ops.linear_attn.fused_chunk:fused_chunk_linear_attn",
)
@by_sequence("q", "k", "v")
def linear_attn(q, k, v, scale, initial_state, output_final_state, normalize):
    """Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236, equation 9), without decay.

    With `normalize` o_t is divided by q_t . sum of k, whose running sum z [N, 1, H, K] joins the state as (S, z).
    """
    scale = _scale(scale, q)
    start, z = initial_state if isinstance(initial_state, tuple) else (initial_state, None)
    o, final = linear_rnn(q, k, v, scale=scale, initial_state=start)
    if not normalize:
        return o, _keep(final, output_final_state)
    sums = k.float().cumsum(1) if z is None else k.float().cumsum(1) + z
    # 1e-10: FLA's
    o = (o.float() / ((q.float() * scale * sums).sum(-1, keepdim=True) + 1e-10)).to(v.dtype)
    return o, _keep((final, sums[:, -1:]), output_final_state)


@substitute("fla.ops.rwkv6.chunk:chunk_rwkv6", "fla.ops.rwkv6.fused_recurrent:fused_recurrent_rwkv6")
@by_sequence("r", "k", "v", "w")
def rwkv6(r, k, v, w, u, scale, initial_state, output_final_state):
    """RWKV6 (Peng et al. 2024, arXiv 2404.05892, equation 19): reads before the update, plus the bonus u [H, K]."""
    o, final = linear_rnn(r, k, v, w, bonus=u, scale=_scale(scale, r), initial_state=initial_state, chunk=CHANNEL_CHUNK)
    return o, _keep(final, output_final_state)


@substitute("fla.ops.hgrn.chunk:chunk_hgrn", "fla.ops.hgrn.fused_recurrent:fused_recurrent_hgrn")
@by_sequence("x", "g")
def hgrn(x, g, initial_state, output_final_state):
    """HGRN's gated scan; x, g [B, T, D], state [N, D]."""
    o, final = gated_scan(x, g, initial_state)
    return o, _keep(final, output_final_state)


# ---- the delta rule and its kin -------------------------------------------------------------------------------------
def _delta(q, k, v, beta, g, scale, initial_state, erase_key=None, erase_undecayed=False):
    """S_t = e^g S + beta k (v - p^T S')^T with p = k unless `erase_key`; S' is e^g S, or S with `erase_undecayed`."""
    heads = v.shape[2]
    erase_key = k if erase_key is None else erase_key
    q, k, erase_key = (_expand(x, heads) for x in (q, k, erase_key))
    erase = -erase_key.float()
    if g is not None and not erase_undecayed:
        erase = erase * (g if g.dim() == 4 else g.unsqueeze(-1)).float().exp()
    written = beta.float().unsqueeze(-1) * k.float()
    return linear_rnn(
        q, written, v, g, erase=erase, write=written, scale=scale, initial_state=initial_state, chunk=CHANNEL_CHUNK
    )


def _unit(wanted: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(l2norm(x) for x in tensors) if wanted else tensors


@substitute(
    "fla.ops.delta_rule.chunk:chunk_delta_rule", "fla.ops.delta_rule.fused_recurrent:fused_recurrent_delta_rule"
)
@by_sequence("q", "k", "v", "beta")
def delta_rule(q, k, v, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, beta=None):
    """DeltaNet (arXiv 2406.06484, equation 1): S_t = S + beta k (v - k^T S)^T; beta [B, T, H]."""
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    beta = torch.ones_like(q[..., 0]) if beta is None else beta
    o, final = _delta(q, k, v, beta, None, _scale(scale, q), initial_state)
    return o, _keep(final, output_final_state)


@substitute(
    "fla.ops.gated_delta_rule.chunk:chunk_gated_delta_rule",
    "fla.ops.gated_delta_rule.fused_recurrent:fused_recurrent_gated_delta_rule",
    "fla.ops.kda.chunk:chunk_kda",
    "fla.ops.kda.fused_recurrent:fused_recurrent_kda",
)
@by_sequence("q", "k", "v", "g", "gk", "beta")
def gated_delta_rule(
    q, k, v, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel,
    allow_neg_eigval, state_v_first, beta, g=None, gk=None, use_gate_in_kernel=False, A_log=None, dt_bias=None,
    lower_bound=None,
):  # fmt: skip
    """Gated DeltaNet (Yang et al. 2024, arXiv 2412.06464, equation 10), and KDA with a decay per key channel.

    Args:
        g: log decay [B, T, H] or [B, T, H, K]. With `use_gate_in_kernel` it is the raw gate instead, and the decay is
            -exp(A_log) softplus(g + dt_bias), or lower_bound * sigmoid(exp(A_log) (g + dt_bias)); A_log [H].
        beta: [B, T, H], or its logit with `use_beta_sigmoid_in_kernel` (doubled after with `allow_neg_eigval`).
    """
    q, k = _unit(use_qk_l2norm_in_kernel, q, k)
    g = gk if g is None else g
    if use_gate_in_kernel:
        g = g.float()
        per_channel = g.dim() == 4
        if dt_bias is not None:
            g = g + dt_bias.float().view(g.shape[2:])
        rate = torch.ones((), device=g.device) if A_log is None else A_log.float().exp().view(-1)
        rate = rate.unsqueeze(-1) if per_channel and rate.dim() else rate
        g = -rate * F.softplus(g) if lower_bound is None else lower_bound * torch.sigmoid(rate * g)
    if use_beta_sigmoid_in_kernel:
        beta = beta.float().sigmoid() * (2.0 if allow_neg_eigval else 1.0)
    o, final = _delta(q, k, v, beta, g, _scale(scale, q), _swap(initial_state, state_v_first))
    return o, _keep(_swap(final, state_v_first), output_final_state)


@substitute("fla.ops.comba.chunk:chunk_comba", "fla.ops.comba.fused_recurrent:fused_recurrent_comba")
@by_sequence("q", "k", "v", "p", "g", "beta")
def comba(q, k, v, p, g, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, beta=None):
    """Comba (Hu et al. 2025, arXiv 2506.02475): erases along p what the state held before this step's decay."""
    q, k, p = _unit(use_qk_l2norm_in_kernel, q, k, p)
    beta = torch.ones_like(g) if beta is None else beta
    o, final = _delta(q, k, v, beta, g, _scale(scale, q), initial_state, erase_key=p, erase_undecayed=True)
    return o, _keep(final, output_final_state)


@substitute(
    "fla.ops.generalized_delta_rule.dplr.chunk:chunk_dplr_delta_rule",
    "fla.ops.generalized_delta_rule.dplr.fused_recurrent:fused_recurrent_dplr_delta_rule",
)
@by_sequence("q", "k", "v", "a", "b", "gk")
def dplr_delta_rule(q, k, v, a, b, gk, scale, initial_state, output_final_state):
    """S_t = (diag(e^gk) + b a^T) S + k v^T, all [B, T, H, K]."""
    o, final = linear_rnn(
        q, k, v, gk, erase=a, write=b, scale=_scale(scale, q), initial_state=initial_state, chunk=CHANNEL_CHUNK
    )
    return o, _keep(final, output_final_state)


@substitute("fla.ops.rwkv7.chunk:chunk_rwkv7", "fla.ops.rwkv7.fused_recurrent:fused_recurrent_rwkv7")
def rwkv7(r, w, k, v, a, b, scale, initial_state, output_final_state, cu_seqlens=None):
    """RWKV7 (Peng et al. 2025, arXiv 2503.14456, equation 17): DPLR with decay w."""
    return dplr_delta_rule(
        q=r, k=k, v=v, a=a, b=b, gk=w, scale=scale, initial_state=initial_state,
        output_final_state=output_final_state, cu_seqlens=cu_seqlens,
    )  # fmt: skip
