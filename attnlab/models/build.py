"""A mixer's row -> the layer itself; the part of the table that needs torch."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from attnlab.kernels import install
from attnlab.models.checks import arguments, check_mixer, spec_of
from attnlab.models.mixers.rules import ModelShape
from attnlab.models.mixers.table import MIXERS
from attnlab.util import trust
from attnlab.util.text import first_line, one_line

if TYPE_CHECKING:
    from attnlab.config.trial import MixerConfig, ModelConfig

logger = logging.getLogger(__name__)


def build_mixer(mixer: MixerConfig, model: ModelConfig, layer: int) -> nn.Module:
    """Build the layer at depth `layer` (0-based), initialised, on the default device.

    Raises:
        UntrustedModule: a mixer in a module that the user did not name (`attnlab.util.trust`); nothing was imported.
        ValueError: what `check_mixer` says, one line each; it is no `nn.Module`; it needs CUDA and there is none; or a
            layer of the table's raises something else of its arguments, such as a KeyError.
    """
    if ":" in mixer.name:
        trust.require(mixer.name, "mixer")
    if problems := check_mixer(mixer, model):
        raise ValueError("\n".join(f"mixer {mixer.name}: {problem}" for problem in problems))
    spec = spec_of(mixer.name)
    if "cuda" in spec.needs and not torch.cuda.is_available():
        raise ValueError(f"mixer {mixer.name}: needs CUDA; it has no CPU implementation")
    install()
    shape = ModelShape(model.d_model, model.n_heads, layer, model.n_layers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            built = layer_class(mixer.name)(**arguments(spec, mixer.args, shape))
        except (ArithmeticError, AssertionError, LookupError, NotImplementedError, TypeError) as error:
            if ":" in mixer.name:  # a user's own, whose traceback says more
                raise
            why = one_line(first_line(error))
            raise ValueError(f"mixer {mixer.name}: cannot be built as given ({type(error).__name__}: {why})") from error
    for warning in caught:
        if issubclass(warning.category, UserWarning):  # others may be another thread's: Ray is imported meanwhile
            _warn_once(f"{mixer.name}: {warning.message}")
    if spec.init:
        trust.imported(spec.init)(built)
    for name, option in spec.options.items():
        if mixer.args.get(name, option.default) != option.default:
            trust.imported(option.apply)(built)
    return built


@functools.cache
def _warn_once(advice: str) -> None:
    """Log what a layer's authors warn of, once per process and not once per layer."""
    logger.warning(advice)


def layer_class(name: str) -> type[nn.Module]:
    """The class of a mixer of the table, or of a user's own `module:Class`.

    Raises:
        UntrustedModule: the user did not name its module.
        ValueError: it is no subclass of `torch.nn.Module`, and so is never called.
    """
    kind = trust.imported(MIXERS[name].path) if name in MIXERS else trust.load(name, "mixer")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"mixer {name}: it is no torch.nn.Module")
    return kind
