"""Peak speeds of devices, for model FLOPs utilisation (MFU).

The operations are counted by `attnlab.models.cost.flops`.
"""

from __future__ import annotations

# Dense bf16 peak in FLOP/s by a part of the name that CUDA gives, first match wins; NVIDIA's data sheets of each.
PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "GH200": 989e12, "H100": 989e12, "H200": 989e12, "A100": 312e12,
    "A10G": 70e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12,
}  # fmt: skip


def peak_of(device_name: str) -> float | None:
    """FLOP/s in dense bf16 of a GPU; None for an unknown one: no MFU."""
    words = device_name.replace("-", " ").split()
    return next((peak for name, peak in PEAKS.items() if set(name.split()) <= set(words)), None)
