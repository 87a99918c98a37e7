"""Made-up results folders, tiny exported checkpoints, and benchmark data of a few rows in the hub's schemas."""

import json

import pytest

from analysis.benchmarks.blimp import PHENOMENA
from tests.analysis.fake_results import Fake, fill
from tests.analysis.small import export, words


@pytest.fixture
def fake(tmp_path):
    """An empty sweep of three arms."""
    return Fake(tmp_path)


@pytest.fixture
def full(fake):
    """A sweep with everything in it."""
    return fill(fake)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """mixer -> the path of an exported checkpoint."""
    known = {}

    def get(mixer):
        if str(mixer) not in known:
            known[str(mixer)] = export(tmp_path_factory.mktemp("checkpoint"), mixer)
        return known[str(mixer)]

    return get


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A few rows of everything that comes through lm-eval."""
    home = tmp_path_factory.mktemp("data")

    def write(path, rows):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text("".join(json.dumps(row) + "\n" for row in rows))

    n = range(12)
    write("lambada_openai/test.jsonl", [{"text": words(i, 9 + i)} for i in n])
    write("piqa/validation.jsonl", [
        {"goal": words(i, 6), "sol1": words(i + 1, 4), "sol2": words(i + 2, 5), "label": i % 2}
        for i in n])  # fmt: skip
    write("siqa/validation.jsonl", [
        {"context": words(i, 7), "question": "Why?", "answerA": words(i, 2), "answerB": words(i + 1, 3),
         "answerC": words(i + 2, 2), "label": str(1 + i % 3)} for i in n])  # fmt: skip
    write("hellaswag/validation.jsonl", [
        {"ind": i, "activity_label": "Cooking", "ctx_a": words(i, 8), "ctx_b": "she", "ctx": "", "label": str(i % 4),
         "endings": [words(i + k, 3 + k) for k in range(4)]} for i in n])  # fmt: skip
    write("arc_easy/test.jsonl", [
        {"id": f"q{i}", "question": words(i, 6), "answerKey": "ABCD"[i % 4],
         "choices": {"text": [words(i + k, 2) for k in range(4)], "label": list("ABCD")}} for i in n])  # fmt: skip
    write("winogrande/validation.jsonl", [
        {"sentence": f"{words(i, 4)} _ {words(i + 1, 3)}", "option1": "cat", "option2": "mat", "answer": str(1 + i % 2)}
        for i in n])  # fmt: skip
    for name in PHENOMENA[:3]:
        write(f"blimp/{name}/train.jsonl", [
            {"sentence_good": words(i, 4), "sentence_bad": words(i + 5, 4)} for i in range(2)])  # fmt: skip
    return home
