"""attnlab's rotary kernel against FLA's, on one GPU: are they equal, and how long do they take.

    python -m bench.rotary

Queries and keys turned, and their gradients turned back, bf16; microseconds per layer, medians over replays of a CUDA
graph of ten layers, so that no launch is waited for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import triton.testing
from torch import Tensor

from attnlab.kernels import install
from attnlab.kernels.cuda.rotary import rotary_triton
from bench.profiling import require_gpu

SIZES = {"MQAR": (256, 256, 2, 32), "d_model 384": (32, 512, 8, 48), "d_model 768": (8, 2048, 12, 64)}  # B, T, H, D
LAYERS = 10


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    require_gpu()
    install()
    from fla.modules.rotary import RotaryEmbedding
    from fla.modules.rotary.ops import RotaryEmbeddingFunction

    print(f"{'size':12} {'B, T, H, D':>20} {'FLA us':>8} {'ours us':>8}  equal")
    for name, (batch, steps, heads, width) in SIZES.items():
        shape = (batch, steps, heads, width)
        q, k, gradient = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        rotary = RotaryEmbedding(width).cuda()
        rotary._update_cos_sin_cache(steps, device=q.device, dtype=q.dtype)
        tables = rotary._cos_cached, rotary._sin_cached

        def theirs(q: Tensor, k: Tensor, tables: Any = tables) -> list[Tensor]:
            return [RotaryEmbeddingFunction.apply(x, *tables, False, False, 0, None, None) for x in (q, k)]

        def ours(q: Tensor, k: Tensor, tables: Any = tables) -> list[Tensor]:
            return list(rotary_triton(q, k, *tables))

        found = [measured(function, q, k, gradient) for function in (theirs, ours)]
        equal = all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
        print(f"{name:12} {str(shape):>20} {found[0][0]:8.1f} {found[1][0]:8.1f}  {equal}")


def measured(
    turn: Callable[[Tensor, Tensor], list[Tensor]], q: Tensor, k: Tensor, gradient: Tensor
) -> tuple[float, list[Tensor]]:
    """Microseconds of one layer, and its outputs and gradients."""

    def layer() -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in (q, k)]
        out = turn(*leaves)
        return [x.detach() for x in (*out, *torch.autograd.grad(out, leaves, [gradient, gradient]))]

    with torch.cuda.stream(torch.cuda.Stream()):  # a kernel is tuned as it is first called
        found = layer()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAYERS):
            layer()
    ms = triton.testing.do_bench(graph.replay, warmup=20, rep=100, return_mode="median")
    return ms * 1e3 / LAYERS, found


if __name__ == "__main__":
    main()
