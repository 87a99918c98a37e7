"""attnlab's PyTorch kernels on the CPU against FLA's own PyTorch references, forward and backward.

    python -m bench.kernels [--only gla kda ...] [--lengths 512 2048] [--rounds 3]

FLA's references (its `naive_*` functions) are what its own tests hold its kernels to: loops over the steps, or a matrix
of all pairs. The two run in turn in one process on one thread, after their outputs and gradients were compared. Printed
are the median milliseconds at each length, their growth from the shortest to the longest (a linear cost grows as the
length does), and the median of the pairs' ratios, FLA's time over attnlab's.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.kernels import install

B, H, K, V, SLOTS = 1, 4, 64, 64, 32  # batch, heads, key and value width, GSA's slots
SAME = 1e-3  # relative; the two add up in different orders

# The inputs' kinds, as functions of the length T. Decays are natural logarithms, of a memory of tens of steps.
KINDS: dict[str, Callable[[int], Tensor]] = {
    "key": lambda t: F.normalize(torch.randn(B, t, H, K), dim=-1),
    "erase": lambda t: -0.5 * F.normalize(torch.randn(B, t, H, K), dim=-1),
    "value": lambda t: torch.randn(B, t, H, V),
    "rate": lambda t: torch.rand(B, t, H),
    "rates": lambda t: torch.rand(B, t, H, K),
    "decay": lambda t: -0.1 * torch.rand(B, t, H),
    "decays": lambda t: -0.1 * torch.rand(B, t, H, K),
    "slots": lambda t: torch.rand(B, t, H, SLOTS),
    "slot_decays": lambda t: -0.1 * torch.rand(B, t, H, SLOTS),
    "bonus": lambda t: torch.randn(H, K),
    "channels": lambda t: torch.randn(B, t, H * V),
    "channel_decays": lambda t: -0.1 * torch.rand(B, t, H * V),
}
QKV = {"q": "key", "k": "key", "v": "value"}


@dataclass(frozen=True)
class Op:
    """A pair of functions of FLA's that compute the same.

    Attributes:
        ours: `module:function` in fla.ops that attnlab replaces on CPU tensors.
        theirs: `module:function` in fla.ops, the reference.
        inputs: argument -> kind.
        renamed: the reference's name of an argument, where it differs.
        heads_first: whether the reference takes and gives [B, H, T, D].
        fixed: what `ours` is told so that it computes what the reference does by default.
    """

    ours: str
    theirs: str
    inputs: dict[str, str]
    renamed: dict[str, str] = field(default_factory=dict)
    heads_first: bool = False
    fixed: dict[str, bool] = field(default_factory=dict)


OPS = {
    "linear": Op(
        "linear_attn:chunk_linear_attn",
        "linear_attn.naive:naive_recurrent_linear_attn",
        QKV,
        fixed={"normalize": False},
    ),
    "retention": Op("retention:chunk_retention", "retention.naive:naive_retention", QKV, heads_first=True),
    "simple_gla": Op(
        "simple_gla:chunk_simple_gla", "simple_gla.naive:naive_recurrent_simple_gla", {**QKV, "g": "decay"}
    ),
    "gla": Op("gla:chunk_gla", "gla.naive:naive_recurrent_gla", {**QKV, "g": "decays"}, {"g": "gk"}),
    "rwkv6": Op(
        "rwkv6:chunk_rwkv6",
        "rwkv6.recurrent_naive:naive_recurrent_rwkv6",
        {"r": "key", "k": "key", "v": "value", "w": "decays", "u": "bonus"},
        {"r": "q"},
        heads_first=True,
    ),
    "hgrn": Op("hgrn:chunk_hgrn", "hgrn.naive:naive_recurrent_hgrn", {"x": "channels", "g": "channel_decays"}),
    "gsa": Op("gsa:chunk_gsa", "gsa.naive:naive_recurrent_gsa", {**QKV, "s": "slots", "g": "slot_decays"}),
    "delta_rule": Op(
        "delta_rule:chunk_delta_rule",
        "delta_rule.naive:delta_rule_recurrence",
        {**QKV, "beta": "rate"},
        heads_first=True,
    ),
    "gated_delta_rule": Op(
        "gated_delta_rule:chunk_gated_delta_rule",
        "gated_delta_rule.naive:naive_recurrent_gated_delta_rule",
        {**QKV, "g": "decay", "beta": "rate"},
    ),
    "kda": Op("kda:chunk_kda", "kda.naive:naive_recurrent_kda", {**QKV, "g": "decays", "beta": "rate"}),
    "gdn2": Op(
        "gdn2:chunk_gdn2", "gdn2.naive:naive_recurrent_gdn2", {**QKV, "g": "decays", "b": "rates", "w": "rates"}
    ),
    "rwkv7": Op(  # its recurrence; RWKV7's own scale is 1
        "generalized_delta_rule:chunk_dplr_delta_rule",
        "generalized_delta_rule.dplr.naive:dplr_recurrence",
        {**QKV, "a": "erase", "b": "key", "gk": "decays"},
        {"a": "alpha", "b": "beta"},
        heads_first=True,
    ),
    "forgetting": Op(
        "forgetting_attn:parallel_forgetting_attn",
        "forgetting_attn.naive:naive_forgetting_attn",
        {**QKV, "g": "decay"},
    ),
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    install()
    lengths = sorted(args.lengths)
    growth = f"x{lengths[-1] / lengths[0]:g} steps"
    ours, theirs, ratio = ([f"{what}, T {t}" for t in lengths] for what in ("attnlab ms", "FLA ms", "ratio"))
    heads = ["op", *ours, growth, *theirs, growth, *ratio]
    print(f"| {' | '.join(heads)} |\n| --- |{' --: |' * (len(heads) - 1)}", flush=True)
    for name in args.only or OPS:
        at = [measure(name, steps, args.rounds) for steps in lengths]
        cells = [name]
        for who in (0, 1):
            ms = [statistics.median(pair[who] for pair in pairs) * 1e3 for pairs in at]
            cells += [*(f"{x:.1f}" for x in ms), f"x{ms[-1] / ms[0]:.1f}"]
        cells += [f"{statistics.median(theirs / ours for ours, theirs in pairs):.1f}" for pairs in at]
        print(f"| {' | '.join(cells)} |", flush=True)


def measure(name: str, steps: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of (attnlab's, FLA's reference), once per round, after one of each to compare and warm up.

    Raises:
        ValueError: their outputs or gradients differ.
    """
    torch.manual_seed(0)
    op = OPS[name]
    inputs = {key: KINDS[kind](steps).requires_grad_() for key, kind in op.inputs.items()}
    ours, theirs = functools.partial(load(op.ours), **op.fixed), reference(op)
    weight = torch.linspace(-1, 1, steps)
    _, mine = timed(ours, inputs, weight)
    _, wanted = timed(theirs, inputs, weight)
    for key, a, b in zip(["output", *inputs], mine, wanted, strict=True):
        if (error := ((a - b).norm() / b.norm()).item()) > SAME:
            raise ValueError(f"{name} at {steps} steps: {key} is off by {error:.1e}")
    return [(timed(ours, inputs, weight)[0], timed(theirs, inputs, weight)[0]) for _ in range(rounds)]


def timed(function: Callable, inputs: dict[str, Tensor], weight: Tensor) -> tuple[float, list[Tensor]]:
    """Seconds of one forward and backward; the output and each input's gradient."""
    start = time.perf_counter()
    out = function(**inputs)
    out = out[0] if isinstance(out, tuple) else out
    gradients = torch.autograd.grad((out.transpose(1, -1) * weight).sum(), list(inputs.values()))
    return time.perf_counter() - start, [out.detach(), *gradients]


def reference(op: Op) -> Callable:
    """FLA's reference with the names and the layout of `ours`."""
    function = load(op.theirs)

    def call(**inputs: Tensor):
        given = {op.renamed.get(key, key): x for key, x in inputs.items()}
        if not op.heads_first:
            return function(**given)
        result = function(**{key: x.transpose(1, 2) if x.dim() > 2 else x for key, x in given.items()})
        return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)

    return call


def load(path: str) -> Callable:
    """The function at `module:function` in fla.ops."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"fla.ops.{module}"), name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=OPS, metavar="NAME", help=f"of {', '.join(OPS)}")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
