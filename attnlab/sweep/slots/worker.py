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
from attnlab.records.paths import TrialDir
from attnlab.records.results import Job, Results
from attnlab.sweep.cluster import node_probe
from attnlab.sweep.slots.heartbeat import CrashLog, Heartbeat
from attnlab.sweep.slots.process_reset import ProcessReset
from attnlab.sweep.slots.stopping import Stopping
from attnlab.training import kernel_cache
from attnlab.util import trust
from attnlab.util.errors import DiskFull, StorageError, TrialInterrupted
from attnlab.util.text import one_line

REHEARSAL = "rehearsal"  # key beside a job's own: whether it is only rehearsed


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
        train, rehearse = _start(config, rank, world)
    except Exception as error:
        ray.get(mailbox.start_failed.remote("".join(traceback.format_exception_only(error)).strip()))
        raise
    ray.get(joined)
    broadcast(None, world, wait=True)  # the mailbox must know of every rank before a trial is taken
    stopping = Stopping(mailbox, group, rank)
    worker = Worker(config, mailbox, rank, world, group, train, rehearse, stopping, ProcessReset())
    if rank == 0:
        ray.get(config["pool"].offer.remote(config["slot"], mailbox))
    while (task := worker.take()) is not None:
        worker.run(*task)
        worker.reset()
    crash_log.close()


def _start(config: dict[str, Any], rank: int, world: int) -> tuple[Callable[..., Results], Callable[..., None]]:
    """Make the process ready for trials; returns `training.loop`'s `train` and `rehearse` for this rank."""
    # Read as Inductor is imported. Compiled code comes from the kernel cache, and a pool of compilers for every slot
    # took 6 s of a core each to start (H100, 16 cores, four slots).
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # not at the top: controllers import this module, and do without its 0.6 CPU-seconds
    from attnlab.training import loop

    node_probe.check_results(config["mirror"], config["sweep_file"])
    if os.path.isdir(config["cwd"]):  # the launcher's: a sweep file's relative paths mean the same here
        os.chdir(config["cwd"])
    trust.name(config["trust"])  # the launcher's: what a trial's own records name decides nothing
    torch.set_num_threads(config["cpus"])
    device = ray_train.torch.get_device()
    cap_memory(config["gpus"], device)
    os.environ[kernel_cache.VARIABLE] = config["kernel_cache"]
    cache = kernel_cache.use(Path(config["kernel_cache"]), device)
    ranked = {"device": device, "rank": rank, "world": world}
    return partial(loop.train, cache=cache, **ranked), partial(loop.rehearse, **ranked)


@dataclass(frozen=True)
class Worker:
    """One rank of a slot's workers, once it is ready for trials."""

    config: dict[str, Any]
    mailbox: Any
    rank: int
    world: int
    group: int  # number of this start of the slot's workers
    train: Callable[..., Results]
    rehearse: Callable[..., None]
    stopping: Stopping
    reset: ProcessReset

    def take(self) -> tuple[Job, bool] | None:
        """The next trial, on every rank, and whether it is only rehearsed; None when the slot is to end."""
        job = broadcast(ray.get(self.mailbox.take.remote(self.group)) if self.rank == 0 else None, self.world)
        if job is None:
            return None
        tree = dict(job)
        rehearsal = tree.pop(REHEARSAL, False)
        return Job.model_validate(tree), rehearsal

    def run(self, job: Job, rehearsal: bool) -> None:
        """Train or rehearse a trial and tell the mailbox how it ended."""
        do = self._rehearse if rehearsal else self._train
        try:
            if self.rank == 0:
                hang_s = self.config["hang_s"]
                with self.stopping.training(), Heartbeat(self.mailbox, self.group, hang_s) as heartbeat:
                    results = do(job, heartbeat=heartbeat)
                    if isinstance(results, TrialInterrupted):
                        ray.get(self.mailbox.saved.remote(self.group))
                        return
            else:
                results = do(job)
        except (DiskFull, StorageError) as error:  # no trial's fault: every one would meet it
            ray.get(self.mailbox.halt.remote(self.group, str(error)))
            return
        if isinstance(results, Exception):
            self._failed(results, (rehearsal_text if rehearsal else failure_text)(results, self.config["gpus"]))
        elif results is None:
            if self.rank == 0:
                ray.get(self.mailbox.end.remote(self.group, {"state": "completed"}))
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
            results = self.train(
                job, trial.folder, report, lambda: broadcast(stop, self.world), interrupted=self.stopping, **heartbeat
            )
        except DiskFull:
            raise
        except Exception as error:
            results = error
        trial.close()
        return results

    def _rehearse(self, job: Job, **heartbeat: Heartbeat) -> Exception | None:
        """What a rehearsal raised, if anything. Raises DiskFull if there is no room even for it."""
        scratch = self.config["mirror"].folder.ray / "rehearsals" / f"{self.config['name']}-{self.group}"
        try:
            self.rehearse(job, TrialDir(scratch / job.arm / job.trial_id), **heartbeat)
        except DiskFull:
            raise
        except Exception as error:
            return error
        return None

    def _failed(self, error: Exception, why: str) -> None:
        """Report the trial's own mistake, which is not retried as it would come again."""
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
    text, hint = "".join(traceback.format_exception(error)), memory_hint(error, gpus)
    return f"{text.rstrip()}; {hint}\n" if hint else text  # on the exception's own line, which is the one that is shown


def rehearsal_text(error: BaseException, gpus: float) -> str:
    """Why a rehearsal failed, on one line; with what gives more where part of a GPU was too small."""
    return "; ".join(filter(None, (one_line(error), memory_hint(error.__cause__, gpus))))


def memory_hint(error: BaseException | None, gpus: float) -> str:
    """What gives more memory where part of a GPU was too small, else ""."""
    small = isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1
    hint = f"it had {gpus:g} of a GPU; a larger resources.gpus_per_worker lets fewer trials share one"
    return hint if small else ""


def broadcast(value: Any, world: int, wait: bool = False) -> Any:
    """Rank 0's value on every rank; with `wait`, not before every rank calls."""
    if world == 1:
        return value
    if wait:
        dist.barrier()
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]
