"""Floating-point operations per token, counted from the algorithm and not from a kernel: the same on every device.

A multiplication and an addition count one each. Forward, per token:

    2 x every weight of a matrix or convolution        (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)
    + each layer's mixing over time, below             + 2 D V for the head, where there is one

Training is three times that (backward computes the gradients of inputs and of weights; the same source); what a kernel
computes twice to save memory is not counted, nor are norms, activations, biases, softmax's exponentials (Chowdhery et
al. 2022, PaLM, arXiv 2204.02311, appendix B, leaves out the same) and the embedding's look-up.

Mixing of recurrent mixers: w operations per number of the recurrent state (its size is measured, see `state`) with

    2  write      S += k v^T: a product, an addition       1  decay    S *= a
    2  read       q^T S                                    2  another product with the state, such as delta rules' k^T S

as a decoder would compute it; chunked kernels compute more, depending on their chunk, to use matrix units. Mixing of
softmax attention and its kin: 2 (dk + dv) per query head and pair of query and key that it may see, so causality halves
it (FLA's kernels skip what is masked) and a window bounds it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from attnlab.config.trial import ModelConfig
from attnlab.models.block import Block
from attnlab.models.checks import spec_of
from attnlab.models.state import state_of

BACKWARD = 3.0  # training's operations over the forward pass's
PLAIN, DECAYED, DELTA, GATED_DELTA = 4.0, 5.0, 6.0, 7.0
PATH_CHUNK = 64  # FLA's PaTH carries queries over a chunk by one d x d product

# Operations per number of the recurrent state, token and layer; a function of the built layer and T where those matter.
WORK: Mapping[str, float | Callable[[Any, int], float]] = {
    "linear": PLAIN,
    **dict.fromkeys(("retnet", "simple_gla", "hgrn2", "lightnet", "gsa", "abc", "rodimus", "raven"), DECAYED),
    "gla": lambda layer, steps: DECAYED if any(True for _ in layer.gk_proj.parameters()) else PLAIN,  # use_gk: false
    "rwkv6": DECAYED,  # its bonus is a product of vectors
    "mamba2": DECAYED,
    "mamba": 7.0,  # DECAYED, and exp(delta A): a product and an exponential
    "hgrn": 3.0,  # h = f h + (1 - f) x, elementwise
    "deltanet": DELTA,
    **dict.fromkeys(("gated_deltanet", "kda", "comba", "gdn2", "precond_gated_deltanet", "precond_kda"), GATED_DELTA),
    "gated_deltaproduct": lambda layer, steps: (
        3.0 + 4.0 * layer.num_householder
    ),  # so many delta steps, one decay and read
    "rwkv7": 9.0,  # decay, S a, (S a) b^T, write, read (Peng et al. 2025, arXiv 2503.14456, equation 17)
    # of its two states, keys' and values', each decays and is written; conjugate gradients multiply the first in each
    # iteration, and the second is read (von Oswald et al. 2025, arXiv 2506.05233): per number of both, half of it
    "mesa": lambda layer, steps: (3 + 3 + 2 * layer.max_cg_step_training + 2) / 2,
    # two states: x = v - k^T S; M = m M + k x^T; S = a S + M; q^T S: 2 + 3 + 2 + 2 over both
    "momentum_deltanet": 4.5,
    # of Fenwick's tree those levels decay and are read that hold anything, on average half of log2 T, and the token's
    # own is written (Guo et al. 2025, arXiv 2506.04761, section 3); the state measured has room for all levels
    "log_linear_mamba2": lambda layer, steps: 3.0 * (1 + math.log2(steps) / 2) / layer.num_lambda_dims,
}


def flops_per_token(model: ModelConfig, seq_len: int, vocab_size: int | None = None) -> float | None:
    """Training's operations per token of sequences of `seq_len`.

    Args:
        model: what is trained.
        seq_len: T, the training length, on which attention's part depends.
        vocab_size: V, for the head (2 D V forward); None: without the head.

    Returns:
        None where a mixer's are not known: one that needs CUDA, or one of the user's own without a method
        `flops_per_token(seq_len)` (its mixing per token, forward, beside its matrices).

    Raises:
        ValueError: a mixer that cannot be built.
    """
    layers = _layers(model.model_dump_json(), seq_len)
    return layers and layers + BACKWARD * 2.0 * model.d_model * (vocab_size or 0)


@functools.lru_cache(maxsize=512)
def _layers(model_json: str, seq_len: int) -> float | None:
    """All layers, without the head."""
    model, total = ModelConfig.model_validate_json(model_json), 0.0
    for layer in range(model.n_layers):
        if "cuda" in spec_of(model.mixer_at(layer).name).needs:
            return None
        own = ":" in model.mixer_at(layer).name  # its constructor may compute with values
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if own else "meta"):
            block = Block(model, layer)
        mixing = _mixing(model, layer, block.mixer, seq_len)
        if mixing is None:
            return None
        total += 2.0 * sum(p.numel() for p in block.parameters() if p.dim() > 1) + mixing
    return BACKWARD * total


def _mixing(model: ModelConfig, layer: int, built: nn.Module, seq_len: int) -> float | None:
    """Forward operations per token of the mixing over time of the layer `built`, at depth `layer`."""
    name = model.mixer_at(layer).name
    if ":" in name:
        own = getattr(built, "flops_per_token", None)
        return float(own(seq_len)) if callable(own) else None
    if name in WORK:
        state, work = state_of(model, layer), WORK[name]
        return state and state.recurrent * (work if isinstance(work, float) else work(built, seq_len))
    per_pair = PAIRS.get(name)
    return per_pair(model, built) * _pairs(name, built, seq_len) if per_pair else FEATURES[name](model, built)


def _pairs(name: str, built: Any, seq_len: int) -> float:
    """Keys that a query sees, averaged over the positions 1 to T of a sequence."""
    most = getattr(built, "window_size", None) or seq_len
    if name == "moba":  # the blocks chosen, the query's own among them
        most = min(most, built.moba_chunk_size * built.moba_topk)
    most = min(most, seq_len)
    return (most * (most + 1) / 2 + (seq_len - most) * most) / seq_len


def _softmax(model: ModelConfig, built: Any) -> float:
    """q k and p v."""
    return 4.0 * model.d_model


def _latent(model: ModelConfig, built: Any) -> float:
    return 2.0 * built.num_heads * (built.qk_head_dim + built.v_head_dim)


def _path(model: ModelConfig, built: Any) -> float:
    """q k and p v; and each query carried over each chunk between (Yang et al. 2025, arXiv 2505.16381, section 3)."""
    return 4.0 * model.d_model + 2.0 * model.d_model * (model.d_model / model.n_heads) / PATH_CHUNK


PAIRS: Mapping[str, Callable[[ModelConfig, Any], float]] = {  # per pair of query and key, all heads
    **dict.fromkeys(("standard", "forgetting", "stickbreaking", "wall", "bitattn", "moba"), _softmax),
    "mla": _latent,
    "path": _path,
    "parallax": lambda model, built: 6.0 * model.d_model,  # a second stream of queries meets the keys
    "deltaformer": lambda model, built: 8.0 * model.d_model,  # keys attend to keys first (arXiv 2505.19488)
}


def _taylor(model: ModelConfig, built: Any) -> float:
    """Based: features 1, x and x x^T of `feature_dim` channels (arXiv 2402.18668, section 4), linearly."""
    features = 1 + built.feature_dim + built.feature_dim**2
    return PLAIN * features * model.d_model


def _squared(model: ModelConfig, built: Any) -> float:
    """ReBased: (q k)^2 is the product of the distinct products of two channels (arXiv 2402.10644, section 3)."""
    return PLAIN * math.comb(built.feature_dim + 1, 2) * model.d_model


FEATURES: Mapping[str, Callable[[ModelConfig, Any], float]] = {"based": _taylor, "rebased": _squared}
