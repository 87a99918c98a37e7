"""Checkpoints x benchmarks -> results; what was scored before is not scored again (`analysis.scoring.results`)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analysis.efficiency import kernels
from analysis.scoring.checkpoints import open_model, refuse_foreign
from analysis.scoring.exam import Answers, Benchmark, Context, Exam
from analysis.scoring.results import FORMAT, Report, add_overlaps, read_result, result_of, write_compact
from analysis.scoring.scorer import MAX_LENGTH, Advance, Encodings, Scorer, dtype_of
from analysis.scoring.targets import Target, digest_of
from attnlab.util.errors import UserError
from attnlab.util.text import first_line

FEWEST_TOKENS = 1024  # at once, before memory that runs out is an error


@dataclass(frozen=True)
class Settings:
    """How to score."""

    benchmarks: Sequence[tuple[str, Benchmark]] = ()
    context: Context = Context()
    device: str = "cpu"
    dtype: str = "auto"
    fresh: bool = False  # also what was scored before
    max_tokens: int | None = None


def examine(targets: Sequence[Target], settings: Settings, folder: Path, console: Console) -> Report:
    """Score every target on every benchmark and write results to `folder` as they come.

    `folder` is the sweep's `analysis/`. A checkpoint or a benchmark that cannot be had is a line in `problems`, and
    everything else is done. Raises UserError: an unknown device or dtype; nothing was done.
    """
    device = device_of(settings.device)
    settings = replace(settings, device=str(device))
    dtype = str(dtype_of(device, settings.dtype) or torch.float32).removeprefix("torch.")
    kernels.ready(device, folder.resolve().parents[1])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    examiner = _Examiner(settings, folder / "benchmarks", dtype, bar)
    rows = [{"trial_id": t.trial_id, "path": str(t.path), "checkpoint": None, "error": None, "benchmarks": {}}
            for t in targets]  # fmt: skip
    arms = dict(zip((t.label for t in targets), rows, strict=True))
    report = Report({"format": FORMAT, "dtype": dtype, "limit": settings.context.limit, "arms": arms})
    with bar:
        problems = examiner.side_by_side(targets, rows, device.type)
        report.problems += dict.fromkeys(problem for lines in problems for problem in lines)
        report.problems += add_overlaps(examiner.answered, arms, folder / "benchmarks", settings.fresh, bar)
    report.tree["problems"] = report.problems
    write_compact(folder / "benchmark_results.json", report.tree)
    return report


class _Examiner:
    """What the targets share while they are examined."""

    def __init__(self, settings: Settings, folder: Path, dtype: str, bar: Progress):
        self.settings, self.folder, self.dtype, self.bar = settings, folder, dtype, bar
        self.answered: list[tuple[Target, Exam]] = []
        self._exams: dict[str, tuple[list[Exam], str | None]] = {}
        self._encodings = Encodings()
        self._one = threading.Lock()  # of lm-eval, datasets and transformers, which change what is global
        self._ended = False

    def side_by_side(self, targets: Sequence[Target], rows: Sequence[dict[str, Any]], device: str) -> list[list[str]]:
        """Every target's problems; on a CPU each thread takes a target of its own.

        Small models gain little from more threads, and lose much where other work runs on the same cores.
        """
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
        """Score one target and fill its row of `benchmark_results.json`; return problems, a line each."""
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
        for name, benchmark in self.settings.benchmarks:
            if benchmark.needs_text and not has_text:
                continue
            with self._one:
                exams, problem = self._exams_of(name, benchmark, target)
            problems += [problem] if problem else []
            for exam in exams:
                file = self.folder / f"{row['checkpoint']}-{exam.digest}-{self.dtype}.json"
                result = None if self.settings.fresh else read_result(file)
                if result is None:
                    scorer = scorer or self._scorer(target)
                    task = self.bar.add_task(f"{target.label}: {exam.name}", total=exam.requests)
                    try:
                        answers = _ask(exam, scorer, lambda n, task=task: self._advance(task, n))
                    except (RuntimeError, UserError) as error:
                        # also a kernel that refuses the dtype, memory that runs out
                        reason = f"{exam.name} cannot be scored: {first_line(error)}"
                        problems.append(f"{target.label}: {reason}")
                        continue
                    finally:
                        self.bar.remove_task(task)
                    result = result_of(exam, answers.columns, row["checkpoint"], self.dtype)
                    write_compact(file, result)
                row["benchmarks"][exam.name] = result
                self.answered.append((target, exam))

    def _advance(self, task: Any, n: int) -> None:
        if self._ended:
            raise KeyboardInterrupt
        self.bar.advance(task, n)

    def _scorer(self, target: Target) -> Scorer:
        with self._one:
            model, tokenizer = open_model(target.path, target.job)
        longest, how = max(MAX_LENGTH, target.seq_len or 0), self.settings
        return Scorer(model, tokenizer, how.device, how.dtype, how.max_tokens, longest, self._encodings)

    def _exams_of(self, name: str, benchmark: Benchmark, target: Target) -> tuple[list[Exam], str | None]:
        """The benchmark's exams or its problem, made once unless they depend on the checkpoint."""
        if name in self._exams:
            return self._exams[name]
        task = self.bar.add_task(f"preparing {name}", total=None)
        try:
            made: tuple[list[Exam], str | None] = benchmark.exams(self.settings.context, target), None
        except UserError as error:
            made = [], str(error)
        finally:
            self.bar.remove_task(task)
        if not benchmark.per_checkpoint:
            self._exams[name] = made
        return made


def _ask(exam: Exam, scorer: Scorer, advance: Advance) -> Answers:
    """The answers; where memory runs out, again with half as many tokens at once."""
    while True:
        try:
            return exam.ask(scorer, advance)
        except torch.OutOfMemoryError:
            if scorer.max_tokens < 2 * FEWEST_TOKENS:
                raise
            scorer.max_tokens //= 2
        torch.cuda.empty_cache()  # after the except clause, whose traceback holds the tensors


def device_of(name: str) -> torch.device:
    """The device of that name. Raises UserError: there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise UserError(f"--device {name}: {first_line(error)}") from None
    return device
