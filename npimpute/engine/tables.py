"""What the forward-backward kernel reads and works in: compressed haplotypes, targets, parameters, scratch.

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
    group_size: (g + b,) float32, the haplotypes of each group, beside its first place.
    group_offset: (b+1,) int64, where each block begins in ``group_start``.
    alleles: uint8, allele code of each group at each site; those of site i begin at allele_start[i].
    allele_start: (t,) int64.
    """

    site_start: np.ndarray
    order: np.ndarray
    from_previous: np.ndarray
    group_start: np.ndarray
    group_size: np.ndarray
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


class CladeModel(NamedTuple):
    """Of one window. switch: (t,) float32, probability that a target goes on with any haplotype between typed sites
    i-1 and i; drift: (t-1,) float32, that else it goes on with any of the clade, between i and i+1. err: float32."""

    switch: np.ndarray
    drift: np.ndarray
    err: np.float32


class Queries(NamedTuple):
    """What is imputed. observed: (n, t) int8 panel allele codes, -1 missing. typed_rows: (t, 2) int64, first row
    of each typed site and the one after its last. fraction: (r,) float32, for each untyped row how far it lies
    from the typed site before it to the one after it, in genetic distance."""

    observed: np.ndarray
    typed_rows: np.ndarray
    fraction: np.ndarray


class Scratch(NamedTuple):
    """What one call of the kernel works in."""

    entering: np.ndarray  # (b, k) forward probabilities on entering each block, in the block's order
    leaving: np.ndarray  # (k,) backward probabilities on leaving the current block, in the block's order
    spelled: np.ndarray  # (k,)
    forward: np.ndarray  # (2, sites, groups) m(g), c(g) at each site of the current block
    backward: np.ndarray  # (2, sites + 1, groups) m'(g), c'(g) likewise, from row 1; row 0 is the block before it
    between: np.ndarray  # (2, groups) m(g), c(g) or m'(g), c'(g) on the way from one site to the next
    z: np.ndarray  # (sites,) normalising constants of the posterior
    sums: np.ndarray  # (6, groups) per group: sum x, sum y, sum xy, max x, max y, and posterior mass
    alleles: np.ndarray  # (codes,) leave-one-out probability of each allele
    who: np.ndarray  # (2, k) int32, likely haplotypes of the current stretch and of the one after it
    n_who: np.ndarray  # (3,) how many, and which of the two is the current one
    most: np.ndarray  # (4, groups) over a stretch the most of m m', m c', c m', c c', over z
    active: np.ndarray  # (groups,) int64, groups with likely haplotypes
    active_start: np.ndarray  # (groups + 1,) where those begin in ``who``
    xy: np.ndarray  # (2, k) x and y of the current stretch's likely haplotypes
    weight: np.ndarray  # (2, 2, k) posterior of each stretch's likely haplotypes, at even and odd typed sites
    mass: np.ndarray  # (k, 8) posterior per class of a cell, left and right in four lanes; all 0 between calls
    rows: np.ndarray  # (rows, 2) ALT probability per row of a cell, left and right
    rank: np.ndarray  # (2, k) sum of each haplotype's posterior over a ranking's typed sites; the highest sums
    met: np.ndarray  # (1 + k,) int64, how many haplotypes have such a sum, and which

    @staticmethod
    def of(blocks: Blocks) -> Scratch:
        b, k = blocks.order.shape
        groups = int(np.diff(blocks.group_offset).max()) - 1
        sites = int(np.diff(blocks.site_start).max())
        shapes = {
            "entering": (b, k), "leaving": (k,), "spelled": (k,), "forward": (2, sites, groups),
            "backward": (2, sites + 1, groups), "between": (2, groups), "z": (sites,), "sums": (6, groups),
            "alleles": (256,), "most": (4, groups), "xy": (2, k), "weight": (2, 2, k), "mass": (k, 8), "rows": (256, 2),
            "rank": (2, k),
        }  # fmt: skip
        numbers = {"n_who": 3, "active": groups, "active_start": groups + 1, "met": k + 1}
        return Scratch(
            who=np.empty((2, k), np.int32),
            **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()},
            **{name: np.zeros(length, np.int64) for name, length in numbers.items()},
        )
