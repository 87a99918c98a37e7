"""How large a model is, told without the memory it would take."""

from __future__ import annotations

import functools

import torch

from attnlab.config.trial import ModelConfig
from attnlab.models import assemble, count_params
from attnlab.models.backbone import BackboneForCausalLM
from attnlab.models.build import build_mixer
from attnlab.models.checks import spec_of
from attnlab.models.cost.flops import flops_per_token
from attnlab.models.cost.least import least_params
from attnlab.models.cost.repeats import looked_at, shortened
from attnlab.models.cost.state import state_bytes
from attnlab.util.machine import host_bytes
from attnlab.util.text import gib_text


def build_empty(model: ModelConfig, vocab_size: int, readout: str | None = None) -> BackboneForCausalLM:
    """Build a model on torch's meta device, torch's random state left as it was.

    With users' own mixers on the CPU: their constructors may compute with values. Raises ValueError as
    `refuse_to_look`.
    """
    refuse_to_look(model, vocab_size)
    custom = any(":" in mixer.name for mixer in model.mixer)
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if custom else "meta"):
        return assemble(model, vocab_size, readout)


def params_of(model: ModelConfig, vocab_size: int, readout: str | None = None) -> dict[str, int]:
    """What `count_params` gives of a model, of which a deep one is not built whole. Raises as `build_empty`."""
    built = build_empty(shortened(model), vocab_size, readout)
    counts = count_params(built)
    for (_, times), block in zip(looked_at(model), built.backbone.blocks, strict=True):
        whole, mixer = (sum(p.numel() for p in part.parameters()) for part in (block, block.mixer))
        for key, params in (("n_params", whole), ("n_params_non_embedding", whole), ("n_params_mixers", mixer)):
            counts[key] += (times - 1) * params
    return counts


def refuse_to_look(model: ModelConfig, vocab_size: int = 0) -> None:
    """Raise ValueError for a model with users' own mixers, hence built with values, that this machine cannot hold."""
    takes = 4 * least_params(model, vocab_size) if any(":" in mixer.name for mixer in model.mixer) else 0
    if takes > (have := host_bytes()):
        raise ValueError(
            f"{model.n_layers:,} layers of d_model {model.d_model:,} take at least {gib_text(takes)} only to be looked "
            f"at, and this machine has {gib_text(have)}; lower model.n_layers or model.d_model"
        )


@functools.lru_cache(maxsize=512)
def mixer_params(model: ModelConfig) -> int:
    """Parameters of all mixers but users' own, as many as its first layer has for each mixer of the pattern.

    Layers are built on the meta device, one per mixer. Later ones have no fewer than the first.
    """
    total = 0
    for place, mixer in enumerate(model.mixer[: model.n_layers]):
        if ":" in mixer.name or "cuda" in spec_of(mixer.name).needs:
            continue
        layers = len(range(place, model.n_layers, len(model.mixer)))
        alone = model.model_copy(update={"mixer": (mixer,), "n_layers": min(model.n_layers, 2)})
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            total += layers * sum(p.numel() for p in build_mixer(mixer, alone, 0).parameters())
    return total


def measure(kind: str, model: ModelConfig, seq_len: int) -> float | None:
    """Measure a model; None where that is not known.

    Args:
        kind: `params`, without the embedding; `mixers`, those of all mixers but users' own; `flops` per token; or
            `state` after `seq_len` tokens, in bytes.
        model: the model.
        seq_len: tokens in a sequence.

    Raises:
        ValueError: as `refuse_to_look` (but for `mixers`), or a mixer that cannot be built.
    """
    if kind == "mixers":
        return mixer_params(model)
    refuse_to_look(model)
    if kind == "flops":
        return flops_per_token(model, seq_len)
    if kind == "state":
        return state_bytes(model, seq_len)
    custom = any(":" in mixer.name for mixer in model.mixer)  # whose code may be another one the next time
    return (_params.__wrapped__ if custom else _params)(model)


@functools.lru_cache(maxsize=512)
def _params(model: ModelConfig) -> int:
    """Parameters of a model without its embedding; matching asks for the same ones again and again."""
    return params_of(model, 1)["n_params_non_embedding"]
