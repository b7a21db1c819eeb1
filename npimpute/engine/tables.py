"""What the forward-backward kernel reads: compressed haplotypes, targets, parameters.

The kernel takes them as plain tuples, so the order of their fields is part of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Cells(NamedTuple):
    """Untyped rows cut into ``c`` cells, none of which reaches across a typed site.

    row_start, row_stop: (c,) int64, the rows of the window that a cell covers.
    gap_start: (t+2,) int64, cells gap_start[i]:gap_start[i+1] lie between typed sites i-1 and i (i = 0:
    before the first, i = t: after the last).
    class_start: (c+1,) int64, first class of each cell in ``entry_start``.
    entry_start: int64, ALT rows of a class, relative to row_start, are entries[entry_start[i]:entry_start[i+1]].
    entries: uint8.
    """

    row_start: np.ndarray
    row_stop: np.ndarray
    gap_start: np.ndarray
    class_start: np.ndarray
    entry_start: np.ndarray
    entries: np.ndarray


class Model(NamedTuple):
    """Parameters of one window. switch: (t,) float32, probability that a target goes on with any haplotype between
    typed sites i-1 and i. drift: (t-1,) float32, that else it goes on with any of the clade, between i and i+1. err:
    float32, probability that the observed allele differs from the copied one."""

    switch: np.ndarray
    drift: np.ndarray
    err: np.float32


class Queries(NamedTuple):
    """What is imputed. observed: (n, t) int8 panel allele codes, -1 missing. typed_rows: (t, 2) int64, first row
    of each typed site and the one after its last. fraction: (r,) float32, for each untyped row how far it lies
    from the typed site before it to the one after it, in genetic distance.

    near, place, anyone: see ``Ancestry``."""

    observed: np.ndarray
    typed_rows: np.ndarray
    fraction: np.ndarray
    near: np.ndarray
    place: np.ndarray
    anyone: np.float32
