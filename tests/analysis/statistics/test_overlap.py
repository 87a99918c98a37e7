"""Items that stand in the training text are found, and a benchmark learnt by heart is told from one that was not."""

import csv
import json
import random

import pytest
import torch

from analysis.benchmarks import BENCHMARKS
from analysis.command_line import main
from analysis.statistics import overlap
from attnlab.config.trial import TaskConfig
from attnlab.data.tokenizer import ByteTokenizer
from attnlab.models import build_model
from attnlab.records.paths import TrialDir
from attnlab.tasks import build_task
from attnlab.training import checkpoint
from tests.analysis.fake_results import SWEEP, Fake
from tests.analysis.small import export

LEARNT = 40  # items


def prose(seed, n):
    """n words that no item has."""
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("aeiouklmnprst", k=rng.randint(3, 8))) + "q" for _ in range(n))


def packed(path, text):
    path.write_text(text)
    return build_task(
        TaskConfig(name="text", dataset=str(path), seq_len=8, tokenizer="bytes"), batch_size=1, seed=0
    ).packed


@pytest.fixture
def found(tmp_path, cache):
    """What `scan` says of items, by wordings, of a text with `middle` in it."""

    def get(items, middle):
        text = f"{prose(1, 3000)}\n{middle}\n{prose(2, 3000)}"
        (row,) = overlap.scan({"x": items}, packed(tmp_path / "text.txt", text)).values()
        assert (row["n"], row["seen"]) == (len(items), sum(row["items"])) and row["scanned"] == row["tokens"]
        return row["items"]

    return get


def test_copies_are_found_whatever_their_case_and_punctuation_and_quotations_are_none(found):
    long = "The old harbour master, who had seen many winters, walked slowly down to the quay that morning to look"
    answers = [" for ships", " at the tide"]
    quoted = " ".join(long.split()[:8])
    items = [
        tuple(long + answer for answer in answers),
        ("3 + 4 = 7",),
        ("The clock struck thirteen",),
        (f"{quoted} {prose(3, 30)}",),
        (prose(4, 20),),
        ("",),
    ]
    assert found(items, f"{long} for ships. 3 + 4 = 7. the clock STRUCK; thirteen") == [1, 1, 1, 0, 0, 0]
    assert found(items, f"{long.upper()} 3 - 4 = 7, the clock, struck, never, thirteen") == [1, 0, 0, 0, 0, 0]
    assert found(items, f"{quoted} 3 + 4 = 8")[0] == 0
    assert found(items, "") == [0] * 6


def test_a_copy_that_lies_over_the_border_of_two_stretches_is_found(found, monkeypatch):
    monkeypatch.setattr(overlap, "PIECE_TOKENS", 1 << 10)
    for shift in range(0, 120, 7):
        assert found([(prose(5, 13),)], f"{prose(6, shift)} {prose(5, 13)}") == [1]


def learn(questions):
    """A model that knows the questions by heart, over bytes."""
    torch.manual_seed(0)
    model = build_model({"d_model": 64, "n_layers": 2, "n_heads": 2, "mixer": "gla"}, 257)
    lines = [f"{q.prompt} {q.answer}\n".encode() for q in questions]
    longest = max(map(len, lines))
    tokens = torch.tensor([[*line, *[10] * (longest - len(line))] for line in lines])
    targets = tokens[:, 1:].clone()
    for row, q in zip(targets, questions, strict=True):
        row[: len(q.prompt) - 1] = -100
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (model.loss_sum(tokens[:, :-1], targets) / len(lines)).backward()
        optimizer.step()
    return model


def test_an_arm_trained_on_the_items_is_told_by_its_text_and_not_by_its_loss(tmp_path, cache, capsys):
    questions = BENCHMARKS["arithmetic_1"]().draw()[:LEARNT]
    leak = "\n".join(f"{q.prompt} {q.answer}" for q in questions)
    for name, middle in (("leaky", leak), ("clean", "")):
        (tmp_path / f"{name}.txt").write_text(f"{prose(1, 3000)}\n{middle}\n{prose(2, 3000)}")
    tree = {key: value for key, value in SWEEP.items() if key not in ("search", "confirm")}
    task = {"name": "text", "seq_len": 32, "tokenizer": "bytes"}
    model = {"d_model": 64, "n_layers": 2, "n_heads": 2, "mixer": "gla"}
    arms = {name: {"task": {"dataset": str(tmp_path / f"{name}.txt")}} for name in ("leaky", "clean")}
    fake = Fake(tmp_path, {**tree, "trial": {**SWEEP["trial"], "task": task, "model": model}, "arms": arms})
    tokenizer = ByteTokenizer()
    home = fake.trial("leaky", 3.0)
    checkpoint.export(TrialDir(home.path), learn(questions), tokenizer.json, tokenizer.eos_id)
    export(fake.trial("clean", 3.0).path, "gla", d_model=64)

    names = ["arithmetic_1", "word_association"]
    assert main([str(fake.path), "--device", "cpu", "--limit", str(LEARNT), "--benchmarks", *names]) == 0
    assert "share the lowest val_loss, 3.0000" in capsys.readouterr().out
    results = json.loads((fake.path / "analysis" / "benchmark_results.json").read_text())["arms"]
    told = {(arm, name): row["benchmarks"][name]["overlap"]["seen"] for arm, row in results.items() for name in names}
    assert told == {("leaky", names[0]): LEARNT, ("leaky", names[1]): 0, ("clean", names[0]): 0, ("clean", names[1]): 0}
    assert results["leaky"]["benchmarks"]["arithmetic_1"]["value"] > 0.9
    page = (fake.path / "analysis" / "report.html").read_text()
    assert f"arithmetic_1: {LEARNT} of {LEARNT} items stand word for word in the text that leaky was trained on" in page
    rows = list(csv.DictReader((fake.path / "analysis" / "benchmarks.csv").read_text().splitlines()))
    assert [row["seen"] for row in rows] == [f"leaky {LEARNT} of {LEARNT}, clean 0 of {LEARNT}", f"0 of {LEARNT}"]
    flat = json.loads((fake.path / "all_benchmark_results.json").read_text())
    assert {row["overlap"]["seen"] for row in flat} == {0, LEARNT} and "items" not in flat[0]["overlap"]
    for kept in (fake.path / "analysis" / "benchmarks").glob("overlap-*.json"):
        kept.write_text("{")
    (tmp_path / "leaky.txt").unlink()
    assert main([str(fake.path), "--device", "cpu", "--limit", str(LEARNT), "--benchmarks", *names]) == 0
    assert "warning: overlap: the training text cannot be had" in capsys.readouterr().err
