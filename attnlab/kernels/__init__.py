"""FLA's operations in PyTorch for CPU tensors, and what FLA lacks on CUDA.

`install()` once, and every layer of flash-linear-attention runs, forward and backward, on tensors of either device.
The primitives (`linear_rnn`, `scan`, `attention`) know nothing of FLA and run on any device; `adapters`, `norms` and
`modules` give them FLA's call signatures; `routing` puts them in place; `classes` mends the few layers whose own
forward refuses a device.
"""

from attnlab.kernels import adapters, modules, norms  # noqa: F401  (they register their substitutes)
from attnlab.kernels.routing import SUBSTITUTES, bypass, calls, install

__all__ = ["SUBSTITUTES", "bypass", "calls", "install"]
