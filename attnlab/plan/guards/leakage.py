"""Whether what is validated on was trained on, as each task measures it (`Task.leakage`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnlab.tasks import Task

# Chosen by us. Of the sequences validated on, as far as they are long enough to tell of copying: boilerplate that every
# text of a kind has stays below. In shorter runs: half of validation is known from training, whatever it is.
TOLERATED, TOLERATED_SHORT = 0.01, 0.5


@dataclass
class Leakage:
    """`errors`, `warnings`: sentences; `record`: for leaderboard.json, each task's figures and which arms have it."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    record: list[dict[str, Any]] = field(default_factory=list)


def find(tasks: Mapping[str, Task]) -> Leakage:
    """Measure each task once. `tasks`: each arm's, prepared."""
    out, arms = Leakage(), dict[int, list[str]]()
    for arm, task in tasks.items():
        arms.setdefault(id(task), []).append(arm)
    for names in arms.values():
        task = tasks[names[0]]
        found = task.leakage()
        out.record.append({"arms": names, **found})
        where = "task" if len(names) == len(tasks) else f"arms.{names[0]}.task"
        if found:
            errors, warnings = judge(found)
            out.errors += [f"{where}: {line}" for line in errors]
            out.warnings += [f"{where}: {line}" for line in warnings]
    return out


def judge(found: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Errors and warnings on a task's figures."""
    share, count = found["in_training"], f"of the {found['windows']:,} sequences validated on"
    if "held_out" in found:
        if found["held_out"]:
            what = f"{share:.1%} {count} occur in training, though the task holds them out; its `draw` is not random"
            return ([what] if share else []), []
        what = f"too few rows exist to hold any out: {share:.1%} {count} occur in training, so val_* tells of these"
        return [], [what] if share else []
    errors, warnings = [], []
    shared, runs = found["tokens_in_training"], f"runs of {found['span_tokens']} that occur in training"
    spans = f"{shared:.1%} of validation's tokens lie in {runs}"
    cure = "so it tells what was memorised; take what both have out of one, or hold out other text (task.validation)"
    long_enough = found["window_tokens"] >= found["span_tokens"]
    if long_enough and share > TOLERATED:
        errors.append(f"{share:.1%} {count} occur whole in the training tokens, {cure}")
    elif shared > TOLERATED_SHORT:
        errors.append(f"{spans}, {cure}")
    else:
        if long_enough and share:
            warnings.append(f"{share:.2%} {count} occur whole in the training tokens")
        if shared > TOLERATED:
            warnings.append(f"{spans}: the two share passages")
    if found["copies"]:
        both = found["copies"] + found["documents"]
        warnings.append(
            f"{found['copies']:,} of {both:,} validation documents ({found['copies'] / both:.1%}) were training "
            f"documents as well, and were left out of validation"
        )
    return errors, warnings
