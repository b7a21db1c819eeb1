"""Stretches of a genome to train on, and those that training must not touch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, InputError
from ..vcf.region import Region
from .genome import Genome
from .tokens import N, bases
from .windows import check_contigs, interval_status, read_intervals

# A window with more unknown bases than this share teaches little: another is drawn, so many times at most.
MOST_UNKNOWN, TRIES = 0.5, 20


class Stretch(NamedTuple):
    """0-based half-open."""

    contig: str
    start: int
    end: int


def stretches(genome: Genome, named: Iterable[str]) -> list[Stretch]:
    """Those that ``named`` says: regions such as chr20:1,000-2,000 (1-based, both ends in) or BED files; merged.

    Raises InputError or ConfigError, also for a stretch that the genome lacks.
    """
    found = []
    for text in named:
        if Path(text).is_file():
            intervals = read_intervals(Path(text))
            check_contigs(genome, [interval.contig for interval in intervals], Path(text))
            known = [i for i in intervals if interval_status(genome, i) == "ok"]
            found += [_clipped(genome, i.contig, i.start, i.end) for i in known]
        else:
            region = Region.parse(text)
            length = genome.lengths[genome.name(region.contig)]
            if region.start > length:
                raise InputError(f"{genome.path}: {region} starts past the contig's end, {length}")
            found.append(_clipped(genome, region.contig, region.start - 1, region.end or length))
    return merged(found)


def _clipped(genome: Genome, contig: str, start: int, end: int) -> Stretch:
    contig = genome.name(contig)
    return Stretch(contig, start, min(end, genome.lengths[contig]))


def merged(found: Iterable[Stretch]) -> list[Stretch]:
    """The same bases, sorted, no base in two of them."""
    whole: list[Stretch] = []
    for contig, start, end in sorted(found):
        if whole and whole[-1].contig == contig and start <= whole[-1].end:
            whole[-1] = whole[-1]._replace(end=max(end, whole[-1].end))
        else:
            whole.append(Stretch(contig, start, end))
    return whole


def without(kept: Iterable[Stretch], removed: list[Stretch]) -> list[Stretch]:
    """What is left of ``kept``. Both as ``merged`` gives them."""
    left = []
    for contig, start, end in kept:
        for other in removed:
            if other.contig == contig and other.start < end and start < other.end:
                if start < other.start:
                    left.append(Stretch(contig, start, other.start))
                start = other.end
        if start < end:
            left.append(Stretch(contig, start, end))
    return left


def training_stretches(genome: Genome, regions: Iterable[str], held_out: list[Stretch]) -> list[Stretch]:
    """``regions``, or all of the genome where there are none, without what is held out.

    Raises InputError or ConfigError, also where nothing is left.
    """
    whole = stretches(genome, regions) or [Stretch(name, 0, length) for name, length in genome.lengths.items()]
    if not (left := without(whole, held_out)):
        raise ConfigError(f"{genome.path}: nothing is left to train on: --hold-out names all of it")
    return left


def draw_window(genome: Genome, places: list[Stretch], length: int, rng: np.random.Generator) -> np.ndarray:
    """A window (length,) uint8 from a random place within one of ``places``; N beyond it where it is shorter."""
    ends = np.cumsum([place.end - place.start for place in places])
    for _ in range(TRIES):
        place = places[int(np.searchsorted(ends, rng.uniform(0, ends[-1]), side="right"))]
        start = int(rng.integers(place.start, max(place.end - length, place.start) + 1))
        letters = fetch_within(genome, place, start, length)
        if (bases(letters) == N).mean() <= MOST_UNKNOWN:
            break
    return letters


def fetch_within(genome: Genome, place: Stretch, start: int, length: int) -> np.ndarray:
    """(length,) uint8 from ``start``; beyond the stretch N, whatever the genome has there."""
    letters = np.full(length, ord("N"), np.uint8)
    first, last = max(start, place.start), min(start + length, place.end)
    if first < last:
        letters[first - start : last - start] = genome.fetch(place.contig, first, last)
    return letters


def spaced_windows(genome: Genome, places: list[Stretch], length: int, count: int) -> np.ndarray:
    """``count`` windows (count, length) uint8 evenly over ``places``, the same each time."""
    sizes = np.array([max(s.end - s.start - length, 0) + 1 for s in places])
    ends = np.cumsum(sizes)
    marks = (np.arange(count) * ends[-1]) // count
    chosen = np.searchsorted(ends, marks, side="right")
    offsets = marks - (ends - sizes)[chosen]
    windows = [
        fetch_within(genome, places[i], places[i].start + int(o), length) for i, o in zip(chosen, offsets, strict=True)
    ]
    return np.stack(windows)
