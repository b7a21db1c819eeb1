"""Cells: stretches of untyped rows, over which haplotypes with the same alleles, a *class*, pass the same ALT alleles
on.

Posterior probability is summed by class, and a class is spelled out once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from .tables import Cells

MAX_CELL_ROWS = 64


@numba.njit(cache=True, nogil=True)
def _minor_carriers(bits, k, n_carriers, out):
    """Haplotypes with the row's rarer allele into ``out``; returns how many. bits: (ceil(k/8),) uint8."""
    flip = np.uint8(255) if 2 * n_carriers > k else np.uint8(0)
    n = 0
    for byte in range(len(bits)):
        value = bits[byte] ^ flip
        if value == 0:
            continue
        for bit in range(8):
            j = byte * 8 + bit
            if (value >> bit) & 1 and j < k:
                out[n] = j
                n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _classify(bits, counts, k, classes):
    """Classes of haplotypes equal over all rows of ``bits`` (rows, ceil(k/8)); returns how many classes."""
    classes[:] = 0
    size, seen, target = np.zeros(k, np.int32), np.zeros(k, np.int32), np.empty(k, np.int32)
    touched, carriers = np.empty(k, np.int32), np.empty(k, np.int32)
    size[0] = k
    n_classes = 1
    for r in range(len(bits)):
        n = _minor_carriers(bits[r], k, counts[r], carriers)
        n_touched = 0
        for i in range(n):
            c = classes[carriers[i]]
            if seen[c] == 0:
                touched[n_touched] = c
                n_touched += 1
            seen[c] += 1
        for i in range(n_touched):
            c = touched[i]
            target[c] = c
            if seen[c] < size[c]:
                target[c] = n_classes
                size[n_classes] = seen[c]
                size[c] -= seen[c]
                n_classes += 1
            seen[c] = 0
        for i in range(n):
            classes[carriers[i]] = target[classes[carriers[i]]]
    return n_classes


@numba.njit(cache=True, nogil=True)
def _classify_cells(bits, counts, k, row_start, row_stop, classes, n_classes):
    """Fills classes (c, k), n_classes (c,); returns (entries, entries per class) of these cells."""
    entries, per_class = np.empty(1 << 12, np.uint8), np.empty(1 << 12, np.int64)
    n_entries, n_total = 0, 0
    member = np.empty(k, np.int64)
    for c in range(len(row_start)):
        first, last = row_start[c], row_stop[c]
        n = _classify(bits[first:last], counts[first:last], k, classes[c])
        n_classes[c] = n
        for j in range(k):
            member[classes[c, j]] = j
        while n_total + n > len(per_class):
            per_class = np.concatenate((per_class, np.empty_like(per_class)))
        while n_entries + n * (last - first) > len(entries):
            entries = np.concatenate((entries, np.empty_like(entries)))
        for v in range(n):
            j, before = member[v], n_entries
            for r in range(first, last):
                if (bits[r, j >> 3] >> (j & 7)) & 1:
                    entries[n_entries] = r - first
                    n_entries += 1
            per_class[n_total] = n_entries - before
            n_total += 1
    return entries[:n_entries].copy(), per_class[:n_total].copy()


def cut_cells(gap_start: np.ndarray, gap_stop: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts gaps between typed sites, rows gap_start[i]:gap_stop[i], evenly into cells of MAX_CELL_ROWS at most.

    Returns row_start (c,), row_stop (c,) and, for each gap and the end, its first cell (gaps+1,), int64.
    """
    rows = gap_stop - gap_start
    n_cells = -(-rows // MAX_CELL_ROWS)
    first_cell = np.concatenate([[0], np.cumsum(n_cells)])
    gap = np.repeat(np.arange(len(rows)), n_cells)
    nth = np.arange(first_cell[-1]) - first_cell[gap]
    start = gap_start[gap] + nth * rows[gap] // n_cells[gap]
    stop = gap_start[gap] + (nth + 1) * rows[gap] // n_cells[gap]
    return start, stop, first_cell


def find_cells(
    bits: np.ndarray, k: int, gap_start: np.ndarray, gap_stop: np.ndarray, threads: int
) -> tuple[Cells, np.ndarray]:
    """Cells of untyped rows, and the class of each haplotype in each, (c, k) uint16 or int32.

    bits: (r, ceil(k/8)) uint8, the window's rows. gap_start, gap_stop: (t+1,) int64, rows between typed sites.
    """
    row_start, row_stop, first_cell = cut_cells(gap_start, gap_stop)
    c = len(row_start)
    counts = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
    classes = np.empty((c, k), np.uint16 if k <= 1 << 16 else np.int32)
    n_classes = np.empty(c, np.int64)
    parts = np.array_split(np.arange(c), max(1, min(c, 4 * threads)))

    def work(part):
        span = slice(part[0], part[-1] + 1) if len(part) else slice(0, 0)
        return _classify_cells(bits, counts, k, row_start[span], row_stop[span], classes[span], n_classes[span])

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(work, parts))
    per_class = np.concatenate([p for _, p in results])
    cells = Cells(
        row_start=row_start,
        row_stop=row_stop,
        gap_start=first_cell,
        class_start=np.concatenate([[0], np.cumsum(n_classes)]),
        entry_start=np.concatenate([[0], np.cumsum(per_class)]),
        entries=np.concatenate([e for e, _ in results]),
    )
    return cells, classes
