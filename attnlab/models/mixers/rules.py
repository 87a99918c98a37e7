"""How a model's shape becomes a mixer's arguments, and which shapes a mixer refuses.

The rows of `mixers.MIXERS` are put together from these. A value is a function of (the model's shape, the arguments
given in the sweep file). A rule is a function of (the shape, the resolved arguments) and returns one line or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from attnlab.util.text import quoted

LARGEST_NEAR = 4096  # of the divisors that a message names


class ModelShape(NamedTuple):
    """What a mixer knows of the model around it."""

    d_model: int
    n_heads: int
    layer: int
    n_layers: int


Value = int | float | str | bool | None | Callable[[ModelShape, Mapping[str, Any]], Any]
Rule = Callable[[ModelShape, Mapping[str, Any]], str | None]


def d_model(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """The model's width."""
    return shape.d_model


def n_heads(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """The model's heads."""
    return shape.n_heads


def layer(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """The layer's index, under which it finds its state in the cache."""
    return shape.layer


def head_width(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """d_model / n_heads."""
    return shape.d_model // shape.n_heads


def head_power_of_two(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """The power of two nearest to d_model / n_heads, at least 16."""
    return max(16, 1 << round(math.log2(shape.d_model / shape.n_heads)))


def depth(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """The model's layers, at least 2: RWKV7's initialisation divides by one less."""
    return max(2, shape.n_layers)


def twice_d_model(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """Mamba's expansion of 2 (arXiv 2312.00752)."""
    return 2 * shape.d_model


def three_quarter_head(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """3/4 d_model / n_heads, at which FLA's gated layers have 6 d_model^2 parameters.

    In multiples of 8, at least 16, which suits the kernels' tiles.
    """
    return max(16, round(0.75 * shape.d_model / shape.n_heads / 8) * 8)


def eighth_width(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """A low rank: d_model / 8, at least 16 (FLA's 128 at its width 1024)."""
    return max(16, shape.d_model // 8)


def quarter_width(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """Latent attention's rank: d_model / 4, at least 16 (FLA's 512 at 2048)."""
    return max(16, shape.d_model // 4)


def rotary_width(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """Latent attention's rotary channels: half a head, an even number (DeepSeek-V2's 64 of 128)."""
    return max(2, shape.d_model // shape.n_heads // 4 * 2)


def mamba2_head(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """Compute expand * d_model / n_heads: n_heads heads over Mamba2's widened channels."""
    return int(given.get("expand", 2) * shape.d_model) // shape.n_heads


def mamba2_state(shape: ModelShape, given: Mapping[str, Any]) -> int:
    """As many states per head as channels, at most the paper's 128."""
    return min(128, mamba2_head(shape, given))


def divides(what: str, total: int, parts_name: str, parts: int) -> str | None:
    """None if `parts` divides `total`, else a line that names divisors near it."""
    if parts > 0 and total % parts == 0:
        return None
    small = range(1, min(total, LARGEST_NEAR) + 1)
    near = sorted((n for n in small if total % n == 0), key=lambda n: (abs(n - parts), n))[:5]
    right = ", ".join(map(str, sorted(near)))
    return f"{what} {total} is not divisible by {parts_name} {parts}; {right} divide it"


def split_evenly(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
    """Refuse a d_model that n_heads does not divide."""
    return divides("d_model", shape.d_model, "n_heads", shape.n_heads)


def expanded_evenly(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
    """Refuse expand_k or expand_v whose product with d_model is no whole multiple of n_heads."""
    for name in ("expand_k", "expand_v"):
        width = shape.d_model * args[name]
        if abs(width - round(width)) > 1e-9 * width:
            return f"d_model {shape.d_model} x {name} {args[name]} = {width:g} is no whole number"
        if problem := divides(f"d_model x {name} =", round(width), "n_heads", shape.n_heads):
            return problem
    return None


def even_head(ratio: str | None = None) -> Rule:
    """Refuse heads of odd width, as rotary embedding turns pairs of channels."""

    def rule(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
        width = round(shape.d_model * (args[ratio] if ratio else 1))
        head, rest = divmod(width, shape.n_heads)
        if rest or head % 2 == 0:
            return None
        return f"head width {width} / n_heads {shape.n_heads} = {head} is odd; rotary needs even"

    return rule


def at_most(largest: int, what: str, value: Callable[[ModelShape, Mapping[str, Any]], float]) -> Rule:
    """Refuse a `value` above `largest`, a limit of FLA's kernels."""

    def rule(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
        size = value(shape, args)
        return f"{what} is {size:g}, at most {largest} works; use more heads" if size > largest else None

    return rule


def fixed(name: str, value: Any, why: str) -> Rule:
    """Refuse an argument at all but the one value that works in FLA."""

    def rule(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
        if args.get(name, value) == value:
            return None
        return f"{name} is {quoted(args[name])}, but {value!r} alone works: {why}"

    return rule


def power_of_two(name: str) -> Rule:
    """Refuse an argument that is no power of two."""

    def rule(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
        value = args[name]
        if value & (value - 1) == 0:
            return None
        below = 1 << (value.bit_length() - 1)
        right = f"{below} or {2 * below} would be right"
        return f"{name} is {value}, but must be a power of two, as FLA's kernel needs; {right}"

    return rule


def head_width_in(*widths: int) -> Rule:
    """Refuse head widths that FLA's kernels are not written for."""

    def rule(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
        if problem := split_evenly(shape, args):
            return problem
        width = shape.d_model // shape.n_heads
        if width in widths:
            return None
        right = [str(shape.d_model // w) for w in sorted(widths, reverse=True) if shape.d_model % w == 0]
        heads = f"n_heads {' or '.join(right)}" if right else "another d_model"
        return f"head width {width} is none of {', '.join(map(str, widths))}; {heads} would be right"

    return rule


def grouped(name: str) -> Rule:
    """Refuse key/value heads that do not divide n_heads, if they are given."""
    return lambda shape, args: None if args[name] is None else divides("n_heads", shape.n_heads, name, args[name])


def groups_of(size: int) -> Rule:
    """Refuse key/value heads that do not each serve a multiple of `size` heads."""

    def rule(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
        heads = args["num_kv_heads"] or shape.n_heads
        if shape.n_heads % (heads * size) == 0:
            return None
        return f"n_heads {shape.n_heads} / num_kv_heads {heads} is no multiple of {size}, as FLA's kernel needs"

    return rule


def whole_values(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
    """Refuse an expand_v whose product with head_dim is no whole number."""
    width, ratio = args["head_dim"], args["expand_v"]
    return None if width * ratio == int(width * ratio) else f"head_dim {width} x expand_v {ratio} is no whole number"


def value_groups(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
    """Refuse value heads that are no multiple of the key heads."""
    heads = args["num_v_heads"]
    return None if heads is None else divides("num_v_heads", heads, "n_heads", shape.n_heads)


def mamba2_heads(shape: ModelShape, args: Mapping[str, Any]) -> str | None:
    """Refuse Mamba2 channels that do not divide into heads, or heads into groups."""
    channels = int(args["expand"] * shape.d_model)
    if "head_dim" in args and channels % args["head_dim"] == 0:
        return divides("heads:", channels // args["head_dim"], "n_groups", args["n_groups"])
    return divides("expand x d_model =", channels, "n_heads", shape.n_heads) or (
        divides("expand x d_model =", channels, "head_dim", args["head_dim"])
    )
