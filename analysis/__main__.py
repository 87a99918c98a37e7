"""`python -m analysis RESULTS/SWEEP`: print the leaderboard and write the report.

Exit codes: 0 done, 2 there is nothing to analyse (one line says why; nothing was written).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from analysis import leaderboard, words
from analysis.load import LoadError, load
from analysis.report import write
from analysis.select import select


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser("python -m analysis", description="Rank a sweep's arms and write its report.")
    parser.add_argument("sweep", type=Path, help="a sweep's results folder, such as results/quickstart")
    args = parser.parse_args(argv)
    try:
        sel = select(load(args.sweep))
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    leaderboard.show(sel, Console(highlight=False))
    print(" ".join(words.answer(sel)))
    for problem in sel.data.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"wrote {write(sel)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
