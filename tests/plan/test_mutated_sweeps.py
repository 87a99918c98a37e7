"""A mutated sweep file gives a plan, or short lines that say what is wrong. `tools/mutate_sweeps.py` runs thousands."""

import pytest

from attnlab.plan.load import load
from attnlab.util.errors import UserError
from tests.tools.mutate_sweeps import LONGEST, wrong

GOOD = """
name: study
trial:
  model: {d_model: 32, n_layers: 1, n_heads: 2, mixer: {name: gla, expand_k: 0.5}}
  task: {name: text, seq_len: 64}
  train: {max_steps: 40, eval_every: 10}
arms: {a: {}, b: {optim.lr: 0.1}}
search:
  space: {optim.weight_decay: {uniform: [0, 1]}}
  asha: {grace_steps: 10, reduction_factor: 2}
"""


@pytest.mark.parametrize("number", range(120))
def test_a_mutant_ends_in_a_plan_or_in_short_lines(tmp_path, number):
    assert wrong(number, tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 5000, 500))
def test_thousands_of_mutants_do(tmp_path, first):
    found = {number: problem for number in range(first, first + 500) if (problem := wrong(number, tmp_path))}
    assert not found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a: {}", "a: {differs: [[a]]}", "arms.a.differs: no factor ['a']"),
        ("a: {}", "a: {differs: 3}", "arms.a.differs: a list of factors"),
        ("a: {}", "a: {search: [1]}", "arms.a.search: a mapping"),
        ("a: {}", "a: {search.space: [1]}", "arms.a.search.space: a mapping"),
        ("a: {}", "[a]: {}", "a list as a key"),
        ("{a: {}, b: {optim.lr: 0.1}}", "3", "arms: a mapping, not 3"),
        ("{optim.weight_decay: {uniform: [0, 1]}}", "[1]", "search.space: a mapping, not [1]"),
        ("expand_k: 0.5", "expand_k: .inf", "trial.model.mixer.expand_k: a finite number, not inf"),
        ("seq_len: 64", f"seq_len: 64, dataset: {'x' * 300}", "dataset"),
        ("seq_len: 64", f"seq_len: 64, dataset: /{'x' * 300}", "dataset: no file or folder /xxx"),
        ("seq_len: 64", f"seq_len: 64, tokenizer: ~{'x' * 300}", "tokenizer: no file ~xxx"),
        ("seq_len: 64", 'seq_len: 64, dataset: "a\\x1b[31m\\n\\0b"', "dataset"),
        ("name: study", f"name: {'s' * 2000}", "name: 'sss"),
        ("d_model: 32", f"d_model: {'9' * 5000}", "a number of 5,000 digits"),
        ("d_model: 32", f"d_model: {'a' * 2000}", "trial.model.d_model: a whole number, not 'aaa"),
        ("32, n_layers: 1, n_heads: 2, mixer: {name: gla, expand_k: 0.5}", f"{10**7 - 1}", "by n_heads 4"),
        ("expand_k: 0.5", "expand_k: 1.0e+308", "expand_k is 1e+308, but should be within"),
        ("n_heads: 2, mixer: {name: gla, expand_k: 0.5}", "n_heads: 99, mixer: mamba2", "99 and its arguments"),
        ("d_model: 32", "d_model: 2020-13-45", "trial.model.d_model: a whole number, not '2020-13-45'"),
        ("d_model: 32", "d_model: !!int abc", "!!int abc is not a whole number"),
        ("n_layers: 1", "n_layers: 1000000000", "trial.model.n_layers: at most 10000, not 1000000000"),
        ("reduction_factor: 2", "reduction_factor: 1.0000000001", "search.asha.reduction_factor: 1 prunes next to"),
        ("arms:", "resources: {int: 3}\narms:", "resources.int: unknown key"),
        ("arms:", "resources: {workers: [1], gpus_per_worker: x}\narms:", "resources.gpus_per_worker: "),
        ("uniform: [0, 1]", f"choice: {list(range(5000))}", "5,000 choices; at most 256"),
        ("a: {}, ", "".join(f"a{i}: {{}}, " for i in range(1001)), "arms: 1,002 of them; at most 1,000"),
    ],
    ids=lambda text: text[:24],
)
def test_what_ended_in_something_else_is_a_line(tmp_path, old, new, said):
    file = tmp_path / "s.yaml"
    assert old in GOOD
    file.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as error:
        load(file)
    lines = error.value.problems
    assert any(said in line for line in lines), lines
    assert all(line.isprintable() and len(line) < LONGEST + len(str(file)) for line in lines)
