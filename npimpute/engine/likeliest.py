"""The haplotypes that matter most to a target, stretch by stretch, by exact Li-Stephens over groups of them."""

from __future__ import annotations

import itertools

import numpy as np

from .compiled import any_order, any_order_kernel
from .forward_backward import (
    STRETCH,
    add_up,
    enter_block,
    fill,
    find_most,
    forward_blocks,
    leave_block,
    negligible,
)
from .tables import Blocks, Model, Queries, Scratch

# Scores are sorted by their exponent and three more bits.
BUCKETS = 2048


def stretches(blocks: Blocks) -> np.ndarray:
    """(t,) int64: which of the stretches that ``find_likeliest`` tells of each typed site is in."""
    starts = [
        stop - STRETCH if stop - STRETCH > first else first
        for first, last in itertools.pairwise(blocks.site_start)
        for stop in range(last, first, -STRETCH)
    ]
    return np.searchsorted(np.sort(starts), np.arange(blocks.site_start[-1]), side="right") - 1


@any_order
def _take_highest(who, score, n, counts, out):
    """Those of the n haplotypes ``who`` with the highest scores, as many as ``out`` takes, into it; returns how many,
    and about their share of all scores. counts: (BUCKETS,)

    What scores within an eighth of each other counts as equal: of those that are too many every so manieth is taken, so
    that they stand for all.
    """
    bits = score.view(np.int32)
    fill(counts, 0)
    for i in range(n):
        counts[bits[i] >> 20] += 1
    bucket, taken = len(counts) - 1, 0
    while bucket > 0 and taken + counts[bucket] <= len(out):
        taken += counts[bucket]
        bucket -= 1
    room, equal, part, taken = len(out) - taken, counts[bucket], 0, 0
    for i in range(n):
        here = bits[i] >> 20
        if here == bucket:
            part += room
        if here > bucket or (here == bucket and part >= equal):
            part -= equal if here == bucket else 0
            out[taken] = who[i]
            taken += 1
    above, among = np.float32(0), np.float32(0)
    for i in range(n):
        above += score[i] if bits[i] >> 20 > bucket else np.float32(0)
        among += score[i] if bits[i] >> 20 == bucket else np.float32(0)
    among *= np.float32(min(room, equal)) / np.float32(max(equal, 1))
    return taken, (above + among) / add_up(score[:n])


@any_order
def _likeliest_of_stretch(i, blocks, start, first, last, work, counts, out):
    """``find_likeliest`` for the sites first..last-1 of block i."""
    n_groups, n, most = len(start) - 1, 0, work.most
    find_most(n_groups, first, last, work)
    bound = negligible(len(work.leaving))
    x, y, order, x_max, y_max = work.entering[i], work.leaving, blocks.order[i], work.sums[3], work.sums[4]
    who, score = work.who[0], work.rank[0]
    for g in range(n_groups):
        mm, mc, cm, cc = most[0, g], most[1, g], most[2, g], most[3, g]
        if x_max[g] * y_max[g] * mm + x_max[g] * mc + y_max[g] * cm + cc <= bound:
            continue
        for p in range(start[g], start[g + 1]):
            value = x[p] * y[p] * mm + x[p] * mc + y[p] * cm + cc
            if value > bound:
                who[n], score[n] = order[p], value
                n += 1
    return _take_highest(who, score, n, counts, out)


@any_order_kernel
def find_likeliest(q, queries, blocks, model, work, scales, loo, out, n_out):
    """Panel haplotypes that have the most posterior at some site of a stretch (``stretches``), at most m of them, in
    any order. Returns their share of what all have, in the stretch where that is least.

    q: one target. queries, blocks, model, work: those of ``tables``, as plain tuples. scales: (3, t) and loo: (r,)
    float32 are overwritten. out: (w, m) int32; n_out: (w,) int64, how many.
    """
    queries, blocks, model, work = Queries(*queries), Blocks(*blocks), Model(*model), Scratch(*work)
    observed, counts = queries.observed[q], np.zeros(BUCKETS, np.int64)
    forward_blocks(blocks, observed, model, work, scales[0])
    fill(work.leaving, np.float32(1) / np.float32(len(work.leaving)))
    w, least = len(n_out), np.float32(1)
    for i in range(len(blocks.order) - 1, -1, -1):
        start = enter_block(i, queries, observed, blocks, model, work, scales, loo)
        first, last = blocks.site_start[i], blocks.site_start[i + 1]
        for stop in range(last, first, -STRETCH):
            w -= 1
            low = max(0, stop - STRETCH - first)
            n_out[w], share = _likeliest_of_stretch(i, blocks, start, low, stop - first, work, counts, out[w])
            least = min(least, share)
        leave_block(i, blocks, work)
    return least
