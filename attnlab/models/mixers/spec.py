"""What a row of the table of mixers says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from attnlab.models.mixers.operations import Operations
from attnlab.models.mixers.rules import Rule, Value, d_model, layer, n_heads

# What most of FLA's constructors call the model's width, its heads and the layer's index.
BASIC: Mapping[str, Value] = {"hidden_size": d_model, "num_heads": n_heads, "layer_idx": layer}
BFLOAT16 = 10 * 2.0**-8  # a bound: as many roundings to 8 bits, one after the other


class Option(NamedTuple):
    """A switch that FLA's class lacks: its default, and `module:function` that applies it."""

    default: bool
    apply: str


class Compared(NamedTuple):
    """One way in which tests hold a layer against FLA's own kernels (`tests/tools/compare_with_fla.py`).

    Attributes:
        variant: told apart from the layer as it comes by this name.
        args: as in a sweep file.
        pushed: parameter -> what is added to every second element of it (of a matrix: of its first column, while the
            input's first channel is 1), so that half of the heads or channels decay by e^-5 to e^-20 a step.
        sharpened: parameter -> a factor, where the decay is a softmax's: what was fades as a larger logit comes.
        half: whether FLA's kernels take nothing but half precision; both sides then run under autocast.
        coarse: relative error that FLA's kernels may have where they compute with less than fp32.
        wrong: case (such as "strong_decay") -> why FLA's kernels are wrong in it.
    """

    variant: str = ""
    args: Mapping[str, Any] = MappingProxyType({})
    pushed: Mapping[str, float] = MappingProxyType({})
    sharpened: Mapping[str, float] = MappingProxyType({})
    half: bool = False
    coarse: float = 0.0
    wrong: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Tested:
    """What the contract tests need to know of a layer besides its row.

    Attributes:
        compared: each is compared with FLA's kernels, dense, at variable length and forgetting at once.
        all_pairs: whether our PyTorch forms all pairs of steps, so that memory grows as T^2.
        shortest_chunks_gib: what 16 x 512 tokens may take when decays are so strong that chunks are the shortest.
    """

    compared: tuple[Compared, ...] = (Compared(),)
    all_pairs: bool = False
    shortest_chunks_gib: float = 1.5


@dataclass(frozen=True)
class MixerSpec:
    """One mixer's row in the table.

    Attributes:
        path: `module:Class`.
        source: the paper.
        sets: arguments that the row decides and a sweep file may not give; values, or functions of (shape, the
            arguments given in the sweep file).
        defaults: arguments with our default instead of the class's, for small widths; same forms. The file's win.
        aliases: another name of an argument -> the class's name.
        options: switches of ours.
        rules: what the resolved arguments must fulfil; each returns one line or None.
        shares: what its layers hand on to later ones: a keyword of `forward` (None until a layer has given it) -> where
            its new value stands in the tuple that `forward` returns. The first layer of the model must then be one.
        cached: whether it keeps a state, so that generation costs one step per token.
        mask_to_cache: whether it keeps a state only under an attention mask; the model then gives it one of ones.
        padded: whether, without a cache, its `forward` leaves out what an attention mask marks as padding; if not, the
            model runs it on each sequence by itself.
        varlen: whether its `forward` takes `cu_seqlens`, sequences laid end to end; if not, the model runs it on each.
        init: `module:function` that initialises the built layer, where FLA leaves that to its own language model.
        needs: what must be there: the names of packages to import, or "cuda" where no CPU implementation exists.
        half_only: whether its kernels on CUDA refuse fp32 in training: always (True), or where the package named is
            installed, whose kernels it then runs. Its CPU implementation takes fp32.
        compiled: whether a compiled or captured step compiles what its layer does between its kernels too; where that
            takes 3 % or more off the step's time (`bench/train_step.py`, `inner` against `captured`).
        refused: why it cannot be used at all; "" if it can.
        own_init: what keeps its constructor's initialisation because that is part of the method: everything (True), or
            the submodules named. The matrices of the rest are drawn anew by the model around it.
        operations: of its mixing over time, per token; None: not known, unless its class has a method
            `flops_per_token(seq_len)` that gives them.
        tests: what tests need to know of it.
    """

    path: str
    source: str = ""
    sets: Mapping[str, Value] = field(default_factory=lambda: BASIC)
    defaults: Mapping[str, Value] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    shares: Mapping[str, int] = field(default_factory=dict)
    cached: bool = True
    mask_to_cache: bool = False
    padded: bool = True
    varlen: bool = True
    init: str | None = None
    needs: tuple[str, ...] = ()
    half_only: bool | str = False
    compiled: bool = False
    refused: str = ""
    own_init: bool | tuple[str, ...] = False
    operations: Operations | None = None
    tests: Tested = Tested()
