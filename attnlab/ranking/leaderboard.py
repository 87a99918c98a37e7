"""The leaderboard: each arm's trials by state, its best one and its rank, from results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any, Literal, TypedDict, cast

from attnlab.config.resolved import Plan
from attnlab.ranking.candidates import best_result, confirmed_values, final_value
from attnlab.ranking.common_model import Comparisons
from attnlab.ranking.noise_floor import noise_floor, sentences
from attnlab.ranking.search_coverage import Extension, edges, tuning_summary
from attnlab.ranking.verdicts import Verdicts, answer, not_shown_worse, verdicts
from attnlab.records.results import STATES, Results, State

SIZES = ("n_params", "n_params_non_embedding", "flops_per_token", "state_bytes")


class Best(TypedDict):
    """An arm's best completed trial of the search, or of its runs without a search, by its last report."""

    trial_id: str
    value: float
    step: int
    settings: dict[str, Any]  # as sampled, by dotted key
    state: State


class Confirm(TypedDict):
    """What an arm's best settings came to, trained unstopped once per seed."""

    n: int
    mean: float
    std: float | None  # of a sample; None for one run
    values: list[float]
    settings: dict[str, Any]


class Standing(TypedDict):
    """An arm's row: sums over its trials, sizes of its best one, and its rank."""

    counts: dict[str, int]  # trials by state
    best: Best | None
    confirm: Confirm | None
    steps: int
    tokens: int
    seconds: float
    device_seconds: float
    n_params: int | None
    n_params_non_embedding: int | None
    flops_per_token: float | None
    state_bytes: int | None
    tokens_per_s: float | None  # the arm's: the median of its trials' last reports
    peak_mem_gib: float | None  # of the GPU, in training and validation
    rank: int | None  # 1 is best; None where some pair with the arm is not decided
    interval: list[float] | None  # of the confirm mean, at 95 %, simultaneous over all arms; None where not known
    certificate: dict[str, Any]  # how it was tuned, see `tuning_summary`


class Leaderboard(TypedDict):
    """`leaderboard.json`."""

    sweep: str
    metric: str
    mode: Literal["min", "max"]
    baselines: dict[str, float]
    ranked_by: str
    ranking: list[str]  # arms by their values, the best first, decided or not
    answer: str  # what is decided about the best arm, see `attnlab.ranking.verdicts.answer`
    not_worse: list[str]  # the best arm and those not shown worse than it; [] before any run that is judged
    edges: list[str]  # sentences on best settings at the end of their range
    guards: dict[str, Any]  # findings before the start, see `attnlab.plan.guards.run`; {} where they are not known
    noise: dict[str, Any] | None  # see `attnlab.ranking.noise_floor.noise_floor`; its runs count here alone
    arms: dict[str, Standing]


def rank_arms(
    plan: Plan,
    results: Sequence[Results],
    extension: Extension | None,
    baselines: Mapping[str, float] | None = None,
    guards: Mapping[str, Any] | None = None,
) -> Leaderboard:
    """Make `leaderboard.json`; `guards` is kept as it is.

    Arms are ranked by the mean of their confirm runs where every arm has them, else by their best value in the search;
    arms without a value last. `extension`: the search's, as `attnlab.plan.extension` gives it for these results.
    """
    noise, by_arm = noise_floor(plan, results), _by_arm(plan, results)
    decided, comparisons = sweep_verdicts(plan, results)
    rows = {arm: _row(plan, arm, by_arm[arm], extension, decided) for arm in plan.names}
    confirmed = all(row["confirm"] for row in rows.values())
    sign = 1 if plan.mode == "min" else -1

    def order(arm: str) -> tuple[bool, float]:
        confirm, best = rows[arm]["confirm"], rows[arm]["best"]
        value = confirm["mean"] if confirmed and confirm else best and best["value"]
        return (value is None, 0.0 if value is None else sign * value)

    return {
        "sweep": plan.name, "metric": plan.metric, "mode": plan.mode, "baselines": dict(baselines or {}),
        "ranked_by": "confirm mean" if confirmed else "best of search", "ranking": sorted(rows, key=order),
        "answer": answer(decided, comparisons), "not_worse": not_shown_worse(decided),
        "edges": [line for arm, row in rows.items() for line in edges(arm, row["certificate"])],
        "guards": dict(guards or {}), "noise": noise, "arms": rows,
    }  # fmt: skip


def sweep_verdicts(plan: Plan, results: Sequence[Results]) -> tuple[Verdicts, Comparisons]:
    """What is decided between a sweep's arms, by the runs that stand for them (`confirmed_values`)."""
    values = {arm: confirmed_values(plan, mine)[1] for arm, mine in _by_arm(plan, results).items()}
    return verdicts(values, plan.metric, plan.mode, plan.sweep.sesoi, plan.sweep.baseline)


def _by_arm(plan: Plan, results: Sequence[Results]) -> dict[str, list[Results]]:
    """Each arm's results without those of the noise floor."""
    return {arm: [r for r in results if r["arm"] == arm and r["phase"] != "noise"] for arm in plan.names}


def notes(board: Mapping[str, Any]) -> list[str]:
    """Lines on a leaderboard: best settings at an edge, the guards' warnings, the noise floor."""
    guards = board.get("guards") or {}
    warnings = [f"warning: {line}" for line in guards.get("warnings", [])]
    unsure = [f"unsure: {line}" for line in guards.get("no_op", {}).get("unsure", [])]
    return [*warnings, *unsure, *board["edges"], *sentences(board.get("noise"), board["metric"])]


def _row(plan: Plan, arm: str, results: Sequence[Results], extension: Extension | None, decided: Verdicts) -> Standing:
    search = [r for r in results if r["phase"] == "search"]
    top = best_result(search or results, plan.metric, plan.mode)
    confirmed, by_seed = confirmed_values(plan, results)
    finals = list(by_seed.values())
    best = top and {
        "trial_id": top["trial_id"], "value": final_value(top, plan.metric), "step": (top["last"] or {}).get("step"),
        "settings": top["settings"], "state": top["state"],
    }  # fmt: skip
    confirm: dict[str, Any] | None = None
    if finals:
        std = stdev(finals) if len(finals) > 1 else None
        confirm = {"n": len(finals), "mean": mean(finals), "std": std, "values": finals, "settings": confirmed}
    verdict = next(each for each in decided["arms"] if each["arm"] == arm)
    row = {
        "counts": {state: sum(r["state"] == state for r in results) for state in STATES},
        "best": best,
        "confirm": confirm,
        **{key: sum(r[key] for r in results) for key in ("steps", "tokens", "seconds", "device_seconds")},
        **{key: top.get(key) if top else None for key in SIZES},
        "tokens_per_s": _speed(results),
        "peak_mem_gib": ((top and top["last"]) or {}).get("peak_mem_gib"),
        "rank": verdict["rank"],
        "interval": None if verdict["low"] is None else [verdict["low"], verdict["high"]],
        "certificate": tuning_summary(plan, arm, results, extension),
    }
    return cast(Standing, row)


def _speed(results: Sequence[Results]) -> float | None:
    """The arm's one speed: whoever shows another would contradict the leaderboard."""
    speeds = [speed for r in results if (speed := (r["last"] or {}).get("tokens_per_s")) is not None]
    return median(speeds) if speeds else None
