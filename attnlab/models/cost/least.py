"""How large a model is at least, by arithmetic alone: for models that are too large even to be looked at."""

from __future__ import annotations

import math

from attnlab.config.trial import ModelConfig

MLP_MATRICES = {"swiglu": 3, "gelu": 2, "none": 0}


def mlp_width(d_model: int, kind: str) -> int:
    """Default MLP width: 4 d_model for gelu, 8/3 d_model for swiglu.

    These are equal in parameters, as swiglu has three matrices (Shazeer 2020, arXiv 2002.05202, section 3). Rounded up
    to a multiple of 64 for the tensor cores' tiles.
    """
    return 4 * d_model if kind == "gelu" else math.ceil(8 * d_model / 3 / 64) * 64


def least_params(model: ModelConfig, vocab_size: int = 0) -> int:
    """Parameters besides the mixers', which may have any number.

    V D for the embedding (2 V D with a head of its own), M D F for the MLP's M matrices and D for each norm. D is the
    width, F the MLP's, V the vocabulary.
    """
    d, matrices = model.d_model, MLP_MATRICES[model.mlp]
    width = model.d_ff or mlp_width(d, model.mlp)
    layer = matrices * d * width + d * (1 + (matrices > 0))
    return vocab_size * d * (1 if model.tie_embeddings else 2) + model.n_layers * layer + d


def least_activations(model: ModelConfig, tokens: int) -> int:
    """Numbers that the backward pass needs of a micro-batch of N tokens, at least: (L - 1) N (D + F).

    The weight gradients of a layer's MLP are products with its input, N D, and with what its last matrix reads, N F.
    Without an MLP the gradients of the norm before the mixer are products with its input, N D. Recomputing them takes
    as many others. The last layer is left out, as it may run where there are targets alone.
    """
    inner = (model.d_ff or mlp_width(model.d_model, model.mlp)) if MLP_MATRICES[model.mlp] else 0
    return (model.n_layers - 1) * tokens * (model.d_model + inner)
