"""A sweep file and a results folder of an earlier version: read, ranked and analysed as if made today.

`fixtures/before/README.md` says what they hold and how they were made. `sweep/test_resume_of_before.py` resumes them.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from analysis.command_line import main as analyse
from attnlab.config.trial import Trial
from attnlab.plan.extension import leaderboard
from attnlab.plan.load import load
from attnlab.records.paths import SweepDir

ROOT = Path(__file__).parents[1]
BEFORE = ROOT / "tests" / "fixtures" / "before"
FOLDER = BEFORE / "results" / "before"
TIMED = ("seconds", "device_seconds", "tokens_per_s", "peak_mem_gib")
CONFIGS = [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*/*/experiment_config.json"))]
UNFINISHED = next(FOLDER.glob("*/*/checkpoints/step_*")).parents[1]


def read(path):
    return json.loads(path.read_text())


def assert_holds(found, recorded, where="leaderboard"):
    """Every recorded key is there with its value, numbers within 1e-4 of it. What the clock says is passed over, and
    keys may have come."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            if key not in TIMED:
                assert key in found, f"{where}.{key} is gone"
                assert_holds(found[key], value, f"{where}.{key}")
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), where
        for i, value in enumerate(recorded):
            assert_holds(found[i], value, f"{where}[{i}]")
    else:
        near = pytest.approx(recorded, rel=1e-4, abs=1e-5) if isinstance(recorded, float) else recorded
        assert found == near, where


@pytest.fixture(autouse=True)
def beside_the_mixer(monkeypatch):
    """The working directory is that of the sweep file and its own mixer, as a user's is."""
    monkeypatch.chdir(BEFORE)
    monkeypatch.syspath_prepend(BEFORE)


def test_it_holds_a_trial_of_every_kind():
    results = [read(file) for file in FOLDER.glob("*/*/results.json")]
    assert {r["state"] for r in results} == {"completed", "pruned", "diverged"}
    assert {r["phase"] for r in results} == {"search", "confirm", "noise"}
    assert len(results) == len(CONFIGS) - 1 and not (UNFINISHED / "results.json").exists()
    assert {c["arm"] for c in CONFIGS} == {"gla", "hybrid", "own", "wild"}
    assert any("branch_steps" in file.read_text() for file in FOLDER.glob("*/*/metrics.jsonl"))


def test_every_trial_keeps_its_digest():
    for config in CONFIGS:
        assert config["trial_id"] == f"t{config['number']:03d}-{Trial.model_validate(config['trial']).digest}"


@pytest.mark.parametrize("path", [BEFORE / "before.yaml", FOLDER / "sweep.yaml"], ids=["source", "resolved"])
def test_the_sweep_file_still_describes_the_same_trials(path):
    plan = load(path)
    for config in CONFIGS:
        trial = plan.arm(config["arm"]).with_settings(config["settings"], config["trial"]["train"]["seed"])
        assert trial.digest == config["trial_id"].partition("-")[2], config["trial_id"]


def test_the_leaderboard_is_the_one_recorded():
    recorded = read(FOLDER / "leaderboard.json")
    found = leaderboard(
        load(FOLDER / "sweep.yaml"), SweepDir(FOLDER).results(), recorded["baselines"], recorded["guards"]
    )
    assert_holds(found, recorded)


def test_a_final_checkpoint_loads_and_computes_the_same():
    from transformers import AutoModelForCausalLM

    recorded = read(BEFORE / "logits.json")
    model = AutoModelForCausalLM.from_pretrained(FOLDER / recorded["checkpoint"]).eval()
    with torch.no_grad():
        logits = model(torch.tensor([recorded["ids"]])).logits[0, -1, slice(*recorded["columns"])]
    torch.testing.assert_close(logits, torch.tensor(recorded["logits"]), rtol=1e-4, atol=1e-4)


def test_it_is_analysed(tmp_path, capsys):
    folder = shutil.copytree(FOLDER, tmp_path / "before")
    assert analyse([str(folder), "--benchmarks", "none"]) == 0
    out = capsys.readouterr().out
    assert all(arm in out for arm in ("gla", "hybrid", "own", "wild"))
    assert "hybrid" in (folder / "analysis" / "report.html").read_text()
