"""Models: one decoder, and the table of the mixers that differ between arms.

Importing this package imports neither torch nor transformers; `build_model` and the classes do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnlab.config.trial import NEWEST_RECIPE, MixerConfig, ModelConfig
from attnlab.models.checks import check_mixer, precision_problems, refuse_precision
from attnlab.models.mixers.spec import MixerSpec
from attnlab.models.mixers.table import MIXERS
from attnlab.util import trust

if TYPE_CHECKING:
    from torch import nn

    from attnlab.models.backbone import BackboneForCausalLM

__all__ = [
    "MIXERS",
    "MixerSpec",
    "assemble",
    "build_model",
    "check_mixer",
    "count_params",
    "precision_problems",
    "refuse_precision",
    "register",
    "try_mixer",
]


def build_model(
    model: ModelConfig | dict[str, Any], vocab_size: int, readout: str | None = None, recipe: int | None = None
) -> BackboneForCausalLM:
    """Build a language model on the default device, in fp32, initialised from torch's seed.

    Args:
        model: a `ModelConfig`, or the same as a dict (`{"d_model": 64, "mixer": "gla"}`). Modules of your own mixers
            in it count as named by you, and are imported.
        vocab_size: rows of the embedding.
        readout: the task's; "last" adds a decoder (`attnlab.models.readout`).
        recipe: the trial's; None: the newest.

    Raises:
        ValueError: a mixer that cannot be built as told; pydantic's ValidationError (a ValueError) for a wrong dict.
    """
    checked = model if isinstance(model, ModelConfig) else ModelConfig.model_validate(model)
    trust.name(trust.modules_in([mixer.name for mixer in checked.mixer]))
    return assemble(checked, vocab_size, readout, recipe)


def assemble(
    model: ModelConfig, vocab_size: int, readout: str | None = None, recipe: int | None = None
) -> BackboneForCausalLM:
    """Build a model that may have been read from a folder: as `build_model`, but its modules stay unnamed.

    Raises:
        ValueError: a mixer that cannot be built as told, or whose module the user did not name (`UntrustedModule`).
    """
    from attnlab.models import backbone

    return backbone.BackboneForCausalLM(backbone.BackboneConfig.of(model, vocab_size, readout, recipe or NEWEST_RECIPE))


def try_mixer(mixer: MixerConfig, model: ModelConfig, layer: int) -> str | None:
    """Run a user's own mixer on a small input: what is wrong with it, or None."""
    from attnlab.models import smoke_test

    return smoke_test.try_mixer(mixer, model, layer)


def count_params(model: nn.Module) -> dict[str, int]:
    """Count the parameters of a `BackboneForCausalLM`.

    Returns:
        `n_params` (a tied weight counts once), `n_params_non_embedding` (without the embedding and an untied head),
        `n_params_mixers` (all layers' mixers).
    """
    total = sum(p.numel() for p in model.parameters())
    outer = {id(p): p.numel() for module in (model.backbone.embed, model.head) for p in module.parameters()}
    mixers = sum(p.numel() for block in model.backbone.blocks for p in block.mixer.parameters())
    return {"n_params": total, "n_params_non_embedding": total - sum(outer.values()), "n_params_mixers": mixers}


def register() -> None:
    """Register the model with transformers' Auto classes, so that `from_pretrained` finds it. Idempotent.

    The module of the classes does it when imported, which it may be at this very moment, through FLA and transformers.
    """
    importlib.import_module("attnlab.models.backbone")
