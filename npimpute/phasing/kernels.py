"""Kernels of two-haplotype Li-Stephens phasing: one target at a time, over the reference haplotypes given.

Axes: l sites, k reference haplotypes. Alleles are int8 codes of the panel, -1 missing. A target's two haplotypes are
its alleles ``pair`` (2, l): where it is heterozygous and ``open`` (l,) is set, which allele is whose is not known.
jump (l,) float64: the probability of leaving the copied haplotype between the site before and this one (0 at the
first). An allele is copied right with probability 1 - err. Nothing is random, and no state is kept.

Source: Li & Stephens 2003, Genetics 165:2213 (the model); the search by partial paths is in the manner of Loh et al.
2016, Nature Genetics 48:1443 (Eagle2), the phase of one site given all others in that of Browning et al. 2021, AJHG
108:1880 (Beagle 5.2); the details are our own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# What lets sums be vectorised, but not "no infinities", which scores of -inf need.
FAST = {"reassoc", "contract", "arcp", "nsz"}
PATHS = 8
"""Partial phasings that the search keeps."""
MEMORY = 15
"""Two partial phasings that agree in so many heterozygotes are taken for one: the better is kept."""


@njit(cache=True, nogil=True, fastmath=FAST)
def _leave(f, jump):
    """One haplotype's forward probabilities, summing to 1, a step on."""
    stay, uniform = np.float32(1 - jump), np.float32(jump / len(f))
    for k in range(len(f)):
        f[k] = f[k] * stay + uniform


@njit(cache=True, nogil=True, fastmath=FAST)
def _copy(f, alleles, allele, err):
    """Sees ``allele``: multiplies by its probability and makes the sum 1 again; returns the sum."""
    hit, miss = np.float32(1 - err), np.float32(err)
    total = np.float32(0)
    for k in range(len(f)):
        f[k] *= hit if alleles[k] == allele else miss
        total += f[k]
    scale = np.float32(1) / total
    for k in range(len(f)):
        f[k] *= scale
    return np.float64(total)


@njit(cache=True, nogil=True, fastmath=FAST)
def _share(f, alleles, allele):
    """The probability that the copied haplotype carries ``allele``."""
    total = np.float32(0)
    for k in range(len(f)):
        total += f[k] if alleles[k] == allele else np.float32(0)
    return np.float64(total)


@njit(cache=True, nogil=True, fastmath=FAST)
def search(ref, jump, err, pair, is_open, anchored):
    """Phases ``pair`` in place, from left to right: of the ``PATHS`` likeliest phasings so far each goes on in both
    ways at an open site. ref: (l, k) int8. anchored: some heterozygotes are not open, so that haplotypes have names.
    """
    n_sites, k = ref.shape
    f, grown = np.empty((PATHS, 2, k), np.float32), np.empty((PATHS, 2, k), np.float32)
    f[0] = np.float32(1.0 / k)
    score, grown_score = np.zeros(PATHS), np.empty(2 * PATHS)
    # Whether the alleles of each open site so far change places.
    turned = np.zeros((PATHS, is_open.sum()), np.bool_)
    n, seen = 1, 0
    for site in range(n_sites):
        a, b, alleles = pair[0, site], pair[1, site], ref[site]
        for path in range(n):
            for s in range(2):
                _leave(f[path, s], jump[site])
                if not is_open[site] and pair[s, site] >= 0:
                    score[path] += np.log(_copy(f[path, s], alleles, pair[s, site], err))
        if not is_open[site]:
            continue
        for path in range(n):
            for turn in range(2):
                first = err + (1 - 2 * err) * _share(f[path, 0], alleles, b if turn else a)
                second = err + (1 - 2 * err) * _share(f[path, 1], alleles, a if turn else b)
                grown_score[2 * path + turn] = score[path] + np.log(first * second)
        if seen == 0 and not anchored:
            grown_score[1] = -np.inf  # the same, with the haplotypes' names exchanged
        chosen = _best_apart(grown_score[: 2 * n], turned, seen, anchored)
        before = turned.copy()
        for i in range(len(chosen)):
            path, turn = chosen[i] // 2, chosen[i] % 2
            score[i] = grown_score[chosen[i]]
            grown[i] = f[path]
            _copy(grown[i, 0], alleles, b if turn else a, err)
            _copy(grown[i, 1], alleles, a if turn else b, err)
            turned[i] = before[path]
            turned[i, seen] = turn == 1
        n = len(chosen)
        f[:n] = grown[:n]
        seen += 1
    best, seen = np.argmax(score[:n]), 0
    for site in np.flatnonzero(is_open):
        if turned[best, seen]:
            pair[0, site], pair[1, site] = pair[1, site], pair[0, site]
        seen += 1


@njit(cache=True, nogil=True)
def _best_apart(scores, turned, seen, anchored):
    """(at most PATHS,) int64: of the paths that go on (2 path + turn) those with the highest scores that differ from
    each other in one of the last MEMORY open sites, and in more than the names of the haplotypes."""
    chosen = np.empty(PATHS, np.int64)
    kept, start = 0, max(0, seen - MEMORY + 1)
    for child in np.argsort(-scores, kind="mergesort"):
        if kept == PATHS or scores[child] == -np.inf:
            break
        new = True
        for other in chosen[:kept]:
            a, b = turned[child // 2, start:seen], turned[other // 2, start:seen]
            if child % 2 == other % 2:
                new &= (a != b).any()
            elif not anchored:
                new &= (a == b).any()
        if new:
            chosen[kept] = child
            kept += 1
    return chosen[:kept]


@njit(cache=True, nogil=True, fastmath=FAST)
def _backward(ref, jump, err, alleles, out):
    """out: (l, k) float32, proportional to the probability of ``alleles`` (l,) right of the site given the haplotype
    that is copied there."""
    n_sites, k = ref.shape
    hit, miss = np.float32(1 - err), np.float32(err)
    out[n_sites - 1] = np.float32(1)
    for site in range(n_sites - 2, -1, -1):
        after, now, there, allele = out[site + 1], out[site], ref[site + 1], alleles[site + 1]
        total = np.float32(0)
        for j in range(k):
            x = after[j]
            if allele >= 0:
                x *= hit if there[j] == allele else miss
            now[j] = x
            total += x
        scale = np.float32(k) / total
        stay, uniform = np.float32(1 - jump[site + 1]) * scale, np.float32(jump[site + 1])
        for j in range(k):
            now[j] = now[j] * stay + uniform


@njit(cache=True, nogil=True, fastmath=FAST)
def _joined(f, b, alleles, x, y, sums):
    """sums: (3,) float64, of f b over all haplotypes, over carriers of x, and of y."""
    whole, of_x, of_y = np.float32(0), np.float32(0), np.float32(0)
    for k in range(len(f)):
        both = f[k] * b[k]
        whole += both
        of_x += both if alleles[k] == x else np.float32(0)
        of_y += both if alleles[k] == y else np.float32(0)
    sums[0], sums[1], sums[2] = whole, of_x, of_y


@njit(cache=True, nogil=True, fastmath=FAST)
def improve(ref, jump, err, pair, is_open, anchored, filled):
    """Makes ``pair`` likelier in place, all else given, site by site: at an open one its two alleles may change places,
    and, unless ``anchored``, all that is right of it too. ref: (l, k) int8. filled: (2, l) int8, becomes ``pair`` with
    the likeliest allele where one is missing.

    Returns at how many sites something changed.
    """
    n_sites, k = ref.shape
    right = np.empty((2, n_sites, k), np.float32)
    for s in range(2):
        _backward(ref, jump, err, pair[s], right[s])
    f = np.full((2, k), np.float32(1.0 / k))
    sums = np.empty((2, 2, 3))
    crossed, changes, span = 0, 0, 1 - 2 * err
    for site in range(n_sites):
        alleles = ref[site]
        if crossed:
            pair[0, site], pair[1, site] = pair[1, site], pair[0, site]
        for s in range(2):
            _leave(f[s], jump[site])
        if is_open[site]:
            x, y = pair[0, site], pair[1, site]
            for s in range(2):
                for t in range(2):
                    _joined(f[s], right[t ^ crossed, site], alleles, x, y, sums[s, t])
            # Left haplotypes 0 and 1 go on as right t and 1 - t and carry (x, y) or (y, x).
            best, best_weight = 0, -1.0
            for choice in range(2 if anchored else 4):
                t, turn = choice // 2, choice % 2
                first = err * sums[0, t, 0] + span * sums[0, t, 1 + turn]
                second = err * sums[1, 1 - t, 0] + span * sums[1, 1 - t, 2 - turn]
                # Without a reason phases stay.
                if first * second > best_weight * (1 + 1e-4):
                    best, best_weight = choice, first * second
            if best:
                changes += 1
            if best % 2:
                pair[0, site], pair[1, site] = y, x
            crossed ^= best // 2
        for s in range(2):
            filled[s, site] = pair[s, site]
            if pair[s, site] < 0:
                filled[s, site] = _likeliest(f[s], right[s ^ crossed, site], alleles)
            else:
                _copy(f[s], alleles, pair[s, site], err)
    return changes


@njit(cache=True, nogil=True)
def _likeliest(f, b, alleles):
    """The allele that is most probable where none is known."""
    weight = np.zeros(128, np.float64)
    for k in range(len(f)):
        weight[alleles[k]] += f[k] * b[k]
    return np.int8(np.argmax(weight))


@njit(cache=True, nogil=True)
def distances(ref, pair, starts, out):
    """out: (2, chunks, k) int32: in how many sites of each stretch (starts[c] to starts[c+1]-1) every reference
    haplotype differs from ``pair``'s two; where one has -1, all are alike."""
    out[:] = 0
    k = ref.shape[1]
    for s in range(2):
        for c in range(len(starts) - 1):
            row = out[s, c]
            for site in range(starts[c], starts[c + 1]):
                allele, alleles = pair[s, site], ref[site]
                if allele < 0:
                    continue
                for j in range(k):
                    row[j] += alleles[j] != allele


@njit(cache=True, nogil=True)
def columns_of(alleles, columns, out):
    """out: (l, c) int8, the ``columns`` (c,) int64 of ``alleles`` (l, k)."""
    for site in range(len(alleles)):
        row, to = alleles[site], out[site]
        for j in range(len(columns)):
            to[j] = row[columns[j]]


@njit(cache=True, nogil=True)
def mark_nearest(distance, number, marks):
    """Sets marks (k,) bool for the ``number`` haplotypes of least ``distance`` (k,) int32; of equals the first."""
    counts = np.bincount(distance)
    limit, below = 0, 0
    while below + counts[limit] < number:
        below += counts[limit]
        limit += 1
    left = number - below
    for j in range(len(distance)):
        if distance[j] < limit:
            marks[j] = True
        elif distance[j] == limit and left > 0:
            marks[j] = True
            left -= 1
