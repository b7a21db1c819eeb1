"""The forward-backward pass of a copying model with clades (``clades``), over all panel haplotypes.

With s the probability of a switch and d that of drifting within the clade, a probability x(j) on one side of a gap is

    (1 - s) [(1 - d) x(j) + d (mean of x over the clade of j)] + s (mean of x over all haplotypes)

on its other side, forward and backward alike. Clades have the same alleles all over the gap, so that drifting changes
nothing of what is imputed there.

A few targets go through together, in lanes: every array of probabilities has LANES of them along its last axis. No lane
sees another, so results do not depend on who goes with whom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np

from .clades import Clades
from .forward_backward import MAX_DROPPED, MIN_POSTERIOR
from .passes import CALLS_PER_THREAD, Prepared
from .ranking import Ranking
from .tables import Cells, Queries

LANES = 8
# Forward probabilities of all typed sites are kept if they take no more than this; else those of some, and the rest are
# made again.
KEPT_BYTES = 32 << 20
# Haplotypes with less posterior at both sites are not ranked.
LEAST_RANKED = np.float32(1e-4)

# Sums are taken in the order they are written in: haplotypes that do not matter to a lane may stand between.
_jit = numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
_ONE, _ZERO = np.float32(1), np.float32(0)


class CladeModel(NamedTuple):
    """Of one window. switch: (t,) float32, probability that a target goes on with any haplotype between typed sites
    i-1 and i; drift: (t-1,) float32, that else it goes on with any of the clade, between i and i+1. err: float32."""

    switch: np.ndarray
    drift: np.ndarray
    err: np.float32


class Scratch(NamedTuple):
    """What one call works in. Of lanes, float32, if nothing else is said."""

    kept: np.ndarray  # (pieces, k, l) forward probabilities at the first site of each piece, before its emission
    forward: np.ndarray  # (sites, k, l) likewise, at all sites of the current piece
    totals: np.ndarray  # (t, l) their sums after the emission
    backward: np.ndarray  # (2, k, l) at a typed site, before its emission, and at the one after it, in turns
    posterior: np.ndarray  # (2, k, l) likewise, with any sum
    sums: np.ndarray  # (2, l) those of the posterior
    means: np.ndarray  # (k, l) of clades
    emissions: np.ndarray  # (codes, l)
    lanes: np.ndarray  # (2, l) of one site
    alleles: np.ndarray  # (codes, l)
    who: np.ndarray  # (2, k) int32, haplotypes that matter to a lane
    n_who: np.ndarray  # (2,) int64, how many
    weight: np.ndarray  # (2, k, l) their posterior, with a sum of 1
    mass: np.ndarray  # (k, 2, l) posterior of a cell's classes, left and right; all 0 between cells
    rows: np.ndarray  # (256, 2, l)
    best: np.ndarray  # (l, m) highest posteriors of both sides of a gap together
    rank: np.ndarray  # (l, m) int32, whose

    @staticmethod
    def of(t: int, k: int, codes: int, m: int) -> Scratch:
        sites = t if 4 * t * k * LANES <= KEPT_BYTES else math.isqrt(t - 1) + 1
        shapes = {
            "kept": (-(-t // sites), k), "forward": (sites, k), "totals": (t,), "backward": (2, k),
            "posterior": (2, k), "sums": (2,), "means": (k,), "emissions": (codes,), "lanes": (2,),
            "alleles": (codes,), "weight": (2, k), "mass": (k, 2), "rows": (256, 2),
        }  # fmt: skip
        return Scratch(
            who=np.empty((2, k), np.int32),
            n_who=np.zeros(2, np.int64),
            best=np.zeros((LANES, m), np.float32),
            rank=np.zeros((LANES, m), np.int32),
            **{name: np.zeros((*shape, LANES), np.float32) for name, shape in shapes.items()},
        )


@_jit
def _emissions(queries, first, last, t, err, out):
    """(codes, l): probability of each lane's allele at typed site t where a haplotype has a code."""
    for code in range(len(out)):
        for lane in range(LANES):
            seen = queries.observed[first + lane, t] if first + lane < last else -1
            out[code, lane] = _ONE if seen < 0 else (_ONE - err if seen == code else err)


@_jit
def _cross(x, codes, emissions, gap, model, clades, means, lanes, total, out):
    """From one side's typed site, where x is before its emission, to the other side of the gap, where ``out`` has a sum
    of 1 in each lane. ``total`` receives the sum of x after the emission."""
    clade, share_of = clades.clade[gap], clades.share[clades.start[gap] : clades.start[gap + 1]]
    number = len(share_of)
    for c in range(number):
        for lane in range(LANES):
            means[c, lane] = _ZERO
    for j in range(len(x)):
        c, code = clade[j], codes[j]
        for lane in range(LANES):
            means[c, lane] += x[j, lane] * emissions[code, lane]
    for lane in range(LANES):
        total[lane] = _ZERO
    for c in range(number):
        for lane in range(LANES):
            total[lane] += means[c, lane]
    stays, drift, inflow = _ONE - model.switch[gap + 1], model.drift[gap], model.switch[gap + 1] / np.float32(len(x))
    keep, share = lanes[0], lanes[1]
    for lane in range(LANES):
        keep[lane], share[lane] = stays * (_ONE - drift) / total[lane], stays * drift / total[lane]
    for c in range(number):
        for lane in range(LANES):
            means[c, lane] = means[c, lane] * share_of[c] * share[lane] + inflow
    for j in range(len(x)):
        c, code = clade[j], codes[j]
        for lane in range(LANES):
            out[j, lane] = x[j, lane] * emissions[code, lane] * keep[lane] + means[c, lane]


@_jit
def _forward(first, last, queries, codes, model, clades, begin, end, work):
    """Fills ``forward`` from typed site begin, where it is known, to end - 1."""
    for t in range(begin, end - 1):
        _emissions(queries, first, last, t, model.err, work.emissions)
        x, out = work.forward[t - begin], work.forward[t + 1 - begin]
        _cross(x, codes[t], work.emissions, t, model, clades, work.means, work.lanes, work.totals[t], out)


@_jit
def _copy(x, out):
    for j in range(len(x)):
        for lane in range(LANES):
            out[j, lane] = x[j, lane]


@_jit
def _fill_kept(first, last, queries, codes, model, clades, work):
    """Fills ``kept``."""
    sites, k = len(work.forward), len(work.means)
    for j in range(k):
        for lane in range(LANES):
            work.kept[0, j, lane] = _ONE / np.float32(k)
    for piece in range(len(work.kept) - 1):
        begin, t = piece * sites, (piece + 1) * sites - 1
        _copy(work.kept[piece], work.forward[0])
        _forward(first, last, queries, codes, model, clades, begin, t + 1, work)
        _emissions(queries, first, last, t, model.err, work.emissions)
        x, out = work.forward[sites - 1], work.kept[piece + 1]
        _cross(x, codes[t], work.emissions, t, model, clades, work.means, work.lanes, work.totals[t], out)


@_jit
def _posterior(forward, backward, codes, emissions, alleles, out, total):
    """Their product with the emission, of sum ``total``; ``alleles`` (codes, l) has the product without it, summed."""
    for code in range(len(alleles)):
        for lane in range(LANES):
            alleles[code, lane] = _ZERO
    for j in range(len(forward)):
        code = codes[j]
        for lane in range(LANES):
            value = forward[j, lane] * backward[j, lane]
            alleles[code, lane] += value
            out[j, lane] = value * emissions[code, lane]
    for lane in range(LANES):
        total[lane] = _ZERO
        for code in range(len(alleles)):
            total[lane] += alleles[code, lane] * emissions[code, lane]


@_jit
def _leave_one_out(alleles, row, end, first, last, out):
    """Probability of each ALT allele at a typed site without the target's own, into out[:, row:end]."""
    for lane in range(last - first):
        total = _ZERO
        for code in range(len(alleles)):
            total += alleles[code, lane]
        for r in range(row, end):
            code = r - row + 1
            out[first + lane, r] = alleles[code, lane] / total if code < len(alleles) else _ZERO


@_jit
def _find_likely(posterior, total, who, weight, lanes):
    """Haplotypes that matter to a lane, and their posterior with a sum of 1; returns how many."""
    bound, sums = lanes[0], lanes[1]
    for lane in range(LANES):
        bound[lane] = total[lane] * np.float32(min(MAX_DROPPED / len(posterior), MIN_POSTERIOR))
        sums[lane] = _ZERO
    n = 0
    for j in range(len(posterior)):
        matters = False
        for lane in range(LANES):
            matters |= posterior[j, lane] > bound[lane]
        if matters:
            who[n] = j
            for lane in range(LANES):
                value = posterior[j, lane] if posterior[j, lane] > bound[lane] else _ZERO
                weight[n, lane] = value
                sums[lane] += value
            n += 1
    for i in range(n):
        for lane in range(LANES):
            weight[i, lane] /= sums[lane]
    return n


@_jit
def _pour(who, n, weight, side, classes, cell, mass):
    """Adds the posterior of likely haplotypes to their classes' mass."""
    for i in range(n):
        v = np.int64(classes[who[i], cell])
        for lane in range(LANES):
            mass[v, side, lane] += weight[i, lane]


@_jit
def _spell(cell, cells, fraction, mass, rows, first, last, out):
    """ALT probabilities of a cell's rows from the mass of its classes, which is 0 afterwards; linear in distance."""
    begin, n_rows = cells.row_start[cell], cells.row_stop[cell] - cells.row_start[cell]
    base = cells.class_start[cell]
    for r in range(n_rows):
        for lane in range(LANES):
            rows[r, 0, lane] = rows[r, 1, lane] = _ZERO
    for v in range(cells.class_start[cell + 1] - base):
        most = _ZERO
        for lane in range(LANES):
            most = max(most, mass[v, 0, lane] + mass[v, 1, lane])
        if most > 0:
            for e in range(cells.entry_start[base + v], cells.entry_start[base + v + 1]):
                r = cells.entries[e]
                for lane in range(LANES):
                    rows[r, 0, lane] += mass[v, 0, lane]
                    rows[r, 1, lane] += mass[v, 1, lane]
            for lane in range(LANES):
                mass[v, 0, lane] = mass[v, 1, lane] = _ZERO
    for lane in range(last - first):
        for r in range(n_rows):
            f = fraction[begin + r]
            out[first + lane, begin + r] = (_ONE - f) * rows[r, 0, lane] + f * rows[r, 1, lane]


@_jit
def _impute_gap(t, left, right, first, last, queries, cells, work, out):
    """ALT probabilities of the rows after typed site t. left, right: 0 or 1, whose likely haplotypes are the site's and
    the next one's, -1 where there is no such site."""
    for cell in range(cells.gap_start[t + 1], cells.gap_start[t + 2]):
        if left >= 0:
            _pour(work.who[left], work.n_who[left], work.weight[left], 0, cells.classes, cell, work.mass)
        if right >= 0:
            _pour(work.who[right], work.n_who[right], work.weight[right], 1, cells.classes, cell, work.mass)
        _spell(cell, cells, queries.fraction, work.mass, work.rows, first, last, out)


@_jit
def _rank(left, right, first, last, ranked, work):
    """The haplotypes of highest posterior, of both sides together, into ``ranked`` (n, m), highest first, and -1 where
    there are fewer. right: -1 where there is no such side."""
    posterior, sums, who, best, rank = work.posterior, work.sums, work.who, work.best, work.rank
    score, low = work.lanes[0], work.lanes[1]
    m = ranked.shape[1]
    for lane in range(LANES):
        low[lane] = LEAST_RANKED
    rank[:] = -1
    n_left, n_right = work.n_who[left], work.n_who[right] if right >= 0 else 0
    a, b, found = 0, 0, np.zeros(LANES, np.int64)
    while a < n_left or b < n_right:  # both increase
        j = who[left, a] if b == n_right or (a < n_left and who[left, a] <= who[right, b]) else who[right, b]
        a += a < n_left and who[left, a] == j
        b += b < n_right and who[right, b] == j
        high = False
        for lane in range(LANES):
            score[lane] = posterior[left, j, lane] / sums[left, lane]
        if right >= 0:
            for lane in range(LANES):
                score[lane] += posterior[right, j, lane] / sums[right, lane]
        for lane in range(LANES):
            high |= score[lane] > low[lane]
        if not high:
            continue
        for lane in range(last - first):
            if score[lane] > low[lane]:
                p = min(found[lane], m - 1)
                while p and best[lane, p - 1] < score[lane]:
                    best[lane, p], rank[lane, p] = best[lane, p - 1], rank[lane, p - 1]
                    p -= 1
                best[lane, p], rank[lane, p] = score[lane], j
                found[lane] = min(found[lane] + 1, m)
                if found[lane] == m:
                    low[lane] = max(best[lane, m - 1], LEAST_RANKED)
    for lane in range(last - first):
        for i in range(m):
            ranked[lane, i] = rank[lane, i]


@_jit
def _keep_ends(t, left, right, forward, codes, first, last, ranking, work):
    """What the network sees of those that are ranked."""
    posterior, sums = work.posterior, work.sums
    for lane in range(last - first):
        ranking.scale[first + lane, 2, t] = work.totals[t, lane] / sums[left, lane]
        ranked, ends = ranking.haplotypes[first + lane, t], ranking.ends[first + lane, t]
        for i in range(len(ranked)):
            j = ranked[i]
            if j >= 0:
                ends[i, 0] = forward[j, lane] * work.emissions[codes[j], lane] / work.totals[t, lane]
                ends[i, 1] = posterior[left, j, lane] / sums[left, lane]
                if right >= 0:
                    ends[i, 2], ends[i, 3] = (
                        work.backward[right, j, lane],
                        posterior[right, j, lane] / sums[right, lane],
                    )


@_jit
def _backward_site(t, first, last, queries, codes, cells, model, clades, ranking, work, out):
    """All of typed site t and of the gap after it; then the backward probabilities at the site before."""
    here, after = t % 2, (t + 1) % 2
    t_all, k, forward = len(work.totals), len(work.means), work.forward[t % len(work.forward)]
    right = after if t + 1 < t_all else -1
    row, end = queries.typed_rows[t, 0], queries.typed_rows[t, 1]
    _emissions(queries, first, last, t, model.err, work.emissions)
    backward, total = work.backward[here], work.sums[here]
    _posterior(forward, backward, codes[t], work.emissions, work.alleles, work.posterior[here], total)
    _leave_one_out(work.alleles, row, end, first, last, out)
    if right < 0:  # backward probabilities are all the same
        for lane in range(LANES):
            work.totals[t, lane] = total[lane] * np.float32(k)
    if len(cells.row_start):
        work.n_who[here] = _find_likely(work.posterior[here], total, work.who[here], work.weight[here], work.lanes)
        _impute_gap(t, here, right, first, last, queries, cells, work, out)
        if t == 0:
            _impute_gap(-1, -1, here, first, last, queries, cells, work, out)
        if ranking.haplotypes.shape[2]:
            _rank(here, right, first, last, ranking.haplotypes[first:last, t], work)
            _keep_ends(t, here, right, forward, codes[t], first, last, ranking, work)
    if t:
        means, lanes, sums = work.means, work.lanes, work.alleles[0]
        _cross(backward, codes[t], work.emissions, t - 1, model, clades, means, lanes, sums, work.backward[after])


@numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy", cache=True)
def _impute_range(begin, end, queries, codes, cells, model, clades, ranking, work, out):
    queries, cells, model = Queries(*queries), Cells(*cells), CladeModel(*model)
    clades, ranking, work = Clades(*clades), Ranking(*ranking), Scratch(*work)
    t_all, sites, k = len(work.totals), len(work.forward), len(work.means)
    for first in range(begin, end, LANES):
        last = min(first + LANES, end)
        _fill_kept(first, last, queries, codes, model, clades, work)
        for j in range(k):
            for lane in range(LANES):
                work.backward[(t_all - 1) % 2, j, lane] = _ONE / np.float32(k)
        for piece in range(len(work.kept) - 1, -1, -1):
            low, high = piece * sites, min((piece + 1) * sites, t_all)
            _copy(work.kept[piece], work.forward[0])
            _forward(first, last, queries, codes, model, clades, low, high, work)
            for t in range(high - 1, low - 1, -1):
                _backward_site(t, first, last, queries, codes, cells, model, clades, ranking, work, out)


def run_clade_passes(
    prepared: Prepared,
    model: CladeModel,
    clades: Clades,
    threads: int,
    ranking: Ranking,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """(n, r) float32: ALT probabilities, at the rows of typed sites leave-one-out. ranking: of stretches of one typed
    site; is filled.

    progress: called with the share that is done. The result does not depend on ``threads``.
    """
    n, t = prepared.queries.observed.shape
    k, codes = prepared.codes.shape[1], int(prepared.codes.max(initial=1)) + 1
    out = np.empty((n, len(prepared.queries.fraction)), np.float32)
    step = LANES * -(-n // (LANES * CALLS_PER_THREAD * threads))
    tables = [tuple(table) for table in (prepared.cells, model, clades, ranking)]

    def work(first: int) -> None:
        scratch = tuple(Scratch.of(t, k, codes, ranking.haplotypes.shape[2]))
        _impute_range(first, min(first + step, n), tuple(prepared.queries), prepared.codes, *tables, scratch, out)

    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, n, step)
        for done, _ in enumerate(pool.map(work, starts), 1):
            progress(done / len(starts))
    return out
