"""Operations per token of mixing over time, counted from the algorithm.

A multiplication and an addition count one each. Those of a recurrent mixer are w per number of its recurrent state
(whose size is measured, see `state`), with

    2  write      S += k v^T: a product, an addition       1  decay    S *= a
    2  read       q^T S                                    2  another product with the state, such as delta rules' k^T S

as a decoder would compute it. Chunked kernels compute more, depending on their chunk, to use matrix units. Those of
softmax attention and its kin are 2 (dk + dv) per query head and pair of query and key that it may see: causality
halves it (FLA's kernels skip what is masked) and a window bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple


class Operations(NamedTuple):
    """Forward operations per token of a layer's mixing over time, without its matrices.

    Attributes:
        per: what `count` is per: a number of the recurrent "state"; a "pair" of a query and a key that it may see, all
            heads together; or the "token" itself.
        count: of (the built layer, d_model, T).
        grows: whether longer sequences cost more per token.
        most_seen: of the built layer: how many keys a query sees at most, where that is not its `window_size`.
    """

    per: Literal["state", "pair", "token"]
    count: Callable[[Any, int, int], float]
    grows: bool = False
    most_seen: Callable[[Any], int | None] = lambda layer: getattr(layer, "window_size", None)


def per_number(count: float) -> Operations:
    """The same count per number of the recurrent state, whatever the arguments."""
    return Operations("state", lambda layer, d_model, steps: count)


def per_pair(count: Callable[[Any, int, int], float]) -> Operations:
    """A count per pair of a query and a key that it may see."""
    return Operations("pair", count, grows=True)


PLAIN = per_number(4.0)
DECAYED = per_number(5.0)
DELTA = per_number(6.0)
GATED_DELTA = per_number(7.0)
SELECTIVE = per_number(7.0)  # DECAYED, and exp(delta A): a product and an exponential
ELEMENTWISE = per_number(3.0)  # h = f h + (1 - f) x
RWKV7 = per_number(9.0)  # decay, S a, (S a) b^T, write, read (Peng et al. 2025, arXiv 2503.14456, equation 17)
# two states: x = v - k^T S; M = m M + k x^T; S = a S + M; q^T S: 2 + 3 + 2 + 2 over both
MOMENTUM = per_number(4.5)

# without decay where `use_gk` is false
GLA = Operations("state", lambda layer, d_model, steps: 5.0 if any(True for _ in layer.gk_proj.parameters()) else 4.0)
# so many delta steps, one decay and read
DELTA_PRODUCT = Operations("state", lambda layer, d_model, steps: 3.0 + 4.0 * layer.num_householder)
# Of its two states, keys' and values', each decays and is written. Conjugate gradients multiply the first in each
# iteration, and the second is read (von Oswald et al. 2025, arXiv 2506.05233): per number of both, half of it.
MESA = Operations("state", lambda layer, d_model, steps: (3 + 3 + 2 * layer.max_cg_step_training + 2) / 2)
# Of Fenwick's tree those levels decay and are read that hold anything, on average half of log2 T, and the token's own
# is written (Guo et al. 2025, arXiv 2506.04761, section 3). The state measured has room for all levels.
LOG_LINEAR = Operations(
    "state", lambda layer, d_model, steps: 3.0 * (1 + math.log2(steps) / 2) / layer.num_lambda_dims, grows=True
)

SOFTMAX = per_pair(lambda layer, d_model, steps: 4.0 * d_model)  # q k and p v
# the blocks chosen, the query's own among them
BLOCKS = SOFTMAX._replace(most_seen=lambda layer: layer.moba_chunk_size * layer.moba_topk)
LATENT = per_pair(lambda layer, d_model, steps: 2.0 * layer.num_heads * (layer.qk_head_dim + layer.v_head_dim))
PARALLAX = per_pair(lambda layer, d_model, steps: 6.0 * d_model)  # a second stream of queries meets the keys
DELTAFORMER = per_pair(lambda layer, d_model, steps: 8.0 * d_model)  # keys attend to keys first (arXiv 2505.19488)
PATH_CHUNK = 64  # FLA's PaTH carries queries over a chunk by one d x d product
# q k and p v; and each query carried over each chunk between (Yang et al. 2025, arXiv 2505.16381, section 3)
PATH = per_pair(lambda layer, d_model, steps: 4.0 * d_model + 2.0 * d_model * (d_model / layer.num_heads) / PATH_CHUNK)

# Based: features 1, x and x x^T of `feature_dim` channels (arXiv 2402.18668, section 4), linearly.
TAYLOR = Operations(
    "token", lambda layer, d_model, steps: 4.0 * (1 + layer.feature_dim + layer.feature_dim**2) * d_model
)
# ReBased: (q k)^2 is the product of the distinct products of two channels (arXiv 2402.10644, section 3).
SQUARED = Operations("token", lambda layer, d_model, steps: 4.0 * math.comb(layer.feature_dim + 1, 2) * d_model)
