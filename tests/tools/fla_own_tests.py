"""Runs FLA's own tests of its operations on CPU tensors, which reach attnlab's functions.

    git clone https://github.com/fla-org/flash-linear-attention CHECKOUT
    PYTHONPATH=. python tests/tools/fla_own_tests.py CHECKOUT/tests/ops [pytest's options]

Of each test function that names an operation with a CPU function the smallest case is run, in fp32 if there is one.
Tests of kernels' parts and of operations without a CPU function fail, as Triton has no driver there.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from attnlab.kernels import install
from attnlab.kernels.dispatch import SUBSTITUTES


def size(item: pytest.Item) -> tuple[bool, float]:
    """Whether a test's case is in half precision, and the product of its sizes."""
    values = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    numbers = [v[-1] if isinstance(v, (list, tuple)) and v else v for v in values]
    sizes = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    return torch.float32 not in values, math.prod(sizes)


class OnCpu:
    """Sends the tests' tensors to the CPU, and keeps the smallest case of each."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Before FLA's tests are imported: they read the device's name from `fla.utils`."""
        install()
        import fla.utils

        fla.utils.device = "cpu"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep one case of each test that names a function of ours."""
        names = {path.partition(":")[2] for path in SUBSTITUTES}
        smallest: dict[tuple[Path, str], pytest.Item] = {}
        for item in items:
            if names & set(re.findall(r"\w+", inspect.getsource(item.function))):
                key = item.path, item.originalname
                if key not in smallest or size(item) < size(smallest[key]):
                    smallest[key] = item
        items[:] = smallest.values()


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = [
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir=.",
        "--noconftest",
        "--import-mode=importlib",
        "-q",
    ]
    sys.exit(pytest.main([*options, "--tb=line", "--continue-on-collection-errors", *sys.argv[1:]], plugins=[OnCpu()]))
