"""Each target's likeliest haplotypes, as a forward-backward pass comes by, for whoever looks closer at them."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

# With clades, haplotypes with less posterior at both sites of a gap, added up, are not ranked.
LEAST_RANKED = np.float32(1e-4)


class Ranking(NamedTuple):
    """size: typed sites of a stretch. haplotypes: (n, w, m) int32, those with the most posterior over a stretch and the
    site after it, most first, -1 where there are fewer. scale: (n, 3, t) float32, what the pass multiplied with:
    forward probabilities after a site, backward ones before it, and their product there, which makes it the posterior.

    ends: (n, w, m, 4) float32, with clades, where one haplotype's probabilities do not follow from its own alleles:
    forward and posterior at a stretch's site, backward and posterior at the one after it; else empty.

    m may be 0. The pass takes it as a plain tuple, so the order of fields is part of it.
    """

    size: int
    haplotypes: np.ndarray
    scale: np.ndarray
    ends: np.ndarray

    @staticmethod
    def of(n: int, t: int, size: int, m: int, clades: bool = False) -> Ranking:
        """For n targets at t typed sites, to be filled."""
        shape = (n, -(-t // size), m)
        ends = np.zeros((*shape, 4) if clades else (0, 0, 0, 4), np.float32)
        return Ranking(size, np.zeros(shape, np.int32), np.zeros((n, 3, t), np.float32), ends)


@numba.njit(nogil=True)
def add_to_ranks(who, weight, rank, met):
    """Adds the weights of haplotypes ``who`` to their ranks. met: (1 + k,) int64, how many haplotypes have a rank, and
    which."""
    for p in range(len(who)):
        if weight[p] > 0:
            if rank[who[p]] == 0:
                met[0] += 1
                met[met[0]] = who[p]
            rank[who[p]] += weight[p]


@numba.njit(nogil=True)
def insert(who, value, best, ranked, n):
    """``who`` among the n of ``ranked`` (m,) that there are so far, by their values ``best`` (m,), highest first, where
    there is room or they are lower. Returns how many there are now."""
    m = len(ranked)
    if n == m and not value > best[m - 1]:
        return n
    p = n if n < m else m - 1
    while p and best[p - 1] < value:
        best[p], ranked[p] = best[p - 1], ranked[p - 1]
        p -= 1
    best[p], ranked[p] = value, who
    return min(n + 1, m)


@numba.njit(nogil=True)
def take_ranks(rank, met, best, ranked):
    """The haplotypes of highest ``rank`` (k,) into ``ranked`` (m,), highest first, and their ranks into ``best``; what
    is left of ``ranked`` is -1. Nobody has a rank afterwards."""
    n, m = 0, len(ranked)
    for i in range(1, met[0] + 1):
        value = rank[met[i]]
        rank[met[i]] = 0
        n = insert(met[i], value, best, ranked, n)
    for p in range(n, m):
        ranked[p] = -1
    met[0] = 0
