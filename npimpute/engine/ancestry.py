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
# Components of less than so much of the longest's length are errors of rounding.
LEAST_LENGTH = 1e-3
# One person in so many tells how much of a component is ancestry: it is not for them that it was chosen.
FRESH = 4
# The squared distance a site, between true places, within which people are alike; and as it were so many independent
# sites around a gap tell the copying model what they tell of ancestry.
ALIKE, OWN = 0.005, 5.0
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
    sites = sites[np.linspace(0, len(sites) - 1, min(len(sites), MOST_SITES)).round().astype(int)]
    first, own_first = first_haplotypes(window.panel.ploidy, k), first_haplotypes(window.ploidy, n)
    people = len(first) - 1
    if len(sites) < 2 or people < 2:
        return Ancestry.none(k, n)
    f = frequency[sites, None].astype(np.float32)
    deviation = np.sqrt(f * (1 - f))
    panel = (_of_people((codes[sites] > 0).view(np.uint8), first) - f) / deviation
    fresh = np.arange(people) % FRESH == 1
    values, axes = _components(panel[:, ~fresh])
    half = len(sites) // 2
    left, right = panel[:half].T @ axes[:half], panel[half:].T @ axes[half:]
    near, alleles = left + right, alleles[sites]
    place = _places(_of_people(np.where(alleles < 0, 0, ((alleles > 0) - f) / deviation), own_first), axes)
    told, variance = _told(left[fresh], right[fresh]), near[fresh].var(axis=0)
    own = min(1.0, OWN * (values**2).sum() / max(values.sum() ** 2, 1e-12))
    weight = (1 - own) / (ALIKE * len(sites) + 2 * told * (1 - told) * variance)
    scale, found = told * np.sqrt(weight / 2), told * weight > 0
    near, place = ((people * scale)[:, found].astype(np.float32) for people in (near, place))
    near, place = np.repeat(near, np.diff(first), axis=0), np.repeat(place, np.diff(own_first), axis=0)
    return Ancestry(near, place, np.float32(ANYONE if found.any() else 1))


def _components(panel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of panel panel', all but zeros, and the eigenvectors (t, d) float32 of the largest. panel: (t, p)."""
    few = panel.shape[1] < panel.shape[0]  # then the smaller matrix has the same eigenvalues, but zeros
    values, vectors = np.linalg.eigh((panel.T @ panel if few else panel @ panel.T).astype(np.float64))
    largest = slice(None, -DIMENSIONS - 1, -1)
    axes = vectors[:, largest]
    if few:
        length = np.sqrt(np.maximum(values[largest], 0))
        told = length > LEAST_LENGTH * length.max(initial=0)
        axes = panel @ np.where(told, axes / np.where(told, length, 1), 0)
    return values, np.ascontiguousarray(axes.astype(np.float32))


def _of_people(haplotypes: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(t, p) float32: means over each person's haplotypes. haplotypes: (t, k). first: see ``first_haplotypes``."""
    return np.add.reduceat(haplotypes, first[:-1], axis=1) / np.diff(first).astype(np.float32)


def _told(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(d,) float64: the share of the variance of left + right that is the same on both sides, by their correlation less
    a standard error. left, right: (p, d), what the left and the right half of the sites say of some people."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    deviations = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
    same = np.maximum((left * right).sum(axis=0) / np.maximum(deviations, 1e-12) - 1 / np.sqrt(len(left)), 0)
    return 2 * same / (1 + same)


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
def _places(carried, axes):
    """(p, d) float64 of people. carried: (t, p). No product of matrices: what one gets depends on no other."""
    out = np.zeros((carried.shape[1], axes.shape[1]))
    for t in range(len(carried)):
        for person in range(len(out)):
            for i in range(out.shape[1]):
                out[person, i] += carried[t, person] * axes[t, i]
    return out
