"""Which parameter goes to which optimizer, with which decay."""

import pytest
import torch
from torch import nn

from attnlab.config.trial import OptimConfig
from attnlab.optim import make_optimizer, param_groups
from tests.optim.small import Model


def block_names(*names):
    return {f"blocks.{i}.{name}" for i in range(2) for name in names}


@pytest.mark.parametrize("tied", [False, True])
def test_every_trainable_parameter_is_in_one_group(tied):
    model = Model(tied=tied)
    split = param_groups(model)
    assert set(split.hidden) == block_names("up.weight", "down.weight", "mix")
    assert set(split.decay) == block_names("conv.weight", "kept.weight") | (set() if tied else {"head.weight"})
    in_groups = [id(p) for part in (split.hidden, split.decay, split.no_decay) for p in part.values()]
    assert len(in_groups) == len(set(in_groups))
    assert set(in_groups) == {id(p) for p in model.parameters() if p.requires_grad}
    assert {"embed.weight", "norm.weight"} | block_names("A_log", "bonus", "shift", "positions.weight") <= set(
        split.no_decay
    )
    assert block_names("up.bias", "conv.bias", "norm.bias", "to_scalar.weight") <= set(split.no_decay)


def test_a_model_without_accessors_still_has_its_embeddings_recognised():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    split = param_groups(model)
    assert (list(split.hidden), list(split.no_decay)) == (["1.weight"], ["0.weight", "1.bias"])


class Table(nn.Module):
    """An embedding of one's own: no `nn.Embedding`."""

    def __init__(self, rows, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, width))


@pytest.mark.parametrize("wrapped", [False, True])
def test_embedding_and_head_are_known_by_their_accessors_whatever_their_class(wrapped, monkeypatch):
    model = Model()
    model.embed, model.head = Table(11, 16), Table(11, 16)
    if wrapped:  # as DistributedDataParallel has it, which wants a process group to be made
        monkeypatch.setattr(nn.parallel.DistributedDataParallel, "__init__", nn.Module.__init__)
        outer = nn.parallel.DistributedDataParallel()
        outer.module = model
    split = param_groups(outer if wrapped else model)
    assert "embed.weight" in split.no_decay and "head.weight" in split.decay
    assert not {"embed.weight", "head.weight"} & set(split.hidden)


def test_a_model_that_says_it_has_no_embedding_is_sorted_as_one_without():
    model = nn.Sequential(nn.Linear(4, 4, bias=False))

    def without():
        raise NotImplementedError

    model.get_input_embeddings = model.get_output_embeddings = without
    assert list(param_groups(model).hidden) == ["0.weight"]
    model.get_input_embeddings = model.get_output_embeddings = lambda: None
    assert list(param_groups(model).hidden) == ["0.weight"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizers_hold_every_parameter_once_with_its_decay(name):
    model = Model(tied=True)
    split = param_groups(model)
    optimizer = make_optimizer(model, OptimConfig(name=name, weight_decay=0.3), 10, "cpu")
    assert [type(part).__name__ for part in optimizer.optimizers] == (
        ["AdamW"] if name == "adamw" else ["Muon", "AdamW"]
    )
    held = [(id(p), g["weight_decay"]) for part in optimizer.optimizers for g in part.param_groups for p in g["params"]]
    decayed = {id(p) for part in (split.hidden, split.decay) for p in part.values()}
    assert len(held) == len(dict(held)) == sum(p.requires_grad for p in model.parameters())
    assert all(weight_decay == (0.3 if key in decayed else 0.0) for key, weight_decay in held)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no parameter"):
        make_optimizer(Model().requires_grad_(False), OptimConfig(), 10, "cpu")


def test_a_matrix_of_two_rows_is_one_and_a_single_row_is_none():
    split = param_groups(nn.ModuleDict({"two": nn.Linear(2, 2, bias=False), "one": nn.Linear(2, 1, bias=False)}))
    assert (list(split.hidden), list(split.decay), list(split.no_decay)) == (["two.weight"], [], ["one.weight"])
