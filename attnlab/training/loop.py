"""The training loop: one trial, from its folder to its results, top to bottom.

Everything random is a pure function of (seed, step, rank), so a resumed run computes what an undisturbed one computes,
on CPU bit for bit. The step never waits for the device: losses stay there until they are reported.
"""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from attnlab.config.trial import Trial
from attnlab.kernels import dispatch
from attnlab.models import count_params
from attnlab.models.cost.flops import flops_per_token
from attnlab.models.cost.state import state_bytes
from attnlab.records.mend import Standing, mend, standing
from attnlab.records.metric_logger import MetricLogger
from attnlab.records.metrics import before, best_row, digest, learning_curve, precede
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job, Results, State
from attnlab.tasks import build_task
from attnlab.training import checkpoint, kernel_cache
from attnlab.training.branch import branch
from attnlab.training.clock import TrainingClock
from attnlab.training.environment import describe
from attnlab.training.rehearsal import RehearsalFailed, failure, load_again, shorten
from attnlab.training.run import Run, set_up
from attnlab.training.step import choose
from attnlab.util.errors import DiskFull, TrialInterrupted
from attnlab.util.files import remove

Report = Callable[[dict[str, Any]], None]


def train(
    job: Job,
    folder: TrialDir,
    report: Report = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    cache: kernel_cache.KernelCache | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    eval_batches: int | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Results:
    """Train one trial from its last checkpoint to its end, pruning or divergence.

    Args:
        job: the trial and what its records carry.
        folder: the trial's. Rank 0 alone writes there.
        report: called on rank 0 with every row of metrics.jsonl, in order of steps. After a resume the last row
            comes again, since a crash may have come between writing it and reporting it.
        should_stop: called on every rank after each report; all ranks must get the same answer.
        device: what to train on. With `world` > 1 a torch.distributed process group must be up.
        cache: the cluster's kernels, completed before the first step; None: each process tunes its own.
        heartbeat: called at every step and every batch of a validation.
        eval_batches: of each validation, at most. None: all.
        interrupted: called on rank 0 before every step: whether to save and stop at once. A trial of several workers
            goes on from its last report's checkpoint, since its other ranks' part of the loss cannot be gathered.

    Returns:
        `results.json`, on every rank. Metrics, checkpoints and TensorBoard events are in `folder`.

    Raises:
        DiskFull: the trial is unfinished, and its checkpoints and records are whole.
        TrialInterrupted: it is unfinished, and goes on from this very step. Also what the model raises.
    """
    if (ended := _usable(folder, job, rank == 0)).results is not None:
        return ended.results
    device, lead, trial = torch.device(device), rank == 0, job.trial
    last_step, every = trial.train.max_steps, trial.train.eval_every
    dispatch.calls.clear()
    if lead:
        folder.clear()
    warm_s = warm_up(trial, device, world, cache) if cache else 0.0
    run = set_up(trial, device, rank, world, heartbeat, eval_batches)
    usable = partial(precede, ended.rows, job=job)
    resumed = checkpoint.load(folder, run.model, run.optimizer, usable) or {"step": 0, "seconds": 0.0}
    if lead:
        checkpoint.remove_after(folder, resumed["step"])
    if device.type == "cuda":
        torch.cuda.init()  # its allocator knows no device before
        torch.cuda.reset_peak_memory_stats(device)

    with MetricLogger(folder, resumed["step"], lead) as records:
        if records.rows:
            report(records.rows[-1])
        # what a trial costs besides its training; `_at` in Unix time
        timing = {"pid": os.getpid(), "kernels_warm_s": warm_s, "first_step_at": time.time()}
        state: State = "completed"
        clock = TrainingClock(trial.train, resumed.get("trained", 0.0))
        start = time.perf_counter()
        done, since = resumed["step"], resumed.get("since", 0)
        loss_sum = torch.tensor(resumed.get("loss_sum", 0.0), device=device)  # over the steps `since` the last report
        mark = start - resumed.get("since_s", 0.0)
        branched = sum(steps for rung, steps in job.branches.items() if rung < done)

        def save(at: int, seconds: float, **part: Any) -> None:
            saved = {"seconds": seconds, "trained": clock.trained, **part, **before(records.rows, at)}
            checkpoint.save(folder, at, run.model, run.optimizer, saved)

        for step in range(done + 1, last_step + 1):
            if lead and interrupted():
                if world == 1 and done:
                    clock.pause()
                    now = time.perf_counter()
                    spent = resumed["seconds"] + now - start
                    save(done, spent, since=since, loss_sum=loss_sum.item(), since_s=now - mark)
                raise TrialInterrupted
            if decay_steps := job.branches.get(done):  # a rung: judged on a short decay, which is then undone
                clock.pause()
                row = branch(run, done, decay_steps) | {"seconds": resumed["seconds"] + time.perf_counter() - start}
                branched += decay_steps
                records.write(row)
                if lead:
                    report(row)
                if should_stop():
                    state = "pruned"
                    break
                mark = time.perf_counter()
                clock.resume()

            schedule_step = clock.schedule_step(step)
            loss_sum += run.step(step, schedule_step)
            since, done = since + 1, step
            last = step == last_step or clock.over()
            if step % every and not last:
                continue

            train_loss = run.sum_over_ranks(loss_sum) / since  # the first wait for the device since the last report
            now = time.perf_counter()
            clock.pause()
            scores = run.scores() if math.isfinite(train_loss) else dict.fromkeys(run.task.metrics, math.nan)
            row = {
                "step": step,
                "tokens": step * trial.tokens_per_step,
                "train_loss": train_loss,
                **scores,
                "lr": run.optimizer.lr(schedule_step),
                "tokens_per_s": since * trial.tokens_per_step / (now - mark),
                "seconds": resumed["seconds"] + time.perf_counter() - start,
                "peak_mem_gib": run.peak_mem_gib(),
            }
            records.write(row)
            mark, since = time.perf_counter(), 0
            loss_sum.zero_()
            if not math.isfinite(scores.get(job.metric, train_loss)):  # of trials ranked by speed, the loss says it
                state = "diverged"
            elif lead and not last and step % trial.train.save_every_steps == 0:
                save(step, row["seconds"])
            if lead:
                report(row)
            if state == "diverged" or last:
                break
            if should_stop():
                state = "pruned"
                break
            clock.resume()

        timing["last_report_at"] = time.time()
        seconds = resumed["seconds"] + time.perf_counter() - start
        if lead and state == "pruned":
            save(done, seconds)
        if lead and state == "completed":
            checkpoint.export(folder, run.model, run.task.tokenizer_json(), run.task.eos_id)
            checkpoint.tidy(folder)
        results = _results(job, folder, state, done + branched, seconds, run, records.rows)
        results["environment"] |= timing
        records.finish(job, results)
    if world > 1:
        dist.barrier()  # nobody leaves, and is handed another trial, before the records are whole
    return results


def _usable(folder: TrialDir, job: Job, lead: bool) -> Standing:
    """What can be used of a trial's records. The lead sets the rest aside and says so."""
    if not lead:
        return standing(folder, job)
    found, lines = mend(folder, job)
    for line in lines:
        print(f"attnlab: {line}", flush=True)
    return found


def warm_up(trial: Trial, device: torch.device, world: int, cache: kernel_cache.KernelCache) -> float:
    """Make a trial's kernels for `world` workers unless `cache` has them. Returns the seconds it took."""
    trial = kernel_cache.share_of(trial, world)
    task = build_task(trial.task, batch_size=trial.train.batch_size, seed=trial.train.seed)
    kind, _ = choose(trial.train.step, device, 1)
    seconds = cache.ensure(
        kernel_cache.key_of(trial, task, kind, device.type), partial(_rehearse_kernels, trial, device)
    )
    if seconds and device.type == "cuda":  # the rehearsal's memory
        gc.collect()
        torch.cuda.empty_cache()
    return seconds


def _rehearse_kernels(trial: Trial, device: torch.device) -> None:
    """Rehearse a trial for the kernels that it tunes on the way: those of a step and of a validation at each length."""
    with tempfile.TemporaryDirectory() as scratch:
        rehearse(Job.make("kernels", 0, trial), TrialDir(Path(scratch) / "trial"), device=device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rehearse(
    job: Job,
    folder: TrialDir,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    heartbeat: Callable[[], None] = lambda: None,
) -> None:
    """Train a job to its very end in a few steps, on a throwaway model, and load what it leaves.

    What would fail when a trial ends fails here: its checkpoint, validation, export and records. Each validation is of
    one batch per length. Random generators are left as they were, and `folder` is removed.

    Args:
        job: any job of the model to be tried; see `shorten`.
        folder: a scratch folder on the disk that trials will write to, the same for all ranks.
        device, rank, world, heartbeat: as of `train`.

    Raises:
        RehearsalFailed: from what was raised. DiskFull: there is no room even for this.
    """
    device = torch.device(device)
    try:
        short = shorten(job, device, world)
        with kernel_cache.untouched_randomness():
            train(short, folder, device=device, rank=rank, world=world, heartbeat=heartbeat, eval_batches=1)
            if rank == 0:
                load_again(short.trial, folder)
    except DiskFull:
        raise
    except Exception as error:
        raise RehearsalFailed(failure(error)) from error
    finally:
        if rank == 0:
            remove(folder.path)


def _results(
    job: Job, folder: TrialDir, state: State, steps_ran: int, seconds: float, run: Run, rows: list[dict[str, Any]]
) -> Results:
    steps = checkpoint.steps(folder)
    saved = folder.final if state == "completed" else steps[-1] if steps else None
    sizes = count_params(run.model)
    return Results(
        trial_id=job.trial_id,
        arm=job.arm,
        state=state,
        phase=job.phase,
        settings=job.settings,
        seed=job.trial.train.seed,
        recipe=job.trial.recipe,
        steps=steps_ran,
        tokens=steps_ran * job.trial.tokens_per_step,
        best=best_row(rows, job.metric, job.mode),
        last=learning_curve(rows)[-1] if rows else None,
        reports=digest(rows),
        seconds=seconds,
        device_seconds=seconds * run.world,
        n_params=sizes["n_params"],
        n_params_non_embedding=sizes["n_params_non_embedding"],
        flops_per_token=flops_per_token(job.trial.model, job.trial.task.seq_len, run.task.vocab_size),
        state_bytes=state_bytes(job.trial.model, job.trial.task.seq_len),
        checkpoint=str(saved.relative_to(folder.path)) if saved else None,
        error=None,
        environment=describe(run.device, run.world) | run.run_step.describe(),
    )
