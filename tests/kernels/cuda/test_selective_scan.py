"""Our Triton kernel in Triton's interpreter (its own process, as Triton reads the switch when a kernel is defined)."""

import json
import subprocess
import sys
from pathlib import Path


def test_outputs_and_every_gradient_equal_the_pytorch_scan():
    script = Path(__file__).parents[2] / "tools" / "check_selective_scan.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 7 + 9
    assert max(errors.values()) <= 2e-6, errors
