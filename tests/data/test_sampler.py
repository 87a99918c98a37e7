import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data.sampler import Blocks, EpochOrder, Sampler

CASES = {
    "n_tokens": st.integers(9, 400),
    "seq_len": st.integers(1, 8),
    "seed": st.integers(0, 2**31),
    "step": st.integers(0, 500),
}


@settings(max_examples=100)
@given(**CASES, parts=st.sampled_from([(4, 1), (4, 2), (4, 4), (12, 3), (64, 8)]))
def test_ranks_concatenate_to_the_global_batch_whatever_the_world(n_tokens, seq_len, seed, step, parts):
    size, world = parts
    blocks = Blocks(np.arange(n_tokens, dtype=np.uint16), seq_len)
    whole = Sampler(blocks, size, seed).batch(step)
    ranks = [Sampler(blocks, size, seed).batch(step, rank, world) for rank in range(world)]
    assert whole.shape == (size, seq_len + 1) and whole.dtype == np.int64
    assert (np.concatenate(ranks) == whole).all()


@settings(max_examples=100)
@given(**CASES)
def test_a_step_does_not_depend_on_the_steps_before(n_tokens, seq_len, seed, step):
    blocks = Blocks(np.arange(n_tokens, dtype=np.uint16), seq_len)
    used = Sampler(blocks, 4, seed)
    for other in (step + 3, 0, max(0, step - 1)):
        used.batch(other)
    assert (used.batch(step) == Sampler(blocks, 4, seed).batch(step)).all()


@settings(max_examples=100)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
def test_every_example_comes_once_per_epoch(n, seed, epoch):
    assert sorted(EpochOrder(n, seed).take(epoch * n, n)) == list(range(n))


@settings(max_examples=100)
@given(n=st.integers(1, 20), start=st.integers(0, 100), count=st.integers(0, 90))
def test_a_stretch_is_its_elements_also_over_epochs_and_beyond_the_corpus(n, start, count):
    order = EpochOrder(n, 3)
    assert list(order.take(start, count)) == [order.take(i, 1)[0] for i in range(start, start + count)]


def test_blocks_overlap_by_the_one_token_that_is_predicted_across_them():
    blocks = Blocks(np.arange(11, dtype=np.uint16), 5)
    assert len(blocks) == 2
    assert blocks[np.array([0, 1])].tolist() == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]]
    assert len(Blocks(np.arange(10), 5)) == 1 and len(Blocks(np.arange(5), 5)) == 0


def test_epochs_and_seeds_differ():
    order = EpochOrder(100, 0)
    assert list(order.take(0, 100)) != list(order.take(100, 100)) != list(EpochOrder(100, 1).take(0, 100))


def test_a_batch_that_cannot_be_split():
    with pytest.raises(ValueError, match="batch_size 4 cannot be split evenly over 3 workers"):
        Sampler(Blocks(np.arange(99), 3), 4, 0).batch(0, 0, 3)
