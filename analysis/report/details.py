"""Each arm by itself: what it is, its confirm runs, all its trials, and how to train or load its best again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from analysis.records.load import TrialRecord
from analysis.records.select import ArmSummary, Selection
from analysis.report.tables import Column, Table
from analysis.report.wording import count_text, large_text, seconds_text, settings_text, value_text
from analysis.statistics import pairs
from attnlab.ranking import tests

TRIAL_COLUMNS = [
    Column("trial", "trial", "text"),
    Column("phase", "phase", "text"),
    Column("state", "state", "text"),
    Column("settings", "settings", "text"),
    Column("seed", "seed", "count"),
    Column("best", "best"),
    Column("at", "at step", "count"),
    Column("steps", "steps", "count"),
    Column("tokens", "tokens", "large"),
    Column("device_seconds", "device-s", "seconds"),
]


@dataclass(frozen=True)
class Detail:
    """One arm's part of the page: facts by name, its trials, and commands."""

    arm: ArmSummary
    facts: dict[str, str]
    trials: Table
    commands: str | None


def details(sel: Selection) -> list[Detail]:
    """Every arm, in the sweep's order."""
    return [_detail(sel, arm) for arm in sel.declared]


def trials(sel: Selection) -> Table:
    """Every trial of every arm, for the CSV file."""
    rows = [{"arm": arm.arm, "_index": arm.index, **_row(sel, arm, t)} for arm in sel.declared for t in arm.trials]
    return Table("trials", [Column("arm", "arm", "arm"), *TRIAL_COLUMNS], rows)


def _row(sel: Selection, arm: ArmSummary, trial: TrialRecord) -> dict[str, Any]:
    results = trial.results or {}
    best = results.get("best") or {}
    return {
        "trial": trial.trial_id,
        "phase": trial.phase,
        "state": trial.state,
        "settings": settings_text(trial.settings),
        "seed": results.get("seed"),
        "best": trial.value(sel.metric),
        "at": best.get("step"),
        "steps": results.get("steps"),
        "tokens": results.get("tokens"),
        "device_seconds": results.get("device_seconds"),
        "_strong": ("trial", "best") if trial is arm.best else (),
    }


def _detail(sel: Selection, arm: ArmSummary) -> Detail:
    results = (arm.best.results if arm.best else None) or {}
    facts = {"mixer": arm.mixer}
    if arm.n_params is not None:
        facts["parameters"] = f"{count_text(arm.n_params)}, {count_text(arm.n_params_non_embedding)} without embeddings"
    if (flops := results.get("flops_per_token")) is not None:
        facts["training FLOPs per token"] = large_text(flops)
    if (size := results.get("state_bytes")) is not None:
        facts["state after one sequence"] = f"{count_text(size)} bytes in fp32"
    if arm.tokens_per_s is not None:
        facts["training speed"] = f"{count_text(arm.tokens_per_s)} tokens/s, the median over all reports"
    if arm.best:
        report = results.get("best") or {}
        own = {key: value for key, value in report.items() if key.startswith("val_") and not key.endswith("_se")}
        facts["best trial"] = f"{arm.best.trial_id}, {arm.best.phase}, seed {results.get('seed')}, {arm.best.state}"
        facts["its settings"] = settings_text(arm.best.settings)
        facts["its validation"] = ", ".join(f"{key} {value_text(value)}" for key, value in own.items())
        facts["its time"] = f"{count_text(results.get('steps'))} steps in {seconds_text(results.get('seconds'))} s"
    if values := pairs.confirm_values(sel, arm, sel.metric):
        facts["by seed"] = ", ".join(f"{seed}: {value_text(value)}" for seed, value in sorted(values.items()))
        facts["mean over seeds"] = Column("", "", "interval").show(tests.mean_over_seeds(list(values.values())))
    table = Table(f"trials-{arm.arm}", TRIAL_COLUMNS, [_row(sel, arm, t) for t in arm.trials])
    return Detail(arm, facts, table, _commands(sel, arm))


def _commands(sel: Selection, arm: ArmSummary) -> str | None:
    """To train the best trial again, alone, and to load its model."""
    if arm.best is None:
        return None
    home = sel.data.folder.trial(arm.arm, arm.best.trial_id)
    train = f"import json, attnlab; attnlab.run_experiment(json.load(open({str(home.config_file)!r}))['trial'])"
    lines = [shlex.join(["python", "-c", train])]
    if arm.best.state == "completed":
        load = f"AutoModelForCausalLM.from_pretrained({str(home.final)!r})"
        lines.append(
            shlex.join(["python", "-c", f"import attnlab; from transformers import AutoModelForCausalLM; {load}"])
        )
    return "\n".join(lines)
