import numpy as np
import pytest

from attnlab.config.trial import TaskConfig
from attnlab.tasks import IGNORE, build_task, check_task
from attnlab.tasks.mqar import distinct


def build(**settings):
    return build_task(TaskConfig(name="mqar", **settings), batch_size=64, seed=0)


def solve(inputs, n_pairs):
    """The answer to every token after the pairs: the value its key came with, -100 for what was no key."""
    answers = np.full_like(inputs, IGNORE)
    for row, tokens in enumerate(inputs):
        pairs = dict(zip(tokens[0 : 2 * n_pairs : 2], tokens[1 : 2 * n_pairs : 2], strict=True))
        for t in range(2 * n_pairs, len(tokens)):
            answers[row, t] = pairs.get(tokens[t], IGNORE)
    return answers


@pytest.mark.parametrize("settings", [{}, {"n_pairs": 16}, {"vocab_size": 40, "n_pairs": 16}, {"n_train": 100}])
def test_every_answer_follows_from_the_prompt(settings):
    task = build(seq_len=64, **settings)
    for inputs, targets in (task.batch(0), task.eval_examples()):
        assert (solve(inputs, task.n_pairs) == targets).all()
        assert ((targets != IGNORE).sum(1) == task.n_pairs).all()


def test_with_random_fill_the_answers_follow_too():
    inputs, targets = build(seq_len=64, random_fill=True).batch(0)
    assert (solve(inputs, 8) == targets)[targets != IGNORE].all()
    assert (inputs[:, 16:] == 0).mean() < 0.01


def test_keys_and_values_are_distinct_and_from_their_halves():
    inputs, targets = build(seq_len=64, vocab_size=41, n_pairs=16).batch(0)
    for row, asked in zip(inputs, targets, strict=True):
        keys, values = set(row[0:32:2]), set(row[1:32:2])
        assert len(keys) == len(values) == 16 and min(keys) >= 1 and max(keys) < 20 <= min(values) and max(values) < 41
        assert set(asked[asked != IGNORE]) == values


@pytest.mark.parametrize("power_a", [0.01, 1.0])
def test_the_first_gap_follows_the_power_law(power_a):
    task = build(seq_len=64, n_pairs=1, power_a=power_a, n_eval=20000)
    gaps = (task.eval_examples().targets != IGNORE).argmax(1) // 2 - 1
    p = np.arange(1, 32) ** (power_a - 1)
    wanted, found = p / p.sum(), np.bincount(gaps, minlength=31) / 20000
    assert (abs(found - wanted) < 5 * np.sqrt(wanted / 20000)).all()  # five standard errors


@pytest.mark.parametrize(("n", "below"), [(1, 4), (2, 9), (5, 6), (3, 100)])
def test_distinct_is_uniform(n, below):
    drawn = distinct(np.random.default_rng(0), 20000, n, below)
    assert all(len(set(row)) == n for row in drawn.tolist())
    for column in drawn.T:
        counts = np.bincount(column, minlength=below)
        assert len(counts) == below and (abs(counts - 20000 / below) < 5 * np.sqrt(20000 / below)).all()


def test_a_training_set_comes_once_per_epoch_and_is_the_same_for_every_seed():
    sets = []
    for seed in (0, 1):
        task = build_task(TaskConfig(name="mqar", seq_len=64, n_train=128), batch_size=64, seed=seed)
        sets.append(sorted(map(tuple, np.concatenate([task.batch(s).inputs for s in (0, 1)]).tolist())))
    assert sets[0] == sets[1] and len(set(sets[0])) == 128


def test_no_validation_example_is_trained_on():
    task = build(seq_len=64)
    held = set(map(tuple, task.eval_examples().inputs.tolist()))
    assert not any(tuple(row) in held for step in range(50) for row in task.batch(step).inputs.tolist())


def test_baselines():
    assert build(seq_len=64).baselines() == pytest.approx(
        {"chance_accuracy": 1 / 4096, "prompt_value_accuracy": 1 / 8, "chance_loss": np.log(4096)}
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_pairs": 17}, "n_pairs: 17 pairs and their queries need seq_len 68, not 64; at most 16 fit"),
        ({"n_pairs": 0}, "n_pairs: at least 1, not 0"),
        ({"vocab_size": 16}, "vocab_size: 8 distinct keys need at least 18, not 16"),
        ({"power_a": 0.0}, "power_a: above 0, not 0.0"),
        ({"n_train": 0}, "n_train: at least 1"),
        ({"n_eval": 0}, "n_eval: at least 1, not 0"),
    ],
)
def test_mistakes(settings, says):
    (problem,) = check_task(TaskConfig(name="mqar", seq_len=64, **settings))
    assert problem.startswith(says)
