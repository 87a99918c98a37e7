"""How many slots fit on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnlab.config.resolved import Plan
from attnlab.plan import gpu_packing
from attnlab.sweep.cluster.autoscaler import Autoscaler
from attnlab.util.errors import UserError


@dataclass(frozen=True)
class SlotShape:
    """What one slot takes of the cluster."""

    workers: int
    cpus: int  # per worker
    gpus: float  # per worker

    def fits(self, cpus: float, gpus: float) -> int:
        """How many slots fit into so many CPUs and GPUs."""
        by_cpu = int(cpus // (self.workers * self.cpus))
        if not self.gpus:
            return by_cpu
        # a worker never spans devices: fractions are packed per GPU
        workers = int(gpus) * int(1 / self.gpus + 1e-9) if self.gpus <= 1 else int(gpus // self.gpus)
        return min(by_cpu, workers // self.workers)


def room(
    plan: Plan, need: gpu_packing.Need, have: Mapping[str, float], autoscaler: Autoscaler
) -> tuple[SlotShape, int]:
    """The shape and number of slots; `have`: all resources of the cluster. Raises UserError if none fits."""
    r = plan.sweep.resources
    gpus = gpu_packing.gpus_per_worker(r, need, have, plan.total_trials)
    shape = SlotShape(r.workers, r.cpus_per_worker, gpus)
    count = shape.fits(have.get("CPU", 0), have.get("GPU", 0))
    if autoscaler.active and not autoscaler.node_types:  # not known what it may start: what is asked for may come
        if "auto" not in (r.max_concurrent, r.gpus_per_worker):
            count = int(r.max_concurrent)
        elif not count:
            raise UserError(
                "resources: nothing fits on the nodes that are up, and what the autoscaler may start is not known "
                "here; give resources.max_concurrent and resources.gpus_per_worker as numbers"
            )
    if not count:
        raise UserError(
            f"resources: a trial takes {r.workers} x {r.cpus_per_worker} CPUs and {r.workers} x {gpus:g} GPUs, but "
            f"here are {'at most ' if autoscaler.node_types else ''}{have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs; lower resources.workers, cpus_per_worker or gpus_per_worker"
            f"{' (0 trains on CPUs)' if gpus else ''}"
        )
    return shape, min(count, plan.total_trials, *([] if r.max_concurrent == "auto" else [r.max_concurrent]))
