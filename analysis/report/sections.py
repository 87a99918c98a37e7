"""What the report says besides the leaderboard: each section's tables, from records, benchmarks and measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from analysis.efficiency.results import WORKLOADS, read, runs_of
from analysis.records.load import ALL_STATES
from analysis.records.scores import BenchmarkScores, ScoredBenchmark, benchmarks
from analysis.records.select import Selection
from analysis.report import details, guards
from analysis.report.tables import ARM, Column, Table
from analysis.statistics import contamination, cost, crossing
from attnlab.ranking.power import seeds_to_decide
from attnlab.ranking.tests import Comparison, Interval
from attnlab.ranking.verdicts import better_of
from attnlab.util.text import value_text

PAIR_COLUMNS = [
    Column("a", "arm", "text"), Column("b", "against", "text"), Column("gap", "difference [95 %] (n)", "interval"),
    Column("p", "p", "p"), Column("p_holm", "p, Holm", "p"), Column("verdict", "verdict", "text"),
    Column("needed", "n per arm that decides", "count"), Column("test", "test", "text"),
]  # fmt: skip


@dataclass
class Sections:
    """The page's tables, by their CSV files' names, and what else it says."""

    benchmarks: BenchmarkScores
    efficiency: Mapping[str, Any] | None
    expected: Mapping[str, Sequence[float]]
    contamination: list[str]
    guards: guards.Guards
    problems: list[str]
    tables: dict[str, Table] = field(default_factory=dict)


VERDICT_COLUMNS = [
    Column("a", "arm", "text"), Column("b", "against", "text"), Column("gap", "difference [95 %] (n)", "interval"),
    Column("p", "p", "p"), Column("verdict", "verdict", "text"),
    Column("needed", "seeds per arm that decide [95 %]", "text"),
]  # fmt: skip


def gather(sel: Selection) -> Sections:
    """All sections; what cannot be used is a line in `problems`."""
    scores = benchmarks(sel)
    efficiency, problems = read(sel.data.folder.analysis)
    guarded = guards.gather(sel)
    problems = [*scores.problems, *problems, *guarded.problems]
    leaked = contamination.signs(scores.tables)
    out = Sections(scores, efficiency, cost.trials_to_value(sel), leaked, guarded, problems)
    for table in (
        verdict_table(sel, "pairs"),
        verdict_table(sel, "against_baseline"),
        fairness(sel),
        certificates(sel),
        details.trials(sel),
        iso_loss(sel),
        scaling(sel),
        importances(sel),
        benchmark_table(sel, scores.tables),
        *(pair_table(f"pairs-{t.name}", t.pairs, t.mode) for t in scores.tables),
        *((speed(sel, efficiency), crossings(sel, efficiency)) if efficiency else ()),
        *guarded.tables,
    ):
        if table.rows:
            out.tables[table.name] = table
    return out


def verdict_table(sel: Selection, key: Literal["pairs", "against_baseline"]) -> Table:
    """Every pair of arms, or each other arm with the baseline, with what is decided of it."""
    (board, found), sign = sel.decided, 1 if sel.plan.mode == "min" else -1
    seeds = {arm["arm"]: arm["n"] for arm in board["arms"]}
    judged, compared = sum(n > 1 for n in seeds.values()), {(pair.a, pair.b): pair for pair in found.pairs}
    rows = []
    for pair in board[key]:
        (a, b), verdict, needed = pair["arms"], pair["verdict"], None
        n = min(seeds[a], seeds[b])
        if verdict == "undecided" and key == "pairs":
            needed = seeds_to_decide(compared[a, b], judged, n)
        rows.append({
            "a": a, "b": b, "gap": Interval(pair["difference"], pair["low"], pair["high"], n), "p": pair["p"],
            "verdict": f"{better_of(pair, sign)} better" if verdict == "better" else verdict,
            "needed": needed and str(needed), "_strong": () if verdict == "undecided" else ("verdict",),
        })  # fmt: skip
    return Table(key, VERDICT_COLUMNS, rows)


def pair_table(name: str, pairs: Sequence[Comparison], mode: str) -> Table:
    """Every comparison over items."""
    rows = [{**vars(p), "gap": p.difference, "verdict": p.verdict(mode), "_strong": ("verdict",) if p.decided else ()}
            for p in pairs]  # fmt: skip
    return Table(name, PAIR_COLUMNS, rows)


def fairness(sel: Selection) -> Table:
    """What each arm was given, side by side."""
    rows = [{"arm": arm.arm, "_index": arm.index, "begun": len(arm.trials), **arm.counts,
             "steps": sum(t.results["steps"] for t in arm.trials if t.results), "tokens": arm.tokens,
             "device_seconds": arm.device_seconds, "n_params_non_embedding": arm.n_params_non_embedding}
            for arm in sel.declared]  # fmt: skip
    columns = [ARM, Column("begun", "trials", "count"),
               *(Column(state, state, "count") for state in ALL_STATES if any(row[state] for row in rows)),
               Column("steps", "steps", "count"), Column("tokens", "tokens", "large"),
               Column("device_seconds", "device-s", "seconds"),
               Column("n_params_non_embedding", "parameters, non-emb.", "large")]  # fmt: skip
    return Table("fairness", columns, rows)


def certificates(sel: Selection) -> Table:
    """How each arm was tuned, from its certificate; none where nothing was searched."""
    rows = []
    for arm in sel.declared if sel.plan.sweep.search else ():
        tuned, so_far = arm.certificate, arm.certificate["best_by_trials"]
        better = [i for i, value in enumerate(so_far) if value is not None and value != (so_far[i - 1] if i else None)]
        edges = [f"{key} {range_['edge']}" for key, range_ in tuned["settings"].items() if range_["edge"]]
        rows.append({
            **{key: tuned[key] for key in ("searched", "asked", "extended", "repeated")},
            "arm": arm.arm, "_index": arm.index,
            "best": "; ".join(f"{i + 1}: {value_text(so_far[i])}" for i in better),
            "edge": ", ".join(edges) or ("inside" if tuned["settings"] else None),
        })  # fmt: skip
    columns = [ARM, Column("searched", "settings searched", "count"), Column("asked", "trials asked for", "count"),
               Column("extended", "of these, extension", "count"), Column("repeated", "suggestions repeated", "count"),
               Column("best", "best after so many search trials", "text"),
               Column("edge", "best setting in its ranges", "text")]  # fmt: skip
    return Table("certificate", columns, rows)


def iso_loss(sel: Selection) -> Table:
    """Cost of the value that every arm's best trial reaches."""
    rows = [{**vars(r), "_index": r.index} for r in cost.iso_loss(sel)]
    columns = [ARM, Column("target", f"to {sel.metric}"), Column("tokens", "tokens [95 %] (runs)", "interval large"),
               Column("flops", "FLOPs [95 %] (runs)", "interval large"),
               Column("seconds", "seconds [95 %] (runs)", "interval seconds")]  # fmt: skip
    return Table("cost", columns, rows)


def scaling(sel: Selection) -> Table:
    """Exponents of the fits."""
    rows = [{"arm": r.arm, "_index": r.index, "exponent": r.exponent} for r in cost.scaling(sel)]
    return Table("scaling", [ARM, Column("exponent", "exponent [95 %] (sizes)", "interval")], rows)


def importances(sel: Selection) -> Table:
    """Each setting's share of the variance, per arm."""
    shares = cost.importances(sel)
    rows = [{"arm": arm.arm, "_index": arm.index, **shares[arm.arm]} for arm in sel.declared if arm.arm in shares]
    keys = dict.fromkeys(key for arm in sel.declared for key in arm.space)
    return Table("importances", [ARM, *(Column(key, key, "percent") for key in keys)], rows)


def benchmark_table(sel: Selection, tables: Sequence[ScoredBenchmark]) -> Table:
    """A row per benchmark; the best arm strong, those not shown to be worse marked."""
    arms = [arm for arm in sel.declared if any(arm.arm in t.scores for t in tables)]
    rows = []
    for t in tables:
        tied, top = t.tied(), t.scores[t.best].interval.value
        seen = {arm: f"{len(s.overlap.seen):,} of {s.overlap.n:,}" for arm, s in t.scores.items() if s.overlap}
        rows.append({
            "benchmark": t.title, "metric": t.metric, "chance": t.chance, "seen": _agreed(seen),
            "n": _agreed({arm: f"{score.interval.n:,}" for arm, score in t.scores.items()}),
            **{f"arm:{arm}": score.interval for arm, score in t.scores.items()},
            "_strong": tuple(f"arm:{arm}" for arm, score in t.scores.items() if score.interval.value == top),
            "_tied": tuple(f"arm:{arm}" for arm in tied if len(tied) > 1),
        })  # fmt: skip
    columns = [Column("benchmark", "benchmark", "text"), Column("metric", "metric", "text"), Column("chance", "chance"),
               *(Column(f"arm:{arm.arm}", arm.arm, "stacked") for arm in arms), Column("n", "n", "text")]  # fmt: skip
    if any(row["seen"] for row in rows):
        columns.append(Column("seen", "items in the training text", "text"))
    return Table("benchmarks", columns, rows)


def _agreed(texts: Mapping[str, str]) -> str | None:
    """One text if every arm has the same, else each arm's; None of none."""
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), None)
    return ", ".join(f"{arm} {text}" for arm, text in texts.items())


def speed(sel: Selection, tree: Mapping[str, Any]) -> Table:
    """Every measured point."""
    rows = []
    for arm in (arm for arm in sel.declared if arm.arm in tree["arms"]):
        for p in tree["arms"][arm.arm]["points"]:
            row = {"arm": arm.arm, "_index": arm.index, "length": p["length"], "batch": p.get("batch")}
            for workload in WORKLOADS:
                measured = p.get(workload) or {}
                row[workload] = median(measured["runs"]) if measured.get("runs") else None
                row[f"peak_{workload}"] = measured.get("peak_bytes")
            rows.append({**row, "mfu": (p.get("train") or {}).get("mfu"), "cache": p.get("cache_bytes")})
    columns = [ARM, Column("length", "length", "count"), Column("batch", "batch", "count"),
               *(Column(workload, f"{label}, tok/s", "count") for workload, label in WORKLOADS.items()),
               Column("cache", "state, bytes", "large"),
               *(Column(f"peak_{workload}", f"peak of {label}, bytes", "large")
                 for workload, label in WORKLOADS.items()),
               Column("mfu", "MFU", "percent")]  # fmt: skip
    return Table("efficiency", [c for c in columns if any(row.get(c.key) is not None for row in rows)], rows)


def crossings(sel: Selection, tree: Mapping[str, Any]) -> Table:
    """Where each pair of arms crosses, by workload."""
    rows = []
    for workload, label in WORKLOADS.items():
        runs = {arm.arm: runs_of(tree, arm.arm, workload) for arm in sel.declared if arm.arm in tree["arms"]}
        for c, n in crossing.every(runs):
            length = None if c.length is None else Interval(c.length, c.low, c.high, n)
            rows.append({"part": label, "a": c.a, "b": c.b, "at": length, "faster": c.faster, "share": c.share})
    columns = [Column("part", "of", "text"), Column("a", "arm", "text"), Column("b", "against", "text"),
               Column("at", "cross at [95 %] (lengths)", "interval count"),
               Column("faster", "faster at the longest", "text"),
               Column("share", "resamples that cross", "percent")]  # fmt: skip
    return Table("crossings", columns, rows)
