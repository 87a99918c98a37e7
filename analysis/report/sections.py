"""What the report says beside the leaderboard: each section's tables, from the records, benchmarks and measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from analysis.efficiency import lengths
from analysis.figures.outcomes import PARTS
from analysis.records.select import Selection
from analysis.report import details, guards
from analysis.report.tables import Column, Table
from analysis.report.wording import value_text
from analysis.statistics import contamination, cost, crossing, pairs
from attnlab.ranking import tests
from attnlab.ranking.tests import Pair

PAIR_COLUMNS = [
    Column("a", "arm", "text"),
    Column("b", "against", "text"),
    Column("gap", "difference [95 %] (n)", "interval"),
    Column("p", "p", "p"),
    Column("p_holm", "p, Holm", "p"),
    Column("verdict", "verdict", "text"),
    Column("needed", "n per arm that decides", "count"),
    Column("test", "test", "text"),
]


@dataclass
class Sections:
    """Everything of the page that is a table; a name of `tables` is a CSV file's."""

    benchmarks: pairs.Benchmarks
    efficiency: Mapping[str, Any] | None
    expected: Mapping[str, Sequence[float]]
    tables: dict[str, Table] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    contamination: list[str] = field(default_factory=list)
    guards: guards.Guards = field(default_factory=guards.Guards)


def gather(sel: Selection) -> Sections:
    """All sections; what cannot be used is a line in `problems`, and the rest is made."""
    found = pairs.benchmarks(sel)
    tree, problems = lengths.read(sel.data.folder.analysis)
    out = Sections(found, tree, cost.trials_to_value(sel), problems=[*found.problems, *problems])
    out.contamination = contamination.suspects(found.tables)
    out.guards = guards.gather(sel)
    out.problems += out.guards.problems
    for table in (
        pair_table("pairs", pairs.over_seeds(sel), sel.plan.mode),
        fairness(sel),
        certificates(sel),
        details.trials(sel),
        iso_loss(sel),
        scaling(sel),
        importances(sel),
        benchmark_table(sel, found.tables),
        *(pair_table(f"pairs-{t.name}", t.pairs, t.mode) for t in found.tables),
        *(speed(sel, tree) if tree else ()),
        *out.guards.tables,
    ):
        if table.rows:
            out.tables[table.name] = table
    return out


def pair_table(name: str, found: Sequence[Pair], mode: str) -> Table:
    """Every comparison."""
    rows = [
        {
            "a": p.a,
            "b": p.b,
            "gap": p.difference,
            "p": p.p,
            "p_holm": p.p_holm,
            "verdict": p.verdict(mode),
            "needed": p.needed,
            "test": p.test,
            "_strong": ("verdict",) if p.decided else (),
        }
        for p in found
    ]
    return Table(name, PAIR_COLUMNS, rows)


def fairness(sel: Selection) -> Table:
    """What each arm was given, side by side."""
    rows = [
        {
            "arm": arm.arm,
            "_index": arm.index,
            "begun": len(arm.trials),
            **arm.counts,
            "steps": sum(t.results["steps"] for t in arm.trials if t.results),
            "tokens": arm.tokens,
            "device_seconds": arm.device_seconds,
            "n_params_non_embedding": arm.n_params_non_embedding,
        }
        for arm in sel.declared
    ]
    states = [s for s in rows[0] if s in ("completed", "pruned", "diverged", "failed", "unfinished", "unreadable")]
    columns = [
        Column("arm", "arm", "arm"),
        Column("begun", "trials", "count"),
        *(Column(s, s, "count") for s in states if any(row[s] for row in rows)),
        Column("steps", "steps", "count"),
        Column("tokens", "tokens", "large"),
        Column("device_seconds", "device-s", "seconds"),
        Column("n_params_non_embedding", "parameters, non-emb.", "large"),
    ]
    return Table("fairness", columns, rows)


def certificates(sel: Selection) -> Table:
    """How each arm was tuned, from its certificate; none where nothing was searched."""
    rows = []
    for arm in sel.declared if sel.plan.sweep.search else ():
        found = arm.certificate
        so_far = found["best_by_trials"]
        better = [i for i, value in enumerate(so_far) if value is not None and value != (so_far[i - 1] if i else None)]
        at = [f"{key} {place['edge']}" for key, place in found["settings"].items() if place["edge"]]
        rows.append(
            {
                **{key: found[key] for key in ("searched", "asked", "extended", "repeated")},
                "arm": arm.arm,
                "_index": arm.index,
                "best": "; ".join(f"{i + 1}: {value_text(so_far[i])}" for i in better),
                "edge": ", ".join(at) or ("inside" if found["settings"] else None),
            }
        )
    columns = [
        Column("arm", "arm", "arm"),
        Column("searched", "settings searched", "count"),
        Column("asked", "trials asked for", "count"),
        Column("extended", "of these, extension", "count"),
        Column("repeated", "suggestions repeated", "count"),
        Column("best", "best after so many search trials", "text"),
        Column("edge", "best setting in its ranges", "text"),
    ]
    return Table("certificate", columns, rows)


def iso_loss(sel: Selection) -> Table:
    """Cost of the value that every arm's best trial reaches."""
    rows = [
        {
            "arm": r.arm,
            "_index": r.index,
            "target": r.target,
            "tokens": r.tokens,
            "flops": r.flops,
            "seconds": r.seconds,
        }
        for r in cost.iso_loss(sel)
    ]
    columns = [
        Column("arm", "arm", "arm"),
        Column("target", f"to {sel.metric}"),
        Column("tokens", "tokens [95 %] (runs)", "interval large"),
        Column("flops", "FLOPs [95 %] (runs)", "interval large"),
        Column("seconds", "seconds [95 %] (runs)", "interval seconds"),
    ]
    return Table("cost", columns, rows)


def scaling(sel: Selection) -> Table:
    """Exponents of the fits."""
    rows = [{"arm": r.arm, "_index": r.index, "exponent": r.exponent} for r in cost.scaling(sel)]
    return Table(
        "scaling", [Column("arm", "arm", "arm"), Column("exponent", "exponent [95 %] (sizes)", "interval")], rows
    )


def importances(sel: Selection) -> Table:
    """Each setting's share of the variance, per arm."""
    found = cost.importances(sel)
    index = {arm.arm: arm.index for arm in sel.declared}
    rows = [{"arm": arm, "_index": index[arm], **shares} for arm, shares in found.items()]
    keys = dict.fromkeys(key for arm in sel.declared for key in arm.space)
    return Table("importances", [Column("arm", "arm", "arm"), *(Column(k, k, "percent") for k in keys)], rows)


def benchmark_table(sel: Selection, tables: Sequence[pairs.Benchmark]) -> Table:
    """A row per benchmark; the best arm strong, those not shown to be worse marked."""
    arms = [arm for arm in sel.declared if any(arm.arm in t.scores for t in tables)]
    rows = []
    for t in tables:
        tied, top = t.tied(), t.scores[t.best].interval.value
        rows.append(
            {
                "benchmark": t.name + (" (limited)" if t.limited else ""),
                "metric": t.metric,
                "chance": t.chance,
                "n": _agreed({arm: f"{score.interval.n:,}" for arm, score in t.scores.items()}),
                "seen": _seen(t),
                **{f"arm:{arm}": score.interval for arm, score in t.scores.items()},
                "_strong": tuple(f"arm:{a}" for a, s in t.scores.items() if s.interval.value == top),
                "_tied": tuple(f"arm:{a}" for a in tied if len(tied) > 1),
            }
        )
    columns = [
        Column("benchmark", "benchmark", "text"),
        Column("metric", "metric", "text"),
        Column("chance", "chance"),
        *(Column(f"arm:{arm.arm}", arm.arm, "stacked") for arm in arms),
        Column("n", "n", "text"),
        *([Column("seen", "items in the training text", "text")] if any(row["seen"] for row in rows) else ()),
    ]
    return Table("benchmarks", columns, rows)


def _seen(table: pairs.Benchmark) -> str | None:
    """`3 of 500`, per arm where arms were trained on texts that differ in it; None where it is no text."""
    found = {arm: f"{len(s.overlap.seen):,} of {s.overlap.n:,}" for arm, s in table.scores.items() if s.overlap}
    return _agreed(found)


def _agreed(found: Mapping[str, str]) -> str | None:
    """What is said of every arm alike, or of each; None of none."""
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), None)
    return ", ".join(f"{arm} {text}" for arm, text in found.items())


def speed(sel: Selection, tree: Mapping[str, Any]) -> list[Table]:
    """Every measured point, and where each pair of arms crosses in training."""
    rows, crossings = [], []
    arms = [arm for arm in sel.declared if arm.arm in tree["arms"]]
    for arm in arms:
        for p in tree["arms"][arm.arm]["points"]:
            row = {"arm": arm.arm, "_index": arm.index, "length": p["length"], "batch": p.get("batch")}
            for part in PARTS:
                told = p.get(part) or {}
                row[part] = median(told["runs"]) if told.get("runs") else None
                row[f"peak_{part}"] = told.get("peak_bytes")
            rows.append({**row, "mfu": (p.get("train") or {}).get("mfu"), "cache": p.get("cache_bytes")})
    for part, label in PARTS.items():
        runs = {arm.arm: lengths.runs_of(dict(tree), arm.arm, part) for arm in arms}
        for found, n in crossing.every(runs):
            at = None if found.length is None else tests.Interval(found.length, found.low, found.high, n)
            crossings.append(
                {"part": label, "a": found.a, "b": found.b, "at": at, "faster": found.faster, "share": found.share}
            )
    columns = [
        Column("arm", "arm", "arm"),
        Column("length", "length", "count"),
        Column("batch", "batch", "count"),
        *(Column(part, f"{label}, tok/s", "count") for part, label in PARTS.items()),
        Column("cache", "state, bytes", "large"),
        *(Column(f"peak_{part}", f"peak of {label}, bytes", "large") for part, label in PARTS.items()),
        Column("mfu", "MFU", "percent"),
    ]
    shown = [c for c in columns if any(row.get(c.key) is not None for row in rows)]
    cross = [
        Column("part", "of", "text"),
        Column("a", "arm", "text"),
        Column("b", "against", "text"),
        Column("at", "cross at [95 %] (lengths)", "interval count"),
        Column("faster", "faster at the longest", "text"),
        Column("share", "resamples that cross", "percent"),
    ]
    return [Table("efficiency", shown, rows), Table("crossings", cross, crossings)]
