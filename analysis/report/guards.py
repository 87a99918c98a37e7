"""What was checked so that the comparison's answer is true, in plain words: from leaderboard.json's `guards`, which the
sweep wrote before it began (`attnlab.plan.guards`), and from its noise floor (`attnlab.ranking.noise_floor`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.records.select import Selection
from analysis.report.tables import Column, Table
from analysis.report.wording import listed, value_text
from attnlab.ranking.noise_floor import noise_floor, said, seeds_for
from attnlab.util.files import read_json


@dataclass
class Guards:
    """`found`: whether the sweep has guards' findings; `checked`: sentences on what was looked at and came out well or
    cannot be helped; `warnings`; `noise`: sentences; `tables`: confounds, what follows from settings, needed seeds."""

    found: bool = False
    checked: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def gather(sel: Selection) -> Guards:
    """Everything; what cannot be used is a line in `problems`."""
    out = Guards()
    _noise(sel, out)
    try:
        guards = read_json(sel.data.folder.leaderboard_file).get("guards")
    except (OSError, ValueError, AttributeError):
        return out  # a leaderboard.json that is missing or damaged is told where its baselines are read
    if not guards:
        return out
    try:
        _read(guards, out)
        out.found = True
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        out.problems.append(f"leaderboard.json: its guards cannot be used: {type(error).__name__} {error}")
    return out


def _read(guards: Mapping[str, Any], out: Guards) -> None:
    no_op = guards["no_op"]
    unsure = [str(line) for line in no_op["unsure"]]
    out.checked.append(
        f"Of the {no_op['arms']} arms no two are the same experiment under two names"
        + (
            f", as far as could be told: {'; '.join(unsure)}."
            if unsure
            else ": model, optimizer, data or schedule differ."
        )
    )
    out.checked += [_leakage(task) for task in guards["leakage"] if "in_training" in task]
    out.warnings += [str(line) for line in guards["warnings"]]
    if not guards["warnings"]:
        out.checked.append("Between no two arms differs anything of weight that neither declares.")
    out.tables += [
        t for t in (_pairs(guards["confounds"]["pairs"]), _derived(guards["confounds"]["derived"])) if t.rows
    ]


def _leakage(task: Mapping[str, Any]) -> str:
    who = listed([str(arm) for arm in task["arms"]]) if len(task["arms"]) <= 3 else f"{len(task['arms'])} arms"
    share = f"{task['in_training']:.2%} of the {task['windows']:,} sequences validated on occur in training"
    if "held_out" in task:
        how = "rows are held out of training" if task["held_out"] else "the task has too few rows to hold any out"
        return f"Validation ({who}): {how}; {share} ({task['looked_at']:,} training rows looked at)."
    spans = f"{task['tokens_in_training']:.2%} of {task['tokens']:,} tokens in runs of {task['span_tokens']} that do"
    copies = (
        f"; {task['copies']:,} copies of training documents were left out" if task.get("copies") is not None else ""
    )
    return f"Validation ({who}), looked up in the packed tokens: {share}, and {spans}{copies}."


def _pairs(pairs: list[Mapping[str, Any]]) -> Table:
    """Pairs of arms by what differs between them."""
    rows = [
        {
            "arms": "; ".join(f"{a} / {b}" for a, b in each["arms"]),
            "differ": ", ".join(each["differ"]) or "nothing",
            "undeclared": ", ".join(each["undeclared"]) or None,
            "settings": ", ".join(each["settings"]) or None,
        }
        for each in pairs
    ]
    columns = [
        Column("differ", "differ in", "text"),
        Column("undeclared", "undeclared", "text"),
        Column("settings", "settings", "text"),
        Column("arms", "pairs of arms", "text"),
    ]
    return Table("confounds", columns, rows)


def _derived(derived: Mapping[str, Mapping[str, Any]]) -> Table:
    """What follows from the settings, where arms differ in it."""
    apart = {factor: values for factor, values in derived.items() if len({*map(str, values.values())}) > 1}
    arms = dict.fromkeys(arm for values in apart.values() for arm in values)
    rows = [{"arm": arm, **{factor: values.get(arm) for factor, values in apart.items()}} for arm in arms]
    text = {"tokenizer": "text"}
    return Table("derived", [Column("arm", "arm", "text"), *(Column(f, f, text.get(f, "count")) for f in apart)], rows)


def _noise(sel: Selection, out: Guards) -> None:
    noise = noise_floor(sel.plan, sel.data.results)
    if noise is None:
        return
    out.noise += [line.partition(": ")[2] for line in said(noise, sel.metric)]
    ended = sum(noise["counts"].values())
    if ended < noise["asked"]:
        out.noise.append(f"{ended} of {noise['asked']} runs of {noise['arm']} over seeds have ended.")
    if noise["std"] is None:
        return
    rows = [dict(each) for each in noise["needed"]]
    valued = [arm for arm in sel.arms if arm.score is not None]
    if len(valued) > 1 and valued[0].score != valued[1].score:
        gap = abs(valued[0].score - valued[1].score)
        enough = gap >= noise["detects"]["difference"]
        needed = seeds_for(gap / noise["std"])
        out.noise.append(
            f"The first two, {valued[0].arm} and {valued[1].arm}, are {value_text(gap)} apart: "
            + ("more than that." if enough else "less than that, so this sweep could hardly tell them apart.")
            + (f" {needed} seeds per arm would find such a difference four times in five." if needed else "")
        )
    columns = [Column("difference", f"difference in {sel.metric}"), Column("seeds", "seeds per arm", "count")]
    out.tables.append(Table("noise", columns, rows))
