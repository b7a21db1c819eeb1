"""Groups: haplotypes that a copying model cannot tell apart over a block of gaps between typed sites.

They have the same alleles at the block's typed sites and in its gaps, and are of the same clades there. Forward and
backward probabilities of a whole group then follow from two numbers per site (see ``group_passes``): the state-space
reduction of Minimac3 (Das et al. 2016, Nature Genetics 48:1284, supplementary note), for a model with clades and with
the untyped alleles in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from .clades import Clades, mixed, number, table_for
from .compiled import in_order
from .tables import Cells

# What a haplotype costs where two blocks meet, there and back, over what a group costs at a site; measured best between
# 0.4 and 2.5.
BORDER_COST = 1.0
MOST_GAPS = 64
# A block is not made longer to see whether that becomes worth while again, once it costs so many times as much.
TOO_MUCH = 1.1


class Groups(NamedTuple):
    """Typed sites cut into ``b`` blocks, neighbours of which share a site, and the groups of k haplotypes in each: G in
    all blocks together.

    site_start: (b+1,) int64, of block i are typed sites site_start[i] to site_start[i+1], both included.
    of: (b, k) uint16 or int32, group of each haplotype in each block.
    members: (b, k) int32, haplotypes of each block, group by group.
    first: (b+1,) int64, groups of the blocks before. start: (G+b,) int64, where the groups of block i begin in
    ``members`` and, last, k: from start[first[i] + i] on.
    codes, clade, classes: of each group, at each site (uint8), in each gap and cell (uint16 or int32); of a block's
    first site or gap from code_start (b,) or clade_start (b,) on, and of a cell from class_start (c,) on, all int64.
    clades: (t-1,) int64, how many there are in each gap.
    """

    site_start: np.ndarray
    of: np.ndarray
    members: np.ndarray
    first: np.ndarray
    start: np.ndarray
    codes: np.ndarray
    code_start: np.ndarray
    clade: np.ndarray
    clade_start: np.ndarray
    classes: np.ndarray
    class_start: np.ndarray
    clades: np.ndarray


@in_order
def at_site(t, i, groups):
    """Codes of the groups at typed site t of block i, and clades in the gap after it."""
    n, begin = groups.first[i + 1] - groups.first[i], groups.site_start[i]
    code, clade = groups.code_start[i] + (t - begin) * n, groups.clade_start[i] + (t - begin) * n
    return groups.codes[code : code + n], groups.clade[clade : clade + n]


def find_groups(codes: np.ndarray, cells: Cells, classes: np.ndarray, clades: Clades, size: int) -> Groups:
    """codes: (t, k) uint8, alleles of the panel at the typed sites. classes: (c, k), of the haplotypes in each cell.
    size: blocks have a multiple of so many gaps, but for the last."""
    t, k = codes.shape
    of, site_start = [], [0]
    while not of or site_start[-1] < t - 1:
        group = np.empty(k, np.int32)
        gaps = _find_block(site_start[-1], codes, cells.gap_start, classes, clades.clade, size, BORDER_COST, group)
        site_start.append(site_start[-1] + gaps)
        of.append(group)
    return _assemble(np.array(site_start), of, codes, cells, classes, clades)


@numba.njit(nogil=True)
def _mix_in(value, keys):
    for j in range(len(keys)):
        keys[j] = mixed(keys[j] ^ np.uint64(value[j]))


@numba.njit(nogil=True, cache=True)
def _find_block(first, codes, gap_start, classes, clade, size, border, group):
    """The groups of the block that begins at typed site ``first`` into ``group`` (k,); returns its number of gaps, that
    with which a gap costs least."""
    t, k = codes.shape
    keys, found, table = np.zeros(k, np.uint64), np.empty(k, np.int32), table_for(k)
    best, gaps, lowest = 0, 0, np.inf
    _mix_in(codes[first], keys)
    if first == 0:
        for cell in range(gap_start[0], gap_start[1]):
            _mix_in(classes[cell], keys)
    while True:
        site = first + gaps
        if site == t - 1:
            for cell in range(gap_start[t], gap_start[t + 1]):
                _mix_in(classes[cell], keys)
        if site == t - 1 or (gaps and gaps % size == 0):
            n = number(keys, table, found)
            cost = (n * (gaps + 1) + border * k) / max(gaps, 1)
            if cost < lowest:
                best, lowest = gaps, cost
                for j in range(k):  # as a whole it would take seconds to compile
                    group[j] = found[j]
            if site == t - 1 or gaps >= MOST_GAPS or cost > TOO_MUCH * lowest:
                return best
        for cell in range(gap_start[site + 1], gap_start[site + 2]):
            _mix_in(classes[cell], keys)
        _mix_in(clade[site], keys)
        _mix_in(codes[site + 1], keys)
        gaps += 1


def _assemble(site_start, of, codes, cells: Cells, classes, clades: Clades) -> Groups:
    (t, k), b = codes.shape, len(of)
    members, start = np.empty((b, k), np.int32), []
    of_codes, of_clade, of_classes = [], [], []
    for i, group in enumerate(of):
        members[i] = np.argsort(group, kind="stable")
        start.append(np.append(0, np.cumsum(np.bincount(group))))
        one, (first, last) = members[i, start[i][:-1]], site_start[i : i + 2]
        gaps = slice(cells.gap_start[0 if i == 0 else first + 1], cells.gap_start[last + 1 + (last == t - 1)])
        of_codes.append(codes[first : last + 1, one])
        of_clade.append(clades.clade[first:last, one])
        of_classes.append(classes[gaps, one])
    groups = np.array([len(s) - 1 for s in start])
    return Groups(
        site_start=site_start,
        of=np.array(of, clades.clade.dtype),
        members=members,
        first=np.append(0, np.cumsum(groups)),
        start=np.concatenate(start),
        codes=_flat(of_codes),
        code_start=_starts(of_codes)[:-1],
        clade=_flat(of_clade),
        clade_start=_starts(of_clade)[:-1],
        classes=_flat(of_classes),
        class_start=np.append(0, np.cumsum(np.concatenate([np.repeat(x.shape[1], len(x)) for x in of_classes])))[:-1],
        clades=clades.number,
    )


def _flat(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


def _starts(parts: list[np.ndarray]) -> np.ndarray:
    return np.append(0, np.cumsum([part.size for part in parts]))
