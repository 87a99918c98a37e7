"""Matched widths and budgets: what a sweep asks for is what its arms become."""

import sys

import pytest

from attnlab.config import trial
from attnlab.config.merge import merge
from attnlab.config.sweep_file import dump, normal, parse
from attnlab.models.cost import measure
from attnlab.plan import Plan, match, resolve
from attnlab.records.paths import SweepDir
from attnlab.util.errors import UserError
from attnlab.util.files import write_text

TASK = {"name": "mqar", "seq_len": 32, "vocab_size": 32, "n_pairs": 4}


def sweep_of(arms=("standard", "gla", "mamba2", "rwkv7"), **tree):
    shared = {"model": {"d_model": 64, "n_layers": 2, "n_heads": 4, "d_ff": 256}, "task": TASK}
    named = arms if isinstance(arms, dict) else {arm: {"model": {"mixer": arm}} for arm in arms}
    resume_in = tree.pop("resume_in", None)
    tree = {"name": "x", "trial": shared | tree.pop("trial", {}), "arms": named} | tree
    return resolve(tree, resume_in=resume_in)


@pytest.mark.parametrize("kind", ["params", "flops"])
def test_every_arm_agrees_with_the_first_within_a_percent(kind):
    sweep = sweep_of(match=kind)
    found = {arm: measure(kind, sweep.arm(arm).trial.model, 32) for arm in sweep.names}
    first, *others = found.values()
    assert sweep.arm("standard").trial.model.d_ff == 256
    assert all(abs(other - first) <= 0.01 * first for other in others), found
    assert len({sweep.arm(arm).trial.model.d_ff for arm in sweep.names}) > 1


def test_without_an_mlp_the_mixer_gives_way():
    arms = {"gated_deltanet": {}, "gla": {}}
    arms = {arm: {"model": {"mixer": arm, "mlp": "none", "d_ff": None, "d_model": 128}} for arm in arms}
    sweep = sweep_of(arms, match="params")
    sizes = [measure("params", sweep.arm(arm).trial.model, 32) for arm in sweep.names]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    assert "expand_v" in sweep.arm("gla").trial.model.mixer[0].args


def test_states_of_recurrent_mixers_match():
    arms = {arm: {"model": {"mixer": arm, "d_model": 128}} for arm in ("deltanet", "gla")}
    sweep = sweep_of(arms, match="state")
    sizes = [measure("state", sweep.arm(arm).trial.model, 32) for arm in sweep.names]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_what_cannot_be_matched_is_one_line_that_says_the_nearest():
    with pytest.raises(UserError) as error:
        sweep_of(("standard", "gla", "stickbreaking"), match="state", trial={"task": {**TASK, "seq_len": 8192}})
    lines = error.value.problems
    assert len(lines) == 2
    assert lines[0].startswith(
        "arms.gla: match: state: no width of its mixer gives the first arm's 8,388,608 bytes of state"
    )
    assert "the nearest is" in lines[0]
    assert lines[1] == (
        "arms.stickbreaking: match: state: bytes of state after seq_len tokens are not known for its mixer"
    )


def test_a_width_given_against_the_match_is_refused_and_what_is_solved_stands_when_read_again():
    sweep = sweep_of(match="params", budget={"tokens": 1e6})
    again = read_again(sweep)
    assert [again.arm(arm).trial.digest for arm in again.names] == [sweep.arm(arm).trial.digest for arm in sweep.names]
    arms = {"standard": {}, "mamba2": {"model": {"mixer": "mamba2", "d_ff": 200}}}
    with pytest.raises(UserError, match=r"arms\.mamba2\.model\.d_ff: 200, but match: params gives \d+; leave one"):
        sweep_of(arms, match="params")


def test_a_budget_of_tokens_or_operations_becomes_steps():
    arms = {"short": {"task": {"seq_len": 32}}, "long": {"task": {"seq_len": 64}}}
    tokens = sweep_of(arms, budget={"tokens": 1_000_000}, trial={"train": {"batch_size": 8, "eval_every": 10}})
    assert [tokens.arm(arm).trial.train.max_steps for arm in arms] == [1_000_000 // 256, 1_000_000 // 512]
    flops = sweep_of(("standard", "mamba2"), budget={"flops": 1e12}, trial={"train": {"eval_every": 10}})
    for arm in flops.arms:
        trial = arm.trial
        per_step = measure("flops", trial.model, 32) * trial.tokens_per_step
        assert trial.train.max_steps * per_step <= 1e12 < (trial.train.max_steps + 1) * per_step


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"match": "param"}, "match: one of"),
        ({"budget": {"tokens": 1e6, "flops": 1e9}}, "budget: give one of tokens, flops, seconds"),
        ({"budget": {"token": 1e6}}, "budget.token: unknown key; did you mean 'tokens'?"),
        ({"budget": {"tokens": 100}}, "are 0 steps, fewer than eval_every 100"),
        ({"budget": {"tokens": 1e17}}, " steps; give less"),
        ({"budget": {"tokens": 1e6}, "trial": {"train": {"max_steps": 7}}}, "train.max_steps: 7, but budget: tokens"),
        (
            {"match": "params", "search": {"space": {"model.d_ff": {"choice": [64, 128]}}}},
            "search.space.model.d_ff: match: params is solved once per arm",
        ),
        (
            {"budget": {"seconds": 5}, "resources": {"workers": 2}},
            "train.seconds: the workers of a trial have no common clock",
        ),
    ],
)
def test_mistakes_are_one_line_each(tree, line):
    with pytest.raises(UserError) as error:
        sweep_of(**tree)
    assert any(line in problem for problem in error.value.problems), error.value.problems


@pytest.fixture
def begun(tmp_path):
    """Write a plan's sweep.yaml as its folder under `tmp_path` has it; returns `tmp_path`."""

    def write(plan):
        write_text(SweepDir(tmp_path / plan.name).sweep_file, dump(plan.sweep))
        return tmp_path

    return write


ASKED = [
    ({"match": "params", "budget": {"flops": 1e12}}, ("standard", "gla", "mamba2")),
    ({"match": "state", "trial": {"model": {"d_model": 128, "n_layers": 2, "n_heads": 4}}}, ("deltanet", "gla")),
]


@pytest.mark.parametrize(("asked", "arms"), ASKED)
def test_a_sweep_that_is_resumed_keeps_what_was_solved_when_it_began(asked, arms, begun, monkeypatch):
    asked = {**asked, "trial": {"train": {"eval_every": 1}, **asked.get("trial", {})}}
    plan = sweep_of(arms, **asked)
    results = begun(plan)
    monkeypatch.setattr(match, "measure", lambda *a: pytest.fail("it was solved anew"))
    assert sweep_of(arms, resume_in=results, **asked) == plan
    assert [arm.trial.digest for arm in sweep_of(arms, resume_in=results, **asked).arms] == [
        arm.trial.digest for arm in plan.arms
    ]


def test_what_the_folder_has_is_kept_of_another_program_and_solved_anew_where_settings_differ(begun):
    arms, budget = ("standard", "mamba2"), {"tokens": 1e6}
    plan = sweep_of(arms, match="params", budget=budget, trial={"train": {"eval_every": 10}})
    width, steps = (plan.arm("mamba2").trial.model.d_ff, plan.arm("mamba2").trial.train.max_steps)
    other = {"model": {"d_ff": width + 8}, "train": {"max_steps": steps + 10}}  # counted otherwise
    trees = {**plan.sweep.arms, "mamba2": merge(plan.sweep.arms["mamba2"], other)}
    results = begun(Plan.of(plan.sweep.model_copy(update={"arms": trees})))

    def resumed(eval_every):
        how = {"match": "params", "budget": budget, "trial": {"train": {"eval_every": eval_every}}}
        return sweep_of(arms, resume_in=results, **how).arm("mamba2").trial

    assert (resumed(10).model.d_ff, resumed(10).train.max_steps) == (width + 8, steps + 10)
    assert (resumed(20).model.d_ff, resumed(20).train.max_steps) == (width, steps)


@pytest.mark.parametrize("damage", [{"model": {"d_modle": 8}}, {"train": {"max_steps": "x32"}}, {"recipe": 2}])
def test_a_folder_whose_trial_is_not_valid_solves_nothing(damage, begun):
    asked = {"match": "params", "budget": {"tokens": 1e6}, "trial": {"train": {"eval_every": 10}}}
    plan = sweep_of(("standard", "mamba2"), **asked)
    results = begun(Plan.of(plan.sweep.model_copy(update={"trial": merge(plan.sweep.trial, damage)})))
    assert sweep_of(("standard", "mamba2"), resume_in=results, **asked) == plan


def test_a_new_sweep_gets_the_newest_recipe_and_one_that_is_resumed_its_folders(begun, monkeypatch):
    results = begun(sweep_of(("gla",)))
    for module in (trial, sys.modules[resolve.__module__]):
        monkeypatch.setattr(module, "NEWEST_RECIPE", 2)
    new = sweep_of(("gla",), resume_in=results / "elsewhere")
    assert new.arm("gla").trial.recipe == 2 and read_again(new).arm("gla").trial.recipe == 2
    assert sweep_of(("gla",), resume_in=results).arm("gla").trial.recipe == 1


def read_again(plan):
    return resolve(normal(parse(dump(plan.sweep), "sweep.yaml")))
