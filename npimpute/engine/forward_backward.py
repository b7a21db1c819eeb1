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

import numpy as np

from .compiled import any_order, any_order_inline, any_order_kernel
from .ranking import Ranking, add_to_ranks, take_ranks
from .spelling import pour, pour_side, spell_classes
from .tables import Blocks, Cells, Model, Queries, Scratch

# A haplotype with less posterior than both of these is left out of a dosage and its share given to the others:
# MAX_DROPPED / k bounds what is left out by MAX_DROPPED, MIN_POSTERIOR keeps it far lower in small panels.
MAX_DROPPED = 1e-2
MIN_POSTERIOR = 1e-6
# Products of emissions below this are taken as 0: denormal floats would cost far more than they matter.
TINY = np.float32(1e-30)
# Likely haplotypes are found once for this many typed sites.
STRETCH = 8


@any_order
def negligible(k):
    """Posterior below which one of k haplotypes is left out of a dosage."""
    return np.float32(min(MAX_DROPPED / k, MIN_POSTERIOR))


@any_order
def fill(x, value):
    for i in range(len(x)):
        x[i] = value


@any_order
def _emit(alleles, observed, model, m, c, m_out, c_out):
    """m, c (groups,) times the emission of ``observed`` (-1 missing: 1) from each group's allele."""
    match = np.float32(1) - model.err if observed >= 0 else np.float32(1)
    mismatch = model.err if observed >= 0 else np.float32(1)
    for g in range(len(m)):
        e = match if alleles[g] == observed else mismatch
        m_out[g] = m[g] * e if m[g] > TINY else np.float32(0)
        c_out[g] = c[g] * e


@any_order
def add_up(x):
    s = np.float32(0)
    for i in range(len(x)):
        s += x[i]
    return s


@any_order
def _mass(total, size, m, c):
    """Sum over groups of total(g) m(g) + size(g) c(g)."""
    s = np.float32(0)
    for g in range(len(m)):
        s += total[g] * m[g] + size[g] * c[g]
    return s


@any_order
def _switch(m, c, keep, inflow, m_out, c_out):
    """A share of the mass stays (``keep``), the rest flows into every haplotype alike (``inflow`` each)."""
    for g in range(len(m)):
        m_out[g] = m[g] * keep
        c_out[g] = c[g] * keep + inflow


@any_order
def _spell_out(x, start, m, c, out):
    """out(j) = x(j) m(g) + c(g) for every haplotype, in the block's order."""
    for g in range(len(m)):
        mg, cg = m[g], c[g]
        for i in range(start[g], start[g + 1]):
            out[i] = x[i] * mg + cg


@any_order
def _group_sums(x, start, total):
    for g in range(len(start) - 1):
        total[g] = add_up(x[start[g] : start[g + 1]])


@any_order
def _group_products(x, y, start, product, x_max, y_max):
    for g in range(len(start) - 1):
        s, a, b = np.float32(0), np.float32(0), np.float32(0)
        for i in range(start[g], start[g + 1]):
            s += x[i] * y[i]
            a = max(a, x[i])
            b = max(b, y[i])
        product[g], x_max[g], y_max[g] = s, a, b


@any_order
def _group_layout(blocks, i):
    """First places of block i's groups in its order and, last, k; and the groups' sizes."""
    first, last = blocks.group_offset[i], blocks.group_offset[i + 1]
    return blocks.group_start[first:last], blocks.group_size[first : last - 1]


@any_order
def _forward_block(blocks, i, start, size, observed, model, work, scales):
    """Fills ``forward`` through block i from ``entering``, each site as after its emission; ``between`` is then as
    after the switch into the next block. scales: (t,), receives what each site was multiplied with."""
    n, k = len(size), len(work.spelled)
    _group_sums(work.entering[i], start, work.sums[0])
    first, last = blocks.site_start[i], blocks.site_start[i + 1]
    between_m, between_c = work.between[0, :n], work.between[1, :n]
    fill(between_m, np.float32(1))
    fill(between_c, np.float32(0))
    for t in range(first, last):
        m, c = work.forward[0, t - first, :n], work.forward[1, t - first, :n]
        here = blocks.alleles[blocks.allele_start[t] : blocks.allele_start[t] + n]
        _emit(here, observed[t], model, between_m, between_c, m, c)
        if t + 1 < len(observed):
            scale, rho = np.float32(1) / _mass(work.sums[0], size, m, c), model.switch[t + 1]
            scales[t] = scale
            _switch(m, c, (np.float32(1) - rho) * scale, rho / np.float32(k), between_m, between_c)


@any_order_inline
def forward_blocks(blocks, observed, model, work, scales):
    """Fills ``entering`` for every block."""
    k = len(work.spelled)
    fill(work.entering[0], np.float32(1) / np.float32(k))
    for i in range(len(blocks.order) - 1):
        start, size = _group_layout(blocks, i)
        _forward_block(blocks, i, start, size, observed, model, work, scales)
        _spell_out(work.entering[i], start, work.between[0, : len(size)], work.between[1, : len(size)], work.spelled)
        source = blocks.from_previous[i + 1]
        for p in range(k):
            work.entering[i + 1, p] = work.spelled[source[p]]


@any_order_inline
def _leave_one_out(alleles, observed, err, m, c, mb, cb, size, work, out):
    """Posterior mass of each allele at a site without the target's own allele there, into ``out`` (codes,).

    Returns the posterior's normalising constant with it.
    """
    x, y, xy, mass = work.sums[0], work.sums[1], work.sums[2], work.sums[5]
    for g in range(len(size)):
        mass[g] = mb[g] * (xy[g] * m[g] + y[g] * c[g]) + cb[g] * (x[g] * m[g] + size[g] * c[g])
    z = add_up(mass[: len(size)])
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


@any_order_inline
def _backward_groups(i, queries, observed, blocks, start, size, model, work, scales, out):
    """Fills ``backward`` and ``z`` through block i from its right end, and the leave-one-out probabilities into
    ``out``; ``spelled`` is then what enters block i - 1 from the right."""
    n, k = len(size), len(work.leaving)
    first, last = blocks.site_start[i], blocks.site_start[i + 1]
    fill(work.backward[0, last - first, :n], np.float32(1))
    fill(work.backward[1, last - first, :n], np.float32(0))
    for t in range(last - 1, first - 1, -1):
        s = t - first
        mb, cb = work.backward[0, s + 1, :n], work.backward[1, s + 1, :n]
        here = blocks.alleles[blocks.allele_start[t] : blocks.allele_start[t] + n]
        row, end = queries.typed_rows[t, 0], queries.typed_rows[t, 1]
        loo, m, c = work.alleles[: end - row + 1], work.forward[0, s, :n], work.forward[1, s, :n]
        work.z[s] = _leave_one_out(here, observed[t], model.err, m, c, mb, cb, size, work, loo)
        scales[2, t] = np.float32(1) / work.z[s]
        for a in range(end - row):
            out[row + a] = loo[a + 1]
        if t:
            between_m, between_c = work.between[0, :n], work.between[1, :n]
            _emit(here, observed[t], model, mb, cb, between_m, between_c)
            scale, rho = np.float32(1) / _mass(work.sums[1], size, between_m, between_c), model.switch[t]
            scales[1, t] = scale
            left_m, left_c = work.backward[0, s, :n], work.backward[1, s, :n]
            _switch(between_m, between_c, (np.float32(1) - rho) * scale, rho / np.float32(k), left_m, left_c)
    if i:
        _spell_out(work.leaving, start, work.backward[0, 0, :n], work.backward[1, 0, :n], work.spelled)


@any_order_inline
def find_most(n_groups, first, last, work):
    """Fills ``most`` for the sites first..last-1 of the block."""
    most = work.most
    for kind in range(4):
        fill(most[kind], np.float32(0))
    for s in range(first, last):
        scale = np.float32(1) / work.z[s]
        m, c = work.forward[0, s, :n_groups], work.forward[1, s, :n_groups]
        mb, cb = work.backward[0, s + 1, :n_groups], work.backward[1, s + 1, :n_groups]
        for g in range(n_groups):
            most[0, g] = max(most[0, g], m[g] * mb[g] * scale)
            most[1, g] = max(most[1, g], m[g] * cb[g] * scale)
            most[2, g] = max(most[2, g], c[g] * mb[g] * scale)
            most[3, g] = max(most[3, g], c[g] * cb[g] * scale)


@any_order_inline
def _find_likely(i, blocks, start, first, last, work):
    """The haplotypes that may matter at one of the sites first..last-1 of block i into ``who``, with x and y, group
    by group; groups without any are passed over."""
    n_groups, n, n_active, most = len(start) - 1, 0, 0, work.most
    find_most(n_groups, first, last, work)
    bound = negligible(len(work.leaving))
    x, y, order, x_max, y_max = work.entering[i], work.leaving, blocks.order[i], work.sums[3], work.sums[4]
    who, x_out, y_out = work.who[work.n_who[2]], work.xy[0], work.xy[1]
    for g in range(n_groups):
        mm, mc, cm, cc = most[0, g], most[1, g], most[2, g], most[3, g]
        if x_max[g] * y_max[g] * mm + x_max[g] * mc + y_max[g] * cm + cc <= bound:
            continue
        work.active[n_active], work.active_start[n_active] = g, n
        n_active += 1
        for p in range(start[g], start[g + 1]):
            if x[p] * y[p] * mm + x[p] * mc + y[p] * cm + cc > bound:
                who[n], x_out[n], y_out[n] = order[p], x[p], y[p]
                n += 1
    work.active_start[n_active] = n
    work.n_who[work.n_who[2]] = n
    return n_active


@any_order_inline
def _weigh_likely(s, n_active, weight, work):
    """Posterior of the likely haplotypes at site s of the block into ``weight``, rescaled to a sum of 1."""
    x, y, n = work.xy[0], work.xy[1], work.active_start[n_active]
    for a in range(n_active):
        g = work.active[a]
        m, c = work.forward[0, s, g], work.forward[1, s, g]
        mb, cb = work.backward[0, s + 1, g], work.backward[1, s + 1, g]
        for p in range(work.active_start[a], work.active_start[a + 1]):
            weight[p] = (x[p] * m + c) * (y[p] * mb + cb)
    scale = np.float32(1) / add_up(weight[:n])
    for p in range(n):
        weight[p] *= scale


@any_order_inline
def _untyped_stretch(i, blocks, start, first, last, cells, fraction, work, size, ranked, out):
    """ALT probabilities of the untyped rows after each of the typed sites first..last-1, all of block i (and, at the
    first typed site of all, before it). Stretches come from right to left."""
    begin, here, after = blocks.site_start[i], work.n_who[2], 1 - work.n_who[2]
    n_active = _find_likely(i, blocks, start, first - begin, last - begin, work)
    who, who_after = work.who[here, : work.n_who[here]], work.who[after, : work.n_who[after]]
    for t in range(last - 1, first - 1 if first else -2, -1):
        left, right = work.weight[here, t % 2], work.weight[here, (t + 1) % 2]
        if t >= 0:
            _weigh_likely(t - begin, n_active, left, work)
            if ranked.shape[1]:
                add_to_ranks(who, left, work.rank[0], work.met)
                if t % size == 0:
                    take_ranks(work.rank[0], work.met, work.rank[1], ranked[t // size])
                    if t:  # also the site after the stretch before
                        add_to_ranks(who, left, work.rank[0], work.met)
        for cell in range(cells.gap_start[t + 1], cells.gap_start[t + 2]):
            if t >= 0 and t + 1 < last:
                pour(who, left, right, cells.classes, cell, work.mass)
            elif t >= 0:
                pour_side(who, left, 0, cells.classes, cell, work.mass)
                pour_side(who_after, work.weight[after, (t + 1) % 2], 1, cells.classes, cell, work.mass)
            else:
                pour_side(who, right, 1, cells.classes, cell, work.mass)
            spell_classes(cell, cells, fraction, work.mass, work.rows, out)
    work.n_who[2] = after


@any_order_inline
def enter_block(i, queries, observed, blocks, model, work, scales, out):
    """All of block i that single haplotypes follow from; coming from its right end. Returns its groups' layout."""
    start, group_size = _group_layout(blocks, i)
    _forward_block(blocks, i, start, group_size, observed, model, work, scales[0])
    _group_sums(work.leaving, start, work.sums[1])
    _group_products(work.entering[i], work.leaving, start, work.sums[2], work.sums[3], work.sums[4])
    _backward_groups(i, queries, observed, blocks, start, group_size, model, work, scales, out)
    return start


@any_order_inline
def leave_block(i, blocks, work):
    """``leaving`` is then that of block i - 1."""
    if i:
        target = blocks.from_previous[i]
        for p in range(len(target)):
            work.leaving[target[p]] = work.spelled[p]


@any_order_inline
def _backward_block(i, queries, observed, blocks, cells, model, work, size, ranked, scales, out):
    """Imputes from the right end of block i to its left; ``leaving`` is then that of block i - 1."""
    start = enter_block(i, queries, observed, blocks, model, work, scales, out)
    if len(cells.row_start):
        first, last = blocks.site_start[i], blocks.site_start[i + 1]
        for stop in range(last, first, -STRETCH):
            low = max(first, stop - STRETCH)
            _untyped_stretch(i, blocks, start, low, stop, cells, queries.fraction, work, size, ranked, out)
    leave_block(i, blocks, work)


@any_order_kernel
def _impute_range(first, last, queries, blocks, cells, model, ranking, work, out):
    queries, blocks, cells = Queries(*queries), Blocks(*blocks), Cells(*cells)
    model, ranking, work = Model(*model), Ranking(*ranking), Scratch(*work)
    for q in range(first, last):
        observed, ranked, scales = queries.observed[q], ranking.haplotypes[q], ranking.scale[q]
        forward_blocks(blocks, observed, model, work, scales[0])
        fill(work.leaving, np.float32(1) / np.float32(len(work.leaving)))
        fill(work.n_who, 0)
        for i in range(len(blocks.order) - 1, -1, -1):
            _backward_block(i, queries, observed, blocks, cells, model, work, ranking.size, ranked, scales, out[q])


def impute_range(
    first: int,
    last: int,
    queries: Queries,
    blocks: Blocks,
    cells: Cells,
    model: Model,
    ranking: Ranking,
    out: np.ndarray,
) -> None:
    """Imputes target haplotypes first..last-1 of one window; releases the GIL.

    out: (n, r) float32, receives ALT probabilities; at the rows of typed sites the leave-one-out ones. With no
    cells only the latter. ranking: receives what it asks for, with cells only.
    """
    tables = [tuple(table) for table in (queries, blocks, cells, model, ranking, Scratch.of(blocks))]
    _impute_range(first, last, *tables, out)
