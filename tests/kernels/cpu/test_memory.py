"""No mixer's training step may need much memory: 3 GiB for 16 x 512 tokens at the models' default size.

Counted are the bytes of tensors, which depend on the code alone; `bench.memory` measures what the system counts.
"""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnlab.kernels.cpu import variant_ops
from attnlab.kernels.cpu.recurrent import linear_rnn
from attnlab.models import MIXERS, build_model

NAMES = sorted(name for name, row in MIXERS.items() if not (row.needs or row.refused))
B, GIB = 16, 2**30


class Live(TorchDispatchMode):
    """Within it, `peak` is the most bytes that the tensors made within it took at once, in backward too."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self.count(x.untyped_storage())
        return result

    def count(self, storage):
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, id(storage), storage.nbytes())

    def forget(self, key, size):
        self.known.discard(key)
        self.now -= size


def peak_bytes(name, steps):
    """Of a training step on one sequence."""
    torch.manual_seed(0)
    model = build_model({"d_model": 128, "n_layers": 2, "n_heads": 4, "mixer": name}, 256)
    x, y = torch.randint(0, 256, (2, 1, steps))
    with Live() as live:
        model.loss_sum(x, y).backward()
    return live.peak


def test_what_is_counted():
    x = torch.ones(1000, requires_grad=True)
    with Live() as live:
        kept = x.exp()  # 4000 bytes, which its backward reads
        (kept.view(10, 100) * 2).sum().backward()  # the product is gone when the gradients of kept and of x are made
    assert live.peak == 3 * 4000 + 2 * 4  # the sum and its own gradient


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_fits(name):
    """In half of the 3 GiB, as the allocator's gaps come on top: up to 0.7 GiB by `bench.memory`, in Mamba."""
    assert peak_bytes(name, 512) * B < 1.5 * GIB


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_fits_however_strong_the_decays(name, monkeypatch):
    """Decays per channel make chunks shorter and states more; Wall keeps one copy of its queries per chunk of keys."""

    def shortest(log_decay, size):
        return size if log_decay is None or log_decay.dim() == 3 else linear_rnn.SMALLEST_CHUNK

    for module in (linear_rnn, variant_ops):
        monkeypatch.setattr(module, "safe_chunk", shortest)
    assert peak_bytes(name, 512) * B < MIXERS[name].tests.shortest_chunks_gib * GIB


@pytest.mark.parametrize("name", [n for n in NAMES if not MIXERS[n].tests.all_pairs])
def test_memory_grows_as_the_length_does(name):
    """By less, as the parameters' gradients do not. One matrix of all pairs kept in each layer brings it to 5."""
    assert peak_bytes(name, 1024) < 4 * peak_bytes(name, 256)
