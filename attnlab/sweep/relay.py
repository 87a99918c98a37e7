"""What Tune runs per trial: a thin function that posts the trial to a slot and passes its reports on."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from attnlab.runs import place


def relay(config: dict[str, Any], pool: Any = None) -> None:
    """Lease a slot, post the trial, pass on each report until the one that carries the end state.

    A report whose step was passed on before is dropped: a resumed trial repeats its last one.
    """
    job = config["job"]
    trial_id = job["trial_id"]
    box = ray.get(pool.lease.remote(trial_id, job["arm"]))
    ray.get(box.post.remote(job))
    seen = (0, False)
    while True:
        row = ray.get(box.read.remote(trial_id))
        if "state" in row:
            ray.get(pool.release.remote(trial_id))
            tune.report({**row, "step": row.get("step", seen[0])})
            return
        if place(row) > seen:
            seen = place(row)
            tune.report(row)
