"""Slots: TorchTrainers that stay up, whose workers train one trial after another.

A TorchTrainer per trial would pay its start-up each time, and killing one leaks its placement group.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.exceptions
from ray._private import state, worker
from ray._raylet import ActorID, PlacementGroupID
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from attnlab.config.sweep import ResourcesConfig
from attnlab.records.mirror import Mirror
from attnlab.sweep.cluster.room import SlotShape
from attnlab.sweep.slots.mailbox import Mailbox
from attnlab.sweep.slots.pool import Pool
from attnlab.sweep.slots.worker import work
from attnlab.sweep.slots.worker_death import WorkerDeathCallback
from attnlab.util import trust
from attnlab.util.text import one_line

GUARD_S = 0.5  # between two looks at the actors
SAVE_S = 10.0  # for interrupted trials to be saved; Slurm and Kubernetes give 30 s by default until they kill


class SlotTrainer(TorchTrainer):
    """A TorchTrainer without two processes that take 2 CPU-seconds each to start.

    They serve Ray Data and remove a killed controller's placement group. A slot's ends with the launcher's job.
    """

    UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        return [c for c in super()._create_default_callbacks() if type(c).__name__ not in self.UNUSED]


class Slots:
    """The launcher's slots, up while the context is open, each a thread in `TorchTrainer.fit()`.

    The context's end waits for the trials that still train, unless an exception ends it.
    """

    def __init__(self, count: int, shape: SlotShape, mirror: Mirror, resources: ResourcesConfig, kernel_cache: Path):
        # pool and mailboxes are on the launcher's node, so that they are only lost with it
        node = ray.get_runtime_context().get_node_id()
        options = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
        self.pool = Pool.options(**options).remote(resources.node_wait_s)  # type: ignore[attr-defined]
        limits = (self.pool, resources.max_failures, resources.hang_s)
        self._mailboxes = [Mailbox.options(**options).remote(i, *limits) for i in range(count)]  # type: ignore[attr-defined]
        self._shape = shape
        self.errors: list[str] = []  # why the sweep cannot go on
        self._others = {*_controllers(), *_groups()}  # of the caller's own Train runs
        launch = uuid4().hex[:12]
        config = {
            "hang_s": resources.hang_s,
            "pool": self.pool,
            "mirror": mirror,
            "sweep_file": mirror.folder.sweep_file.read_text(encoding="utf-8"),  # what later workers should see
            "kernel_cache": str(kernel_cache),
            "cpus": shape.cpus,
            "gpus": shape.gpus,
            "cwd": os.getcwd(),
            "trust": trust.named(),
        }
        scaling = ScalingConfig(
            num_workers=shape.workers,
            use_gpu=shape.gpus > 0,
            resources_per_worker={"CPU": shape.cpus, **({"GPU": shape.gpus} if shape.gpus else {})},
        )
        self._threads = []
        for i, mailbox in enumerate(self._mailboxes):
            trainer = SlotTrainer(
                work,
                train_loop_config={**config, "slot": i, "name": f"{launch}-{i}", "mailbox": mailbox},
                scaling_config=scaling,
                run_config=RunConfig(
                    name=f"slot-{i}",
                    storage_path=str(mirror.folder.ray),
                    failure_config=FailureConfig(max_failures=-1),
                    callbacks=[WorkerDeathCallback(mailbox)],
                ),
            )
            self._threads.append(threading.Thread(target=self._fit, args=(trainer, mailbox), daemon=True))
        self._ending = False
        self._guard = threading.Thread(target=self._watch_actors, daemon=True)

    def __enter__(self) -> Slots:
        for thread in (*self._threads, self._guard):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            try:
                if issubclass(kind, KeyboardInterrupt):
                    self._save_trials()
            finally:
                self._abandon()
            return
        try:
            self._close()
        except BaseException:
            self._abandon()
            raise

    def waiting(self) -> str:
        """How many slots are not up yet, in words; "" if all are."""
        try:
            up = len(ray.get(self.pool.up.remote(), timeout=1.0))
            have = ray.cluster_resources()
        except (ray.exceptions.RayError, TimeoutError):
            return ""
        return waiting_text(up, len(self._mailboxes), self._shape.fits(have.get("CPU", 0), have.get("GPU", 0)))

    def release(self) -> None:
        """End the slots' actors, which a Ray that goes on would keep."""
        for actor in (*self._mailboxes, self.pool):
            ray.kill(actor)

    def _fit(self, trainer: TorchTrainer, mailbox: Any) -> None:
        try:
            trainer.fit()
            if cause := ray.get(mailbox.broken.remote()):
                self.errors.append(f"a slot failed: its workers {cause}")
        except BaseException as error:  # what a thread raises is only seen if it is noted
            if not self._ending:  # no reason for the end
                self.errors.append(f"a slot failed: {one_line(error)}")

    def _watch_actors(self) -> None:
        """Note the deaths of pool and mailboxes, and why they end the sweep, as errors."""
        calls = {mailbox.watch.remote(): f"the mailbox of slot {i}" for i, mailbox in enumerate(self._mailboxes)}
        calls[self.pool.watch.remote()] = "the pool of slots"
        while calls and not self._ending:
            done, _ = ray.wait(list(calls), timeout=GUARD_S)
            for call in done:
                actor = calls.pop(call)
                try:
                    why = ray.get(call)
                except ray.exceptions.RayActorError:
                    why = f"{actor} died"
                if why:
                    self.errors.append(why)

    def _save_trials(self) -> None:
        """Have the running trials saved, as far as they come to the end of a step in time."""
        calls = [mailbox.interrupt.remote() for mailbox in self._mailboxes]
        ray.wait(calls, num_returns=len(calls), timeout=SAVE_S)

    def _stop_guard(self) -> None:
        """End the guard: if it used ray while that ends, the process would die."""
        self._ending = True
        self._guard.join()

    def _close(self, timeout_s: float = 30.0) -> None:
        """Let every slot end after its trial, and wait for those that have workers."""
        self._stop_guard()
        ray.get([mailbox.close.remote() for mailbox in self._mailboxes])
        end = time.monotonic() + timeout_s
        for slot in ray.get(self.pool.up.remote()):
            self._threads[slot].join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self._abandon()

    def _abandon(self, timeout_s: float = 10.0) -> None:
        """End every slot at once, controllers first.

        The threads wait inside ray for their controllers: ray.shutdown would end the process with a segmentation fault.
        Ray gives no handle of a controller before its workers are up, but its table of actors has all.
        """
        self._stop_guard()
        end = time.monotonic() + timeout_s
        for actor_id in _controllers():
            if actor_id not in self._others:
                worker.global_worker.core_worker.kill_actor(ActorID.from_hex(actor_id), True)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for group_id in _groups():  # they outlive killed controllers
            if group_id not in self._others:
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))


def waiting_text(up: int, count: int, room: int) -> str:
    """What `count` slots do of which so many are up, where nodes have room for `room`."""
    if up >= count:
        return ""
    starting = max(0, min(room, count) - up)
    parts = [(starting, "starting"), (count - up - starting, "wait for nodes")]
    said = [f"{'the others' if n == count - up else n} {word}" for n, word in parts if n]
    return f"{up} of {count} slots up, {', '.join(said)}"


def _controllers() -> list[str]:
    """Ids of the live Train controllers of this process's job."""
    job = ray.get_runtime_context().get_job_id()
    live = {i: row for i, row in state.actors().items() if row["JobID"] == job and row["State"] != "DEAD"}
    return [actor_id for actor_id, row in live.items() if row["ActorClassName"] == "TrainController"]


def _groups() -> list[str]:
    """Ids of the placement groups of this process's job, whose id they end in."""
    job = ray.get_runtime_context().get_job_id()
    live = (i for i, row in placement_group_table().items() if row["state"] != "REMOVED")
    return [group_id for group_id in live if group_id.endswith(job)]
