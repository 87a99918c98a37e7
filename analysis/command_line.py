"""`python -m analysis RESULTS/SWEEP`: score the benchmarks, print the leaderboard and write the report.

    --claim "gla < standard on val_loss by 2%"    judge that instead (attnlab/ranking/claims.py has the grammar)
    --efficiency [--lengths 512 1024 ...]         first measure every arm's speed and memory on this device

A folder of several sweeps is compared on one page. Exit codes: 0 done, and a claim judged, whatever the verdict; 1
the disk is full (one line names the file); 2 there is nothing to analyse or an option or a claim cannot be used (one
line says why; nothing was written).
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from analysis import cli
from analysis.figures import interactive
from analysis.records.load import load
from analysis.records.select import Selection, select
from analysis.report import comparison, hypothesis, leaderboard, wording
from analysis.report.page import write
from analysis.scoring.targets import targets
from analysis.statistics.claims import judge
from attnlab.ranking.claims import parse
from attnlab.records.mirror import Mirror, mirror
from attnlab.records.paths import TrialDir
from attnlab.records.storage import local
from attnlab.util import trust
from attnlab.util.errors import DiskFull, StorageError, UserError
from attnlab.util.secret import hide_arguments


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = arguments()
    args = parser.parse_args(argv)
    if args.sweep is None and (args.checkpoint is None or args.arm or args.trial or args.claim or args.efficiency):
        parser.error("give a sweep's results folder, such as results/quickstart (or --checkpoint PATH alone)")
    hide_arguments(sys.argv)
    console = Console(highlight=False)
    trust.name(args.trust)
    try:
        if args.interactive and not interactive.available():
            raise UserError("--interactive: needs plotly; pip install 'attnlab[interactive]'")
        elsewhere = fetch_remote_results(args)
        if args.sweep and comparison.holds_several(args.sweep):
            if unusable := cli.options_set(parser, args):
                raise UserError(f"{args.sweep}: of several sweeps; {unusable[0]} needs the folder of one")
            print(f"wrote {comparison.write(args.sweep)}")
            if elsewhere:
                elsewhere.push(args.sweep / "comparison.html", args.sweep / "comparison.csv")
            return 0
        sel = select(load(args.sweep)) if args.sweep else None
        if sel and args.claim:
            for text in [judge(parse(claim), sel).text for claim in args.claim]:
                print(text)
            return 0
        if sel and args.efficiency:
            from analysis.efficiency import lengths  # here, because it brings torch

            print(f"wrote {lengths.measure(sel, console, args.lengths or (), args.device, args.dtype)}")
        if sel and elsewhere and args.benchmarks != ["none"]:
            for target in targets(sel, args.arm, args.trial)[0]:
                elsewhere.fetch_final(TrialDir(target.path.parents[1]))
        cli.run(args, sel, console)
        if sel:
            report(sel, console, args.interactive)
        if sel and elsewhere:
            elsewhere.push(sel.data.folder.analysis, sel.data.folder.path / "all_benchmark_results.json")
            print(f"published in {elsewhere}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DiskFull as error:
        print(f"error: {error.line}", file=sys.stderr)
        return 1
    return 0


def fetch_remote_results(args: argparse.Namespace) -> Mirror | None:
    """Copy a URI's records here, which `args` then names; None for a path. Raises StorageError."""
    if args.sweep is None:
        return None
    if (path := local(args.sweep)) is not None:
        args.sweep = path
        return None
    elsewhere = mirror(args.sweep).for_worker("analysis")
    elsewhere.pull()
    if not elsewhere.folder.path.is_dir():
        raise StorageError(f"{elsewhere}: there is nothing; give the URI of a sweep's results")
    args.sweep = elsewhere.folder.path
    return elsewhere


def report(sel: Selection, console: Console, hover: bool = False) -> None:
    """The leaderboard and the answer on the terminal, and the page."""
    leaderboard.show(sel, console)
    print(" ".join(wording.answer(sel)))
    for line in hypothesis.judged(sel):
        print(f"claim {line}")
    for problem in sel.data.problems:
        print(f"warning: {problem}", file=sys.stderr)
    with console.status("writing the report"):
        page = write(sel, hover)
    print(f"wrote {page}")


def arguments() -> argparse.ArgumentParser:
    """The options, with their help."""
    parser = argparse.ArgumentParser("python -m analysis", description="Rank a sweep's arms and write its report.")
    parser.add_argument("sweep", nargs="?", help="a sweep's results folder or its URI, or a folder of several sweeps'")
    parser.add_argument("--claim", action="append", metavar="TEXT", help="judge 'gla < standard on val_loss by 2%%'")
    parser.add_argument("--efficiency", action="store_true", help="measure speed and memory against length here")
    parser.add_argument("--lengths", type=_length, nargs="+", metavar="N", help="tokens per sequence to measure at")
    parser.add_argument("--interactive", action="store_true", help="also figures to hover over (5 MB in the page)")
    cli.add(parser)
    return parser


def _length(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
