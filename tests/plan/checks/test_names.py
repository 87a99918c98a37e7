"""A name that cannot be a folder of its own is refused in one line, and any other works."""

import pytest

from attnlab import cli
from attnlab.plan.load import load, read, resolve
from attnlab.records.paths import SweepDir
from attnlab.util.errors import UserError

MODEL = {"model": {"d_model": 32, "n_layers": 1, "n_heads": 2}}


def problems(*arms, name="s"):
    try:
        resolve({"name": name, "trial": MODEL, "arms": {arm: {"optim": {"lr": 1e-3}} for arm in arms}})
    except UserError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    "arm",
    ["", " ", ".", "..", ".hidden", "lr/low", "a\\b", "/etc", "a\nb", "a\x00b", "a\u2028b", "x" * 101, "é" * 51, " a",
     "analysis", "Analysis", "RAY", "ray", "leaderboard.json", "optuna.journal", "sweep.yaml", "Sweep.YAML",
     "experiment_suite_results.json", "x[/gla]"],
)  # fmt: skip
def test_a_name_that_is_no_folder_of_its_own_is_refused(arm):
    (line,) = problems(arm)
    assert line.startswith("arms.") and line.isprintable() and len(line) < 300, line


def test_whatever_lies_in_a_sweeps_folder_is_refused():
    for name in SweepDir.names():
        assert problems(name) and problems(name.upper()), name


@pytest.mark.parametrize(("one", "other"), [("gla", "GLA"), ("\xe9", "e\u0301"), ("Straße", "STRASSE")])
def test_two_arms_that_one_folder_would_hold_are_refused(one, other):
    (line,) = problems(one, other)
    assert "would share a folder" in line


@pytest.mark.parametrize(
    "arm",
    [
        "1e-3",
        "hybrid[gla]",
        "x[bold]",
        "*",
        "?",
        "a b",
        "<b>&",
        "$x$",
        "v1.5",
        "_a",
        "é",
        "\N{GRINNING FACE}",
        "x" * 100,
    ],
)
def test_any_other_name_is_taken(arm):
    assert problems(arm) == []


def test_a_long_name_of_the_sweep_is_refused():
    (line,) = problems("a", name="s" * 200)
    assert line.startswith("name: ") and "200 bytes; at most 100" in line


def test_a_folder_with_a_name_that_is_refused_now_is_still_read(tmp_path):
    (tmp_path / "sweep.yaml").write_text("name: s\narms: {analysis: {}, 2024e10: {}}\n", encoding="utf-8")
    assert read(tmp_path / "sweep.yaml").names == ("analysis", "2024e10")


def test_an_arms_trials_are_those_of_its_own_folder(tmp_path):
    folder = SweepDir(tmp_path)
    for arm in ("hybrid[gla]", "hybridg", "*", "a"):
        config = folder.trial(arm, "t000-x").config_file
        config.parent.mkdir(parents=True)
        config.write_text("{}", encoding="utf-8")
    for arm in ("hybrid[gla]", "hybridg", "*", "a"):
        assert [trial.arm for trial in folder.trials(arm)] == [arm]
    assert len(folder.trials()) == 4


def test_an_override_reaches_an_arm_with_a_dot_or_an_equals_sign_in_its_name(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("name: s\narms: {v1: {}, v1.5: {}, lr=0.1: {}}\n", encoding="utf-8")
    plan = load(file, ["arms.v1.5.optim.lr=0.5", "arms.v1.optim.lr=0.25", "arms.lr=0.1.optim.lr=0.1"])
    assert [arm.trial.optim.lr for arm in plan.arms] == [0.25, 0.5, 0.1]


def test_only_takes_an_arm_with_an_equals_sign(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("name: s\narms: {lr=0.1: {}, lr=0.2: {}}\n", encoding="utf-8")
    args = cli.arguments().parse_intermixed_args([str(file), "--only", "lr=0.1", "trial.train.seed=3"])
    (plan,) = cli.load_plans(args)
    assert plan.names == ("lr=0.1",) and plan.arms[0].trial.train.seed == 3
