"""What runs in a slot's worker processes: one trial after another."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray import train as ray_train

from attnlab.plan import gpu_packing
from attnlab.records.results import Job, Results
from attnlab.sweep.cluster import node_probe
from attnlab.sweep.slots.heartbeat import CrashLog, Heartbeat
from attnlab.sweep.slots.process_reset import ProcessReset
from attnlab.training import kernel_cache
from attnlab.util import trust
from attnlab.util.errors import DiskFull, StorageError


def work(config: dict[str, Any]) -> None:
    """Train trials on every rank of a slot's TorchTrainer until the slot is closed.

    Failed workers are started again without limit, as their trial and the mailbox count the failures.
    """
    context, mailbox = ray_train.get_context(), config["mailbox"]
    rank, world = context.get_world_rank(), context.get_world_size()
    group = broadcast(ray.get(mailbox.starting.remote()) if rank == 0 else None, world)
    if group is None:
        return
    crash_log = CrashLog(config["name"], rank)
    actor = ray.get_runtime_context().current_actor
    joined = mailbox.join.remote(group, actor, crash_log.read_previous())  # not waited for: it imports ray.train
    crash_log.open()
    try:
        train = _start(config, rank, world)
    except Exception as error:
        ray.get(mailbox.start_failed.remote("".join(traceback.format_exception_only(error)).strip()))
        raise
    ray.get(joined)
    broadcast(None, world, wait=True)  # the mailbox must know of every rank before a trial is taken
    worker = Worker(config, mailbox, rank, world, group, train, ProcessReset())
    if rank == 0:
        ray.get(config["pool"].offer.remote(config["slot"], mailbox))
    while (job := worker.take()) is not None:
        worker.run(job)
        worker.reset()
    crash_log.close()


def _start(config: dict[str, Any], rank: int, world: int) -> Callable[..., Results]:
    """Make the process ready for trials; returns `training.loop.train` for this rank."""
    # Read as Inductor is imported. Compiled code comes from the kernel cache, and a pool of compilers for every slot
    # took 6 s of a core each to start (H100, 16 cores, four slots).
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # not at the top: controllers import this module, and do without its 0.6 CPU-seconds
    from attnlab.training.loop import train

    node_probe.check_results(config["mirror"], config["sweep_file"])
    if os.path.isdir(config["cwd"]):  # the launcher's: a sweep file's relative paths mean the same here
        os.chdir(config["cwd"])
    trust.name(config["trust"])  # the launcher's: what a trial's own records name decides nothing
    torch.set_num_threads(config["cpus"])
    device = ray_train.torch.get_device()
    cap_memory(config["gpus"], device)
    os.environ[kernel_cache.VARIABLE] = config["kernel_cache"]
    cache = kernel_cache.use(Path(config["kernel_cache"]), device)
    return partial(train, device=device, rank=rank, world=world, cache=cache)


@dataclass(frozen=True)
class Worker:
    """One rank of a slot's workers, once it is ready for trials."""

    config: dict[str, Any]
    mailbox: Any
    rank: int
    world: int
    group: int  # number of this start of the slot's workers
    train: Callable[..., Results]
    reset: ProcessReset

    def take(self) -> Job | None:
        """The next trial, on every rank; None when the slot is to end."""
        job = broadcast(ray.get(self.mailbox.take.remote(self.group)) if self.rank == 0 else None, self.world)
        return None if job is None else Job.model_validate(job)

    def run(self, job: Job) -> None:
        """Train a trial and tell the mailbox how it ended."""
        try:
            if self.rank == 0:
                with Heartbeat(self.mailbox, self.group, self.config["hang_s"]) as heartbeat:
                    results = self._train(job, heartbeat=heartbeat)
            else:
                results = self._train(job)
        except (DiskFull, StorageError) as error:  # no trial's fault: every one would meet it
            ray.get(self.mailbox.halt.remote(self.group, str(error)))
            return
        if isinstance(results, Exception):
            self._failed(results)
        elif self.rank == 0:
            row = {**(results["last"] or {}), "best": results["best"], "state": results["state"]}
            ray.get(self.mailbox.end.remote(self.group, row))

    def _train(self, job: Job, **heartbeat: Heartbeat) -> Results | Exception:
        """The results, or what the trial raised. Raises DiskFull or StorageError if they cannot be stored."""
        storage = self.config["mirror"].for_worker(f"slot-{self.config['slot']}-rank-{self.rank}")
        trial = storage.open_trial(job, lead=self.rank == 0)
        stop = False

        def report(row: dict[str, Any]) -> None:
            nonlocal stop
            trial.publish()
            stop = ray.get(self.mailbox.report.remote(self.group, row))

        try:
            results = self.train(job, trial.folder, report, lambda: broadcast(stop, self.world), **heartbeat)
        except DiskFull:
            raise
        except Exception as error:
            results = error
        trial.close()
        return results

    def _failed(self, error: Exception) -> None:
        """Report the trial's own mistake, which is not retried as it would come again."""
        why = failure_text(error, self.config["gpus"])
        # other ranks may hang in a collective, or a CUDA context be broken: then the group starts afresh
        restart = self.world > 1 or ray_train.torch.get_device().type == "cuda"
        if not restart:
            self.reset()  # a call to the mailbox needs memory, which the trial may have limited
        ray.get(self.mailbox.end.remote(self.group, {"state": "failed", "error": why}))
        if restart:
            raise error


def cap_memory(gpus: float, device: Any) -> None:
    """Limit a worker that shares its GPU to its part of the memory."""
    if 0 < gpus < 1:
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(gpu_packing.memory_fraction(gpus, gib), device)


def failure_text(error: BaseException, gpus: float) -> str:
    """A failed trial's traceback. Where part of a GPU was too small, also what gives more."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1:
        text += f"it had {gpus:g} of a GPU; a larger resources.gpus_per_worker lets fewer trials share one\n"
    return text


def broadcast(value: Any, world: int, wait: bool = False) -> Any:
    """Rank 0's value on every rank; with `wait`, not before every rank calls."""
    if world == 1:
        return value
    if wait:
        dist.barrier()
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]
