"""What an arm's trial is built of: model, optimizer and schedule, on torch's meta device, which takes no memory."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch

from attnlab.config import OptimConfig, Trial
from attnlab.models import build_model, count_params
from attnlab.optim import lr_factor, make_optimizer
from attnlab.tasks import Task

STEPS = 20_000  # of a schedule that are compared; of a longer one so many, evenly spread


@dataclass(frozen=True)
class Built:
    """`modules`: every module's name and class, every parameter's and buffer's shape; `optimizer`: which parameters
    each optimizer has in which group, and the group's settings but for the rate."""

    modules: Hashable
    optimizer: Hashable
    n_params_non_embedding: int


def build(trial: Trial, task: Task) -> Built | None:
    """None where the model cannot be built here: a mixer that needs CUDA."""
    return _build(trial.model_dump_json(), task.vocab_size, task.readout)


@functools.lru_cache(maxsize=512)
def _build(trial_json: str, vocab_size: int, readout: Any) -> Built | None:
    trial = Trial.model_validate_json(trial_json)
    own = any(":" in mixer.name for mixer in trial.model.mixer)  # whose constructors may compute with values
    device = "cpu" if own else "meta"
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            model = build_model(trial.model, vocab_size, readout)
    except ValueError:
        return None
    tensors = [*model.named_parameters(), *model.named_buffers()]
    tree = (
        tuple((name, type(module).__qualname__) for name, module in model.named_modules()),
        tuple((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        (
            type(part).__name__,
            tuple(names[id(parameter)] for parameter in group["params"]),
            tuple((key, repr(value)) for key, value in sorted(group.items()) if key not in ("params", "lr")),
        )
        for part in make_optimizer(model, trial.optim, trial.train.max_steps, device).parts
        for group in part.param_groups
    ]
    return Built(tree, tuple(groups), count_params(model)["n_params_non_embedding"])


def schedule(optim: OptimConfig, max_steps: int) -> tuple[float, ...]:
    """The rate at every step."""
    every = max(1, max_steps // STEPS)
    steps = [*range(1, max_steps + 1, every), max_steps]
    return tuple(optim.lr * lr_factor(step, max_steps, optim) for step in steps)
