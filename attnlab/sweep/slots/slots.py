"""Slots: TorchTrainers that stay up, owned by the launcher, whose workers train one trial after another.

A TorchTrainer per trial would pay its start-up each time, and killing one leaks its placement group; here a trial's end
is only the next turn of a loop, and a stop is an answer the trial gets to its report.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from attnlab.config.sweep import ResourcesConfig
from attnlab.records.mirror import Mirror
from attnlab.sweep.cluster import node_probe
from attnlab.sweep.slots.mailbox import Mailbox
from attnlab.sweep.slots.worker import work
from attnlab.sweep.slots.worker_death import Obituary
from attnlab.util.text import one_line

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


def here() -> NodeAffinitySchedulingStrategy:
    """On the launcher's node: what it cannot go on without is lost with it alone, and never with another node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class Slots:
    """The launcher's slots: one thread each sits in `TorchTrainer.fit()` until its mailbox is closed."""

    def __init__(
        self, count: int, shape: Shape, pool: Any, mirror: Mirror, resources: ResourcesConfig, kernel_cache: Path
    ):
        self._pool = pool
        self._others = {*_controllers(), *_groups()}  # the caller's own Train runs, in a Ray that is the caller's
        box = Mailbox.options(scheduling_strategy=here())  # type: ignore[attr-defined]
        self.boxes = [box.remote(i, pool, resources.max_failures, resources.hang_s) for i in range(count)]
        self.errors: list[str] = []  # why the sweep cannot go on
        launch = uuid4().hex[:12]
        trainers = [
            SlotTrainer(
                work,
                train_loop_config={
                    "slot": i,
                    "name": f"{launch}-{i}",
                    "hang_s": resources.hang_s,
                    "box": box,
                    "pool": pool,
                    "mirror": mirror,
                    "seal": node_probe.seal(mirror),
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
                    name=f"slot-{i}",
                    storage_path=str(mirror.folder.ray),
                    failure_config=FailureConfig(max_failures=-1),
                    callbacks=[Obituary(box)],
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
        self._guarding = threading.Thread(target=self._guard, daemon=True)
        self._guarding.start()

    def _guard(self) -> None:
        """What is on its way is in the pool and the mailboxes: if one dies, or says that the sweep cannot go on, the
        sweep is to end, and to be resumed."""
        calls = {box.watch.remote(): f"the mailbox of slot {i}" for i, box in enumerate(self.boxes)}
        calls[self._pool.watch.remote()] = "the pool of slots"
        while calls and not self._ending:
            done, _ = ray.wait(list(calls), timeout=GUARD_S)
            for call in done:
                who = calls.pop(call)
                try:
                    why = ray.get(call)
                except ray.exceptions.RayActorError:
                    why = f"{who} died"
                if why:
                    self.errors.append(why)

    def _unguard(self) -> None:
        """Before anything of ray's ends under the guard's hands, which would end this process."""
        self._ending = True
        self._guarding.join()

    def _fit(self, trainer: TorchTrainer, box: Any) -> None:
        try:
            trainer.fit()
            if cause := ray.get(box.broken.remote()):
                self.errors.append(f"a slot failed: its workers {cause}")
        except BaseException as error:  # a thread's exception is only seen if it is kept
            if not self._ending:  # what fails as slots end is no reason for it
                self.errors.append(f"a slot failed: {one_line(error)}")

    def waiting(self) -> str:
        """For the board: which slots have no machine yet."""
        try:
            up = len(ray.get(self._pool.up.remote(), timeout=1.0))
        except (ray.exceptions.RayError, TimeoutError):
            return ""
        return f"{up} of {len(self.boxes)} slots up, the others wait for nodes" if up < len(self.boxes) else ""

    def close(self, timeout_s: float = 30.0) -> None:
        """Let every slot end after the trial it is at, and wait for those that have workers."""
        self._unguard()
        ray.get([box.close.remote() for box in self.boxes])
        end = time.monotonic() + timeout_s
        for slot in ray.get(self._pool.up.remote()):
            self._threads[slot].join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self.abandon()

    def abandon(self, timeout_s: float = 10.0) -> None:
        """End every slot at once, whatever it is at.

        The threads wait inside ray for their trainers' controllers, and ray.shutdown would pull it from under them (the
        process then dies of a segmentation fault), so the controllers go first. Ray hands out no handle of them before
        their workers are up; the cluster's table of actors knows them all.
        """
        self._unguard()
        end = time.monotonic() + timeout_s
        from ray._private import worker
        from ray._raylet import ActorID, PlacementGroupID

        for actor_id in _controllers():
            if actor_id not in self._others:
                worker.global_worker.core_worker.kill_actor(ActorID.from_hex(actor_id), True)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
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
