"""The command line: `launch.py SWEEP [more.yaml ...] [key=value ...]`, also installed as `attnlab`.

Exit codes, with more than one sweep the highest:

    0    done
    1    done but some trial failed, or stopped for want of workers or of room: one line says so, and --resume goes on
    2    a mistake in the request; nothing was written
    130  Ctrl-C (143 SIGTERM, 129 SIGHUP): what runs is saved, and --resume goes on

A mistake in any sweep ends the run before the first one starts. What needs torch or ray is imported in functions, so
that --list, --help and mistakes that need no model answer within a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnlab.config import sweep_file
from attnlab.plan import Plan, load, memory
from attnlab.plan.prepare import prepare_tasks
from attnlab.ranking.leaderboard import Leaderboard
from attnlab.records.mirror import mirror
from attnlab.records.storage import local
from attnlab.sweep.folder import check_unheld, folder_note, open_sweep_folder, sweep_mirror
from attnlab.tasks import summaries
from attnlab.util import command, trust
from attnlab.util.errors import DiskFull, Interrupted, SweepStopped, UserError
from attnlab.util.secret import hide_arguments
from attnlab.util.text import did_you_mean


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended: its exit code, and its leaderboard or why there is none."""

    name: str
    code: int
    board: Leaderboard | None = None
    why: str = ""


def command_line() -> int:
    """Run the command `attnlab`, as launch.py does. Returns the exit code."""
    command.answer_ctrl_c()
    return command.run(main)


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    hide_arguments(sys.argv)
    args = arguments().parse_intermixed_args(argv)
    try:
        if args.list:
            return list_sweeps(args)
        plans = load_plans(args)
        return show_plans(plans, args) if args.dry_run else warm(plans, args) if args.warm else run(plans, args)
    except UserError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    except DiskFull as error:
        print(f"error: {error.line}", file=sys.stderr)
        return 1
    except SweepStopped as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return exit_code(error)


def exit_code(error: KeyboardInterrupt) -> int:
    """The exit code for the signal that came, Ctrl-C's where none is named."""
    return error.code if isinstance(error, Interrupted) else 130


def arguments() -> argparse.ArgumentParser:
    """The options, with their help."""
    parser = argparse.ArgumentParser("launch.py", description="Compare sequence mixers: tune, train, rank, report.")
    words = "sweep files, run in turn; changes, as trial.train.max_steps=100"
    parser.add_argument("words", nargs="*", metavar="SWEEP | a.b=c", help=words)
    parser.add_argument("--list", action="store_true", help="list the sweeps and the tasks there are, and stop")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the sweep file, print the plan and what results there are, and stop",
    )
    parser.add_argument("--warm", action="store_true", help="tune the GPU kernels of all arms, and stop")
    parser.add_argument("--resume", action="store_true", help="go on with what the sweep's results folder holds")
    only = "these arms alone, of whichever sweeps have them; with --resume in addition to arms already begun"
    parser.add_argument("--only", nargs="+", metavar="ARM", help=only)
    parser.add_argument("--plain", action="store_true", help="no search: every arm as declared; results in NAME-plain")
    parser.add_argument("--scale", metavar="tiny", help="try it small, in minutes on 2 CPU cores; results in NAME-tiny")
    parser.add_argument("--results", default="results", metavar="DIR|URI", help="default: results")
    kernels = "tuned GPU kernels; default: .attnlab-kernels beside --results"
    parser.add_argument("--kernel-cache", type=Path, metavar="DIR", help=kernels)
    parser.add_argument("--address", metavar="auto|URL", help="a Ray cluster that is up; default: Ray on this machine")
    return parser


def files_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sort the command line's words without an option into sweep files and `a.b=c` texts."""
    files, overrides = list[str](), list[str]()
    for word in words:
        is_file = _stands(word) or ("=" not in word and (word.endswith((".yaml", ".yml")) or not files))
        (files if is_file else overrides).append(word)
    return files, overrides


def _stands(word: str) -> bool:
    """Whether a file or folder of this name is there; no name is too long to ask."""
    try:
        return Path(word).exists()
    except (OSError, ValueError):
        return False


def load_plans(args: argparse.Namespace) -> list[Plan]:
    """The requested sweeps with their requested arms. Raises UserError: every mistake in any, one line each."""
    only = args.only or []  # `--only ARM a.b=c` reads on to the end
    files, overrides = files_and_overrides([*args.words, *(word for word in only if "=" in word)])
    if not files:
        raise UserError(["which sweep? launch.py sweeps/quickstart.yaml, or --list"])
    named = {file: _arms(file) for file in files} if only else {}
    known = dict.fromkeys(arm for arms in named.values() for arm in arms or ())
    wanted = [word for word in only if "=" not in word or word in known]  # an arm may be called lr=0.1
    overrides = [text for text in overrides if text not in wanted]
    if len(files) > 1 and wanted:  # one that cannot be read stays, for its error
        files = [file for file in files if (arms := named[file]) is None or set(arms) & set(wanted)]
    solve = not wanted or set(wanted) <= known.keys()  # an arm that is not there is told before torch is imported
    plans, problems = [], []
    for file in files:
        prefix = f"{file}: " if len(files) > 1 else ""
        try:
            resume_in = args.results if args.resume else None
            plan = load(file, overrides, plain=args.plain, scale=args.scale, solve=solve, resume_in=resume_in)
        except UserError as error:
            problems += [line if line.startswith(file) else prefix + line for line in error.problems]
            continue
        known |= dict.fromkeys(plan.names)
        arms = [arm for arm in wanted if arm in plan.names]
        plans.append(plan.only(arms) if arms else plan)
    if known:
        problems += [f"--only {arm}: no such arm{did_you_mean(arm, known)}" for arm in wanted if arm not in known]
    names = [plan.name for plan in plans]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    problems += [f"name: {name} is the name of two of these sweeps, which would share one folder" for name in twice]
    if problems:
        raise UserError(problems)
    return plans


def _arms(file: str) -> list[str] | None:
    """The arms that a sweep file names, right or wrong. None if it cannot be read."""
    try:
        arms = sweep_file.read(file).get("arms")
    except UserError:  # `load` raises it again
        return None
    return list(arms) if isinstance(arms, Mapping) else []


def list_sweeps(args: argparse.Namespace) -> int:
    """Print every sweep file, or those named, with its arms, and every task."""
    named = [Path(file) for file in files_and_overrides(args.words)[0]]
    for path in named or sorted(sweep_file.SWEEPS.glob("*.yaml")):
        plan, full = load(path, solve=False), path.resolve()
        shown = full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else path
        print(f"{shown}: {plan.sweep.description}")
        print(f"    {len(plan.arms)} arms x {plan.trials_per_arm} trials: {', '.join(plan.names)}")
    print("tasks, for `task: {name: ...}`; settings and an example row are in attnlab/tasks/NAME.py:")
    for name, summary in summaries().items():
        print(f"    {name:20}{summary}")
    return 0


def show_plans(plans: Sequence[Plan], args: argparse.Namespace) -> int:
    """Print what would run, and what stands where its results go."""
    from attnlab.plan.dry_run import show  # builds models

    for number, plan in enumerate(plans):
        if number:
            print(f"\n{'-' * 100}")
        show(plan, here=args.address is None)
        if note := folder_note(plan, args.results, args.resume):
            print(f"results: {note}")
    return 0


def warm(plans: Sequence[Plan], args: argparse.Namespace) -> int:
    """Tune the kernels of all arms and print each arm's type of GPU and seconds."""
    from attnlab.sweep.cluster.warmup import warm_only  # torch, ray

    failed = False
    for plan in plans:
        outcomes = warm_only(plan, args.results, address=args.address, kernel_cache=args.kernel_cache)
        print("\n".join(map(str, outcomes)))
        failed = failed or any(outcome.error for outcome in outcomes)
    return int(failed)


def run(plans: Sequence[Plan], args: argparse.Namespace) -> int:
    """Run one sweep after the other. If there are more than one, print a line each at the end."""
    check_all(plans, args)
    ended: list[SweepOutcome] = []
    for plan in plans:
        ended.append(launch(plan, args))
        if ended[-1].code >= 128:  # a signal
            break
    if len(plans) > 1:
        print(f"\n{summary(ended)}")
    return max(each.code for each in ended)


def check_all(plans: Sequence[Plan], args: argparse.Namespace) -> None:
    """Check all sweeps' folders, data and mixers before the first runs.

    A single sweep is checked as it starts. Raises UserError: what is wrong, one line each, with the sweep's name.
    """
    problems = []
    for plan in plans if len(plans) > 1 else ():
        try:
            records = sweep_mirror(plan, args.results)
            check_unheld(records)
            open_sweep_folder(plan, records, args.resume)
            if args.address is None:
                memory.check(plan, memory.Room.here(plan.sweep.resources.gpus_per_worker))
            prepare_tasks(plan)
        except UserError as error:
            problems += [f"{plan.name}: {line}" for line in error.problems]
    if problems:
        raise UserError(problems)


def launch(plan: Plan, args: argparse.Namespace) -> SweepOutcome:
    """Run a sweep, analyse it, and print where everything is."""
    from attnlab.sweep import engine  # torch, ray

    try:
        options = {"address": args.address, "resume": args.resume, "kernel_cache": args.kernel_cache}
        board = engine.run(plan, args.results, **options, own_process=True)
    except (UserError, SweepStopped) as error:
        print("\n".join(f"error: {line}" for line in getattr(error, "problems", [error])), file=sys.stderr)
        return SweepOutcome(plan.name, 1 if isinstance(error, SweepStopped) else 2, why=str(error).splitlines()[0])
    except DiskFull as error:  # before the first trial
        print(f"error: {error.line}", file=sys.stderr)
        return SweepOutcome(plan.name, 1, why=error.line)
    except KeyboardInterrupt as error:
        print(f"\nstopped; what ended is kept. Go on with:\n  {command.again()}", file=sys.stderr)
        return SweepOutcome(plan.name, exit_code(error), why="stopped")
    results = mirror(args.results, plan.name)
    folder = results.folder.path if results.remote else Path(local(args.results) or "", plan.name)
    trusted = [word for module in trust.named() for word in ("--trust", module)]
    analysis = [sys.executable, "-m", "analysis", str(folder), "--benchmarks", "none", *trusted]
    report = subprocess.run(analysis, check=False)
    results.push(folder / "analysis")
    address = results if results.remote else folder
    failed = sum(row["counts"]["failed"] for row in board["arms"].values())
    print(f"results      {address}")
    print(f"report       {address}/analysis/report.html")
    print(f"tensorboard  tensorboard --logdir {folder}")
    return SweepOutcome(plan.name, 1 if failed or report.returncode else 0, board)


def summary(ended: Sequence[SweepOutcome]) -> str:
    """One line per sweep: how it ended, and what it decided."""
    width = max(len(each.name) for each in ended)
    return "\n".join(f"{each.name:<{width}}  {_end_text(each)}" for each in ended)


def _end_text(ended: SweepOutcome) -> str:
    if ended.board is None:
        return ended.why
    board, failed = ended.board, sum(row["counts"]["failed"] for row in ended.board["arms"].values())
    trials = f" {failed} {'trial' if failed == 1 else 'trials'} failed." if failed else ""
    return f"{board['answer']}{trials}"
