"""Settings by their factors, and what arms say of them."""

import inspect

import pytest

from attnlab.config.trial import TaskConfig
from attnlab.plan.guards import factors
from attnlab.plan.guards.factors import differing, factor_of, flat_settings, problems, task_settings


@pytest.mark.parametrize(
    ("setting", "task", "factor"),
    [
        ("model.mixer", "mqar", "mixer"),
        ("model.mixer.expand_k", "mqar", "mixer"),
        ("model.mlp", "mqar", "mlp"),
        ("model.mlp_ratio", "mqar", "size"),  # begins alike, and is another setting
        ("model.d_model", "mqar", "size"),
        ("task.vocab_size", "mqar", "task"),
        ("task.vocab_size", "text", "tokenizer"),
        ("task.dataset", "text", "data"),
        ("task.name", "text", "task"),
        ("task.n_train", "mqar", "data"),
        ("optim.lr", "text", "lr"),
        ("optim.warmup", "text", "schedule"),
        ("optim.beta1", "text", "optimizer"),
        ("train.max_steps", "text", "steps"),
        ("train.step", "text", None),
    ],
)
def test_every_setting_has_one_factor(setting, task, factor):
    assert factor_of(setting, task) == factor


def test_mistakes_in_differs_name_the_arm_and_what_is_near():
    arms = {
        "a": {"differs": ["params", "lr"]},
        "b": {"differs": "params"},
        "c": {"differs": ["parms", "lr", 3]},
        "d": None,
        "e": {},
    }
    lines = list(problems(arms))
    assert [line.partition(":")[0] for line in lines] == ["arms.b.differs", "arms.c.differs", "arms.c.differs"]
    assert "a list of factors" in lines[0] and "params" in lines[1] and "3" in lines[2]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ({"x": 1, "y": 2}, {"x": 1, "y": 3}, ["y"]),
        ({"x": 1}, {"y": None}, ["x", "y"]),
        ({"model.mixer": "gla", "model.mixer.mode": 1, "x": 1}, {"model.mixer": "hgrn", "model.mixer.size": 2, "x": 2},
         ["model.mixer", "x"]),
        ({"model.mixer": "gla", "model.mixer.mode": 1}, {"model.mixer": "gla", "model.mixer.mode": 2},
         ["model.mixer.mode"]),
        ({"task.name": "a", "task.seq_len": 1, "task.k": 1, "x": 1}, {"task.name": "b", "task.seq_len": 2, "x": 2},
         ["task.name", "task.seq_len", "x"]),
        ({"task.name": "a", "task.k": 1}, {"task.name": "a", "task.k": 2}, ["task.k"]),
    ],
)  # fmt: skip
def test_what_differs_is_listed_once(a, b, wanted):
    assert differing(a, b) == wanted


def test_settings_are_flat_with_their_defaults(sweep_of):
    space = {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 2}
    sweep = sweep_of({"one": {"model.mixer": {"name": "gla", "expand_k": 0.5}}, "two": {"model.mixer": ["gla", "hgrn"]},
                      "bare": {"model.mlp": "none"}}, search=space)  # fmt: skip
    one, two, bare = (flat_settings(sweep.arm(name)) for name in ("one", "two", "bare"))
    assert (one["model.mixer"], one["model.mixer.expand_k"], one["model.d_ff"]) == ("gla", 0.5, 64)
    assert two["model.mixer"] == ["gla", "hgrn"] and not [key for key in two if key.startswith("model.mixer.")]
    assert bare["model.d_ff"] is None and one["task.name"] == "mqar" and "name" not in one
    assert one["optim.lr"] == str(sweep.arm("one").space["optim.lr"])
    assert flat_settings(sweep.arm("one"), searched=False)["optim.lr"] == sweep.arm("one").trial.optim.lr
    assert one["model.d_model"] == 32 and one["train.max_steps"] == 40 and one["task.n_pairs"] == 4
    corner = factors.corner_trial(sweep.arm("one"))
    assert (corner.optim.lr, factors.corner_trial(sweep.arm("one"), last=True).optim.lr) == (1e-3, 1e-1)


def test_a_tasks_settings_have_its_defaults():
    bare, given = task_settings(TaskConfig(name="parity")), task_settings(TaskConfig(name="parity", seq_len=7))
    assert given["seq_len"] == 7 and set(bare) == set(given) and "n_eval" in bare and bare["seq_len"] != 7
    assert inspect.Parameter.empty not in bare.values()
