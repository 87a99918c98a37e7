"""FLA's operations in PyTorch for CPU tensors, and what FLA lacks on CUDA.

`install()` once, and every layer of flash-linear-attention runs, forward and backward, on tensors of either device.
The primitives (`linear_rnn`, `scan`, `attention`) know nothing of FLA and run on any device. `linear_ops`, `delta_ops`,
`momentum`, `mesa`, `log_linear`, `softmax_ops`, `variant_ops`, `norms` and `modules` have FLA's call signatures;
`routing` puts them in place; `mamba` and `classes` mend the few layers whose own forward refuses a device.
"""

# Importing these registers their substitutes.
from attnlab.kernels.cpu import modules, norms, softmax_ops, variant_ops  # noqa: F401
from attnlab.kernels.cpu.recurrent import delta_ops, linear_ops, log_linear, mesa, momentum  # noqa: F401
from attnlab.kernels.dispatch import SUBSTITUTES, bypass, calls, install

__all__ = ["SUBSTITUTES", "bypass", "calls", "install"]
