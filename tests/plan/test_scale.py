"""`--scale tiny` keeps a sweep's question: what differed differs, in the same order, and nothing else changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config.sweep_file import normal
from attnlab.plan import scale
from attnlab.plan.load import resolve
from attnlab.sweep.folder import changes as changes_of
from attnlab.util.errors import UserError


def tree(**changes):
    return normal(
        {
            "name": "big",
            "trial": {
                "model": {"d_model": 512, "n_layers": 12, "n_heads": 8},
                "task": {"name": "text", "seq_len": 1024},
                "train": {"max_steps": 4000, "batch_size": 64, "eval_every": 200, "save_every": 1000},
            },
            "arms": {"gla": {"model.mixer": "gla"}},
            **changes,
        }
    )


def small(**changes):
    return resolve(tree(**changes), scale="tiny", solve=False)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True).map(sorted), st.floats(1e-6, 1.0),
       st.integers(1, 32))  # fmt: skip
def test_values_stay_distinct_in_order_and_in_units(values, factor, unit):
    found = list(scale.proportional(values, factor, unit).values())
    assert found == sorted(set(found)) and len(found) == len(values)
    assert all(value > 0 and value % unit == 0 for value in found)


def test_arms_keep_their_order_where_they_differ():
    arms = {f"x{i}": {"model.n_layers": n, "train.max_steps": s, "task.seq_len": t}
            for i, (n, s, t) in enumerate([(6, 4000, 512), (7, 4200, 1024), (8, 8000, 4096)])}  # fmt: skip
    trials = [small(arms=arms).arm(arm).trial for arm in arms]
    for of in (lambda t: t.model.n_layers, lambda t: t.train.max_steps, lambda t: t.task.seq_len):
        assert sorted({of(t) for t in trials}) == [of(t) for t in trials]
    assert trials[2].task.seq_len == 8 * trials[0].task.seq_len


def test_what_a_file_leaves_to_the_defaults_is_small_too():
    trial = small(trial={"task": {"name": "text"}}).arm("gla").trial
    assert trial.train.max_steps <= scale.STEPS and trial.task.seq_len <= scale.LENGTH
    assert trial.task.args["eval_tokens"] == scale.EVAL_TOKENS


def test_tokens_per_step_stay_alike_and_workers_get_equal_parts():
    arms = {"short": {}, "long": {"task.seq_len": 4096, "train.batch_size": 16}}
    trial = tree()["trial"]
    trial["train"]["grad_accum"] = 2
    plan = small(trial=trial, arms=arms, resources={"workers": 4, "cpus_per_worker": 8})
    assert len({plan.arm(arm).trial.tokens_per_step for arm in arms}) == 1
    assert all(plan.arm(arm).trial.train.batch_size % 4 == 0 for arm in arms)
    assert (plan.sweep.resources.workers, plan.sweep.resources.cpus_per_worker) == (2, 1)


def test_search_rungs_and_sizes_in_the_space():
    search = {
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "model.d_model": {"choice": [256, 512, 1024]}},
        "trials": 20,
        "asha": {"grace_steps": 1000, "reduction_factor": 2},
    }
    plan = small(search=search, confirm={"seeds": [5, 6, 7, 8]})
    last, grace = plan.arm("gla").trial.train.max_steps, plan.sweep.search.asha.grace_steps
    assert grace / last == pytest.approx(1000 / 4000, abs=0.1)
    assert plan.sweep.search.space["optim.lr"] == {"loguniform": [1e-4, 1e-1]}
    assert plan.sweep.search.space["model.d_model"]["choice"] == [16, 32, 64]
    assert (plan.sweep.search.trials, plan.sweep.confirm.seeds) == (2, (5, 6))


def test_a_grid_is_cut_to_its_first_values():
    search = {"space": {"optim.lr": {"choice": [1e-3, 1e-2, 1e-1]}}, "sampler": "grid", "trials": 3}
    assert small(search=search).sweep.search.space["optim.lr"] == {"choice": [1e-3, 1e-2]}


@pytest.mark.parametrize("amount", [{"tokens": 1e9}, {"flops": 1e17}])
def test_a_budget_becomes_a_few_steps(amount):
    raw = tree(budget=amount, arms={"gla": {"model.mixer": "gla"}, "standard": {}})
    del raw["trial"]["train"]["max_steps"]
    plan = resolve(raw, scale="tiny")
    assert 0.5 * scale.STEPS <= plan.arm("gla").trial.train.max_steps <= scale.STEPS
    assert all(plan.arm(arm).trial.train.eval_every == 1 for arm in plan.names)


def test_seconds_are_few():
    assert small(budget={"seconds": 3600}).sweep.budget.seconds <= scale.SECONDS


def test_windows_shrink_with_the_length_and_patterns_keep_their_layers():
    pattern = ["gla", "gla", "gla", {"name": "standard", "window": 256}]
    model = small(arms={"hybrid": {"model.mixer": pattern}, "gla": {}}).arm("hybrid").trial.model
    assert model.n_layers == 4 and model.mixer[3].args == {"window": 16}


def test_a_generated_task_keeps_its_length():
    task = {"name": "mqar", "seq_len": 256, "n_pairs": 32, "n_train": 100000}
    found = small(trial={"task": task}).arm("gla").trial.task
    assert found.args == {"seq_len": 256, "n_pairs": 32, "n_train": scale.TRAIN_ROWS, "n_eval": scale.EVAL_ROWS}


def test_a_mistake_is_told_at_the_size_at_which_it_was_made():
    with pytest.raises(UserError, match="1500"):
        small(search={"space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}}, "asha": {"grace_steps": 1500}})
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        resolve(tree(), scale="tny")


def test_grouped_heads_stay_whole_and_null_stays_null():
    trial = tree()["trial"] | {"optim": {"clip": None}}
    arms = {"grouped": {"model.mixer": {"name": "standard", "num_kv_heads": 4}}, "gla": {"model.mixer": "gla"}}
    plan = small(trial=trial, arms=arms)
    assert plan.arm("grouped").trial.model.n_heads == 4 and plan.arm("gla").trial.optim.clip is None


def test_what_a_file_says_under_tiny_stands_in_place_of_the_scales_own():
    given = {"trial.train.max_steps": 50, "arms.gla.model.d_model": 32, "confirm.seeds": [7]}
    changes = {"tiny": given, "arms": {"gla": {"model.mixer": "gla"}, "standard": {}}, "confirm": {"seeds": [1, 2, 3]}}
    plan, shrunk = small(**changes), small(**changes | {"tiny": {}})
    assert [arm.trial.train.max_steps for arm in plan.arms] == [50, 50]
    assert [arm.trial.model.d_model for arm in plan.arms] == [32, scale.WIDTH] and plan.seeds == (7,)
    assert plan.arm("standard").with_settings({"train.max_steps": scale.STEPS}) == shrunk.arm("standard").trial
    assert plan.sweep.tiny is None, "what is small already is not made small again"
    full, plain = resolve(tree(**changes)), resolve(tree(**changes | {"tiny": {}}))
    assert full.arms == plain.arms and full.seeds == plain.seeds, "without --scale it has no effect"
    assert changes_of(plain, full) == [], "nor does it keep a folder from being resumed"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"trial.train.max_step": 5}, "tiny.trial.train.max_step: unknown key; did you mean 'max_steps'?"),
        ({"train.max_steps": 5}, "tiny.train.max_steps: unknown key; did you mean 'trial.train.max_steps'?"),
        ({"name": "real"}, "tiny.name: a tiny sweep is called NAME-tiny"),
        ({"arms.glaa.optim.lr": 5}, "tiny.arms.glaa.optim.lr: no such arm; did you mean 'gla'?"),
        ({"trial": {"train": {"max_steps": 5}}}, "tiny.trial: its keys are dotted, as in tiny: {trial.train.max_steps"),
    ],
)
def test_mistakes_under_tiny_name_their_key(given, problem):
    with pytest.raises(UserError) as error:
        small(tiny=given)
    assert problem in str(error.value)
