"""The rows of mixers that erase what they write anew: delta rules and their kin."""

from __future__ import annotations

from attnlab.models.mixers import operations, rules
from attnlab.models.mixers.spec import BASIC, Compared, MixerSpec, Tested

HEAD_DIM = (rules.whole_values, rules.value_groups, rules.at_most(256, "head_dim", lambda s, a: a["head_dim"]))

DELTAS: dict[str, MixerSpec] = {
    "deltanet": MixerSpec(
        "fla.layers.delta_net:DeltaNet",
        "Yang et al. 2024, arXiv 2406.06484",
        sets={**BASIC, "d_model": None},
        rules=(
            rules.expanded_evenly,
            rules.at_most(256, "the key head width", lambda s, a: s.d_model * a["expand_k"] / s.n_heads),
        ),
        half_only=True,
        operations=operations.DELTA,
    ),
    "gated_deltanet": MixerSpec(
        "fla.layers.gated_deltanet:GatedDeltaNet",
        "Yang et al. 2024, arXiv 2412.06464",
        defaults={"head_dim": rules.three_quarter_head},
        rules=HEAD_DIM,
        operations=operations.GATED_DELTA,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 4.5}),)),
    ),
    "rwkv7": MixerSpec(
        "fla.layers.rwkv7:RWKV7Attention",
        "Peng et al. 2025, arXiv 2503.14456",
        sets={
            "hidden_size": rules.d_model,
            "layer_idx": rules.layer,
            "head_dim": rules.head_width,
            "num_heads": None,
            "num_hidden_layers": rules.depth,
        },
        rules=(rules.split_evenly,),
        shares={"v_first": 3},
        own_init=True,
        compiled=True,
        operations=operations.RWKV7,
        # it decays by at most e^-0.6, whatever its logit
        tests=Tested(compared=(Compared(pushed={"w_lora.lora.2.bias": 10.0}, coarse=1e-4),)),
    ),
    "kda": MixerSpec(
        "fla.layers.kda:KimiDeltaAttention",
        "Kimi Team 2025, arXiv 2510.26692",
        defaults={"head_dim": rules.head_width},
        rules=HEAD_DIM,
        operations=operations.GATED_DELTA,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 6.0}),)),
    ),
    "comba": MixerSpec(
        "fla.layers.comba:Comba",
        "Hu et al. 2025, arXiv 2506.02475",
        defaults={"head_dim": rules.three_quarter_head},
        rules=HEAD_DIM,
        operations=operations.GATED_DELTA,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 5.0}),)),
    ),
    "gated_deltaproduct": MixerSpec(
        "fla.layers.gated_deltaproduct:GatedDeltaProduct",
        "Siems et al. 2025, arXiv 2502.10297",
        defaults={"head_dim": rules.three_quarter_head},
        rules=HEAD_DIM,
        half_only=True,
        operations=operations.DELTA_PRODUCT,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 8.0}),)),
    ),
    "mesa": MixerSpec(
        "fla.layers.mesa_net:MesaNet",
        "von Oswald et al. 2025, arXiv 2506.05233",
        defaults={"head_dim": rules.head_width},
        rules=(rules.at_most(128, "head_dim", lambda s, a: a["head_dim"]),),
        operations=operations.MESA,
        tests=Tested(compared=(Compared(pushed={"a_proj.bias": -10.0}, coarse=2e-2),)),
    ),
    "gdn2": MixerSpec(
        "fla.layers.gdn2:GatedDeltaNet2",
        "arXiv 2605.22791",
        defaults={"head_dim": rules.head_width},
        rules=HEAD_DIM,
        operations=operations.GATED_DELTA,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 6.0}),)),
    ),
    "precond_gated_deltanet": MixerSpec(
        "fla.layers.precond_gated_deltanet:PrecondGatedDeltaNet",
        "arXiv 2604.21100",
        defaults={"head_dim": rules.three_quarter_head},
        rules=HEAD_DIM,
        operations=operations.GATED_DELTA,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 4.0, "dt_bias_atk": 6.0}),)),
    ),
    "precond_kda": MixerSpec(
        "fla.layers.precond_kda:PrecondKDA",
        "arXiv 2604.21100",
        defaults={"head_dim": rules.head_width},
        rules=HEAD_DIM,
        operations=operations.GATED_DELTA,
        # it forgets by e^-10 a step already as initialised
        tests=Tested(compared=(Compared(pushed={"dt_bias": 1.0, "dt_bias_atk": 6.0}),)),
    ),
    "momentum_deltanet": MixerSpec(
        "fla.layers.momentum_deltanet:MomentumDeltaNet",
        "FLA 0.6; no paper named there",
        sets={**BASIC, "d_model": None},
        defaults={"head_dim": rules.three_quarter_head},
        rules=HEAD_DIM,
        padded=False,
        operations=operations.MOMENTUM,
        varlen=False,
        tests=Tested(compared=(Compared(pushed={"dt_bias": 6.0}),)),
    ),
    "cyfa": MixerSpec(
        "fla.layers.cyfa:CyclicFlowAttention",
        "arXiv 2609.36259",
        defaults={"head_dim": rules.head_width},
        rules=(rules.split_evenly,),
        needs=("cuda",),
    ),
    "mom": MixerSpec(
        "fla.layers.mom:MomAttention",
        "arXiv 2502.13685",
        refused="FLA 0.6's layer lets a token see later ones in training: its short convolution runs over all "
        "memories' tokens laid end to end",
    ),
}
