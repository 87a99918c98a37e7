"""What was checked so that the comparison's answer is true, in plain words.

From leaderboard.json's `guards`, which the sweep wrote before it began (`attnlab.plan.guards`), and from its noise
floor (`attnlab.ranking.noise_floor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.records.select import Selection
from analysis.report.tables import Column, Table
from attnlab.ranking.noise_floor import noise_floor, sentences
from attnlab.ranking.power import seeds_for
from attnlab.util.files import read_json
from attnlab.util.text import listed, value_text


@dataclass
class Guards:
    """The section's sentences and tables."""

    recorded: bool = False  # whether the sweep has guards' findings
    checked: list[str] = field(default_factory=list)  # what came out well or cannot be helped
    warnings: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)  # needed seeds, confounds, what follows from settings
    problems: list[str] = field(default_factory=list)


def gather(sel: Selection) -> Guards:
    """Everything; what cannot be used is a line in `problems`."""
    out = Guards()
    _noise(sel, out)
    try:
        guards = read_json(sel.data.folder.leaderboard_file).get("guards")
    except (OSError, ValueError, AttributeError):
        return out  # reading the baselines reports a missing or damaged leaderboard.json
    try:
        if guards:
            _read(guards, out)
            out.recorded = True
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        out.problems.append(f"leaderboard.json: its guards cannot be used: {type(error).__name__} {error}")
    return out


def _read(guards: Mapping[str, Any], out: Guards) -> None:
    unsure = "; ".join(str(line) for line in guards["no_op"]["unsure"])
    how = f", as far as could be told: {unsure}." if unsure else ": model, optimizer, data or schedule differ."
    out.checked.append(f"Of the {guards['no_op']['arms']} arms no two are the same experiment under two names{how}")
    out.checked += [_leakage(task) for task in guards["leakage"] if "in_training" in task]
    out.checked += [_note(each) for each in guards.get("data", [])]
    out.warnings += [str(line) for line in guards["warnings"]]
    if not guards["warnings"]:
        out.checked.append("Between no two arms differs anything of weight that neither declares.")
    tables = _pairs(guards["confounds"]["pairs"]), _derived(guards["confounds"]["derived"])
    out.tables += [table for table in tables if table.rows]


def _who(arms: list[Any]) -> str:
    return listed([str(arm) for arm in arms]) if len(arms) <= 3 else f"{len(arms)} arms"


def _note(data: Mapping[str, Any]) -> str:
    return f"Data ({_who(data['arms'])}): {data['note']}."


def _leakage(task: Mapping[str, Any]) -> str:
    who = _who(task["arms"])
    share = f"{task['in_training']:.2%} of the {task['windows']:,} sequences validated on occur in training"
    if "held_out" in task:
        how = "rows are held out of training" if task["held_out"] else "the task has too few rows to hold any out"
        return f"Validation ({who}): {how}; {share} ({task['looked_at']:,} training rows looked at)."
    spans = f"{task['tokens_in_training']:.2%} of {task['tokens']:,} tokens in runs of {task['span_tokens']} that do"
    copies = task.get("copies")
    left_out = "" if copies is None else f"; {copies:,} copies of training documents were left out"
    passage = f" One passage that both have: {task['passage']!r}." if task.get("passage") else ""
    return f"Validation ({who}), looked up in the packed tokens: {share}, and {spans}{left_out}.{passage}"


def _pairs(pairs: list[Mapping[str, Any]]) -> Table:
    """Pairs of arms by what differs between them."""
    rows = [{"arms": "; ".join(f"{a} / {b}" for a, b in pair["arms"]), "differ": ", ".join(pair["differ"]) or "nothing",
             "undeclared": ", ".join(pair["undeclared"]) or None, "settings": ", ".join(pair["settings"]) or None}
            for pair in pairs]  # fmt: skip
    columns = [Column("differ", "differ in", "text"), Column("undeclared", "undeclared", "text"),
               Column("settings", "settings", "text"), Column("arms", "pairs of arms", "text")]  # fmt: skip
    return Table("confounds", columns, rows)


def _derived(derived: Mapping[str, Mapping[str, Any]]) -> Table:
    """What follows from the settings, where arms differ in it."""
    differing = {factor: values for factor, values in derived.items() if len({*map(str, values.values())}) > 1}
    arms = dict.fromkeys(arm for values in differing.values() for arm in values)
    rows = [{"arm": arm, **{factor: values.get(arm) for factor, values in differing.items()}} for arm in arms]
    columns = [Column(factor, factor, "text" if factor == "tokenizer" else "count") for factor in differing]
    return Table("derived", [Column("arm", "arm", "text"), *columns], rows)


def _noise(sel: Selection, out: Guards) -> None:
    noise = noise_floor(sel.plan, sel.data.results)
    if noise is None:
        return
    out.noise += [line.partition(": ")[2] for line in sentences(noise, sel.metric)]
    ended = sum(noise["counts"].values())
    if ended < noise["asked"]:
        out.noise.append(f"{ended} of {noise['asked']} runs of {noise['arm']} over seeds have ended.")
    if noise["std"] is None:
        return
    valued = [arm for arm in sel.arms if arm.score is not None]
    if len(valued) > 1 and valued[0].score != valued[1].score:
        gap = abs(valued[0].score - valued[1].score)
        line = f"The first two, {valued[0].arm} and {valued[1].arm}, are {value_text(gap)} apart"
        if detects := noise["detects"]:
            enough = gap >= detects["difference"]
            line += ": more than that" if enough else ": less than that, so this sweep could hardly tell them apart"
        needed = seeds_for(gap / noise["std"], len(sel.plan.names))
        more = f" {needed} seeds per arm would find such a difference four times in five." if needed else ""
        out.noise.append(f"{line}.{more}")
    columns = [Column("difference", f"difference in {sel.metric}"), Column("seeds", "seeds per arm", "count")]
    out.tables.append(Table("noise", columns, noise["needed"]))
