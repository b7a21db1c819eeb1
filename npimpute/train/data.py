"""Meta-datasets: tables drawn from reference panels, every haplotype in turn a query of all the others.

A table's query never has its own sister haplotype (the same person's other one) in its context: at test time the
target's is not in the panel either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..context.blocks import BlockSize, nearest_typed
from ..context.neighbours import mismatches, nearest, tables
from ..errors import ConfigError, InputError
from ..panel.genetic_map import GeneticMap
from ..panel.panel import Panel, all_diploid
from ..types import Haplotypes

# Beyond any number of mismatches: such a haplotype is never among the nearest.
FAR = 1 << 40


def check_ranges(config: Any, *ranges: tuple[str, float, float]) -> None:
    """Makes the settings of these names tuples. Raises ConfigError unless each is two numbers, in order, between least
    and most."""
    for name, least, most in ranges:
        values = tuple(getattr(config, name))
        object.__setattr__(config, name, values)
        numbers = len(values) == 2 and all(isinstance(value, int | float) for value in values)
        if not numbers or not least <= values[0] <= values[1] <= most:
            raise ConfigError(f"data.{name} {values}: two numbers, the smaller first, {least} to {most:g}")


@dataclass(frozen=True)
class ArrayConfig:
    """How arrays are drawn. Raises ConfigError.

    spacing_kb: an array has one site each so many kb, drawn log-uniformly between the two. min_typed_maf: its sites
    have at least this minor allele frequency, drawn uniformly between the two.
    """

    spacing_kb: tuple[float, float] = (1.5, 7.0)
    min_typed_maf: tuple[float, float] = (0.01, 0.05)

    def __post_init__(self) -> None:
        check_ranges(self, ("spacing_kb", 1e-3, 1e6), ("min_typed_maf", 0, 0.5))


@dataclass(frozen=True)
class DataConfig(ArrayConfig):
    """How tables are drawn, beside their arrays. Raises ConfigError.

    min_maf: untyped sites with less are left out of tables. pool: the context is chosen from so many haplotypes,
    log-uniformly between the two, drawn from the region's (all, where it has no more): small pools are panels where the
    nearest haplotype often changes. shuffle: share of the draws whose context is in random order instead of nearest
    last, so that copying the last rows is no way around comparing them with the query.
    """

    min_maf: float = 0.0
    pool: tuple[int, int] = (1_000_000, 1_000_000)
    shuffle: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, ("pool", 1, 1e9))
        if not 0 <= self.min_maf < 0.5:
            raise ConfigError(f"data.min_maf {self.min_maf}: at least 0, below 0.5")
        if not 0 <= self.shuffle <= 1:
            raise ConfigError(f"data.shuffle {self.shuffle}: between 0 and 1")


@dataclass(frozen=True)
class Region:
    """One contig of a panel, held in memory. Rows as in ``types.Haplotypes``.

    pos: (r,) int64. bits: (r, ceil(k/8)) uint8. k: haplotypes. count: (r,) int64, of ALT alleles. cm: (r,) float64, if
    a map was given. samples: whose they are, two haplotypes each.
    """

    name: str
    pos: np.ndarray
    bits: np.ndarray
    k: int
    count: np.ndarray
    cm: np.ndarray | None = None
    samples: tuple[str, ...] = ()

    @property
    def maf(self) -> np.ndarray:
        return np.minimum(self.count, self.k - self.count) / self.k

    def alleles(self, rows: np.ndarray) -> np.ndarray:
        """(rows, k) uint8."""
        return np.unpackbits(self.bits[rows], axis=1, count=self.k, bitorder="little")


def read_regions(panels: Iterable[Panel], genetic_map: GeneticMap | None = None) -> list[Region]:
    """Every contig of the panels, with the rows that vary; with their cM if there is a map. Raises InputError for one
    where nothing varies."""
    regions = []
    for panel in panels:
        by_contig: dict[str, list[Haplotypes]] = {}
        for chunk in all_diploid(panel):
            by_contig.setdefault(chunk.sites.contig, []).append(chunk)
        if not by_contig:
            raise InputError(f"{panel.path}: no record with an ALT allele; there is nothing to train on")
        for name, chunks in by_contig.items():
            region = replace(_varying(f"{panel.path}:{name}", chunks), samples=tuple(panel.samples))
            regions.append(replace(region, cm=genetic_map.to_cm(name, region.pos)) if genetic_map else region)
    return regions


def _varying(name: str, chunks: list[Haplotypes]) -> Region:
    pos = np.concatenate([np.repeat(chunk.sites.pos, chunk.sites.n_alt()) for chunk in chunks])
    whole = region_of(name, pos, np.concatenate([chunk.bits for chunk in chunks]), chunks[0].k)
    varies = whole.maf > 0
    if not varies.any():
        raise InputError(f"{name}: no site varies among its {whole.k} haplotypes; there is nothing to train on")
    return Region(name, pos[varies], whole.bits[varies], whole.k, whole.count[varies])


def region_of(name: str, pos: np.ndarray, bits: np.ndarray, k: int) -> Region:
    """A Region, its alleles counted."""
    return Region(name, pos, bits, k, np.bitwise_count(bits).sum(axis=1, dtype=np.int64))


@dataclass(frozen=True)
class Tables:
    """One draw. tokens: (b, context+1, c) int8, the query last, labels and all. wanted: (c,) bool, its untyped
    columns. frequency: (c,) float32, of ALT in the panel."""

    tokens: np.ndarray
    wanted: np.ndarray
    frequency: np.ndarray


class TableSource:
    """Draws tables from regions, each region as often as it has untyped rows to offer.

    size: a table's columns; context: its rows beside the query, chosen with ``reach`` (see ``NetworkConfig``). Raises
    ConfigError where a region cannot give them.
    """

    def __init__(self, regions: list[Region], config: DataConfig, size: BlockSize, context: int, reach: float = 0.0):
        if config.pool[0] < context:
            raise ConfigError(f"context of {context} haplotypes: data.pool may have {config.pool[0]}; raise that")
        for region in regions:
            if region.k - 2 < context:
                raise ConfigError(
                    f"context of {context} haplotypes: {region.name} has {region.k}, of which a query and its sister "
                    "are not context; lower it or train on larger panels"
                )
        self._regions, self._config, self._size, self._context, self._reach = regions, config, size, context, reach
        offers = np.array([np.count_nonzero(region.maf >= config.min_maf) for region in regions], float)
        if not offers.all():
            poor = regions[int(np.argmin(offers))].name
            raise ConfigError(f"data.min_maf {config.min_maf}: no site of {poor} is that frequent")
        self._share = offers / offers.sum()
        for region in regions:
            often = region.pos[region.maf >= config.min_typed_maf[1]]
            if len(often) == 0 or often[-1] - often[0] < 1e3 * config.spacing_kb[1]:
                raise ConfigError(
                    f"{region.name}: too short, or too few sites with MAF {config.min_typed_maf[1]} or more, for an "
                    f"array of one in {config.spacing_kb[1]} kb; lower data.spacing_kb or data.min_typed_maf"
                )

    def draw(self, rng: np.random.Generator, count: int) -> Tables:
        """``count`` queries at one block of one region."""
        region = self._regions[rng.choice(len(self._regions), p=self._share)]
        typed = random_array(region, self._config, rng)
        untyped = np.setdiff1d(np.flatnonzero(region.maf >= self._config.min_maf), typed)
        if not len(untyped):
            raise ConfigError(
                f"{region.name}: an array leaves no untyped site with MAF {self._config.min_maf} or more; raise "
                "data.spacing_kb"
            )
        first = rng.integers(max(1, len(untyped) - self._size.untyped + 1))
        rows = untyped[first : first + self._size.untyped]
        around = typed[nearest_typed(typed, rows, self._size.typed)]
        columns = np.union1d(around, rows)
        wanted = np.isin(columns, rows)
        panel = region.alleles(columns)
        queries = rng.choice(region.k, count, replace=count > region.k)
        distance = mismatches(panel[:, queries].T.astype(np.int8), panel, wanted, self._reach)
        distance[:, self._left_out(region.k, rng)] = FAR
        distance[np.arange(count), queries] = distance[np.arange(count), queries ^ 1] = 2 * FAR
        chosen = nearest(distance, self._context)
        if rng.random() < self._config.shuffle:
            chosen = rng.permuted(chosen, axis=1)
        tokens = tables(panel[:, queries].T.astype(np.int8), panel, chosen)
        return Tables(tokens, wanted, (region.count[columns] / region.k).astype(np.float32))

    def _left_out(self, k: int, rng: np.random.Generator) -> np.ndarray:
        """The haplotypes (int64) that are not in this draw's pool."""
        size = round(np.exp(rng.uniform(*np.log(self._config.pool))))
        return rng.permutation(k)[size + 2 :]  # beside a query and its sister


def random_array(region: Region, config: ArrayConfig, rng: np.random.Generator) -> np.ndarray:
    """Rows (int64, increasing) that an array might type: one, of those frequent enough, in every bin of its spacing."""
    spacing = 1e3 * np.exp(rng.uniform(*np.log(config.spacing_kb)))
    eligible = np.flatnonzero(region.maf >= rng.uniform(*config.min_typed_maf))
    cell = np.floor((region.pos[eligible] - rng.uniform(0, spacing)) / spacing)
    order = rng.permutation(len(eligible))
    return np.sort(eligible[order[np.unique(cell[order], return_index=True)[1]]])
