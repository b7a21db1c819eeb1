"""Reference panels whose history is known: simulated with msprime.

Axes as in ``types``: k haplotypes, s sites; a site here is one row. v: the sites of one piece.

Source: Baumdicker et al. 2022, Genetics 220:iyab229 (msprime); Gutenkunst et al. 2009, PLoS Genet. 5:e1000695
(out-of-Africa).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError
from ..panel.genetic_map import GeneticMap, constant_rate
from ..panel.panel import CHUNK_BYTES
from ..types import Haplotypes, Sites

HISTORIES = ("out-of-africa", "constant")
OUT_OF_AFRICA = ("YRI", "CEU", "CHB")
CONSTANT_SIZE = 10_000
"""Diploid people of the history "constant"."""
MAX_GAP_BP = 100_000
"""A stretch of a genetic map has no two neighbouring points further apart: centromeres are left out."""

# One byte per allele before packing: what is held unpacked at a time.
_PIECE_BYTES = 4 << 20
_LETTERS = np.array(list("ACGT"))


@dataclass(frozen=True)
class SimulationConfig:
    """A panel to simulate.

    samples: diploid people, shared out over ``populations`` as evenly as possible, the first getting more. history:
    see ``HISTORIES``; in "constant" the populations are one, and their names only label the samples. Rates per bp
    and generation; ``recombination_rate`` holds where no genetic map is given. genotyping_error: the probability
    that an allele is flipped, at every site with a mutation. min_mac: sites with fewer copies of the rarer allele,
    errors included, are dropped.

    Raises ConfigError.
    """

    samples: int = 1000
    length_mb: float = 1.0
    history: str = "out-of-africa"
    populations: tuple[str, ...] = OUT_OF_AFRICA
    mutation_rate: float = 2.35e-8
    recombination_rate: float = 1e-8
    genotyping_error: float = 0.0
    min_mac: int = 2

    def __post_init__(self) -> None:
        if self.history not in HISTORIES:
            raise ConfigError(f"history {self.history!r}: choose from {', '.join(HISTORIES)}")
        self._check_populations()
        if self.samples < len(self.populations):
            raise ConfigError(
                f"samples {self.samples}: give at least one for each of {len(self.populations)} populations"
            )
        if not 1e-6 <= self.length_mb < math.inf:
            raise ConfigError(f"length_mb {self.length_mb}: give a finite number of Mb, at least one bp")
        for name in ("mutation_rate", "recombination_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: give a rate per bp, above 0 and below 1")
        if not 0 <= self.genotyping_error < 0.5:
            raise ConfigError(f"genotyping_error {self.genotyping_error}: give a probability, 0 or more and below 0.5")
        if not 1 <= self.min_mac <= self.samples:
            raise ConfigError(
                f"min_mac {self.min_mac}: give 1 to {self.samples}; half of the haplotypes can carry the rarer allele"
            )

    def _check_populations(self) -> None:
        names = self.populations
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ConfigError(f"populations {names!r}: give a tuple of one or more different names")
        if self.history == "out-of-africa" and not set(names) <= set(OUT_OF_AFRICA):
            raise ConfigError(f"populations {names}: choose from {', '.join(OUT_OF_AFRICA)}, or history 'constant'")
        # Names of samples are columns of a VCF and lines of a list of samples.
        if any(name.split() != [name] for name in names):
            raise ConfigError(f"populations {names}: give names without blanks")


@dataclass(frozen=True, eq=False)
class SimulatedPanel:
    """A simulated panel in memory; see ``panel.panel.Panel``.

    path: its name in messages; no file is there, and ``compile_panel``, which keeps a checksum of the source, needs
    one: ``dataclasses.replace(panel, path=...)``. samples: POPULATION_NUMBER, population by population. sites: s,
    positions strictly increasing, REF the ancestral allele. bits: (s, ceil(k/8)) uint8 as in ``Haplotypes``.
    cm: (s,) float64, of the map that it was simulated with.
    """

    path: Path
    samples: tuple[str, ...]
    contigs: list[tuple[str, int | None]]
    sites: Sites
    bits: np.ndarray
    cm: np.ndarray

    @property
    def k(self) -> int:
        return 2 * len(self.samples)

    def __iter__(self) -> Iterator[Haplotypes]:
        step = max(1, CHUNK_BYTES // self.bits.shape[1])
        for start in range(0, len(self.sites), step):
            stop = min(start + step, len(self.sites))
            yield Haplotypes(self.sites.slice(start, stop), self.bits[start:stop], self.k)


class _Stretch(NamedTuple):
    """Where the simulated sequence lies: its first bp is ``start``, 1-based."""

    contig: str
    start: int
    length: int


def simulate(config: SimulationConfig, seed: int, genetic_map: GeneticMap | None = None) -> SimulatedPanel:
    """A panel of ``config``; the same seed, config and map give the same panel.

    genetic_map: a stretch of ``length_mb`` is drawn from it, every place that has no gap above ``MAX_GAP_BP`` being
    as likely as any other, and its rates and positions are those of the panel; contigs are named as in the map's
    ``points``. Without a map, or with one of constant rate, the panel is the start of contig "1".

    Raises ConfigError where msprime is missing, the seed is negative, the map has no such stretch, or no site is left.
    """
    _msprime()
    if seed < 0:
        raise ConfigError(f"seed {seed}: a seed is 0 or more")
    # Apart, so that panels that differ in their errors only have the same history, positions and letters.
    history, letters, errors = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    genetic_map = genetic_map or constant_rate(config.recombination_rate * 1e8)
    stretch = _stretch(genetic_map, round(config.length_mb * 1e6), history)
    trees = _trees(config, stretch, genetic_map, history)
    ref, alt = _alleles(trees.num_sites, letters)
    bits, kept = _haplotypes(trees, config, errors)
    if not kept.any():
        raise ConfigError(
            f"length_mb {config.length_mb}, min_mac {config.min_mac}: no site is left; raise length_mb or lower min_mac"
        )
    pos = stretch.start + trees.sites_position[kept].astype(np.int64)
    sites = Sites(stretch.contig, pos, ["."] * len(pos), ref[kept].tolist(), alt[kept].tolist())
    contigs = [(stretch.contig, None if genetic_map.points else stretch.length)]
    samples = tuple(f"{name}_{i}" for name, n in _shares(config) for i in range(n))
    return SimulatedPanel(
        Path(f"simulated-{seed}"), samples, contigs, sites, bits, genetic_map.to_cm(stretch.contig, pos)
    )


def _msprime():
    try:
        import msprime
    except ImportError:
        raise ConfigError("simulation needs msprime: pip install 'npimpute[train]'") from None
    return msprime


def _shares(config: SimulationConfig) -> list[tuple[str, int]]:
    """Each population and its number of people."""
    each, more = divmod(config.samples, len(config.populations))
    return [(name, each + (i < more)) for i, name in enumerate(config.populations)]


def _stretch(genetic_map: GeneticMap, length: int, rng: np.random.Generator) -> _Stretch:
    """A stretch of ``length`` bp of the map, each possible first bp with the same probability."""
    if not genetic_map.points:
        return _Stretch("1", 1, length)
    contigs, first, count = [], [], []
    for contig, (bp, _) in genetic_map.points.items():
        cuts = np.flatnonzero(np.diff(bp) > MAX_GAP_BP) + 1
        for run in np.split(bp, cuts):
            contigs.append(contig)
            first.append(max(1, int(run[0])))
            count.append(max(0, int(run[-1]) - length + 1 - first[-1] + 1))
    ends = np.cumsum(count)
    if not ends[-1]:
        raise ConfigError(
            f"{genetic_map.source}: no {length} bp of the map are without a gap above {MAX_GAP_BP} bp; "
            "lower length_mb or give a denser map"
        )
    draw = int(rng.integers(ends[-1]))
    at = int(np.searchsorted(ends, draw, side="right"))
    return _Stretch(contigs[at], first[at] + draw - int(ends[at] - count[at]), length)


def _rate_map(genetic_map: GeneticMap, stretch: _Stretch):
    """msprime's RateMap of the stretch: bp from its start, crossovers (Morgans) per bp."""
    end = stretch.start + stretch.length
    bp = genetic_map.points[stretch.contig][0] if genetic_map.points else np.empty(0)
    ends = np.concatenate([[stretch.start], bp[(bp > stretch.start) & (bp < end)], [end]])
    # Interpolated ends can pass their neighbour by a rounding error, and msprime refuses a negative rate.
    morgans = np.maximum(np.diff(genetic_map.to_cm(stretch.contig, ends)), 0) / 100
    return _msprime().RateMap(position=ends - stretch.start, rate=morgans / np.diff(ends))


def _trees(config: SimulationConfig, stretch: _Stretch, genetic_map: GeneticMap, rng: np.random.Generator):
    """tskit's TreeSequence with mutations; sample nodes 2i and 2i+1 are sample i, in the order of ``_shares``."""
    msprime = _msprime()
    ancestry_seed, mutation_seed = rng.integers(1, 2**31, 2).tolist()
    mixed = config.history == "constant"
    trees = msprime.sim_ancestry(
        [msprime.SampleSet(n, population=0 if mixed else name, ploidy=2) for name, n in _shares(config)],
        demography=msprime.Demography.isolated_model([CONSTANT_SIZE]) if mixed else _out_of_africa(),
        recombination_rate=_rate_map(genetic_map, stretch),
        discrete_genome=True,
        random_seed=ancestry_seed,
    )
    return msprime.sim_mutations(
        trees,
        rate=config.mutation_rate,
        model=msprime.BinaryMutationModel(),
        discrete_genome=True,
        random_seed=mutation_seed,
    )


def _out_of_africa():
    """Africa, from which a bottleneck parts, from which Europe and East Asia part and grow.

    Times are generations of 25 years before the present, sizes diploid people, rates per generation.
    Source: Gutenkunst et al. 2009, PLoS Genet. 5:e1000695, table 1.
    """
    t_af, t_b, t_eu_as = (years / 25 for years in (220e3, 140e3, 21.2e3))
    model = _msprime().Demography()
    model.add_population(name="YRI", initial_size=12300)
    for name, at_split, growth in (("CEU", 1000, 0.004), ("CHB", 510, 0.0055)):
        model.add_population(name=name, initial_size=at_split * math.exp(growth * t_eu_as), growth_rate=growth)
    for name, size in (("OOA", 2100), ("AMH", 12300), ("ANC", 7300)):
        model.add_population(name=name, initial_size=size)
    for pair, rate in ((("YRI", "CEU"), 3e-5), (("YRI", "CHB"), 1.9e-5), (("CEU", "CHB"), 9.6e-5)):
        model.set_symmetric_migration_rate(pair, rate)
    model.add_population_split(time=t_eu_as, derived=["CEU", "CHB"], ancestral="OOA")
    model.add_symmetric_migration_rate_change(time=t_eu_as, populations=["YRI", "OOA"], rate=25e-5)
    model.add_population_split(time=t_b, derived=["YRI", "OOA"], ancestral="AMH")
    model.add_population_split(time=t_af, derived=["AMH"], ancestral="ANC")
    return model


def _alleles(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """REF and ALT, both (n,) letters, that differ."""
    ref = rng.integers(4, size=n)
    return _LETTERS[ref], _LETTERS[(ref + rng.integers(1, 4, size=n)) % 4]


def _haplotypes(trees, config: SimulationConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bits (s, ceil(k/8)) uint8 of the sites that are kept, and which they are of all sites, bool."""
    parts, kept = [], []
    for alleles in _pieces(trees):
        _flip(alleles, config.genotyping_error, rng)
        copies = alleles.sum(1, dtype=np.int64)
        keep = np.minimum(copies, alleles.shape[1] - copies) >= config.min_mac
        parts.append(np.packbits(alleles[keep], axis=1, bitorder="little"))
        kept.append(keep)
    if not parts:
        return np.empty((0, (trees.num_samples + 7) // 8), np.uint8), np.empty(0, bool)
    return np.concatenate(parts), np.concatenate(kept)


def _pieces(trees) -> Iterator[np.ndarray]:
    """Alleles (v, k) uint8, 0 ancestral and 1 derived, piece by piece; each is overwritten by the next."""
    step = max(1, _PIECE_BYTES // trees.num_samples)
    piece = np.empty((min(step, trees.num_sites), trees.num_samples), np.uint8)
    for i, variant in enumerate(trees.variants(alleles=("0", "1"), copy=False)):
        piece[i % step] = variant.genotypes
        if i % step == step - 1 or i == trees.num_sites - 1:
            yield piece[: i % step + 1]


def _flip(alleles: np.ndarray, probability: float, rng: np.random.Generator) -> None:
    """Flips each of ``alleles`` (v, k), in place, with the probability.

    Their number is binomial and any set of that number as likely as another: a draw per error, not per allele.
    """
    number = rng.binomial(alleles.size, probability)
    where = rng.choice(alleles.size, number, replace=False, shuffle=False)
    alleles.reshape(-1)[where] ^= 1
