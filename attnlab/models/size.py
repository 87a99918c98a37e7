"""How large a model is, told without the memory it would take."""

from __future__ import annotations

import torch

from attnlab.config.trial import ModelConfig
from attnlab.models import assemble, count_params
from attnlab.models.backbone import BackboneForCausalLM
from attnlab.models.flops import flops_per_token
from attnlab.models.state import state_bytes


def build_empty(model: ModelConfig, vocab_size: int, readout: str | None = None) -> BackboneForCausalLM:
    """Build a model on torch's meta device, torch's random state left as it was.

    With users' own mixers on the CPU: their constructors may compute with values.
    """
    custom = any(":" in mixer.name for mixer in model.mixer)
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if custom else "meta"):
        return assemble(model, vocab_size, readout)


def measure(kind: str, model: ModelConfig, seq_len: int) -> float | None:
    """Measure a model; None where that is not known.

    Args:
        kind: `params`, without the embedding; `flops` per token; or `state` after `seq_len` tokens, in bytes.
        model: the model.
        seq_len: tokens in a sequence.
    """
    if kind == "flops":
        return flops_per_token(model, seq_len)
    if kind == "state":
        return state_bytes(model, seq_len)
    return count_params(build_empty(model, 1))["n_params_non_embedding"]
