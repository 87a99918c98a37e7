"""Floating-point operations of training, for MFU and for curves against FLOPs; the one place that counts them."""

from __future__ import annotations

from attnlab.config import ModelConfig

HOW = "6 per non-embedding parameter and token, causal attention's products and the head added"

# Dense bf16 peak in FLOP/s by a part of the name that CUDA gives, first match wins; NVIDIA's data sheets of each.
PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12,
    "A100": 312e12, "A10G": 70e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12,
}  # fmt: skip


def training_flops_per_token(model: ModelConfig, n_params_non_embedding: float, seq_len: int, vocab_size: int) -> float:
    """6 N (Kaplan et al. 2020, arXiv 2001.08361, section 2.1) + 6 D V for the head + 6 T D per layer of causal
    `standard` attention (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, halved for the mask; a window bounds T).
    Recurrent mixers' state updates, a few per cent of their projections, are not in it.
    """
    names = [model.mixer[layer % len(model.mixer)] for layer in range(model.n_layers)]
    seen = [min(seq_len, mixer.args.get("window") or seq_len) for mixer in names if mixer.name == "standard"]
    return 6 * n_params_non_embedding + 6 * model.d_model * vocab_size + sum(6 * t * model.d_model for t in seen)


def peak_of(device_name: str) -> float | None:
    """FLOP/s in dense bf16 of a GPU; None where the table has it not: then no MFU is given."""
    return next((peak for part, peak in PEAKS.items() if part in device_name), None)
