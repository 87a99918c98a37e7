"""`from_pretrained` for folders that are not trusted: nothing is built before they are checked.

A `config.json` says what is built, so it could ask for any module of Python's and for any amount of memory. The modules
are those that the user named (`attnlab.util.trust`), the sizes those of the weights beside it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from attnlab.models.block import MLP, Block, mlp_width
from attnlab.models.checks import spec_of
from attnlab.util import signature, trust
from attnlab.util.errors import UserError
from attnlab.util.text import first_line
from attnlab.util.weights import EMBEDDING, shapes_in

if TYPE_CHECKING:
    from attnlab.config.trial import ModelConfig

# Keys of a config.json with which transformers fetches kernels or code, or reads others than the weights beside it; and
# one for which it makes a dict of as many names.
DROPPED = ("attn_implementation", "experts_implementation", "auto_map", "fusion_config", "num_labels",
           "quantization_config", "transformers_weights")  # fmt: skip
FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
SLACK = 2  # how many times the weights' numbers the tensors that they lack may have: those are drawn anew


def is_dropped(key: str) -> bool:
    """Whether a key of a config.json is left out, also under the name by which transformers keeps it, `_key`."""
    return key.lstrip("_").removesuffix("_internal") in DROPPED


class CheckedLoading:
    """How `from_pretrained` loads, for a class to inherit before transformers' own."""

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the constructors initialise, so that a mixer keeps what its own does."""

    # transformers builds a model to be loaded on the meta device and leaves the buffers that no checkpoint holds
    # (rotary frequencies) uninitialised, to be filled by `_init_weights`, which would have to know every mixer's.

    @classmethod
    def get_init_context(cls, *args: Any, **kwargs: Any) -> list[Any]:
        """Build on a real device instead, so that the constructors fill them, ..."""
        contexts = super().get_init_context(*args, **kwargs)
        return [context for context in contexts if context != torch.device("meta")]

    def _move_missing_keys_from_meta_to_device(self, *args: Any, **kwargs: Any) -> None:
        """... and keep what they filled in."""
        filled = {name: buffer.clone() for name, buffer in self.named_non_persistent_buffers()}
        super()._move_missing_keys_from_meta_to_device(*args, **kwargs)
        for name, buffer in self.named_non_persistent_buffers():
            buffer.copy_(filled[name])

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save a model as transformers does; digests of what lay there before no longer hold."""
        signature.unsign(Path(save_directory))
        return super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load a model as transformers does, after its config.json was checked.

        With `trust_remote_code=True` the modules of own mixers that its config.json names are imported.

        Raises:
            UserError: a file that was changed since it was exported, a module that nobody named, or sizes that are not
                the weights' own; nothing was built.
        """
        where = pretrained_model_name_or_path
        fetching = {name: kwargs[name] for name in FETCHING if name in kwargs}
        if where is not None:
            signature.check(Path(where, kwargs.get("subfolder", "")))  # a hub id is no folder here
        kwargs.setdefault("use_safetensors", True)  # the other format is a pickle
        known, config_class = config, cls.config_class  # type: ignore[attr-defined]
        if not isinstance(known, config_class):
            known = config_class.from_pretrained(config or where, **fetching)
        model = _described(known, where)
        names = [mixer.name for mixer in model.mixer]
        with trust.naming(trust.modules_in(names) if kwargs.get("trust_remote_code") else ()):
            for name in names:
                if ":" in name:
                    trust.require(name, "mixer")
            if where is not None and not {"gguf_file", "key_mapping"} & kwargs.keys():
                checked = not kwargs.get("ignore_mismatched_sizes")
                shapes = _weights(where, kwargs.get("variant"), fetching) if checked else None
                if shapes and (problem := size_problem(model, known.vocab_size, shapes)):
                    raise UserError(f"{where}: damaged, {problem}")
            return super().from_pretrained(where, *args, config=config, **kwargs)  # type: ignore[misc]


def _described(config: Any, where: Any) -> ModelConfig:
    """The model that a `BackboneConfig` describes. Raises UserError."""
    try:
        return config.model()
    except (ValueError, TypeError) as error:  # pydantic's is a ValueError
        raise UserError(f"{where}: damaged, config.json describes no model ({first_line(error)})") from None


def _weights(where: Any, variant: str | None, fetching: Mapping[str, Any]) -> dict[str, list[int]] | None:
    """The shapes of a folder's or a hub id's weights; None where there are none, which transformers tells."""
    from transformers.utils import cached_file

    def find(name: str) -> str | None:
        return cached_file(where, name, _raise_exceptions_for_missing_entries=False, **fetching)

    stem = f"model.{variant}.safetensors" if variant else "model.safetensors"
    if file := find(stem):
        return shapes_in(file)
    if index := find(f"{stem}.index.json"):
        parts = {str(part) for part in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()}
        held = [shapes_in(file) for part in sorted(parts) if (file := find(part))]
        return {name: shape for shapes in held for name, shape in shapes.items()}
    return None


def size_problem(model: ModelConfig, vocab_size: int, shapes: Mapping[str, list[int]]) -> str | None:
    """Why weights of these shapes are not those of a model, on one line; None if nothing speaks against it.

    It needs little memory whatever the model says: what is compared is small before the next, larger thing is built,
    and mixers of the table are built on torch's meta device. An own mixer's sizes are left to its own module, and those
    of one that needs CUDA to its kernels' package.
    """
    prefix = EMBEDDING.removesuffix("embed.weight") if EMBEDDING in shapes else ""  # AutoModel saves without it
    width = [model.d_model]
    pattern = re.compile(rf"{re.escape(prefix)}blocks\.(\d+)\.mixer_norm\.weight")
    layers = {int(match[1]) for name, shape in shapes.items() if shape == width and (match := pattern.fullmatch(name))}
    expected = {f"{prefix}embed.weight": [vocab_size, *width], f"{prefix}norm.weight": width}
    if "head.weight" in shapes:
        expected["head.weight"] = [vocab_size, *width]
    if problem := _difference(expected, shapes, require=expected):
        return problem
    if layers != set(range(min(model.n_layers, len(layers) + 1))):
        return f"config.json says {model.n_layers:,} layers, and its weights have {len(layers):,} of its d_model"
    spare = SLACK * sum(map(math.prod, shapes.values()))
    for layer in range(model.n_layers):
        start = f"{prefix}blocks.{layer}."
        name = model.mixer_at(layer).name
        try:
            alone = ":" in name or "cuda" in spec_of(name).needs
            built = _mlp_shapes(model) if alone else _block_shapes(model, layer)
        except (ValueError, RuntimeError, AssertionError, TypeError, OverflowError) as error:
            return f"config.json describes no model: {first_line(error)}"
        sizes = {start + name: shape for name, shape in built.items()}
        if problem := _difference(sizes, shapes):
            return problem
        spare -= sum(math.prod(shape) for name, shape in sizes.items() if name not in shapes)
        if spare < 0:
            lacking = next(name for name in sizes if name not in shapes)
            return f"config.json says tensors that its weights lack, such as {lacking}"
    return None


def _block_shapes(model: ModelConfig, layer: int) -> dict[str, list[int]]:
    """The shapes of a layer whose mixer is one of the table."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in Block(model, layer).state_dict().items()}


def _mlp_shapes(model: ModelConfig) -> dict[str, list[int]]:
    """The shapes of a layer's MLP."""
    if model.mlp == "none":
        return {}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        built = MLP(model.d_model, model.d_ff or mlp_width(model.d_model, model.mlp), model.mlp)
    return {f"mlp.{name}": list(tensor.shape) for name, tensor in built.state_dict().items()}


def _difference(
    expected: Mapping[str, list[int]], shapes: Mapping[str, list[int]], require: Iterable[str] = ()
) -> str | None:
    """The first tensor that is of another shape, or is required and lacking."""
    for name, shape in expected.items():
        if name not in shapes and name in require:
            return f"its weights lack {name}"
        if shapes.get(name, shape) != shape:
            return f"config.json says {_text(shape)} for {name}, and its weights are {_text(shapes[name])}"
    return None


def _text(shape: list[int]) -> str:
    return " x ".join(f"{size:,}" for size in shape) or "one number"
