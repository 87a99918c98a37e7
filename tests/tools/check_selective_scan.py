"""The Triton selective scan, interpreted, against the PyTorch one; prints a JSON line of the relative errors.

python tests/tools/check_selective_scan.py
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import interpreter  # noqa: E402

interpreter.prepare()

import torch  # noqa: E402

from attnlab.kernels.cpu.recurrent import scan  # noqa: E402
from attnlab.kernels.cuda.selective_scan import BLOCK_E, CHUNK, selective_scan_triton  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)
BATCH, T, E, N = 2, 2 * CHUNK + 5, BLOCK_E + 3, 5  # no multiple of any block

errors: dict[str, float] = {}
for case in ("plain", "with D and a state"):
    inputs = {"x": torch.randn(BATCH, T, E), "delta": torch.rand(BATCH, T, E), "A": -torch.rand(E, N) * 2}
    inputs |= {"B": torch.randn(BATCH, T, N), "C": torch.randn(BATCH, T, N)}
    if case != "plain":
        inputs |= {"D": torch.randn(E), "initial_state": torch.randn(BATCH, E, N)}
    results = []
    for function in (selective_scan_triton, scan.selective_scan):
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        y, last = function(**{"D": None, "initial_state": None, **leaves})
        ((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() + (last * last.detach().sin()).sum()).backward()
        results.append({"y": y.detach(), "last": last.detach(), **{n: leaf.grad for n, leaf in leaves.items()}})
    mine, theirs = results
    errors |= {f"{case}: {n}": ((mine[n] - theirs[n]).norm() / theirs[n].norm()).item() for n in mine}
print(json.dumps(errors))
