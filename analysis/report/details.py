"""Each arm by itself: facts, confirm runs, trials, and commands for its best."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from analysis.records.load import TrialRecord
from analysis.records.select import ArmSummary, Selection
from analysis.report.tables import ARM, Column, Table
from attnlab.ranking.tests import mean_over_seeds
from attnlab.util import trust
from attnlab.util.text import count_text, large_text, listed, seconds_text, settings_text, value_text

TRIAL_COLUMNS = [
    Column("trial", "trial", "text"), Column("phase", "phase", "text"), Column("state", "state", "text"),
    Column("settings", "settings", "text"), Column("seed", "seed", "count"), Column("best", "best"),
    Column("at", "at step", "count"), Column("steps", "steps", "count"), Column("tokens", "tokens", "large"),
    Column("device_seconds", "device-s", "seconds"),
]  # fmt: skip


@dataclass(frozen=True)
class Detail:
    """One arm's section of the page: facts by name, its trials, and commands."""

    arm: ArmSummary
    facts: dict[str, str]
    trials: Table
    commands: str | None


def details(sel: Selection) -> list[Detail]:
    """Every arm, in the sweep's order."""
    out = []
    for arm in sel.declared:
        table = Table(f"trials-{arm.arm}", TRIAL_COLUMNS, [_row(sel, arm, t) for t in arm.trials])
        out.append(Detail(arm, _facts(sel, arm), table, _commands(sel, arm)))
    return out


def trials(sel: Selection) -> Table:
    """Every trial of every arm, for the CSV file."""
    rows = [{"arm": arm.arm, "_index": arm.index, **_row(sel, arm, t)} for arm in sel.declared for t in arm.trials]
    return Table("trials", [ARM, *TRIAL_COLUMNS], rows)


def _row(sel: Selection, arm: ArmSummary, trial: TrialRecord) -> dict[str, Any]:
    results = trial.results or {}
    return {
        "trial": trial.trial_id, "phase": trial.phase, "state": trial.state, "settings": settings_text(trial.settings),
        "best": trial.reached(sel.metric), "at": (results.get("best") or {}).get("step"),
        **{key: results.get(key) for key in ("seed", "steps", "tokens", "device_seconds")},
        "_strong": ("trial", "best") if trial is arm.best else (),
    }  # fmt: skip


def _facts(sel: Selection, arm: ArmSummary) -> dict[str, str]:
    results = (arm.best.results if arm.best else None) or {}
    facts = {"mixer": arm.mixer}
    if arm.n_params is not None:
        facts["parameters"] = f"{count_text(arm.n_params)}, {count_text(arm.n_params_non_embedding)} without embeddings"
    if (flops := results.get("flops_per_token")) is not None:
        facts["training FLOPs per token"] = large_text(flops)
    if (size := results.get("state_bytes")) is not None:
        facts["state after one sequence"] = f"{count_text(size)} bytes in fp32"
    if arm.tokens_per_s is not None:
        facts["training speed"] = f"{count_text(arm.tokens_per_s)} tokens/s, the median of its trials' last reports"
    if arm.best:
        metrics = {k: v for k, v in (results.get("last") or {}).items() if k.startswith("val_") and k[-3:] != "_se"}
        facts["best trial"] = f"{arm.best.trial_id}, {arm.best.phase}, seed {results.get('seed')}, {arm.best.state}"
        facts["its settings"] = settings_text(arm.best.settings)
        facts["its validation"] = ", ".join(f"{key} {value_text(value)}" for key, value in metrics.items())
        facts["its time"] = f"{count_text(results.get('steps'))} steps in {seconds_text(results.get('seconds'))} s"
    if values := sel.confirm_values(arm, sel.metric):
        facts["by seed"] = ", ".join(f"{seed}: {value_text(value)}" for seed, value in sorted(values.items()))
        facts["mean over seeds"] = Column("", "", "interval").show(mean_over_seeds(list(values.values())))
    return facts


def _commands(sel: Selection, arm: ArmSummary) -> str | None:
    """To train the best trial again, alone, and to load its model."""
    if arm.best is None:
        return None
    trial = sel.data.folder.trial(arm.arm, arm.best.trial_id)
    code = [f"import json, attnlab; attnlab.run_experiment(json.load(open({str(trial.config_file)!r}))['trial'])"]
    modules = trust.modules_in([sel.plan.arm(arm.arm).declared, arm.best.settings])
    if arm.best.state == "completed":
        trusting = ", trust_remote_code=True" if modules else ""
        load = f"AutoModelForCausalLM.from_pretrained({str(trial.final)!r}{trusting})"
        code.append(f"import attnlab; from transformers import AutoModelForCausalLM; {load}")
    caution = [f"# these import {listed(modules)}, as the folder says: is it yours?"] if modules else []
    return "\n".join([*caution, *(shlex.join(["python", "-c", line]) for line in code)])
