"""Each mixer through our substitutes and through FLA's real kernels, interpreted; one JSON line per mixer and case.

    python -O tests/tools/compare_with_fla.py gla:dense gla:varlen retnet:dense ...        (see fla_cases)

A line holds relative errors (norm of the difference over norm) of the output, the input's gradient and each parameter's
gradient: "error" of ours against FLA's, "ours" and "theirs" of either against our path in fp64. Where one of the last
two is above ROUNDING, "ours_moves" and "theirs_moves" are what one rounding of the input is worth: how far either moves
with it ("theirs_moves" only where FLA's computes in fp32). Or "failed", why not.
"""

import contextlib
import copy
import functools
import json
import sys
import traceback
from pathlib import Path
from unittest import mock

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import interpreter  # noqa: E402

interpreter.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from attnlab.config.trial import ModelConfig  # noqa: E402
from attnlab.kernels import dispatch  # noqa: E402
from attnlab.kernels.cpu.recurrent import mamba  # noqa: E402
from attnlab.models.build import build_mixer  # noqa: E402
from tests.tools.fla_cases import ROUNDING, STEPS, WAYS  # noqa: E402

WIDTH, HEADS = 64, 2
LENGTHS = 9, 1, 70  # three sequences laid end to end: shorter than a chunk, a single step, longer than a chunk
DRAWS = 3  # of how the input's rounding falls


class Doubled(TorchFunctionMode):
    """Whatever asks for fp32 gets fp64, and random numbers are those that fp32 would draw."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.Tensor.exponential_:
            return args[0].copy_(torch.empty(args[0].shape, dtype=torch.float32).exponential_())
        args, kwargs = [self._double(x) for x in args], {key: self._double(x) for key, x in kwargs.items()}
        return func(*args, **kwargs)

    @staticmethod
    def _double(x):
        return torch.float64 if x is torch.float32 else x


@contextlib.contextmanager
def doubled():
    """All of torch in fp64, the parts of our kernels and FLA's layers that ask for fp32 included."""

    def no_checkpoint(function, *args, use_reentrant, **kwargs):
        return function(*args, **kwargs)  # it would be recomputed in the backward pass, which `Doubled` does not reach

    torch.set_default_dtype(torch.float64)
    try:
        with Doubled(), mock.patch("torch.utils.checkpoint.checkpoint", no_checkpoint):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def build(mixer: str, case: str) -> torch.nn.Module:
    row, way = WAYS[mixer]
    torch.manual_seed(0)
    model = ModelConfig(d_model=WIDTH, n_heads=HEADS, n_layers=2, mixer={"name": row, **way.args})
    layer = build_mixer(model.mixer[0], model, 0)
    with torch.no_grad():
        for parameter in layer.parameters():  # off the symmetric points where a wrong gradient would not show
            parameter.add_(torch.randn_like(parameter) * 0.05)
        if case == "strong_decay":
            push(layer, mixer)
    return layer


def push(layer: torch.nn.Module, mixer: str) -> None:
    """Every second head or channel decays strongly; a matrix is pushed by the input's channel 0, which is 1."""
    for name, amount in WAYS[mixer][1].pushed.items():
        parameter = layer.get_parameter(name)
        (parameter if parameter.dim() == 1 else parameter[:, 0])[::2] += amount
    for name, factor in WAYS[mixer][1].sharpened.items():
        layer.get_parameter(name).mul_(factor)


@contextlib.contextmanager
def as_theirs(layer: torch.nn.Module, mixer: str):
    """What of FLA's a layer is to run where that is not what it would."""
    if mixer == "mamba2_kernels":
        layer.torch_forward = functools.partial(mamba.mamba2_forward, layer)
    if mixer == "momentum_deltanet":  # FLA's are PyTorch, the chunked one wrong (see `momentum`), this one step by step
        layer.mode = "fused_recurrent"
    yield


def run(layer: torch.nn.Module, x: torch.Tensor, weight: torch.Tensor, **kwargs) -> dict[str, torch.Tensor]:
    layer.zero_grad()
    torch.manual_seed(0)  # Raven draws noise
    x = x.clone().requires_grad_()
    result = layer(x, **kwargs)
    y = result[0] if isinstance(result, tuple) else result
    seen = y.detach().clone()
    (y * weight).sum().backward()
    return {"output": seen, "input": x.grad, **{n: p.grad.clone() for n, p in layer.named_parameters()}}


def compare(mixer: str, case: str) -> dict[str, dict[str, float]]:
    layer, kwargs = build(mixer, case), {}
    shape = 2, STEPS, WIDTH
    if case == "varlen":
        shape = 1, sum(LENGTHS), WIDTH
        kwargs = {"cu_seqlens": torch.tensor([0, *LENGTHS]).cumsum(0)}
    x, weight = torch.randn(shape), torch.randn(shape)
    if case == "strong_decay":
        x[..., 0] = 1.0

    def ours(layer: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with half:
            return run(layer, x, weight, **kwargs)

    def theirs(layer: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with half, dispatch.bypass(), as_theirs(layer, mixer):
            return run(layer, x, weight, **kwargs)

    half = torch.autocast("cpu", torch.bfloat16, enabled=WAYS[mixer][1].half)
    with doubled():
        exact = run(copy.deepcopy(layer).double(), x.double(), weight.double(), **kwargs)
    first, second = ours(layer, x), theirs(layer, x)
    found = {"error": errors(first, second), "ours": errors(first, exact), "theirs": errors(second, exact)}
    sides = {"ours": (ours, first)} | ({} if WAYS[mixer][1].coarse else {"theirs": (theirs, second)})
    if not all(error <= ROUNDING for side in sides for error in found[side].values()):
        for side, (function, start) in sides.items():
            found[f"{side}_moves"] = moves(function, start, exact, layer, x)
    return found


def moves(function, start: dict, exact: dict, layer: torch.nn.Module, x: torch.Tensor) -> dict[str, float]:
    """How far a result moves from `start` as x and the parameters go one float up or down: root mean squares."""
    squares = dict.fromkeys(exact, 0.0)
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        other = copy.deepcopy(layer)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(moved(parameter))
        result = function(other, moved(x))
        for key, right in exact.items():
            squares[key] += ((result[key] - start[key]).norm() / (right.norm() + 1e-12)).item() ** 2
    return {key: (square / DRAWS) ** 0.5 for key, square in squares.items()}


def moved(x: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(x, torch.where(torch.rand_like(x) < 0.5, torch.inf, -torch.inf))


def errors(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> dict[str, float]:
    return {key: ((found[key] - right[key]).norm() / (right[key].norm() + 1e-12)).item() for key in right}


def main() -> None:
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    for argument in sys.argv[1:]:
        mixer, case = argument.split(":")
        try:
            found = compare(mixer, case)
        except Exception:
            found = {"failed": traceback.format_exc()}
        print(json.dumps({"mixer": mixer, "case": case, **found}), flush=True)


if __name__ == "__main__":
    main()
