"""Refuse what cannot fit, from arithmetic, before any model is built.

A trial takes at least, on what trains it,

    max(P (4 + S) + 4 P, P (4 + S) + B A)     with one micro-batch per step and one worker
    P (4 + S) + 4 P + B A                     else

    P (4 + S)     fp32 weights and the optimizer's moments, there from the first step on: S is 8 with adamw (two
                  moments, Kingma and Ba 2015, arXiv 1412.6980) and 4 with muon (one for hidden matrices)
    4 P           fp32 gradients, there once the backward pass has ended
    B A           A numbers kept for the backward pass (`least_activations`), of B bytes: 2 under bf16, else 4

with P parameters, the mixers' counted on torch's meta device and users' own left out. A step drops the gradients
(`zero_grad` sets them to None), and they come as the activations go, so the two are not there together. They are where
gradients are kept over micro-batches, and where DistributedDataParallel keeps buckets of their size at all times (Li
et al. 2020, arXiv 2006.15704).

Temporaries, logits, kernels and libraries come on top, so nothing is refused that would fit. What passes is tried out
by the rehearsal. A GPU's trial is built in the host's memory first (4 P), and leaves it. There lie, too, the inputs and
targets of a batch and of the `n_eval` validation rows, 8 bytes each, and of the `n_train` rows, 4 bytes each. Of trials
that run at once on a host one takes that at a time, and each of the others at least what it keeps from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attnlab.config.resolved import Plan
from attnlab.config.space import corners
from attnlab.config.trial import Trial
from attnlab.models.cost import measure
from attnlab.models.cost.least import least_activations, least_params
from attnlab.plan import gpu_packing
from attnlab.plan.checks.validate import at_corner
from attnlab.plan.checks.whose import told
from attnlab.util.errors import UserError
from attnlab.util.machine import host_bytes
from attnlab.util.text import gib_text

MOMENTS = {"adamw": 8, "muon": 4}  # bytes per parameter
REACH = ("model", "task.seq_len", "train", "optim.name")  # prefixes of searched settings that change sizes
LARGEST_GIB = {"V100": 32, "A100": 80}  # where cards of one name differ, the largest; else as `gpu_packing.MEMORY_GIB`
HINT = "lower model.d_model, model.n_layers, train.batch_size or the task's lengths"


@dataclass(frozen=True)
class Room:
    """What there is for a trial: bytes of the host, and of a worker's GPU or its part of one."""

    host: float = math.inf  # not known
    gpu: float | None = None  # None: on the CPU

    @classmethod
    def here(cls, gpus: float | Literal["auto"]) -> Room:
        """This machine, with so many GPUs for each worker; `auto` counts as one."""
        import torch  # slow to import, and mistakes in a file are told without it

        gpus = 1.0 if gpus == "auto" else gpus
        if not gpus or not torch.cuda.is_available():
            return cls(host_bytes())
        each = (torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        return cls(host_bytes(), _part(max(each), gpus))

    @classmethod
    def of_cluster(cls, gpus: float, have: Mapping[str, float]) -> Room:
        """The largest GPU that Ray's resources name, with so many for each worker. Its hosts' memory is not known."""
        if not gpus:
            return cls()
        kinds = [key.partition(":")[2] for key in have if key.startswith("accelerator_type:")]
        known = [LARGEST_GIB.get(kind, gpu_packing.MEMORY_GIB.get(kind, -1) + 1) for kind in kinds]
        return cls(gpu=_part(max(known) * 2**30, gpus) if known and 0 not in known else math.inf)


def _part(gpu_bytes: float, gpus: float) -> float:
    """What a worker may allocate of a GPU: all of it, or the part to which sharing caps it."""
    return gpu_bytes if gpus >= 1 else gpu_bytes * gpu_packing.memory_fraction(gpus, gpu_bytes / 2**30)


@dataclass(frozen=True)
class Least:
    """What a worker of a trial takes at least, in bytes."""

    params: int
    training: int  # where it trains, at its peak
    host: int  # where it is built, at its peak
    kept: int  # there, from step to step

    @classmethod
    def of(cls, trial: Trial, on_gpu: bool, workers: int, params: int) -> Least:
        """By the formula above."""
        train = trial.train
        bf16 = train.precision == "bf16" or (train.precision == "auto" and on_gpu)
        tokens = train.batch_size // (workers * train.grad_accum) * trial.task.seq_len
        activations = least_activations(trial.model, tokens) * (2 if bf16 else 4)
        standing, gradients = params * (4 + MOMENTS[trial.optim.name]), 4 * params
        together = workers > 1 or train.grad_accum > 1
        training = standing + (gradients + activations if together else max(gradients, activations))
        rows = _row_bytes(trial, workers)
        if on_gpu:
            return cls(params, training, 4 * params + rows, 0)
        return cls(params, training, training + rows, standing)


def _row_bytes(trial: Trial, workers: int) -> int:
    """Of a worker's batch, and of the validation rows and the training set that a task draws."""
    drawn, kept = ((trial.task.model_extra or {}).get(key) for key in ("n_eval", "n_train"))
    rows = trial.train.batch_size // workers + (drawn if isinstance(drawn, int) else 0)
    return (16 * rows + 8 * (kept if isinstance(kept, int) else 0)) * trial.task.seq_len


def check(plan: Plan, room: Room, vocab_sizes: Mapping[str, int] | None = None, at_once: int = 1) -> None:
    """Raise UserError, one line per arm, for trials that cannot fit, at any corner of their spaces.

    Args:
        plan: the sweep.
        room: what there is.
        vocab_sizes: by arm, once data are prepared, when mixers count too. Before, arithmetic alone does.
        at_once: trials that run at once on the host of `room`.
    """
    workers = plan.sweep.resources.workers
    by_arm: dict[str, list[str]] = {}
    smallest = kept = math.inf
    for arm in plan.arms:
        by_arm[arm.name] = []
        sizes = {key: dimension for key, dimension in arm.space.items() if key.startswith(REACH)}
        for settings in corners(sizes):
            trial = arm.with_settings(settings)
            params = least_params(trial.model)
            need = Least.of(trial, room.gpu is not None, workers, params)
            if vocab_sizes is not None and not (line := _problem(need, room, trial)):
                try:
                    mixers = int(measure("mixers", trial.model) or 0)
                except ValueError as error:  # a layer refuses what its row in the table does not
                    by_arm[arm.name].append(at_corner(f".model.{error}", settings))
                    break
                params = least_params(trial.model, vocab_sizes[arm.name]) + mixers
                need = Least.of(trial, room.gpu is not None, workers, params)
            smallest, kept = min(smallest, need.host), min(kept, need.kept)
            if line := _problem(need, room, trial):
                by_arm[arm.name].append(at_corner(f": {line}", settings))
                break
    problems = list(told(by_arm, plan.sweep.arms))
    if not problems and (together := smallest + kept * (at_once * workers - 1)) > room.host:
        problems.append(
            f"resources.max_concurrent: {at_once} trials at once take at least {gib_text(together)}, and this machine "
            f"has {gib_text(room.host)}; give a smaller number"
        )
    if problems:
        raise UserError(problems)


def _problem(need: Least, room: Room, trial: Trial) -> str | None:
    """What a trial takes and what there is, where that is less."""
    parts = f"{need.params:,} parameters or more, with gradients, {trial.optim.name}'s moments, activations and rows"
    if room.gpu is not None and need.training > room.gpu:
        return (
            f"takes at least {gib_text(need.training)} ({parts}), and a worker has {gib_text(room.gpu)} of GPU; {HINT}"
        )
    if need.host > room.host:
        what = (
            f"{need.params:,} parameters or more, built before they go to the GPU, and rows"
            if room.gpu is not None
            else parts
        )
        return f"takes at least {gib_text(need.host)} ({what}), and this machine has {gib_text(room.host)}; {HINT}"
    return None
