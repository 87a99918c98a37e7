"""Slots: TorchTrainers that stay up, owned by the launcher, whose workers train one trial after another.

A TorchTrainer per trial would pay its start-up each time, and killing one leaks its placement group; here a trial's end
is only the next turn of a loop, and a stop is an answer the trial gets to its report.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray import train as ray_train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from attnlab.runs import Job, SweepDir
from attnlab.sweep import sharing
from attnlab.sweep.mailbox import Mailbox

GUARD_S = 0.5  # how long the guard looks at a time


@dataclass(frozen=True)
class Shape:
    """What one slot takes of the cluster."""

    workers: int
    cpus: int  # per worker
    gpus: float  # per worker

    def fits(self, cpus: float, gpus: float) -> int:
        """How many slots fit into so many CPUs and GPUs. A worker never spans devices: fractions are packed per GPU."""
        by_cpu = int(cpus // (self.workers * self.cpus))
        if not self.gpus:
            return by_cpu
        workers = int(gpus) * int(1 / self.gpus + 1e-9) if self.gpus <= 1 else int(gpus // self.gpus)
        return min(by_cpu, workers // self.workers)


class SlotTrainer(TorchTrainer):
    """A TorchTrainer without two helpers that a slot has no use for, each a process that takes 2 CPU-seconds to start:
    one serves Ray Data's datasets, one removes the placement group of a controller that was killed (a slot's goes with
    the launcher's job)."""

    UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        return [c for c in super()._create_default_callbacks() if type(c).__name__ not in self.UNUSED]


class Slots:
    """The launcher's slots: one thread each sits in `TorchTrainer.fit()` until its mailbox is closed."""

    def __init__(self, count: int, shape: Shape, pool: Any, folder: SweepDir, max_failures: int, kernel_cache: Path):
        self.boxes = [Mailbox.remote(max_failures) for _ in range(count)]  # type: ignore[attr-defined]
        self.errors: list[BaseException] = []
        self._pool = pool
        self._others = {*_controllers(), *_groups()}  # the caller's own Train runs, in a Ray that is the caller's
        trainers = [
            SlotTrainer(
                work,
                train_loop_config={
                    "slot": i,
                    "box": box,
                    "pool": pool,
                    "folder": str(folder.path),
                    "kernel_cache": str(kernel_cache),
                    "cpus": shape.cpus,
                    "gpus": shape.gpus,
                    "cwd": os.getcwd(),
                },
                scaling_config=ScalingConfig(
                    num_workers=shape.workers,
                    use_gpu=shape.gpus > 0,
                    resources_per_worker={"CPU": shape.cpus, **({"GPU": shape.gpus} if shape.gpus else {})},
                ),
                run_config=RunConfig(
                    name=f"slot-{i}", storage_path=str(folder.ray), failure_config=FailureConfig(max_failures=-1)
                ),
            )
            for i, box in enumerate(self.boxes)
        ]
        self._threads = [
            threading.Thread(target=partial(self._fit, *pair), daemon=True)
            for pair in zip(trainers, self.boxes, strict=True)
        ]
        self._ending = False
        for thread in self._threads:
            thread.start()
        self._guarding = threading.Thread(target=self._guard, args=(pool,), daemon=True)
        self._guarding.start()

    def _guard(self, pool: Any) -> None:
        """What is on its way is in the pool and the mailboxes: if one dies, the sweep is to end, and to be resumed."""
        calls = {box.alive.remote(): f"the mailbox of slot {i}" for i, box in enumerate(self.boxes)}
        calls[pool.alive.remote()] = "the pool of slots"
        while not self._ending:
            try:
                done, _ = ray.wait(list(calls), timeout=GUARD_S)
                for call in done:
                    ray.get(call)
                    del calls[call]
            except ray.exceptions.RayActorError:
                self.errors.append(RuntimeError(f"{calls[done[0]]} died"))
                return

    def _unguard(self) -> None:
        """Before anything of ray's ends under the guard's hands, which would end this process."""
        self._ending = True
        self._guarding.join()

    def _fit(self, trainer: TorchTrainer, box: Any) -> None:
        try:
            trainer.fit()
            if cause := ray.get(box.broken.remote()):
                raise RuntimeError(f"its workers {cause}")
        except BaseException as error:  # a thread's exception is only seen if it is kept
            self.errors.append(error)

    def close(self, timeout_s: float = 30.0) -> None:
        """Let every slot end after the trial it is at, and wait for it."""
        self._unguard()
        ray.get([box.close.remote() for box in self.boxes])
        for thread in self._threads:
            thread.join(timeout_s)
        if any(thread.is_alive() for thread in self._threads):
            self.abandon()

    def abandon(self, timeout_s: float = 10.0) -> None:
        """End every slot at once, whatever it is at.

        The threads wait inside ray for their trainers' controllers, and ray.shutdown would pull it from under them (the
        process then dies of a segmentation fault), so the controllers go first. Ray hands out no handle of them before
        their workers are up; the cluster's table of actors knows them all.
        """
        self._unguard()
        from ray._private import worker
        from ray._raylet import ActorID, PlacementGroupID

        for actor_id in _controllers():
            if actor_id not in self._others:
                worker.global_worker.core_worker.kill_actor(ActorID.from_hex(actor_id), True)
        for thread in self._threads:
            thread.join(timeout_s)
        for group_id in _groups():  # a killed controller's stays as long as Ray does
            if group_id not in self._others:
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))

    def release(self) -> None:
        """End the actors behind the slots, which a Ray that goes on would keep."""
        for actor in (*self.boxes, self._pool):
            ray.kill(actor)


def _controllers() -> list[str]:
    """The Train controllers that this process's job has started and that live, by their actors' ids."""
    from ray._private import state

    job = ray.get_runtime_context().get_job_id()
    return [
        actor_id
        for actor_id, row in state.actors().items()
        if row["ActorClassName"] == "TrainController" and row["JobID"] == job and row["State"] != "DEAD"
    ]


def _groups() -> list[str]:
    """The placement groups that this process's job has, by their ids, which end in the job's."""
    job = ray.get_runtime_context().get_job_id()
    live = (i for i, row in placement_group_table().items() if row["state"] != "REMOVED")
    return [group_id for group_id in live if group_id.endswith(job)]


def work(config: dict[str, Any]) -> None:
    """The training function of a slot's TorchTrainer, on every rank: take a trial, train it, again.

    Workers that fail are started again without end, as their trial is what counts its attempts; those that fail before
    they took one are counted here.
    """
    context, box = ray_train.get_context(), config["box"]
    rank, world = context.get_world_rank(), context.get_world_size()
    if not _share(ray.get(box.starting.remote()) if rank == 0 else None, world):
        return
    try:
        cache = _start(config)
    except Exception as error:
        ray.get(box.start_failed.remote("".join(traceback.format_exception_only(error)).strip()))
        raise
    clean = Clean()
    if rank == 0:
        ray.get(config["pool"].offer.remote(config["slot"], box))
    while (job := _share(ray.get(box.take.remote()) if rank == 0 else None, world)) is not None:
        _run(Job.model_validate(job), config, rank, world, cache)
        clean()


def _start(config: dict[str, Any]) -> Any:
    """Make the process ready for trials; returns its kernel cache."""
    import torch

    import attnlab.train  # noqa: F401 (slow to import: done before the slot is offered)
    from attnlab.kernels import warm

    if os.path.isdir(config["cwd"]):  # the launcher's: a sweep file's relative paths mean the same here
        os.chdir(config["cwd"])
    torch.set_num_threads(config["cpus"])
    cap_memory(config["gpus"], ray_train.torch.get_device())
    os.environ[warm.VARIABLE] = config["kernel_cache"]
    return warm.use(Path(config["kernel_cache"]), ray_train.torch.get_device())


def _run(job: Job, config: dict[str, Any], rank: int, world: int, cache: Any) -> None:
    """Train one trial and tell the mailbox how it ended."""
    from attnlab.train import train

    box, stop = config["box"], [False]

    def report(row: dict[str, Any]) -> None:
        stop[0] = ray.get(box.report.remote(row))

    try:
        results = train(
            job,
            SweepDir(Path(config["folder"])).trial(job.arm, job.trial_id),
            report,
            lambda: _share(stop[0], world),
            device=ray_train.torch.get_device(),
            rank=rank,
            world=world,
            cache=cache,
        )
    except Exception as error:
        # The trial's own mistake: it would make it again, so it is not retried. Other ranks may hang in a collective
        # and a CUDA context may be broken: then the whole group starts afresh.
        ray.get(box.end.remote({"state": "failed", "error": reason(error, config["gpus"])}))
        if world > 1 or ray_train.torch.get_device().type == "cuda":
            raise
        return
    if rank == 0:
        row = {**(results["last"] or {}), "best": results["best"], "state": results["state"]}
        ray.get(box.end.remote(row))


def cap_memory(gpus: float, device: Any) -> None:
    """Keep a worker that shares its GPU to its part of the memory, so that its trial cannot take the others'."""
    import torch

    if 0 < gpus < 1:
        whole = torch.cuda.get_device_properties(device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(sharing.memory_fraction(gpus, whole), device)


def reason(error: BaseException, gpus: float) -> str:
    """Why a trial failed: the traceback, and where its part of a GPU's memory did not suffice, what gives it more."""
    import torch

    told = "".join(traceback.format_exception(error))
    if isinstance(error, torch.OutOfMemoryError) and 0 < gpus < 1:
        told += f"it had {gpus:g} of a GPU; a larger resources.gpus_per_worker lets fewer trials share one\n"
    return told


def _share(value: Any, world: int) -> Any:
    """Rank 0's value on every rank."""
    if world == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


class Clean:
    """Puts the process back as it was before its first trial, so that a trial cannot tell what ran before it."""

    def __init__(self) -> None:
        import torch

        self._environ = dict(os.environ)
        self._dtype = torch.get_default_dtype()
        self._threads = torch.get_num_threads()
        self._matmul = torch.get_float32_matmul_precision()
        self()
        gc.freeze()  # what the process is made of: looking through it again after each trial would take 0.3 s

    def __call__(self) -> None:
        import numpy as np
        import torch

        os.environ.clear()
        os.environ.update(self._environ)
        torch.set_default_dtype(self._dtype)
        torch.set_num_threads(self._threads)
        torch.set_float32_matmul_precision(self._matmul)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
