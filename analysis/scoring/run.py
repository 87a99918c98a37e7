"""Checkpoints x benchmarks -> results on disk; what was scored before is not scored again.

    <sweep>/analysis/benchmarks/<checkpoint>-<benchmark>-<dtype>.json    one result each, by digests
    <sweep>/analysis/benchmarks/overlap-<corpus>-<benchmark>.json        which items stand in the training text
    <sweep>/analysis/benchmark_results.json                              those of the arms examined last, with all items
    <sweep>/all_benchmark_results.json                                   every result ever had here, without the items

A result: `benchmark` (the exam's name), `digest`, `version`, `source`, `checkpoint` (digest), `dtype`, `n`, `n_all`,
`limited`, `metric` (the exam's own) with its `value`, `chance` and `higher_is_better`, `metrics` (all of them, with
`how` and `column` that say how the value comes from the columns), and `items`: `id` and every column, one entry per
item, so that arms can be compared pairwise on the same items. In the first file of the two also `overlap`, as
`analysis.statistics.overlap.scan` gives it, where the checkpoint was trained on text and the items are text.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.benchmarks import BENCHMARKS
from analysis.benchmarks.base import Benchmark, Context, Exam, Outcome, value_of
from analysis.efficiency import kernels
from analysis.scoring.checkpoints import Target, digest_of, open_model, refuse_foreign
from analysis.scoring.scorer import MAX_LENGTH, Advance, Scorer, dtype_of
from analysis.scoring.token_cache import Encodings
from analysis.statistics.overlap import add_overlaps
from attnlab.records.paths import SweepDir
from attnlab.util.errors import UserError
from attnlab.util.files import json_value, read_json, write_text
from attnlab.util.text import did_you_mean, first_line

FEWEST_TOKENS = 1024  # at once, before memory that runs out is told
FORMAT = 1  # of the files; another one in a cached result has it made again


@dataclass(frozen=True)
class Settings:
    """How to score. `benchmarks`: names; None: all that are by default."""

    benchmarks: tuple[str, ...] | None = None
    context: Context = Context()
    device: str = "cpu"
    dtype: str = "auto"
    fresh: bool = False
    max_tokens: int | None = None


@dataclass
class Report:
    """`benchmark_results.json`, and what could not be had, one line each."""

    tree: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def named(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """The benchmarks that `--benchmarks` names: `all` of them, `none`; None: those by default.

    Raises:
        UserError: there is no such benchmark.
    """
    if names is None or list(names) == ["none"]:
        return None if names is None else ()
    if list(names) == ["all"]:
        return tuple(BENCHMARKS)
    known = [*BENCHMARKS, "all", "none"]
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--benchmarks {name}: no such benchmark{did_you_mean(name, known)}")
    return tuple(names)


def examine(targets: Sequence[Target], settings: Settings, home: Path, console: Console) -> Report:
    """Score every target on every benchmark; results are written to `home` (the sweep's `analysis/`) as they come.

    A checkpoint or a benchmark that cannot be had is a line in `problems`; everything else is done.

    Raises:
        UserError: an unknown benchmark, device or dtype; nothing was done.
    """
    import torch

    wanted = named(settings.benchmarks)
    settings = replace(settings, benchmarks=wanted)
    device = device_of(settings.device)
    dtype = dtype_of(device, settings.dtype)
    kernels.ready(device, home.resolve().parents[1])
    label = str(dtype or torch.float32).removeprefix("torch.")
    report = Report({"format": FORMAT, "dtype": label, "limit": settings.context.limit, "arms": {}})
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    run = _Run(settings, home, label, bar)
    rows = [{"trial_id": t.trial_id, "path": str(t.path), "checkpoint": None, "error": None, "benchmarks": {}}
            for t in targets]  # fmt: skip
    with bar:
        found = run.side_by_side(targets, rows, device.type)
        report.tree["arms"] = dict(zip((t.label for t in targets), rows, strict=True))
        report.problems += dict.fromkeys(problem for problems in found for problem in problems)
        report.problems += add_overlaps(run.answered, report.tree["arms"], home / "benchmarks", settings.fresh, bar)
    report.tree["problems"] = report.problems
    write_text(home / "benchmark_results.json", _json(report.tree))
    return report


class _Run:
    """What the targets share while they are examined."""

    def __init__(self, settings: Settings, home: Path, label: str, bar: Progress):
        self.settings, self.home, self.label, self.bar = settings, home, label, bar
        self.answered: list[tuple[Target, Exam]] = []
        self._exams: dict[str, tuple[list[Exam], str | None]] = {}
        self._encodings = Encodings()
        self._one = threading.Lock()  # of lm-eval, datasets and transformers, which change what is global
        self._ended = False

    def side_by_side(self, targets: Sequence[Target], rows: Sequence[dict[str, Any]], device: str) -> list[list[str]]:
        """Every target's problems. On a CPU as many targets at once as there are threads, each with one: small models
        gain little from more threads, and lose much where other work runs beside them."""
        import torch

        threads = torch.get_num_threads()
        if device != "cpu" or min(threads, len(targets)) < 2:
            return list(map(self.examine, targets, rows))

        def alone(target: Target, row: dict[str, Any]) -> list[str]:
            torch.set_num_threads(1)
            return self.examine(target, row)

        pool = ThreadPoolExecutor(threads)
        try:
            return list(pool.map(alone, targets, rows))
        finally:
            self._ended = True  # after Ctrl-C the others end too
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def examine(self, target: Target, row: dict[str, Any]) -> list[str]:
        """Score one target on everything; fill its row of `benchmark_results.json`. Returns problems, a line each."""
        problems: list[str] = []
        try:
            row["checkpoint"] = digest_of(target.path)
            refuse_foreign(target.path, target.job)
            self._score(target, row, problems)
        except UserError as error:
            row["error"] = str(error)
            problems.append(row["error"] if row["error"].startswith(target.label) else f"{target.label}: {error}")
        return problems

    def _score(self, target: Target, row: dict[str, Any], problems: list[str]) -> None:
        scorer: Scorer | None = None
        has_text = (target.path / "tokenizer.json").is_file()
        for name, benchmark in _chosen(self.settings):
            if benchmark.needs_text and not has_text:
                continue
            with self._one:
                exams, problem = self._exams_of(name, benchmark, target)
            problems += [problem] if problem else []
            for exam in exams:
                kept = self.home / "benchmarks" / f"{row['checkpoint']}-{exam.digest}-{self.label}.json"
                result = None if self.settings.fresh else _kept(kept)
                if result is None:
                    scorer = scorer or self._scorer(target)
                    task = self.bar.add_task(f"{target.label}: {exam.name}", total=exam.requests)
                    try:
                        outcome = _ask(exam, scorer, lambda n, task=task: self._advance(task, n))
                    except (RuntimeError, UserError) as error:
                        # also a kernel that refuses the dtype, memory that runs out
                        reason = f"{exam.name} cannot be scored: {first_line(error)}"
                        problems.append(f"{target.label}: {reason}")
                        continue
                    finally:
                        self.bar.remove_task(task)
                    result = _result(exam, outcome.columns, row["checkpoint"], self.label)
                    write_text(kept, _json(result))
                row["benchmarks"][exam.name] = result
                self.answered.append((target, exam))

    def _advance(self, task: Any, n: int) -> None:
        if self._ended:
            raise KeyboardInterrupt
        self.bar.advance(task, n)

    def _scorer(self, target: Target) -> Scorer:
        with self._one:
            model, tokenizer = open_model(target.path, target.job)
        longest = max(MAX_LENGTH, target.seq_len or 0)
        how = self.settings
        return Scorer(model, tokenizer, how.device, how.dtype, how.max_tokens, longest, self._encodings)

    def _exams_of(self, name: str, benchmark: Benchmark, target: Target) -> tuple[list[Exam], str | None]:
        """The benchmark's exams, made once where they do not depend on the checkpoint, or its problem."""
        if name in self._exams:
            return self._exams[name]
        task = self.bar.add_task(f"preparing {name}", total=None)
        try:
            found: tuple[list[Exam], str | None] = benchmark.exams(self.settings.context, target), None
        except UserError as error:
            found = [], str(error)
        finally:
            self.bar.remove_task(task)
        if not benchmark.per_checkpoint:
            self._exams[name] = found
        return found


def _ask(exam: Exam, scorer: Scorer, advance: Advance) -> Outcome:
    """The outcome; where the device's memory runs out, from the beginning with half as many tokens at once."""
    import torch

    while True:
        try:
            return exam.ask(scorer, advance)
        except torch.OutOfMemoryError:
            if scorer.max_tokens < 2 * FEWEST_TOKENS:
                raise
            scorer.max_tokens //= 2
        torch.cuda.empty_cache()  # after the except clause, whose traceback holds the tensors


def _chosen(settings: Settings) -> Iterator[tuple[str, Benchmark]]:
    for name, load in BENCHMARKS.items():
        benchmark = load()
        wanted = settings.benchmarks
        if name in wanted if wanted is not None else benchmark.by_default(settings.context):
            yield name, benchmark


def _result(exam: Exam, columns: Mapping[str, Sequence[Any]], checkpoint: str, dtype: str) -> dict[str, Any]:
    metrics = {
        name: {"value": value_of(metric, name, columns), **vars(metric), "column": metric.column or name}
        for name, metric in exam.metrics.items()
    }
    first = next(iter(metrics))
    return {
        "format": FORMAT,
        "benchmark": exam.name,
        "digest": exam.digest,
        "version": exam.version,
        "source": exam.source,
        "checkpoint": checkpoint,
        "dtype": dtype,
        "n": len(exam.ids),
        "n_all": exam.n_all,
        "limited": exam.limited,
        "metric": first,
        **{key: metrics[first][key] for key in ("value", "chance", "higher_is_better")},
        "metrics": metrics,
        "items": {"id": list(exam.ids), **{name: list(column) for name, column in columns.items()}},
    }


def _kept(path: Path) -> dict[str, Any] | None:
    """A result of an earlier run; None if there is none that can be read."""
    try:
        result = read_json(path)
        return result if result["format"] == FORMAT and result["items"] and result["metrics"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def collect(folder: SweepDir, report: Report) -> Path:
    """Write `all_benchmark_results.json`: every result kept for this sweep as a row without its items; `arm` and
    `trial_id` where the checkpoint is one of those just examined."""
    arms = report.tree["arms"].items()
    whose = {row["checkpoint"]: (arm, row["trial_id"]) for arm, row in arms}
    overlaps = {
        (row["checkpoint"], r["digest"]): r.get("overlap") for _, row in arms for r in row["benchmarks"].values()
    }
    rows = []
    for path in sorted((folder.analysis / "benchmarks").glob("*.json")):
        if result := _kept(path):
            arm, trial_id = whose.get(result["checkpoint"], (None, None))
            found = overlaps.get((result["checkpoint"], result["digest"]))
            rows.append({"arm": arm, "trial_id": trial_id, **_without_items(result)})
            rows[-1] |= {"overlap": _without_items(found)} if found else {}
    rows.sort(key=lambda row: (row["benchmark"], row["arm"] or "", row["checkpoint"]))
    path = folder.path / "all_benchmark_results.json"
    write_text(path, json.dumps(json_value(rows), indent=1, allow_nan=False) + "\n")
    return path


def _without_items(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != "items"}


def device_of(name: str) -> Any:
    """The device of that name.

    Raises:
        UserError: there is none.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise UserError(f"--device {name}: {first_line(error)}") from None
    return device


def _json(tree: Any) -> str:
    """Strict, one line: the items of an exam are many."""
    return json.dumps(json_value(tree), allow_nan=False, separators=(",", ":")) + "\n"
