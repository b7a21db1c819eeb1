"""Ancestry: who of the panel is like a target, over all of a window.

Where a target goes on with another haplotype it is more often than not one of somebody like itself. People, both of
their haplotypes together, are places in the space of the panel's principal components at typed sites, and the nearer
one is to another, the likelier it goes on with a haplotype of hers.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from ..context.windows import Window
from ..types import first_haplotypes
from .compiled import in_order_inline
from .lanes import LANES, exp, load, spread, store

# Principal components, of so many typed sites at most, of alleles that are this frequent at least.
DIMENSIONS, MOST_SITES, LEAST_FREQUENT = 16, 600, 0.02
# Nearness is normal in distance. Its variance is a multiple of the squared distance to the person of this rank, or to
# one quarter of a small panel, in the median of some people: by WIDTH over the number of sites that are independent as
# it were, since a small region, or one of much linkage, tells little of ancestry; over the share of likeness that is
# the same in all of the window, since among people of one ancestry it is not; but by LEAST_WIDTH at least.
NEIGHBOURS, SOME, WIDTH, LEAST_SHARED, LEAST_WIDTH, LEAST_DISTANCE = 50, 200, 4.0, 1e-3, 0.5, 0.01
# This share goes on with anyone.
ANYONE = 0.1


class Ancestry(NamedTuple):
    """A target goes on, after a switch, with a haplotype of the panel with a probability proportional to
    exp(-distance^2), but with the probability ``anyone`` (float32) with any.

    near: (k, d), place: (n, d) float32, of the panel's haplotypes and the targets; d may be 0.
    """

    near: np.ndarray
    place: np.ndarray
    anyone: np.float32

    @staticmethod
    def none(k: int, n: int) -> Ancestry:
        """All are alike."""
        return Ancestry(np.zeros((k, 0), np.float32), np.zeros((n, 0), np.float32), np.float32(1))


def find_ancestry(window: Window, codes: np.ndarray) -> Ancestry:
    """codes: (t, k) uint8, alleles of the panel at the typed sites. What a target gets depends on no other."""
    k, n, alleles = codes.shape[1], window.alleles.shape[1], window.alleles
    if window.elsewhere is not None:
        codes = np.concatenate([window.elsewhere.codes, codes])
        alleles = np.concatenate([window.elsewhere.alleles, alleles])
    frequency = np.array([np.count_nonzero(row) for row in codes]) / k
    sites = np.flatnonzero(np.minimum(frequency, 1 - frequency) >= LEAST_FREQUENT)
    sites = sites[:: -(-len(sites) // MOST_SITES) or 1]
    first = np.union1d(first_haplotypes(window.panel.ploidy, k), k)
    people = len(first) - 1
    if len(sites) < 2 or people < 2:
        return Ancestry.none(k, n)
    ploidy = np.diff(first).astype(np.float32)
    f = frequency[sites, None].astype(np.float32)
    deviation = np.sqrt(f * (1 - f))
    panel = (np.add.reduceat((codes[sites] > 0).view(np.uint8), first[:-1], axis=1) / ploidy - f) / deviation
    values, axes = np.linalg.eigh((panel @ panel.T).astype(np.float64))
    axes = np.ascontiguousarray(axes[:, : -DIMENSIONS - 1 : -1].astype(np.float32))
    near = panel.T @ axes
    square = (near**2).sum(axis=1)
    some = slice(None, None, -(-people // SOME))
    distance = np.maximum(square[some, None] + square - 2 * near[some] @ near.T, 0)
    neighbour = max(1, min(NEIGHBOURS, people // 4))  # 0 is oneself
    variance = np.median(np.partition(distance, neighbour, axis=1)[:, neighbour])
    # Where so many are as good as the same person, all others are far away.
    variance = max(variance, LEAST_DISTANCE * distance.mean())
    if variance == 0:
        return Ancestry.none(k, n)
    independent = values.sum() ** 2 / (values**2).sum() * _shared(panel[:, some])
    scale = np.sqrt(1 / (2 * variance * max(WIDTH / independent, LEAST_WIDTH))).astype(np.float32)
    alleles = alleles[sites]
    place = _places(np.where(alleles < 0, 0, ((alleles > 0) - f) / deviation), window.sample_of(), axes)
    near = np.repeat(near * scale, np.diff(first), axis=0)
    return Ancestry(near, (place * scale).astype(np.float32), np.float32(ANYONE))


def _shared(panel: np.ndarray) -> float:
    """Of how alike two people are in one half of the sites, how much shows in the other half: the correlation. panel:
    (t, p) of some people."""
    half, pairs = len(panel) // 2, np.triu_indices(panel.shape[1], 1)
    left, right = ((part.T @ part)[pairs] for part in (panel[:half], panel[half:]))
    left, right = left - left.mean(), right - right.mean()
    return max(float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right) + 1e-12)), LEAST_SHARED)


@in_order_inline
def weigh(targets, queries, work):
    """How probable each haplotype is after a switch, and at first. targets: (LANES,) int64, -1 for none."""
    weights, total = work.weight, spread(np.float32(0))
    for i in range(len(work.place)):
        for lane in range(LANES):
            work.place[i, lane] = queries.place[max(targets[lane], 0), i]
    for j in range(len(weights)):
        distance = spread(np.float32(0))
        for i in range(len(work.place)):
            difference = spread(queries.near[j, i]) - load(work.place, i)
            distance = distance - difference * difference
        value = exp(distance)
        store(weights, j, value)
        total = total + value
    anyone = spread(queries.anyone / np.float32(len(weights)))
    scale = spread(np.float32(1) - queries.anyone) / total
    for j in range(len(weights)):
        value = load(weights, j) * scale + anyone
        store(weights, j, value)
        store(work.entering[0], j, value)


@numba.njit(nogil=True, cache=True)
def _places(carried, sample, axes):
    """(n, d) float64: the mean over the haplotypes of each target's sample. carried: (t, n). sample: (n,) int64,
    neighbours of one sample have one number."""
    n, d = len(sample), axes.shape[1]
    own, out = np.zeros((n, d)), np.zeros((n, d))
    for q in range(n):
        for t in range(len(carried)):
            for i in range(d):
                own[q, i] += carried[t, q] * axes[t, i]
    first = 0
    while first < n:
        last = first + 1
        while last < n and sample[last] == sample[first]:
            last += 1
        for i in range(d):
            for q in range(first, last):
                out[first, i] += own[q, i] / (last - first)
            for q in range(first + 1, last):
                out[q, i] = out[first, i]
        first = last
    return out
