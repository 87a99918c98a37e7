"""The table of sequence mixers: one row per layer. Here those that carry a state; `attention_mixers` has the others.

A row names a class, how `d_model` and `n_heads` become its arguments, which widths it refuses and what it needs; `spec`
explains the fields. Everything else that a sweep file gives passes through to the class (`checks`). This module imports
neither torch nor FLA. To add an FLA layer, add a row; to use a layer of your own, add a row or write
`my_package.my_file:MyMixer` as the mixer's name.
"""

from __future__ import annotations

from attnlab.models.mixers.attention import ATTENTION
from attnlab.models.mixers.rules import (
    at_most,
    d_model,
    depth,
    eighth_width,
    even_head,
    expanded_evenly,
    fixed,
    grouped,
    head_power_of_two,
    head_width,
    layer,
    mamba2_head,
    mamba2_heads,
    mamba2_state,
    n_heads,
    power_of_two,
    split_evenly,
    three_quarter_head,
    twice_d_model,
    value_groups,
    whole_values,
)
from attnlab.models.mixers.spec import BASIC, MixerSpec, Option

RECURRENT: dict[str, MixerSpec] = {
    "gla": MixerSpec(
        "fla.layers.gla:GatedLinearAttention",
        "Yang et al. 2023, arXiv 2312.06635",
        sets=BASIC,
        options={"use_gk": Option(True, "attnlab.models.mixers.variants:without_decay")},
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
        compiled=True,
    ),
    "retnet": MixerSpec(
        "fla.layers.multiscale_retention:MultiScaleRetention",
        "Sun et al. 2023, arXiv 2307.08621",
        sets=BASIC,
        rules=(
            expanded_evenly("expand_k", "expand_v"),
            even_head("expand_k"),
            at_most(256, "the key head width", lambda s, a: s.d_model * a["expand_k"] / s.n_heads),
            grouped("num_kv_heads"),
        ),
    ),
    "mamba": MixerSpec(
        "fla.layers.mamba:Mamba",
        "Gu and Dao 2023, arXiv 2312.00752",
        sets={"hidden_size": d_model, "layer_idx": layer},
        defaults={"intermediate_size": twice_d_model},
        own_init=("dt_proj",),
    ),
    "mamba2": MixerSpec(
        "fla.layers.mamba2:Mamba2",
        "Dao and Gu 2024, arXiv 2405.21060",
        sets={"hidden_size": d_model, "layer_idx": layer, "num_heads": None},
        defaults={"head_dim": mamba2_head, "state_size": mamba2_state},
        rules=(mamba2_heads,),
        compiled=True,
    ),
    "deltanet": MixerSpec(
        "fla.layers.delta_net:DeltaNet",
        "Yang et al. 2024, arXiv 2406.06484",
        sets={**BASIC, "d_model": None},
        rules=(
            expanded_evenly("expand_k", "expand_v"),
            at_most(256, "the key head width", lambda s, a: s.d_model * a["expand_k"] / s.n_heads),
        ),
        half_only=True,
    ),
    "gated_deltanet": MixerSpec(
        "fla.layers.gated_deltanet:GatedDeltaNet",
        "Yang et al. 2024, arXiv 2412.06464",
        sets=BASIC,
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "hgrn": MixerSpec(
        "fla.layers.hgrn:HGRNAttention",
        "Qin et al. 2023, arXiv 2311.04823, without the lower bounds that FLA's model learns for deeper layers' gates",
        sets={"hidden_size": d_model, "layer_idx": layer},
        compiled=True,
    ),
    "linear": MixerSpec(
        "fla.layers.linear_attn:LinearAttention",
        "Katharopoulos et al. 2020, arXiv 2006.16236",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
    ),
    "simple_gla": MixerSpec(
        "fla.layers.simple_gla:SimpleGatedLinearAttention",
        "Yang et al. 2023, arXiv 2312.06635, with one decay per head",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
    ),
    "hgrn2": MixerSpec(
        "fla.layers.hgrn2:HGRN2Attention",
        "Qin et al. 2024, arXiv 2404.07904, without the lower bounds that FLA's model learns for deeper layers' gates",
        sets={**BASIC, "expand_ratio": head_width},
        rules=(split_evenly,),
        compiled=True,
    ),
    "rwkv6": MixerSpec(
        "fla.layers.rwkv6:RWKV6Attention",
        "Peng et al. 2024, arXiv 2404.05892",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"),),
        own_init=True,
        compiled=True,
    ),
    "rwkv7": MixerSpec(
        "fla.layers.rwkv7:RWKV7Attention",
        "Peng et al. 2025, arXiv 2503.14456",
        sets={
            "hidden_size": d_model,
            "layer_idx": layer,
            "head_dim": head_width,
            "num_heads": None,
            "num_hidden_layers": depth,
        },
        rules=(split_evenly,),
        shares={"v_first": 3},
        own_init=True,
        compiled=True,
    ),
    "kda": MixerSpec(
        "fla.layers.kda:KimiDeltaAttention",
        "Kimi Team 2025, arXiv 2510.26692",
        sets=BASIC,
        defaults={"head_dim": head_width},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "comba": MixerSpec(
        "fla.layers.comba:Comba",
        "Hu et al. 2025, arXiv 2506.02475",
        sets=BASIC,
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "based": MixerSpec(
        "fla.layers.based:BasedLinearAttention",
        "Arora et al. 2024, arXiv 2402.18668",
        sets={"hidden_size": d_model, "num_heads": n_heads, "num_key_value_heads": n_heads},
        rules=(split_evenly, at_most(128, "feature_dim", lambda s, a: a["feature_dim"])),
        cached=False,
        padded=False,
    ),
    "rebased": MixerSpec(
        "fla.layers.rebased:ReBasedLinearAttention",
        "Aksenov et al. 2024, arXiv 2402.10644",
        sets={**BASIC, "num_key_value_heads": n_heads},
        rules=(split_evenly, at_most(128, "feature_dim", lambda s, a: a["feature_dim"])),
        cached=False,
        padded=False,
    ),
    "gsa": MixerSpec(
        "fla.layers.gsa:GatedSlotAttention",
        "Zhang et al. 2024, arXiv 2409.07146",
        sets=BASIC,
        rules=(
            expanded_evenly("expand_k", "expand_v"),
            fixed("expand_v", 1, "the layer's norm has d_model weights"),
            grouped("num_kv_heads"),
        ),
    ),
    "abc": MixerSpec(
        "fla.layers.abc:ABCAttention",
        "Peng et al. 2021, arXiv 2110.02488",
        sets=BASIC,
        defaults={"num_slots": head_power_of_two},
        rules=(expanded_evenly("expand_k", "expand_v"), even_head("expand_k"), power_of_two("num_slots")),
    ),
    "lightnet": MixerSpec(
        "fla.layers.lightnet:LightNetAttention",
        "Qin et al. 2024, arXiv 2405.21022",
        sets=BASIC,
        defaults={"expand_ratio": head_width, "gate_low_rank_dim": eighth_width},
        rules=(split_evenly,),
    ),
    "gated_deltaproduct": MixerSpec(
        "fla.layers.gated_deltaproduct:GatedDeltaProduct",
        "Siems et al. 2025, arXiv 2502.10297",
        sets=BASIC,
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
        half_only=True,
    ),
    "mesa": MixerSpec(
        "fla.layers.mesa_net:MesaNet",
        "von Oswald et al. 2025, arXiv 2506.05233",
        sets=BASIC,
        defaults={"head_dim": head_width},
        rules=(at_most(128, "head_dim", lambda s, a: a["head_dim"]),),
    ),
    "rodimus": MixerSpec(
        "fla.layers.rodimus:RodimusAttention",
        "He et al. 2024, arXiv 2410.06577",
        sets={"hidden_size": d_model, "layer_idx": layer, "block_type": "rodimus"},
        init="attnlab.models.mixers.variants:initialise_rodimus",
        own_init=("g_gate_proj", "tau_gate_proj", "i_gate_proj.0", "i_gate_proj.1"),
    ),
    "log_linear_mamba2": MixerSpec(
        "fla.layers.log_linear_mamba2:LogLinearMamba2",
        "Guo et al. 2025, arXiv 2506.04761",
        sets=BASIC,
        defaults={"head_dim": mamba2_head, "state_size": mamba2_state},
        rules=(
            mamba2_heads,
            fixed("chunk_size", 64, "FLA's kernel is written for it"),
            fixed("dt_limit", None, "FLA's kernel has no limits"),
        ),
    ),
    "gdn2": MixerSpec(
        "fla.layers.gdn2:GatedDeltaNet2",
        "arXiv 2605.22791",
        sets=BASIC,
        defaults={"head_dim": head_width},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "precond_gated_deltanet": MixerSpec(
        "fla.layers.precond_gated_deltanet:PrecondGatedDeltaNet",
        "arXiv 2604.21100",
        sets=BASIC,
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "precond_kda": MixerSpec(
        "fla.layers.precond_kda:PrecondKDA",
        "arXiv 2604.21100",
        sets=BASIC,
        defaults={"head_dim": head_width},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
    ),
    "momentum_deltanet": MixerSpec(
        "fla.layers.momentum_deltanet:MomentumDeltaNet",
        "FLA 0.6; no paper named there",
        sets={**BASIC, "d_model": None},
        defaults={"head_dim": three_quarter_head},
        rules=(whole_values, value_groups, at_most(256, "head_dim", lambda s, a: a["head_dim"])),
        padded=False,
    ),
    "raven": MixerSpec(
        "fla.layers.raven:Raven",
        "github.com/goombalab/raven, raven.pdf",
        sets=BASIC,
        rules=(expanded_evenly("expand_k", "expand_v"), grouped("num_kv_heads")),
    ),
    "cyfa": MixerSpec(
        "fla.layers.cyfa:CyclicFlowAttention",
        "arXiv 2609.36259",
        sets=BASIC,
        defaults={"head_dim": head_width},
        rules=(split_evenly,),
        needs=("cuda",),
    ),
    "mamba3": MixerSpec(
        "fla.layers.mamba3:Mamba3",
        "arXiv 2603.15569",
        sets={"hidden_size": d_model, "layer_idx": layer, "device": None, "dtype": None},
        defaults={"head_dim": mamba2_head, "state_size": mamba2_state},
        needs=("mamba_ssm", "cuda"),
    ),
    "mom": MixerSpec(
        "fla.layers.mom:MomAttention",
        "arXiv 2502.13685",
        refused="FLA 0.6's layer lets a token see later ones in training: its short convolution runs over all "
        "memories' tokens laid end to end",
    ),
}

MIXERS: dict[str, MixerSpec] = {**ATTENTION, **RECURRENT}
