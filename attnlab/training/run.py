"""What trains one trial on one rank: model, data, optimizer and step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from attnlab.config.trial import Trial
from attnlab.kernels.cuda import autotune
from attnlab.models import assemble, refuse_precision
from attnlab.models.fused import compile_between_kernels
from attnlab.optim import Optimizer, make_optimizer
from attnlab.tasks import Task, build_task
from attnlab.training.evaluate import evaluate
from attnlab.training.step import Step, choose


@dataclass(frozen=True)
class Run:
    """One trial's moving parts on one rank."""

    trial: Trial
    task: Task
    model: Any  # BackboneForCausalLM
    run_step: Step
    optimizer: Optimizer
    autocast: Callable[[], AbstractContextManager[Any]]
    device: torch.device
    rank: int
    world: int
    heartbeat: Callable[[], None]
    eval_batches: int | None = None  # of each validation, at most

    def step(self, step: int, schedule_step: int) -> torch.Tensor:
        """Run optimizer step `step` (1-based). Returns this rank's share of the mean loss (see `Step`)."""
        self._seed((self.trial.train.seed * 1_000_003 + step) * 4096 + self.rank)
        loss = self.run_step(schedule_step, self.task.batch(step - 1, self.rank, self.world))
        self.heartbeat()
        return loss

    def _seed(self, seed: int) -> None:
        """Seed dropout, the step's only randomness, without torch.manual_seed's tour of all backends.

        PyTorch's generators take 64 bits (`torch.Generator.manual_seed`), which a `train.seed` from 4.5e9 on, such as
        a date and time, would outgrow here.
        """
        seed %= 2**64
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)

    def scores(self) -> dict[str, float]:
        """Validate in batches of a micro-batch's size, with no more memory than training."""
        size = max(1, self.trial.train.batch_size // self.trial.train.grad_accum)
        ranks = {"device": self.device, "rank": self.rank, "world": self.world, "heartbeat": self.heartbeat}
        limit = {"batch_size": size, "max_batches": self.eval_batches}
        return evaluate(self.model, self.task, autocast=self.autocast, **limit, **ranks)

    def sum_over_ranks(self, value: torch.Tensor) -> float:
        """A 0-dim tensor's sum over the ranks, as a number. Waits for the device."""
        if self.world > 1:
            dist.all_reduce(value)
        return value.item()

    def peak_mem_gib(self) -> float | None:
        """Largest GPU memory allocated in this trial so far; None on CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None


def set_up(
    trial: Trial,
    device: torch.device,
    rank: int,
    world: int,
    heartbeat: Callable[[], None] = lambda: None,
    eval_batches: int | None = None,
) -> Run:
    """Build what trains a trial on one rank. Raises ValueError if the device cannot train it."""
    bf16 = trial.train.precision == "bf16" or (trial.train.precision == "auto" and device.type == "cuda")
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if bf16 else nullcontext
    task = build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
    torch.manual_seed(trial.train.seed)
    refuse_precision(trial.model, trial.train.precision, device.type)
    if device.type == "cuda":
        autotune.install()
    model = assemble(trial.model, task.vocab_size, task.readout, trial.recipe).to(device).train()
    kind, why = choose(trial.train.step, device, world)
    if kind != "eager":
        compile_between_kernels(model)
    optimizer = make_optimizer(model, trial.optim, trial.train.max_steps, device, capturable=kind == "captured")
    loss_of = Loss(model) if world == 1 else nn.parallel.DistributedDataParallel(Loss(model))
    step = Step(loss_of, optimizer, autocast, device, trial.train, trial.optim.clip, world, kind, why)
    return Run(trial, task, model, step, optimizer, autocast, device, rank, world, heartbeat, eval_batches)


class Loss(nn.Module):
    """The training forward as a module of its own, because DistributedDataParallel hooks into `forward`."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The sum of the cross-entropy over the targets, fp32 scalar, with `loss_sum`'s arguments."""
        return self.model.loss_sum(inputs, targets, positions)
