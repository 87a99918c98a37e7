"""Numbers that nothing could compute with are refused, wherever they stand and however they are written."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config.resolved import Plan
from attnlab.config.sweep import Sweep
from attnlab.config.trial import Trial
from attnlab.plan.load import resolve
from attnlab.util.errors import UserError

TREE = {
    "name": "s",
    "trial": {"model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "mixer": {"name": "gla", "expand_k": 0.5}},
              "task": {"name": "text", "seq_len": 64, "max_tokens": 5000},
              "optim": {"lr": 0.01}, "train": {"max_steps": 200, "eval_every": 100, "seed": 0}},
    "arms": {"a": {}},
    "search": {"space": {"optim.lr": {"loguniform": [0.001, 0.1]}}, "trials": 3, "seed": 0,
               "asha": {"grace_steps": 100}},
    "confirm": {"seeds": [0, 1]},
    "noise": {"arm": "a", "seeds": 3},
    "resources": {"hang_s": 60.0, "max_failures": 2},
}  # fmt: skip
BAD = [math.inf, -math.inf, math.nan, 2**63, 10**400, 10**5000]


def paths(tree, path=()):
    if isinstance(tree, dict):
        return [p for key, value in tree.items() for p in paths(value, (*path, key))]
    return [(*path, i) for i in range(len(tree))] if isinstance(tree, list) else [path]


NUMBERS = [path for path in paths(TREE) if path[-1] not in ("name", "arm")]


def changed(path, value, tree=TREE):
    key, *rest = path
    out = list(tree) if isinstance(tree, list) else dict(tree)
    out[key] = changed(rest, value, tree[key]) if rest else value
    return out


def problems(tree):
    with pytest.raises(UserError) as error:
        resolve(tree)
    assert all(line.isprintable() and len(line) < 300 for line in error.value.problems)
    return error.value.problems


def test_the_tree_itself_is_sound():
    assert resolve(TREE).total_trials == 3 + 2 + 3


@pytest.mark.parametrize("value", BAD, ids=["inf", "-inf", "nan", "2^63", "401 digits", "5001 digits"])
@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: ".".join(map(str, path)))
def test_a_number_out_of_range_is_one_line_at_every_key(path, value):
    (line,) = problems(changed(path, value))
    key = ".".join(part for part in path if isinstance(part, str))
    assert line.startswith(f"{key}: ") and ("finite" in line or "whole number" in line)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "9" * 30])
@pytest.mark.parametrize("key", ["lr", "clip", "weight_decay"])
def test_a_text_that_stands_for_such_a_number_is_refused_too(key, text):
    if text != "9" * 30:  # as a float it is 1e30
        assert problems(changed(("trial", "optim"), {key: text}))
    assert problems(changed(("trial", "train", "max_steps"), text))


@settings(deadline=None, max_examples=60)
@given(st.floats() | st.integers(), st.sampled_from(["lr", "min_lr_ratio", "warmup"]))
def test_a_trial_holds_finite_numbers_only(value, key):
    try:
        trial = Trial(optim={key: value})
    except ValueError:
        return
    assert math.isfinite(getattr(trial.optim, key))


@pytest.mark.parametrize("section", ["model.mixer", "task"])
def test_arguments_of_mixers_and_tasks_are_as_finite(section):
    where, form = ("model", {"mixer": {"name": "gla", "expand_k": math.inf}}), {"task": {"x": [1, math.nan]}}
    with pytest.raises(ValueError, match="a finite number, not"):
        Trial.model_validate({where[0]: where[1]} if section == "model.mixer" else form)


@pytest.mark.parametrize("choices", [[1, 1.0], [1.0, 0.5, "1"]])
def test_choices_that_are_one_setting_are_refused(choices):
    tree = changed(("search", "space"), {"optim.lr": {"choice": choices}})
    (line,) = problems(tree)
    assert line.startswith("search.space.optim.lr: ") and "are the same setting" in line
    assert Plan.of(Sweep.model_validate(tree)), "a folder that has them is still read"


def test_a_seed_of_confirm_below_0_or_given_twice_is_refused():
    assert problems(changed(("confirm", "seeds"), [1, -1])) == ["confirm.seeds: at least 0, not -1"]
    assert problems(changed(("confirm", "seeds"), [1, 1]))[0].startswith("confirm.seeds: [1, 1] names a seed twice")


@pytest.mark.parametrize("seed", [0, 4_503_600_000, 20261128022700, 2**63 - 1])
def test_any_seed_of_63_bits_trains(tmp_path, cache, tiny, seed):
    from attnlab.api import run_experiment

    trial = {**tiny, "train": {**tiny["train"], "max_steps": 2, "eval_every": 2, "batch_size": 2, "seed": seed}}
    result = run_experiment(trial, tmp_path, device="cpu")
    assert result["state"] == "completed" and result["seed"] == seed
    assert torch.default_generator.initial_seed() < 2**64


def test_a_list_or_range_for_a_number_says_where_it_belongs():
    (line,) = problems(changed(("trial", "optim", "lr"), [1e-3, 1e-2]))
    assert line == (
        "trial.optim.lr: a number, not [0.001, 0.01]; to search it, write optim.lr: {loguniform: [low, high]} under "
        "search.space"
    )
    (line,) = problems(changed(("search", "space"), {"optim.lr": [1e-3, 1e-2]}))
    assert line.startswith(
        "search.space.optim.lr: [0.001, 0.01] is no range; write one of {uniform: [...]}, {loguniform"
    )
    assert line.endswith("such as {choice: [0.001, 0.01]}")
