"""The learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math

from attnlab.config.trial import OptimConfig


def warmup_steps(max_steps: int, optim: OptimConfig) -> int:
    """Steps until the full rate is reached; 1: the first step is at the full rate.

    Raises:
        ValueError: a warm-up given in steps that leaves no step of the run after it.
    """
    if optim.warmup < 1:
        return max(1, min(round(optim.warmup * max_steps), max_steps - 1))
    steps = round(optim.warmup)
    if steps >= max_steps and steps > 1:
        raise ValueError(f"optim.warmup is {steps} steps, train.max_steps {max_steps}; warm-up must be the shorter")
    return steps


def lr_factor(step: int, max_steps: int, optim: OptimConfig) -> float:
    """The factor on `optim.lr` of the update that makes step `step` (1-based, up to `max_steps`).

    With s the step, N = `max_steps`, W = `warmup_steps(...)`, m = `min_lr_ratio` and p = (s - W) / (N - W):

    * warm-up, s <= W: s / W (linear: Goyal et al. 2017, arXiv 1706.02677), so step 1 already moves and step W is at 1;
    * cosine: m + (1 - m) (1 + cos(pi p)) / 2 (Loshchilov & Hutter 2017, arXiv 1608.03983);
    * linear: m + (1 - m) (1 - p) (Defazio et al. 2023, arXiv 2310.07839);
    * wsd: 1 until step S = N - round(`decay` N), not before W, then m + (1 - m) (1 - sqrt((s - S) / (N - S))). Warm-up,
      stable, decay is of Hu et al. 2024 (MiniCPM, arXiv 2404.06395); this shape of the decay is of Hägele et al. 2024
      (arXiv 2405.18392), who measured it ahead of a linear one;
    * constant: 1.

    With `decay_rungs` a wsd trial is judged at a rung by a decay of its own, `branch_factor`.

    The last step's factor is exactly m, except for `constant` and for a run of a single step, which are at 1.

    Raises:
        ValueError: a step outside 1..max_steps, or a warm-up as long as the run.
    """
    if not 1 <= step <= max_steps:
        raise ValueError(f"step {step}; steps are 1 to max_steps = {max_steps}")
    warmup, floor = warmup_steps(max_steps, optim), optim.min_lr_ratio
    if step <= warmup:
        return step / warmup
    if optim.schedule == "constant":
        return 1.0
    progress = (step - warmup) / (max_steps - warmup)
    if optim.schedule == "cosine":
        left = (1.0 + math.cos(math.pi * progress)) / 2.0
    elif optim.schedule == "linear":
        left = 1.0 - progress
    else:
        start = min(max(warmup, optim.decay_start(max_steps)), max_steps - 1)
        return branch_factor(max(start, step), start, max_steps - start, optim)
    return floor + (1.0 - floor) * left


def branch_factor(step: int, start: int, steps: int, optim: OptimConfig) -> float:
    """The factor on `optim.lr` in a decay of `steps` steps after step `start`.

    As of wsd above it is m + (1 - m) (1 - sqrt((s - start) / steps)), 1 at `start` and m at `start + steps`.
    """
    left = 1.0 - math.sqrt((step - start) / steps)
    return optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * left
