"""lm-eval's tasks through our scorer, held against lm-eval's own model and its own evaluation."""

import warnings
from pathlib import Path

import pytest

from tests.analysis.small import benchmark

pytest.importorskip("lm_eval", reason="needs pip install 'attnlab[eval]'")

from analysis.benchmarks import BENCHMARKS, Context, _harness, harness_of
from analysis.benchmarks._harness import Harness, quiet
from analysis.scoring.checkpoints import open_model
from analysis.scoring.exam import value_of
from analysis.scoring.lm_eval import LM
from analysis.scoring.scorer import Scored, Scorer
from attnlab.util.errors import UserError

TASKS = [name for name in BENCHMARKS if isinstance(BENCHMARKS[name](), Harness)]


def hflm(path, model):
    pytest.importorskip("accelerate", reason="lm-eval's HFLM imports it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=4, device="cpu")


@pytest.mark.parametrize("name", TASKS)
def test_agrees_with_lm_evals_own_model(exported, data_dir, name):
    loaded = benchmark(name).load(Context(data_dir=data_dir))
    for path in (exported("standard"), exported("gla")):
        scorer = Scorer(*open_model(path))
        ours = LM(scorer).loglikelihood(loaded.requests)
        with quiet():
            theirs = hflm(path, scorer.model).loglikelihood(loaded.requests, disable_tqdm=True)
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
        assert max(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True)) < 2e-3
        assert loaded.judge(ours)["acc"] == loaded.judge(theirs)["acc"]


@pytest.mark.parametrize("name", ["hellaswag", "lambada", "winogrande"])
def test_gives_the_figures_of_lm_evals_evaluate(exported, data_dir, name):
    import lm_eval

    scorer = Scorer(*open_model(exported("gla")))
    harness = harness_of(name)
    (exam,) = harness.exams(Context(data_dir=data_dir), None)
    columns = exam.ask(scorer, lambda n: None).columns
    (task,) = harness.load(Context(data_dir=data_dir)).tasks
    with quiet():
        said = lm_eval.evaluate(LM(scorer), {task.config.task: task}, bootstrap_iters=0)["results"][task.config.task]
    for metric in exam.metrics:
        assert value_of(exam.metrics[metric], metric, columns) == pytest.approx(said[f"{metric},none"])


def test_blimp_has_every_phenomenon():
    import lm_eval.tasks

    home = Path(lm_eval.tasks.__file__).parent
    theirs = {f"blimp/{path.name}" for path in home.glob("blimp/[!_]*.yaml")}
    assert len(theirs) == 67 and set(harness_of("blimp").files) == theirs


def test_rolling_and_generating_as_lm_eval_asks(exported):
    from lm_eval.api.instance import Instance

    scorer = Scorer(*open_model(exported("gla")))
    lm, theirs = LM(scorer), hflm(exported("gla"), scorer.model)
    rolling = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(["a quiet sea", "b"])]
    with quiet():
        want = theirs.loglikelihood_rolling(rolling, disable_tqdm=True)
    assert lm.loglikelihood_rolling(rolling) == pytest.approx(want, abs=2e-3)
    ask = {"until": ["z"], "max_gen_toks": 6}
    (written,) = lm.generate_until([Instance("generate_until", {}, ("the sea", ask), 0)])
    assert written == scorer.greedy(["the sea"], [6])[0].split("z")[0]
    with pytest.raises(ValueError, match="only greedy"):
        lm.generate_until([Instance("generate_until", {}, ("a", {"do_sample": True}), 0)])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 23, 25])
def test_rolling_windows_are_lm_evals(exported, monkeypatch, length):
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    scorer, asked = Scorer(*open_model(exported("gla"))), []

    def score(pairs, advance):
        asked.extend(pairs)
        return [Scored(0.0, True)] * len(pairs)

    monkeypatch.setattr(scorer, "score", score)
    text = ("a quiet sea, a long day and a boat" * 2)[:length]
    scorer.rolling([text], 8)
    tokens = scorer.tokenizer.encode([text])[0].tolist()
    theirs = map(make_disjoint_window, get_rolling_token_windows(tokens, scorer.tokenizer.eos_id, 8, 1))
    assert [(list(context), list(continuation)) for context, continuation in asked] == list(theirs)


@pytest.mark.parametrize("mixer", ["standard", "gla"])
def test_rolling_over_several_windows_gives_lm_evals_numbers(exported, mixer):
    from lm_eval.api.instance import Instance

    scorer = Scorer(*open_model(exported(mixer)), max_length=16)
    theirs = hflm(exported(mixer), scorer.model)
    theirs._max_length = 16
    texts = ["a quiet sea and a boat, a long way out", "sixteen letters.", "sixteen letters. ", "b"]
    rolling = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    with quiet():
        want = theirs.loglikelihood_rolling(rolling, disable_tqdm=True)
    assert LM(scorer).loglikelihood_rolling(rolling) == pytest.approx(want, abs=1e-3)


def test_missing_data_is_one_line_that_says_how_to_get_it(tmp_path, data_dir, monkeypatch):
    def told(context):
        with pytest.raises(UserError) as error:
            BENCHMARKS["siqa"]().exams(context, None)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "the hub's lighteval/siqa cannot be had" in (offline := told(Context())) and "hf download" in offline
    assert "has no folder siqa" in told(Context(data_dir=tmp_path))
    (tmp_path / "siqa").mkdir()
    (tmp_path / "siqa" / "validation.jsonl").write_text("{broken")
    assert "cannot be read as lighteval/siqa" in told(Context(data_dir=tmp_path))
    monkeypatch.setattr(_harness, "find_spec", lambda name: None)
    assert told(Context(data_dir=data_dir)) == "siqa: needs lm-eval; pip install 'attnlab[eval]'"


def test_by_default_only_what_the_data_folder_holds_is_asked(data_dir, tmp_path):
    benchmark = BENCHMARKS["hellaswag"]()
    assert benchmark.by_default(Context(data_dir=data_dir))
    assert not benchmark.by_default(Context()) and not benchmark.by_default(Context(data_dir=tmp_path))


def test_a_document_that_stands_there_twice_counts_once_everywhere(data_dir, tmp_path):
    rows = (data_dir / "lambada_openai/test.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "lambada_openai").mkdir()
    (tmp_path / "lambada_openai/test.jsonl").write_text("".join([*rows, rows[3]]))
    (exam,) = benchmark("lambada").exams(Context(data_dir=tmp_path), None)
    assert len(exam.ids) == len(exam.texts) == exam.n_all == len(rows)
