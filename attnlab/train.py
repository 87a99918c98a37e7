"""THE training loop: one trial, from its folder to its results, top to bottom. It knows nothing of ray.

Everything random is a pure function of (seed, step, rank), so a run that was stopped and resumed computes what an
undisturbed one computes; on CPU bit for bit. The step itself never waits for the device: losses stay there as tensors
until they are reported, the learning rate is a value, shapes never change.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from attnlab.models import build_model, count_params
from attnlab.tasks import IGNORE, build_task
from torch import nn

from attnlab import checkpoint
from attnlab.config import Trial
from attnlab.environment import describe
from attnlab.evaluate import evaluate
from attnlab.optim import make_optimizer
from attnlab.runs import Job, MetricsWriter, Results, State, TrialDir, best_row, write_json
from attnlab.tensorboard import Board

Report = Callable[[dict[str, Any]], None]


def train(
    job: Job,
    home: TrialDir,
    report: Report = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Results:
    """Train one trial to its end, its pruning or its divergence, resuming from its last checkpoint if it has one.

    Args:
        job: the trial and what its records carry.
        home: its folder. Rank 0 alone writes there.
        report: called on rank 0 with every row of metrics.jsonl, in order of steps; after a resume the last row
            comes again, since a crash may have come between writing it and reporting it.
        should_stop: called on every rank after each report; all ranks must get the same answer.
        device: where to train. With `world` > 1 a torch.distributed process group must be up.

    Returns:
        `results.json`, on every rank. Metrics, checkpoints and TensorBoard events are in `home`.
    """
    trial, device, lead = job.trial, torch.device(device), rank == 0
    every, last_step = trial.train.eval_every, trial.train.max_steps
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if _bf16(trial, device) else nullcontext
    task = build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
    torch.manual_seed(trial.train.seed)
    model = build_model(trial.model, task.vocab_size).to(device).train()
    optimizer = make_optimizer(model, trial.optim, last_step, device)
    loss_of = Loss(model)
    if world > 1:
        loss_of = nn.parallel.DistributedDataParallel(loss_of)
    step_fn = partial(_step, loss_of, optimizer, task, trial, autocast, device, rank, world)

    resumed = checkpoint.load(home, model, optimizer, device) or {"step": 0, "seconds": 0.0}
    first, before_s = resumed["step"] + 1, resumed["seconds"]
    sink = MetricsWriter(home, resumed["step"]) if lead else None
    board = Board(home, resumed["step"]) if lead else None
    if sink and sink.rows:
        report(sink.rows[-1])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    clock = {"pid": os.getpid(), "first_step_at": time.time()}  # Unix time: what a trial costs beside its training
    state: State = "completed"
    loss_sum, since, start = torch.zeros((), device=device), 0, time.perf_counter()
    mark = start
    step, row = resumed["step"], sink.rows[-1] if sink and sink.rows else None
    for step in range(first, last_step + 1):
        loss_sum += step_fn(step)
        since += 1
        if step % every and step != last_step:
            continue

        train_loss = _mean_over_ranks(loss_sum, world) / since  # the first wait for the device since the last report
        now = time.perf_counter()
        speed = since * trial.tokens_per_step / (now - mark)
        finite = math.isfinite(train_loss)
        scores = evaluate(model, task, device=device, batch_size=_eval_batch(trial), autocast=autocast, rank=rank,
                          world=world) if finite else dict.fromkeys(task.metrics, math.nan)  # fmt: skip
        mark = time.perf_counter()
        if not finite or not math.isfinite(scores[job.metric]):
            state = "diverged"
        row = {
            "step": step,
            "tokens": step * trial.tokens_per_step,
            "train_loss": train_loss,
            **scores,
            "lr": optimizer.lr(step),
            "tokens_per_s": speed,
            "seconds": before_s + mark - start,
            "peak_mem_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        }
        loss_sum.zero_()
        since = 0
        if sink and board:
            row = sink.write(row)
            board.write(row)
            if step % trial.train.save_every_steps == 0 and step != last_step and state != "diverged":
                checkpoint.save(home, step, model, optimizer, {"seconds": row["seconds"]})
            report(row)
        if state == "diverged":
            break
        if step != last_step and should_stop():
            state = "pruned"
            break

    clock["last_report_at"] = time.time()
    seconds = before_s + time.perf_counter() - start
    if lead and state == "pruned":
        checkpoint.save(home, step, model, optimizer, {"seconds": seconds})
    if lead and state == "completed":
        checkpoint.export(home, model, task.tokenizer_json())
        checkpoint.tidy(home)
    results = _results(job, home, state, step, seconds, model, sink.rows if sink else [], device, world)
    results["environment"] |= clock
    if sink and board:
        sink.close()
        write_json(home.results_file, results)
        board.close(job, results)
    if world > 1:
        dist.barrier()  # nobody leaves, and is handed another trial, before the records are whole
    return results


class Loss(nn.Module):
    """The training forward as a module of its own, because DistributedDataParallel hooks into `forward`."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[b, T] int64 twice -> the sum of the cross-entropy over the targets, fp32 scalar."""
        return self.model.loss_sum(inputs, targets)


def _step(
    loss_of: nn.Module,
    optimizer: Any,
    task: Any,
    trial: Trial,
    autocast: Any,
    device: torch.device,
    rank: int,
    world: int,
    step: int,
) -> torch.Tensor:
    """One optimizer step; returns this rank's part of the global batch's mean loss (summed over ranks: the loss)."""
    torch.manual_seed((trial.train.seed * 1_000_003 + step) * 4096 + rank)  # dropout: a function of (seed, step, rank)
    inputs, targets = (_to(a, device) for a in task.batch(step - 1, rank, world))
    count = (targets != IGNORE).sum()
    if world > 1:
        dist.all_reduce(count)
    parts = trial.train.grad_accum
    total = torch.zeros((), device=device)
    for i, (x, y) in enumerate(zip(inputs.chunk(parts), targets.chunk(parts), strict=True)):
        last = i == parts - 1
        with nullcontext() if world == 1 or last else loss_of.no_sync():  # gradients cross the network once a step
            with autocast():
                loss = loss_of(x, y) / count
            (loss * world).backward()  # DistributedDataParallel divides the gradients by `world`
        total += loss.detach()
    if trial.optim.clip:
        optimizer.clip(trial.optim.clip)
    optimizer.set_lr(step)
    optimizer.step()
    optimizer.zero_grad()
    return total


def _to(array: Any, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _bf16(trial: Trial, device: torch.device) -> bool:
    precision = trial.train.precision
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def _eval_batch(trial: Trial) -> int:
    """Sequences per evaluation batch: a training micro-batch's, so evaluation needs no more memory than training."""
    return max(1, trial.train.batch_size // trial.train.grad_accum)


def _mean_over_ranks(value: torch.Tensor, world: int) -> float:
    if world > 1:
        dist.all_reduce(value)
    return value.item()


def _results(
    job: Job,
    home: TrialDir,
    state: State,
    step: int,
    seconds: float,
    model: Any,
    rows: list[dict[str, Any]],
    device: torch.device,
    world: int,
) -> Results:
    where = home.final if state == "completed" else next(iter(reversed(checkpoint.steps(home))), None)
    sizes = count_params(model)
    return Results(
        trial_id=job.trial_id,
        arm=job.arm,
        state=state,
        phase=job.phase,
        settings=job.settings,
        seed=job.trial.train.seed,
        steps=step,
        tokens=step * job.trial.tokens_per_step,
        best=best_row(rows, job.metric, job.mode),
        last=rows[-1] if rows else None,
        seconds=seconds,
        device_seconds=seconds * world,
        n_params=sizes["n_params"],
        n_params_non_embedding=sizes["n_params_non_embedding"],
        checkpoint=str(where.relative_to(home.path)) if where else None,
        error=None,
        environment=describe(device, world),
    )
