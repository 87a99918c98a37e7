"""`python -m analysis RESULTS/SWEEP`: print the leaderboard and write the report.

Exit codes: 0 done, 2 there is nothing to analyse or an option cannot be used (one line says why; nothing was written).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from analysis import leaderboard, options, words
from analysis.load import LoadError, load
from analysis.report import write
from analysis.select import select


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m analysis", description="Rank a sweep's arms and write its report.")
    parser.add_argument("sweep", type=Path, nargs="?", help="a sweep's results folder, such as results/quickstart")
    options.add(parser)
    args = parser.parse_args(argv)
    if args.sweep is None and (args.checkpoint is None or args.arm or args.trial):
        parser.error("give a sweep's results folder, such as results/quickstart (or --checkpoint PATH alone)")
    console = Console(highlight=False)
    try:
        sel = select(load(args.sweep)) if args.sweep else None
        options.run(args, sel, console)
    except (LoadError, options.OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if sel is None:
        return 0
    leaderboard.show(sel, console)
    print(" ".join(words.answer(sel)))
    for problem in sel.data.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"wrote {write(sel)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
