"""`--dry-run`: what a sweep would run, with every model built on torch's meta device to count its parameters."""

from __future__ import annotations

import torch
import yaml
from rich.console import Console

from attnlab.config.sweep import Sweep
from attnlab.config.trial import Trial
from attnlab.models import build_model, count_params
from attnlab.models.flops import flops_per_token
from attnlab.models.state import state_bytes
from attnlab.plan import gpu_packing, guards
from attnlab.plan.prepare import prepared


def costs(trial: Trial, vocab_size: int) -> str:
    """A model's operations and state in words."""
    length = trial.task.seq_len
    flops, state = flops_per_token(trial.model, length, vocab_size), state_bytes(trial.model, length)
    work = f"{flops / 1e6:,.1f} MFLOP per trained token" if flops else "FLOPs of its mixer not known"
    held = f"{state:,} bytes" if state is not None else "not known (no cache, or only on CUDA)"
    limit = f"; ends after {trial.train.seconds:g} s of training" if trial.train.seconds else ""
    return f"{work}; state after {length:,} tokens: {held}{limit}"


def show(sweep: Sweep) -> None:
    """Print every arm's resolved trial, search space and size, and the sweep's total steps and tokens."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{sweep.name}[/]: {sweep.description}",
        *([f"hypothesis: {sweep.hypothesis}"] if sweep.hypothesis else []),
        sep="\n",
    )
    tasks = prepared(sweep)
    guarded = guards.examine(sweep, tasks)
    for arm, task in tasks.items():
        trial = sweep.trial_of(arm)
        own = any(":" in mixer.name for mixer in trial.model.mixer)  # whose constructors may compute with values
        with torch.device("cpu" if own else "meta"):
            sizes = count_params(build_model(trial.model, task.vocab_size, task.readout))
        console.print(
            f"\n[bold]{arm}[/]: {sizes['n_params']:,} parameters ({sizes['n_params_non_embedding']:,} non-embedding); "
            f"{trial.train.max_steps:,} steps x {trial.tokens_per_step:,} tokens"
        )
        console.print(f"  {costs(trial, task.vocab_size)}")
        if trial.model.places:
            console.print(f"  {trial.model.places}", markup=False)
        for part, tree in trial.model_dump(mode="json", exclude_none=True).items():
            text = yaml.safe_dump(tree, default_flow_style=True, sort_keys=False, width=1000).strip()
            console.print(f"  {part + ':':<7}{text}", markup=False)
        if own := (sweep.arms[arm].get("search") or {}).get("space"):
            text = yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=1000).strip()
            console.print(f"  search its own {text}", markup=False)
    if sweep.search:
        space = yaml.safe_dump(sweep.search.space, default_flow_style=True, sort_keys=False, width=1000).strip()
        asha = (
            f"ASHA from step {sweep.search.asha.grace_steps}, factor {sweep.search.asha.reduction_factor:g}"
            + (", at the end of a decay branched off there" if sweep.search.asha.decay_rungs else "")
            if sweep.search.asha
            else "no pruning"
        )
        console.print(
            f"\nsearch: {space}\n        {sweep.search.sampler}, {sweep.search.mode} {sweep.metric}, {asha}",
            markup=False,
        )
    console.print(f"\nGPUs: {gpu_packing.said(sweep.resources, gpu_packing.largest(sweep, tasks))}")
    if sweep.search and sweep.search.extend:
        console.print(f"and {sweep.search.extend} trials more per arm, if any arm's best lies at the end of its range")
    if sweep.noise:
        console.print(f"first, for the noise floor: {sweep.noise.seeds} runs of {sweep.noise.arm}, a seed each")
    for line in guarded["warnings"]:
        console.print(f"warning: {line}", markup=False)
    console.print(
        f"total: {len(sweep.arms)} arms x up to {sweep.trials_per_arm} trials: {sweep.total_trials} trials, at most "
        f"{sweep.total_steps:,} steps and {sweep.total_tokens:,} tokens"
    )
