"""How fairly an arm was tuned, from its records alone: what it was given, what came of it, and whether the search ended
inside its ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnlab.config import Sweep
from attnlab.runs import STATES, Results, better
from attnlab.space import Dimension

EDGE = 0.05  # of a range, on the scale searched: a best value this near to an end may have its optimum beyond it


def certificate(sweep: Sweep, arm: str, results: Sequence[Results]) -> dict[str, Any]:
    """An arm's row of `leaderboard.json` under `certificate`.

    Args:
        results: the arm's trials that have ended.

    Returns:
        `asked`: trials the sweep gives every arm alike (an extension included once it has begun); `ended` and each
        state's count; `steps`, `tokens`, `device_seconds` over all of them; `searched`: dimensions of its space;
        `best_by_trials`: the best value after the first, second, ... search trial by number (None before the first
        value); `settings`: per searched setting of the best trial {value, low, high, place, edge}: `place` is 0 to 1
        between low and high on the scale searched, None for what has no order; `edge` is "lower" or "upper" within
        `EDGE` of that end, or at the first or last of an ordered choice of three values or more, else None.
    """
    search = sorted((r for r in results if r["phase"] == "search"), key=lambda r: r["trial_id"])
    best, by_trials = None, []
    for r in search:
        value = r["best"].get(sweep.metric) if r["best"] and r["state"] in ("completed", "pruned") else None
        if value is not None and (best is None or better(value, best["best"][sweep.metric], sweep.mode)):
            best = r
        by_trials.append(best["best"][sweep.metric] if best else None)
    dimensions = sweep.dimensions_of(arm)
    extended = bool(sweep.search and len(search) > sweep.search.trials_of(dimensions))
    return {
        "asked": sweep.trials_of(arm) + (sweep.search.extend if extended and sweep.search else 0),
        "ended": len(results),
        **{state: sum(r["state"] == state for r in results) for state in STATES},
        **{key: sum(r[key] for r in results) for key in ("steps", "tokens", "device_seconds")},  # type: ignore[literal-required]
        "searched": len(dimensions),
        "best_by_trials": by_trials,
        "settings": {
            key: {"value": best["settings"][key], **_place(dimension, best["settings"][key])}
            for key, dimension in dimensions.items()
            if best and key in best["settings"]
        },
    }


def _place(dimension: Dimension, value: Any) -> dict[str, Any]:
    low, high = dimension.ends
    place = dimension.place(value)
    at_end = place is not None and (place <= EDGE or place >= 1 - EDGE)
    edge = None
    if at_end and (dimension.kind != "choice" or len(dimension.choices) > 2):
        edge = "lower" if place <= EDGE else "upper"  # type: ignore[operator]
    return {"low": low, "high": high, "place": place, "edge": edge}


def edges(board: Mapping[str, Any]) -> list[str]:
    """In plain words, which arms of a leaderboard have their best setting at the end of its range."""
    out = []
    for arm in board["ranking"]:
        for key, found in board["arms"][arm]["certificate"]["settings"].items():
            if found["edge"]:
                out.append(
                    f"{arm}: its best {key}, {found['value']:.3g}, lies at the {found['edge']} edge of the range "
                    f"[{found['low']:g}, {found['high']:g}]; the optimum may lie beyond it, so widen the range."
                )
    return out
