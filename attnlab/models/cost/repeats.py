"""Which layers of a deep model need be looked at, as all later ones are like them."""

from __future__ import annotations

from attnlab.config.trial import ModelConfig

FEW = 64  # layers up to which each is looked at


def looked_at(model: ModelConfig) -> list[tuple[int, int]]:
    """Layers from the first on, and how many layers of the model each stands for.

    Of a deep model these are two periods of its pattern of mixers and what is left of the last one: a mixer of the
    table may be another in the model's first layer (RWKV7), and is the same in all others. Users' own mixers, which may
    be another in each, are all looked at.
    """
    period, layers = len(model.mixer), model.n_layers
    if layers <= max(FEW, 3 * period) or any(":" in mixer.name for mixer in model.mixer):
        return [(layer, 1) for layer in range(layers)]
    periods, rest = divmod(layers, period)
    first, later, last = range(period), range(period, 2 * period), range(2 * period, 2 * period + rest)
    return [*((i, 1) for i in first), *((i, periods - 1) for i in later), *((i, 1) for i in last)]


def shortened(model: ModelConfig) -> ModelConfig:
    """The model with the layers that are looked at alone."""
    return model.model_copy(update={"n_layers": len(looked_at(model))})
