import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from attnlab.config.trial import TaskConfig
from attnlab.tasks import build_task, check_task, metrics_of


def build(**settings):
    return build_task(TaskConfig(name="text", **settings), batch_size=8, seed=0)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {i} of the book\n" for i in range(2000)))
    return str(path)


def test_targets_are_the_next_tokens_of_the_text(book):
    task = build(dataset=book, seq_len=32, tokenizer="bytes")
    text = Path(book).read_text(encoding="utf-8")
    for inputs, targets in zip(*task.batch(0), strict=True):
        assert (inputs[1:] == targets[:-1]).all()
        assert bytes(inputs.astype(np.uint8)).decode() in text


def test_windows_of_the_two_splits_share_no_position(book):
    task = build(dataset=book, seq_len=32, tokenizer="bytes", eval_tokens=10**6)
    train, validation = task.packed.train, task.packed.validation
    whole = Path(book).read_text(encoding="utf-8").encode()
    assert bytes(train[:-1].astype(np.uint8)) + bytes(validation[:-1].astype(np.uint8)) == whole  # the two are disjoint
    steps = (len(train) - 1) // 32 // 8 + 1
    trained = {int(n) for step in range(steps) for row in task.batch(step).targets for n in numbers(row)}
    asked = {int(n) for row in task.eval_examples().targets for n in numbers(row)}
    assert len(asked) > 50 and max(trained) < min(asked)  # line numbers only grow


def numbers(row):
    """The complete line numbers in a window of bytes."""
    words = bytes(row[row < 256].astype(np.uint8)).decode().split("line ")[1:]
    return [w.split(" ")[0] for w in words if " " in w]


def test_evaluation_is_spread_over_the_validation_split():
    task = build(seq_len=64, eval_tokens=640)
    inputs = task.eval_examples().inputs
    assert inputs.shape == (10, 64)
    blocks = (len(task.packed.validation) - 1) // 64
    for i, row in enumerate(inputs):
        start = i * blocks // 10 * 64
        assert (row == task.packed.validation[start : start + 64]).all()
    assert task.eval_examples(3).inputs.shape == (3, 64)


def test_bytes_per_token_and_baselines():
    task = build(seq_len=64, tokenizer="bytes")
    assert task.bytes_per_token == pytest.approx(1, abs=1e-4)
    assert task.baselines()["uniform_loss"] == math.log(257)
    bpe = build(seq_len=64)
    assert 3 < bpe.bytes_per_token < 5 and bpe.vocab_size == 4096
    assert 0 < bpe.baselines()["unigram_loss"] < bpe.baselines()["uniform_loss"]


def test_corpora_too_short_for_one_block(tmp_path, book):
    (tmp_path / "short.txt").write_text("few words, " * 20)
    with pytest.raises(
        ValueError, match=r"the train split has 2\d\d tokens, fewer than one block of seq_len \+ 1 = 513"
    ):
        build(dataset=str(tmp_path / "short.txt"), seq_len=512, tokenizer="bytes").prepare()
    with pytest.raises(ValueError, match="the validation split has .* seq_len at most"):
        build(dataset=book, seq_len=8192, tokenizer="bytes", eval_tokens=8192).prepare()


def test_fewer_blocks_than_a_batch(tmp_path):
    (tmp_path / "small.txt").write_text("".join(f"{i} " for i in range(500)))
    task = build(dataset=str(tmp_path / "small.txt"), seq_len=64, tokenizer="bytes")
    assert task.batch(0).inputs.shape == (8, 64)
    task = build_task(
        TaskConfig(dataset=str(tmp_path / "small.txt"), seq_len=64, tokenizer="bytes"), batch_size=100, seed=0
    )
    assert task.batch(3).inputs.shape == (100, 64)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dataset": "austn"}, "dataset: no file or folder austn; did you mean 'austen'?"),
        ({"max_tokens": 64}, "max_tokens: 64 do not fill one block of seq_len + 1 = 65"),
        ({"eval_tokens": 10}, "eval_tokens: at least seq_len 64, not 10"),
        ({"vocab_size": 3}, "vocab_size: a byte-level BPE needs at least 257, not 3"),
        ({"tokenizer": 5}, "tokenizer: a text or a mapping, not 5"),
    ],
)
def test_mistakes(settings, says):
    (problem,) = check_task(TaskConfig(name="text", seq_len=64, **settings))
    assert problem == says


def test_the_exported_tokenizer_loads_in_transformers(tmp_path):
    from transformers import PreTrainedTokenizerFast

    task = build(seq_len=64)
    (tmp_path / "tokenizer.json").write_text(task.tokenizer_json())
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "It is a truth universally acknowledged."
    assert loaded.encode(text) == task.packed.tokenizer.encode([text])[0].tolist()
    assert loaded.decode(loaded.encode(text)) == text


def word_level(path, texts, lower=False):
    """A tokenizer.json of whole words, which forgets spaces, rare words and, if asked to, capitals."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if lower:
        backend.normalizer = normalizers.Lowercase()
    backend.train_from_iterator(
        texts, trainers.WordLevelTrainer(special_tokens=["[UNK]", "[EOS]"], show_progress=False)
    )
    backend.save(str(path))
    return str(path)


@pytest.fixture
def stories(tmp_path):
    for name, seed in (("train", 0), ("validation", 1)):
        rng = np.random.default_rng(seed)
        words = [f"{rng.choice(['Anna', 'Ben'])} saw number{rng.integers(99)} there, twice." for _ in range(300)]
        (tmp_path / f"{name}.txt").write_text("\n".join(words))
    return tmp_path


@pytest.mark.parametrize("lower", [False, True])
def test_a_tokenizer_that_loses_text_gives_no_bits_per_byte(lower, stories):
    tokenizer = word_level(stories / "tokenizer.json", ["Anna Ben saw there , twice ."], lower)
    task = build(dataset=str(stories), files="*.txt", seq_len=32, tokenizer=tokenizer)
    assert metrics_of(TaskConfig(dataset=str(stories), tokenizer=tokenizer)) == ("val_loss", "val_bpb")  # not read yet
    task.prepare()
    assert task.metrics == ("val_loss",) and task.bytes_per_token is None
    text = (stories / "validation.txt").read_text()
    back = task.packed.tokenizer.decode(task.packed.validation[:-1])
    lost = sum((Counter(text) - Counter(back)).values()) / len(text)
    assert task.describe()["lost"] == pytest.approx(lost) and lost > 0.1
    least = math.floor(1000 * lost) / 10
    why = f"at least {least}% of the validation text's characters do not come back from its tokens"
    assert task.notes()[-1] == f"tokenizer {tokenizer}: {why}, so there are no bits per byte"
    again = build(dataset=str(stories), files="*.txt", seq_len=32, tokenizer=tokenizer)  # from the cache
    assert again.vocab_size and again.metrics == ("val_loss",)


def test_a_tokenizer_of_the_users_that_gives_text_back_keeps_bits_per_byte(stories):
    bpe = build(dataset=str(stories), seq_len=32, vocab_size=300)
    (stories / "tokenizer.json").write_text(bpe.tokenizer_json())
    task = build(dataset=str(stories), files="*.txt", seq_len=32, tokenizer=str(stories / "tokenizer.json"))
    task.prepare()
    assert task.metrics == ("val_loss", "val_bpb") and task.bytes_per_token == bpe.bytes_per_token
    assert task.describe()["lost"] is None and len(task.notes()) == 1
