"""Which parameter is trained by which optimizer, and which is decayed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ParamSplit:
    """Every trainable parameter once, by its (first) name in the model.

    `hidden`: matrices Muon may take, decayed. `decay`: other weights, for AdamW, decayed. `no_decay`: the rest, AdamW.
    """

    hidden: dict[str, nn.Parameter]
    decay: dict[str, nn.Parameter]
    no_decay: dict[str, nn.Parameter]


def param_groups(model: nn.Module) -> ParamSplit:
    """Sort the trainable parameters of `model` by what they are; a shared tensor counts once.

    A weight is a parameter called `weight` with at least two axes longer than 1. Parameters a module holds under other
    names are gains, biases, per-head tables, initial states (FLA: RWKV-6 `bonus` [H, K], RWKV-7 `x_r` [1, 1, D], Mamba
    `A_log` [D, N]): no linear maps, whatever their number of axes. A module that keeps a linear map as a bare parameter
    says so with `param._hidden_matrix = True`; `False` keeps a weight from Muon.

    The input and output embeddings are known through `get_input_embeddings()` and `get_output_embeddings()`, as in
    `transformers`; `nn.Embedding` is recognised in any model, an output head without that accessor is not.
    """
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    tables = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    tables |= _weight_of(model, "get_input_embeddings")
    heads = _weight_of(model, "get_output_embeddings")

    split = ParamSplit({}, {}, {})
    for name, param in model.named_parameters():  # lists a shared tensor once
        if not param.requires_grad:
            continue
        is_weight = name.rpartition(".")[2] == "weight" and sum(size > 1 for size in param.shape) >= 2
        marked = getattr(param, "_hidden_matrix", None)
        if id(param) in tables or getattr(param, "_no_weight_decay", False):
            # Decay shrinks embeddings, and what reaches the first norm small has large gradients (OLMo 2, 2025, arXiv
            # 2501.00656). A tied head follows its embedding. `_no_weight_decay` is FLA's and Mamba's mark on decay
            # rates and step sizes: decaying those is a prior on the memory's length.
            split.no_decay[name] = param
        elif param.ndim == 2 and id(param) not in heads and (is_weight if marked is None else marked):
            # Muon is for linear maps between hidden states; embeddings, heads, gains and biases stay with AdamW
            # (Jordan 2024). It decays what it trains: without, weights outgrow bf16 in long runs (Liu et al. 2025).
            split.hidden[name] = param
        elif is_weight or marked:
            # Heads, and kernels of depthwise convolutions [D, 1, W], whose rows are independent filters of a few taps:
            # there is no matrix to orthogonalise.
            split.decay[name] = param
        else:
            # Gains and biases set scales, not maps; the trainers of nanoGPT and RWKV-LM, too, decay weights of two
            # axes and more only.
            split.no_decay[name] = param

    sorted_ones = [id(p) for group in (split.hidden, split.decay, split.no_decay) for p in group.values()]
    assert sorted(sorted_ones) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    return split


def _weight_of(model: nn.Module, accessor: str) -> set[int]:
    """The id of the weight of the module that `model.<accessor>()` returns, if any."""
    try:
        module = getattr(model, accessor, lambda: None)()
    except NotImplementedError:  # what transformers raises for a model without such a part
        return set()
    weight = getattr(module, "weight", None)
    return set() if weight is None else {id(weight)}
