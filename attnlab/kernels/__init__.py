"""FLA's operations in PyTorch for CPU tensors, and what FLA lacks on CUDA.

After `install()` every layer of flash-linear-attention runs, forward and backward, on tensors of either device.
The primitives (`linear_rnn`, `scan`, `attention`) know nothing of FLA and run on any device. `linear_ops`, `delta_ops`,
`momentum`, `mesa`, `log_linear`, `softmax_ops`, `variant_ops`, `norms` and `modules` have FLA's call signatures. Each
call is routed by `dispatch`. `mamba`, `fla_patches` and `padded` repair the few layers whose own forward refuses a
device.
"""

from attnlab.kernels.install import install

__all__ = ["install"]
