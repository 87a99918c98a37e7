"""Fingerprints of a trial's model and optimizer, built on torch's meta device, and its schedule.

FLA takes seconds to import, so fingerprints are cached next to the tokens. Their key is all that decides them: the
model, the optimizer, the versions of FLA and torch, and the source of attnlab's models and optimizers.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from attnlab import models, optim
from attnlab.config.trial import OptimConfig, Trial
from attnlab.models.cost.repeats import shortened
from attnlab.models.cost.size import build_empty, params_of
from attnlab.optim import lr_factor, make_optimizer
from attnlab.tasks import Task
from attnlab.util.files import cache_root, read_json, text_digest, write_json

STEPS = 20_000  # of a schedule that are compared, evenly spread over a longer one


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a trial's model and optimizer, and its number of parameters."""

    modules: str  # of every module's name and class, and every parameter's and buffer's shape and type
    optimizer: str  # of each optimizer's groups: their parameters, and their settings without the rate
    n_params_non_embedding: int


def fingerprint(trial: Trial, task: Task) -> Fingerprint | None:
    """Hash what a trial is built of. None where that cannot be built here: a mixer that needs CUDA."""
    return _cached(trial.model_copy(update={"task": Trial().task}).model_dump_json(), task.vocab_size, task.readout)


@functools.lru_cache(maxsize=512)
def _cached(trial_json: str, vocab_size: int, readout: Any) -> Fingerprint | None:
    trial = Trial.model_validate_json(trial_json)
    if any(":" in mixer.name for mixer in trial.model.mixer):  # the user's own, whose file may change
        return _build(trial, vocab_size, readout)
    parts = [trial.model.model_dump_json(), trial.optim.model_dump_json(), str(vocab_size), str(readout), _code()]
    path = cache_root() / "built" / f"{_digest(parts)[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Fingerprint(**read_json(path))
    result = _build(trial, vocab_size, readout)
    if result:
        with contextlib.suppress(OSError):  # a cache that others own
            write_json(path, asdict(result))
    return result


@functools.cache
def _code() -> str:
    """The digest of all code that turns a trial into a model and an optimizer."""
    files = [path for package in (models, optim) for path in Path(str(package.__file__)).parent.rglob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in sorted(files)]
    return _digest([*sources, version("flash-linear-attention"), torch.__version__])


def _digest(parts: list[str]) -> str:
    return text_digest("\0".join(parts))


def _build(trial: Trial, vocab_size: int, readout: Any) -> Fingerprint | None:
    try:
        model = build_empty(shortened(trial.model), vocab_size, readout)
        params = params_of(trial.model, vocab_size, readout)["n_params_non_embedding"]
    except ValueError:
        return None
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tree = [f"{name} {type(module).__qualname__}" for name, module in model.named_modules()]
    tree += [f"{trial.model.n_layers} layers"] * (len(model.backbone.blocks) < trial.model.n_layers)
    tree += [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in tensors]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    device = next(model.parameters()).device.type
    for optimizer in make_optimizer(model, trial.optim, trial.train.max_steps, device).optimizers:
        for group in optimizer.param_groups:
            settings = {key: value for key, value in sorted(group.items()) if key not in ("params", "lr")}
            groups.append(repr([type(optimizer).__name__, settings, [names[id(p)] for p in group["params"]]]))
    return Fingerprint(_digest(tree), _digest(groups), params)


def schedule(optim: OptimConfig, max_steps: int) -> tuple[float, ...]:
    """The rate at every step, of a long run at every so many."""
    every = max(1, max_steps // STEPS)
    steps = [*range(1, max_steps + 1, every), max_steps]
    return tuple(optim.lr * lr_factor(step, max_steps, optim) for step in steps)
