"""Which trial stands for an arm: one criterion, the last report of completed trials.

It chooses settings, is what the leaderboard shows as best, and is what seeds are compared by. A pruned trial's early
value says nothing of where it would have ended, so pruned trials are no candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.records.metrics import better
from attnlab.records.results import Results


def final_value(result: Results, metric: str) -> float | None:
    """The metric at a completed trial's last report; None for any other."""
    return (result["last"] or {}).get(metric) if result["state"] == "completed" else None


def best_result(results: Iterable[Results], metric: str, mode: str) -> Results | None:
    """The completed trial with the best last report, the earliest of equals."""
    best, best_value = None, None
    for result in results:
        value = final_value(result, metric)
        if value is not None and (best_value is None or better(value, best_value, mode)):
            best, best_value = result, value
    return best


def best_settings(search: Iterable[Results], metric: str, mode: str, count: int) -> list[dict[str, Any]]:
    """The settings of the `count` best search trials, best first, each once."""
    left, settings = list(search), list[dict[str, Any]]()
    while len(settings) < count and (top := best_result(left, metric, mode)):
        settings.append(top["settings"])
        left = [r for r in left if r["settings"] != top["settings"]]
    return settings


def confirmed_values(plan: Plan, results: Sequence[Results]) -> tuple[dict[str, Any], dict[int, float]]:
    """The setting that stands for the arm, and its completed confirm runs' last values by seed.

    Of the best settings that were confirmed, it is that with the best mean among those with most runs. Else it is the
    one confirmed latest: a search that was extended leaves runs of a former best.
    """
    runs = [r for r in results if r["phase"] == "confirm" and r["state"] == "completed"]
    search = [r for r in results if r["phase"] == "search"] or runs
    candidates = best_settings(search, plan.metric, plan.mode, plan.sweep.confirm.top if plan.sweep.confirm else 1)
    groups: list[tuple[dict[str, Any], dict[int, float]]] = []
    for settings in candidates + ([runs[-1]["settings"]] if runs else []):
        mine = {r["seed"]: final_value(r, plan.metric) for r in runs if r["settings"] == settings}
        values = {seed: value for seed, value in mine.items() if value is not None}
        groups += [(settings, values)] if values and (settings in candidates or not groups) else []
    if not groups:
        return {}, {}
    sign = 1 if plan.mode == "min" else -1
    return min(groups, key=lambda group: (-len(group[1]), sign * mean(group[1].values())))
