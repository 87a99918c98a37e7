"""What `compare_with_fla` compares: layers, inputs, and how each layer's gates are pushed to forget at once.

Cases: "dense", a batch of T steps, T no multiple of FLA's chunk; "varlen", sequences laid end to end (`cu_seqlens`);
"strong_decay", dense with a part of the heads or channels forgetting their state within a step or two.
"""

from __future__ import annotations

from attnlab.models.mixers.spec import Compared
from attnlab.models.mixers.table import MIXERS

STEPS = 100  # of two sequences: more than FLA's chunk of 64, and no multiple of it
# What fp32 allows wherever nothing cancels: a parameter's gradient sums up 2 * STEPS tokens, each rounding of the sum
# is off by up to 2^-24 of it, and there is one such sum more before it, over the chunk or the width.
ROUNDING = 2 * (2 * STEPS) * 2.0**-24

# A name -> the mixer whose layer is compared, and how: what the mixers' rows say (`MixerSpec.tests`).
WAYS: dict[str, tuple[str, Compared]] = {
    f"{mixer}_{way.variant}".rstrip("_"): (mixer, way)
    for mixer, row in MIXERS.items()
    if not (row.needs or row.refused)
    for way in row.tests.compared
}

# One of each family of kernels, in a case that costs little: all of them take a minute. That each recurrence equals its
# definition is tested by itself (`tests/kernels/cpu/test_linear_rnn.py`), and every case with the slow tests.
FAST = [
    ("simple_gla", "strong_decay"),  # a decay per head
    ("mamba2_groups", "dense"),
    ("gla", "strong_decay"),  # a decay per key channel
    ("rwkv6", "dense"),  # ... with a bonus
    ("gsa", "varlen"),  # a decay per value channel
    ("gated_deltanet", "varlen"),  # gated delta rule
    ("kda", "varlen"),  # ... per channel
    ("rwkv7", "varlen"),  # diagonal plus low rank
    ("hgrn", "strong_decay"),  # gated scan
    *[("mamba", case) for case in ("dense", "strong_decay")],  # selective scan
    *[("forgetting", case) for case in ("varlen", "strong_decay")],  # softmax and its kin
    ("path", "varlen"),
    ("wall", "varlen"),
    ("parallax", "varlen"),  # half precision
]


def cases_of(name: str) -> list[str]:
    """The cases that there are of a name in `WAYS`."""
    mixer, way = WAYS[name]
    forgets = bool(way.pushed or way.sharpened)
    return ["dense"] + ["varlen"] * MIXERS[mixer].varlen + ["strong_decay"] * forgets
