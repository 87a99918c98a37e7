"""Our rotary kernel: in Triton's interpreter against PyTorch, and on CUDA against FLA's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_outputs_and_gradients_equal_pytorch():
    script = Path(__file__).parents[2] / "tools" / "check_rotary.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 3 * 4
    assert max(errors.values()) <= 1e-6, errors


def test_positions_outside_the_tables_and_heads_that_are_too_narrow_are_refused():
    pytest.importorskip("triton")
    from attnlab.kernels.cuda.rotary import rotary_triton

    q, table = torch.randn(1, 8, 2, 8), torch.ones(10, 4)
    for first in (-1, 3):
        with pytest.raises(ValueError, match="not all in a rotary table of 10"):
            rotary_triton(q, q, table, table, first)
    with pytest.raises(ValueError, match="of 12 channels, and a head has 8"):
        rotary_triton(q, q, torch.ones(10, 6), torch.ones(10, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("heads, width, turned, first", [(2, 32, 32, 0), (8, 48, 48, 7), (4, 80, 40, 0)])
def test_on_cuda_it_computes_what_flas_does(heads, width, turned, first):
    from attnlab.kernels import install

    install()
    from fla.modules.rotary import RotaryEmbedding
    from fla.modules.rotary.ops import RotaryEmbeddingFunction

    rotary, results = RotaryEmbedding(turned).cuda(), []
    inputs = [torch.randn(3, 130, heads, width, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    for ours in (True, False):
        q, k = (x.clone().requires_grad_() for x in inputs[:2])
        if ours:
            out = rotary(q, k, seqlen_offset=first)
        else:
            tables = rotary._cos_cached, rotary._sin_cached
            out = [RotaryEmbeddingFunction.apply(x, *tables, False, False, first, None, None) for x in (q, k)]
        torch.autograd.backward(list(out), inputs[2:])
        results.append((*out, q.grad, k.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2**-7, atol=2**-7)  # a product more or less fused: one bf16 step
