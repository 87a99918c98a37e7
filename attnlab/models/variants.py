"""Switches of ours on FLA's layers, named in the rows of `mixers.MIXERS`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Never(nn.Module):
    """A gate's logit so high that log sigmoid of it is 0 in every float type: nothing is forgotten."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((*x.shape[:-1], self.width), 1e4, dtype=x.dtype, device=x.device)


def without_decay(layer: nn.Module) -> None:
    """GLA without its forget gate (`use_gk: false`): linear attention with GLA's projections, norm and output gate."""
    layer.gk_proj = _Never(layer.key_dim_per_group)
