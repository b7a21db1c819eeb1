"""Blocks of a window: consecutive untyped rows and the typed rows around them, for engines that read tables.

Rows are those of ``types.Haplotypes``: one an ALT allele. Axes: n target haplotypes, k panel haplotypes, c columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .windows import Window

UNKNOWN = -1
# Typed sites are left out in this many turns; every turn's table lacks one in so many of its typed sites.
FOLDS = 10


@dataclass(frozen=True)
class BlockSize:
    """How many rows a block imputes, and from how many of the nearest typed rows. Raises ConfigError.

    The published recipe is 100 and 200.
    """

    untyped: int = 100
    typed: int = 200

    def __post_init__(self) -> None:
        if self.untyped < 1 or self.typed < 1:
            raise ConfigError(f"block of {self.untyped} untyped and {self.typed} typed sites: at least 1 of each")


@dataclass(frozen=True)
class Block:
    """What one call of a table engine sees; columns are in file order.

    rows: (c,) int64, the window's rows. panel: (c, k) uint8, the panel's alleles, 0 or 1. queries: (n, c) int8, the
    targets' alleles, -1 where not known. wanted: (c,) bool, the columns to impute: no query is known there.
    """

    rows: np.ndarray
    panel: np.ndarray
    queries: np.ndarray
    wanted: np.ndarray


def cut_blocks(window: Window, size: BlockSize) -> Iterator[Block]:
    """Every row that the window writes, once: the untyped in blocks, the typed left out in turns.

    The window has at least one typed site.
    """
    starts = window.panel.row_start()
    site = np.repeat(np.arange(len(window.panel.sites)), np.diff(starts))
    is_typed = window.typed_rows()
    typed = np.flatnonzero(is_typed)
    queries = row_alleles(window, starts)
    own = np.arange(starts[window.start], starts[window.stop])
    untyped = own[~is_typed[own]]
    for first in range(0, len(untyped), size.untyped):
        rows = untyped[first : first + size.untyped]
        yield _block(window, typed, queries, rows, nearest_typed(typed, rows, size.typed))
    own_typed = own[is_typed[own]]
    sites = np.unique(site[own_typed])
    for first in range(0, len(sites), size.untyped):
        # By sites: the rows of one tell each other's alleles.
        rows = own_typed[np.isin(site[own_typed], sites[first : first + size.untyped])]
        around = nearest_typed(typed, rows, size.typed)
        turn = np.unique(site[rows], return_inverse=True)[1] % FOLDS
        for fold in range(min(FOLDS, turn.max() + 1)):
            yield _block(window, typed, queries, rows[turn == fold], around)


def nearest_typed(typed: np.ndarray, rows: np.ndarray, count: int) -> slice:
    """Which of ``typed`` (increasing rows) lie around the block ``rows``: as many on either side as there are."""
    middle = int(np.searchsorted(typed, rows[len(rows) // 2]))
    first = min(max(middle - count // 2, 0), max(len(typed) - count, 0))
    return slice(first, first + count)


def row_alleles(window: Window, starts: np.ndarray) -> np.ndarray:
    """(n, typed rows) int8: whether each target carries the typed row's ALT allele; -1 where it is missing."""
    parts = []
    for i, codes in zip(window.typed, window.alleles, strict=True):
        alt = np.arange(1, starts[i + 1] - starts[i] + 1)[:, None]
        parts.append(np.where(codes < 0, UNKNOWN, codes == alt).astype(np.int8))
    return np.ascontiguousarray(np.concatenate(parts).T)


def _block(window: Window, typed: np.ndarray, queries: np.ndarray, rows: np.ndarray, around: slice) -> Block:
    """The block that imputes ``rows`` from the typed rows ``around``, less those that are to be imputed."""
    columns = np.union1d(typed[around], rows)
    known = np.full((len(queries), len(columns)), UNKNOWN, np.int8)
    known[:, np.searchsorted(columns, typed[around])] = queries[:, around]
    wanted = np.isin(columns, rows)
    known[:, wanted] = UNKNOWN
    return Block(columns, window.panel.alleles(columns), known, wanted)
