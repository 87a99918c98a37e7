"""Our PyTorch against FLA's real Triton kernels, which run on CPU tensors in Triton's interpreter (its own process)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MIXERS = [
    *("gla", "gla_short_conv", "retnet", "deltanet", "gated_deltanet", "hgrn", "mamba2_groups", "mamba2_kernels"),
    *("linear", "simple_gla", "hgrn2", "rwkv6", "kda", "comba", "standard"),
]
TOLERANCE = 2e-5  # fp32, relative


@pytest.mark.slow
@pytest.mark.parametrize("mixer", MIXERS)
def test_output_and_every_gradient_equal_flas_kernels(mixer):
    script = Path(__file__).with_name("compare_with_fla.py")
    done = subprocess.run([sys.executable, "-O", str(script), mixer], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    errors.pop("case")
    assert {"output", "input"} < set(errors)
    assert max(errors.values()) <= TOLERANCE, errors
