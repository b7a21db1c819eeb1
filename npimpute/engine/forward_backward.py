"""The Li-Stephens forward-backward pass over all panel haplotypes, group by group.

With x(j) the forward probability of haplotype j on entering a block, and y(j) its backward probability on leaving
it, every haplotype j of group g has at each site of the block

    F(j) = x(j) m(g) + c(g)        m: emissions and no switch since the block began;  c: switched in since
    B(j) = y(j) m'(g) + c'(g)      the same from the right

so that sums over a group need only sum x, sum y, sum xy and the group's size. Posterior probabilities of single
haplotypes are spelled out only where they matter to a dosage (see MAX_DROPPED).

Source: Li & Stephens 2003, Genetics 165:2213, appendix A (the model); Das et al. 2016 (the reduction).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

# A haplotype with less posterior than both of these is left out of a dosage and its share given to the others:
# MAX_DROPPED / k bounds what is left out by MAX_DROPPED, MIN_POSTERIOR keeps it far lower in small panels.
MAX_DROPPED = 1e-2
MIN_POSTERIOR = 1e-6
# Products of emissions below this are taken as 0: denormal floats would cost far more than they matter.
TINY = np.float32(1e-30)

_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
# Only the entry point is cached on disk, and its arguments are plain tuples: a cache that names classes of an older
# version could not even be opened.
_jit = numba.njit(nogil=True, fastmath=_FASTMATH)


class Blocks(NamedTuple):
    """Typed sites cut into ``b`` blocks; ``g`` groups in all blocks together.

    site_start: (b+1,) int64, typed sites site_start[i]:site_start[i+1] form block i.
    order: (b, k) int32, haplotypes of each block sorted by group, then by index.
    from_previous: (b, k) int32, place of haplotype order[i, p] in order[i-1] (block 0: unused).
    group_start: (g + b,) int64, for each block its groups' first places in ``order`` and, last, k.
    group_offset: (b+1,) int64, where each block begins in ``group_start``.
    alleles: uint8, allele code of each group at each site; those of site i begin at allele_start[i].
    allele_start: (t,) int64.
    """

    site_start: np.ndarray
    order: np.ndarray
    from_previous: np.ndarray
    group_start: np.ndarray
    group_offset: np.ndarray
    alleles: np.ndarray
    allele_start: np.ndarray


class Cells(NamedTuple):
    """Untyped rows cut into ``c`` cells, none of which reaches across a typed site.

    row_start, row_stop: (c,) int64, the rows of the window that a cell covers.
    gap_start: (t+2,) int64, cells gap_start[i]:gap_start[i+1] lie between typed sites i-1 and i (i = 0:
    before the first, i = t: after the last).
    classes: (k, c) uint16 or int32, class of each haplotype in each cell.
    class_start: (c+1,) int64, first class of each cell in ``entry_start``.
    entry_start: int64, ALT rows of a class, relative to row_start, are entries[entry_start[i]:entry_start[i+1]].
    entries: uint8.
    """

    row_start: np.ndarray
    row_stop: np.ndarray
    gap_start: np.ndarray
    classes: np.ndarray
    class_start: np.ndarray
    entry_start: np.ndarray
    entries: np.ndarray


class Model(NamedTuple):
    """Parameters of one window. switch: (t,) float32, probability that the copied haplotype is drawn anew between
    typed sites i-1 and i. err: float32, probability that the observed allele differs from the copied one."""

    switch: np.ndarray
    err: np.float32


class Queries(NamedTuple):
    """What is imputed. observed: (n, t) int8 panel allele codes, -1 missing. typed_rows: (t, 2) int64, first row
    of each typed site and the one after its last. fraction: (r,) float32, for each untyped row how far it lies
    from the typed site before it to the one after it, in genetic distance."""

    observed: np.ndarray
    typed_rows: np.ndarray
    fraction: np.ndarray


@_jit
def _emit(alleles, observed, match, mismatch, m, c):
    """Multiplies m, c (groups,) by the emission of ``observed`` (-1 missing: 1) for each group's allele."""
    if observed < 0:
        return
    for g in range(len(m)):
        e = match if alleles[g] == observed else mismatch
        m[g] = m[g] * e if m[g] > TINY else np.float32(0)
        c[g] *= e


@_jit
def _mass(total, size, m, c):
    """Sum over groups of total(g) m(g) + size(g) c(g)."""
    s = np.float32(0)
    for g in range(len(m)):
        s += total[g] * m[g] + size[g] * c[g]
    return s


@_jit
def _switch(m, c, keep, inflow, m_out, c_out):
    """A share of the mass stays (``keep``), the rest flows into every haplotype alike (``inflow`` each)."""
    for g in range(len(m)):
        m_out[g] = m[g] * keep
        c_out[g] = c[g] * keep + inflow


@_jit
def _spell_out(x, start, m, c, out):
    """out(j) = x(j) m(g) + c(g) for every haplotype, in the block's order."""
    for g in range(len(m)):
        mg, cg = m[g], c[g]
        for i in range(start[g], start[g + 1]):
            out[i] = x[i] * mg + cg


@_jit
def _group_sums(x, start, total):
    for g in range(len(start) - 1):
        s = np.float32(0)
        for i in range(start[g], start[g + 1]):
            s += x[i]
        total[g] = s


@_jit
def _group_products(x, y, start, product, x_max, y_max):
    for g in range(len(start) - 1):
        s, a, b = np.float32(0), np.float32(0), np.float32(0)
        for i in range(start[g], start[g + 1]):
            s += x[i] * y[i]
            a = max(a, x[i])
            b = max(b, y[i])
        product[g], x_max[g], y_max[g] = s, a, b


class _Scratch(NamedTuple):
    entering: np.ndarray  # (b, k) forward probabilities on entering each block, in the block's order
    leaving: np.ndarray  # (k,) backward probabilities on leaving the current block, in the block's order
    spelled: np.ndarray  # (k,)
    m: np.ndarray  # (sites + 1, groups), and c: the forward m(g), c(g) of the current block
    c: np.ndarray
    back: np.ndarray  # (2, groups) the backward m'(g), c'(g) at the current site
    sums: np.ndarray  # (6, groups) per group: sum x, sum y, sum xy, max x, max y, and posterior mass
    alleles: np.ndarray  # (codes,) leave-one-out probability of each allele
    who: np.ndarray  # (2, k) int32, likely haplotypes at even and odd typed sites
    weight: np.ndarray  # (2, k) their posterior
    n_who: np.ndarray  # (2,) how many
    mass: np.ndarray  # (k, 2) posterior per class, left and right of a cell; all 0 between calls
    touched: np.ndarray  # (k,) classes with mass
    rows: np.ndarray  # (2, rows) ALT probability per row of a cell, left and right


@_jit
def _scratch(blocks):
    b, k = blocks.order.shape
    groups, sites = np.max(np.diff(blocks.group_offset)), np.max(np.diff(blocks.site_start)) + 1
    f = np.float32
    return _Scratch(
        np.empty((b, k), f), np.empty(k, f), np.empty(k, f), np.empty((sites, groups), f), np.empty((sites, groups), f),
        np.empty((2, groups), f), np.empty((6, groups), f), np.empty(256, f), np.empty((2, k), np.int32),
        np.empty((2, k), f), np.zeros(2, np.int64), np.zeros((k, 2), f), np.empty(k, np.int64), np.empty((2, 256), f),
    )  # fmt: skip


@_jit
def _group_layout(blocks, i):
    """First places of block i's groups in its order and, last, k; and the groups' sizes."""
    start = blocks.group_start[blocks.group_offset[i] : blocks.group_offset[i + 1]]
    return start, np.diff(start).astype(np.float32)


@_jit
def _forward_block(blocks, i, start, size, observed, model, work):
    """Fills m, c through block i from ``entering``: row s as after the emission at its site s, and the row after
    its last site as after the switch into the next block."""
    n, k = len(size), len(work.spelled)
    _group_sums(work.entering[i], start, work.sums[0])
    match, mismatch = np.float32(1) - model.err, model.err
    first, last = blocks.site_start[i], blocks.site_start[i + 1]
    work.m[0, :n] = np.float32(1)
    work.c[0, :n] = np.float32(0)
    for t in range(first, last):
        m, c = work.m[t - first, :n], work.c[t - first, :n]
        here = blocks.allele_start[t]
        _emit(blocks.alleles[here : here + n], observed[t], match, mismatch, m, c)
        if t + 1 < len(observed):
            scale = np.float32(1) / _mass(work.sums[0], size, m, c)
            rho = model.switch[t + 1]
            keep, inflow = (np.float32(1) - rho) * scale, rho / np.float32(k)
            _switch(m, c, keep, inflow, work.m[t + 1 - first, :n], work.c[t + 1 - first, :n])


@_jit
def _forward(blocks, observed, model, work):
    """Fills ``entering`` for every block."""
    k = len(work.spelled)
    work.entering[0, :] = np.float32(1) / np.float32(k)
    for i in range(len(blocks.order) - 1):
        start, size = _group_layout(blocks, i)
        _forward_block(blocks, i, start, size, observed, model, work)
        sites, n = blocks.site_start[i + 1] - blocks.site_start[i], len(size)
        _spell_out(work.entering[i], start, work.m[sites, :n], work.c[sites, :n], work.spelled)
        source = blocks.from_previous[i + 1]
        for p in range(k):
            work.entering[i + 1, p] = work.spelled[source[p]]


@_jit
def _leave_one_out(alleles, observed, err, m, c, size, work, out):
    """Posterior mass of each allele at a site without the target's own allele there, into ``out`` (codes,).

    Returns the posterior's normalising constant with it.
    """
    x, y, xy, mass = work.sums[0], work.sums[1], work.sums[2], work.sums[5]
    mb, cb = work.back[0], work.back[1]
    z = np.float32(0)
    for g in range(len(size)):
        mass[g] = mb[g] * (xy[g] * m[g] + y[g] * c[g]) + cb[g] * (x[g] * m[g] + size[g] * c[g])
        z += mass[g]
    total = np.float32(0)
    for a in range(len(out)):
        s = np.float32(0)
        for g in range(len(size)):
            s += mass[g] if alleles[g] == a else np.float32(0)
        if observed >= 0:
            s /= np.float32(1) - err if a == observed else err
        out[a] = s
        total += s
    for a in range(len(out)):
        out[a] /= total
    return z


@_jit
def _likely_haplotypes(x, y, order, start, m, c, z, work, side):
    """The haplotypes that matter at a site, with their posterior, into ``who`` and ``weight`` of ``side``."""
    bound = z * np.float32(min(MAX_DROPPED / len(x), MIN_POSTERIOR))
    who, weight, x_max, y_max = work.who[side], work.weight[side], work.sums[3], work.sums[4]
    n = 0
    total = np.float32(0)
    for g in range(len(m)):
        mg, cg, mbg, cbg = m[g], c[g], work.back[0, g], work.back[1, g]
        if (x_max[g] * mg + cg) * (y_max[g] * mbg + cbg) <= bound:
            continue
        for i in range(start[g], start[g + 1]):
            p = (x[i] * mg + cg) * (y[i] * mbg + cbg)
            if p > bound:
                who[n] = order[i]
                weight[n] = p
                total += p
                n += 1
    scale = np.float32(1) / total
    for i in range(n):
        weight[i] *= scale
    work.n_who[side] = n


@_jit
def _pour(source, classes, cell, side, work, n_touched):
    """Adds the posterior of the likely haplotypes of ``source`` to their classes' mass; returns n_touched."""
    who, weight, mass = work.who[source], work.weight[source], work.mass
    for i in range(work.n_who[source]):
        v = classes[who[i], cell]
        if mass[v, 0] + mass[v, 1] == 0:
            work.touched[n_touched] = v
            n_touched += 1
        mass[v, side] += weight[i]
    return n_touched


@_jit
def _gap_dosages(gap, left, right, cells, fraction, work, out):
    """ALT probabilities of the untyped rows of one gap between typed sites, into ``out`` (r,).

    left, right: which ``who`` and ``weight`` belong to the typed sites around it, -1 for none. Linear in genetic
    distance, as in IMPUTE2 and Beagle (Browning, Zhou & Browning 2018, AJHG 103:338).
    """
    mass, rows = work.mass, work.rows
    for cell in range(cells.gap_start[gap], cells.gap_start[gap + 1]):
        first, n_rows = cells.row_start[cell], cells.row_stop[cell] - cells.row_start[cell]
        rows[:, :n_rows] = np.float32(0)
        n_touched = 0
        if left >= 0:
            n_touched = _pour(left, cells.classes, cell, 0, work, n_touched)
        if right >= 0:
            n_touched = _pour(right, cells.classes, cell, 1, work, n_touched)
        base = cells.class_start[cell]
        for i in range(n_touched):
            v = work.touched[i]
            for e in range(cells.entry_start[base + v], cells.entry_start[base + v + 1]):
                rows[0, cells.entries[e]] += mass[v, 0]
                rows[1, cells.entries[e]] += mass[v, 1]
            mass[v, 0] = 0
            mass[v, 1] = 0
        for r in range(n_rows):
            f = fraction[first + r]
            out[first + r] = (np.float32(1) - f) * rows[0, r] + f * rows[1, r]


@_jit
def _impute_site(t, i, start, size, queries, observed, blocks, cells, model, work, out):
    """Leave-one-out probabilities at typed site t of block i, then the untyped rows of the gap after it (and, at
    the first typed site, of the gap before it)."""
    n = len(size)
    s = t - blocks.site_start[i]
    here = blocks.alleles[blocks.allele_start[t] : blocks.allele_start[t] + n]
    first, last = queries.typed_rows[t, 0], queries.typed_rows[t, 1]
    m, c = work.m[s, :n], work.c[s, :n]
    loo = work.alleles[: last - first + 1]
    z = _leave_one_out(here, observed[t], model.err, m, c, size, work, loo)
    for a in range(last - first):
        out[first + a] = loo[a + 1]
    if len(cells.row_start) == 0:
        return
    side, other = t % 2, (t + 1) % 2
    _likely_haplotypes(work.entering[i], work.leaving, blocks.order[i], start, m, c, z, work, side)
    _gap_dosages(t + 1, side, other if t + 1 < len(observed) else -1, cells, queries.fraction, work, out)
    if t == 0:
        _gap_dosages(0, -1, side, cells, queries.fraction, work, out)


@_jit
def _backward_block(i, queries, observed, blocks, cells, model, work, out):
    """Imputes from the right end of block i to its left; ``leaving`` is then that of block i - 1."""
    start, size = _group_layout(blocks, i)
    n, k = len(size), len(work.leaving)
    _forward_block(blocks, i, start, size, observed, model, work)
    _group_sums(work.leaving, start, work.sums[1])
    _group_products(work.entering[i], work.leaving, start, work.sums[2], work.sums[3], work.sums[4])
    mb, cb = work.back[0, :n], work.back[1, :n]
    mb[:] = np.float32(1)
    cb[:] = np.float32(0)
    for t in range(blocks.site_start[i + 1] - 1, blocks.site_start[i] - 1, -1):
        _impute_site(t, i, start, size, queries, observed, blocks, cells, model, work, out)
        if t:
            here = blocks.alleles[blocks.allele_start[t] : blocks.allele_start[t] + n]
            _emit(here, observed[t], np.float32(1) - model.err, model.err, mb, cb)
            scale = np.float32(1) / _mass(work.sums[1], size, mb, cb)
            rho = model.switch[t]
            _switch(mb, cb, (np.float32(1) - rho) * scale, rho / np.float32(k), mb, cb)
    if i:
        _spell_out(work.leaving, start, mb, cb, work.spelled)
        target = blocks.from_previous[i]
        for p in range(k):
            work.leaving[target[p]] = work.spelled[p]


@numba.njit(nogil=True, fastmath=_FASTMATH, cache=True)
def _impute_range(first, last, queries, blocks, cells, model, out):
    queries, blocks, cells, model = Queries(*queries), Blocks(*blocks), Cells(*cells), Model(*model)
    work = _scratch(blocks)
    for q in range(first, last):
        observed = queries.observed[q]
        _forward(blocks, observed, model, work)
        work.leaving[:] = np.float32(1) / np.float32(len(work.leaving))
        for i in range(len(blocks.order) - 1, -1, -1):
            _backward_block(i, queries, observed, blocks, cells, model, work, out[q])


def impute_range(
    first: int, last: int, queries: Queries, blocks: Blocks, cells: Cells, model: Model, out: np.ndarray
) -> None:
    """Imputes target haplotypes first..last-1 of one window; releases the GIL.

    out: (n, r) float32, receives ALT probabilities; at the rows of typed sites the leave-one-out ones. With no
    cells only the latter.
    """
    _impute_range(first, last, tuple(queries), tuple(blocks), tuple(cells), tuple(model), out)
