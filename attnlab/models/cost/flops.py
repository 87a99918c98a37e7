"""Floating-point operations per token, counted from the algorithm and so independent of kernels.

A multiplication and an addition count one each. Forward, per token:

    2 x every weight of a matrix or convolution        (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)
    + each layer's mixing over time, by its row        + 2 D V for the head, where there is one

Training is three times that: backward computes the gradients of inputs and of weights (the same source). What a kernel
computes twice to save memory is not counted, nor are norms, activations, biases, softmax's exponentials (Chowdhery et
al. 2022, PaLM, arXiv 2204.02311, appendix B, leaves out the same) and the embedding's look-up.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from attnlab.config.trial import ModelConfig
from attnlab.models.block import Block
from attnlab.models.checks import spec_of
from attnlab.models.cost.repeats import looked_at
from attnlab.models.cost.state import state_of
from attnlab.models.mixers.operations import Operations

BACKWARD = 3.0  # training's operations over the forward pass's


def flops_per_token(model: ModelConfig, seq_len: int, vocab_size: int | None = None) -> float | None:
    """Training's operations per token of sequences of `seq_len`.

    Args:
        model: what is trained.
        seq_len: T, the training length, on which attention's part depends.
        vocab_size: V, for the head (2 D V forward); None: without the head.

    Returns:
        None where a mixer's are not known: one that needs CUDA, or one whose row does not say them and whose class has
        no method `flops_per_token(seq_len)` (its mixing per token, forward, without its matrices).

    Raises:
        ValueError: a mixer that cannot be built.
    """
    layers = _layers(model.model_dump_json(), seq_len)
    return layers and layers + BACKWARD * 2.0 * model.d_model * (vocab_size or 0)


@functools.lru_cache(maxsize=512)
def _layers(model_json: str, seq_len: int) -> float | None:
    """All layers, without the head."""
    model, total = ModelConfig.model_validate_json(model_json), 0.0
    for layer, times in looked_at(model):
        if "cuda" in spec_of(model.mixer_at(layer).name).needs:
            return None
        custom = ":" in model.mixer_at(layer).name  # its constructor may compute with values
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if custom else "meta"):
            block = Block(model, layer)
        mixing = _mixing(model, layer, block.mixer, seq_len)
        if mixing is None:
            return None
        total += times * (2.0 * sum(p.numel() for p in block.parameters() if p.dim() > 1) + mixing)
    return BACKWARD * total


def _mixing(model: ModelConfig, layer: int, built: Any, seq_len: int) -> float | None:
    """Forward operations per token of the mixing over time of the layer `built`, if known."""
    operations = spec_of(model.mixer_at(layer).name).operations
    if operations is None:
        custom = getattr(built, "flops_per_token", None)
        return float(custom(seq_len)) if callable(custom) else None
    count = operations.count(built, model.d_model, seq_len)
    if operations.per == "pair":
        return count * _seen(operations, built, seq_len)
    if operations.per == "state":
        state = state_of(model, layer)
        return None if state is None else count * state.recurrent
    return count


def _seen(operations: Operations, built: Any, seq_len: int) -> float:
    """Keys that a query sees, averaged over the positions 1 to T of a sequence."""
    most = min(operations.most_seen(built) or seq_len, seq_len)
    return (most * (most + 1) / 2 + (seq_len - most) * most) / seq_len
