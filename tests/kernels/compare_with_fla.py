"""Each mixer through our substitutes and through FLA's real kernels, interpreted; one JSON line of errors per mixer.

    python -O tests/kernels/compare_with_fla.py gla retnet ...

Relative errors (norm of the difference over norm) of the output, the input's gradient and each parameter's gradient.
"""

import functools
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import interpreter  # noqa: E402

interpreter.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from attnlab import kernels  # noqa: E402
from attnlab.config import ModelConfig  # noqa: E402
from attnlab.kernels import mamba  # noqa: E402
from attnlab.models.build import build_mixer  # noqa: E402

WIDTH, HEADS, STEPS = 64, 2, 100  # more than FLA's chunk of 64, and no multiple of it
CASES = {
    "gla_short_conv": ("gla", {"use_short_conv": True}),
    "mamba2_groups": ("mamba2", {"n_groups": 2}),  # against FLA's own PyTorch path
    "mamba2_kernels": ("mamba2", {"n_groups": 2}),  # our forward, with FLA's Triton kernels under it as on CUDA
}
HALF = {"stickbreaking", "parallax"}  # FLA's kernels take nothing but half precision


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / (theirs.norm() + 1e-12)).item()


def run(mixer: torch.nn.Module, x: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    mixer.zero_grad()
    torch.manual_seed(0)  # Raven draws noise
    x = x.clone().requires_grad_()
    result = mixer(x)
    y = result[0] if isinstance(result, tuple) else result
    seen = y.detach().clone()
    (y * weight).sum().backward()
    return {"output": seen, "input": x.grad, **{n: p.grad.clone() for n, p in mixer.named_parameters()}}


def compare(case: str) -> dict[str, float]:
    name, args = CASES.get(case, (case, {}))
    torch.manual_seed(0)
    model = ModelConfig(d_model=WIDTH, n_heads=HEADS, n_layers=2, mixer={"name": name, **args})
    mixer = build_mixer(model.mixer[0], model, 0)
    with torch.no_grad():
        for parameter in mixer.parameters():  # off the symmetric points where a wrong gradient would not show
            parameter.add_(torch.randn_like(parameter) * 0.05)
    x, weight = torch.randn(2, STEPS, WIDTH), torch.randn(2, STEPS, WIDTH)
    with torch.autocast("cpu", torch.bfloat16, enabled=name in HALF):
        return _compare(case, mixer, x, weight)


def _compare(case: str, mixer: torch.nn.Module, x: torch.Tensor, weight: torch.Tensor) -> dict[str, float]:
    ours = run(mixer, x, weight)
    if case == "mamba2_kernels":
        mixer.torch_forward = functools.partial(mamba.mamba2_forward, mixer)
    with kernels.bypass():
        theirs = run(mixer, x, weight)
    return {key: error(ours[key], theirs[key]) for key in theirs}


torch.set_num_threads(1)
np.seterr(all="ignore")
for case in sys.argv[1:]:
    print(json.dumps({"case": case, **compare(case)}), flush=True)
