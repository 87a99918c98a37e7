"""The on-disk contract as schemas: `check_folder` holds a whole results folder against it."""

import json

import jsonschema
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from attnlab.plan.load import load
from attnlab.plan.preregistration import registered
from attnlab.records.metrics import learning_curve
from attnlab.records.paths import SweepDir
from attnlab.records.results import STATES

NUMBER = {"type": ["number", "null"]}
ROW = {
    "type": "object",
    "required": ["step", "tokens", "train_loss", "val_loss", "lr", "tokens_per_s", "seconds", "peak_mem_gib"],
    "properties": {"step": {"type": "integer", "minimum": 1}, "tokens": {"type": "integer", "minimum": 1}},
    "additionalProperties": NUMBER,
}
ROW_OR_NONE = {"anyOf": [{"type": "null"}, ROW]}
RESULTS = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        *("trial_id", "arm", "state", "phase", "settings", "seed", "steps", "tokens", "best", "last", "seconds"),
        *("recipe", "device_seconds", "n_params", "n_params_non_embedding", "flops_per_token", "state_bytes"),
        *("checkpoint", "error", "environment", "reports"),
    ],
    "properties": {
        "trial_id": {"type": "string", "pattern": r"^t[0-9]{3,}-[0-9a-f]{10}$"},
        "arm": {"type": "string"},
        "state": {"enum": list(STATES)},
        "phase": {"enum": ["search", "confirm"]},
        "settings": {"type": "object"},
        "seed": {"type": "integer"},
        "recipe": {"type": "integer", "minimum": 1},
        "steps": {"type": "integer", "minimum": 0},
        "tokens": {"type": "integer", "minimum": 0},
        "best": ROW_OR_NONE,
        "last": ROW_OR_NONE,
        "reports": {"type": "string", "pattern": "^[0-9a-f]{20}$"},
        "seconds": {"type": "number", "minimum": 0},
        "device_seconds": {"type": "number", "minimum": 0},
        "n_params": {"type": ["integer", "null"]},
        "n_params_non_embedding": {"type": ["integer", "null"]},
        "flops_per_token": {"type": ["number", "null"]},
        "state_bytes": {"type": ["integer", "null"]},
        "checkpoint": {"type": ["string", "null"]},
        "error": {"type": ["string", "null"]},
        "environment": {"type": "object"},
    },
}
JOB = {
    "type": "object",
    "required": ["arm", "trial_id", "number", "phase", "settings", "metric", "mode", "trial"],
    "properties": {"trial": {"type": "object", "required": ["recipe", "model", "task", "optim", "train"]}},
}
ARM_ROW = {
    "type": "object",
    "required": [
        "counts",
        "best",
        "confirm",
        "steps",
        "tokens",
        "seconds",
        "device_seconds",
        "n_params",
        "rank",
        "interval",
    ],
    "properties": {"counts": {"type": "object", "required": list(STATES)}},
}
LEADERBOARD = {
    "type": "object",
    "required": ["sweep", "metric", "mode", "baselines", "ranked_by", "ranking", "answer", "not_worse", "arms"],
    "properties": {"arms": {"type": "object", "additionalProperties": ARM_ROW}},
}
BOUND = {"type": ["number", "null"]}
VERDICT_PAIR = {
    "type": "object",
    "required": ["arms", "difference", "low", "high", "p", "verdict"],
    "additionalProperties": False,
    "properties": {
        "arms": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
        "difference": {"type": "number"},
        **dict.fromkeys(("low", "high", "p"), BOUND),
        "verdict": {"enum": ["better", "equivalent", "undecided"]},
    },
}
VERDICT_ARM = {
    "type": "object",
    "required": ["arm", "n", "mean", "low", "high", "rank", "bracketed"],
    "additionalProperties": False,
    "properties": {
        "arm": {"type": "string"},
        "n": {"type": "integer", "minimum": 0},
        **dict.fromkeys(("mean", "low", "high"), BOUND),
        "rank": {"type": ["integer", "null"], "minimum": 1},
        "bracketed": {"type": ["boolean", "null"]},
    },
}
VERDICTS = {
    "type": "object",
    "required": ["metric", "mode", "test", "alpha", "sesoi", "arms", "pairs", "baseline", "against_baseline"],
    "properties": {
        "metric": {"type": "string"},
        "test": {"type": "string"},
        "alpha": {"type": "number"},
        "sesoi": BOUND,
        "arms": {"type": "array", "items": VERDICT_ARM},
        **dict.fromkeys(("pairs", "against_baseline"), {"type": "array", "items": VERDICT_PAIR}),
    },
}


def check_folder(path):
    """Assert that `path` is a finished sweep's folder; returns its results."""
    folder = SweepDir(path)
    sweep = load(folder.sweep_file)
    board = _json(folder.leaderboard_file, LEADERBOARD)
    verdicts = _json(folder.verdicts_file, VERDICTS)
    assert {arm["arm"]: arm["rank"] for arm in verdicts["arms"]} == {a: row["rank"] for a, row in board["arms"].items()}
    suite = json.loads(folder.suite_file.read_text())
    assert folder.journal_file.exists()
    assert registered(folder) is not None
    assert not [p for p in path.rglob("*.pkl") if p.relative_to(path).parts[0] != "ray"]
    assert not list(path.glob("*/*/checkpoints/.*")), "a temporary folder was left"
    assert sorted(r["trial_id"] + r["arm"] for r in suite) == sorted(t.trial_id + t.arm for t in folder.trials())
    for trial in folder.trials():
        _check_trial(trial, next(r for r in suite if (r["arm"], r["trial_id"]) == (trial.arm, trial.trial_id)))
    for arm in sweep.names:
        states = [r["state"] for r in suite if r["arm"] == arm]
        assert board["arms"][arm]["counts"] == {s: states.count(s) for s in STATES}
        assert len(states) == sweep.trials_per_arm
    return suite


def _check_trial(trial, said):
    results, job = _json(trial.results_file, RESULTS), _json(trial.config_file, JOB)
    assert results == said
    assert (job["arm"], job["trial_id"]) == (trial.arm, trial.trial_id) == (results["arm"], results["trial_id"])
    assert trial.trial_id.endswith(trial.job().trial.digest)
    rows = [json.loads(line) for line in trial.metrics_file.read_text().splitlines()]
    for row in rows:
        jsonschema.validate(row, ROW)
    curve = learning_curve(rows)
    assert [r["step"] for r in curve] == sorted({r["step"] for r in curve})
    assert {r["step"]: r["branch_steps"] for r in rows if r not in curve}.items() <= trial.job().branches.items()
    if results["state"] != "failed":
        assert curve[-1] == results["last"]
        assert results["steps"] == curve[-1]["step"] + sum(r.get("branch_steps", 0) for r in rows)
        events = EventAccumulator(str(trial.path)).Reload()
        assert "val_loss" in events.Tags()["scalars"]
        assert any("_hparams_" in key for key in events.summary_metadata)
    if results["checkpoint"]:
        assert (trial.path / results["checkpoint"] / "model.safetensors").exists()
    if results["state"] == "completed":
        assert (trial.final / "config.json").exists() and (trial.final / "model.safetensors").exists()


def _json(path, schema):
    value = json.loads(path.read_text(), parse_constant=lambda name: 1 / 0)
    jsonschema.validate(value, schema)
    return value
