"""ALT probabilities of untyped rows from the posterior of likely haplotypes, cell by cell and class by class."""

from __future__ import annotations

import numpy as np

from .compiled import any_order


@any_order
def pour(who, left, right, classes, cell, mass):
    """Adds the posterior of likely haplotypes on both sides of a cell to their classes' mass.

    Neighbours often share a class, and an addition must wait for the last one to the same number: four lanes.
    """
    n = len(who)
    whole = n - n % 4
    for p in range(0, whole, 4):
        v0, v1 = np.int64(classes[who[p], cell]), np.int64(classes[who[p + 1], cell])
        v2, v3 = np.int64(classes[who[p + 2], cell]), np.int64(classes[who[p + 3], cell])
        mass[v0, 0] += left[p]
        mass[v0, 1] += right[p]
        mass[v1, 2] += left[p + 1]
        mass[v1, 3] += right[p + 1]
        mass[v2, 4] += left[p + 2]
        mass[v2, 5] += right[p + 2]
        mass[v3, 6] += left[p + 3]
        mass[v3, 7] += right[p + 3]
    for p in range(whole, n):
        v = np.int64(classes[who[p], cell])
        mass[v, 0] += left[p]
        mass[v, 1] += right[p]


@any_order
def pour_side(who, weight, side, classes, cell, mass):
    """``pour`` on one side."""
    n = len(who)
    whole = n - n % 4
    for p in range(0, whole, 4):
        mass[classes[who[p], cell], side] += weight[p]
        mass[classes[who[p + 1], cell], side + 2] += weight[p + 1]
        mass[classes[who[p + 2], cell], side + 4] += weight[p + 2]
        mass[classes[who[p + 3], cell], side + 6] += weight[p + 3]
    for p in range(whole, n):
        mass[classes[who[p], cell], side] += weight[p]


@any_order
def spell_classes(cell, cells, fraction, mass, rows, out):
    """ALT probabilities of a cell's rows into ``out`` (r,) from the mass of its classes, which is 0 afterwards. rows:
    see ``tables.Scratch``.

    Linear in genetic distance, as in IMPUTE2 and Beagle (Browning, Zhou & Browning 2018, AJHG 103:338).
    """
    first, n_rows = cells.row_start[cell], cells.row_stop[cell] - cells.row_start[cell]
    base = cells.class_start[cell]
    for r in range(n_rows):
        rows[r, 0] = rows[r, 1] = np.float32(0)
    for v in range(cells.class_start[cell + 1] - base):
        left = (mass[v, 0] + mass[v, 2]) + (mass[v, 4] + mass[v, 6])
        right = (mass[v, 1] + mass[v, 3]) + (mass[v, 5] + mass[v, 7])
        if left + right > 0:
            mass[v] = np.float32(0)
            for e in range(cells.entry_start[base + v], cells.entry_start[base + v + 1]):
                rows[cells.entries[e], 0] += left
                rows[cells.entries[e], 1] += right
    for r in range(n_rows):
        f = fraction[first + r]
        out[first + r] = (np.float32(1) - f) * rows[r, 0] + f * rows[r, 1]
