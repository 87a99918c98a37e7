"""The leaderboard: every arm's trials counted by state and its best trial, a pure function of the trials' results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from attnlab.config import Sweep
from attnlab.runs import STATES, Results, better

SIZES = ("n_params", "n_params_non_embedding", "flops_per_token", "state_bytes")


def standings(sweep: Sweep, results: Sequence[Results], baselines: Mapping[str, float] | None = None) -> dict[str, Any]:
    """`leaderboard.json`.

    Returns:
        {sweep, metric, mode, baselines, ranking: [arm, ...], arms: {arm: row}} with, per arm, `counts` by state,
        `best` {trial_id, value, step, settings, state} or None, `confirm` {n, mean, std, values} or None, `steps`,
        `tokens`, `seconds`, `device_seconds`, and the best trial's `n_params`, `n_params_non_embedding`,
        `flops_per_token`, `state_bytes`. Arms are ranked by the mean of
        their confirm runs where every arm has them, else by their best value in the search; arms without a value last.
    """
    rows = {arm: _row(sweep, [r for r in results if r["arm"] == arm]) for arm in sweep.arms}
    confirmed = all(row["confirm"] for row in rows.values())
    sign = 1 if sweep.mode == "min" else -1

    def place(arm: str) -> tuple[bool, float]:
        row = rows[arm]
        value = row["confirm"]["mean"] if confirmed else row["best"] and row["best"]["value"]
        return (value is None, 0.0 if value is None else sign * value)

    return {
        "sweep": sweep.name,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "baselines": dict(baselines or {}),
        "ranked_by": "confirm mean" if confirmed else "best of search",
        "ranking": sorted(rows, key=place),
        "arms": rows,
    }


def value_of(result: Results, metric: str) -> float | None:
    """A trial's best value of the metric, or None."""
    return result["best"].get(metric) if result["best"] else None


def best_result(results: Iterable[Results], metric: str, mode: str) -> Results | None:
    """The trial with the best value; the earliest of equals. Diverged and failed trials are not candidates."""
    best = None
    for result in results:
        value = value_of(result, metric)
        if result["state"] in ("completed", "pruned") and value is not None:
            held = best and value_of(best, metric)
            if best is None or better(value, held, mode):
                best = result
    return best


def _row(sweep: Sweep, results: Sequence[Results]) -> dict[str, Any]:
    search = [r for r in results if r["phase"] == "search"]
    top = best_result(search or results, sweep.metric, sweep.mode)
    finals = _confirmed(results, top, sweep.metric)
    return {
        "counts": {state: sum(r["state"] == state for r in results) for state in STATES},
        "best": top
        and {
            "trial_id": top["trial_id"],
            "value": value_of(top, sweep.metric),
            "step": (top["best"] or {}).get("step"),
            "settings": top["settings"],
            "state": top["state"],
        },
        "confirm": {
            "n": len(finals),
            "mean": mean(finals),
            "std": stdev(finals) if len(finals) > 1 else None,
            "values": finals,
        }
        if finals
        else None,
        **{key: sum(r[key] for r in results) for key in ("steps", "tokens", "seconds", "device_seconds")},  # type: ignore[literal-required]
        **{key: top.get(key) if top else None for key in SIZES},
    }


def _confirmed(results: Sequence[Results], top: Results | None, metric: str) -> list[float]:
    """Last values of the completed confirm runs of one setting: the best trial's, or else the one confirmed latest (a
    search that was extended leaves runs of a former best)."""
    runs = [r for r in results if r["phase"] == "confirm" and r["state"] == "completed"]
    of_best = [r for r in runs if top is not None and r["settings"] == top["settings"]]
    chosen = of_best or [r for r in runs if r["settings"] == runs[-1]["settings"]]
    return [r["last"][metric] for r in chosen if r["last"] and r["last"].get(metric) is not None]
