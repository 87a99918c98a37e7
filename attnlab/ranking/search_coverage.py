"""How fairly an arm was tuned, from its records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnlab.config.resolved import Plan
from attnlab.config.space import Dimension
from attnlab.ranking.candidates import final_value
from attnlab.records.metrics import better
from attnlab.records.results import STATES, Results

EDGE = 0.05  # of a range, on the scale searched: a best value this near to an end may have its optimum beyond it


@dataclass(frozen=True)
class Extension:
    """How a search goes on after its quota."""

    trials: int  # more for every arm, 0 if the search ends with its quota
    spaces: Mapping[str, Mapping[str, Dimension]]  # what each arm searches last


def number_of(result: Results) -> int:
    """A trial's running number within its arm, from its id."""
    return int(result["trial_id"][1:].partition("-")[0])


def tuning_summary(
    plan: Plan, arm: str, results: Sequence[Results], extension: Extension | None = None
) -> dict[str, Any]:
    """An arm's row of `leaderboard.json` under `certificate`, from its trials that have ended.

    Returns:
        `asked`: trials that the sweep gives every arm, `extended` ones included once an extension is decided.
        `repeated`: the sampler's suggestions that had been trained already. They got their finished result and are no
            trials of their own. None until the search has ended.
        `ended` and each state's count; `steps`, `tokens`, `device_seconds` over all of them.
        `searched`: dimensions of its space.
        `best_by_trials`: the best value after the first, second, ... search trial by number; None before the first.
        `settings`: per searched setting of the best trial {value, low, high, place, edge}, in the range searched last.
            `place` is 0 to 1 between low and high on the scale searched, None for what has no order. `edge` is "lower"
            or "upper" within `EDGE` of that end. For an ordered choice that is its first or last of three values or
            more, if a second one was tried. Else it is None. Only the best trial counts: the best value of a setting
            without effect would lie at an edge in one sweep of ten. Trials as good as the best must lie at the same
            end; where all trials are as good, nothing does.
    """
    search = sorted((r for r in results if r["phase"] == "search"), key=number_of)
    best, best_value, by_trials, with_value = None, None, [], []
    for r in search:
        value = final_value(r, plan.metric)
        if value is not None:
            with_value.append((r, value))
            if best_value is None or better(value, best_value, plan.mode):
                best, best_value = r, value
        by_trials.append(best_value)
    as_good = [r for r, value in with_value if value == best_value]
    if len(as_good) == len(with_value) > 1:
        as_good = []  # nothing tells the settings apart
    dimensions = extension.spaces[arm] if extension else plan.arm(arm).space
    more = extension.trials if extension else 0
    tried = {key: len({str(r["settings"].get(key)) for r in search}) for key in dimensions}
    quota = plan.quota(arm) + more
    return {
        "asked": plan.trials_of(arm) + more,
        "extended": more,
        "repeated": number_of(search[-1]) + 1 - len(search) if search and len(search) >= quota else None,
        "ended": len(results),
        **{state: sum(r["state"] == state for r in results) for state in STATES},
        **{key: sum(r[key] for r in results) for key in ("steps", "tokens", "device_seconds")},
        "searched": len(dimensions),
        "best_by_trials": by_trials,
        "settings": {
            key: _position(dimension, best["settings"][key], [r["settings"].get(key) for r in as_good], tried[key])
            for key, dimension in dimensions.items()
            if best and key in best["settings"]
        },
    }


def _position(dimension: Dimension, value: Any, as_good: Sequence[Any], tried: int) -> dict[str, Any]:
    """Where the best value lies. It is at an end if the values as good as it all lie there."""
    low, high = dimension.ends
    ends = {_end(dimension.position(other)) for other in as_good}
    tells = dimension.kind != "choice" or (len(dimension.choices) > 2 and tried > 1)
    edge = ends.pop() if tells and len(ends) == 1 else None
    return {"value": value, "low": low, "high": high, "place": dimension.position(value), "edge": edge}


def _end(position: float | None) -> str | None:
    if position is None:
        return None
    return "lower" if position <= EDGE else "upper" if position >= 1 - EDGE else None


def edges(arm: str, certified: Mapping[str, Any]) -> list[str]:
    """Which of an arm's best settings lie at the end of their range."""
    out = []
    for key, setting in certified["settings"].items():
        if edge := setting["edge"]:
            interval = f"[{setting['low']:g}, {setting['high']:g}]"
            natural = edge == "lower" and setting["low"] == 0
            hint = "0 itself may be best." if natural else "the optimum may lie beyond it, so widen the range."
            best = f"its best {key}, {setting['value']:.3g}"
            out.append(f"{arm}: {best}, lies at the {edge} edge of the range {interval}; {hint}")
    return out
