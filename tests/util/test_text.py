"""The one line that stands for a traceback is its exception's own."""

import traceback

import pytest

from attnlab.util.text import reason

ADVICE = """CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return "".join(traceback.format_exception(caught))


class AcceleratorError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (raised(AcceleratorError(ADVICE)), f"{__name__}.AcceleratorError: CUDA error: device-side assert triggered"),
        (raised(ValueError("a\n  b\nTypeError: c")), "ValueError: a"),
        (raised(KeyError("k"), ValueError("first")), "KeyError: 'k'"),
        (raised(KeyError()), "KeyError"),
        (raised(RuntimeError(f"ray::f()\n{raised(ValueError('boom'))}")), "ValueError: boom"),
        (raised(SyntaxError("bad", ("x.py", 3, 1, "def", 3, 4))), "SyntaxError: bad"),
        (
            f"ray::f() (pid=3)\n  File x\ntorch.AcceleratorError: {ADVICE}",
            "torch.AcceleratorError: CUDA error: device-",
        ),
        (f"torch.AcceleratorError: {ADVICE}", "torch.AcceleratorError: CUDA error: device-side assert triggered"),
        ("the relay of this trial died", "the relay of this trial died"),
        ("one\ntwo\n\n", "two"),
        ("", ""),
        (None, ""),
    ],
    ids=range(12),
)
def test_a_failures_line_is_its_exceptions_own(text, said):
    assert reason(text).startswith(said) and (said or not reason(text))
    assert "TORCH_USE_CUDA_DSA" not in reason(text)
