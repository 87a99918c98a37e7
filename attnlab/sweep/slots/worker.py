"""What runs in a slot's worker processes: take a trial from the mailbox, train it, tell how it ended, again."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray import train as ray_train

from attnlab.plan import gpu_packing
from attnlab.records.mirror import OpenTrial
from attnlab.records.results import Job, Results
from attnlab.sweep.cluster import node_probe
from attnlab.sweep.slots.heartbeat import Crash, Heartbeat
from attnlab.sweep.slots.process_reset import Clean
from attnlab.util.errors import DiskFull, StorageError


def work(config: dict[str, Any]) -> None:
    """The training function of a slot's TorchTrainer, on every rank.

    Workers that fail are started again without end, as their trial is what counts its attempts; those that fail before
    they took one are counted by the mailbox.
    """
    context, box = ray_train.get_context(), config["box"]
    rank, world = context.get_world_rank(), context.get_world_size()
    group = share(ray.get(box.starting.remote()) if rank == 0 else None, world)
    if group is None:
        return
    crash = Crash(config["name"], rank)
    me = ray.get_runtime_context().current_actor
    joined = box.join.remote(group, me, crash.last_words())  # not waited for: it imports ray.train there, as we do here
    crash.keep()
    try:
        cache = _start(config)
    except Exception as error:
        ray.get(box.start_failed.remote("".join(traceback.format_exception_only(error)).strip()))
        raise
    ray.get(joined)
    share(None, world, all_there=True)  # so that the mailbox knows of every rank before a trial is taken
    worker = Worker(config, rank, world, group, cache, Clean())
    if rank == 0:
        ray.get(config["pool"].offer.remote(config["slot"], box))
    while (job := worker.take()) is not None:
        worker.run(job)
        worker.clean()
    crash.close()


def _start(config: dict[str, Any]) -> Any:
    """Make the process ready for trials; returns its kernel cache."""
    # Read as Inductor is imported. What trials need compiled is found in the kernel cache; a pool of compilers beside
    # every slot took 6 s of a core each to start (H100, 16 cores, four slots), while the first trials began.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch

    import attnlab.training.loop  # noqa: F401 (slow to import: done before the slot is offered)
    from attnlab.training import kernel_cache

    node_probe.check(config["mirror"], config["seal"])
    if os.path.isdir(config["cwd"]):  # the launcher's: a sweep file's relative paths mean the same here
        os.chdir(config["cwd"])
    torch.set_num_threads(config["cpus"])
    cap_memory(config["gpus"], ray_train.torch.get_device())
    os.environ[kernel_cache.VARIABLE] = config["kernel_cache"]
    return kernel_cache.use(Path(config["kernel_cache"]), ray_train.torch.get_device())


@dataclass(frozen=True)
class Worker:
    """One rank of a slot's workers, once it is ready for trials."""

    config: dict[str, Any]
    rank: int
    world: int
    group: int  # which start of the slot's workers this is
    cache: Any
    clean: Clean

    @cached_property
    def device(self) -> Any:
        return ray_train.torch.get_device()

    def take(self) -> Job | None:
        """The next trial, the same on every rank; None when the slot is to end."""
        job = share(ray.get(self._box.take.remote(self.group)) if self.rank == 0 else None, self.world)
        return None if job is None else Job.model_validate(job)

    def run(self, job: Job) -> None:
        """Train a trial and tell the mailbox how it ended."""
        results: Results | Exception
        try:
            if self.rank == 0:
                with Heartbeat(self._box, self.group, self.config["hang_s"]) as heartbeat:
                    results = self._train(job, heartbeat)
            else:
                results = self._train(job)
        except (DiskFull, StorageError) as error:  # no trial's fault, and every other one would meet it
            ray.get(self._box.halt.remote(self.group, str(error)))
            return
        if isinstance(results, Exception):
            self._failed(results)
        elif self.rank == 0:
            row = {**(results["last"] or {}), "best": results["best"], "state": results["state"]}
            ray.get(self._box.end.remote(self.group, row))

    def _train(self, job: Job, heartbeat: Heartbeat | None = None) -> Results | Exception:
        """The results, or what the trial's own mistake raised; either way all that it wrote is where it is kept.

        Raises:
            DiskFull, StorageError: it cannot be.
        """
        from attnlab.training.loop import train

        place = self.config["mirror"].for_worker(f"slot-{self.config['slot']}-rank-{self.rank}")
        taken: OpenTrial = place.open_trial(job, lead=self.rank == 0)
        stop, results = [False], None
        where = {"device": self.device, "rank": self.rank, "world": self.world, "cache": self.cache}
        if heartbeat:
            where["heartbeat"] = heartbeat

        def report(row: dict[str, Any]) -> None:
            taken.publish()
            stop[0] = ray.get(self._box.report.remote(self.group, row))

        def should_stop() -> bool:
            return share(stop[0], self.world)

        try:
            results = train(job, taken.folder, report, should_stop, **where)
        except DiskFull:
            raise
        except Exception as error:
            results = error
        taken.close()
        return results

    def _failed(self, error: Exception) -> None:
        """The trial's own mistake: it would make it again, so it is not retried. Other ranks may hang in a collective
        and a CUDA context may be broken: then the whole group starts afresh."""
        said = reason(error, self.config["gpus"])
        afresh = self.world > 1 or self.device.type == "cuda"
        if not afresh:
            self.clean()  # it may have limited its memory, which a call to the mailbox needs too
        ray.get(self._box.end.remote(self.group, {"state": "failed", "error": said}))
        if afresh:
            raise error

    @property
    def _box(self) -> Any:
        return self.config["box"]


def cap_memory(gpus: float, device: Any) -> None:
    """Keep a worker that shares its GPU to its part of the memory, so that its trial cannot take the others'."""
    import torch

    if 0 < gpus < 1:
        whole = torch.cuda.get_device_properties(device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(gpu_packing.memory_fraction(gpus, whole), device)


def reason(error: BaseException, gpus: float) -> str:
    """Why a trial failed: the traceback, and where its part of a GPU's memory did not suffice, what gives it more."""
    import torch

    told = "".join(traceback.format_exception(error))
    if isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1:
        told += f"it had {gpus:g} of a GPU; a larger resources.gpus_per_worker lets fewer trials share one\n"
    return told


def share(value: Any, world: int, all_there: bool = False) -> Any:
    """Rank 0's value on every rank; with `all_there`, when every rank has come here."""
    if world == 1:
        return value
    import torch.distributed as dist

    if all_there:
        dist.barrier()
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]
