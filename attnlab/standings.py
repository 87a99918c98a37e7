"""The leaderboard: every arm's trials counted by state and its best trial, a pure function of the trials' results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from attnlab.certificate import certificate, edges
from attnlab.config import Sweep
from attnlab.extension import Extension, extension
from attnlab.runs import STATES, Results, better

SIZES = ("n_params", "n_params_non_embedding", "flops_per_token", "state_bytes")


def standings(sweep: Sweep, results: Sequence[Results], baselines: Mapping[str, float] | None = None) -> dict[str, Any]:
    """`leaderboard.json`.

    Returns:
        {sweep, metric, mode, baselines, ranking: [arm, ...], edges: [sentence, ...], arms: {arm: row}} with, per
        arm, `counts` by state,
        `best` {trial_id, value, step, settings, state} or None, `confirm` {n, mean, std, values, settings} or None,
        `steps`, `tokens`, `seconds`, `device_seconds`, and the best trial's `n_params`, `n_params_non_embedding`,
        `flops_per_token`, `state_bytes`, and `certificate` (see `certificate`). Arms are ranked by the mean of
        their confirm runs where every arm has them, else by their best value in the search; arms without a value last.
    """
    more = extension(sweep, results)
    rows = {arm: _row(sweep, arm, [r for r in results if r["arm"] == arm], more) for arm in sweep.arms}
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
        "edges": [line for arm, row in rows.items() for line in edges(arm, row["certificate"])],
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


def _row(sweep: Sweep, arm: str, results: Sequence[Results], more: Extension | None) -> dict[str, Any]:
    search = [r for r in results if r["phase"] == "search"]
    top = best_result(search or results, sweep.metric, sweep.mode)
    confirmed, finals = _confirmed(sweep, results)
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
            "settings": confirmed,
        }
        if finals
        else None,
        **{key: sum(r[key] for r in results) for key in ("steps", "tokens", "seconds", "device_seconds")},  # type: ignore[literal-required]
        **{key: top.get(key) if top else None for key in SIZES},
        "certificate": certificate(sweep, arm, results, *((more.trials, more.spaces[arm]) if more else ())),
    }


def best_settings(search: Iterable[Results], metric: str, mode: str, count: int) -> list[dict[str, Any]]:
    """The settings of the `count` best search trials, best first, each once."""
    left, found = list(search), list[dict[str, Any]]()
    while len(found) < count and (top := best_result(left, metric, mode)):
        found.append(top["settings"])
        left = [r for r in left if r["settings"] != top["settings"]]
    return found


def _confirmed(sweep: Sweep, results: Sequence[Results]) -> tuple[dict[str, Any], list[float]]:
    """A setting and the last values of its completed confirm runs: of the best settings that were confirmed, that with
    the best mean among those with most runs; else the one confirmed latest (a search that was extended leaves runs of a
    former best)."""
    runs = [r for r in results if r["phase"] == "confirm" and r["state"] == "completed"]
    search = [r for r in results if r["phase"] == "search"] or runs
    candidates = best_settings(search, sweep.metric, sweep.mode, sweep.confirm.top if sweep.confirm else 1)
    groups: list[tuple[dict[str, Any], list[float]]] = []
    for settings in candidates + ([runs[-1]["settings"]] if runs else []):
        mine = [r["last"] for r in runs if r["settings"] == settings and r["last"]]
        values = [row[sweep.metric] for row in mine if row.get(sweep.metric) is not None]
        groups += [(settings, values)] if values and (settings in candidates or not groups) else []
    if not groups:
        return {}, []
    sign = 1 if sweep.mode == "min" else -1
    return min(groups, key=lambda group: (-len(group[1]), sign * mean(group[1])))
