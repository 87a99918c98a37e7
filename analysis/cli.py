"""The command line's options for what examines checkpoints, and the benchmarks' run from it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.records.select import Selection
from analysis.report.tables import aligned
from analysis.scoring.targets import targets
from attnlab.records.strays import leads_out, stray
from attnlab.util.errors import UserError
from attnlab.util.text import NONE, value_text


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options."""
    group = parser.add_argument_group("checkpoints and benchmarks")
    group.add_argument("--arm", nargs="+", default=[], help="examine the best trial of these arms; default: of all")
    group.add_argument("--trial", help="examine this trial, by its id or the beginning of it")
    group.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="examine this folder, as a trial's checkpoints/final"
    )
    which = "which, or all, or none; default: attnlab's own, and lm-eval's that --data-dir holds"
    group.add_argument("--benchmarks", nargs="+", metavar="NAME", help=which)
    folders = "a folder per dataset, in hub schema; default: the hub's cache"
    group.add_argument("--data-dir", type=Path, metavar="DIR", help=folders)
    group.add_argument("--text", type=Path, metavar="FILE", help="a text file to give perplexity and bits per byte on")
    group.add_argument("--limit", type=int, help="items per benchmark, at most; marks the results as limited")
    group.add_argument("--device", default="auto", help="cpu, cuda, ...; default: CUDA where there is any")
    group.add_argument("--dtype", default="auto", help="auto (bf16 on CUDA), float32, bfloat16 or float16")
    modules = "a module of own mixers that the folder names and that may be imported; may be repeated"
    group.add_argument("--trust", action="append", default=[], metavar="MODULE", help=modules)
    group.add_argument("--fresh", action="store_true", help="score again what was scored before")


def options_set(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The options that are not at their defaults."""
    actions = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    return [a.option_strings[-1] for a in actions if getattr(args, a.dest) != a.default]


def run(args: argparse.Namespace, sel: Selection | None, console: Console) -> None:
    """Score what `args` names, print the table and write the results, unless `--benchmarks none`.

    Without `sel` there is `--checkpoint` alone, and its results go to `analysis/` in the folder that holds it. Raises
    UserError for an option that cannot be used; nothing was scored then.
    """
    if args.benchmarks == ["none"]:
        return
    from analysis import benchmarks  # here, because they bring torch
    from analysis.scoring import run

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: at least 1")
    if args.data_dir is not None and not args.data_dir.is_dir():
        raise UserError(f"--data-dir {args.data_dir}: no such folder")
    context = benchmarks.Context(args.data_dir, args.limit, args.text)
    chosen = benchmarks.select_benchmarks(args.benchmarks, context)
    examined, notes = targets(sel, args.arm, args.trial, args.checkpoint)
    folder = sel.data.folder.analysis if sel else args.checkpoint.resolve().parent / "analysis"
    settings = run.Settings(chosen, context, args.device, args.dtype, args.fresh)
    if leads_out(folder, folder.parent):
        raise stray(folder)
    report = run.examine(examined, settings, folder, Console(stderr=True))
    report.problems[:0] = notes
    show(report.tree["arms"], console)
    for problem in report.problems:
        print(f"warning: {problem}", file=sys.stderr)
    if sel:
        report.collect(sel.data.folder)


def show(arms: dict[str, Any], console: Console) -> None:
    """Print a row per metric of each exam: the arms' values, chance, items."""
    rows = [["benchmark", "metric", *arms, "chance", "n"]]
    for name in dict.fromkeys(name for row in arms.values() for name in row["benchmarks"]):
        results = [row["benchmarks"].get(name) for row in arms.values()]
        one = next(result for result in results if result)
        count = f"{one['n']:,} of {one['n_all']:,}, limited" if one["limited"] else f"{one['n']:,}"
        for metric, spec in one["metrics"].items():
            values = [value_text(r["metrics"][metric]["value"]) if r else NONE for r in results]
            arrow = "" if spec["higher_is_better"] else " (lower)"
            rows.append([name, metric + arrow, *values, value_text(spec["chance"]), count])
    if len(rows) == 1:
        return
    if console.is_terminal:
        table = Table(*rows[0], box=SIMPLE_HEAD, header_style="bold")
        for row in rows[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
    else:
        print("\n".join(aligned(rows)), end="\n\n", file=console.file)
