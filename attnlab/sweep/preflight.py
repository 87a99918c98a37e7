"""Prepare a sweep's data and judge it before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.plan import gpu_packing
from attnlab.plan.guards.run import run_guards
from attnlab.plan.prepare import prepare_tasks
from attnlab.plan.provenance import Provenance


@dataclass(frozen=True)
class Preflight:
    """What is known of a sweep before it runs."""

    need: gpu_packing.Need  # of the largest trial
    baselines: dict[str, float]
    guards: dict[str, Any]  # their findings
    provenance: Provenance

    @classmethod
    def of(cls, plan: Plan) -> Preflight:
        """Prepare a plan's tasks and run its guards. Raises UserError."""
        tasks = prepare_tasks(plan)
        baselines = next(iter(tasks.values())).baselines()
        provenance = Provenance((arm.trial, tasks[arm.name]) for arm in plan.arms)
        return cls(gpu_packing.largest(plan, tasks), baselines, run_guards(plan, tasks), provenance)
