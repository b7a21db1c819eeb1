"""The forward-backward pass over all haplotypes of a panel, sixteen targets at a time, with clades (``clades``) or not.

With s the probability of a switch and d that of drifting within the clade, a probability x(j) on one side of a gap is

    (1 - s) [(1 - d) x(j) + d (mean of x over the clade of j)] + s (mean of x over all haplotypes)

on its other side, forward and backward alike. Clades have the same alleles all over the gap, so that drifting changes
nothing of what is imputed there. Without clades d is 0: the model of Li & Stephens 2003, Genetics 165:2213, appendix A.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .clades import Clades
from .compiled import in_order, in_order_inline, in_order_kernel
from .lanes import LANES, above, first_bit, less, load, spread, store
from .ranking import LEAST_RANKED, Ranking, insert
from .tables import Cells, CladeModel, Queries

# Forward probabilities of so many bytes are kept at a time, or of as many typed sites as there are then pieces, if that
# is more. More yet is no faster.
KEPT_BYTES = 8 << 20

_ONE, _ZERO = np.float32(1), np.float32(0)


class LaneScratch(NamedTuple):
    """What one call works in. Unless something else is said these are arrays of vectors, (..., LANES) float32.

    Forward probabilities, like backward ones, are those before the emission. They are kept of a piece of ``sites``
    typed sites at a time, a row a site.
    """

    entering: np.ndarray  # (pieces, k) forward probabilities at the first site of each piece
    forward: np.ndarray  # (sites, k)
    sums: np.ndarray  # (t,) of them after the emission
    backward: np.ndarray  # (2, k) at a typed site and the one after it, in turns
    posterior: np.ndarray  # (2, k) likewise, times the sums of which ``scale`` is one over
    scale: np.ndarray  # (2,)
    emission: np.ndarray  # (2, 256) of each allele code, likewise
    clades: np.ndarray  # (k,) sums over clades
    alleles: np.ndarray  # (256,) over haplotypes with each allele
    classes: np.ndarray  # (2 k,) over classes of a cell, left and right
    rows: np.ndarray  # (512,) of rows of a cell, likewise
    score: np.ndarray  # (1,) of a haplotype
    least: np.ndarray  # (1,) too little to be ranked
    best: np.ndarray  # (LANES, m) float32, scores of those that are ranked
    found: np.ndarray  # (LANES,) int64, how many these are
    together: np.ndarray  # (k,) of the type of clades: all are of the first

    @staticmethod
    def of(t: int, k: int, m: int, clades: Clades) -> LaneScratch:
        sites = min(t, max(math.isqrt(t - 1) + 1, KEPT_BYTES // (4 * LANES * k)))
        shapes = {
            "entering": (-(-t // sites), k), "forward": (sites, k), "sums": (t,), "backward": (2, k),
            "posterior": (2, k), "scale": (2,), "emission": (2, 256), "clades": (k,), "alleles": (256,),
            "classes": (2 * k,), "rows": (512,), "score": (1,), "least": (1,),
        }  # fmt: skip
        return LaneScratch(
            **{name: np.zeros((*shape, LANES), np.float32) for name, shape in shapes.items()},
            best=np.zeros((LANES, m), np.float32),
            found=np.zeros(LANES, np.int64),
            together=np.zeros(k, clades.clade.dtype),
        )


@in_order
def _clear(x, n):
    for i in range(n):
        store(x, i, spread(_ZERO))


@in_order
def _add(x, i, value):
    store(x, i, load(x, i) + value)


@in_order
def _fill_emission(t, targets, queries, err, work):
    """That of typed site t."""
    out = work.emission[t % 2]
    for code in range(queries.typed_rows[t, 1] - queries.typed_rows[t, 0] + 1):
        for lane in range(LANES):
            seen = queries.observed[targets[lane], t] if targets[lane] >= 0 else -1
            out[code, lane] = _ONE if seen < 0 else (_ONE - err if seen == code else err)


@in_order
def _cross(t, there, x, total, back, row, codes, model, clades, work, out):
    """Probabilities at typed site ``there``, next to t, from x, those at t, whose sum after the emission is ``total``.
    Returns their sum after the emission. Where both sites are one it is where things begin: x counts for nothing.

    back: whether they are backward ones; ``row`` is then where the forward ones of ``there`` are, and ``posterior``,
    ``scale`` and ``alleles`` of it are filled.
    """
    k, gap, sums, result = codes.shape[1], min(t, there), work.clades, spread(_ZERO)
    emission, emission_there, code, code_there = work.emission[t % 2], work.emission[there % 2], codes[t], codes[there]
    switch, start = (model.switch[gap + 1], False) if t != there else (_ONE, True)
    stays, inflow, clade = spread(_ONE - switch), spread(switch / np.float32(k)), work.together
    store(sums, 0, inflow)
    if not start:
        stays = stays / total
    if len(clades.clade) and not start:
        clade, first, n = clades.clade[gap], clades.start[gap], clades.start[gap + 1] - clades.start[gap]
        _clear(sums, n)
        for j in range(k):
            _add(sums, clade[j], load(x, j) * load(emission, code[j]))
        drift = stays * spread(model.drift[gap])
        for c in range(n):
            store(sums, c, load(sums, c) * (drift * spread(clades.share[first + c])) + inflow)
        stays = stays * spread(_ONE - model.drift[gap])
    if not back:
        for j in range(k):
            value = load(x, j) * load(emission, code[j]) * stays + load(sums, clade[j])
            store(out, j, value)
            result = result + value * load(emission_there, code_there[j])
        return result
    forward, posterior, alleles, sum_there = work.forward[row], work.posterior[there % 2], work.alleles, spread(_ZERO)
    for j in range(k):
        value = load(x, j) * load(emission, code[j]) * stays + load(sums, clade[j])
        store(out, j, value)
        value = value * load(emission_there, code_there[j])
        result = result + value
        value = value * load(forward, j)
        store(posterior, j, value)
        _add(alleles, code_there[j], value)
        sum_there = sum_there + value
    store(work.scale, there % 2, spread(_ONE) / sum_there)
    return result


@in_order_inline
def _forward(begin, end, stop, targets, queries, codes, model, clades, work):
    """Fills ``forward`` for the typed sites begin..end-1, a piece, and for those up to stop-1 ``entering`` of the next
    one, and ``sums``."""
    piece = begin // len(work.forward)
    for t in range(begin, stop):
        out = work.forward[t - begin] if t < end else work.entering[piece + 1]
        _fill_emission(t, targets, queries, model.err, work)
        if t == begin and t:
            out[:] = work.entering[piece]
            continue
        before, total = max(t - 1, 0), load(work.sums, max(t - 1, 0))
        x = work.forward[before - begin]
        store(work.sums, t, _cross(before, t, x, total, False, 0, codes, model, clades, work, out))


@in_order
def _put(first, n, targets, values, begin, out):
    """Values of n rows, from vector ``begin`` on."""
    for lane in range(LANES):
        if targets[lane] >= 0:
            for r in range(n):
                out[targets[lane], first + r] = values[begin + r, lane]


@in_order_inline
def _leave_one_out(t, targets, queries, work, out):
    """Probability of each ALT allele of typed site t without the target's own."""
    first, last, alleles, total = queries.typed_rows[t, 0], queries.typed_rows[t, 1], work.alleles, spread(_ZERO)
    for code in range(last - first + 1):
        value = load(alleles, code) / load(work.emission[t % 2], code)
        store(alleles, code, value)
        total = total + value
    for code in range(last - first + 1):
        store(alleles, code, load(alleles, code) / total)
    _put(first, last - first, targets, alleles, 1, out)


@in_order_inline
def _impute_gap(gap, targets, queries, cells, work, out):
    """ALT probabilities of the rows after typed site ``gap`` (-1: before the first)."""
    mass, rows = work.classes, work.rows
    for cell in range(cells.gap_start[gap + 1], cells.gap_start[gap + 2]):
        classes, base = cells.classes[:, cell], cells.class_start[cell]
        n_classes, first = cells.class_start[cell + 1] - base, cells.row_start[cell]
        n_rows = cells.row_stop[cell] - first
        _clear(mass, 2 * n_classes)
        _clear(rows, 2 * n_rows)
        # Outside the typed sites ``fraction`` leaves the side out where there is none.
        before, after = work.posterior[gap % 2], work.posterior[(gap + 1) % 2]
        for j in range(len(classes)):
            v = 2 * np.int64(classes[j])
            _add(mass, v, load(before, j))
            _add(mass, v + 1, load(after, j))
        for v in range(n_classes):
            left, right = load(mass, 2 * v), load(mass, 2 * v + 1)
            for e in range(cells.entry_start[base + v], cells.entry_start[base + v + 1]):
                r = 2 * np.int64(cells.entries[e])
                _add(rows, r, left)
                _add(rows, r + 1, right)
        # Linear in genetic distance, see spelling.
        left, right = load(work.scale, gap % 2), load(work.scale, (gap + 1) % 2)
        for r in range(n_rows):
            f = queries.fraction[first + r]
            value = load(rows, 2 * r) * left * spread(_ONE - f) + load(rows, 2 * r + 1) * right * spread(f)
            store(rows, r, less(value, spread(_ONE)))  # rounding may make it more
        _put(first, n_rows, targets, rows, 0, out)


@in_order_inline
def _rank(t, row, t_all, targets, codes, ranking, work):
    """The haplotypes of highest posterior at typed site t and the next one, added up, highest first, and what the
    network sees of them."""
    m, left, right, found, least = ranking.haplotypes.shape[2], t % 2, (t + 1) % 2, work.found, work.least
    before, after = work.posterior[left], work.posterior[right]
    scale, scale_after = load(work.scale, left), spread(_ZERO)
    if t + 1 < t_all:
        scale_after = load(work.scale, right)
    for lane in range(LANES):
        found[lane], least[0, lane], q = 0, LEAST_RANKED, targets[lane]
        if q >= 0 and t + 1 < t_all and ranking.haplotypes[q, t + 1, m - 1] >= 0:
            # Those of the gap after this one: m others do not have less.
            lowest = np.float32(2)
            for rank in range(m):
                j = np.int64(ranking.haplotypes[q, t + 1, rank])
                score = before[j, lane] * work.scale[left, lane] + after[j, lane] * work.scale[right, lane]
                lowest = min(lowest, score)
            least[0, lane] = max(LEAST_RANKED, lowest * np.float32(0.9999))
    bar = load(least, 0)
    for j in range(codes.shape[1]):
        score = load(before, j) * scale + load(after, j) * scale_after
        bits = above(score, bar)
        if bits:
            store(work.score, 0, score)
            while bits:
                lane = first_bit(bits)
                bits &= bits - 1
                q = targets[lane]
                if q >= 0:
                    ranked, best = ranking.haplotypes[q, t], work.best[lane]
                    found[lane] = insert(j, work.score[0, lane], best, ranked, found[lane])
                    if found[lane] == m:
                        least[0, lane] = best[m - 1]
            bar = load(least, 0)
    for lane in range(LANES):
        q = targets[lane]
        if q < 0:
            continue
        ranking.scale[q, 2, t] = work.scale[left, lane] * work.sums[t, lane]
        ranked, ends = ranking.haplotypes[q, t], ranking.ends[q, t]
        ranked[found[lane] :] = -1
        for rank in range(found[lane]):
            j = np.int64(ranked[rank])
            emission = work.emission[left, codes[t, j], lane]
            ends[rank, 0] = work.forward[row, j, lane] * emission / work.sums[t, lane]
            ends[rank, 1] = before[j, lane] * work.scale[left, lane]
            if t + 1 < t_all:
                ends[rank, 2] = work.backward[right, j, lane]
                ends[rank, 3] = after[j, lane] * work.scale[right, lane]


@in_order_kernel
def _impute(targets, queries, codes, cells, model, clades, ranking, work, out):
    """targets: (LANES,) int64, -1 for none."""
    queries, cells, model, clades = Queries(*queries), Cells(*cells), CladeModel(*model), Clades(*clades)
    ranking, work = Ranking(*ranking), LaneScratch(*work)
    pieces, sites, t_all, emitted = len(work.entering), len(work.forward), len(codes), spread(_ONE)
    for visit in range(2 * pieces - 1):
        # To the last piece and back.
        piece = min(visit, 2 * (pieces - 1) - visit)
        begin, end = piece * sites, min((piece + 1) * sites, t_all)
        stop, low = (min(end + 1, t_all), end) if visit < pieces - 1 else (end, begin)
        _forward(begin, end, stop, targets, queries, codes, model, clades, work)
        if end < t_all:
            _fill_emission(end, targets, queries, model.err, work)
        for t in range(end - 1, low - 1, -1):
            _fill_emission(t, targets, queries, model.err, work)
            after = min(t + 1, t_all - 1)
            _clear(work.alleles, queries.typed_rows[t, 1] - queries.typed_rows[t, 0] + 1)
            x, out_there, row = work.backward[after % 2], work.backward[t % 2], t - begin
            emitted = _cross(after, t, x, emitted, True, row, codes, model, clades, work, out_there)
            _leave_one_out(t, targets, queries, work, out)
            if len(cells.row_start):
                for gap in range(t, t - 1 if t else -2, -1):
                    _impute_gap(gap, targets, queries, cells, work, out)
                if ranking.haplotypes.shape[2]:
                    _rank(t, row, t_all, targets, codes, ranking, work)


class LanePasses:
    """The pass over targets of one window, each thread in room of its own. clades: of no gaps for none.

    out: (n, r) float32, receives ALT probabilities; at the rows of typed sites the leave-one-out ones. With no cells
    only the latter. ranking: of stretches of one typed site; receives what it asks for, with cells only.
    """

    def __init__(
        self,
        queries: Queries,
        codes: np.ndarray,
        cells: Cells,
        model: CladeModel,
        clades: Clades,
        ranking: Ranking,
        out: np.ndarray,
    ):
        self._sizes = *codes.shape, ranking.haplotypes.shape[2], clades
        self._reads = tuple(queries), codes, *map(tuple, (cells, model, clades, ranking))
        self._out, self._room = out, threading.local()

    def __call__(self, targets: Sequence[int]) -> None:
        """Imputes these; releases the GIL."""
        if not hasattr(self._room, "work"):
            self._room.work = tuple(LaneScratch.of(*self._sizes))
        for begin in range(0, len(targets), LANES):
            lanes = np.full(LANES, -1)
            lanes[: len(targets) - begin] = targets[begin : begin + LANES]
            _impute(lanes, *self._reads, self._room.work, self._out)
