"""Each target's likeliest haplotypes, as a forward-backward pass comes by, for whoever looks closer at them."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np


class Ranking(NamedTuple):
    """size: typed sites of a stretch. haplotypes: (n, w, m) int32, in every stretch those with the most posterior, most
    first. scale: (n, 3, t) float32, what the pass multiplied with: forward probabilities after a site, backward ones
    before it, and their product there, which makes it the posterior.

    m may be 0: then nothing is kept. The pass takes it as a plain tuple, so the order of fields is part of it.
    """

    size: int
    haplotypes: np.ndarray
    scale: np.ndarray

    @staticmethod
    def of(n: int, t: int, size: int, m: int) -> Ranking:
        """For n targets at t typed sites, to be filled."""
        return Ranking(size, np.zeros((n, -(-t // size), m), np.int32), np.zeros((n, 3, t if m else 0), np.float32))


@numba.njit(nogil=True)
def add_to_ranks(who, weight, rank):
    for p in range(len(who)):
        rank[who[p]] += weight[p]


@numba.njit(nogil=True)
def take_ranks(rank, best, ranked):
    """The haplotypes of highest ``rank`` (k,) into ``ranked`` (m,), highest first, ties by index, and their ranks into
    ``best``; all of ``rank`` is 0 afterwards."""
    n, m = 0, len(ranked)
    for j in range(len(rank)):
        value = rank[j]
        rank[j] = 0
        if n == m and not value > best[m - 1]:
            continue
        p = n if n < m else m - 1
        while p and best[p - 1] < value:
            best[p], ranked[p] = best[p - 1], ranked[p - 1]
            p -= 1
        best[p], ranked[p] = value, j
        n = min(n + 1, m)
