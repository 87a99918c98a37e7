"""A mistake of the shared trial is told once, as the trial's; an arm's own is the arm's."""

import pytest

from attnlab.plan.load import resolve
from attnlab.plan.memory import Room, check
from attnlab.plan.prepare import check_device
from attnlab.util.errors import UserError

TRIAL = {
    "model": {"d_model": 32, "n_layers": 1, "n_heads": 2},
    "task": {"name": "parity", "seq_len": 16},
    "train": {"max_steps": 40, "eval_every": 10},
}
ARMS = {"a": {}, "b": {"optim": {"lr": 0.1}}, "c": {"model": {"mixer": "gla"}}}
SEARCH = {"space": {"optim.weight_decay": {"uniform": [0, 1]}}, "trials": 2}


def problems(arms=ARMS, trial=None, **rest):
    shared = {**TRIAL, **{key: {**TRIAL.get(key, {}), **tree} for key, tree in (trial or {}).items()}}
    with pytest.raises(UserError) as error:
        resolve({"name": "s", "trial": shared, "arms": arms, **rest})
    return error.value.problems


@pytest.mark.parametrize(
    ("trial", "rest", "said"),
    [
        ({"train": {"eval_every": 100}}, {}, "trial.train.eval_every: 100 is beyond max_steps 40"),
        ({"optim": {"warmup": 40}}, {}, "trial.optim.warmup: 40 is as long as the run of 40 steps"),
        ({"train": {"batch_size": 3}}, {"resources": {"workers": 2}}, "trial.train.batch_size: 3 sequences cannot"),
        ({"optim": {"lr": True}}, {}, "trial.optim.lr: a number, not True"),
        ({"task": {"n_eval": -1}}, {}, "trial.task parity: n_eval: at least 1"),
        ({"model": {"n_heads": 3}}, {}, "trial.model.mixer standard: d_model 32 is not divisible"),
        (
            {},
            {"search": {**SEARCH, "asha": {"grace_steps": 15}}},
            "search.asha.grace_steps: 15 is no multiple of every",
        ),
        (
            {},
            {"search": {**SEARCH, "metric": "val_bpb", "mode": "min"}},
            "search.metric: every arm, task parity, has no metric",
        ),
        ({}, {"budget": {"tokens": 10}}, "budget: tokens: 10 are 0 steps"),
        (
            {"train": {"max_steps": 7, "eval_every": 7}},
            {"budget": {"tokens": 1e6}},
            "trial.train.max_steps: 7, but bud",
        ),
    ],
    ids=lambda value: value[:28] if isinstance(value, str) else "",
)
def test_what_all_arms_have_from_the_shared_trial_is_told_once(trial, rest, said):
    found = problems(
        trial=trial, arms={"a": {}, "b": {"optim": {"beta1": 0.8}}, "c": {"optim": {"beta1": 0.7}}}, **rest
    )
    assert len(found) == 1 and found[0].startswith(said), found


def test_an_arms_own_mistake_is_the_arms():
    own = {"train": {"eval_every": 100}}
    assert problems({"a": {}, "b": own}) == ["arms.b.train.eval_every: 100 is beyond max_steps 40"]
    both = problems({"a": own, "b": own})
    assert both == [f"arms.{arm}.train.eval_every: 100 is beyond max_steps 40" for arm in "ab"]
    (line,) = problems({"a": {"model": {"mixer": "glaa"}}, "b": {}})
    assert line.startswith("arms.a.model.mixer glaa: ")
    (line,) = problems({"a": {}, "b": {"train": {"eval_every": 20}}}, search={**SEARCH, "asha": {"grace_steps": 10}})
    assert line == "search.asha.grace_steps: 10 is no multiple of arm b's eval_every 20"


def test_what_the_machine_refuses_is_told_once_too():
    plan = resolve({"name": "s", "trial": {**TRIAL, "train": {"step": "captured"}}, "arms": ARMS}, solve=False)
    with pytest.raises(UserError) as error:
        check_device(plan, "cpu")
    assert error.value.problems == ["trial.train.step: captured needs CUDA, and this trial runs on cpu; use auto"]
    with pytest.raises(UserError) as error:
        check(plan, Room(host=1.0))
    assert len(error.value.problems) == 1 and error.value.problems[0].startswith("trial: takes at least ")
