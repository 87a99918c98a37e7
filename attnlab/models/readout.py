"""Reading a whole sequence out of one position: the decoder of MAD's compression task.

Poli et al. 2024, arXiv 2403.17844, section 3; `AutoEncoder` in its released code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

INIT_STD = 0.02  # MAD's, and `block`'s
NORM_EPS = 1e-6
WAVELENGTH = 10_000.0  # the longest, in units of 2 pi positions (Vaswani et al. 2017, section 3.5)


class Readout(nn.Module):
    """What the last position knows, asked once for each position: f(hidden[T - 1] + wave(t)).

    f is two layers of an MLP that does not widen. Nothing else of the sequence reaches the answers.
    """

    def __init__(self, d_model: int):
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(2):
            linear = nn.Linear(d_model, d_model)
            nn.init.normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)
            parts += [nn.RMSNorm(d_model, eps=NORM_EPS), linear, nn.GELU()]
        self.layers = nn.Sequential(*parts, nn.RMSNorm(d_model, eps=NORM_EPS))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden [B, T, D] to [B, T, D], whose position t answers for token t."""
        return self.layers(hidden[:, -1:] + waves(hidden.shape[1], hidden.shape[2], hidden.device))


def waves(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal positions [length, width], fp32: sines, then cosines (Vaswani et al. 2017, section 3.5)."""
    half = -(-width // 2)
    rates = WAVELENGTH ** -(torch.arange(half, device=device) / max(1, half - 1))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width]
