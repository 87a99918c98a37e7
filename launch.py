"""Run sweeps:  python launch.py sweeps/quickstart.yaml [more.yaml ...] [key=value ...]

Exit codes: 0 done; 1 done but some trial failed, or stopped for want of workers or of room (one line says so, and
--resume goes on); 2 a mistake in what was asked (nothing was written); 130 Ctrl-C. Of several sweeps, the worst.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from attnlab import commands
from attnlab.commands import Ended
from attnlab.config.resolved import Plan
from attnlab.util.errors import SweepStopped, UserError


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = arguments().parse_intermixed_args(argv)
    try:
        if args.list:
            return commands.list_sweeps(args)
        sweeps = commands.chosen(args)
        return (
            commands.plan(sweeps) if args.dry_run else commands.warm(sweeps, args) if args.warm else run(sweeps, args)
        )
    except UserError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def arguments() -> argparse.ArgumentParser:
    """The options, with their help."""
    parser = argparse.ArgumentParser("launch.py", description="Compare sequence mixers: tune, train, rank, report.")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SWEEP | a.b=c",
        help="sweep files, run in turn; changes, as trial.train.max_steps=100",
    )
    parser.add_argument("--list", action="store_true", help="list the sweeps and the tasks there are, and stop")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan, and stop")
    parser.add_argument("--warm", action="store_true", help="tune the GPU kernels of all arms, and stop")
    parser.add_argument("--resume", action="store_true", help="go on with what the sweep's results folder holds")
    alone = "these arms alone, of whichever sweeps have them; with --resume beside those that were begun"
    parser.add_argument("--only", nargs="+", metavar="ARM", help=alone)
    parser.add_argument("--plain", action="store_true", help="no search: every arm as declared; results in NAME-plain")
    parser.add_argument("--scale", metavar="tiny", help="try it small, in minutes on 2 CPU cores; results in NAME-tiny")
    parser.add_argument("--results", default="results", metavar="DIR|URI", help="default: results")
    parser.add_argument(
        "--kernel-cache", type=Path, metavar="DIR", help="tuned GPU kernels; default: .attnlab-kernels beside --results"
    )
    parser.add_argument("--address", metavar="auto|URL", help="a Ray cluster that is up; default: Ray on this machine")
    return parser


def run(sweeps: list[Plan], args: argparse.Namespace) -> int:
    """One sweep after the other; of several, a line each at the end."""
    commands.check_all(sweeps, args)
    ended: list[Ended] = []
    for sweep in sweeps:
        ended.append(launch(sweep, args))
        if ended[-1].code == 130:
            break
    if len(sweeps) > 1:
        print(f"\n{commands.summary(ended)}")
    return max(each.code for each in ended)


def launch(sweep: Plan, args: argparse.Namespace) -> Ended:
    """Run, analyse, say where everything is."""
    from attnlab.records.mirror import mirror
    from attnlab.records.storage import local
    from attnlab.sweep.engine import run

    try:
        how = {"address": args.address, "resume": args.resume, "kernel_cache": args.kernel_cache}
        board = run(sweep, args.results, **how, own_process=True)
    except (UserError, SweepStopped) as error:
        print("\n".join(f"error: {line}" for line in getattr(error, "problems", [error])), file=sys.stderr)
        return Ended(sweep, 1 if isinstance(error, SweepStopped) else 2, why=str(error).splitlines()[0])
    except KeyboardInterrupt:
        again = shlex.join([sys.executable, *sys.argv, *([] if args.resume else ["--resume"])])
        print(f"\nstopped; what ended is kept. Go on with:\n  {again}", file=sys.stderr)
        return Ended(sweep, 130, why="stopped")
    place = mirror(args.results, sweep.name)
    here = place.folder.path if place.remote else Path(local(args.results) or "", sweep.name)
    report = subprocess.run([sys.executable, "-m", "analysis", str(here), "--benchmarks", "none"], check=False)
    place.push(here / "analysis")
    where = place if place.remote else here
    failed = sum(row["counts"]["failed"] for row in board["arms"].values())
    print(f"results      {where}")
    print(f"report       {where}/analysis/report.html")
    print(f"tensorboard  tensorboard --logdir {here}")
    return Ended(sweep, 1 if failed or report.returncode else 0, board)


if __name__ == "__main__":
    sys.exit(main())
