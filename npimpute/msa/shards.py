"""Columns on their way to a store, in whatever order they come: a few shards in memory, the others on disk."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..outputs import file_errors
from .alphabet import GAP
from .store import SHARD, StoreWriter

log = logging.getLogger(__name__)
HELD = 3
MANY_RETURNS = 200
# In place of a code of the reference: no block has had this column yet. On disk only until ``fill``.
UNSEEN = 255


class Shard(NamedTuple):
    """reference: (SHARD,), rows: (M - 1, SHARD) uint8 codes."""

    reference: np.ndarray
    rows: np.ndarray


class Shards:
    """Takes columns of a store. covered: contig -> (first, last + 1) column; filled: columns that ``fill`` wrote.

    The first to come has a column. Columns may come in any order; where they jump about, shards are read back.
    """

    def __init__(self, writer: StoreWriter):
        self._writer, self._m = writer, len(writer.species)
        self._held: OrderedDict[tuple[str, int], Shard] = OrderedDict()
        self._written: set[tuple[str, int]] = set()
        self._returns = 0
        self.covered: dict[str, tuple[int, int]] = {}
        self.filled: Counter[str] = Counter()

    def add(self, contig: str, start: int, places: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """places: (r,) rows that ``codes`` (r, L), from column ``start``, are of; 0, the reference, is the first.

        Returns (L,) bool: the columns that were new.
        """
        end = start + codes.shape[1]
        new = np.zeros(codes.shape[1], bool)
        low, high = self.covered.get(contig, (start, end))
        self.covered[contig] = min(low, start), max(high, end)
        for number in range(start // SHARD, -(-end // SHARD)):
            shard, at = self._shard(contig, number), number * SHARD
            a, b = max(start, at), min(end, at + SHARD)
            part = codes[:, a - start : b - start]
            fresh = shard.reference[a - at : b - at] == UNSEEN
            new[a - start : b - start] = fresh
            shard.reference[a - at : b - at][fresh] = part[0, fresh]
            columns = np.arange(a - at, b - at)[fresh]
            shard.rows[(places[1:] - 1)[:, None], columns] = part[1:, fresh]
        return new

    def fill(self, contig: str, start: int, end: int, bases: Callable[[int, int], np.ndarray] | None) -> None:
        """Gives the columns ``start`` to ``end`` that no block had ``bases``, or gaps; after it nothing is added."""
        while self._held:
            self._flush()
        array = self._writer.array(contig, "reference")
        for number in range(start // SHARD, -(-end // SHARD)):
            a, b = max(start, number * SHARD), min(end, (number + 1) * SHARD)
            whole = slice(number * SHARD, min((number + 1) * SHARD, array.shape[0]))
            with file_errors(self._writer.path):
                codes = array[whole]
                if (contig, number) not in self._written:
                    codes[:] = UNSEEN
                inside = codes[a - whole.start : b - whole.start]
                if bases is not None:
                    empty = inside == UNSEEN
                    inside[empty] = bases(a, b)[empty]
                codes[codes == UNSEEN] = GAP
                array[whole] = codes
            self.filled[contig] += b - a

    def _shard(self, contig: str, number: int) -> Shard:
        key = contig, number
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        while len(self._held) >= HELD:
            self._flush()
        shard = Shard(np.full(SHARD, UNSEEN, np.uint8), np.full((self._m - 1, SHARD), GAP, np.uint8))
        if key in self._written:
            self._read_back(key, shard)
        self._held[key] = shard
        return shard

    def _read_back(self, key: tuple[str, int], shard: Shard) -> None:
        self._returns += 1
        if self._returns == MANY_RETURNS:
            log.warning("the blocks are far from the reference's order, which is slow; sort them first (mafSort)")
        contig, number = key
        place = slice(number * SHARD, (number + 1) * SHARD)
        with file_errors(self._writer.path):
            found = self._writer.array(contig, "reference")[place]
            shard.reference[: len(found)] = found
            if self._m > 1:
                shard.rows[:, : len(found)] = self._writer.array(contig, "rows")[:, place]

    def _flush(self) -> None:
        """The shard used longest ago goes to disk."""
        (contig, number), shard = self._held.popitem(last=False)
        array = self._writer.array(contig, "reference")
        place = slice(number * SHARD, min((number + 1) * SHARD, array.shape[0]))
        n = place.stop - place.start
        with file_errors(self._writer.path):
            array[place] = shard.reference[:n]
            if self._m > 1:
                self._writer.array(contig, "rows")[:, place] = shard.rows[:, :n]
        self._written.add((contig, number))
