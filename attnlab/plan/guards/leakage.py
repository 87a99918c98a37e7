"""Whether what is validated on was trained on, as each task measures it (`Task.leakage`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnlab.tasks import Task

# Chosen by us. The first: of the sequences validated on, where they are long enough to show copying; boilerplate that
# every text of a kind has stays below. The second: of validation's tokens, in shorter runs.
TOLERATED, TOLERATED_SHORT = 0.01, 0.5
PASSAGE = 60  # characters of a passage in a line


@dataclass
class Leakage:
    """What was found, as sentences and for leaderboard.json."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    record: list[dict[str, Any]] = field(default_factory=list)  # each task's figures, and which arms have it


def find(tasks: Mapping[str, Task]) -> Leakage:
    """Measure each task once. `tasks`: each arm's, prepared."""
    out, arms = Leakage(), dict[int, list[str]]()
    for arm, task in tasks.items():
        arms.setdefault(id(task), []).append(arm)
    for names in arms.values():
        task = tasks[names[0]]
        figures = task.leakage()
        out.record.append({"arms": names, **figures})
        key = "task" if len(names) == len(tasks) else f"arms.{names[0]}.task"
        if figures:
            errors, warnings = judge(figures)
            out.errors += [f"{key}: {line}" for line in errors]
            out.warnings += [f"{key}: {line}" for line in warnings]
    return out


def judge(figures: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Turn a task's figures into errors and warnings."""
    share, count = figures["in_training"], f"of the {figures['windows']:,} sequences validated on"
    if "held_out" in figures:
        if figures["held_out"]:
            what = f"{share:.1%} {count} occur in training, though the task holds them out; its `draw` is not random"
            return ([what] if share else []), []
        what = f"too few rows exist to hold any out: {share:.1%} {count} occur in training, so val_* tells of these"
        return [], [what] if share else []
    errors, warnings = [], []
    shared, runs = figures["tokens_in_training"], f"runs of {figures['span_tokens']} that occur in training"
    spans = f"{shared:.1%} of validation's tokens lie in {runs}"
    cure = "so it tells what was memorised; take what both have out of one, or hold out other text (task.validation)"
    long_enough = figures["window_tokens"] >= figures["span_tokens"]
    if long_enough and share > TOLERATED:
        errors.append(f"{share:.1%} {count} occur whole in the training tokens, {cure}")
    elif shared > TOLERATED_SHORT:
        errors.append(f"{spans}, {cure}")
    else:
        if long_enough and share:
            warnings.append(f"{share:.2%} {count} occur whole in the training tokens")
        if shared > TOLERATED:
            warnings.append(f"{spans}: the two share passages")
    if passage := figures.get("passage"):  # cached by a version that kept none
        shows = f"; such as {passage[:PASSAGE]!r}"
        errors, warnings = [line + shows for line in errors], [line + shows for line in warnings]
    if figures["copies"]:
        both = figures["copies"] + figures["documents"]
        warnings.append(
            f"{figures['copies']:,} of {both:,} validation documents ({figures['copies'] / both:.1%}) were training "
            f"documents as well, and were left out of validation"
        )
    return errors, warnings
