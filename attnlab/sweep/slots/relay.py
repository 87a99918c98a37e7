"""What Tune runs per trial: post it to a slot and pass its reports on."""

from __future__ import annotations

import itertools
import time
from typing import Any

import ray
import ray.exceptions
from ray import tune

from attnlab.records.reading import report_order

RETRIES = 3  # of a relay that dies
PATIENCE_S = 60.0  # for the launcher to end the sweep


def relay(config: dict[str, Any], pool: Any = None) -> None:
    """Lease a slot, post the trial, and pass on its reports until it ends.

    Reports that a resumed trial repeats are dropped. A slot that lost its workers sends the trial away, which goes on
    in another from its last checkpoint. Tune restarts a killed relay, which begins with the first report again.
    """
    try:
        _relay(config["job"], pool)
    except ray.exceptions.RayActorError:  # pool or mailbox died: the trial has not failed, but the sweep ends
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
            if "state" in row:
                ray.get(pool.release.remote(job["trial_id"]))
                tune.report({**row, "step": row.get("step", seen[0])})
                return
            if report_order(row) > seen:
                seen = report_order(row)
                tune.report(row)
        state = row
        ray.get(pool.release.remote(job["trial_id"]))
