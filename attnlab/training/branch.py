"""A decay that branches off a run with a constant rate, to score it as if it ended there.

Runs that are compared at a rung while their rates are high may change order as the rates fall. With schedule wsd a
short decay can be tried from any step (Hägele et al. 2024, arXiv 2405.18392). The main run then goes on unchanged.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from attnlab.training.checkpoint import tensors
from attnlab.training.run import Run


def branch(run: Run, step: int, decay_steps: int) -> dict[str, Any]:
    """Decay from `step` over the next `decay_steps` steps, validate, and put everything back.

    The branch reads the batches that the main run will read next, with the same dropout. Model and optimizer are saved
    in host memory and restored in place, because a captured step reads them at fixed addresses.

    Returns:
        A report without `seconds`: `step` is the main run's, `branch_steps` marks a branch, `tokens` are those behind
        the scored weights, `lr` is the branch's last, `train_loss` its mean. If that is not finite, all scores are nan.
    """
    start, trial = time.perf_counter(), run.trial
    live = [*tensors(run.model).values(), *run.optimizer.state_dict().values()]
    saved = [tensor.detach().to("cpu", copy=True) for tensor in live]
    with run.optimizer.decaying(step, decay_steps):
        loss_sum = torch.zeros((), device=run.device)
        for later in range(step + 1, step + decay_steps + 1):
            loss_sum += run.step(later, later)
        lr = run.optimizer.lr(step + decay_steps)
    train_loss = run.sum_over_ranks(loss_sum) / decay_steps
    trained = time.perf_counter()
    scores = run.scores() if math.isfinite(train_loss) else dict.fromkeys(run.task.metrics, math.nan)
    _restore(live, saved)
    return {
        "step": step,
        "branch_steps": decay_steps,
        "tokens": (step + decay_steps) * trial.tokens_per_step,
        "train_loss": train_loss,
        **scores,
        "lr": lr,
        "tokens_per_s": decay_steps * trial.tokens_per_step / (trained - start),
        "peak_mem_gib": run.peak_mem_gib(),
    }


@torch.no_grad()
def _restore(live: list[Tensor], saved: list[Tensor]) -> None:
    for tensor, before in zip(live, saved, strict=True):
        tensor.copy_(before)
