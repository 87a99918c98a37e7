"""What a model costs: parameters, operations, state, and the least it can take.

Importing this package imports no torch; `measure` does.
"""

from __future__ import annotations

from attnlab.config.trial import ModelConfig


def measure(kind: str, model: ModelConfig, seq_len: int = 1) -> float | None:
    """Measure a model as `attnlab.models.cost.size.measure` does."""
    from attnlab.models.cost import size  # torch, which most mistakes in a sweep do not need

    return size.measure(kind, model, seq_len)
