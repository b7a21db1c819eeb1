"""Stretches of an alignment: those held out, those that are left to train on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, InputError
from ..vcf.region import Region
from .store import Alignment

log = logging.getLogger(__name__)


class Stretch(NamedTuple):
    """Columns start to end of a contig, 0-based half-open."""

    contig: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.contig}:{self.start + 1}-{self.end}"


def held_out(named: Sequence[str], alignment: Alignment) -> list[Stretch]:
    """What ``named`` holds out of the alignment, in order and merged where it overlaps or touches.

    named: regions CHR[:START-END], 1-based and both ends included, and files of such stretches in BED format, whose
    lines of contigs that the alignment lacks are left out. Raises InputError or ConfigError, also for a region, or a
    file, that meets nothing of the alignment.
    """
    found = []
    for text in named:
        path = Path(text)
        given = _read_bed(path, alignment) if path.is_file() else [_region(text, alignment)]
        clipped = [s for s in (_clipped(stretch, alignment) for stretch in given) if s.start < s.end]
        if not clipped:
            raise InputError(
                f"--hold-out {text}: nothing of it is in {alignment.path}, which covers {_covered(alignment)}"
            )
        found += clipped
    merged: list[Stretch] = []
    for stretch in sorted(found):
        if merged and merged[-1].contig == stretch.contig and stretch.start <= merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(merged[-1].end, stretch.end))
        else:
            merged.append(stretch)
    return merged


def remaining(alignment: Alignment, without: list[Stretch]) -> list[Stretch]:
    """The covered stretches of the alignment that lie outside ``without``, which is in order and does not overlap."""
    left = []
    for contig, (start, end) in alignment.contigs.items():
        for stretch in (s for s in without if s.contig == contig):
            left.append(Stretch(contig, start, stretch.start))
            start = stretch.end
        left.append(Stretch(contig, start, end))
    return [stretch for stretch in left if stretch.start < stretch.end]


def _region(text: str, alignment: Alignment) -> Stretch:
    try:
        region = Region.parse(text)
    except ConfigError as error:
        raise ConfigError(f"--hold-out {text}: no such file, and {error}") from error
    contig = alignment.name(region.contig)
    return Stretch(contig, region.start - 1, alignment.lengths[contig] if region.end is None else region.end)


def _clipped(stretch: Stretch, alignment: Alignment) -> Stretch:
    start, end = alignment.contigs[stretch.contig]
    return stretch._replace(start=max(stretch.start, start), end=min(stretch.end, end))


def _read_bed(path: Path, alignment: Alignment) -> list[Stretch]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as BED ({error})") from error
    found, others = [], 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        words = line.split()
        if len(words) < 3 or not (words[1].isdigit() and words[2].isdigit()) or int(words[1]) >= int(words[2]):
            raise InputError(f"{path}, line {number}: not a stretch in BED format (contig, start, end): {line[:40]!r}")
        if alignment.has(words[0]):
            found.append(Stretch(alignment.name(words[0]), int(words[1]), int(words[2])))
        else:
            others += 1
    if others:
        log.info("%s: %d stretches are of contigs that %s lacks", path, others, alignment.path)
    return found


def _covered(alignment: Alignment) -> str:
    some = [str(Stretch(name, *ends)) for name, ends in alignment.contigs.items()]
    return ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")
