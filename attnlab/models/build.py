"""A mixer's row -> the layer itself; the part of the table that needs torch."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnlab.kernels import install
from attnlab.models.checks import arguments, check_mixer, spec_of
from attnlab.models.mixers.rules import ModelShape

if TYPE_CHECKING:
    from attnlab.config.trial import MixerConfig, ModelConfig

logger = logging.getLogger(__name__)


def build_mixer(mixer: MixerConfig, model: ModelConfig, layer: int) -> nn.Module:
    """Build the layer at depth `layer` (0-based), initialised, on the default device.

    Raises:
        ValueError: what `check_mixer` says, one line each; or it needs CUDA and there is none.
    """
    if problems := check_mixer(mixer, model):
        raise ValueError("\n".join(f"mixer {mixer.name}: {problem}" for problem in problems))
    spec = spec_of(mixer.name)
    if "cuda" in spec.needs and not torch.cuda.is_available():
        raise ValueError(f"mixer {mixer.name}: needs CUDA; it has no CPU implementation")
    install()
    shape = ModelShape(model.d_model, model.n_heads, layer, model.n_layers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        built = load(spec.path)(**arguments(spec, mixer.args, shape))
    for warning in caught:
        if issubclass(warning.category, UserWarning):  # others may be another thread's: Ray is imported meanwhile
            _warn_once(f"{mixer.name}: {warning.message}")
    if spec.init:
        load(spec.init)(built)
    for name, option in spec.options.items():
        if mixer.args.get(name, option.default) != option.default:
            load(option.apply)(built)
    return built


@functools.cache
def _warn_once(advice: str) -> None:
    """Log what a layer's authors warn of, once per process and not once per layer."""
    logger.warning(advice)


def load(path: str) -> Any:
    """The object at `module:name`; a module of the user's may lie in the working directory."""
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    return getattr(importlib.import_module(module), name)
