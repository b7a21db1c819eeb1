"""The forward-backward pass of a copying model with clades (``clades``).

With s the probability of a switch and d that of drifting within the clade, a probability x(j) on one side of a gap is

    (1 - s) [(1 - d) x(j) + d (mean of x over the clade of j)] + s (mean of x over all haplotypes)

on its other side, forward and backward alike. Clades have the same alleles all over the gap, so that drifting changes
nothing of what is imputed there.

In a small panel all haplotypes take part everywhere. In a larger one only those do, stretch by stretch, that exact
Li-Stephens finds likeliest there, which costs less than a pass over all that knows clades, and loses nothing (figures:
docs/method.md): what a haplotype had that takes no part in the next stretch is shared out among those who do.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from . import tables
from .clade_tables import CladeModel, Scratch
from .clades import Clades
from .forward_backward import add_up, negligible
from .likeliest import find_likeliest, stretches
from .passes import Prepared, in_parts
from .ranking import Ranking, insert
from .spelling import pour_side, spell_classes
from .tables import Cells, Model, Queries

# So many haplotypes of a panel take part at a site, at most, unless they have less than this share of the posterior
# somewhere: then all do.
LIKELIEST, LEAST_SHARE = 1_024, 0.8
# Haplotypes with less posterior at both sites are not ranked.
LEAST_RANKED = np.float32(1e-4)

# As in forward_backward: no loop that sums may also store.
_jit = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
_ONE, _ZERO = np.float32(1), np.float32(0)


@_jit
def _product(x, y, out):
    for i in range(len(x)):
        out[i] = x[i] * y[i]


@_jit
def _find_places(who, n_who, before, after, place):
    """Fills ``before`` and ``after``."""
    for w in range(1, len(n_who)):
        left, right = who[w - 1, : n_who[w - 1]], who[w, : n_who[w]]
        for i in range(len(left)):
            place[left[i]], after[w - 1, i] = i, -1
        for i in range(len(right)):
            before[w, i] = place[right[i]]
            if before[w, i] >= 0:
                after[w - 1, before[w, i]] = i
        for i in range(len(left)):
            place[left[i]] = -1


@_jit
def _renumber(who, clade, share, number, n, out, share_out):
    """Numbers the clades of ``who``, after the n that there are, as they come. Returns how many there are."""
    for i in range(len(who)):
        c = np.int64(clade[who[i]])
        if number[c] < 0:
            number[c], share_out[n] = n, share[c]
            n += 1
        out[i] = number[c]
    return n


@_jit
def _find_clades(gap, row, stretch, clades, work):
    """Fills ``left``, ``right``, ``share`` and ``n_clades``, at ``row``, of a gap."""
    clade, share = clades.clade[gap], clades.share[clades.start[gap] : clades.start[gap + 1]]
    w, there = stretch[gap], stretch[gap + 1]
    who, others = work.who[w, : work.n_who[w]], work.who[there, : work.n_who[there]]
    n = _renumber(who, clade, share, work.number, 0, work.left[row], work.share[row])
    if there != w:
        n = _renumber(others, clade, share, work.number, n, work.right[row], work.share[row])
    for i in range(len(who)):
        work.number[clade[who[i]]] = -1
    if there != w:
        for i in range(len(others)):
            work.number[clade[others[i]]] = -1
    work.n_clades[row] = n


@_jit
def _emissions(who, codes, observed, err, out):
    right, wrong = (_ONE - err, err) if observed >= 0 else (_ONE, _ONE)
    for i in range(len(who)):
        out[i] = right if codes[who[i]] == observed else wrong


@_jit
def _cross(x, total, clade, there, places, gap, row, k, model, work, out):
    """From one side of a gap, where x has the sum ``total``, to the other, where that is 1 but for what those had who
    take no part there. clade: of those on this side, there: on the other; places: of the latter on this side, empty
    where they are the same. row: where what is kept of the gap is."""
    n, n_clades = len(clade), work.n_clades[row]
    stays, inflow = (_ONE - model.switch[gap + 1]) / total, model.switch[gap + 1] / np.float32(k)
    keep, drift, share = stays * (_ONE - model.drift[gap]), stays * model.drift[gap], work.share[row]
    even, odd = work.mass[0, :n_clades], work.mass[1, :n_clades]
    even[:] = _ZERO
    odd[:] = _ZERO
    # Neighbours are often of a clade, and an addition waits for the last one to the same number.
    for i in range(0, n - 1, 2):
        even[clade[i]] += x[i]
        odd[clade[i + 1]] += x[i + 1]
    if n % 2:
        even[clade[n - 1]] += x[n - 1]
    for c in range(n_clades):
        even[c] = (even[c] + odd[c]) * (share[c] * drift) + inflow
    if len(places):
        for i in range(len(there)):
            out[i] = even[there[i]]
            if places[i] >= 0:
                out[i] += x[places[i]] * keep
    else:
        for i in range(len(there)):
            out[i] = x[i] * keep + even[there[i]]


@_jit
def _step(t, row, k, stretch, model, work, out):
    """Forward probabilities at typed site t before its emission, from the site before, at ``row`` of what is kept."""
    w, n, before = stretch[t], work.n_who[stretch[t]], work.n_who[stretch[t - 1]]
    x, clade, same = work.forward[row, :before], work.left[row, :before], w == stretch[t - 1]
    there, places = (clade, work.before[w, :0]) if same else (work.right[row, :n], work.before[w, :n])
    _cross(x, work.sums[row], clade, there, places, t - 1, row, k, model, work, out)


@_jit
def _forward(begin, end, observed, codes, stretch, model, clades, known, work):
    """Fills what is kept of the typed sites begin..end-1, a piece, and of the gaps after them, unless these are
    known."""
    for t in range(begin, end):
        row, n = t - begin, work.n_who[stretch[t]]
        match, out = work.match[row, :n], work.forward[row, :n]
        _emissions(work.who[stretch[t], :n], codes[t], observed[t], model.err, match)
        if row:
            _step(t, row - 1, codes.shape[1], stretch, model, work, out)
            _product(out, match, out)
        else:
            out[:] = work.entering[begin // len(work.forward), :n]
        work.sums[row] = add_up(out)
        if t + 1 < len(observed) and not known:
            _find_clades(t, row, stretch, clades, work)


@_jit
def _forward_all(observed, codes, stretch, model, clades, known, work):
    """Fills ``entering``, and what is kept of the last piece."""
    sites, n = len(work.forward), work.n_who[0]
    _emissions(work.who[0, :n], codes[0], observed[0], model.err, work.entering[0])
    for piece in range(len(work.entering)):
        end = min((piece + 1) * sites, len(observed))
        _forward(piece * sites, end, observed, codes, stretch, model, clades, known, work)
        if end < len(observed):
            n, out = work.n_who[stretch[end]], work.entering[piece + 1]
            _step(end, sites - 1, codes.shape[1], stretch, model, work, out)
            _emissions(work.who[stretch[end], :n], codes[end], observed[end], model.err, work.emitted)
            _product(out[:n], work.emitted, out)


@_jit
def _leave_one_out(posterior, who, codes, observed, match, err, alleles, out):
    """Probability of each ALT allele of a typed site without the target's own, into ``out``."""
    if len(out) == 1 and observed >= 0:
        same, other, half = _ZERO, _ZERO, np.float32(0.5)
        for i in range(len(who)):
            same += posterior[i] if match[i] > half else _ZERO
            other += posterior[i] if match[i] < half else _ZERO
        same, other = same / (_ONE - err), other / err
        out[0] = (same if observed == 1 else other) / (same + other)
        return
    total = _ZERO
    for code in range(len(out) + 1):
        mass = _ZERO
        for i in range(len(who)):
            mass += posterior[i] if codes[who[i]] == code else _ZERO
        if observed >= 0:
            mass /= _ONE - err if code == observed else err
        alleles[code] = mass
        total += mass
    for r in range(len(out)):
        out[r] = alleles[r + 1] / total


@_jit
def _find_likely(posterior, scale, who, k, likely, places, weight):
    """Haplotypes that matter, and their posterior with a sum of 1; returns how many."""
    bound, n = negligible(k) / scale, 0
    for i in range(len(who)):
        likely[n], places[n], weight[n] = who[i], i, posterior[i]  # stays only if it is counted
        n += posterior[i] > bound
    scale = _ONE / add_up(weight[:n])
    for i in range(n):
        weight[i] *= scale
    return n


@_jit
def _pour(of, side, cells, cell, work):
    n = work.n_likely[of]
    pour_side(work.likely[of, :n], work.weight[of, :n], side, cells.classes, cell, work.classes)


@_jit
def _impute_gap(t, left, right, queries, cells, work, out):
    """ALT probabilities of the rows after typed site t. left, right: 0 or 1, whose likely haplotypes are the site's and
    the next one's, -1 where there is no such site."""
    for cell in range(cells.gap_start[t + 1], cells.gap_start[t + 2]):
        if left >= 0:
            _pour(left, 0, cells, cell, work)
        if right >= 0:
            _pour(right, 1, cells, cell, work)
        spell_classes(cell, cells, queries.fraction, work.classes, work.rows, out)


@_jit
def _rank(t, row, left, right, stretch, ranking, q, work):
    """The haplotypes of highest posterior at typed site t and the next one, highest first, and what the network sees of
    them. right: -1 where there is no next one."""
    w, n, posterior, scale = stretch[t], work.n_who[stretch[t]], work.posterior, work.scale
    there = w if right < 0 else stretch[t + 1]
    ranked, ends, found = ranking.haplotypes[q, t], ranking.ends[q, t], 0
    for a in range(work.n_likely[left]):
        i = np.int64(work.places[left, a])
        score = posterior[left, i] * scale[left]
        if right >= 0:
            place = i if there == w else np.int64(work.after[w, i])
            score += posterior[right, place] * scale[right] if place >= 0 else _ZERO
        if score > LEAST_RANKED:
            found = insert(i, score, work.best, ranked, found)
    if right >= 0:
        bound = negligible(len(work.place)) / scale[left]
        for a in range(work.n_likely[right]):
            i = np.int64(work.places[right, a])
            place = i if there == w else np.int64(work.before[there, i])
            if place < 0 or posterior[left, place] <= bound:
                score = posterior[right, i] * scale[right]
                score += posterior[left, place] * scale[left] if place >= 0 else _ZERO
                if score > LEAST_RANKED:
                    found = insert(place if place >= 0 else n + i, score, work.best, ranked, found)
    for rank in range(len(ranked)):
        i = np.int64(ranked[rank]) if rank < found else -1
        if i < 0:
            ranked[rank] = -1
            continue
        place = i - n if i >= n else i if there == w else np.int64(work.after[w, i])
        ranked[rank] = work.who[there, i - n] if i >= n else work.who[w, i]
        if i < n:
            ends[rank, 0], ends[rank, 1] = work.forward[row, i] / work.sums[row], posterior[left, i] * scale[left]
        if right >= 0 and place >= 0:
            ends[rank, 2], ends[rank, 3] = work.backward[right, place], posterior[right, place] * scale[right]


@_jit
def _backward_site(t, row, q, observed, queries, codes, cells, stretch, model, ranking, work, out):
    """All of typed site t, kept at ``row``, and of the gap after it, from what ``emitted`` has of the next one, on to
    what it has of this one."""
    here, after, w, k = t % 2, (t + 1) % 2, stretch[t], codes.shape[1]
    n, right = work.n_who[w], after if t + 1 < len(observed) else -1
    who, posterior, backward = work.who[w, :n], work.posterior[here, :n], work.backward[here, :n]
    if right < 0:
        backward[:] = _ONE / np.float32(k)
    else:
        emitted, there = work.emitted[: work.n_who[stretch[t + 1]]], work.left[row, :n]
        clade, places = there, work.after[w, :0]
        if stretch[t + 1] != w:
            clade, places = work.right[row, : len(emitted)], work.after[w, :n]
        _cross(emitted, add_up(emitted), clade, there, places, t, row, k, model, work, backward)
    _product(work.forward[row, :n], backward, posterior)
    work.scale[here] = _ONE / add_up(posterior)
    first, last, match = queries.typed_rows[t, 0], queries.typed_rows[t, 1], work.match[row, :n]
    _leave_one_out(posterior, who, codes[t], observed[t], match, model.err, work.alleles, out[first:last])
    if len(cells.row_start):
        work.n_likely[here] = _find_likely(
            posterior, work.scale[here], who, k, work.likely[here], work.places[here], work.weight[here]
        )
        _impute_gap(t, here, right, queries, cells, work, out)
        if t == 0:
            _impute_gap(-1, -1, here, queries, cells, work, out)
        if ranking.haplotypes.shape[2]:
            ranking.scale[q, 2, t] = work.scale[here] * work.sums[row]
            _rank(t, row, here, right, stretch, ranking, q, work)
    _product(backward, match, work.emitted)


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy", cache=True)
def _impute(q, queries, codes, cells, stretch, model, clades, known, ranking, work, out):
    """One target. known: whether what is kept of gaps is theirs already."""
    queries, cells, model, clades = Queries(*queries), Cells(*cells), CladeModel(*model), Clades(*clades)
    ranking, work, observed = Ranking(*ranking), Scratch(*work), queries.observed[q]
    pieces, sites = len(work.entering), len(work.forward)
    _find_places(work.who, work.n_who, work.before, work.after, work.place)
    _forward_all(observed, codes, stretch, model, clades, known, work)
    for piece in range(pieces - 1, -1, -1):
        begin, end = piece * sites, min((piece + 1) * sites, len(observed))
        if piece < pieces - 1:
            _forward(begin, end, observed, codes, stretch, model, clades, known, work)
        for t in range(end - 1, begin - 1, -1):
            row = t - begin
            _backward_site(t, row, q, observed, queries, codes, cells, stretch, model, ranking, work, out[q])


def run_clade_passes(
    prepared: Prepared,
    whole: Model,
    model: CladeModel,
    clades: Clades,
    threads: int,
    ranking: Ranking,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """(n, r) float32: ALT probabilities, at the rows of typed sites leave-one-out. whole: of Li-Stephens over all
    haplotypes of a panel so large that not all take part. ranking: of stretches of one typed site; is filled.

    progress: called with the share that is done. The result does not depend on ``threads``.
    """
    n, t = prepared.queries.observed.shape
    k, m = prepared.codes.shape[1], ranking.haplotypes.shape[2]
    out = np.empty((n, len(prepared.queries.fraction)), np.float32)
    queries, blocks, cells, whole = map(tuple, (prepared.queries, prepared.blocks, prepared.cells, whole))
    model, clades, ranked = map(tuple, (model, clades, ranking))
    everywhere, stretch = np.zeros(t, np.int64), stretches(prepared.blocks)

    def work(first: int, last: int) -> None:
        all_of_them = few = plain = None
        known = False
        for q in range(first, last):
            share = 0.0
            if k > LIKELIEST:
                few = few or Scratch.of(t, k, int(stretch[-1]) + 1, LIKELIEST, m)
                plain = plain or tuple(tables.Scratch.of(prepared.blocks))
                share = find_likeliest(q, queries, blocks, whole, plain, ranking.scale[q], out[q], few.who, few.n_who)
            if share >= LEAST_SHARE:
                _impute(q, queries, prepared.codes, cells, stretch, model, clades, False, ranked, tuple(few), out)
                continue
            all_of_them = all_of_them or Scratch.of(t, k, 1, k, m)
            room = tuple(all_of_them)
            _impute(q, queries, prepared.codes, cells, everywhere, model, clades, known, ranked, room, out)
            known = len(all_of_them.forward) == t

    in_parts(work, n, threads, progress)
    return out
