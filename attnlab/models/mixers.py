"""The table of sequence mixers: one row per layer, and what a sweep file may say about it.

A row names a class, how `d_model` and `n_heads` become its arguments, and which widths it refuses. Everything else a
sweep file gives passes through to the class, checked against the class's own signature as read from its source, so this
module imports neither torch nor FLA and a typo is answered in milliseconds. To add an FLA layer, add a row to MIXERS;
to use a layer of your own, add a row or write `my_package.my_file:MyMixer` as the mixer's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from attnlab import signature
from attnlab.config import did_you_mean
from attnlab.models.rules import (
    Rule,
    Shape,
    Value,
    at_most,
    d_model,
    even_head,
    expanded_evenly,
    grouped,
    head_width,
    layer,
    mamba2_head,
    mamba2_heads,
    mamba2_state,
    n_heads,
    split_evenly,
    three_quarter_head,
    value_groups,
    whole_values,
)
from attnlab.signature import OPAQUE, REQUIRED, Parameter

if TYPE_CHECKING:
    from attnlab.config import MixerConfig, ModelConfig


class Option(NamedTuple):
    """A switch of ours that FLA's class lacks: its default, and `module:function` that changes the built layer."""

    default: bool
    apply: str


@dataclass(frozen=True)
class MixerSpec:
    """One row.

    Attributes:
        path: `module:Class`.
        source: the paper.
        sets: arguments that the row decides and a sweep file may not give; values, or functions of (shape, the
            arguments given in the sweep file).
        defaults: arguments with our default instead of the class's, for small widths; same forms. The file's win.
        aliases: another name of an argument -> the class's name.
        options: switches of ours.
        rules: what the resolved arguments must fulfil; each returns one line or None.
        cached: whether it keeps a state, so that generation costs one step per token.
        own_init: the constructor's initialisation is part of the method; nothing is drawn anew.
    """

    path: str
    source: str = ""
    sets: Mapping[str, Value] = field(default_factory=dict)
    defaults: Mapping[str, Value] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    cached: bool = True
    own_init: bool = False


BASIC: Mapping[str, Value] = {"hidden_size": d_model, "num_heads": n_heads, "layer_idx": layer}

MIXERS: dict[str, MixerSpec] = {
    "standard": MixerSpec(
        "fla.layers.attn:Attention",
        "Vaswani et al. 2017, arXiv 1706.03762; rotary positions, Su et al. 2021, arXiv 2104.09864",
        sets=BASIC,
        aliases={"window": "window_size"},
        rules=(split_evenly, even_head(), grouped("num_kv_heads")),
    ),
    "gla": MixerSpec(
        "fla.layers.gla:GatedLinearAttention",
        "Yang et al. 2023, arXiv 2312.06635",
        sets=BASIC,
        options={"use_gk": Option(True, "attnlab.models.variants:without_decay")},
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
    ),
    "retnet": MixerSpec(
        "fla.layers.multiscale_retention:MultiScaleRetention",
        "Sun et al. 2023, arXiv 2307.08621",
        sets=BASIC,
        rules=(
            expanded_evenly("expand_k", "expand_v"),
            even_head("expand_k"),
            at_most(256, "the key head width", lambda s, a: s.d_model * a["expand_k"] / s.n_heads),
            grouped("num_kv_heads"),
        ),
    ),
    "mamba2": MixerSpec(
        "fla.layers.mamba2:Mamba2",
        "Dao and Gu 2024, arXiv 2405.21060",
        sets={"hidden_size": d_model, "layer_idx": layer, "num_heads": None},
        defaults={"head_dim": mamba2_head, "state_size": mamba2_state},
        rules=(mamba2_heads,),
    ),
    "deltanet": MixerSpec(
        "fla.layers.delta_net:DeltaNet",
        "Yang et al. 2024, arXiv 2406.06484",
        sets={**BASIC, "d_model": None},
        rules=(
            expanded_evenly("expand_k", "expand_v"),
            at_most(256, "the key head width", lambda s, a: s.d_model * a["expand_k"] / s.n_heads),
        ),
    ),
    "gated_deltanet": MixerSpec(
        "fla.layers.gated_deltanet:GatedDeltaNet",
        "Yang et al. 2024, arXiv 2412.06464",
        sets=BASIC,
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "hgrn": MixerSpec(
        "fla.layers.hgrn:HGRNAttention",
        "Qin et al. 2023, arXiv 2311.04823",
        sets={"hidden_size": d_model, "layer_idx": layer},
    ),
    "linear": MixerSpec(
        "fla.layers.linear_attn:LinearAttention",
        "Katharopoulos et al. 2020, arXiv 2006.16236",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
    ),
    "simple_gla": MixerSpec(
        "fla.layers.simple_gla:SimpleGatedLinearAttention",
        "Yang et al. 2023, arXiv 2312.06635, with one decay per head",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
    ),
    "hgrn2": MixerSpec(
        "fla.layers.hgrn2:HGRN2Attention",
        "Qin et al. 2024, arXiv 2404.07904",
        sets={**BASIC, "expand_ratio": head_width},
        rules=(split_evenly,),
    ),
    "rwkv6": MixerSpec(
        "fla.layers.rwkv6:RWKV6Attention",
        "Peng et al. 2024, arXiv 2404.05892",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"),),
        own_init=True,
    ),
    "kda": MixerSpec(
        "fla.layers.kda:KimiDeltaAttention",
        "Kimi Team 2025, arXiv 2510.26692",
        sets=BASIC,
        defaults={"head_dim": head_width},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "comba": MixerSpec(
        "fla.layers.comba:Comba",
        "Hu et al. 2025, arXiv 2506.02475",
        sets=BASIC,
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
}

# Arguments that a user's own class may ask for, and what they get.
BY_NAME: Mapping[str, Value] = {
    "d_model": d_model,
    "hidden_size": d_model,
    "n_heads": n_heads,
    "num_heads": n_heads,
    "layer_idx": layer,
}
# How a refused argument is meant to be said.
INSTEAD = {"hidden_size": "model.d_model", "d_model": "model.d_model", "num_heads": "model.n_heads"}


def spec_of(name: str) -> MixerSpec:
    """The row of a mixer, or one made for `module:Class`.

    Raises:
        ValueError: an unknown name, or no such module or class; one line.
    """
    if name in MIXERS:
        return MIXERS[name]
    if ":" not in name:
        raise ValueError(f"no mixer {name!r}{did_you_mean(name, MIXERS)} (or write package.module:Class)")
    takes = signature.constructor(name)
    given = {argument: value for argument, value in BY_NAME.items() if argument in takes}
    return MixerSpec(name, "yours", sets=given, cached="layer_idx" in takes, own_init=True)


def check_mixer(mixer: MixerConfig, model: ModelConfig) -> list[str]:
    """What is wrong with one mixer of a model, one line each; empty if it can be built. Imports no torch."""
    try:
        spec = spec_of(mixer.name)
        takes = signature.constructor(spec.path)
    except ValueError as error:
        return [str(error)]
    problems = [p for name, value in mixer.args.items() if (p := _argument_problem(spec, takes, name, value))]
    if problems:
        return problems
    shape = Shape(model.d_model, model.n_heads, 0, model.n_layers)
    known = {name: p.default for name, p in takes.items() if p.default not in (REQUIRED, OPAQUE)}
    given = arguments(spec, mixer.args, shape)
    if missing := [name for name, p in takes.items() if p.default is REQUIRED and name not in given]:
        return [f"needs {', '.join(missing)}"]
    return [problem for rule in spec.rules if (problem := rule(shape, {**known, **given}))]


def _argument_problem(spec: MixerSpec, takes: Mapping[str, Parameter], name: str, value: Any) -> str | None:
    """What is wrong with one argument of the sweep file."""
    if name in spec.options:
        return None if isinstance(value, bool) else f"{name} is {value!r}, but should be true or false"
    target = spec.aliases.get(name, name)
    if target in spec.sets:
        return f"{name} follows from the model; set {INSTEAD.get(target, 'nothing')} instead"
    if target not in takes:
        open_names = [n for n in [*takes, *spec.aliases, *spec.options] if n not in spec.sets]
        return f"takes no argument {name}{did_you_mean(name, open_names)}"
    problem = signature.type_problem(takes[target], value)
    return f"{name} {problem}" if problem else None


def arguments(spec: MixerSpec, given: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """The class's keyword arguments: the row's defaults, the sweep file's over them, what the row sets over all."""
    given = {spec.aliases.get(name, name): value for name, value in given.items() if name not in spec.options}

    def settle(value: Value) -> Any:
        return value(shape, given) if callable(value) else value

    defaults = {name: settle(value) for name, value in spec.defaults.items() if name not in given}
    return {**defaults, **given, **{name: settle(value) for name, value in spec.sets.items()}}
