"""What a slot's workers died of, told by the one process that Ray tells: the TorchTrainer's controller.

A module of its own: `ray.train`, which it needs, takes 0.6 CPU-seconds to import, and the mailboxes do without.
"""

from __future__ import annotations

import traceback
from typing import Any

import ray
import ray.exceptions
from ray.train import UserCallback


class Obituary(UserCallback):
    """In a TorchTrainer's controller: tells the slot's mailbox that workers died, and of what as far as Ray knows."""

    def __init__(self, box: Any):
        self._box = box

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ray.get(self._box.died.remote(cause(next(iter(worker_exceptions.values())))))


def cause(error: BaseException) -> str:
    """What a worker died of, on one line. Ray knows a node's death and an exception, and of a process that died by
    itself only that it is gone."""
    error = getattr(error, "health_check_failure", error)
    if not isinstance(error, ray.exceptions.RayActorError):
        return "".join(traceback.format_exception_only(error)).strip()
    said = str(error)
    if "connection error code" in said:
        return (
            "its process ended without a word: killed (SIGKILL; the kernel does so where memory runs out), or left by "
            "os._exit"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "died" in line and not line.endswith("this task.")), lines[-1])
