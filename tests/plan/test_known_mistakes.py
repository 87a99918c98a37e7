"""Mistakes that have made published comparisons worthless, each under its name: here it is impossible, or loud."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.benchmarks import Context
from analysis.benchmarks._choice import Choice, Question
from analysis.scoring.exam import Exam, Metric
from attnlab.config.space import corners
from attnlab.config.trial import OptimConfig
from attnlab.models import build_model
from attnlab.models.build import build_mixer
from attnlab.optim import lr_factor, warmup_steps
from attnlab.plan import Plan
from attnlab.plan.guards.run import run_guards
from attnlab.plan.load import load, resolve
from attnlab.plan.prepare import prepare_tasks
from attnlab.util.errors import UserError
from tests.plan.guards.conftest import TRIAL

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
GATED = {"mixer": "gla"}
UNGATED = {"mixer": {"name": "gla", "use_gk": False}}
SCHEDULES = ("cosine", "linear", "wsd")


@pytest.fixture(autouse=True)
def shared_cache(cache):
    """Of the session, not the user's."""


def sweep_of(arms, **trial):
    return resolve({"name": "x", "trial": {**TRIAL, **trial}, "arms": arms})


def refused(plan):
    with pytest.raises(UserError) as error:
        run_guards(plan, prepare_tasks(plan))
    return error.value.problems


# ------------------------------------------------------------------- gla_no_gating built the same model as gla


def test_gla_without_gating_is_another_model():
    plan = sweep_of({"gla": {"model": GATED}, "gla_no_gating": {"model": UNGATED}})
    assert run_guards(plan, prepare_tasks(plan))["no_op"] == {"arms": 2, "compared": 0, "unsure": []}
    size = {"d_model": 32, "n_layers": 1, "n_heads": 2}
    gated, ungated = (build_model({**size, **model}, 64) for model in (GATED, UNGATED))
    names = [{name for name, _ in model.named_parameters()} for model in (gated, ungated)]
    assert {name for name in names[0] - names[1]} and all("gk_proj" in name for name in names[0] - names[1])
    assert not names[1] - names[0]
    ungated.load_state_dict({k: v for k, v in gated.state_dict().items() if "gk_proj" not in k})
    tokens = torch.arange(24).view(1, 24)
    assert (gated(tokens).logits - ungated(tokens).logits).abs().max() > 1e-4


def test_a_gate_that_is_ignored_is_refused_by_name(monkeypatch):
    def deaf(mixer, model, layer):
        args = {key: value for key, value in mixer.args.items() if key != "use_gk"}
        return build_mixer(type(mixer)(name=mixer.name, **args), model, layer)

    monkeypatch.setattr("attnlab.models.block.build_mixer", deaf)
    monkeypatch.setattr(
        "attnlab.plan.guards.fingerprint._code", lambda: "deaf"
    )  # what was built under other code is not asked
    trial = {"model": {**TRIAL["model"], "d_ff": 96}}
    lines = refused(sweep_of({"gla": {"model": GATED}, "gla_no_gating": {"model": UNGATED}}, **trial))
    assert lines == [
        "arms.gla_no_gating: the same as arm gla: model.mixer.use_gk (not set there, False here) has no effect; "
        "leave one of them out, or correct it"
    ]


# -------------------------------------------------------------------- two arms were trained on twice the tokens


@pytest.mark.parametrize("arm", [{"task": {"seq_len": 64}}, {"train": {"batch_size": 16}}], ids=str)
def test_twice_the_tokens_are_told_and_under_strict_refused(arm):
    plan = sweep_of({"short": {}, "long": arm})
    (warning,) = run_guards(plan, prepare_tasks(plan))["warnings"]
    assert "tokens: arms differ in training tokens, which none of them names (short 10,240; long 20,480)" in warning
    (line,) = refused(Plan.of(plan.sweep.model_copy(update={"guards": "strict"})))
    assert line == warning


def test_twice_the_steps_beside_another_mixer_are_told():
    arms = {"standard": {}, "gla": {"model": GATED, "train": {"max_steps": 80}}}
    (warning,) = [w for w in _warnings(sweep_of(arms)) if "at once" in w]
    assert "differ in model.mixer and train.max_steps at once, so what made a difference cannot be told" in warning


def _warnings(plan):
    return run_guards(plan, prepare_tasks(plan))["warnings"]


def test_a_budget_gives_all_arms_the_same_tokens():
    train = {key: value for key, value in TRIAL["train"].items() if key != "max_steps"}
    arms = {"a": {}, "long": {"task": {"seq_len": 64}}, "wide": {"train": {"batch_size": 32}}}
    plan = resolve({"name": "x", "trial": {**TRIAL, "train": train}, "arms": arms, "budget": {"tokens": 40960}})
    trials = [plan.arm(arm).trial for arm in arms]
    assert {t.train.max_steps * t.tokens_per_step for t in trials} == {40960}


# --------------------------------------------------------- the validation windows were all in the training set


def test_validation_windows_that_lie_in_the_training_text_are_refused(tmp_path):
    draw = iter(torch.randint(97, 123, (20000,), generator=torch.Generator().manual_seed(0)).tolist())
    text = "".join(map(chr, draw))
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": text}))
    (tmp_path / "validation.jsonl").write_text(json.dumps({"text": text[5003:9003]}))
    task = {"name": "text", "dataset": str(tmp_path), "validation": "validation", "tokenizer": "bytes", "seq_len": 256}
    (line,) = refused(sweep_of({"a": {}, "b": {"optim": {"lr": 0.1}}}, task=task))
    assert line.startswith("task: 100.0% of the 15 sequences validated on occur whole in the training tokens")


# ------------------------------------------------------------------------------- the schedule never decayed


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_warms_up_and_decays_within_its_run(path):
    unsolved = load(path, solve=False)
    plan = load(path) if unsolved.sweep.budget else unsolved  # which gives the steps; no schedule knows of widths
    for arm in plan.names:
        for found in corners(plan.arm(arm).space):
            trial = plan.arm(arm).with_settings(found)
            steps, optim = trial.train.max_steps, trial.optim
            assert warmup_steps(steps, optim) < steps
            assert lr_factor(steps, steps, optim) == (1.0 if optim.schedule == "constant" else optim.min_lr_ratio)


@settings(max_examples=200)
@given(
    st.sampled_from(SCHEDULES),
    st.integers(2, 100_000),
    st.floats(0, 0.99),
    st.floats(0.001, 1.0),
    st.floats(0, 0.9),
)
def test_every_schedule_ends_at_its_floor(schedule, steps, warmup, decay, floor):
    optim = OptimConfig(schedule=schedule, warmup=warmup, decay=decay, min_lr_ratio=floor)
    assert lr_factor(steps, steps, optim) == floor < 1.0 == lr_factor(warmup_steps(steps, optim), steps, optim)


@pytest.mark.parametrize(
    ("optim", "says"),
    [
        ({"warmup": 40}, "optim.warmup: 40 is as long as the run of 40 steps"),
        ({"warmup": 0.999}, "optim.warmup: 0.999 is as long as the run of 40 steps"),
        ({"min_lr_ratio": 1.0}, "optim.min_lr_ratio: at 1 schedule cosine never decays; lower it, or use constant"),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_decay_is_refused(optim, says):
    with pytest.raises(UserError) as error:
        sweep_of({"a": {}}, optim=optim)
    assert error.value.problems == [f"trial.{says}"]


# ----------------------------------------------------------------- 10 distinct questions were reported as n = 100


def question(i):
    return Question(str(i), f"{i} + 1 =", str(i + 1), ("x", "y", "z"))


def test_ten_questions_ten_times_over_are_refused():
    benchmark = Choice("mine", "1", "here", lambda: [question(i % 10) for i in range(100)])
    with pytest.raises(UserError, match=r"mine: 0: asked twice \(and 89 more\)"):
        benchmark.exams(Context(), None)
    (exam,) = Choice("mine", "1", "here", lambda: [question(i) for i in range(10)]).exams(Context(), None)
    assert len(exam.ids) == exam.n_all == 10


def test_new_names_do_not_make_ten_questions_a_hundred():
    again = [Question(f"q{i}", *list(vars(question(i % 10)).values())[1:]) for i in range(100)]
    with pytest.raises(UserError, match="asked twice"):
        Choice("mine", "1", "here", lambda: again).exams(Context(), None)


def test_no_exam_has_an_item_twice():
    with pytest.raises(UserError, match="e: 90 of 100 items are repetitions; ask each once"):
        Exam("e", "here", "1", [str(i % 10) for i in range(100)], 100, [], {"acc": Metric("proportion")}, 1, print)


def test_documents_that_lm_eval_lists_twice_count_once():
    from types import SimpleNamespace

    from analysis.benchmarks._harness import Loaded

    def asked(number):  # two requests per document; documents 0 and 10 ask the same
        return [
            SimpleNamespace(doc_id=number, doc={}, args=(f"question {number % 10}", end)) for end in (" yes", " no")
        ]

    task = SimpleNamespace(
        instances=[request for number in range(12) for request in asked(number)],
        eval_docs=range(12),
        process_results=lambda doc, answers: {"acc": answers[0][0]},
    )
    loaded = Loaded("mine", (task,), {"acc": Metric("proportion")})
    assert loaded.ids == [str(i) for i in range(10)] and loaded.n_all == 10 and len(loaded.requests) == 20
    columns = loaded.judge([(1.0, True)] * 20)
    assert len(columns["acc"]) == len(columns["loglikelihoods"]) == 10


def test_passages_of_a_text_that_repeats_itself_count_once():
    from analysis.benchmarks._passages import exam

    page = "".join(f"Line {i} of the page, and some more of it.\n" for i in range(60))
    assert len(exam("text", "here", [page] * 5, 64, None).ids) == len(exam("text", "here", [page], 64, None).ids) == 1
