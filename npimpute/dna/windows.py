"""What is looked at in a genome: intervals, variants, and the windows of sequence around them.

Positions are 0-based half-open, as in BED, but for ``Variant.pos``, which is 1-based, as in VCF.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from .genome import Genome
from .tokens import N, bases

log = logging.getLogger(__name__)
OK, INDEL = "ok", "indel"
NO_CONTIG, OUTSIDE, EMPTY = "no contig", "outside", "empty"
MISMATCH, SYMBOLIC, UNKNOWN, LONG = "reference mismatch", "symbolic allele", "unknown base", "longer than the window"
_ACGT = frozenset("ACGT")


@dataclass(frozen=True)
class Interval:
    """strand: "-" where the other strand is meant."""

    contig: str
    start: int
    end: int
    name: str = "."
    strand: str = "+"


@dataclass(frozen=True)
class Variant:
    """One ALT allele of a record. pos: 1-based, of the first letter of ``ref``. Alleles in upper case."""

    contig: str
    pos: int
    name: str
    ref: str
    alt: str


@dataclass(frozen=True)
class Pair:
    """The windows of both alleles. status: OK, INDEL, or why there are none. ref, alt: (l,) uint8. start: of the
    window in the contig; index: of the allele's first letter in either window."""

    status: str
    ref: np.ndarray | None = None
    alt: np.ndarray | None = None
    start: int = 0
    index: int = 0


def read_intervals(path: Path) -> list[Interval]:
    """A BED file, plain or gzip, of three columns or more. Raises InputError."""
    found = []
    for number, line in _lines(path):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        words = line.strip().split("\t") if "\t" in line else line.split()
        if len(words) < 3 or not (words[1].isdigit() and words[2].isdigit()):
            raise InputError(f"{path}, line {number}: not BED: contig, start and end are needed, from 0")
        start, end = int(words[1]), int(words[2])
        if end < start:
            raise InputError(f"{path}, line {number}: ends at {end}, before its start {start}")
        strand = words[5] if len(words) > 5 and words[5] in "+-" else "+"
        found.append(Interval(words[0], start, end, words[3] if len(words) > 3 else ".", strand))
    if not found:
        raise InputError(f"{path}: holds no interval")
    return found


def read_variants(path: Path) -> list[Variant]:
    """A VCF file (plain, gzip or bgzip) or a BCF file, one ``Variant`` for each ALT allele, in the file's order.

    Genotypes are not looked at, and no header is needed. Raises InputError.
    """
    records = _bcf(path) if path.name.lower().endswith(".bcf") else _vcf(path)
    found = [Variant(*place, ref.upper(), alt.upper()) for *place, ref, alts in records for alt in alts.split(",")]
    if not found:
        raise InputError(f"{path}: holds no variant")
    return found


def _vcf(path: Path) -> Iterator[tuple[str, int, str, str, str]]:
    for number, line in _lines(path):
        if line.startswith("#") or not line.strip():
            continue
        words = line.rstrip("\n").split("\t", 5)
        if len(words) < 5 or not words[1].isdigit() or int(words[1]) < 1:
            raise InputError(f"{path}, line {number}: not VCF: CHROM, POS, ID, REF and ALT are needed, with tabs")
        yield words[0], int(words[1]), words[2], words[3], words[4]


def _bcf(path: Path) -> Iterator[tuple[str, int, str, str, str]]:
    import pysam

    try:
        with pysam.VariantFile(str(path)) as file:
            for record in file:
                alts = ",".join(record.alts or ".")
                yield record.chrom, record.pos, record.id or ".", record.ref, alts
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as BCF ({error})") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt") if _is_gzip(path) else open(path) as file:
            yield from enumerate(file, 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error.reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it whole?") from error


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def check_contigs(genome: Genome, contigs: list[str], path: Path) -> None:
    """Raises InputError where none of ``contigs``, which ``path`` names, is in the genome."""
    known = {contig_key(name) for name in genome.lengths}
    if not any(contig_key(name) in known for name in set(contigs)):
        ours, theirs = (", ".join(list(dict.fromkeys(names))[:3]) for names in (genome.lengths, contigs))
        raise InputError(f"{path}: its contigs ({theirs}) are none of those of {genome.path} ({ours})")


def warn_of_build(genome: Genome, status: list[str], path: Path) -> None:
    """Warns where fewer places of ``path``, by their status, fit the genome than do not: by chance a fourth of REFs
    does."""
    fit, apart = (sum(told in kinds for told in status) for kinds in ((OK, INDEL), (MISMATCH, OUTSIDE)))
    if apart > fit:
        log.warning(
            "%s: %d of %d places have another REF than %s or lie past its contigs: are they of another build?",
            *(path, apart, fit + apart, genome.path),
        )


def counted(status: Iterable[str]) -> str:
    """How many there are of each, "ok" first, for people."""
    counts = Counter(status)
    done = counts.pop(OK, 0)
    return ", ".join(f"{count} {told}" for told, count in [(OK, done), *counts.most_common()])


def interval_status(genome: Genome, interval: Interval) -> str:
    """OK, or why the interval holds no sequence."""
    length = _length(genome, interval.contig)
    if length is None:
        return NO_CONTIG
    if interval.start == interval.end:
        return EMPTY
    return OK if interval.start < length else OUTSIDE


def centred(start: int, end: int, length: int) -> tuple[int, int]:
    """The window of ``length`` around the middle of ``start`` to ``end``; it may begin before 0."""
    first = (start + end) // 2 - length // 2
    return first, first + length


def pair(genome: Genome, variant: Variant, length: int) -> Pair:
    """Windows of ``length`` of either allele, its first letter in the middle; N past the contig's ends.

    The ALT window of an insertion ends sooner in the contig, that of a deletion later, so both are equally long.
    """
    size = _length(genome, variant.contig)
    ref, alt = variant.ref, variant.alt
    if size is None:
        return Pair(NO_CONTIG)
    if not set(ref) | set(alt) <= _ACGT | {"N"} or not alt:
        return Pair(SYMBOLIC)
    first = variant.pos - 1
    if first + len(ref) > size:
        return Pair(OUTSIDE)
    index = length // 2
    start = first - index
    if index + max(len(ref), len(alt)) > length:
        return Pair(LONG)
    letters = genome.fetch(variant.contig, start, start + length + max(0, len(ref) - len(alt)))
    allele = np.frombuffer(ref.encode(), np.uint8)
    here = letters[index : index + len(ref)]
    if (bases(here) == N).any() or "N" in ref + alt:
        return Pair(UNKNOWN)
    if not np.array_equal(here, allele):
        return Pair(MISMATCH)
    other = np.concatenate([letters[:index], np.frombuffer(alt.encode(), np.uint8), letters[index + len(ref) :]])
    status = OK if len(ref) == len(alt) else INDEL
    return Pair(status, letters[:length], other[:length], start, index)


def _length(genome: Genome, contig: str) -> int | None:
    try:
        return genome.lengths[genome.name(contig)]
    except InputError:
        return None
