"""The command line's options for what examines checkpoints, and the benchmarks' run from it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.records.select import Selection
from analysis.report import wording
from analysis.scoring.checkpoints import targets
from attnlab.util.errors import UserError

if TYPE_CHECKING:
    from analysis.scoring.run import Report


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options."""
    group = parser.add_argument_group("checkpoints and benchmarks")
    group.add_argument("--arm", nargs="+", default=[], help="examine the best trial of these arms; default: of all")
    group.add_argument("--trial", help="examine this trial, by its id or the beginning of it")
    group.add_argument("--checkpoint", type=Path, help="examine this folder, as a trial's checkpoints/final")
    group.add_argument(
        "--benchmarks", nargs="+", metavar="NAME",
        help="which, or all, or none; default: attnlab's own, and lm-eval's that --data-dir holds",
    )  # fmt: skip
    group.add_argument("--data-dir", type=Path, help="a folder per dataset, in hub schema; default: the hub's cache")
    group.add_argument("--text", type=Path, help="a text file to give perplexity and bits per byte on")
    group.add_argument("--limit", type=int, help="items per benchmark, at most; marks the results as limited")
    group.add_argument("--device", default="auto", help="cpu, cuda, ...; default: CUDA where there is any")
    group.add_argument("--dtype", default="auto", help="auto (bf16 on CUDA), float32, bfloat16 or float16")
    group.add_argument("--fresh", action="store_true", help="score again what was scored before")


def given(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The options that are not at their defaults."""
    asked = [a for a in parser._actions if a.option_strings and a.dest != "help" and getattr(args, a.dest) != a.default]
    return [action.option_strings[-1] for action in asked]


def run(args: argparse.Namespace, sel: Selection | None, console: Console) -> Report | None:
    """Score what `args` asks for, print the table, write the results; None for `--benchmarks none`.

    Args:
        sel: the sweep; None: `--checkpoint` alone, whose results go to `analysis/` beside the checkpoint.

    Raises:
        UserError: an option that cannot be used; nothing was scored.
    """
    if args.benchmarks == ["none"]:
        return None
    # here, because they bring torch
    from analysis.benchmarks.base import Context
    from analysis.scoring.run import Settings, collect, device_of, examine, named
    from analysis.scoring.scorer import dtype_of

    names = named(args.benchmarks)
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: at least 1")
    if args.data_dir is not None and not args.data_dir.is_dir():
        raise UserError(f"--data-dir {args.data_dir}: no such folder")
    device = device_of(args.device)
    dtype_of(device, args.dtype)
    chosen, notes = targets(sel, args.arm, args.trial, args.checkpoint)
    context = Context(args.data_dir, args.limit, args.text)
    settings = Settings(names, context, str(device), args.dtype, args.fresh)
    home = sel.data.folder.analysis if sel else args.checkpoint.resolve().parent / "analysis"
    report = examine(chosen, settings, home, Console(stderr=True))
    report.problems[:0] = notes
    show(report, console)
    for problem in report.problems:
        print(f"warning: {problem}", file=sys.stderr)
    if sel:
        collect(sel.data.folder, report)
    return report


def show(report: Report, console: Console) -> None:
    """A row per metric of each exam: each arm's value, the level of chance, the number of items. On a terminal a table,
    else aligned text that no width cuts off."""
    arms = report.tree["arms"]
    rows = [["benchmark", "metric", *arms, "chance", "n"]]
    for name in dict.fromkeys(name for row in arms.values() for name in row["benchmarks"]):
        results = [row["benchmarks"].get(name) for row in arms.values()]
        one = next(result for result in results if result)
        count = f"{one['n']:,} of {one['n_all']:,}, limited" if one["limited"] else f"{one['n']:,}"
        for metric, facts in one["metrics"].items():
            values = [wording.value_text(r["metrics"][metric]["value"]) if r else wording.NONE for r in results]
            arrow = "" if facts["higher_is_better"] else " (lower)"
            rows.append([name, metric + arrow, *values, wording.value_text(facts["chance"]), count])
    if len(rows) == 1:
        return
    if console.is_terminal:
        table = Table(*rows[0], box=SIMPLE_HEAD, header_style="bold")
        for row in rows[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    print("\n".join(lines), end="\n\n", file=console.file)
