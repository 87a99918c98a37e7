"""What rows do to the layers that they build: switches and initialisations.

Rodimus's is that of FLA 0.6's language model (`fla/models/rodimus/modeling_rodimus.py`), its constants included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class _Never(nn.Module):
    """A gate's logit so high that its log sigmoid is 0: nothing is forgotten."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((*x.shape[:-1], self.width), 1e4, dtype=x.dtype, device=x.device)


def without_decay(layer: nn.Module) -> None:
    """Take GLA's forget gate out (`use_gk: false`), keeping its projections, norm and output gate."""
    layer.gk_proj = _Never(layer.key_dim_per_group)


@torch.no_grad()
def initialise_rodimus(layer: nn.Module) -> None:
    """Start the gates as FLA's own model does.

    Softplus of g's bias is log-uniform in [0.001, 0.1], sigmoid of tau's bias uniform in [1/16, 0.9]; small matrices.
    """
    for linear in (layer.g_gate_proj, layer.tau_gate_proj, layer.i_gate_proj[0], layer.i_gate_proj[1]):
        nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
    nn.init.zeros_(layer.i_gate_proj[1].bias)
    rate = torch.empty_like(layer.g_gate_proj.bias).uniform_(math.log(1e-3), math.log(0.1)).exp()
    layer.g_gate_proj.bias.copy_(rate + torch.log(-torch.expm1(-rate)))  # softplus's inverse
    layer.tau_gate_proj.bias.copy_(torch.logit(torch.empty_like(layer.tau_gate_proj.bias).uniform_(1 / 16, 0.9)))
