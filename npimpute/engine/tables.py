"""What the forward-backward kernel reads: the panel's compressed haplotypes, the targets, the parameters.

The kernel takes them as plain tuples, so the order of their fields is part of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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
