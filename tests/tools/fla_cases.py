"""What `compare_with_fla` compares: layers, inputs, and how each layer's gates are pushed to forget at once.

Cases: "dense", a batch of T steps, T no multiple of FLA's chunk; "varlen", sequences laid end to end (`cu_seqlens`);
"strong_decay", dense with a part of the heads or channels forgetting their state within a step or two.
"""

from __future__ import annotations

STEPS = 100  # of two sequences: more than FLA's chunk of 64, and no multiple of it
# What fp32 allows wherever nothing cancels: a parameter's gradient sums up 2 * STEPS tokens, each rounding of the sum
# is off by up to 2^-24 of it, and there is one such sum more before it, over the chunk or the width.
ROUNDING = 2 * (2 * STEPS) * 2.0**-24

VARIANTS = {
    "gla_short_conv": ("gla", {"use_short_conv": True}),
    "mamba2_groups": ("mamba2", {"n_groups": 2}),  # against FLA's own PyTorch path
    "mamba2_kernels": ("mamba2", {"n_groups": 2}),  # our forward, with FLA's Triton kernels under it as on CUDA
    "path_forget": ("path", {"use_forget_gate": True}),
}
MIXERS = [
    *("gla", "gla_short_conv", "retnet", "deltanet", "gated_deltanet", "hgrn", "mamba2_groups", "mamba2_kernels"),
    *("linear", "simple_gla", "hgrn2", "rwkv6", "kda", "comba", "standard", "mamba", "rwkv7", "based", "rebased"),
    *("gsa", "abc", "lightnet", "gated_deltaproduct", "forgetting", "path", "path_forget", "mla", "stickbreaking"),
    *("mesa", "rodimus", "log_linear_mamba2", "gdn2", "precond_kda", "precond_gated_deltanet", "momentum_deltanet"),
    *("raven", "wall", "parallax", "bitattn", "deltaformer"),
]
NOT_COMPARED = {
    "moba": "FLA's raises ImportError without flash_attn, which needs CUDA; test_ops has its definition",
    "nsa": "no implementation of ours",
    "cyfa": "no implementation of ours",
    "mamba3": "no implementation of ours",
    "mom": "refused by its row",
}
HALF = {"stickbreaking", "parallax"}  # FLA's kernels take nothing but half precision: both sides under autocast
BFLOAT16 = 10 * 2.0**-8  # as many roundings to 8 bits, one after the other
COARSE = {  # what FLA's kernels compute with less than fp32, and what they may be off by
    "stickbreaking": BFLOAT16,  # both sides take bf16, and FLA's kernels round to it inside as well
    "parallax": BFLOAT16,
    "mesa": 2e-2,  # rounds to half precision inside, and is off by 7e-3
    "rwkv7": 1e-4,  # inverts with less precision, and is off by 6e-5
}

# What is added to every second element of a gate's bias. A matrix without a bias gets it in its first column, at every
# second row, and the input's first channel is 1. Made so that these heads or channels decay by e^-5 to e^-20 a step
# (measured: medians of -6 to -14, single steps down to -45); RWKV7 decays by at most e^-0.6, whatever its logit.
PUSHED = {
    "gla": {"gk_proj.1.bias": -160.0},  # divided by 16
    "gla_short_conv": {"gk_proj.1.bias": -160.0},
    "gated_deltanet": {"dt_bias": 4.5},
    "hgrn": {"f_proj.weight": -10.0},
    "mamba2_groups": {"dt_bias": 4.0},
    "mamba2_kernels": {"dt_bias": 4.0},
    "simple_gla": {"gk_proj.bias": -160.0},
    "hgrn2": {"f_proj.weight": -10.0},
    "rwkv6": {"w_proj.linear.lora.2.bias": 2.3},
    "kda": {"dt_bias": 6.0},
    "comba": {"dt_bias": 5.0},
    "mamba": {"dt_proj.bias": 6.0},
    "rwkv7": {"w_lora.lora.2.bias": 10.0},
    "gsa": {"f_proj.weight": -80.0},  # divided by 8
    "gated_deltaproduct": {"dt_bias": 8.0},
    "forgetting": {"f_proj.bias": -10.0},
    "path_forget": {"g_proj.bias": -10.0},
    "mesa": {"a_proj.bias": -10.0},
    "rodimus": {"g_gate_proj.bias": 20.0},
    "log_linear_mamba2": {"dt_bias": 15.0},
    "gdn2": {"dt_bias": 6.0},
    "precond_kda": {"dt_bias": 1.0, "dt_bias_atk": 6.0},  # e^-10 a step already as initialised
    "precond_gated_deltanet": {"dt_bias": 4.0, "dt_bias_atk": 6.0},
    "momentum_deltanet": {"dt_bias": 6.0},
    "raven": {"dt_bias": 40.0},  # times a routing weight
    "wall": {"g_proj.bias": -10.0},
}
# Where the decay is a softmax's, what was before fades when a larger logit comes: factors on the logits' matrix.
SHARPENED = {"abc": {"s_proj.weight": 20.0}, "lightnet": {"k_proj.weight": 20.0}}

# Of each family of kernels what runs in seconds.
FAST = [
    ("retnet", "varlen"),  # a constant decay
    *[("simple_gla", case) for case in ("varlen", "strong_decay")],  # a decay per head
    *[("mamba2_groups", case) for case in ("dense", "strong_decay")],
    *[("gla", case) for case in ("dense", "varlen", "strong_decay")],  # a decay per key channel
    ("rwkv6", "strong_decay"),  # ... with a bonus
    ("gsa", "varlen"),  # a decay per value channel
    ("deltanet", "varlen"),  # delta rule
    *[("gated_deltanet", case) for case in ("varlen", "strong_decay")],  # gated delta rule
    ("kda", "varlen"),  # ... per channel
    ("rwkv7", "varlen"),  # diagonal plus low rank
    *[("hgrn", case) for case in ("dense", "strong_decay")],  # gated scan
    *[("mamba", case) for case in ("dense", "strong_decay")],  # selective scan
    *[("forgetting", case) for case in ("varlen", "strong_decay")],  # softmax and its kin
    ("path", "varlen"),
    ("wall", "varlen"),
    ("parallax", "varlen"),  # half precision
]


def cases_of(mixer: str, one_by_one: set[str]) -> list[str]:
    """The cases that there are of a mixer; `one_by_one` take no `cu_seqlens`."""
    varlen = name_of(mixer) not in one_by_one
    return ["dense"] + ["varlen"] * varlen + ["strong_decay"] * (mixer in PUSHED or mixer in SHARPENED)


def name_of(mixer: str) -> str:
    """Its row in attnlab's table of mixers."""
    return VARIANTS.get(mixer, (mixer,))[0]
