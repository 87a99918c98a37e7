"""What Tune runs per trial: a thin function that posts the trial to a slot and passes its reports on."""

from __future__ import annotations

import itertools
import time
from typing import Any

import ray
import ray.exceptions
from ray import tune

from attnlab.runs import place

RETRIES = 3  # of a relay that dies
PATIENCE_S = 60.0


def relay(config: dict[str, Any], pool: Any = None) -> None:
    """Lease a slot, post the trial, pass on each report until the one that carries the end state.

    A report whose step was passed on before is dropped: a resumed trial repeats its last one. Tune starts a relay that
    was killed again; it finds the trial where it is and begins with its first report. If pool or mailbox die, the
    launcher ends the sweep: the trial has not failed, so nothing is said until then.
    """
    try:
        _relay(config["job"], pool)
    except ray.exceptions.RayActorError:
        time.sleep(PATIENCE_S)
        raise


def _relay(job: dict[str, Any], pool: Any) -> None:
    trial_id = job["trial_id"]
    box = ray.get(pool.lease.remote(trial_id, job["arm"]))
    ray.get(box.post.remote(job))
    seen = (0, False)
    for number in itertools.count():
        row = ray.get(box.read.remote(trial_id, number))
        if "state" in row:
            ray.get(pool.release.remote(trial_id))
            tune.report({**row, "step": row.get("step", seen[0])})
            return
        if place(row) > seen:
            seen = place(row)
            tune.report(row)
