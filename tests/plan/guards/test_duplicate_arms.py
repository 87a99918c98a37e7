"""Two arms that are one experiment are refused, and arms that differ in anything that counts are not."""

from types import SimpleNamespace

import numpy as np
import pytest

from attnlab.config.trial import ModelConfig, OptimConfig, Trial
from attnlab.models import assemble
from attnlab.models.mixers.table import MIXERS
from attnlab.optim import lr_factor
from attnlab.plan.guards import duplicate_arms
from attnlab.plan.guards import fingerprint as building
from attnlab.plan.guards.fingerprint import fingerprint, schedule
from attnlab.plan.prepare import prepare_tasks
from attnlab.util.errors import UserError

GLA = {"name": "gla"}


def same(sweep_of, a, b, **rest):
    sweep = sweep_of({"a": a, "b": b}, **rest)
    return duplicate_arms.find(sweep, prepare_tasks(sweep)).same


@pytest.mark.parametrize(
    ("a", "b", "ignored"),
    [
        ({}, {"optim.momentum": 0.5}, "optim.momentum (0.95 there, 0.5 here) has no effect"),  # Muon's; AdamW trains
        ({}, {"optim.decay": 0.5}, "optim.decay (0.2 there, 0.5 here) has no effect"),  # wsd's; the schedule is cosine
        ({}, {"optim.warmup": 2.0}, "optim.warmup (0.05 there, 2.0 here) has no effect"),  # 5 % of 40 steps
        ({}, {"train.save_every": 20}, "train.save_every (None there, 20 here) has no effect"),
        ({"model.mlp": "none"}, {"model.mlp": "none", "model.n_heads": 4, "model.mixer": "mamba"}, None),
        ({"model.mixer": "mamba"}, {"model.mixer": "mamba", "model.n_heads": 4}, "model.n_heads (2 there, 4 here) has"),
        ({"model.mixer": GLA}, {"model.mixer": ["gla", "gla"]}, "model.mixer (gla there, ['gla', 'gla'] here) has"),
        (
            {"model.mixer": {"name": "standard", "window": 32}},
            {"model.mixer": {"name": "standard", "window": 64}},
            "model.mixer.window (32 there, 64 here) has no effect",  # no row is as long
        ),
        ({}, {"task.n_train": None}, "no setting differs"),
        ({"model.d_ff": 128}, {"model.d_ff": 128, "optim.decay": 0.3, "optim.momentum": 0.1}, "have no effect"),
    ],
    ids=str,
)
def test_a_setting_without_effect_is_named(sweep_of, a, b, ignored):
    found = same(sweep_of, a, b)
    if ignored is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith("arms.b: the same as arm a: ") and ignored in line


@pytest.mark.parametrize(
    "b",
    [
        {"model.dropout": 0.1},
        {"model.mixer": {"name": "gla", "gate_logit_normalizer": 8}},  # the same tree, shapes and initial weights
        {"model.mixer": {"name": "gla", "norm_eps": 1e-6}},
        {"model.mixer": {"name": "gla", "mode": "fused_recurrent"}},  # the same function at another speed
        {"model.mixer": ["gla", {"name": "gla", "gate_logit_normalizer": 8}]},  # in the second layer alone
        {"train.seed": 1},
        {"train.grad_accum": 2},
        {"train.precision": "fp32"},
        {"train.eval_every": 20},
        {"train.max_steps": 50},
        {"optim.lr": 0.1},
        {"optim.beta1": 0.8},
        {"optim.weight_decay": 0.0},
        {"optim.clip": None},
        {"optim.schedule": "linear"},
        {"optim.name": "muon"},
        {"task.power_a": 1.0},
        {"task.n_eval": 32},
        {"task.n_train": 100},
        {"task.eval_seq_lens": [64]},
    ],
    ids=str,
)
def test_what_has_an_effect_is_let_through(sweep_of, b):
    shared = {"model": {"mixer": "gla"}}
    assert same(sweep_of, {}, b, trial=shared) == []


def test_arms_that_differ_only_in_how_they_start_are_two(sweep_of, monkeypatch):
    sweep = sweep_of(
        {"a": {}, "b": {"model.mixer": {"name": "gla", "gate_low_rank_dim": 16}}}, {"model": {"mixer": "gla"}}
    )

    def started(model, vocab_size, readout=None):
        built = assemble(model, vocab_size, readout)
        if model.mixer[0].args:
            built.head.weight.data *= 2
        return built

    assert len(duplicate_arms.find(sweep, prepare_tasks(sweep)).same) == 1  # 16 is the argument's default
    monkeypatch.setattr(duplicate_arms, "assemble", started)
    assert duplicate_arms.find(sweep, prepare_tasks(sweep)).same == []


def search(**space):
    return {"search": {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}, **space}, "trials": 2}}


def test_what_is_searched_anyway_tells_no_arms_apart(sweep_of):
    (line,) = same(sweep_of, {"optim.lr": 0.1}, {"optim.lr": 0.01}, **search())
    assert "optim.lr, in which they differ, is searched" in line


def test_arms_with_spaces_of_their_own_are_two(sweep_of):
    own = {"search.space": {"optim.clip": {"choice": [0.5, 1.0]}}}
    assert same(sweep_of, {}, own, **search()) == []
    (line,) = same(sweep_of, own, {**own, "optim.clip": 3.0}, **search())
    assert "optim.clip, in which they differ, is searched" in line


def test_spaces_that_share_their_corners_are_two(sweep_of):
    spaces = [{"search.space": {"optim.clip": {"choice": values}}} for values in ([0.5, 1.0], [0.5, 0.7, 1.0])]
    assert same(sweep_of, *spaces, **search()) == []


def test_a_difference_at_one_corner_of_the_space_is_one(sweep_of):
    # muon reads optim.momentum, adamw does not
    space = {"optim.name": {"choice": ["adamw", "muon"]}}
    assert same(sweep_of, {}, {"optim.momentum": 0.5}, **search(**space)) == []


def test_a_mixer_that_cannot_run_here_is_told_and_not_refused(sweep_of, monkeypatch):
    monkeypatch.setattr(
        duplicate_arms, "fingerprint", lambda trial, task: None if trial.optim.lr == 0.1 else fingerprint(trial, task)
    )
    sweep = sweep_of({"a": {"optim.lr": 0.1}, "b": {"optim.lr": 0.1, "optim.momentum": 0.5}})
    found = duplicate_arms.find(sweep, prepare_tasks(sweep))
    assert found.same == [] and [line.partition(":")[0] for line in found.unsure] == ["a", "b"]


def test_beyond_the_longest_run_nothing_is_claimed(monkeypatch):
    from attnlab.config.trial import ModelConfig

    monkeypatch.setattr(duplicate_arms, "LONGEST", 64)
    wide, wider = (ModelConfig(d_model=32, mixer={"name": "standard", "window": w}) for w in (256, 512))
    assert duplicate_arms.same_function(wide, wider, 64) is True
    assert duplicate_arms.same_function(wide, wider, 1024) is None


def test_all_are_told_in_one_go_and_nothing_runs(guarded):
    with pytest.raises(UserError) as error:
        guarded({"a": {}, "b": {"optim.momentum": 0.5}, "c": {"optim.decay": 0.5}, "d": {"optim.lr": 0.1}})
    assert [line.partition(":")[0] for line in error.value.problems] == ["arms.b", "arms.c"]


def test_different_mixers_are_never_the_same(sweep_of):
    names = [name for name, row in MIXERS.items() if not (row.refused or row.needs)]
    sweep = sweep_of({name: {"model.mixer": name} for name in names}, {"model": {"d_model": 128, "n_heads": 4}})
    found = duplicate_arms.find(sweep, prepare_tasks(sweep))
    assert found.same == [] and len(names) > 20


def test_arrays_are_equal_one_by_one():
    one, other = [np.arange(3), np.ones(2)], [np.arange(3), np.zeros(2)]
    assert duplicate_arms._equal(one, [each.copy() for each in one]) and not duplicate_arms._equal(one, other)


@pytest.mark.parametrize(
    ("a", "b", "n_layers", "kept"),
    [
        (["gla"], ["gla"], 8, 2),  # later layers may read the first's
        (["gla"], ["gla"], 1, 1),
        (["gla", "hgrn", "hgrn"], ["gla"], 9, 2),
        (["gla", "gla", "gla", "hgrn"], ["gla"], 8, 4),
        (["gla", "hgrn"], ["gla", "gla", "hgrn"], 12, 6),  # (hgrn, hgrn) comes with the sixth
    ],
)
def test_a_twin_has_as_many_layers_as_show_every_pair_of_mixers(a, b, n_layers, kept):
    both = tuple(ModelConfig.model_validate({"n_layers": n_layers, "mixer": mixers}) for mixers in (a, b))
    assert [duplicate_arms._cut(model, both).n_layers for model in both] == [kept, kept]


def test_what_one_arm_leaves_out_is_said_to_be_not_set(sweep_of):
    sweep = sweep_of({"a": {"model.mixer": "gla"}, "b": {"model.mixer": {"name": "gla", "expand_k": 0.5}}})
    one, other = sweep.arm("a"), sweep.arm("b")
    assert "model.mixer.expand_k (not set there, 0.5 here) has no effect" in duplicate_arms._same_text(one, other)
    assert "model.mixer.expand_k (0.5 there, not set here) has no effect" in duplicate_arms._same_text(other, one)


def test_a_schedule_is_compared_at_every_step_of_a_long_run_at_every_so_many():
    optim = OptimConfig(lr=0.5, schedule="linear", warmup=0)
    assert schedule(optim, 4) == tuple(0.5 * lr_factor(step, 4, optim) for step in (1, 2, 3, 4, 4))
    assert (
        len(schedule(optim, 20_000)) == len(schedule(optim, 40_000)) == len(schedule(optim, 39_999)) // 2 + 1 == 20_001
    )
    assert schedule(optim, 40_000)[1] == 0.5 * lr_factor(3, 40_000, optim)


def test_of_arms_that_agree_in_structure_each_is_compared_with_the_first_of_every_kind(sweep_of, monkeypatch):
    sweep = sweep_of({name: {} for name in "abcd"})
    kind = {"a": 0, "b": 1, "c": 0, "d": None}
    monkeypatch.setattr(
        duplicate_arms, "_same", lambda a, b: None if kind[b.name] is None else kind[a.name] == kind[b.name]
    )
    found = duplicate_arms.Duplicates()
    duplicate_arms._compare(sweep, list("abcd"), found)
    assert found.compared == 1 + 1 + 2, "b with a, c with a, d with a and b"
    assert [line.partition(":")[0] for line in found.same] == ["arms.c"]
    assert [line.partition(" here")[0] for line in found.unsure] == [f"d: could not be told from {x}" for x in "ab"]


@pytest.mark.parametrize("kept", [b"", b"\xff", b"[]", b'{"modules": "x"}', b'{"a": 1}'])
def test_a_kept_fingerprint_that_cannot_be_read_is_made_anew(sweep_of, monkeypatch, tmp_path, kept):
    monkeypatch.setattr(building, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(building, "_cached", building._cached.__wrapped__)  # as each is in another process
    trial, task = (
        sweep_of({"a": {}, "b": {"optim.lr": 0.1}}).arm("a").trial,
        SimpleNamespace(vocab_size=64, readout=None),
    )
    made = []
    monkeypatch.setattr(building, "_build", lambda *args: made.append(args) or building.Fingerprint("a", "b", 3))

    wanted = building.Fingerprint("a", "b", 3)
    assert fingerprint(trial, task) == fingerprint(trial, task) == wanted and len(made) == 1, "kept"
    (file,) = (tmp_path / "built").iterdir()
    file.write_bytes(kept)
    assert fingerprint(trial, task) == fingerprint(trial, task) == wanted and len(made) == 2


def test_fingerprints_are_kept_apart_by_all_that_decides_them(monkeypatch, tmp_path):
    monkeypatch.setattr(building, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(building, "_cached", building._cached.__wrapped__)
    monkeypatch.setattr(building, "_build", lambda *args: building.Fingerprint("a", "b", 3))
    trials = [Trial(), Trial(model={"d_model": 256}), Trial(optim={"lr": 0.5}), Trial(train={"seed": 7})]
    tasks = [SimpleNamespace(vocab_size=size, readout=each) for size, each in ((64, None), (65, None), (64, "last"))]
    for code in ("x", "y"):
        monkeypatch.setattr(building, "_code", lambda code=code: code)
        for trial in trials:
            for task in tasks:
                fingerprint(trial, task)
    assert len(list((tmp_path / "built").iterdir())) == 2 * 3 * 3, "the seed decides nothing"


def test_a_fingerprint_is_kept_for_the_code_that_made_it(monkeypatch, tmp_path):
    packages = {}
    for name in ("models", "optim"):
        (tmp_path / name / "inner").mkdir(parents=True)
        packages[name] = tmp_path / name / "inner" / "x.py"
        packages[name].write_text("1")
        monkeypatch.setattr(building, name, SimpleNamespace(__file__=str(tmp_path / name / "__init__.py")))
    code = building._code.__wrapped__
    seen = [code()]
    for change in (*packages.values(), None):
        change.write_text("2") if change else monkeypatch.setattr(building, "version", lambda name: "0")
        seen.append(code())
    monkeypatch.setattr(building.torch, "__version__", "0")
    assert len({*seen, code()}) == 5 and code() == code()


def test_a_tasks_readout_is_part_of_what_is_built(sweep_of):
    trial = sweep_of({"a": {}, "b": {"optim.lr": 0.1}}).arm("a").trial
    plain, last = (fingerprint(trial, SimpleNamespace(vocab_size=64, readout=each)) for each in (None, "last"))
    assert plain.modules != last.modules and plain.optimizer != last.optimizer


def test_what_a_users_own_mixer_builds_is_kept_in_no_file(monkeypatch):
    given = []
    monkeypatch.setattr(building, "_build", lambda *args: given.append(args) or building.Fingerprint("a", "b", 3))
    monkeypatch.setattr(building, "write_json", None)
    trial = Trial(model={"mixer": {"name": "kept_in_no_file:Mixer"}})
    found = building.fingerprint(trial, SimpleNamespace(vocab_size=64, readout="last"))
    assert found == building.Fingerprint("a", "b", 3) and given == [(trial, 64, "last")]
