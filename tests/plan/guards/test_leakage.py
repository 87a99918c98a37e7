"""Validation that was trained on is found in the packed tokens themselves."""

import json
import random
import re

import pytest

from attnlab import run_experiment
from attnlab.config.trial import TaskConfig
from attnlab.plan.guards import leakage
from attnlab.plan.guards.run import run_guards
from attnlab.plan.load import resolve
from attnlab.plan.prepare import prepare_tasks
from attnlab.tasks import build_task
from attnlab.util.errors import UserError
from tests.plan.guards.conftest import TRIAL


def words(seed, n):
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(n))


def write(folder, train, validation):
    for name, documents in {"train": train, "validation": validation}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
    return {"name": "text", "dataset": str(folder), "validation": "validation", "tokenizer": "bytes", "seq_len": 256}


def judged(task):
    return leakage.judge(build_task(TaskConfig(**task), batch_size=4, seed=0).leakage())


def test_clean_text_is_clean(tmp_path):
    task = write(tmp_path, [words(i, 300) for i in range(10)], [words(99, 300)])
    assert judged(task) == ([], [])
    found = build_task(TaskConfig(**task), batch_size=4, seed=0).leakage()
    assert found["in_training"] == found["tokens_in_training"] == 0 and found["tokens"] > 1000 and found["copies"] == 0


def test_a_document_copied_with_one_letter_changed_is_found(tmp_path):
    train = [words(i, 300) for i in range(10)]
    (error,), _ = judged(write(tmp_path, train, ["x" + train[3][1:]]))
    assert "of the 7 sequences validated on occur whole in the training tokens" in error
    assert error.partition("; such as '")[2].rstrip("'") in train[3], "a passage is shown"


def test_short_copies_are_found_in_their_runs(tmp_path):
    train = [words(i, 50) for i in range(200)]  # of 300 bytes, where a sequence validated on has 1024
    task = write(tmp_path, train, [f"{words(i, 1)}{train[i]}" for i in range(60)])
    (error,), _ = judged({**task, "seq_len": 1024})
    assert "of validation's tokens lie in runs of 201 that occur in training" in error


def test_a_few_passages_in_common_are_a_warning(tmp_path):
    train = [words(i, 300) for i in range(10)]
    task = write(tmp_path, train, [words(50 + i, 300) for i in range(9)] + [train[0][50:550]])
    errors, (warning,) = judged({**task, "seq_len": 512})
    assert errors == [] and "the two share passages" in warning
    shown = re.search(r"; such as '([a-z ]{50,60})'$", warning)[1]
    assert shown in train[0]


def figures(share=0.0, tokens=0.0, window=256, copies=0):
    """What a task of text measures, of a thousand sequences."""
    return {"in_training": share, "windows": 1000, "tokens_in_training": tokens, "span_tokens": 200,
            "window_tokens": window, "copies": copies, "documents": 30}  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "errors", "warnings"),
    [
        (figures(), 0, 0),
        (figures(share=0.001), 0, 1),
        (figures(share=0.01), 0, 1),  # one sequence in a hundred is tolerated, and told
        (figures(share=0.011), 1, 0),
        (figures(share=0.011, window=200), 1, 0),
        (figures(share=0.9, window=199), 0, 0),  # too short to show copying
        (figures(tokens=0.01), 0, 0),
        (figures(tokens=0.011), 0, 1),
        (figures(tokens=0.5), 0, 1),
        (figures(tokens=0.51), 1, 0),  # half of the tokens in shorter runs
        (figures(share=0.9, tokens=0.51, window=199), 1, 0),
        (figures(share=0.01, tokens=0.5), 0, 2),
        (figures(copies=1), 0, 1),
        (figures(share=0.02, copies=1), 1, 1),
        ({"in_training": 0.0, "windows": 9, "held_out": True}, 0, 0),
        ({"in_training": 0.001, "windows": 9, "held_out": True}, 1, 0),
        ({"in_training": 0.001, "windows": 9, "held_out": False}, 0, 1),
        ({"in_training": 0.0, "windows": 9, "held_out": False}, 0, 0),
    ],
)
def test_the_limits_of_what_is_tolerated(measured, errors, warnings):
    found = leakage.judge(measured)
    assert (len(found[0]), len(found[1])) == (errors, warnings)
    assert all("%" in line for lines in found for line in lines), "each says how much"


class Measured:
    def __init__(self, measured):
        self.measured, self.asked = measured, 0

    def leakage(self):
        self.asked += 1
        return self.measured


def test_each_task_is_measured_once_and_its_arms_are_named():
    leaking, clean, none = Measured(figures(share=0.5, copies=1)), Measured(figures()), Measured({})
    found = leakage.find({"a": leaking, "b": clean, "c": leaking, "d": none})
    assert [line.partition(":")[0] for line in found.errors + found.warnings] == ["arms.a.task", "arms.a.task"]
    assert [row["arms"] for row in found.record] == [["a", "c"], ["b"], ["d"]]
    assert found.record[0]["in_training"] == 0.5 and found.record[2] == {"arms": ["d"]}
    assert (leaking.asked, clean.asked) == (1, 1)
    alone = leakage.find({"a": leaking, "c": leaking})
    assert [line.partition(":")[0] for line in alone.errors + alone.warnings] == ["task", "task"]


def test_copies_that_were_left_out_are_told(tmp_path):
    train = [words(i, 100) for i in range(10)]
    errors, (warning,) = judged(write(tmp_path, train, [train[2], words(77, 300), words(78, 300)]))
    assert errors == [] and warning.startswith("1 of 3 validation documents (33.3%) were training documents as well")


def test_the_sweep_and_the_experiment_refuse_it_before_anything_is_written(tmp_path):
    train = [words(i, 300) for i in range(10)]
    task = write(tmp_path, train, ["x" + train[3][1:]])
    tree = {**TRIAL, "task": task}
    sweep = resolve({"name": "x", "trial": tree, "arms": {"a": {}, "b": {"optim": {"lr": 0.1}}}})
    with pytest.raises(UserError, match="^task: .*of the 7 sequences validated on occur whole"):
        run_guards(sweep, prepare_tasks(sweep))
    with pytest.raises(UserError, match="occur whole in the training tokens"):
        run_experiment(tree, tmp_path / "results", device="cpu")
    assert not (tmp_path / "results").exists()


def test_the_corpus_that_comes_with_attnlab_is_clean():
    task = build_task(TaskConfig(name="text", tokenizer="bytes", seq_len=512), batch_size=4, seed=0)
    assert leakage.judge(task.leakage()) == ([], [])


def test_rows_of_a_task_with_too_few_of_them_are_told():
    assert judged({"name": "parity", "seq_len": 16}) == ([], [])
    errors, (warning,) = judged({"name": "parity", "seq_len": 3})
    assert errors == [] and "too few rows exist to hold any out: 100.0% of the" in warning


def test_a_task_that_breaks_its_promise_is_refused(monkeypatch):
    task = build_task(TaskConfig(name="parity", seq_len=16), batch_size=64, seed=0)
    monkeypatch.setattr(task, "batch", lambda step: task.eval_examples(64))
    (error,), _ = leakage.judge(task.leakage())
    assert "though the task holds them out" in error


def test_of_a_large_corpus_it_is_looked_up_once(tmp_path, monkeypatch):
    from attnlab.tasks import text

    monkeypatch.setattr(text, "KEEP_BEYOND", 100)
    config = TaskConfig(**write(tmp_path, [words(i, 300) for i in range(10)], [words(99, 300)]))
    first = build_task(config, batch_size=4, seed=0).leakage()
    monkeypatch.setattr(text, "contained", None)
    assert build_task(config, batch_size=4, seed=0).leakage() == first
