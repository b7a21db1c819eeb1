"""Clades: panel haplotypes that are equal around a gap between typed sites, untyped rows included.

A target that copies a haplotype shares an ancestor with it, and often with others that descend from that ancestor too.
Going along the chromosome it parts from the haplotype either because its own lineage recombined, and then goes on with
any haplotype of the panel, or because the haplotype's did, and then it stays with the others of the clade. The model of
Li and Stephens knows the first; typed sites cannot tell who is of a clade, but the panel can.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np

# A row that only one haplotype differs at says that it is alone, not to whom it is near.
LEAST_CARRIERS = 2


class Clades(NamedTuple):
    """Of each gap between two typed sites. clade: (t-1, k) uint16 or int32, that of each haplotype, numbered from 0.
    number: (t-1,) int64, how many there are."""

    clade: np.ndarray
    number: np.ndarray

    @staticmethod
    def none(t: int, k: int) -> Clades:
        """All are of one clade in each gap, for a model without."""
        return Clades(np.zeros((t - 1, k), _kind(k)), np.ones(t - 1, np.int64))


def _kind(k: int) -> type:
    return np.uint16 if k <= 1 << 16 else np.int32


def find_clades(bits: np.ndarray, k: int, typed_rows: np.ndarray, beyond: int, threads: int = 1) -> Clades:
    """bits: (r, ceil(k/8)) uint8. typed_rows: (t, 2) int64, first row of each typed site and the one after its last.
    beyond: rows on either side of a gap, and of its typed sites, at which the haplotypes of a clade are equal too.

    Rows whose rarer allele fewer than LEAST_CARRIERS haplotypes carry count for nothing.
    """
    carriers = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    counts = np.minimum(carriers, k - carriers) >= LEAST_CARRIERS
    rows = np.flatnonzero(counts)
    before = np.append(0, np.cumsum(counts))
    first = np.maximum(before[typed_rows[:-1, 0]] - beyond, 0)
    last = np.minimum(before[typed_rows[1:, 1]] + beyond, len(rows))
    clade = np.empty((len(first), k), _kind(k))

    def find(part: slice) -> np.ndarray:
        return _find(bits, carriers, rows, first[part], last[part], clade[part])

    ends = np.linspace(0, len(first), threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        return Clades(clade, np.concatenate(list(pool.map(find, map(slice, ends[:-1], ends[1:])))))


@numba.njit(nogil=True)
def mixed(x):
    """A number that looks random for every number (splitmix64; Steele, Lea & Flood 2014)."""
    x = np.uint64(x + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(nogil=True)
def table_for(k):
    """Room for ``number`` to work in."""
    size = 1
    while size < 2 * k:
        size *= 2
    return np.empty(size, np.int32), np.empty(k, np.uint64)


@numba.njit(nogil=True)
def number(keys, table, out):
    """Numbers distinct keys (k,) by where each comes first, into ``out`` (k,); returns how many there are."""
    places, seen = table
    places[:] = -1
    n, mask = 0, np.uint64(len(places) - 1)
    for j in range(len(keys)):
        at = np.int64(keys[j] & mask)
        while places[at] >= 0 and seen[places[at]] != keys[j]:
            at = (at + 1) & np.int64(mask)
        if places[at] < 0:
            places[at], seen[n] = n, keys[j]
            n += 1
        out[j] = places[at]
    return n


@numba.njit(nogil=True)
def _toggle(bits, flip, key, sums):
    """``key`` in or out of the sums of the row's haplotypes that carry its rarer allele."""
    for byte in range(len(bits)):
        value = bits[byte] ^ flip
        if value == 0:
            continue
        for bit in range(8):
            j = byte * 8 + bit
            if (value >> bit) & 1 and j < len(sums):
                sums[j] ^= key


@numba.njit(nogil=True, cache=True)
def _find(bits, carriers, rows, first, last, clade):
    """Clades of some neighbouring gaps; returns how many there are in each gap."""
    # Haplotypes are equal over rows if the keys of what they carry there have the same exclusive or.
    k, n_clades = clade.shape[1], np.empty(len(first), np.int64)
    sums, low, high, table = np.zeros(k, np.uint64), first[:1].sum(), first[:1].sum(), table_for(k)
    for gap in range(len(first)):
        while high < last[gap]:
            r = rows[high]
            _toggle(bits[r], np.uint8(255 if 2 * carriers[r] > k else 0), mixed(r), sums)
            high += 1
        while low < first[gap]:
            r = rows[low]
            _toggle(bits[r], np.uint8(255 if 2 * carriers[r] > k else 0), mixed(r), sums)
            low += 1
        n_clades[gap] = number(sums, table, clade[gap])
    return n_clades
