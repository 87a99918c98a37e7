"""What all synthetic tasks share: held-out validation, other lengths, kinds of targets, baselines."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from attnlab.config.trial import TaskConfig
from attnlab.plan.load import resolve
from attnlab.tasks import IGNORE, TASKS, build_task, check_task, metrics_of
from attnlab.training.evaluate import evaluate
from attnlab.util.errors import UserError

SYNTHETIC = sorted(set(TASKS) - {"text"})
LENGTHLESS = {"memorization", "compression"}


def build(name, batch_size=64, seed=0, **args):
    return build_task(TaskConfig(name=name, **args), batch_size=batch_size, seed=seed)


def rows(inputs):
    return set(map(tuple, inputs.tolist()))


@pytest.mark.parametrize("n_train", [None, 500])
@pytest.mark.parametrize(
    "args",
    [
        {"name": "parity", "seq_len": 8, "min_length": 8},  # 256 rows
        {"name": "parity", "seq_len": 10},
        {"name": "induction", "seq_len": 5, "vocab_size": 5},
        {"name": "copy", "seq_len": 6, "vocab_size": 12},
        {"name": "selective_copy", "seq_len": 7, "vocab_size": 8, "n_copy": 2},
        {"name": "in_context_recall", "seq_len": 8, "vocab_size": 6},
        {"name": "mqar", "seq_len": 8, "vocab_size": 12, "n_pairs": 2},
        {"name": "modular_arithmetic", "seq_len": 6},
        {"name": "memorization", "seq_len": 4, "vocab_size": 32},
    ],
    ids=str,
)
def test_in_small_spaces_no_validation_row_is_ever_trained_on(args, n_train):
    held, trained = set(), set()
    for seed in (0, 1):
        task = build(**args, seed=seed, n_train=n_train)
        held |= rows(task.eval_examples().inputs)
        trained |= set().union(*(rows(task.batch(step).inputs) for step in range(60)))
    assert task.describe()["held_out"] is True
    assert len(held) == len(task.eval_examples().inputs) == task.describe()["n_eval"] > 4  # the same, and distinct
    assert len(trained) > len(held) and not held & trained


def test_a_shorter_evaluation_length_shares_no_string_with_training():
    task = build("parity", seq_len=12, eval_seq_lens=[9])
    short = {tuple(x for x in row if x) for row in task.lengths()["_T9"].eval_examples().inputs.tolist()}
    strings = {tuple(x for x in row if x) for step in range(50) for row in task.batch(step).inputs.tolist()}
    assert len(short) > 10 and not short & strings and any(len(s) == 9 for s in strings)


def test_a_space_too_small_to_be_parted_says_so():
    task = build("parity", seq_len=3)  # eight strings
    assert task.describe()["held_out"] is False and task.describe()["n_eval"] <= 8
    assert rows(task.batch(0).inputs) == rows(task.eval_examples().inputs)


@pytest.mark.parametrize("name", sorted(set(SYNTHETIC) - LENGTHLESS))
def test_other_lengths(name):
    config = TaskConfig(name=name, seq_len=48, eval_seq_lens=[64, 128], n_eval=100)
    task = build_task(config, batch_size=4, seed=0)
    assert task.metrics == metrics_of(config) and {"val_loss", "val_accuracy_T64", "val_loss_T128"} < set(task.metrics)
    for n in (48, 64, 128):
        at = task.lengths()["" if n == 48 else f"_T{n}"]
        batches = list(at.eval_batches(32))
        assert {b.inputs.shape for b in batches} == {(32, n)}
        assert sum((b.targets != IGNORE).any(1).sum() for b in batches) == len(at.eval_examples().inputs) > 80
    assert task.batch(0).inputs.shape == (4, 48)


def test_longer_strings_fill_the_length():
    for name in ("parity", "modular_arithmetic", "copy"):
        task = build(name, seq_len=16, eval_seq_lens=[64])
        inputs, targets = task.lengths()["_T64"].eval_examples()
        assert ((inputs != 0).sum(1) >= 63).all() and (targets[:, -2:] != IGNORE).any(1).all()
        used = (task.batch(0).inputs != 0).sum(1)
        assert len(set(used.tolist())) > 4


@pytest.mark.parametrize("name", SYNTHETIC)
def test_baselines_are_what_a_guess_scores(name):
    task = build(name, seq_len=64, n_eval=2000, batch_size=512)
    targets = task.eval_examples().targets
    answers = targets[targets != IGNORE]
    chance = task.baselines()["chance_accuracy"]
    guesses = np.bincount(answers, minlength=task.vocab_size) / len(answers)  # how often the one best guess is right
    assert chance <= guesses.max() < 1.35 * chance + 0.02
    assert task.baselines()["chance_loss"] == pytest.approx(-math.log(chance))


def test_kinds_of_fuzzy_recall_are_its_keys_lengths():
    task = build("fuzzy_recall", seq_len=96, key_size=3)
    batch = task.eval_examples()
    kinds = task.kinds(batch)
    for inputs, targets, kind in zip(batch.inputs, batch.targets, kinds, strict=True):
        for t in np.flatnonzero(targets != IGNORE):
            end = t
            while inputs[end] >= task.n_keys:
                end -= 1
            start = end
            while start and inputs[start - 1] < task.n_keys:
                start -= 1
            assert kind[t] == end - start
    assert {*np.unique(kinds[batch.targets != IGNORE])} == {0, 1, 2}


def test_passkeys_stand_at_the_chosen_depths():
    task = build("passkey", seq_len=111, depths=[0.0, 0.5, 1.0], n_eval=300, eval_seq_lens=[211])
    for at, last in ((task, 100), (task.lengths()["_T211"], 200)):
        batch = at.eval_examples()
        places = (batch.inputs == 10).argmax(1)
        assert {*places.tolist()} == {0, last // 2, last}
        assert (at.kinds(batch)[:, 0] == np.searchsorted([0, last // 2, last], places)).all()
    assert len({*(task.batch(0).inputs == 10).argmax(1).tolist()}) > 20


class Guess(torch.nn.Module):
    """Answers from a table, by the shape of the batch and its number among those of that shape."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def hidden(self, inputs):
        self.shapes.append(tuple(inputs.shape))
        return self.table[tuple(inputs.shape)][len([s for s in self.shapes if s == tuple(inputs.shape)]) - 1]

    def head(self, hidden):
        return hidden


def test_scores_by_kind_and_length():
    task = build("passkey", seq_len=32, n_digits=2, depths=[0.0, 1.0], n_eval=50, eval_seq_lens=[64])
    table, expected = {}, {}
    rng = np.random.default_rng(0)
    for ending, at in task.lengths().items():
        batch_size = 8 * 32 // at.seq_len
        answers, right = [], {"": [], "depth0": [], "depth100": []}
        for batch in at.eval_batches(batch_size):
            logits = rng.normal(size=(*batch.inputs.shape, task.vocab_size))
            answers.append(torch.from_numpy(logits))
            asked = batch.targets != IGNORE
            hit = logits.argmax(-1) == batch.targets
            kinds = at.kinds(batch)
            right[""] += hit[asked].tolist()
            right["depth0"] += hit[asked & (kinds == 0)].tolist()
            right["depth100"] += hit[asked & (kinds == 1)].tolist()
        table[(batch_size, at.seq_len)] = answers
        for kind, hits in right.items():
            expected["val_accuracy" + (kind and f"_{kind}") + ending] = np.mean(hits)
    model = Guess(table)
    model.shapes = []
    scores = evaluate(model, task, device=torch.device("cpu"), batch_size=8, autocast=nullcontext)
    assert set(scores) == {name + end for name in task.metrics for end in ("", "_se")}
    assert {k: scores[k] for k in expected} == pytest.approx(expected) and len(expected) == 6
    assert set(expected) < set(task.metrics)


def sweep(metric, **task):
    return {
        "name": "s",
        "trial": {"task": {"name": "passkey", "seq_len": 64, **task}, "train": {"max_steps": 100}},
        "arms": {"a": {"model": {"mixer": "gla"}}},
        "search": {"space": {"optim.lr": {"loguniform": [1e-3, 1e-1]}}, "metric": metric, "mode": "max", "asha": None},
    }


def test_search_metric_takes_the_names_of_lengths_and_kinds():
    for metric in ("val_accuracy_T128", "val_accuracy_depth50", "val_accuracy_depth50_T128"):
        assert resolve(sweep(metric, eval_seq_lens=[128])).metric == metric
    with pytest.raises(UserError) as error:
        resolve(sweep("val_accuracy_T256", eval_seq_lens=[128]))
    assert error.value.problems[0].endswith("has no metric 'val_accuracy_T256'; did you mean 'val_accuracy_T128'?")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "parity", "eval_seq_lens": [64]}, "eval_seq_lens: 64 is seq_len, which val_accuracy tells of"),
        ({"name": "parity", "eval_seq_lens": [9, 9]}, "eval_seq_lens: distinct lengths of at least 1, not [9, 9]"),
        ({"name": "parity", "eval_seq_lens": 9}, "eval_seq_lens: a list of whole numbers or null, not 9"),
        ({"name": "parity", "ask": "first"}, "ask: last or every, not 'first'"),
        ({"name": "parity", "min_length": 65}, "min_length: at most seq_len 64, not 65"),
        (
            {"name": "mqar", "eval_seq_lens": [16]},
            "eval_seq_lens: 16 is too short; n_pairs: 8 pairs and their queries need seq_len 32, not 16; at most 4 fit",
        ),
        ({"name": "copy", "min_length": 40}, "min_length: strings of 40 need seq_len 80, not 64"),
        ({"name": "copy", "vocab_size": 3}, "vocab_size: at least 4, not 3"),
        ({"name": "induction", "vocab_size": 2}, "vocab_size: at least 3, not 2"),
        ({"name": "selective_copy", "n_copy": 32}, "n_copy: 32 tokens and their copies need seq_len 65, not 64"),
        ({"name": "in_context_recall", "vocab_size": 3}, "vocab_size: at least 4, not 3"),
        ({"name": "noisy_recall", "noise_ratio": 1.0}, "noise_ratio: from 0 to below 1, not 1.0"),
        ({"name": "noisy_recall", "vocab_size": 19}, "vocab_size: at least 20, not 19"),
        (
            {"name": "fuzzy_recall", "key_size": 8},
            "vocab_size: at least 17 for motifs of distinct tokens, not 16",
        ),
        ({"name": "memorization", "seq_len": 63}, "seq_len: an even number, not 63"),
        ({"name": "memorization", "eval_seq_lens": [32]}, "eval_seq_lens: null, not [32]"),
        ({"name": "modular_arithmetic", "operators": "+/"}, "operators: some of +-*, each once, not '+/'"),
        ({"name": "modular_arithmetic", "modulus": 1}, "modulus: at least 2, not 1"),
        ({"name": "passkey", "depths": [0.5, 2.0]}, "depths: distinct numbers from 0 to 1, not [0.5, 2.0]"),
        ({"name": "passkey", "n_digits": 40}, "seq_len: at least 86 for 40 digits at 5 depths, not 64"),
    ],
    ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else None,
)
def test_mistakes(settings, says):
    assert check_task(TaskConfig(**{"seq_len": 64} | settings)) == [says]
