"""`--dry-run`: what a sweep would run. Models are built on torch's meta device to count their parameters."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from attnlab.config import yaml_text
from attnlab.config.resolved import Arm, Plan
from attnlab.config.sweep import SearchConfig, Sweep
from attnlab.config.trial import Trial
from attnlab.models.cost.flops import flops_per_token
from attnlab.models.cost.size import params_of
from attnlab.models.cost.state import state_bytes
from attnlab.plan import gpu_packing, memory
from attnlab.plan.guards.run import run_guards
from attnlab.plan.prepare import prepare_tasks
from attnlab.tasks import Task
from attnlab.util.errors import UserError
from attnlab.util.text import first_line, one_line


def costs(trial: Trial, vocab_size: int) -> str:
    """A model's operations and state in words."""
    length = trial.task.seq_len
    flops, state = flops_per_token(trial.model, length, vocab_size), state_bytes(trial.model, length)
    work = f"{flops / 1e6:,.1f} MFLOP per trained token" if flops else "FLOPs of its mixer not known"
    held = f"{state:,} bytes" if state is not None else "not known (no cache, or only on CUDA)"
    limit = f"; ends after {trial.train.seconds:g} s of training" if trial.train.seconds else ""
    return f"{work}; state after {length:,} tokens: {held}{limit}"


def show(plan: Plan, here: bool = True) -> None:
    """Print every arm's resolved trial, search space and size, and the sweep's totals.

    `here`: the sweep would run on this machine. Raises UserError: also what cannot fit there.
    """
    console, sweep = Console(highlight=False, soft_wrap=True, markup=False), plan.sweep
    console.print(Text.assemble((plan.name, "bold"), f": {sweep.description}"))
    if sweep.hypothesis:
        console.print(f"hypothesis: {sweep.hypothesis}")
    for claim in sweep.claims:
        console.print(f"claim: {claim}")
    if sweep.sesoi is not None or sweep.baseline is not None:
        console.print(_judged(sweep))
    room = memory.Room.here(sweep.resources.gpus_per_worker) if here else memory.Room()
    memory.check(plan, room)
    tasks = prepare_tasks(plan)
    memory.check(plan, room, {name: task.vocab_size for name, task in tasks.items()})
    findings = run_guards(plan, tasks)
    for arm in plan.arms:
        _show_arm(console, arm, tasks[arm.name], (sweep.arms[arm.name].get("search") or {}).get("space"))
    if sweep.search:
        console.print(f"\nsearch: {_search_text(sweep.search)}")
    console.print(f"\nGPUs: {gpu_packing.describe(sweep.resources, gpu_packing.largest(plan, tasks))}")
    if sweep.search and sweep.search.extend:
        console.print(f"and {sweep.search.extend} trials more per arm, if any arm's best lies at the end of its range")
    if sweep.noise:
        console.print(f"first, for the noise floor: {sweep.noise.seeds} runs of {sweep.noise.arm}, a seed each")
    for line in plan.notes:
        console.print(line)
    for line in findings["warnings"]:
        console.print(f"warning: {line}")
    console.print(
        f"total: {len(plan.arms)} arms x up to {plan.trials_per_arm} trials: {plan.total_trials} trials, at most "
        f"{plan.total_steps:,} steps and {plan.total_tokens:,} tokens"
    )


def _judged(sweep: Sweep) -> str:
    """How arms are judged, as far as the file says it."""
    sesoi = f"equivalent below {sweep.sesoi:g}" if sweep.sesoi is not None else ""
    return "; ".join(filter(None, (sesoi, f"all against {sweep.baseline}" if sweep.baseline is not None else "")))


def _show_arm(console: Console, arm: Arm, task: Task, space: Any) -> None:
    """Print an arm. `space`: what its tree adds to the space of the search."""
    trial = arm.trial
    sizes = params_of(trial.model, task.vocab_size, task.readout)
    size = f"{sizes['n_params']:,} parameters ({sizes['n_params_non_embedding']:,} non-embedding)"
    steps = f"{trial.train.max_steps:,} steps x {trial.tokens_per_step:,} tokens"
    console.print(Text.assemble("\n", (arm.name, "bold"), f": {size}; {steps}"))
    try:
        console.print(f"  {costs(trial, task.vocab_size)}")
    except Exception as error:  # whatever a layer raises that can be built and not run
        raise UserError(f"arms.{arm.name}.model: cannot be run as given ({one_line(first_line(error))})") from error
    if trial.model.layers_by_mixer:
        console.print(f"  {trial.model.layers_by_mixer}")
    unsaid = {"recipe"} if trial.recipe == 1 else set()
    for section, tree in trial.model_dump(mode="json", exclude_none=True, exclude=unsaid).items():
        console.print(f"  {section + ':':<6} {_flow(tree)}")
    if space:
        console.print(f"  search its own {_flow(space)}")


def _search_text(search: SearchConfig) -> str:
    pruning = "no pruning"
    if asha := search.asha:
        branched = ", at the end of a decay branched off there" if asha.decay_rungs else ""
        pruning = f"ASHA from step {asha.grace_steps}, factor {asha.reduction_factor:g}{branched}"
    return f"{_flow(search.space)}\n        {search.sampler}, {search.mode} {search.metric}, {pruning}"


def _flow(tree: Any) -> str:
    """A tree as YAML on one line."""
    return yaml_text.dump(tree, default_flow_style=True, width=1000).removesuffix("...\n").strip()
