"""Muon and AdamW, their parameters, and the learning rate as a function of the step.

One learning rate serves both optimizers: Muon's update is scaled to the root mean square that AdamW's usually has (see
`Muon`), so an arm has one `lr` to tune whichever optimizer it names. Nothing here waits for the device: rates can live
in a tensor and every shape is static, so that a whole training step can be captured in a CUDA graph.
"""

from attnlab.optim.groups import ParamSplit, param_groups
from attnlab.optim.muon import Muon, orthogonalize
from attnlab.optim.optimizer import Optimizer, make_optimizer
from attnlab.optim.schedule import branch_factor, lr_factor, warmup_steps

__all__ = [
    "Muon",
    "Optimizer",
    "ParamSplit",
    "branch_factor",
    "lr_factor",
    "make_optimizer",
    "orthogonalize",
    "param_groups",
    "warmup_steps",
]
