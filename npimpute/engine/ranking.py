"""Each target's likeliest haplotypes, as a forward-backward pass comes by, for whoever looks closer at them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .compiled import in_order, in_order_inline
from .groups import at_site
from .lanes import LANES, above, first_bit, load, store

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


@in_order
def _insert(who, value, best, ranked, n):
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


@in_order
def add_terms(t, row, code, first, work):
    """Those of typed site t, to none if it is the first."""
    m, c, mb, cb = work.forward[row, 0], work.forward[row, 1], work.backward[t % 2, 0], work.backward[t % 2, 1]
    xy, x, y, one, scale = work.terms[0], work.terms[1], work.terms[2], work.terms[3], load(work.scale, t % 2)
    for g in range(len(code)):
        e = load(work.emission[t % 2], code[g]) * scale
        left, leaves = load(mb, g) * e, load(cb, g) * e
        a, b, c_g, d = load(m, g) * left, load(m, g) * leaves, load(c, g) * left, load(c, g) * leaves
        if not first:
            a, b, c_g, d = a + load(xy, g), b + load(x, g), c_g + load(y, g), d + load(one, g)
        store(xy, g, a)
        store(x, g, b)
        store(y, g, c_g)
        store(one, g, d)


@in_order
def _score(x, y, g, terms):
    return x * (y * load(terms[0], g) + load(terms[1], g)) + (y * load(terms[2], g) + load(terms[3], g))


@in_order_inline
def rank(a, i, x, targets, groups, ranking, work):
    """The haplotypes of highest posterior over stretch a, of block i, highest first."""
    m, found, least, of, terms, y = (
        ranking.haplotypes.shape[2],
        work.found,
        work.least,
        groups.of[i],
        work.terms,
        work.y,
    )
    lowest_of_all = LEAST_RANKED if len(ranking.ends) else np.float32(0)
    first, n = groups.first[i], groups.first[i + 1] - groups.first[i]
    start = groups.start[first + i : first + i + n + 1]
    for lane in range(LANES):
        found[lane], least[0, lane], q = 0, lowest_of_all, targets[lane]
        if q < 0:
            least[0, lane] = np.inf
        elif a + 1 < ranking.haplotypes.shape[1] and ranking.haplotypes[q, a + 1, m - 1] >= 0:
            # Those of the next stretch: m others do not have less.
            lowest = np.float32(np.inf)
            for rank in range(m):
                j = np.int64(ranking.haplotypes[q, a + 1, rank])
                g, xj, yj = np.int64(of[j]), x[j, lane], y[j, lane]
                score = xj * (yj * terms[0, g, lane] + terms[1, g, lane])
                lowest = min(lowest, score + (yj * terms[2, g, lane] + terms[3, g, lane]))
            least[0, lane] = max(lowest_of_all, lowest * np.float32(0.9999))
    bar = load(least, 0)
    for g in range(n):
        if not above(_score(load(work.groups[3], g), load(work.groups[4], g), g, terms), bar):
            continue
        for p in range(start[g], start[g + 1]):
            j = np.int64(groups.members[i, p])
            score = _score(load(x, j), load(y, j), g, terms)
            bits = above(score, bar)
            if bits:
                store(work.score, 0, score)
                while bits:
                    lane = first_bit(bits)
                    bits &= bits - 1
                    ranked, best = ranking.haplotypes[targets[lane], a], work.best[lane]
                    found[lane] = _insert(j, work.score[0, lane], best, ranked, found[lane])
                    if found[lane] == m:
                        least[0, lane] = best[m - 1]
                bar = load(least, 0)
    for lane in range(LANES):
        if targets[lane] >= 0:
            ranking.haplotypes[targets[lane], a, found[lane] :] = -1


@in_order_inline
def tell_ends(a, i, x, targets, groups, ranking, work):
    """What the network sees of the haplotypes that are ranked, at typed site a and the one after it."""
    of, first, last = groups.of[i], groups.site_start[i], groups.site_start[i + 1]
    for t in range(a, min(a + 1, last) + 1):
        row, code = t - first, at_site(t, i, groups)[0]
        emission, backward, end = work.emission[t % 2], work.backward[t % 2], 2 * (t - a)
        for lane in range(LANES):
            q = targets[lane]
            for rank in range(work.found[lane] if q >= 0 else 0):
                ends, j = ranking.ends[q, a, rank], np.int64(ranking.haplotypes[q, a, rank])
                g = np.int64(of[j])
                forward = x[j, lane] * work.forward[row, 0, g, lane] + work.forward[row, 1, g, lane]
                before = work.y[j, lane] * backward[0, g, lane] + backward[1, g, lane]
                forward *= emission[np.int64(code[g]), lane]
                ends[end] = before if end else forward / work.sums[t, lane]
                ends[end + 1] = forward * before * work.scale[t % 2, lane]
