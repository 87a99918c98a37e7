"""How soon the command line answers where no model is needed: `--list`, `--help` and mistakes.

    python -m bench.startup [--rounds 7]

Each command runs as a process of its own, all commands in turn, `rounds` times over. Printed per command: the median
and the slowest time in seconds, and the median's ratio to a process that only imports what schemas are made of
(pydantic, PyYAML, rich), run side by side. The aim is at most one second on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
SWEEP = str(ROOT / "sweeps" / "quickstart.yaml")
BASE = "import pydantic, yaml, rich.console"
COMMANDS = {  # what is measured -> arguments of launch.py, and the exit code that is right
    "--list": (["--list"], 0),
    "--help": (["--help"], 0),
    "no such file": (["sweeps/quickstrat.yaml"], 2),
    "unknown key": ([SWEEP, "serch.trials=2"], 2),
    "unknown mixer": ([SWEEP, "arms.gla.model.mixer=gal"], 2),
    "unknown argument of a mixer": ([SWEEP, "arms.gla.model.mixer={name: gla, expand_q: 1}"], 2),
    "no such arm": ([SWEEP, "--only", "glaa"], 2),
    "wrong type": ([SWEEP, "trial.train.max_steps=many"], 2),
}


def seconds(command: list[str], expected: int, folder: str) -> float:
    """Run a process and return its wall time; raises RuntimeError if it ends otherwise than expected."""
    start = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if ended.returncode != expected:
        raise RuntimeError(f"{command}: exit code {ended.returncode}, not {expected}\n{ended.stderr[-2000:]}")
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    launch = [sys.executable, str(ROOT / "launch.py")]
    times: dict[str, list[float]] = {name: [] for name in ("imports alone", *COMMANDS)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            times["imports alone"].append(seconds([sys.executable, "-c", BASE], 0, folder))
            for name, (arguments, expected) in COMMANDS.items():
                times[name].append(seconds([*launch, *arguments, "--results", folder], expected, folder))
    base = median(times["imports alone"])
    print(f"{'command':<30}{'median s':>10}{'slowest s':>11}{'ratio':>8}")
    for name, found in times.items():
        print(f"{name:<30}{median(found):>10.2f}{max(found):>11.2f}{median(found) / base:>8.1f}")


if __name__ == "__main__":
    main()
