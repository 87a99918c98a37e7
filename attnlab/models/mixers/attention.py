"""The rows of mixers that score earlier tokens: softmax attention and its kin."""

from __future__ import annotations

from attnlab.models.mixers import operations, rules
from attnlab.models.mixers.spec import BASIC, BFLOAT16, Compared, MixerSpec, Tested

ATTENTION: dict[str, MixerSpec] = {
    "standard": MixerSpec(
        "fla.layers.attn:Attention",
        "Vaswani et al. 2017, arXiv 1706.03762; rotary positions, Su et al. 2021, arXiv 2104.09864",
        aliases={"window": "window_size"},
        rules=(rules.split_evenly, rules.even_head(), rules.grouped("num_kv_heads")),
        half_only="flash_attn",
        operations=operations.SOFTMAX,
    ),
    "forgetting": MixerSpec(
        "fla.layers.forgetting_attn:ForgettingAttention",
        "Lin et al. 2025, arXiv 2503.02130",
        rules=(
            rules.split_evenly,
            rules.grouped("num_kv_heads"),
            rules.fixed("window_size", None, "FLA's layer trains without a window and would decode with one"),
        ),
        mask_to_cache=True,
        operations=operations.SOFTMAX,
        tests=Tested(all_pairs=True, compared=(Compared(pushed={"f_proj.bias": -10.0}),)),
    ),
    "path": MixerSpec(
        "fla.layers.path_attn:PaTHAttention",
        "Yang et al. 2025, arXiv 2505.16381",
        rules=(
            rules.head_width_in(16, 32, 64, 128),
            rules.grouped("num_kv_heads"),
            rules.fixed("use_qk_norm", False, "FLA's layer leaves the norm out when it keeps a cache"),
        ),
        mask_to_cache=True,
        padded=False,
        half_only=True,  # its fp32 kernels want more shared memory than an H100 has
        operations=operations.PATH,
        tests=Tested(
            all_pairs=True,
            compared=(Compared(), Compared("forget", {"use_forget_gate": True}, pushed={"g_proj.bias": -10.0})),
        ),
    ),
    "mla": MixerSpec(
        "fla.layers.mla:MultiheadLatentAttention",
        "DeepSeek-AI 2024, arXiv 2405.04434",
        sets={**BASIC, "qk_head_dim": None},
        defaults={
            "q_lora_rank": None,
            "kv_lora_rank": rules.quarter_width,
            "qk_nope_head_dim": rules.head_width,
            "qk_rope_head_dim": rules.rotary_width,
            "v_head_dim": rules.head_width,
        },
        rules=(rules.split_evenly,),
        half_only="flash_attn",
        operations=operations.LATENT,
    ),
    "stickbreaking": MixerSpec(
        "fla.layers.stickbreaking_attn:StickBreakingAttention",
        "Tan et al. 2024, arXiv 2410.17980",
        rules=(
            rules.split_evenly,
            rules.grouped("num_kv_heads"),
            rules.at_most(256, "the head width", lambda s, a: s.d_model / s.n_heads),
        ),
        cached=False,
        half_only=True,
        operations=operations.SOFTMAX,
        tests=Tested(all_pairs=True, compared=(Compared(half=True, coarse=BFLOAT16),)),
    ),
    "wall": MixerSpec(
        "fla.layers.wall_attn:WallAttention",
        "blog.tilderesearch.com/blog/wall-attn",
        rules=(rules.split_evenly, rules.grouped("num_kv_heads")),
        cached=False,  # its cache is bf16
        operations=operations.SOFTMAX,
        tests=Tested(
            all_pairs=True,
            compared=(
                Compared(
                    pushed={"g_proj.bias": -10.0},
                    wrong={
                        "strong_decay": "caps what a channel decays by between two steps of a block of 64 at e^-76 "
                        "(2^-110): the output is off by 5e-2 and gradients are NaN"
                    },
                ),
            ),
            shortest_chunks_gib=2.2,
        ),
    ),
    "parallax": MixerSpec(
        "fla.layers.parallax:Parallax",
        "Zuo et al. 2026, arXiv 2605.29157",
        aliases={"window": "window_size"},
        rules=(rules.split_evenly, rules.even_head(), rules.grouped("num_kv_heads")),
        half_only=True,
        operations=operations.PARALLAX,
        tests=Tested(all_pairs=True, compared=(Compared(half=True, coarse=BFLOAT16),)),
    ),
    "deltaformer": MixerSpec(
        "fla.layers.deltaformer:DeltaFormerAttention",
        "arXiv 2505.19488",
        rules=(
            rules.head_width_in(16, 32, 64, 128),
            rules.fixed("num_kv_heads", None, "FLA's kernel has no grouped heads"),
        ),
        cached=False,
        padded=False,
        half_only="flash_attn",
        operations=operations.DELTAFORMER,
        tests=Tested(all_pairs=True),
    ),
    "bitattn": MixerSpec(
        "fla.layers.bitattn:BitAttention",
        "softmax attention through matrices of -1, 0 and 1",
        aliases={"window": "window_size"},
        rules=(rules.split_evenly, rules.even_head(), rules.grouped("num_kv_heads")),
        half_only="flash_attn",
        operations=operations.SOFTMAX,
    ),
    "moba": MixerSpec(
        "fla.layers.moba:MoBA",
        "arXiv 2502.13189",
        rules=(
            rules.split_evenly,
            rules.even_head(),
            rules.fixed("num_kv_heads", None, "FLA's kernel has no grouped heads"),
        ),
        half_only="flash_attn",
        operations=operations.BLOCKS,
        # not compared: FLA's raises ImportError without flash_attn, which needs CUDA; test_ops has its definition
        tests=Tested(all_pairs=True, compared=()),
    ),
    "nsa": MixerSpec(
        "fla.layers.nsa:NativeSparseAttention",
        "arXiv 2502.11089",
        defaults={"head_dim": rules.head_width, "num_kv_heads": 1},
        rules=(rules.head_width_in(16, 32, 64, 128), rules.groups_of(16)),
        needs=("cuda",),
        half_only="flash_attn",
    ),
}
