"""The forward-backward pass over all haplotypes of a panel, group by group and sixteen targets at a time.

With s the probability of a switch and d that of drifting within the clade, a probability x(j) on one side of a gap is

    (1 - s) [(1 - d) x(j) + d (mean of x over the clade of j)] + s (mean of x over all haplotypes)

on its other side, forward and backward alike (``clades``; without them d is 0, and it is the model of Li & Stephens
2003, Genetics 165:2213, appendix A). Where haplotypes are not alike after a switch (``ancestry``), but have
probabilities w(j), backward means are weighted, and forward sums are shared out by w. So every haplotype j of group g
has, with the forward probability x(j) on entering a block and the backward one y(j) on leaving it, at each typed site
of the block

    F(j) = x(j) m(g) + w(j) c(g)   m: emissions, and neither switched nor drifted since the block began;  c: the rest
    B(j) = y(j) m'(g) + c'(g)      the same from the right

both before the emission, so that all sums over a group need only its sums of w, x, w y and x y. Single haplotypes are
looked at where blocks meet, and those that are ranked.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .ancestry import weigh
from .compiled import in_order, in_order_inline, in_order_kernel
from .groups import Groups, at_site
from .lanes import LANES, greater, less, load, spread, store, vectors
from .ranking import Ranking, add_mass, rank, tell_ends
from .tables import Cells, Model, Queries

# Forward probabilities of so many bytes are kept at a time, or of as many blocks as there are then pieces, if that is
# more. More yet is no faster.
KEPT_BYTES = 8 << 20
# m and m' are no less: what is kept of a haplotype that did not match is far below what comes in by switching, and
# numbers too small for float32 to hold in full would cost more than they matter.
LEAST = np.float32(1e-12)

_ONE, _ZERO = np.float32(1), np.float32(0)


class Scratch(NamedTuple):
    """What one call works in. Unless something else is said these are arrays of vectors, (..., LANES) float32.

    x and y are those of the haplotypes, and of the current block. They are kept of a piece of ``len(x)`` blocks at a
    time. In ``forward`` and ``backward`` are m and c.
    """

    entering: np.ndarray  # (pieces, k) x of the first block of each piece
    x: np.ndarray  # (blocks, k)
    y: np.ndarray  # (k,)
    weight: np.ndarray  # (k,) how probable each haplotype is after a switch
    place: np.ndarray  # (d,) of the targets
    forward: np.ndarray  # (sites, 2, g) of each site of the block
    backward: np.ndarray  # (sites, 2, g) likewise
    groups: np.ndarray  # (7, g) sums of x, of weight times y, of xy, of weight, and the most x, y and weight
    posterior: np.ndarray  # (2, g) in turns, times the sums of which ``scale`` is one over
    scale: np.ndarray  # (sites + 1,)
    sums: np.ndarray  # (t,) of forward probabilities after the emission
    emission: np.ndarray  # (sites, 256) of each allele code
    clades: np.ndarray  # (k,) sums over clades
    clade_weights: np.ndarray  # (k,) of weight, likewise
    alleles: np.ndarray  # (256,) over haplotypes with each allele
    classes: np.ndarray  # (2 k,) over classes of a cell, left and right
    rows: np.ndarray  # (512,) of rows of a cell, likewise
    mass: np.ndarray  # (g,) posterior over a stretch of which a part has been seen
    score: np.ndarray  # (1,) of a haplotype
    least: np.ndarray  # (1,) too little to be ranked
    best: np.ndarray  # (LANES, m) float32, scores of those that are ranked
    found: np.ndarray  # (LANES,) int64, how many these are

    @staticmethod
    def of(groups: Groups, m: int, d: int) -> Scratch:
        (b, k), t = groups.of.shape, int(groups.site_start[-1]) + 1
        blocks = min(b, max(math.isqrt(b - 1) + 1, KEPT_BYTES // (4 * LANES * k)))
        sites, g = int(np.diff(groups.site_start).max()) + 1, int(np.diff(groups.first).max())
        shapes = {
            "entering": (-(-b // blocks), k), "x": (blocks, k), "y": (k,), "weight": (k,), "place": (d,),
            "forward": (sites, 2, g), "backward": (sites, 2, g), "groups": (7, g), "posterior": (2, g),
            "scale": (sites + 1,), "sums": (t,), "emission": (sites, 256), "clades": (k,), "clade_weights": (k,),
            "alleles": (256,), "classes": (2 * k,), "rows": (512,),
            "mass": (g,), "score": (1,), "least": (1,),
        }  # fmt: skip
        return Scratch(
            **{name: vectors(*shape) for name, shape in shapes.items()},
            best=np.zeros((LANES, m), np.float32),
            found=np.zeros(LANES, np.int64),
        )


@in_order
def _fill(x, n, value):
    for i in range(n):
        store(x, i, spread(value))


@in_order
def _add(x, i, value):
    store(x, i, load(x, i) + value)


@in_order
def _fill_emission(t, targets, queries, err, emission):
    """That of typed site t."""
    for code in range(queries.typed_rows[t, 1] - queries.typed_rows[t, 0] + 1):
        for lane in range(LANES):
            seen = queries.observed[targets[lane], t] if targets[lane] >= 0 else -1
            emission[code, lane] = _ONE if seen < 0 else (_ONE - err if seen == code else err)


@in_order
def _cross(gap, m, c, code, emission, clade, total, model, groups, work, m_out, c_out):
    """m and c on the other side of a gap, from this one. total: the sum of all probabilities here, after the
    emission; ``clades`` has those of clades."""
    switch, drift, sums, weights = model.switch[gap + 1], model.drift[gap], work.clades, work.clade_weights
    stays, inflow = spread(_ONE - switch) / total, spread(switch)
    drifts, least = stays * spread(drift), spread(LEAST)
    for v in range(groups.clades[gap]):
        store(sums, v, load(sums, v) * drifts / load(weights, v) + inflow)
    stays = stays * spread(_ONE - drift)
    for g in range(len(code)):
        factor = load(emission, code[g]) * stays
        store(m_out, g, greater(load(m, g) * factor, least))
        store(c_out, g, load(c, g) * factor + load(sums, clade[g]))


@in_order
def _forward_block(i, kept, targets, queries, model, groups, work):
    """Fills ``forward`` and ``sums`` for block i, of whose groups there are the sums of x. kept: rows of ``forward``,
    used in turns. Returns m and c at the end."""
    first, last = groups.site_start[i], groups.site_start[i + 1]
    n, x, weight = groups.first[i + 1] - groups.first[i], work.groups[0], work.groups[3]
    _fill(work.forward[0, 0], n, _ONE)
    _fill(work.forward[0, 1], n, _ZERO)
    for t in range(first, last + 1):
        m, c = work.forward[(t - first) % kept, 0], work.forward[(t - first) % kept, 1]
        code, clade = at_site(t, i, groups)
        total, emission = spread(_ZERO), work.emission[t - first]
        _fill_emission(t, targets, queries, model.err, emission)
        if t == last:
            for g in range(n):
                total = total + load(emission, code[g]) * (load(x, g) * load(m, g) + load(weight, g) * load(c, g))
            store(work.sums, t, total)
            break
        _fill(work.clades, groups.clades[t], _ZERO)
        _fill(work.clade_weights, groups.clades[t], _ZERO)
        for g in range(n):
            value = load(emission, code[g]) * (load(x, g) * load(m, g) + load(weight, g) * load(c, g))
            _add(work.clades, clade[g], value)
            _add(work.clade_weights, clade[g], load(weight, g))
            total = total + value
        store(work.sums, t, total)
        after = (t - first + 1) % kept
        m_out, c_out = work.forward[after, 0], work.forward[after, 1]
        _cross(t, m, c, code, emission, clade, total, model, groups, work, m_out, c_out)
    return m, c


@in_order_inline
def _enter_piece(i, groups, x, work):
    """x of block i, the first of a piece, and the sums of its groups."""
    of, sums, weights, x_out = groups.of[i], work.groups[0], work.groups[3], work.x[0]
    _fill(sums, groups.first[i + 1] - groups.first[i], _ZERO)
    _fill(weights, groups.first[i + 1] - groups.first[i], _ZERO)
    for j in range(len(of)):
        value = load(x, j)
        store(x_out, j, value)
        _add(sums, of[j], value)
        _add(weights, of[j], load(work.weight, j))


@in_order_inline
def _go_right(i, groups, x, m, c, work, x_out):
    """x of block i + 1, and the sums of its groups, from block i, at the end of which are m and c."""
    of, to, sums, weights = groups.of[i], groups.of[i + 1], work.groups[0], work.groups[3]
    _fill(sums, groups.first[i + 2] - groups.first[i + 1], _ZERO)
    _fill(weights, groups.first[i + 2] - groups.first[i + 1], _ZERO)
    for j in range(len(of)):
        weight = load(work.weight, j)
        value = load(x, j) * load(m, of[j]) + weight * load(c, of[j])
        store(x_out, j, value)
        _add(sums, to[j], value)
        _add(weights, to[j], weight)


@in_order_inline
def _go_left(i, groups, x, work):
    """y of block i, and what is summed up of its groups, from block i + 1."""
    k, n, last = groups.of.shape[1], groups.first[i + 1] - groups.first[i], i + 1 == len(groups.of)
    y, of = work.y, groups.of[i]
    from_, m, c = groups.of[i if last else i + 1], work.backward[0, 0], work.backward[0, 1]
    for kind in range(7):
        _fill(work.groups[kind], n, _ZERO)
    xs, ys, xys, weights = work.groups[0], work.groups[1], work.groups[2], work.groups[3]
    most_x, most_y, most_weight = work.groups[4], work.groups[5], work.groups[6]
    for j in range(k):
        g, there = np.int64(of[j]), from_[j]
        x_j, weight = load(x, j), load(work.weight, j)
        y_j = spread(_ONE) if last else load(y, j) * load(m, there) + load(c, there)
        store(y, j, y_j)
        _add(xs, g, x_j)
        _add(ys, g, weight * y_j)
        _add(xys, g, x_j * y_j)
        _add(weights, g, weight)
        store(most_x, g, greater(load(most_x, g), x_j))
        store(most_y, g, greater(load(most_y, g), y_j))
        store(most_weight, g, greater(load(most_weight, g), weight))
    right = work.backward[groups.site_start[i + 1] - groups.site_start[i]]
    _fill(right[0], n, _ONE)
    _fill(right[1], n, _ZERO)


@in_order
def _put(first, n, targets, values, begin, out):
    """Values of n rows, from vector ``begin`` on."""
    for lane in range(LANES):
        if targets[lane] >= 0:
            for r in range(n):
                out[targets[lane], first + r] = values[begin + r, lane]


@in_order_inline
def _leave_one_out(t, emission, targets, queries, work, out):
    """Probability of each ALT allele of typed site t without the target's own."""
    first, last, alleles, total = queries.typed_rows[t, 0], queries.typed_rows[t, 1], work.alleles, spread(_ZERO)
    for code in range(last - first + 1):
        value = load(alleles, code) / load(emission, code)
        store(alleles, code, value)
        total = total + value
    for code in range(last - first + 1):
        store(alleles, code, load(alleles, code) / total)
    _put(first, last - first, targets, alleles, 1, out)


@in_order
def _impute_gap(gap, row, n, targets, queries, groups, cells, work, out):
    """ALT probabilities of the rows after typed site ``gap`` (-1: before the first), which is at ``row`` of the block,
    from n groups."""
    mass, rows = work.classes, work.rows
    for cell in range(cells.gap_start[gap + 1], cells.gap_start[gap + 2]):
        classes = groups.classes[groups.class_start[cell] : groups.class_start[cell] + n]
        base, first = cells.class_start[cell], cells.row_start[cell]
        n_classes, n_rows = cells.class_start[cell + 1] - base, cells.row_stop[cell] - first
        _fill(mass, 2 * n_classes, _ZERO)
        _fill(rows, 2 * n_rows, _ZERO)
        # Outside the typed sites ``fraction`` leaves the side out where there is none.
        before, after = work.posterior[gap % 2], work.posterior[(gap + 1) % 2]
        for g in range(n):
            v = 2 * np.int64(classes[g])
            _add(mass, v, load(before, g))
            _add(mass, v + 1, load(after, g))
        for v in range(n_classes):
            left, right = load(mass, 2 * v), load(mass, 2 * v + 1)
            for e in range(cells.entry_start[base + v], cells.entry_start[base + v + 1]):
                r = 2 * np.int64(cells.entries[e])
                _add(rows, r, left)
                _add(rows, r + 1, right)
        # Linear in genetic distance, as in IMPUTE2 and Beagle (Browning, Zhou & Browning 2018, AJHG 103:338).
        left, right = load(work.scale, max(row, 0)), load(work.scale, row + 1)
        for r in range(n_rows):
            f = queries.fraction[first + r]
            value = load(rows, 2 * r) * left * spread(_ONE - f) + load(rows, 2 * r + 1) * right * spread(f)
            store(rows, r, less(value, spread(_ONE)))  # rounding may make it more
        _put(first, n_rows, targets, rows, 0, out)


@in_order
def _keep_scales(t, row, targets, emitted, ranking, work):
    """emitted: the sum of backward probabilities after the emission."""
    store(work.score, 0, spread(_ONE) / emitted)
    for lane in range(LANES):
        if targets[lane] >= 0:
            forward, posterior, scale = work.sums[t, lane], work.scale[row, lane], ranking.scale[targets[lane]]
            scale[0, t], scale[1, t] = _ONE / forward, work.score[0, lane]
            scale[2, t] = posterior * forward if len(ranking.ends) else posterior


@in_order_inline
def _backward_block(i, x, targets, queries, model, groups, cells, ranking, work, out):
    """Imputes from the right end of block i to its left."""
    first, last, t_all = groups.site_start[i], groups.site_start[i + 1], len(queries.typed_rows)
    n, ranked = groups.first[i + 1] - groups.first[i], ranking.haplotypes.shape[2] > 0
    xs, ys, xys, weights = work.groups[0], work.groups[1], work.groups[2], work.groups[3]
    for t in range(last, first - 1, -1):
        row, here, total, emitted = t - first, t % 2, spread(_ZERO), spread(_ZERO)
        code = at_site(t, i, groups)[0]
        _fill(work.alleles, queries.typed_rows[t, 1] - queries.typed_rows[t, 0] + 1, _ZERO)
        clade = at_site(max(t - 1, first), i, groups)[1]
        if t > first:
            _fill(work.clades, groups.clades[t - 1], _ZERO)
            _fill(work.clade_weights, groups.clades[t - 1], _ZERO)
        m_f, c_f, m_b, c_b = work.forward[row, 0], work.forward[row, 1], work.backward[row, 0], work.backward[row, 1]
        emission, posterior = work.emission[row], work.posterior[here]
        for g in range(n):
            e, y, weight = load(emission, code[g]), load(ys, g), load(weights, g)
            left, leaves, mb, cb = load(m_f, g), load(c_f, g), load(m_b, g), load(c_b, g)
            p = e * (mb * (load(xys, g) * left + y * leaves) + cb * (load(xs, g) * left + weight * leaves))
            store(posterior, g, p)
            _add(work.alleles, code[g], p)
            total = total + p
            value = e * (y * mb + weight * cb)
            emitted = emitted + value
            if t > first:
                _add(work.clades, clade[g], value)
                _add(work.clade_weights, clade[g], weight)
        scale = spread(_ONE) / total
        store(work.scale, row, scale)
        if t < last or t == t_all - 1:
            _leave_one_out(t, emission, targets, queries, work, out)
            _keep_scales(t, row, targets, emitted, ranking, work)
        if len(cells.row_start):
            if t == t_all - 1:
                _impute_gap(t, row, n, targets, queries, groups, cells, work, out)
            if t < last:
                _impute_gap(t, row, n, targets, queries, groups, cells, work, out)
            if t == 0:
                _impute_gap(t - 1, row - 1, n, targets, queries, groups, cells, work, out)
            if ranked:
                add_mass(n, t == last, posterior, scale, work)
                if t % ranking.size == 0:
                    if t < last or t == t_all - 1:
                        rank(t, i, x, targets, groups, ranking, work)
                        if len(ranking.ends):
                            tell_ends(t, i, x, targets, groups, ranking, work)
                    add_mass(n, True, posterior, scale, work)
        if t > first:
            m_out, c_out = work.backward[row - 1, 0], work.backward[row - 1, 1]
            _cross(t - 1, m_b, c_b, code, emission, clade, emitted, model, groups, work, m_out, c_out)


@in_order_kernel
def _impute(targets, queries, groups, cells, model, ranking, work, out):
    """targets: (LANES,) int64, -1 for none."""
    queries, groups, cells, model = Queries(*queries), Groups(*groups), Cells(*cells), Model(*model)
    ranking, work = Ranking(*ranking), Scratch(*work)
    pieces, blocks, b = len(work.entering), len(work.x), len(groups.of)
    weigh(targets, queries, work)
    for visit in range(2 * pieces - 1):
        # To the last piece and back.
        piece = min(visit, 2 * (pieces - 1) - visit)
        begin, end = piece * blocks, min((piece + 1) * blocks, b)
        _enter_piece(begin, groups, work.entering[piece], work)
        back = visit >= pieces - 1
        for i in range(begin, end - 1 if back else end):
            m, c = _forward_block(i, min(2, len(work.forward)), targets, queries, model, groups, work)
            x_out = work.x[i + 1 - begin] if i + 1 < end else work.entering[piece + 1]
            _go_right(i, groups, work.x[i - begin], m, c, work, x_out)
        for i in range(end - 1, begin - 1 if back else end - 1, -1):
            x = work.x[i - begin]
            _go_left(i, groups, x, work)
            _forward_block(i, len(work.forward), targets, queries, model, groups, work)
            _backward_block(i, x, targets, queries, model, groups, cells, ranking, work, out)


class GroupPasses:
    """The pass over targets of one window, each thread in room of its own.

    out: (n, r) float32, receives ALT probabilities; at the rows of typed sites the leave-one-out ones. With no cells
    only the latter. ranking: of stretches of which blocks have a whole number; receives what it asks for, with cells
    only.
    """

    def __init__(self, queries: Queries, groups: Groups, cells: Cells, model: Model, ranking: Ranking, out: np.ndarray):
        self._sizes = groups, ranking.haplotypes.shape[2], queries.place.shape[1]
        self._reads = tuple(tuple(table) for table in (queries, groups, cells, model, ranking))
        self._out, self._room = out, threading.local()

    def __call__(self, targets: Sequence[int]) -> None:
        """Imputes these; releases the GIL."""
        if not hasattr(self._room, "work"):
            self._room.work = tuple(Scratch.of(*self._sizes))
        for begin in range(0, len(targets), LANES):
            lanes = np.full(LANES, -1)
            lanes[: len(targets) - begin] = targets[begin : begin + LANES]
            _impute(lanes, *self._reads, self._room.work, self._out)
