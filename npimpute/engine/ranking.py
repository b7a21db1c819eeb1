"""Each target's likeliest haplotypes, as a forward-backward pass comes by, for whoever looks closer at them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiled import in_order, in_order_inline
from .lanes import LANES, above, first_bit, load, spread, store

# With clades, haplotypes with less posterior at both sites of a gap, added up, are not ranked.
LEAST_RANKED = np.float32(1e-4)

_ZERO = np.float32(0)


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


@in_order
def _insert(j, score, lane, q, a, ranking, work):
    """Haplotype j among those that target q, of a lane, has in stretch a so far, highest first, where there is room or
    they have less."""
    m, n, best, ranked = work.best.shape[1], work.found[lane], work.best, ranking.haplotypes
    p = min(n, m - 1)
    if n == m and not score > best[lane, p]:
        return
    while p and best[lane, p - 1] < score:
        best[lane, p], ranked[q, a, p] = best[lane, p - 1], ranked[q, a, p - 1]
        p -= 1
    best[lane, p], ranked[q, a, p] = score, j
    work.found[lane] = min(n + 1, m)
    if work.found[lane] == m:
        work.least[0, lane] = best[lane, m - 1]


@in_order
def add_mass(n, first, posterior, scale, work):
    """That of n groups at a typed site, to none if it is the first of the stretch that is seen."""
    for g in range(n):
        value = load(posterior, g) * scale
        store(work.mass, g, value if first else value + load(work.mass, g))


@in_order
def _terms(g, low, high, codes, work):
    """What x y, x, y and 1 are multiplied with to give, added up, the posterior of a haplotype of group g over rows low
    to high of the block. codes: (rows, groups)"""
    # No views of arrays here: each would be counted.
    xy, x, y, one, groups = spread(_ZERO), spread(_ZERO), spread(_ZERO), spread(_ZERO), work.forward.shape[2]
    for row in range(low, high + 1):
        of_m, of_c = 2 * row * groups + g, (2 * row + 1) * groups + g
        e = load(work.emission, row * work.emission.shape[1] + codes[row, g]) * load(work.scale, row)
        m, c = load(work.forward, of_m), load(work.forward, of_c)
        left, leaves = load(work.backward, of_m) * e, load(work.backward, of_c) * e
        xy, x, y, one = xy + m * left, x + m * leaves, y + c * left, one + c * leaves
    return xy, x, y, one


@in_order
def _score(x, y, weight, terms):
    xy, only_x, only_y, one = terms
    return x * (y * xy + only_x) + weight * (y * only_y + one)


@in_order
def _both_sides(row, g, lane, x, y, weight, code, work):
    """Of one haplotype, of group g, at a row of the block: its forward probability after the emission, and its backward
    one before it."""
    forward = x * work.forward[row, 0, g, lane] + weight * work.forward[row, 1, g, lane]
    before = y * work.backward[row, 0, g, lane] + work.backward[row, 1, g, lane]
    return forward * work.emission[row, np.int64(code), lane], before


@in_order
def _least(low, high, following, of, codes, x, lane, work):
    """The least posterior of ``following``, haplotypes, over rows low to high of the block."""
    least = np.float32(np.inf)
    for rank in range(len(following)):
        j, total = np.int64(following[rank]), _ZERO
        g = np.int64(of[j])
        for row in range(low, high + 1):
            weight = work.weight[j, lane]
            forward, before = _both_sides(row, g, lane, x[j, lane], work.y[j, lane], weight, codes[row, g], work)
            total += forward * before * work.scale[row, lane]
        least = min(least, total)
    return least


@in_order_inline
def rank(t, i, x, targets, groups, ranking, work):
    """The haplotypes of highest posterior over the stretch that begins at typed site t, of block i, highest first."""
    a, m, found, least, of = t // ranking.size, ranking.haplotypes.shape[2], work.found, work.least, groups.of[i]
    first, n, lowest = groups.first[i], groups.first[i + 1] - groups.first[i], _ZERO
    start, sites = groups.start[first + i :], groups.site_start[i + 1] - groups.site_start[i] + 1
    codes = groups.codes[groups.code_start[i] : groups.code_start[i] + sites * n].reshape(sites, n)
    low = t - groups.site_start[i]
    high = min(low + ranking.size, sites - 1)
    if len(ranking.ends):
        lowest = LEAST_RANKED
    for lane in range(LANES):
        found[lane], least[0, lane], q = 0, lowest, targets[lane]
        if q < 0:
            least[0, lane] = np.inf
        elif a + 1 < ranking.haplotypes.shape[1] and ranking.haplotypes[q, a + 1, m - 1] >= 0:
            # Those of the next stretch: m others do not have less.
            others = _least(low, high, ranking.haplotypes[q, a + 1], of, codes, x, lane, work)
            least[0, lane] = max(lowest, others * np.float32(0.9999))
    bar, more, most_x, most_y = load(least, 0), spread(np.float32(1.0001)), work.groups[4], work.groups[5]
    most_weight = work.groups[6]
    for g in range(n):
        # No haplotype of a group has more than all of it, and none more than one of the most on either side.
        if not above(load(work.mass, g) * more, bar):
            continue
        terms = _terms(g, low, high, codes, work)
        if not above(_score(load(most_x, g), load(most_y, g), load(most_weight, g), terms), bar):
            continue
        for p in range(start[g], start[g + 1]):
            j = np.int64(groups.members[i, p])
            score = _score(load(x, j), load(work.y, j), load(work.weight, j), terms)
            bits = above(score, bar)
            if bits:
                store(work.score, 0, score)
                while bits:
                    lane = first_bit(bits)
                    bits &= bits - 1
                    _insert(j, work.score[0, lane], lane, targets[lane], a, ranking, work)
                bar = load(least, 0)
    for lane in range(LANES):
        if targets[lane] >= 0:
            ranking.haplotypes[targets[lane], a, found[lane] :] = -1


@in_order_inline
def tell_ends(t, i, x, targets, groups, ranking, work):
    """What the network sees of the haplotypes that are ranked, at typed site t and the one after it."""
    of, n, low = groups.of[i], groups.first[i + 1] - groups.first[i], t - groups.site_start[i]
    high = min(low + 1, groups.site_start[i + 1] - groups.site_start[i])
    code = groups.codes[groups.code_start[i] + low * n :]
    for lane in range(LANES):
        q = targets[lane]
        for rank in range(work.found[lane] if q >= 0 else 0):
            ends, j = ranking.ends[q, t, rank], np.int64(ranking.haplotypes[q, t, rank])
            g, x_j, y_j, weight = np.int64(of[j]), x[j, lane], work.y[j, lane], work.weight[j, lane]
            for row in range(low, high + 1):
                forward, before = _both_sides(row, g, lane, x_j, y_j, weight, code[(row - low) * n + g], work)
                end = 2 * (row - low)
                ends[end] = weight * before if end else forward / work.sums[t, lane]
                ends[end + 1] = forward * before * work.scale[row, lane]
