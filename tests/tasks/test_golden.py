"""The rows in the tasks' docstrings are rows the tasks draw, and every answer follows from its prompt alone."""

import ast
import importlib
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config.trial import TaskConfig
from attnlab.tasks import IGNORE, TASKS, build_task

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden_rows.json"  # written by tests/tools/record_golden.py
SYNTHETIC = sorted(set(TASKS) - {"text"})


def build(name, batch_size=16, seed=0, **args):
    return build_task(TaskConfig(name=name, **args), batch_size=batch_size, seed=seed)


# Solvers: (inputs of one row, the task) -> {position: answer}, for every position with a target. None reads a target.


def mqar(row, task):
    pairs = dict(zip(row[0 : 2 * task.n_pairs : 2], row[1 : 2 * task.n_pairs : 2], strict=True))
    return {t: pairs[x] for t, x in enumerate(row) if t >= 2 * task.n_pairs and x in pairs}


def induction(row, task):
    return {len(row) - 1: row[row.index(0) + 1]}


def copy(row, task):
    middle = row.index(1)
    return {middle + i: x for i, x in enumerate(row[:middle])}


def selective_copy(row, task):
    at = row.index(task.vocab_size - 1)
    return {at + 1 + i: x for i, x in enumerate(x for x in row[:at] if x < task.vocab_size - 2)}


def in_context_recall(row, task):
    seen, answers = {}, {}
    for t in range(0, len(row), 2):
        if row[t] < task.n_keys:
            if row[t] in seen:
                answers[t] = seen[row[t]]
            if t + 1 < len(row):
                seen[row[t]] = row[t + 1]
    return answers


def fuzzy_recall(row, task):
    words = "".join("pkv"[(x < task.vocab_size - 1) + (task.n_keys <= x < task.vocab_size - 1)] for x in row)
    seen, answers = {}, {}
    for pair in re.finditer("(k+)(v*)", words):
        key, value = tuple(row[slice(*pair.span(1))]), row[slice(*pair.span(2))]
        for i, x in enumerate(seen.get(key, [])):
            answers[pair.end(1) - 1 + i] = x
        seen.setdefault(key, value)
    return answers


def memorization(row, task):
    return {t: int(task.facts[row[t - 1]]) for t in range(1, len(row), 2)}


def compression(row, task):
    return dict(enumerate(row[:-1]))  # given the last position's knowledge of the row, which is what is trained


def parity(row, task):
    bits = [x - 1 for x in row if x]
    asked = range(len(bits)) if task.ask == "every" else [len(bits) - 1]
    return {t: 1 + sum(bits[: t + 1]) % 2 for t in asked}


def modular_arithmetic(row, task):
    m, end = task.modulus, row.index(task.id_of("="))
    text = "".join(str(x - 1) if x <= m else "+-*()"[x - 1 - m] for x in row[:end])
    return {end: 1 + eval(text) % m}


def passkey(row, task):
    at = row.index(10) + 1
    return {len(row) - task.n_digits + i: row[at + i] for i in range(task.n_digits)}


SOLVERS = {
    "mqar": mqar,
    "induction": induction,
    "copy": copy,
    "selective_copy": selective_copy,
    "in_context_recall": in_context_recall,
    "noisy_recall": in_context_recall,
    "fuzzy_recall": fuzzy_recall,
    "memorization": memorization,
    "compression": compression,
    "parity": parity,
    "modular_arithmetic": modular_arithmetic,
    "passkey": passkey,
}
small = st.integers
HARD = {  # settings that fit 48 positions
    "mqar": {"vocab_size": small(26, 60), "n_pairs": small(1, 12)},
    "induction": {"vocab_size": small(3, 40)},
    "copy": {"vocab_size": small(4, 40), "min_length": small(1, 24)},
    "selective_copy": {"vocab_size": small(4, 40), "n_copy": small(1, 23)},
    "in_context_recall": {"vocab_size": small(4, 40)},
    "noisy_recall": {"vocab_size": small(12, 40), "noise_vocab_size": small(1, 8), "noise_ratio": st.floats(0, 0.99)},
    "fuzzy_recall": {"vocab_size": small(11, 40), "key_size": small(1, 4), "value_size": small(1, 4)},
    "memorization": {"vocab_size": small(5, 99), "fact_seed": small(0, 9)},
    "compression": {"vocab_size": small(3, 99)},
    "parity": {"min_length": small(1, 48), "ask": st.sampled_from(["last", "every"])},
    "modular_arithmetic": {
        "modulus": small(2, 9),  # one digit each, for the solver's text
        "brackets": st.booleans(),
        "operators": st.sampled_from(["+", "-", "*", "+-", "*-", "+-*"]),
        "min_length": small(1, 46),
    },
    "passkey": {"vocab_size": small(13, 80), "n_digits": small(1, 8)},
}


def answers_of(targets):
    return {t: x for t, x in enumerate(targets) if x != IGNORE}


def test_every_solver_is_of_a_task():
    """A task without one is held by the contract alone."""
    assert set(SOLVERS) == set(HARD) <= set(SYNTHETIC)


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=25)
@given(data=st.data())
def test_every_answer_follows_from_its_prompt(name, data):
    args = data.draw(st.fixed_dictionaries(HARD[name]))
    lengths = {} if name in ("memorization", "compression") else {"eval_seq_lens": [96]}
    task = build(name, seq_len=48, n_eval=8, seed=data.draw(st.integers(0, 99)), **args, **lengths)
    for batch in (task.batch(data.draw(st.integers(0, 99))), *(at.eval_examples() for at in task.lengths().values())):
        for row, targets in zip(*(a.tolist() for a in batch), strict=True):
            assert SOLVERS[name](row, task) == answers_of(targets) != {}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_row_in_the_docstring_is_one_of_the_task(name):
    text = importlib.import_module(f"attnlab.tasks.{name}").__doc__
    inputs, targets = (np.array([*map(int, re.search(rf"{k} +(.*)", text)[1].split())]) for k in ("inputs", "targets"))
    args = {k: ast.literal_eval(v) for k, v in re.findall(r"(\w+)=(\d+)", text)}
    task = build(name, **({"min_length": 1} if "min_length" in HARD[name] else {}) | args | {"seq_len": len(inputs)})
    if name == "memorization":
        task.facts = np.array([5, 3, 4])
    assert len(inputs) == len(targets) and max(inputs) < task.vocab_size
    assert SOLVERS[name](inputs.tolist(), task) == answers_of(targets.tolist())
    drawn = task.batch(0)
    assert drawn.inputs.shape == (16, len(inputs))


def rows_of(name):
    """A checksum of some of a task's rows, at its defaults."""
    rows = build(name, batch_size=2, seq_len=48).batch(3)
    return zlib.crc32(rows.inputs.tobytes() + rows.targets.tobytes())


@pytest.mark.parametrize("name", SYNTHETIC)
def test_golden_rows(name):
    """What a seed gives never changes: results of other days stay comparable."""
    golden = json.loads(GOLDEN.read_text())
    if name not in golden:
        pytest.skip("not recorded yet: python tests/tools/record_golden.py")
    assert rows_of(name) == golden[name]
