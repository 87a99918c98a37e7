"""What differs between arms beside their declared difference."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config.trial import Trial
from attnlab.plan.guards import confounds
from attnlab.plan.guards.factors import FACTORS, factor_of
from attnlab.plan.load import resolve
from attnlab.plan.prepare import prepare_tasks
from attnlab.sweep.folder import changes
from attnlab.util.errors import UserError
from tests.plan.guards.conftest import TRIAL

MIXERS = {"standard": {"model.mixer": "standard"}, "hgrn": {"model.mixer": "hgrn"}}  # within 3 % in parameters
RETNET = {"retnet": {"model.mixer": "retnet"}}


def warnings(guarded, arms, **rest):
    return guarded(arms, **rest)["warnings"]


def test_arms_that_differ_in_one_declared_thing_are_clean(guarded):
    found = guarded(MIXERS)
    assert found["warnings"] == []
    (pairs,) = found["confounds"]["pairs"]
    assert pairs == {"differ": ["mixer"], "undeclared": [], "settings": ["model.mixer"], "arms": [["standard", "hgrn"]]}


def test_parameters_beyond_three_percent_are_warned_of_until_matched_or_stated(guarded):
    (line,) = warnings(guarded, {**MIXERS, **RETNET})
    assert (
        line.startswith("params: arms differ in non-embedding parameters by more than 3%") and "match: params" in line
    )
    assert warnings(guarded, {**MIXERS, **RETNET}, match="params") == []
    assert warnings(guarded, {**MIXERS, "retnet": {**RETNET["retnet"], "differs": ["params"]}}) == []
    assert warnings(guarded, {**MIXERS, **RETNET}, match="flops") == []  # what agrees is said, and so is what need not


def test_twice_the_tokens_by_a_longer_row_is_warned_of(guarded):
    longer = {"task.seq_len": 64}
    (line,) = warnings(guarded, {"a": {}, "long": longer})
    assert line.startswith("tokens:") and "(a 10,240; long 20,480)" in line
    assert warnings(guarded, {"a": {}, "long": {**longer, "train.max_steps": 20}}) == []
    assert warnings(guarded, {"a": {}, "long": {**longer, "differs": ["tokens"]}}) == []
    budget, shared = {"tokens": 10240}, {"train": {"max_steps": None}}
    tree = {**TRIAL, "train": {**TRIAL["train"], **shared["train"]}}
    tree["train"] = {k: v for k, v in tree["train"].items() if v is not None}
    sweep = resolve(
        {"name": "x", "trial": tree, "arms": {"a": {}, "long": {"task": {"seq_len": 64}}}, "budget": budget}
    )
    assert confounds.find(sweep, prepare_tasks(sweep)).warnings == []


def test_a_larger_batch_reads_more_tokens_and_more_steps_say_so_themselves(guarded):
    (line,) = warnings(guarded, {"a": {}, "b": {"train.batch_size": 16}})
    assert line.startswith("tokens:")
    assert warnings(guarded, {"a": {}, "b": {"train.max_steps": 80}}) == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"train.max_steps": 80}, "train.max_steps"),
        ({"train.precision": "fp32"}, "train.precision"),
        ({"optim.lr": 0.1}, "optim.lr"),
        ({"train.seed": 1}, "train.seed"),
        ({"optim.schedule": "linear"}, "optim.schedule"),
        ({"train.batch_size": 16, "train.max_steps": 20}, "train.batch_size"),
        ({"task.power_a": 1.0}, "task.power_a"),
    ],
    ids=str,
)
def test_two_declared_differences_at_once_cannot_be_told_apart(guarded, change, key):
    arms = {"standard": MIXERS["standard"], "other": {**MIXERS["hgrn"], **change}}
    (line,) = warnings(guarded, arms)
    assert line.startswith(f"standard and other: differ in model.mixer and {key} at once, so what made a difference")
    bridge = {**arms, "hgrn": MIXERS["hgrn"]}  # tells what either does
    assert warnings(guarded, bridge) == []
    factor = factor_of(key, "mqar")
    assert warnings(guarded, {**arms, "other": {**arms["other"], "differs": [factor]}}) == []


def test_arms_that_each_change_another_thing_need_one_that_changes_nothing(guarded):
    changed = {"a": {"optim.lr": 0.1}, "b": {"optim.clip": 0.5}, "c": {"model.dropout": 0.1}}
    assert len(warnings(guarded, changed)) == 3
    assert warnings(guarded, {"base": {}, **changed}) == []


def test_strict_makes_an_error_of_it(guarded):
    with pytest.raises(UserError, match="params: arms differ"):
        guarded({**MIXERS, **RETNET}, guards="strict")
    assert guarded(MIXERS, guards="strict")["mode"] == "strict"


def test_a_loss_per_token_does_not_compare_over_tokenizers(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text(" ".join(f"word{i * 7919 % 10007}" for i in range(4000)))
    task = {"name": "text", "dataset": str(words), "seq_len": 32, "eval_tokens": 512}
    arms = {"bytes": {"task": {"tokenizer": "bytes"}}, "bpe": {"task": {"tokenizer": "bpe", "vocab_size": 300}}}
    tree = {"name": "x", "trial": {**TRIAL, "task": task}, "arms": arms}
    sweep = resolve(tree)
    assert any("nats per token" in line for line in confounds.find(sweep, prepare_tasks(sweep)).warnings)
    space = {"space": {"optim.lr": {"choice": [0.1]}}, "metric": "val_bpb"}
    sweep = resolve({**tree, "search": space})
    assert not any("nats per token" in line for line in confounds.find(sweep, prepare_tasks(sweep)).warnings)


def test_what_an_arm_alone_searches_is_a_difference_but_its_mixers_arguments_go_with_the_mixer(guarded):
    space = {"search": {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "trials": 2}}
    gla = {
        "model.mixer": "gla",
        "differs": ["params"],
        "search.space": {"model.mixer.gate_logit_normalizer": {"choice": [8, 16]}},
    }
    assert warnings(guarded, {"standard": {}, "gla": gla}, **space) == []
    own = {"model.mixer": "hgrn", "search.space": {"optim.clip": {"choice": [0.5, 1.0]}}}
    (line,) = warnings(guarded, {"standard": {}, "hgrn": own}, **space)
    assert "model.mixer and optim.clip at once" in line


def test_mistakes_in_differs_and_noise_are_told_with_the_rest():
    tree = {"name": "x", "trial": TRIAL, "noise": {"arm": "bb"}}
    with pytest.raises(UserError) as error:
        resolve({**tree, "arms": {"a": {"differs": ["parms"]}, "b": {"differs": "params"}}})
    assert error.value.problems == [
        "arms.a.differs: no factor 'parms'; did you mean 'params'?",
        "arms.b.differs: a list of factors, such as [params, tokens], not 'params'",
        "noise.arm: no arm 'bb'; did you mean 'b'?",
    ]


def test_guards_never_touch_finished_trials(sweep_of):
    before = sweep_of(MIXERS)
    after = sweep_of(
        {**MIXERS, "hgrn": {**MIXERS["hgrn"], "differs": ["params"]}},
        guards="strict",
        noise={"arm": "hgrn", "seeds": 3},
    )
    assert changes(before, after) == []
    assert before.arm("hgrn").trial.digest == after.arm("hgrn").trial.digest


def leaves(tree, before=""):
    for key, value in tree.items():
        yield from leaves(value, f"{before}{key}.") if isinstance(value, dict) else [f"{before}{key}"]


@pytest.mark.parametrize("task", ["text", "mqar"])
def test_every_setting_of_a_trial_belongs_to_a_known_factor(task):
    for key in leaves(Trial().model_dump(exclude={"recipe"})):
        factor = factor_of(key, task)
        assert factor in FACTORS or key in ("train.step", "train.grad_accum", "train.save_every"), key


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([{"optim.lr": 0.1}, {"optim.clip": 0.5}, {"train.seed": 5}]), max_size=3), st.booleans()
)
def test_a_pair_lists_exactly_what_was_set_differently(given_, with_base):
    change = {key: value for each in given_ for key, value in each.items()}
    arms = {
        "a": {},
        "b": {
            part: {k.split(".")[1]: v for k, v in change.items() if k.startswith(part)} for part in ("optim", "train")
        },
    }
    sweep = resolve({"name": "x", "trial": TRIAL, "arms": arms})
    found = confounds.find(sweep, prepare_tasks(sweep))
    (pairs,) = found.record["pairs"]
    assert set(pairs["settings"]) == set(change) and pairs["undeclared"] == []
    assert len(found.warnings) == (len(change) > 1)
