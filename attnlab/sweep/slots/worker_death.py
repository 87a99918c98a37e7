"""Report to a slot's mailbox what its workers died of."""

from __future__ import annotations

import traceback
from typing import Any

import ray
import ray.exceptions
from ray.train import UserCallback  # 0.6 CPU-seconds, which mailboxes do without


class WorkerDeathCallback(UserCallback):
    """Reports workers' deaths from their TorchTrainer's controller to the slot's mailbox."""

    def __init__(self, mailbox: Any):
        self._mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Report the first worker's death."""
        ray.get(self._mailbox.died.remote(cause_of_death(next(iter(worker_exceptions.values())))))


def cause_of_death(error: BaseException) -> str:
    """What a worker died of, on one line, as far as Ray knows."""
    error = getattr(error, "health_check_failure", error)
    if not isinstance(error, ray.exceptions.RayActorError):
        return "".join(traceback.format_exception_only(error)).strip()
    message = str(error)
    if "connection error code" in message:
        killed = "killed (SIGKILL; the kernel does so where memory runs out)"
        return f"its process ended without a word: {killed}, or left by os._exit"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if "died" in line and not line.endswith("this task.")), lines[-1])
