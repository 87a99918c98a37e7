"""Which factors of a pair are named, implied, stated or undeclared: on made-up facts, without a model."""

from types import SimpleNamespace

import pytest

from attnlab.plan.guards import confounds


def plan_of(match="none", budget=None, metric="val_loss"):
    return SimpleNamespace(sweep=SimpleNamespace(match=match, budget=budget), metric=metric)


def facts(settings=None, params=1000, tokens=10_000, tokenizer="64", per_step=256, states=(), task="mqar"):
    derived = {"params": params, "tokens": tokens, "tokenizer": tokenizer}
    return confounds.ArmFacts(settings or {}, derived, per_step, frozenset(states), task)


def pair(one, other, **plan):
    found = confounds._pair(plan_of(**plan), "a", "b", one, other)
    assert (found.a, found.b) == ("a", "b")
    return {factor: list(keys) for factor, keys in found.keys.items()}, found.differ, found.undeclared


@pytest.mark.parametrize(
    ("factor", "one", "other", "differs"),
    [
        ("params", 1000, 1030, False),  # 3 %
        ("params", 1000, 1031, True),
        ("params", 1031, 1000, True),
        ("params", None, 1000, False),
        ("params", 1000, None, False),
        ("tokens", 1000, 1010, False),  # 1 %
        ("tokens", 1011, 1000, True),
        ("tokenizer", "64", "64", False),
        ("tokenizer", "64", "65", True),
    ],
)
def test_how_much_may_differ(factor, one, other, differs):
    assert confounds._differs(factor, one, other) == differs
    found = pair(facts(**{factor: one}), facts(**{factor: other}))
    assert found == ({}, (factor,) if differs else (), (factor,) if differs else ())


@pytest.mark.parametrize(
    ("one", "other", "plan", "wanted"),
    [  # what is named, what differs, and what is undeclared
        (facts({"optim.lr": 1}), facts({"optim.lr": 2}), {}, ({"lr": ["optim.lr"]}, ("lr",), ())),
        (facts({"train.step": 1}), facts({"train.step": 2}), {}, ({}, (), ())),
        (facts(), facts(params=2000, states=["params"]), {}, ({}, ("params",), ())),
        (facts(states=["params"]), facts(params=2000), {}, ({}, ("params",), ())),
        (facts(), facts(params=2000), {"match": "flops"}, ({}, ("params",), ())),
        (facts(), facts(params=2000), {"match": "state"}, ({}, ("params",), ())),
        (facts(), facts(params=2000), {"match": "params"}, ({}, ("params",), ("params",))),
        (facts({"model.d_ff": 1}), facts({"model.d_ff": 2}), {"match": "params"}, ({}, (), ())),
        (facts({"model.d_ff": 1}), facts({"model.d_ff": 2}), {}, ({"size": ["model.d_ff"]}, ("size",), ())),
        (facts({"model.n_layers": 1}), facts({"model.n_layers": 2}), {"match": "params"},
         ({"size": ["model.n_layers"]}, ("size",), ())),
        (facts({"train.max_steps": 1}), facts({"train.max_steps": 2}, tokens=20_000), {},
         ({"steps": ["train.max_steps"]}, ("steps", "tokens"), ())),  # tokens from steps alone
        (facts({"train.max_steps": 1}), facts({"train.max_steps": 2}, tokens=20_000, per_step=512), {},
         ({"steps": ["train.max_steps"]}, ("steps", "tokens"), ("tokens",))),
        (facts({"train.max_steps": 1}), facts({"train.max_steps": 2}, tokens=20_000),
         {"budget": SimpleNamespace(kind="tokens")}, ({}, ("tokens",), ("tokens",))),
        (facts(), facts(tokens=20_000), {"budget": SimpleNamespace(kind="flops")}, ({}, ("tokens",), ())),
        (facts({"train.seconds": 1}), facts({"train.seconds": 2}, tokens=20_000), {},
         ({"seconds": ["train.seconds"]}, ("seconds", "tokens"), ())),
        (facts({"task.seq_len": 1, "train.batch_size": 2}), facts({"task.seq_len": 2, "train.batch_size": 1}), {},
         ({"seq_len": ["task.seq_len"]}, ("seq_len",), ())),  # a batch given so that each step reads as many
        (facts({"task.seq_len": 1, "train.batch_size": 2}),
         facts({"task.seq_len": 2, "train.batch_size": 9}, per_step=9), {},
         ({"seq_len": ["task.seq_len"], "batch": ["train.batch_size"]}, ("seq_len", "batch"), ())),
        (facts({"train.batch_size": 1, "train.max_steps": 2}),
         facts({"train.batch_size": 2, "train.max_steps": 1}, per_step=512), {},
         ({"batch": ["train.batch_size"]}, ("batch",), ())),  # steps given so that all in all as many are read
        (facts({"task.vocab_size": 1}, task="text"), facts({"task.vocab_size": 2}, task="text"), {},
         ({"tokenizer": ["task.vocab_size"]}, ("tokenizer",), ())),
        (facts({"task.vocab_size": 1}, task="text"), facts({"task.vocab_size": 2}, task="mqar"), {},
         ({"task": ["task.vocab_size"]}, ("task",), ())),  # each task calls another thing so
        (facts({"task.name": "x"}), facts({"task.name": "y"}, tokenizer="65", task="other"), {},
         ({"task": ["task.name"]}, ("task", "tokenizer"), ())),
    ],
)  # fmt: skip
def test_of_what_differs_some_follows_from_what_is_named(one, other, plan, wanted):
    assert pair(one, other, **plan) == wanted


def test_pairs_that_differ_in_the_same_share_one_row():
    made = [confounds.ArmPair(a, b, {"lr": ["optim.lr"], "mixer": ["model.mixer"]}, ("mixer", "lr"), ())
            for a, b in (("a", "b"), ("a", "c"))]  # fmt: skip
    made.append(confounds.ArmPair("b", "c", {}, ("params",), ("params",)))
    assert confounds._listed(made) == [
        {"differ": ["mixer", "lr"], "undeclared": [], "settings": ["model.mixer", "optim.lr"],
         "arms": [["a", "b"], ["a", "c"]]},
        {"differ": ["params"], "undeclared": ["params"], "settings": [], "arms": [["b", "c"]]},
    ]  # fmt: skip
    assert made[0].causes(frozenset()) == ["mixer", "lr"] and made[0].causes(frozenset(["lr"])) == ["mixer"]


def test_undeclared_factors_are_told_by_value():
    arms = {"a": facts(params=10_000), "b": facts(params=9_000), "c": facts(params=9_000), "d": facts(params=9_001)}
    made = [confounds.ArmPair("a", x, {}, ("params",), ("params",)) for x in "bc"]
    line = confounds._undeclared("params", made, arms)
    assert line.startswith("params: arms differ in non-embedding parameters by more than 3%, which none of them names")
    assert "(b, c 9,000; a 10,000)" in line and "match: params makes them agree" in line and "[params]" in line
    assert confounds._undeclared("tokens", made, arms) is None
    words = confounds._undeclared("tokenizer", [confounds.ArmPair("a", "b", {}, (), ("tokenizer",))], arms)
    assert "(a, b 64)" in words and "by more" not in words


def named(a, b, *factors):
    return confounds.ArmPair(a, b, {factor: [f"key.{factor}"] for factor in factors}, factors, ())


def test_arms_that_a_chain_of_single_differences_joins_are_clean():
    arms = {name: facts() for name in "abc"}
    chain = [named("a", "b", "lr"), named("b", "c", "mixer"), named("a", "c", "lr", "mixer")]
    assert confounds._named_at_once(chain, arms) == []
    (line,) = confounds._named_at_once(
        [named("a", "b", "lr"), named("b", "c", "lr", "mixer"), named("a", "c", "lr", "mixer")], arms
    )
    assert line.startswith("b and c; a and c: differ in key.mixer and key.lr at once")
    assert "`differs: [lr]` in an arm" in line
    stated = {**arms, "c": facts(states=["mixer"])}
    assert confounds._named_at_once([named("a", "c", "lr", "mixer")], stated) == []
    assert len(confounds._named_at_once([named("a", "b", "lr", "mixer"), named("a", "c", "lr", "size")], arms)) == 2


@pytest.mark.parametrize(
    ("one", "other", "metric", "told"),
    [
        (facts(task="text"), facts(task="text", tokenizer="x"), "val_loss", True),
        (facts(task="text"), facts(task="text", tokenizer="x"), "val_loss_512", True),
        (facts(task="text"), facts(task="text", tokenizer="x"), "val_bpb", False),
        (facts(task="text"), facts(task="text"), "val_loss", False),
        (facts(task="text"), facts(task="mqar", tokenizer="x"), "val_loss", False),
    ],
)
def test_losses_per_token_are_told_of_where_tokens_differ(one, other, metric, told):
    assert bool(confounds._per_token(plan_of(metric=metric), {"a": one, "b": other})) == told


@pytest.mark.parametrize("known", [True, False])
def test_all_arms_are_compared_by_what_they_are_built_of_and_read(sweep_of, monkeypatch, known):
    tasks = {name: SimpleNamespace(vocab_size=64, describe=dict) for name in "ab"}
    tasks["c"] = SimpleNamespace(vocab_size=64, describe=lambda: {"tokenizer_sha256": "0123456789abcdef"})

    def fingerprint(trial, task):
        assert task in tasks.values()
        return SimpleNamespace(n_params_non_embedding=int(1000 * trial.optim.lr)) if known else None

    monkeypatch.setattr(confounds, "fingerprint", fingerprint)
    plan = sweep_of({"a": {"optim.lr": 0.1}, "b": {"optim.lr": 0.2}, "c": {"optim.lr": 0.1, "differs": ["tokenizer"]}})
    found = confounds.find(plan, tasks)
    assert found.record["derived"] == {
        "params": {"a": 100, "b": 200, "c": 100} if known else dict.fromkeys("abc"),
        "tokens": dict.fromkeys("abc", 40 * 8 * 32),
        "tokenizer": {"a": "64", "b": "64", "c": "0123456789ab"},
    }
    assert [line.partition(":")[0] for line in found.warnings] == (["params"] if known else [])
    more = ["params"] if known else []
    assert found.record["pairs"] == [
        {"differ": ["lr", *more], "undeclared": more, "settings": ["optim.lr"], "arms": [["a", "b"]]},
        {"differ": ["tokenizer"], "undeclared": [], "settings": [], "arms": [["a", "c"]]},
        {"differ": ["tokenizer", "lr", *more], "undeclared": more, "settings": ["optim.lr"], "arms": [["b", "c"]]},
    ]


def test_warnings_come_by_factor_then_what_is_named_at_once_then_losses_per_token(sweep_of, monkeypatch):
    tasks = {name: SimpleNamespace(vocab_size=size, describe=dict) for name, size in (("a", 64), ("b", 65))}
    built = SimpleNamespace(n_params_non_embedding=1)
    monkeypatch.setattr(confounds, "fingerprint", lambda trial, task: built)
    plan = sweep_of({"a": {}, "b": {"optim.lr": 0.3, "train.seed": 5}})
    assert [line.partition(":")[0] for line in confounds.find(plan, tasks).warnings] == ["tokenizer", "a and b"]
