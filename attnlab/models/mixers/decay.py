"""The rows of mixers whose state decays and gains: linear attention, Mamba and their kin."""

from __future__ import annotations

from attnlab.models.mixers import operations, rules
from attnlab.models.mixers.spec import BASIC, Compared, MixerSpec, Option, Tested

DECAY: dict[str, MixerSpec] = {
    "gla": MixerSpec(
        "fla.layers.gla:GatedLinearAttention",
        "Yang et al. 2023, arXiv 2312.06635",
        options={"use_gk": Option(True, "attnlab.models.mixers.variants:without_decay")},
        rules=(rules.expanded_evenly, rules.grouped("num_kv_heads")),
        compiled=True,
        operations=operations.GLA,
        # the gate's logit is divided by 16
        tests=Tested(
            compared=(
                Compared(pushed={"gk_proj.1.bias": -160.0}),
                Compared("short_conv", {"use_short_conv": True}, pushed={"gk_proj.1.bias": -160.0}),
            )
        ),
    ),
    "retnet": MixerSpec(
        "fla.layers.multiscale_retention:MultiScaleRetention",
        "Sun et al. 2023, arXiv 2307.08621",
        rules=(
            rules.expanded_evenly,
            rules.even_head("expand_k"),
            rules.at_most(256, "the key head width", lambda s, a: s.d_model * a["expand_k"] / s.n_heads),
            rules.grouped("num_kv_heads"),
        ),
        operations=operations.DECAYED,
    ),
    "mamba": MixerSpec(
        "fla.layers.mamba:Mamba",
        "Gu and Dao 2023, arXiv 2312.00752",
        sets={"hidden_size": rules.d_model, "layer_idx": rules.layer},
        defaults={"intermediate_size": rules.twice_d_model},
        own_init=("dt_proj",),
        operations=operations.SELECTIVE,
        varlen=False,
        tests=Tested(compared=(Compared(pushed={"dt_proj.bias": 6.0}),)),
    ),
    "mamba2": MixerSpec(
        "fla.layers.mamba2:Mamba2",
        "Dao and Gu 2024, arXiv 2405.21060",
        sets={"hidden_size": rules.d_model, "layer_idx": rules.layer, "num_heads": None},
        defaults={"head_dim": rules.mamba2_head, "state_size": rules.mamba2_state},
        rules=(rules.mamba2_heads,),
        compiled=True,
        operations=operations.DECAYED,
        varlen=False,
        # against FLA's own PyTorch; and our forward, with FLA's Triton kernels under it as on CUDA
        tests=Tested(
            compared=(
                Compared("groups", {"n_groups": 2}, pushed={"dt_bias": 4.0}),
                Compared("kernels", {"n_groups": 2}, pushed={"dt_bias": 4.0}),
            ),
        ),
    ),
    "hgrn": MixerSpec(
        "fla.layers.hgrn:HGRNAttention",
        "Qin et al. 2023, arXiv 2311.04823, without the lower bounds that FLA's model learns for deeper layers' gates",
        sets={"hidden_size": rules.d_model, "layer_idx": rules.layer},
        compiled=True,
        operations=operations.ELEMENTWISE,
        varlen=False,
        tests=Tested(compared=(Compared(pushed={"f_proj.weight": -10.0}),)),
    ),
    "linear": MixerSpec(
        "fla.layers.linear_attn:LinearAttention",
        "Katharopoulos et al. 2020, arXiv 2006.16236",
        rules=(rules.expanded_evenly, rules.grouped("num_kv_heads")),
        operations=operations.PLAIN,
    ),
    "simple_gla": MixerSpec(
        "fla.layers.simple_gla:SimpleGatedLinearAttention",
        "Yang et al. 2023, arXiv 2312.06635, with one decay per head",
        rules=(rules.expanded_evenly, rules.grouped("num_kv_heads")),
        operations=operations.DECAYED,
        tests=Tested(compared=(Compared(pushed={"gk_proj.bias": -160.0}),)),
    ),
    "hgrn2": MixerSpec(
        "fla.layers.hgrn2:HGRN2Attention",
        "Qin et al. 2024, arXiv 2404.07904, without the lower bounds that FLA's model learns for deeper layers' gates",
        sets={**BASIC, "expand_ratio": rules.head_width},
        rules=(rules.split_evenly,),
        compiled=True,
        operations=operations.DECAYED,
        tests=Tested(compared=(Compared(pushed={"f_proj.weight": -10.0}),)),
    ),
    "rwkv6": MixerSpec(
        "fla.layers.rwkv6:RWKV6Attention",
        "Peng et al. 2024, arXiv 2404.05892",
        rules=(rules.expanded_evenly,),
        own_init=True,
        compiled=True,
        operations=operations.DECAYED,
        tests=Tested(compared=(Compared(pushed={"w_proj.linear.lora.2.bias": 2.3}),)),
    ),
    "based": MixerSpec(
        "fla.layers.based:BasedLinearAttention",
        "Arora et al. 2024, arXiv 2402.18668",
        sets={"hidden_size": rules.d_model, "num_heads": rules.n_heads, "num_key_value_heads": rules.n_heads},
        rules=(rules.split_evenly, rules.at_most(128, "feature_dim", lambda s, a: a["feature_dim"])),
        cached=False,
        padded=False,
        operations=operations.TAYLOR,
        varlen=False,
        tests=Tested(all_pairs=True),
    ),
    "rebased": MixerSpec(
        "fla.layers.rebased:ReBasedLinearAttention",
        "Aksenov et al. 2024, arXiv 2402.10644",
        sets={**BASIC, "num_key_value_heads": rules.n_heads},
        rules=(rules.split_evenly, rules.at_most(128, "feature_dim", lambda s, a: a["feature_dim"])),
        cached=False,
        padded=False,
        operations=operations.SQUARED,
        varlen=False,
        tests=Tested(all_pairs=True),
    ),
    "gsa": MixerSpec(
        "fla.layers.gsa:GatedSlotAttention",
        "Zhang et al. 2024, arXiv 2409.07146",
        rules=(
            rules.expanded_evenly,
            rules.fixed("expand_v", 1, "the layer's norm has d_model weights"),
            rules.grouped("num_kv_heads"),
        ),
        operations=operations.DECAYED,
        # its logit is divided by 8
        tests=Tested(compared=(Compared(pushed={"f_proj.weight": -80.0}),)),
    ),
    "abc": MixerSpec(
        "fla.layers.abc:ABCAttention",
        "Peng et al. 2021, arXiv 2110.02488",
        defaults={"num_slots": rules.head_power_of_two},
        rules=(rules.expanded_evenly, rules.even_head("expand_k"), rules.power_of_two("num_slots")),
        operations=operations.DECAYED,
        varlen=False,
        tests=Tested(compared=(Compared(sharpened={"s_proj.weight": 20.0}),)),
    ),
    "lightnet": MixerSpec(
        "fla.layers.lightnet:LightNetAttention",
        "Qin et al. 2024, arXiv 2405.21022",
        defaults={"expand_ratio": rules.head_width, "gate_low_rank_dim": rules.eighth_width},
        rules=(rules.split_evenly,),
        operations=operations.DECAYED,
        tests=Tested(compared=(Compared(sharpened={"k_proj.weight": 20.0}),)),
    ),
    "rodimus": MixerSpec(
        "fla.layers.rodimus:RodimusAttention",
        "He et al. 2024, arXiv 2410.06577",
        sets={"hidden_size": rules.d_model, "layer_idx": rules.layer, "block_type": "rodimus"},
        init="attnlab.models.mixers.variants:initialise_rodimus",
        own_init=("g_gate_proj", "tau_gate_proj", "i_gate_proj.0", "i_gate_proj.1"),
        operations=operations.DECAYED,
        tests=Tested(compared=(Compared(pushed={"g_gate_proj.bias": 20.0}),)),
    ),
    "log_linear_mamba2": MixerSpec(
        "fla.layers.log_linear_mamba2:LogLinearMamba2",
        "Guo et al. 2025, arXiv 2506.04761",
        defaults={"head_dim": rules.mamba2_head, "state_size": rules.mamba2_state},
        rules=(
            rules.mamba2_heads,
            rules.fixed("chunk_size", 64, "FLA's kernel is written for it"),
            rules.fixed("dt_limit", None, "FLA's kernel has no limits"),
        ),
        operations=operations.LOG_LINEAR,
        padded=False,
        varlen=False,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 15.0}),)),
    ),
    "raven": MixerSpec(
        "fla.layers.raven:Raven",
        "github.com/goombalab/raven, raven.pdf",
        rules=(rules.expanded_evenly, rules.grouped("num_kv_heads")),
        operations=operations.DECAYED,
        # times a routing weight
        tests=Tested(compared=(Compared(pushed={"dt_bias": 40.0}),)),
    ),
    "mamba3": MixerSpec(
        "fla.layers.mamba3:Mamba3",
        "arXiv 2603.15569",
        sets={"hidden_size": rules.d_model, "layer_idx": rules.layer, "device": None, "dtype": None},
        defaults={"head_dim": rules.mamba2_head, "state_size": rules.mamba2_state},
        needs=("mamba_ssm", "cuda"),
    ),
}
