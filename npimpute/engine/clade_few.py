"""The pass with clades over those haplotypes of a large panel that are likeliest, stretch by stretch, for one target.

What a haplotype had that takes no part in the next stretch is shared out among those who do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .clades import Clades
from .compiled import any_order, any_order_inline, any_order_kernel
from .forward_backward import add_up, negligible
from .ranking import LEAST_RANKED, Ranking, insert
from .spelling import pour_side, spell_classes
from .tables import Cells, CladeModel, Queries

# What is kept of typed sites takes so many bytes at most, of each haplotype at each of them so many.
KEPT_BYTES, KEPT_BYTES_EACH = 64 << 20, 24

_ONE, _ZERO = np.float32(1), np.float32(0)


class FewScratch(NamedTuple):
    """What one call works in, on one target. The m haplotypes that take part in a stretch have places 0..m-1 there.

    Of pieces of ``sites`` typed sites what is needed again on the way back is kept of one at a time, a row a site.
    """

    who: np.ndarray  # (w, m) int32, haplotypes that take part in each stretch
    n_who: np.ndarray  # (w,) int64, how many
    before: np.ndarray  # (w, m) int32, their places in the stretch before, -1 where they take no part in it
    after: np.ndarray  # (w, m) int32, likewise in the one after
    place: np.ndarray  # (k,) int32, all -1 between calls
    entering: np.ndarray  # (pieces, m) forward probabilities at the first site of each piece, after the emission
    forward: np.ndarray  # (sites, m) likewise at each site
    sums: np.ndarray  # (sites,) their sums
    match: np.ndarray  # (sites, m) probability of the target's allele
    left: np.ndarray  # (sites, m) int32, in the gap after each site, clades of those before it, renumbered
    right: np.ndarray  # (sites, m) int32, likewise of those after it, if others take part there
    share: np.ndarray  # (sites, 2 m) one over the haplotypes of those clades
    n_clades: np.ndarray  # (sites,) int64, how many there are
    number: np.ndarray  # (k,) int32, new numbers of clades; all -1 between gaps
    mass: np.ndarray  # (2, 2 m) of clades, those at even and odd places
    backward: np.ndarray  # (2, m) before the emission, at a typed site and the one after it, in turns
    emitted: np.ndarray  # (m,) after it
    posterior: np.ndarray  # (2, m) as ``backward``
    scale: np.ndarray  # (2,) one over their sums
    likely: np.ndarray  # (2, m) int32, haplotypes that matter at a typed site and the one after it, in turns
    places: np.ndarray  # (2, m) int32, their places
    n_likely: np.ndarray  # (2,) int64, how many
    weight: np.ndarray  # (2, m) their posterior, with a sum of 1
    alleles: np.ndarray  # (256,) of one site
    classes: np.ndarray  # (k, 8), rows: (256, 2), see ``mass`` and ``rows`` of ``tables.Scratch``
    rows: np.ndarray
    best: np.ndarray  # (haplotypes that are ranked,)

    @staticmethod
    def of(t: int, k: int, w: int, m: int, ranked: int) -> FewScratch:
        sites = min(t, max(1, KEPT_BYTES // (KEPT_BYTES_EACH * m)))
        floats = {
            "entering": (-(-t // sites), m), "forward": (sites, m), "sums": (sites,), "match": (sites, m),
            "share": (sites, 2 * m), "mass": (2, 2 * m), "backward": (2, m), "emitted": (m,), "posterior": (2, m),
            "scale": (2,), "weight": (2, m), "alleles": (256,), "classes": (k, 8), "rows": (256, 2), "best": (ranked,),
        }  # fmt: skip
        numbers = {"who": (w, m), "before": (w, m), "after": (w, m), "likely": (2, m), "places": (2, m)}
        numbers |= {"left": (sites, m), "right": (sites, m)}
        lengths = {"n_who": w, "n_clades": sites, "n_likely": 2}
        return FewScratch(
            place=np.full(k, -1, np.int32),
            number=np.full(k, -1, np.int32),
            **{name: np.zeros(shape, np.float32) for name, shape in floats.items()},
            **{name: np.zeros(shape, np.int32) for name, shape in numbers.items()},
            **{name: np.zeros(length, np.int64) for name, length in lengths.items()},
        )


@any_order
def _product(x, y, out):
    for i in range(len(x)):
        out[i] = x[i] * y[i]


@any_order_inline
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


@any_order
def _renumber(who, clade, share, number, n, out, share_out):
    """Numbers the clades of ``who``, after the n that there are, as they come. Returns how many there are."""
    for i in range(len(who)):
        c = np.int64(clade[who[i]])
        if number[c] < 0:
            number[c], share_out[n] = n, share[c]
            n += 1
        out[i] = number[c]
    return n


@any_order_inline
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


@any_order
def _emissions(who, codes, observed, err, out):
    right, wrong = (_ONE - err, err) if observed >= 0 else (_ONE, _ONE)
    for i in range(len(who)):
        out[i] = right if codes[who[i]] == observed else wrong


@any_order
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


@any_order
def _step(t, row, k, stretch, model, work, out):
    """Forward probabilities at typed site t before its emission, from the site before, at ``row`` of what is kept."""
    w, n, before = stretch[t], work.n_who[stretch[t]], work.n_who[stretch[t - 1]]
    x, clade, same = work.forward[row, :before], work.left[row, :before], w == stretch[t - 1]
    there, places = (clade, work.before[w, :0]) if same else (work.right[row, :n], work.before[w, :n])
    _cross(x, work.sums[row], clade, there, places, t - 1, row, k, model, work, out)


@any_order
def _forward(begin, end, observed, codes, stretch, model, clades, work):
    """Fills what is kept of the typed sites begin..end-1, a piece, and of the gaps after them."""
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
        if t + 1 < len(observed):
            _find_clades(t, row, stretch, clades, work)


@any_order_inline
def _forward_all(observed, codes, stretch, model, clades, work):
    """Fills ``entering``, and what is kept of the last piece."""
    sites, n = len(work.forward), work.n_who[0]
    _emissions(work.who[0, :n], codes[0], observed[0], model.err, work.entering[0])
    for piece in range(len(work.entering)):
        end = min((piece + 1) * sites, len(observed))
        _forward(piece * sites, end, observed, codes, stretch, model, clades, work)
        if end < len(observed):
            n, out = work.n_who[stretch[end]], work.entering[piece + 1]
            _step(end, sites - 1, codes.shape[1], stretch, model, work, out)
            _emissions(work.who[stretch[end], :n], codes[end], observed[end], model.err, work.emitted)
            _product(out[:n], work.emitted, out)


@any_order_inline
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


@any_order_inline
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


@any_order
def _pour(of, side, cells, cell, work):
    n = work.n_likely[of]
    pour_side(work.likely[of, :n], work.weight[of, :n], side, cells.classes, cell, work.classes)


@any_order
def _impute_gap(t, left, right, queries, cells, work, out):
    """ALT probabilities of the rows after typed site t. left, right: 0 or 1, whose likely haplotypes are the site's and
    the next one's, -1 where there is no such site."""
    for cell in range(cells.gap_start[t + 1], cells.gap_start[t + 2]):
        if left >= 0:
            _pour(left, 0, cells, cell, work)
        if right >= 0:
            _pour(right, 1, cells, cell, work)
        spell_classes(cell, cells, queries.fraction, work.classes, work.rows, out)


@any_order_inline
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


@any_order_inline
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
            _impute_gap(np.int64(-1), np.int64(-1), here, queries, cells, work, out)
        if ranking.haplotypes.shape[2]:
            ranking.scale[q, 2, t] = work.scale[here] * work.sums[row]
            _rank(t, row, here, right, stretch, ranking, q, work)
    _product(backward, match, work.emitted)


@any_order_kernel
def impute_few(q, queries, codes, cells, stretch, model, clades, ranking, work, out):
    """Target q. work: says who takes part. out: (n, r) float32, receives its ALT probabilities."""
    queries, cells, model, clades = Queries(*queries), Cells(*cells), CladeModel(*model), Clades(*clades)
    ranking, work, observed = Ranking(*ranking), FewScratch(*work), queries.observed[q]
    pieces, sites = len(work.entering), len(work.forward)
    _find_places(work.who, work.n_who, work.before, work.after, work.place)
    _forward_all(observed, codes, stretch, model, clades, work)
    for piece in range(pieces - 1, -1, -1):
        begin, end = piece * sites, min((piece + 1) * sites, len(observed))
        if piece < pieces - 1:
            _forward(begin, end, observed, codes, stretch, model, clades, work)
        for t in range(end - 1, begin - 1, -1):
            row = t - begin
            _backward_site(t, row, q, observed, queries, codes, cells, stretch, model, ranking, work, out[q])
