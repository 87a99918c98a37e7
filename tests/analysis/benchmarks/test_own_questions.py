"""The questions of our own, and how answers to them are judged."""

import pytest
import torch

from analysis.benchmarks import BENCHMARKS, Context, _choice, _passages
from analysis.benchmarks._choice import Choice, matches
from analysis.scoring.exam import value_of
from analysis.scoring.scorer import Scorer
from attnlab.data.tokenizer import ByteTokenizer, Spec, load
from attnlab.models import build_model
from attnlab.util.errors import UserError
from tests.tasks.test_text import word_level

CHOICES = [name for name in BENCHMARKS if isinstance(BENCHMARKS[name](), Choice)]


@pytest.mark.parametrize("name", CHOICES)
def test_at_least_200_distinct_questions_with_one_right_answer(name):
    questions = BENCHMARKS[name]().draw()
    assert len(questions) >= 200 and _choice.check(questions) == []
    assert len({q.prompt for q in questions}) == len(questions)
    assert [q.id for q in BENCHMARKS[name]().draw()] == [q.id for q in questions]
    for q in questions:
        assert "|" not in q.prompt and q.prompt == q.prompt.strip() and q.answer == q.answer.strip()


@pytest.mark.parametrize("name", ["sentence_completion", "word_association", "simple_qa"])
def test_no_answer_is_right_too_often(name):
    """A model that always says the same word must not pass."""
    questions = BENCHMARKS[name]().draw()
    answers = [q.answer.lower() for q in questions]
    assert max(answers.count(answer) for answer in set(answers)) <= 0.05 * len(answers)


def test_what_is_right_for_one_word_is_wrong_for_it_nowhere():
    questions = BENCHMARKS["word_association"]().draw()
    pairs = {frozenset((q.id.lower(), q.answer.lower())) for q in questions}
    for q in questions:
        assert not any(frozenset((q.id.lower(), wrong.lower())) in pairs for wrong in q.wrong), q


@pytest.mark.parametrize("name", ["arithmetic_1", "arithmetic_2"])
def test_arithmetic_is_right_and_its_other_candidates_are_not(name):
    for q in BENCHMARKS[name]().draw():
        value = str(eval(q.prompt.removesuffix("=").replace("x", "*")))
        assert q.answer == value and value not in q.wrong and all(w.isdigit() for w in q.wrong)


def test_cloze_takes_words_the_novel_has_and_the_prompt_does_not_give_away():
    for q in BENCHMARKS["cloze"]().draw():
        assert all(wrong not in q.prompt.lower() for wrong in q.wrong)
        assert 300 < len(q.prompt) <= 400 and q.answer.isalpha() and q.answer.islower()


@pytest.mark.parametrize(
    ("written", "wanted", "right"),
    [
        (" Paris.", "Paris", True),
        (" the capital", "capital", True),
        (" paris is nice\nmore", "Paris", True),
        (" twenty-four hours", "twenty-four", True),
        ("\n\n Paris", "Paris", True),
        ("", "Paris", False),
        (" ...", "Paris", False),
        ("   \n", "Paris", False),
        (" London, Paris", "Paris", False),
        (" 17", "1", False),
    ],
)
def test_exact_match_after_normalisation(written, wanted, right):
    assert matches(written, wanted) is right


def test_passages_are_the_document_in_parts():
    text = "A line of words.\nAnother one, longer than the first.\n\n" * 300
    parts = _passages.passages(text)
    assert "".join(parts) == text and max(map(len, parts)) <= _passages.PASSAGE_CHARS
    assert all(part.endswith("\n\n") for part in parts)


def test_a_text_that_does_not_come_back_from_its_tokens_has_no_bits_per_byte(tmp_path):
    tokenizer = load(Spec(word_level(tmp_path / "tokenizer.json", ["a line of words"])), tmp_path)
    scorer = Scorer(build_model({"d_model": 32, "n_layers": 1, "n_heads": 2, "mixer": "gla"}, 16), tokenizer)
    exam = _passages.exam("text", "a file", ["A line of words.\nAnother."], 64, None)
    with pytest.raises(UserError, match=r"^at least \d+\.\d% of the text's characters do not come back from the"):
        exam.ask(scorer, lambda n: None)


def score(model, exam):
    columns = exam.ask(Scorer(model, ByteTokenizer()), lambda n: None).columns
    return {name: value_of(metric, name, columns) for name, metric in exam.metrics.items()}


def test_a_model_that_learnt_the_items_by_heart_is_near_1_and_an_untrained_one_near_chance():
    benchmark = BENCHMARKS["arithmetic_1"]()
    (exam,), (some,) = (benchmark.exams(Context(limit=limit), None) for limit in (None, 60))
    torch.manual_seed(0)
    model = build_model({"d_model": 64, "n_layers": 2, "n_heads": 2, "mixer": "gla"}, 257)
    before = score(model, exam)
    assert 0.12 < before["acc"] < 0.38 and before["exact_match"] < 0.05
    lines = [f"{q.prompt} {q.answer}\n".encode() for q in benchmark.draw()[:60]]
    tokens = torch.tensor([[*line, *[10] * (12 - len(line))] for line in lines])
    targets = tokens[:, 1:].clone()
    targets[:, :6] = -100  # the questions themselves cannot be foreseen
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for _ in range(200):
        loss = model.loss_sum(tokens[:, :-1], targets)
        optimizer.zero_grad()
        (loss / len(lines)).backward()
        optimizer.step()
    after = score(model, some)
    assert after["acc"] > 0.97 and after["exact_match"] > 0.97
