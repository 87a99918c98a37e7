"""Find which runs of validation tokens occur in the training tokens, at any offset.

Every run of n tokens has a hash, h(i) = sum over j < n of r[x[i + j]] b^j modulo 2^64. r[v] is a random 64-bit number
per token and b is odd (Karp and Rabin 1987, IBM J. Res. Dev. 31). With running sums S[i] = sum over k < i of
r[x[k]] b^k it is (S[i + n] - S[i]) b^-i, so a split's hashes cost a few passes of numpy. Two different runs have
one hash with a chance of about 2^-64: none is expected among 10^9 training tokens and 10^5 runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20  # training tokens at once
SEED = 7


def contained(runs: NDArray[np.integer[Any]], tokens: NDArray[np.integer[Any]], vocab_size: int) -> NDArray[np.bool_]:
    """Whether each of the runs [R, n] occurs in the tokens [N], bool [R]."""
    n = runs.shape[1]
    if not len(runs) or len(tokens) < n:
        return np.zeros(len(runs), bool)
    rng = np.random.default_rng(SEED)
    numbers = rng.integers(2**64, size=vocab_size, dtype=np.uint64)
    base = int(rng.integers(2**64, dtype=np.uint64)) | 1
    weights = _powers(base, n)
    wanted = numbers[runs] @ weights
    order = np.sort(wanted)
    occurs = np.zeros(len(order), bool)
    length = min(CHUNK, len(tokens)) + n  # a chunk reaches n - 1 tokens into the next one
    up, down = _powers(base, length), _powers(pow(base, -1, 2**64), length)
    for start in range(0, len(tokens) - n + 1, CHUNK):
        chunk = numbers[tokens[start : start + CHUNK + n - 1]]
        sums = np.zeros(len(chunk) + 1, np.uint64)
        np.cumsum(chunk * up[: len(chunk)], out=sums[1:])
        hashes = (sums[n:] - sums[:-n]) * down[: len(chunk) - n + 1]
        index = np.searchsorted(order, hashes)
        index[index == len(order)] = 0
        occurs[index[order[index] == hashes]] = True  # the first of equal ones
    result: NDArray[np.bool_] = occurs[np.searchsorted(order, wanted)]
    return result


def _powers(base: int, n: int) -> NDArray[np.uint64]:
    """base^0 ... base^(n - 1) modulo 2^64."""
    out = np.full(n, base, np.uint64)
    out[0] = 1
    return np.cumprod(out)
