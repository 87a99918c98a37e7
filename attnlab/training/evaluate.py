"""Validation: loss, bits per byte and accuracy, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from attnlab.tasks import IGNORE, Task


@torch.no_grad()
def evaluate(
    model: Any,
    task: Task,
    *,
    device: torch.device,
    batch_size: int,
    autocast: Any,
    rank: int = 0,
    world: int = 1,
    heartbeat: Callable[[], None] = lambda: None,
    max_batches: int | None = None,
) -> dict[str, float]:
    """Evaluate on the task's validation set at each of its lengths, sharing batches among ranks.

    Tokens of one sequence are not independent, so the standard error is that of a ratio of sums over sequences.
    With l_i the loss and c_i the targets of sequence i and R = sum(l) / sum(c),
    var(R) = n / (n - 1) * sum((l_i - R c_i)^2) / sum(c)^2   (Cochran, Sampling Techniques, 1977, section 6.3).

    Args:
        batch_size: sequences per batch at the training length; see `rows_at` for other lengths.
        heartbeat: called at every batch.
        max_batches: of each length, at most. None: all.

    Returns, identically on every rank:
        The task's `metrics`, each with a standard error `_se`: val_loss (nats per target), val_accuracy, val_bpb (bits
        per UTF-8 byte) if the task knows its bytes, val_accuracy_<kind> if its targets have kinds. Those of another
        length end in `_T<length>`.
    """
    training = model.training
    model.eval()
    out = {}
    for ending, variant in task.lengths().items():
        sums = torch.zeros(1 + len(variant.kind_names), 13, dtype=torch.float64, device=device)
        for i, batch in enumerate(variant.eval_batches(rows_at(batch_size, task, variant), max_batches)):
            heartbeat()
            if i % world == rank:
                kinds = variant.kinds(batch) if variant.kind_names else np.zeros_like(batch.targets)
                with autocast():
                    sums += _moments(model, *(torch.from_numpy(a).to(device) for a in (*batch, kinds)), len(sums) - 1)
        if world > 1:
            dist.all_reduce(sums)
        scores = _scores(sums, variant)
        out |= {name + ending: value for name, (value, _) in scores.items()}
        out |= {name + ending + "_se": error for name, (_, error) in scores.items()}
    model.train(training)
    return {key: out[key] for name in task.metrics for key in (name, name + "_se")}


def rows_at(batch_size: int, task: Task, variant: Task) -> int:
    """Sequences per batch at another length, with no more tokens than `batch_size` have at the task's."""
    return max(1, batch_size * task.seq_len // variant.seq_len)


def _moments(
    model: Any, inputs: torch.Tensor, targets: torch.Tensor, kinds: torch.Tensor, n_kinds: int
) -> torch.Tensor:
    """Moments over the sequences of a batch [B, T], by kind, float64 [1 + kinds, 13].

    The first row is of all targets. Columns are the number of sequences with a target, the sums of targets c, loss l
    and hits h, and those of their 9 products.
    """
    mask = targets != IGNORE
    logits = model.head(model.hidden(inputs)[mask]).float()  # the head only where there is a target
    columns = [torch.ones(len(logits), device=inputs.device), F.cross_entropy(logits, targets[mask], reduction="none")]
    columns.append(logits.argmax(-1) == targets[mask])
    per = torch.zeros(max(1, n_kinds), len(inputs), 3, dtype=torch.float64, device=inputs.device)
    per.index_put_((kinds[mask], mask.nonzero()[:, 0]), torch.stack([a.double() for a in columns], -1), accumulate=True)
    if n_kinds:
        per = torch.cat([per.sum(0, keepdim=True), per])
    n = (per[..., 0] > 0).sum(1, keepdim=True)
    return torch.cat([n, per.sum(1), torch.einsum("kbi,kbj->kij", per, per).flatten(1)], dim=1)


def _scores(sums: torch.Tensor, task: Task) -> dict[str, tuple[float, float]]:
    """Summed moments [1 + kinds, 13] -> metric -> (value, standard error)."""
    (n, c, loss, hit, cc, lc, hc, _, ll, _, _, _, hh), *kinds = sums.tolist()
    scores = {"val_loss": _ratio(n, c, cc, loss, ll, lc), "val_accuracy": _ratio(n, c, cc, hit, hh, hc)}
    if task.bytes_per_token:
        per = math.log(2) * task.bytes_per_token
        scores["val_bpb"] = (scores["val_loss"][0] / per, scores["val_loss"][1] / per)
    for name, (n, c, _, hit, cc, _, hc, *_, hh) in zip(task.kind_names, kinds, strict=True):
        scores[f"val_accuracy_{name}"] = _ratio(n, c, cc, hit, hh, hc)
    return scores


def _ratio(n: float, c: float, cc: float, x: float, xx: float, xc: float) -> tuple[float, float]:
    """sum(x) / sum(c) and its standard error over n sequences. nan if it cannot be estimated."""
    if not n:
        return math.nan, math.nan
    ratio = x / c
    squares = max(0.0, xx - 2 * ratio * xc + ratio * ratio * cc)
    return ratio, math.sqrt(n / (n - 1) * squares) / c if n > 1 else math.nan
