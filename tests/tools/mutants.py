"""Whether the tests would notice: small faults in the modules of tests/mutants.yaml, and which of them live.

    python -m tests.tools.mutants [WHICH ...] [--again] [--sample N] [--seed S]

Each mutant is run by the tests of its module that reach it. One that fails a test, or never ends, is killed. Those that
live are named. The ones that tests/mutants.yaml lists, with the reason why they do not matter, are counted apart.
Mutants of a module that dies unchanged too are not counted. Exit code 1 if fewer than LEAST of the sample are killed,
or one of it lives that is not listed, or was not judged. The tests were written against the sample of seed 0, so what
they kill of another says more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "mutants.yaml"
KEPT = ROOT / "build" / "mutants"  # the last verdicts, a file per module
LEAST = 0.9
DEAD, UNJUDGED = ("killed", "timeout"), "not judged"


def main() -> int:
    """Run the batches asked for, each in a process of its own, and print what lives."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.mutants", description="Which faults the tests notice.")
    parser.add_argument("which", nargs="*", help="batches, or parts of modules' paths; all by default")
    parser.add_argument("--again", action="store_true", help="only the mutants that lived the last time")
    parser.add_argument("--sample", type=int, default=150, metavar="N", help="of a module at most N (150)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which sample, of many (0)")
    parser.add_argument("--report", action="store_true", help="only print the last verdicts")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in the process of one batch
    options = parser.parse_args()
    batches = {name: {module: tests for module, tests in row.items() if _asked(options.which, name, module)}
               for name, row in _table()["batches"].items()}  # fmt: skip
    chosen = [module for row in batches.values() for module in row]
    if options.here:
        (row,) = (row for row in batches.values() if row)
        return _here(row, options)
    again = ["--again"] * options.again
    for row in batches.values() if not options.report else ():
        if row:
            sample = [f"--sample={options.sample}", f"--seed={options.seed}"]
            command = [sys.executable, "-m", "tests.tools.mutants", *row, "--here", *sample, *again]
            subprocess.run(command, cwd=ROOT, env=_environment(), check=True)
    return _report(chosen)


def _table() -> dict[str, Any]:
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def _asked(which: list[str], batch: str, module: str) -> bool:
    return not which or batch in which or any(part in module for part in which if "/" in part or part.endswith(".py"))


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_memory_monitor_refresh_ms": "0"}
    return {**os.environ, **fixed, "PYTHONPATH": path}


def _here(row: dict[str, list[str]], options: argparse.Namespace) -> int:
    from tests.tools.mutant_runner import Batch, run
    from tests.tools.mutation import Mutant, mutants_of, sample_of

    terminal, chosen = os.fdopen(os.dup(1), "w", buffering=1), list[Mutant]()
    for module in row:
        every = mutants_of(module, ROOT)
        before = _kept(module)["verdicts"] if options.again else {}
        lived = [m for m in every if before.get(m.name, "killed") not in DEAD]
        mutants = lived if options.again else sample_of(every, options.sample, options.seed)
        kept = {m.name: before[m.name] for m in every if m.name in before}
        _keep(module, {"made": len(every), "verdicts": kept})
        print(f"{module}: {len(mutants)} mutants of {len(every)}", file=terminal)
        chosen += mutants

    def say(mutant: Mutant, verdict: str) -> None:  # also called in other processes
        print(f"{verdict:>10}  {mutant.module}: {mutant.name}", file=terminal)
        found = _kept(mutant.module)
        _keep(mutant.module, {**found, "verdicts": {**found["verdicts"], mutant.name: verdict}})

    if chosen:
        run(Batch(ROOT, row, chosen, _table().get("left_out") or []), say)
    return 0


def _keep(module: str, found: dict[str, Any]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{module.replace('/', '.')}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def _kept(module: str) -> dict[str, Any]:
    path = KEPT / f"{module.replace('/', '.')}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"made": 0, "verdicts": {}}


def _report(modules: list[str]) -> int:
    """Print the table of these modules' last verdicts, and what lives unlisted or could not be judged."""
    listed = _table().get("survivors") or {}
    total, unlisted = Counter[str](), list[str]()
    print(f"\n{'module':<42}{'mutants':>8}{'run':>6}{'killed':>8}{'listed':>8}{'alive':>7}{'not judged':>12}")
    for module in modules:
        found = _kept(module)
        known = {name for group in listed.get(module, []) for name in group["mutants"]}
        alive = [name for name, verdict in found["verdicts"].items() if verdict not in (*DEAD, UNJUDGED)]
        void = [*found["verdicts"].values()].count(UNJUDGED)
        run = len(found["verdicts"]) - void
        count = Counter(made=found["made"], run=run, listed=len(known.intersection(alive)), void=void)
        if void:
            unlisted.append(f"{UNJUDGED}: {module}: {void} mutants, since the module dies unchanged too")
        count["killed"] = count["run"] - len(alive)
        count["alive"] = len(alive) - count["listed"]
        total += count
        unlisted += [f"{found['verdicts'][name]}: {module}: {name}" for name in alive if name not in known]
        _row(module, count)
    share = total["killed"] / max(1, total["run"])
    _row(f"{share:.1%} of the sample killed", total)
    print("\n".join(["", *unlisted]))
    return int(share < LEAST or bool(unlisted))


def _row(name: str, count: Counter[str]) -> None:
    numbers = f"{count['made']:>8}{count['run']:>6}{count['killed']:>8}{count['listed']:>8}{count['alive']:>7}"
    print(f"{name:<42}{numbers}{count['void']:>12}")


if __name__ == "__main__":
    sys.exit(main())
