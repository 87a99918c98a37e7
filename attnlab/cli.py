"""What launch.py's options do beside running a sweep: which sweeps and arms are meant, the lists, checks and summaries.

A mistake in any of several sweeps is told before the first one starts.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlab.config import sweep_file
from attnlab.config.resolved import Plan
from attnlab.plan.load import load
from attnlab.util.errors import UserError
from attnlab.util.text import did_you_mean, value_text

SWEEPS = Path(__file__).parents[1] / "sweeps"


@dataclass(frozen=True)
class Ended:
    """How a sweep ended: its exit code, its leaderboard if there is one, and in words if not."""

    sweep: Plan
    code: int
    board: Mapping[str, Any] | None = None
    why: str = ""


def files_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands on the command line without an option: sweep files, and `a.b=c` texts."""
    files: list[str] = []
    overrides: list[str] = []
    for word in words:
        is_file = Path(word).exists() or ("=" not in word and (word.endswith((".yaml", ".yml")) or not files))
        (files if is_file else overrides).append(word)
    return files, overrides


def chosen(args: Namespace) -> list[Plan]:
    """The sweeps that are asked for, each with the arms that are asked for.

    Raises:
        UserError: every mistake in any of them, one line each.
    """
    wanted = [word for word in args.only or [] if "=" not in word]  # `--only ARM a.b=c` reads on to the end
    files, overrides = files_and_overrides([*args.words, *(word for word in args.only or [] if "=" in word)])
    if not files:
        raise UserError(["which sweep? launch.py sweeps/quickstart.yaml, or --list"])
    named = {file: _arms(file) for file in files} if wanted else {}
    known = dict.fromkeys(arm for arms in named.values() for arm in arms or ())
    if len(files) > 1 and wanted:  # one that cannot be read stays, and is told
        files = [file for file in files if (arms := named[file]) is None or set(arms) & set(wanted)]
    sweeps, problems = [], []
    resume = {"resume_in": args.results} if args.resume else {}
    for file in files:
        where = f"{file}: " if len(files) > 1 else ""
        try:
            sweep = load(file, overrides, plain=args.plain, scale=args.scale, solve=not args.list, **resume)
        except UserError as error:
            problems += [line if line.startswith(file) else where + line for line in error.problems]
            continue
        known |= dict.fromkeys(sweep.names)
        here = [arm for arm in wanted if arm in sweep.names]
        sweeps.append(sweep.only(here) if here else sweep)
    if known:
        problems += [f"--only {arm}: no such arm{did_you_mean(arm, known)}" for arm in wanted if arm not in known]
    for name in {s.name: None for s in sweeps if sum(s.name == other.name for other in sweeps) > 1}:
        problems.append(f"name: {name} is the name of two of these sweeps, which would share one folder")
    if problems:
        raise UserError(problems)
    return sweeps


def _arms(file: str) -> list[str] | None:
    """The arms that a sweep file names, whatever else is wrong with it; None if it cannot be read."""
    try:
        arms = sweep_file.read(file).get("arms")
    except UserError:  # told where it is loaded
        return None
    return list(arms) if isinstance(arms, Mapping) else []


def list_sweeps(args: Namespace) -> int:
    """Every sweep file with its arms, and every task; or the files named."""
    from attnlab.tasks import summaries

    named = [Path(file) for file in files_and_overrides(args.words)[0]]
    for path in named or sorted(SWEEPS.glob("*.yaml")):
        sweep = load(path, solve=False)
        here = path.resolve()
        print(f"{here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else path}: {sweep.sweep.description}")
        print(f"    {len(sweep.names)} arms x {sweep.trials_per_arm} trials: {', '.join(sweep.names)}")
    print("tasks, for `task: {name: ...}`; settings and an example row are in attnlab/tasks/NAME.py:")
    for name, summary in summaries().items():
        print(f"    {name:20}{summary}")
    return 0


def plan(sweeps: Sequence[Plan]) -> int:
    """What would run."""
    from attnlab.plan.dry_run import show

    for number, sweep in enumerate(sweeps):
        if number:
            print(f"\n{'-' * 100}")
        show(sweep)
    return 0


def warm(sweeps: Sequence[Plan], args: Namespace) -> int:
    """Tune the kernels of all arms; a table of arm, type of GPU and seconds."""
    from attnlab.sweep.cluster.warmup import alone

    failed = False
    for sweep in sweeps:
        outcomes = alone(sweep, args.results, address=args.address, kernel_cache=args.kernel_cache)
        print("\n".join(map(str, outcomes)))
        failed = failed or any(outcome.error for outcome in outcomes)
    return int(failed)


def check_all(sweeps: Sequence[Plan], args: Namespace) -> None:
    """Of several sweeps, whether each one's folder, data and mixers are fit, so that none is stopped halfway by a
    mistake in the next. One alone is checked as it starts.

    Raises:
        UserError: what is wrong, one line each, with the sweep's name.
    """
    from attnlab.plan.prepare import prepare_tasks
    from attnlab.sweep.folder import opened

    problems = []
    for sweep in sweeps if len(sweeps) > 1 else ():
        try:
            opened(sweep, args.results, args.resume)
            prepare_tasks(sweep)
        except UserError as error:
            problems += [f"{sweep.name}: {line}" for line in error.problems]
    if problems:
        raise UserError(problems)


def summary(ended: Sequence[Ended]) -> str:
    """One line per sweep: how it ended, its best arm, where its results are."""
    width = max(len(e.sweep.name) for e in ended)
    return "\n".join(f"{e.sweep.name:<{width}}  {_said(e)}" for e in ended)


def _said(ended: Ended) -> str:
    if ended.board is None:
        return ended.why
    board, first = ended.board, ended.board["ranking"][0]
    row = board["arms"][first]
    value = row["confirm"]["mean"] if board["ranked_by"] == "confirm mean" else row["best"] and row["best"]["value"]
    failed = sum(row["counts"]["failed"] for row in board["arms"].values())
    best = f"best {first} with {board['metric']} {value_text(value)} ({board['ranked_by']})"
    best = best if value is not None else "no value"
    return f"{len(board['arms'])} arms, {best}" + (f"; {failed} trials failed" if failed else "")
