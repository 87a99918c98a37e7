"""What Tune runs per trial: post it to a slot and pass its reports on."""

from __future__ import annotations

import itertools
import time
from typing import Any

import ray
import ray.exceptions
from ray import tune

from attnlab.records.metrics import report_order

RETRIES = 3  # of a relay that dies
PATIENCE_S = 60.0


def relay(config: dict[str, Any], pool: Any = None) -> None:
    """Lease a slot, post the trial, and pass on its reports until it ends.

    A report whose step was passed on before is dropped: a resumed trial repeats its last one. A slot whose workers are
    gone sends the trial away: another is leased, where the trial goes on from its last checkpoint.
    Tune restarts a relay that was killed, which begins with the trial's first report again. If pool or mailbox die, the
    launcher ends the sweep. The trial has not failed then, so the relay waits for that.
    """
    try:
        _relay(config["job"], pool)
    except ray.exceptions.RayActorError:
        time.sleep(PATIENCE_S)
        raise


def _relay(job: dict[str, Any], pool: Any) -> None:
    seen, state = (0, False), dict[str, Any]()
    while True:
        mailbox, key = ray.get(pool.lease.remote(job["trial_id"], job["arm"]))
        ray.get(mailbox.post.remote(key, job, state))
        for number in itertools.count():
            row = ray.get(mailbox.read.remote(key, number))
            if "moved" in row:
                break
            if "state" not in row:
                if report_order(row) > seen:
                    seen = report_order(row)
                    tune.report(row)
                continue
            ray.get(pool.release.remote(job["trial_id"]))
            tune.report({**row, "step": row.get("step", seen[0])})
            return
        state = row
        ray.get(pool.release.remote(job["trial_id"]))
