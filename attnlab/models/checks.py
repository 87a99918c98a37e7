"""The row of a mixer's name, and checks of its settings, without torch or FLA.

Everything that a row does not decide passes through to the class, checked against the class's own signature as read
from its source, so a typo is answered in milliseconds.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attnlab.models import signature
from attnlab.models.mixers.rules import ModelShape, Value, d_model, n_heads
from attnlab.models.mixers.spec import BASIC, MixerSpec
from attnlab.models.mixers.table import MIXERS
from attnlab.models.signature import OPAQUE, REQUIRED, Parameter
from attnlab.util.text import did_you_mean, quoted

if TYPE_CHECKING:
    from attnlab.config.trial import MixerConfig, ModelConfig

# Arguments that a user's own class may ask for, and what they get.
BY_NAME: Mapping[str, Value] = {"d_model": d_model, "n_heads": n_heads, **BASIC}
# The settings that stand for arguments that are refused.
INSTEAD = {"hidden_size": "model.d_model", "d_model": "model.d_model", "num_heads": "model.n_heads"}

LARGEST_SIZE, LARGEST_SCALE = 10**7, 1e12  # of a mixer's whole and other numbers
POSITIVE = re.compile(r"^expand|^dt_|eps$|theta$|^scale$|capacity|fraction|floor$|^squash")  # arguments that divide


def spec_of(name: str) -> MixerSpec:
    """The row of a mixer, or one made for `module:Class`.

    A class of the user's that asks for its layer's index keeps a state in the cache and heeds an attention mask. Any
    other needs neither, as the model reads each sequence anew and by itself.

    Raises:
        ValueError: an unknown name, or no such module or class; one line.
    """
    if name in MIXERS:
        return MIXERS[name]
    if ":" not in name:
        raise ValueError(f"no mixer {quoted(name)}{did_you_mean(name, MIXERS)} (or write package.module:Class)")
    takes = signature.constructor(name)
    given = {argument: value for argument, value in BY_NAME.items() if argument in takes}
    cached = "layer_idx" in takes
    return MixerSpec(name, "yours", sets=given, cached=cached, padded=cached, varlen=False, own_init=True)


def check_mixer(mixer: MixerConfig, model: ModelConfig) -> list[str]:
    """List what is wrong with one mixer of a model, one line each.

    It imports no torch, and only `build_mixer` misses a GPU: the machine that checks a sweep need not be the one that
    runs it.
    """
    try:
        spec = spec_of(mixer.name)
        takes = signature.constructor(spec.path)
    except ValueError as error:
        return [str(error)]
    if spec.refused:
        return [spec.refused]
    packages = [name for name in spec.needs if name != "cuda"]
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        return [f"needs the package {', '.join(missing)}, which is not installed"]
    problems = [p for name, value in mixer.args.items() if (p := _argument_problem(spec, takes, name, value))]
    if problems:
        return problems
    try:
        return _size_problems(spec, takes, mixer, model)
    except ArithmeticError:  # a head of no width, a width beyond all numbers
        return [f"has no sizes with d_model {model.d_model}, n_heads {model.n_heads} and its arguments"]


def _size_problems(
    spec: MixerSpec, takes: Mapping[str, Parameter], mixer: MixerConfig, model: ModelConfig
) -> list[str]:
    """What is missing, and which of the row's rules are broken."""
    shape = ModelShape(model.d_model, model.n_heads, 0, model.n_layers)
    known = {name: p.default for name, p in takes.items() if p.default not in (REQUIRED, OPAQUE)}
    given = arguments(spec, mixer.args, shape)
    if missing := [name for name, p in takes.items() if p.default is REQUIRED and name not in given]:
        return [f"needs {', '.join(missing)}"]
    if spec.shares and model.mixer_at(0).name != mixer.name:
        return [f"hands {', '.join(spec.shares)} from the model's first layer on; begin the pattern with {mixer.name}"]
    return [problem for rule in spec.rules if (problem := rule(shape, {**known, **given}))]


def precision_problems(model: ModelConfig, precision: str) -> list[str]:
    """List the mixers that cannot be trained on CUDA in `precision`, one line each."""
    if precision != "fp32":
        return []
    out = []
    for name in dict.fromkeys(model.mixer_at(i).name for i in range(model.n_layers)):
        half = spec_of(name).half_only
        if half is True or (half and importlib.util.find_spec(half)):
            whose = "FLA" if half is True else half
            out.append(f"{name}: {whose}'s kernel takes no fp32 on CUDA; use train.precision bf16")
    return out


def refuse_precision(model: ModelConfig, precision: str, device: str) -> None:
    """Before a model is trained on a device of the type `device`.

    Raises:
        ValueError: what `precision_problems` says.
    """
    if device == "cuda" and (problems := precision_problems(model, precision)):
        raise ValueError("\n".join(f"mixer {problem}" for problem in problems))


def _argument_problem(spec: MixerSpec, takes: Mapping[str, Parameter], name: str, value: Any) -> str | None:
    """What is wrong with one argument of the sweep file."""
    if name in spec.options:
        return None if isinstance(value, bool) else f"{name} is {quoted(value)}, but should be true or false"
    target = spec.aliases.get(name, name)
    if target in spec.sets:
        return f"{name} follows from the model; set {INSTEAD.get(target, 'nothing')} instead"
    if target not in takes:
        open_names = [n for n in [*takes, *spec.aliases, *spec.options] if n not in spec.sets]
        return f"takes no argument {name}{did_you_mean(name, open_names)}"
    problem = signature.type_problem(takes[target], value)
    if problem is None and spec.source != "yours":
        problem = _range_problem(takes[target], value)
    return f"{name} {problem}" if problem else None


def _range_problem(parameter: Parameter, value: Any) -> str | None:
    """Why a number is no size and no scale of a table's mixer. A class of the user's may take any."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if "float" not in parameter.kinds and parameter.kinds:
        least = 0 if parameter.default == 0 else 1
        return None if least <= value <= LARGEST_SIZE else f"is {value}, but should be {least} to {LARGEST_SIZE}"
    if abs(value) > LARGEST_SCALE:
        return f"is {value:g}, but should be within +-{LARGEST_SCALE:g}"
    return f"is {value:g}, but should be above 0" if POSITIVE.search(parameter.name) and value <= 0 else None


def arguments(spec: MixerSpec, given: Mapping[str, Any], shape: ModelShape) -> dict[str, Any]:
    """The class's arguments: the row's defaults, then the file's, then what the row sets."""
    given = {spec.aliases.get(name, name): value for name, value in given.items() if name not in spec.options}

    def settle(value: Value) -> Any:
        return value(shape, given) if callable(value) else value

    defaults = {name: settle(value) for name, value in spec.defaults.items() if name not in given}
    return {**defaults, **given, **{name: settle(value) for name, value in spec.sets.items()}}
