"""Whether rungs that decay rank settings better than rungs under cosine, at equal cost, on the saved curves.

    python -m bench.decay_rungs [mqar text] [--top 6]

Per task and per arm and seed (a grid of learning rates): Spearman's rank correlation of what a rung shows with what the
full runs come to. `cosine` and `trunk` are the plain value at a step of the run under either schedule, `branch` is the
value at the end of the decay branched off there. The cost is in parts of a full run; a branch's includes its own decay,
and its earlier rungs' decays as well in `cost so far`; `cosine at cost` is the first report under cosine that costs no
less than the branch alone. Each is held against the final value of its own schedule and, `vs cosine`, against that of
the cosine runs. Means over grids, with 95 % intervals that resample whole grids 2,000 times. Diverged is worst.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bench import curves
from bench.pruning import interval

WORST = 1e9
METRICS = {"mqar": "val_loss", "text": "val_loss"}


def final(rows: list[dict[str, Any]], metric: str) -> float:
    """The last value of a full run; the worst if it has none."""
    return _value(rows[-1], metric)


def _value(row: dict[str, Any], metric: str) -> float:
    value = row.get(metric)
    return WORST if value is None or not math.isfinite(value) else value


def plain_at(rows: list[dict[str, Any]], step: float, metric: str) -> float:
    """The value at the first plain report at or beyond `step`; the last one's of a run that diverged before."""
    plain = [row for row in rows if "branch_steps" not in row]
    return _value(next((row for row in plain if row["step"] >= step - 1e-9), plain[-1]), metric)


def grids(name: str) -> dict[tuple[str, int], dict[float, list[dict[str, Any]]]]:
    """(arm, seed) -> learning rate -> rows."""
    out: dict[tuple[str, int], dict[float, list[dict[str, Any]]]] = defaultdict(dict)
    for trial in curves.read(name)["trials"]:
        out[trial["arm"], trial["seed"]][trial["lr"]] = trial["rows"]
    return out


def correlation(shown: list[float], came: list[float]) -> float:
    """Spearman's; 0 where everything is alike."""
    if len(set(shown)) < 2 or len(set(came)) < 2:
        return 0.0
    return float(spearmanr(shown, came).statistic)


def compare(task: str, top: int) -> None:
    """Print one task's table, over the `top` settings of each grid by the cosine runs' final value."""
    metric, cosine, wsd = METRICS[task], grids(task), grids(f"{task}_wsd")
    last = curves.GRIDS[task]["trial"]["train"]["max_steps"]
    whole = [k for k in wsd if k in cosine and len(wsd[k]) == len(cosine[k]) == len(curves.RATES)]
    print(f"\n{task}, {metric}: {len(whole)} grids, the best {top} of {len(curves.RATES)} learning rates\n")
    heads = (
        "rung",
        "branch's cost",
        "cost so far",
        "cosine at rung",
        "cosine at cost",
        "trunk",
        "branch",
        "branch - cosine at cost",
    )
    print(f"| {' | '.join((*heads, 'branch vs cosine'))} |\n|{'---|' * (len(heads) + 1)}")
    spent = 0.0
    for part in curves.BRANCH_AT:
        rung = round(part * last)
        steps = round(0.2 * rung)
        spent += steps
        got: dict[str, list[float]] = defaultdict(list)
        for key in whole:
            rates = sorted(wsd[key], key=lambda rate, runs=cosine[key]: final(runs[rate], metric))[:top]
            end_c = [final(cosine[key][r], metric) for r in rates]
            end_w = [final(wsd[key][r], metric) for r in rates]
            branch = [_branch(wsd[key][r], rung, metric) for r in rates]
            got["cosine"].append(correlation([plain_at(cosine[key][r], rung, metric) for r in rates], end_c))
            got["cost"].append(correlation([plain_at(cosine[key][r], rung + steps, metric) for r in rates], end_c))
            got["trunk"].append(correlation([plain_at(wsd[key][r], rung, metric) for r in rates], end_w))
            got["branch"].append(correlation(branch, end_w))
            got["cross"].append(correlation(branch, end_c))
        got["gain"] = [b - c for b, c in zip(got["branch"], got["cost"], strict=True)]
        cells = [
            interval(np.array(got[k])[:, None], ".2f") for k in ("cosine", "cost", "trunk", "branch", "gain", "cross")
        ]
        print(f"| {part:.0%} | {(rung + steps) / last:.0%} | {(rung + spent) / last:.0%} | {' | '.join(cells)} |")


def _branch(rows: list[dict[str, Any]], rung: int, metric: str) -> float:
    """The value at the end of the branch from `rung`; the worst of a run that diverged before."""
    return next((_value(r, metric) for r in rows if r["step"] == rung and "branch_steps" in r), WORST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tasks", nargs="*", default=list(METRICS), help="default: both")
    parser.add_argument("--top", type=int, default=len(curves.RATES), help="settings per grid; default: all")
    args = parser.parse_args()
    for task in args.tasks:
        compare(task, args.top)


if __name__ == "__main__":
    main()
