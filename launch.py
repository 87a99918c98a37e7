"""Run a sweep:  python launch.py sweeps/quickstart.yaml [key=value ...]

Exit codes: 0 done, 1 done but some trial failed, 2 a mistake in what was asked (nothing was written), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from attnlab.config import Sweep, SweepError, load_sweep

SWEEPS = Path(__file__).parent / "sweeps"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = arguments().parse_intermixed_args(argv)
    try:
        if args.list:
            return list_sweeps()
        if not args.sweep:
            raise SweepError(["which sweep? launch.py sweeps/quickstart.yaml, or --list"])
        sweep = load_sweep(args.sweep, args.overrides)
        sweep = sweep.only(args.only) if args.only else sweep
        return plan(sweep) if args.dry_run else warm(sweep, args) if args.warm else launch(sweep, args)
    except SweepError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2


def arguments() -> argparse.ArgumentParser:
    """The options, with their help."""
    parser = argparse.ArgumentParser("launch.py", description="Compare sequence mixers: tune, train, rank, report.")
    parser.add_argument("sweep", nargs="?", help="a sweep file, such as sweeps/quickstart.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=c", help="changes to it, such as trial.train.max_steps=100"
    )
    parser.add_argument("--list", action="store_true", help="list the sweeps and the tasks there are, and stop")
    parser.add_argument("--dry-run", action="store_true", help="check everything and print the plan, and stop")
    parser.add_argument("--warm", action="store_true", help="tune the GPU kernels of all arms, and stop")
    parser.add_argument("--resume", action="store_true", help="go on with what the sweep's results folder holds")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="these arms alone")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument(
        "--kernel-cache", type=Path, metavar="DIR", help="tuned GPU kernels; default: .attnlab-kernels beside --results"
    )
    parser.add_argument("--address", metavar="auto|URL", help="a Ray cluster that is up; default: Ray on this machine")
    return parser


def list_sweeps() -> int:
    """Every sweep file with its arms, and every task."""
    from attnlab.tasks import summaries

    for path in sorted(SWEEPS.glob("*.yaml")):
        sweep = load_sweep(path)
        print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}: {sweep.description}")
        print(f"    {len(sweep.arms)} arms x {sweep.trials_per_arm} trials: {', '.join(sweep.arms)}")
    print("tasks, for `task: {name: ...}`; settings and an example row are in attnlab/tasks/NAME.py:")
    for name, summary in summaries().items():
        print(f"    {name:20}{summary}")
    return 0


def plan(sweep: Sweep) -> int:
    """What would run."""
    from attnlab.plan import show

    show(sweep)
    return 0


def warm(sweep: Sweep, args: argparse.Namespace) -> int:
    """Tune the kernels of all arms; a table of arm, type of GPU and seconds."""
    from attnlab.sweep.engine import EngineError
    from attnlab.sweep.warmup import alone

    try:
        outcomes = alone(sweep, args.results, address=args.address, kernel_cache=args.kernel_cache)
    except EngineError as error:
        raise SweepError([str(error)]) from None
    print("\n".join(map(str, outcomes)))
    return 1 if any(outcome.error for outcome in outcomes) else 0


def launch(sweep: Sweep, args: argparse.Namespace) -> int:
    """Run, analyse, say where everything is."""
    from attnlab.sweep.engine import EngineError, SlotError, run

    where = args.results / sweep.name
    try:
        how = {"address": args.address, "resume": args.resume, "kernel_cache": args.kernel_cache}
        board = run(sweep, args.results, **how)
    except EngineError as error:
        raise SweepError([str(error)]) from None
    except SlotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        again = shlex.join([sys.executable, *sys.argv, *([] if args.resume else ["--resume"])])
        print(f"\nstopped; what ended is kept. Go on with:\n  {again}", file=sys.stderr)
        return 130
    report = subprocess.run([sys.executable, "-m", "analysis", str(where), "--benchmarks", "none"], check=False)
    for line in board["edges"]:
        print(f"note         {line}")
    failed = sum(row["counts"]["failed"] for row in board["arms"].values())
    print(f"results      {where}")
    print(f"report       {where}/analysis/report.html")
    print(f"tensorboard  tensorboard --logdir {where}")
    return 1 if failed or report.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
