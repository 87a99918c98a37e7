"""The Triton rotary kernel, interpreted, against FLA's PyTorch substitute; prints a JSON line of the largest errors.

python tests/tools/check_rotary.py
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import interpreter  # noqa: E402

interpreter.prepare()

import torch  # noqa: E402

from attnlab.kernels.cpu import modules  # noqa: E402
from attnlab.kernels.cuda import rotary  # noqa: E402

torch.manual_seed(0)
rotary.BLOCK = 64  # several programs, the last ones not full
SHAPES = {  # heads of queries, heads of keys, channels, of them turned, first position
    "equal heads": (2, 2, 12, 12, 0),
    "fewer heads of keys": (3, 1, 16, 16, 5),
    "some channels not turned": (2, 2, 22, 8, 0),
}
errors: dict[str, float] = {}
for case, (q_heads, k_heads, width, turned, first) in SHAPES.items():
    angles = torch.rand(32, turned // 2) * 6
    inputs = torch.randn(3, 7, q_heads, width), torch.randn(3, 7, k_heads, width)
    results = []
    for ours in (True, False):
        q, k = (x.clone().requires_grad_() for x in inputs)
        if ours:
            out = rotary.rotary_triton(q, k, angles.cos(), angles.sin(), first)
        else:
            out = [modules.rotary_embedding(x, angles.cos(), angles.sin(), False, first, None) for x in (q, k)]
        sum((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in out).backward()
        results.append({"q": out[0].detach(), "k": out[1].detach(), "dq": q.grad, "dk": k.grad})
    mine, theirs = results
    errors |= {f"{case}: {name}": (mine[name] - theirs[name]).abs().max().item() for name in mine}
print(json.dumps(errors))
