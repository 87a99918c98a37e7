"""The sweeps that come with attnlab: each sound, documented, fair, and the same question at a tiny scale."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from attnlab import cli, plan
from attnlab.config.sweep_file import dump
from attnlab.models import build_model
from attnlab.models.cost import measure
from attnlab.plan import resolve
from attnlab.plan.scale import tiny as tiny_of
from tests.contract import check_folder

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
MIXERS = ("standard", "gla", "retnet", "mamba", "based", "deltanet", "hgrn", "rwkv6", "gsa", "hgrn2", "mamba2",
          "gated_deltanet", "rwkv7", "kda")  # fmt: skip
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
ARMS = {
    "baseline": {"baseline_small", "baseline_medium", "baseline_large"},
    "attention": {f"attention_{mixer}" for mixer in MIXERS} | {"attention_gla_no_gating"},
    "architecture": {"arch_wide_gla", "arch_deep_gla", "arch_many_heads_gla", "arch_expansion_test"},
    "training": {"train_long_context", "train_high_lr", "train_low_dropout", "train_more_data"},
    "efficiency": {
        *(f"efficiency_{mixer}_{n}" for mixer in ("standard", "gla", "mamba2", "gated_deltanet") for n in LENGTHS),
        "efficiency_mamba_2048",
    },
}
REFERENCES = {"architecture": {"arch_base_gla", "arch_expansion_test_k", "arch_expansion_test_v"},
              "training": {"train_baseline"}}  # fmt: skip
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def load(name, **how):
    return plan.load(ROOT / "sweeps" / f"{name}.yaml", **{"solve": False, **how})


def leaves(trial):
    """Dotted key -> value of everything in a trial but the widths that matching solves."""
    tree = trial.model_dump(mode="json", exclude={"recipe"})
    flat = {f"{part}.{key}": repr(value) for part, below in tree.items() for key, value in below.items()}
    return {key: value for key, value in flat.items() if key != "model.d_ff"}


@each_file
def test_a_file_says_its_question_command_cost_and_result(path):
    lines = list(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    header = " ".join(" ".join(lines).replace("#", " ").split())
    plan = load(path.stem)
    assert plan.name == path.stem and plan.sweep.description and plan.sweep.hypothesis
    assert "?" in lines[0]
    assert f"python launch.py sweeps/{path.name}" in header
    assert "Came out" in header
    assert "Cost:" in header or "minutes on 2 CPU cores" in header
    if "Cost:" in header and "not yet run" in header:
        assert "Estimated, not measured" in header


@pytest.mark.parametrize("name", ARMS)
def test_the_sets_have_their_arms(name):
    assert set(load(name).names) == ARMS[name] | REFERENCES.get(name, set())


@each_file
def test_runs_are_comparable_and_pruned_as_recommended(path):
    """docs/pruning.md: a grace of 20 to 50 % and factor 2."""
    plan = load(path.stem)
    trials = {arm: plan.arm(arm).trial for arm in plan.names}
    steps = {arm: trial.train.max_steps for arm, trial in trials.items()}
    assert all(trial.optim.schedule != "constant" for trial in trials.values())
    if plan.sweep.search:
        grace = plan.sweep.search.asha.grace_steps
        assert (
            all(0.2 <= grace / last <= 0.5 for last in steps.values()) and plan.sweep.search.asha.reduction_factor == 2
        )
    tokens = {arm: trial.tokens_per_step * steps[arm] for arm, trial in trials.items()}
    declared = {"baseline_small", "train_more_data"}
    assert len({tokens[arm] for arm in tokens if arm not in declared}) == 1
    assert len({trial.tokens_per_step for trial in trials.values()}) == 1
    for arm in declared & set(tokens):
        assert set(plan.sweep.arms[arm]["train"]) == {"max_steps"}


def test_each_training_arm_differs_in_one_factor():
    plan = load("training")
    base = leaves(plan.arm("train_baseline").trial)
    differs = {
        arm: {key for key, value in leaves(plan.arm(arm).trial).items() if value != base[key]} for arm in plan.names
    }
    assert differs == {
        "train_baseline": set(),
        "train_long_context": {"task.seq_len", "train.batch_size"},  # so that tokens per step stay
        "train_high_lr": {"optim.lr"},
        "train_low_dropout": {"model.dropout"},
        "train_more_data": {"train.max_steps"},
    }


def test_baselines_have_their_sizes():
    plan = load("baseline")
    trials = [plan.arm(f"baseline_{size}").trial for size in ("small", "medium", "large")]
    found = [(t.model.d_model, t.model.n_layers, t.model.n_heads, t.model.d_ff, t.train.max_steps) for t in trials]
    assert found == [(256, 4, 4, 1024, 2000), (384, 6, 8, 1536, 5000), (512, 8, 8, 2048, 5000)]


@pytest.mark.parametrize("scale", [None, "tiny"])
def test_gla_without_gating_is_another_model(scale):
    plan = load("attention", scale=scale)
    models = {}
    for arm in ("attention_gla", "attention_gla_no_gating"):
        torch.manual_seed(0)
        models[arm] = build_model(plan.arm(arm).trial.model, 64).eval()
    gated, open_ = models.values()
    missing = gated.load_state_dict(open_.state_dict(), strict=False)  # the same weights wherever both have them
    assert missing.missing_keys and all(".gk_proj." in key for key in missing.missing_keys)
    assert not missing.unexpected_keys
    tokens = torch.arange(24)[None] % 64
    with torch.no_grad():
        a, b = (model(tokens).logits for model in models.values())
    assert (a - b).norm() > 0.01 * a.norm(), "the gate changes nothing"


@each_file
def test_the_tiny_version_asks_the_same_question(path):
    real, small = load(path.stem), load(path.stem, scale="tiny")
    assert small.name == f"{real.name}-tiny" and list(small.names) == list(real.names)
    assert small.total_tokens < 1_000_000
    assert (small.sweep.search is None, small.sweep.confirm is None) == (
        real.sweep.search is None,
        real.sweep.confirm is None,
    )
    for a, b in itertools.combinations(real.names, 2):
        of = [(leaves(plan.arm(a).trial), leaves(plan.arm(b).trial)) for plan in (real, small)]
        differs = [{key for key in x if x[key] != y[key]} for x, y in of]
        assert differs[0] == differs[1], (a, b)
    for arm in real.names:
        assert small.arm(arm).trial.model.mixer == real.arm(arm).trial.model.mixer
        assert small.arm(arm).trial.optim == real.arm(arm).trial.optim


@pytest.mark.parametrize("path", [p for p in FILES if "match: params" in p.read_text()], ids=lambda p: p.stem)
def test_matched_sets_can_be_matched_when_tiny(path):
    matched(load(path.stem, scale="tiny", solve=True))


@pytest.mark.slow
@each_file
def test_every_set_is_matched_and_reads_back(path):
    plan = load(path.stem, solve=True)
    if plan.sweep.match != "none":
        matched(plan)
    assert resolve(yaml.safe_load(dump(plan.sweep))) == plan


@pytest.mark.slow
def test_the_dry_run_of_all_sets_passes(cache, capsys):
    assert cli.main([*map(str, FILES), "--dry-run"]) == 0
    said = capsys.readouterr().out
    for path in FILES:
        assert f"\n{path.stem}: " in f"\n{said}"
        assert all(f"\n{arm}: " in said for arm in load(path.stem).names)


def matched(plan):
    sizes = {arm: measure("params", plan.arm(arm).trial.model, 1) for arm in plan.names}
    first = next(iter(sizes.values()))
    assert all(abs(size - first) <= 0.01 * first for size in sizes.values()), sizes


def test_tiny_is_made_from_what_was_checked():
    plan = load("attention", scale="tiny")
    assert resolve(tiny_of(load("attention")), solve=False) == plan


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_sets_run_at_tiny_scale_one_after_the_other(tmp_path, cache):
    command = [sys.executable, "launch.py", *map(str, FILES), "--scale", "tiny", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = done.stdout.splitlines()[-len(FILES) :]
    for path, line in zip(FILES, summary, strict=True):
        assert line.startswith(f"{path.stem}-tiny ") and "best" in line, summary
        folder = tmp_path / f"{path.stem}-tiny"
        assert all(result["state"] in ("completed", "pruned") for result in check_folder(folder))
        assert (folder / "analysis" / "report.html").exists()
