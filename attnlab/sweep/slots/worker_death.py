"""Report what a slot's workers died of, from the TorchTrainer's controller, which Ray tells it.

A module of its own: `ray.train`, which it needs, takes 0.6 CPU-seconds to import, and the mailboxes do without.
"""

from __future__ import annotations

import traceback
from typing import Any

import ray
import ray.exceptions
from ray.train import UserCallback


class WorkerDeathCallback(UserCallback):
    """In a TorchTrainer's controller: report to the slot's mailbox that workers died, and of what."""

    def __init__(self, mailbox: Any):
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the first worker's death."""
        ray.get(self._mailbox.died.remote(cause_of_death(next(iter(worker_exceptions.values())))))


def cause_of_death(error: BaseException) -> str:
    """What a worker died of, on one line.

    Ray knows a node's death and an exception. Of a process that died by itself it only knows that it is gone.
    """
    error = getattr(error, "health_check_failure", error)
    if not isinstance(error, ray.exceptions.RayActorError):
        return "".join(traceback.format_exception_only(error)).strip()
    message = str(error)
    if "connection error code" in message:
        return (
            "its process ended without a word: killed (SIGKILL; the kernel does so where memory runs out), or left by "
            "os._exit"
        )
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if "died" in line and not line.endswith("this task.")), lines[-1])
