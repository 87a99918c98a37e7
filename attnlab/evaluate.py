"""Validation: loss, bits per byte and accuracy, each with its standard error."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from attnlab.tasks import IGNORE, Task


@torch.no_grad()
def evaluate(
    model: Any, task: Task, *, device: torch.device, batch_size: int, autocast: Any, rank: int = 0, world: int = 1
) -> dict[str, float]:
    """Evaluate on the task's fixed validation set, its batches dealt round-robin to the ranks.

    Sequences are the sampling unit (tokens of one sequence are not independent), so the standard error is that of a
    ratio of sums over sequences: with l_i the loss and c_i the targets of sequence i and R = sum(l) / sum(c),
    var(R) = n / (n - 1) * sum((l_i - R c_i)^2) / sum(c)^2   (Cochran, Sampling Techniques, 1977, section 6.3).

    Returns, identically on every rank:
        val_loss (nats per target) and val_accuracy, each with `_se`; val_bpb (bits per UTF-8 byte) where the task
        knows its bytes; only the keys the task names in `metrics` and their standard errors.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(9, dtype=torch.float64, device=device)
    for i, batch in enumerate(task.eval_batches(batch_size)):
        if i % world == rank:
            with autocast():
                sums += _moments(model, *(torch.from_numpy(a).to(device) for a in batch))
    model.train(training)
    if world > 1:
        dist.all_reduce(sums)
    n, c, cc, loss, loss2, loss_c, hit, hit2, hit_c = sums.tolist()
    out = {}
    out["val_loss"], out["val_loss_se"] = _ratio(n, c, cc, loss, loss2, loss_c)
    out["val_accuracy"], out["val_accuracy_se"] = _ratio(n, c, cc, hit, hit2, hit_c)
    if task.bytes_per_token:
        per = math.log(2) * task.bytes_per_token
        out["val_bpb"], out["val_bpb_se"] = out["val_loss"] / per, out["val_loss_se"] / per
    return {key: value for key, value in out.items() if key.removesuffix("_se") in task.metrics}


def _moments(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """First and second moments over the sequences of one batch [B, T]: n, c, cc, l, ll, lc, a, aa, ac (float64)."""
    mask = targets != IGNORE
    logits = model.head(model.hidden(inputs)[mask]).float()  # the head only where there is a target
    row = mask.nonzero()[:, 0]
    per = torch.zeros(3, len(inputs), dtype=torch.float64, device=inputs.device)
    per[0].index_add_(0, row, torch.ones_like(row, dtype=torch.float64))
    per[1].index_add_(0, row, F.cross_entropy(logits, targets[mask], reduction="none").double())
    per[2].index_add_(0, row, (logits.argmax(-1) == targets[mask]).double())
    c, loss, hit = per
    n = (c > 0).sum().double()
    return torch.stack([n, c.sum(), c @ c, loss.sum(), loss @ loss, loss @ c, hit.sum(), hit @ hit, hit @ c])


def _ratio(n: float, c: float, cc: float, x: float, xx: float, xc: float) -> tuple[float, float]:
    """sum(x) / sum(c) and its standard error over n sequences; nan where it cannot be estimated."""
    if not n:
        return math.nan, math.nan
    ratio = x / c
    squares = max(0.0, xx - 2 * ratio * xc + ratio * ratio * cc)
    return ratio, math.sqrt(n / (n - 1) * squares) / c if n > 1 else math.nan
