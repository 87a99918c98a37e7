"""The shapes in a safetensors file, read from its header, so that nothing is believed that the file does not hold."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

EMBEDDING = "backbone.embed.weight"  # of an exported language model: [vocabulary, d_model]


def shapes_in(file: str | Path) -> dict[str, list[int]]:
    """The shape of every tensor by name. Raises SafetensorError or OSError: the file is damaged or not there."""
    with safe_open(str(file), framework="numpy") as tensors:
        return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
