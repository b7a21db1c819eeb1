"""What both ways of reading share: the samples wanted, parsed stretches of records, and what makes a record unfit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npimpute.errors import InputError
from npimpute.types import Haplotypes, Sites, Targets
from npimpute.vcf import parse

_PHASE_PANEL = "phase the panel first, e.g. Beagle 5.4 (beagle gt=FILE out=phased) or SHAPEIT5 (phase_common)"
_PHASE_TARGET = (
    "phase the file first, e.g. npimpute phase, Beagle 5.4 (beagle gt=FILE ref=PANEL impute=false out=phased)"
    " or SHAPEIT5 (phase_common)"
)
_FEWER = "leave the sample out (bcftools view -s ^SAMPLE) or the record"


@dataclass(frozen=True)
class Selection:
    """Which of a file's samples are wanted.

    samples: all of the file's. chosen: (wanted samples,) int64, their places in ``samples``, ascending. slots:
    (all samples,) int64, the place among the chosen, or -1. unphased: heterozygotes of a target may lack their phase.
    """

    path: Path
    samples: tuple[str, ...]
    chosen: np.ndarray
    slots: np.ndarray
    unphased: bool = False

    @property
    def k(self) -> int:
        """Haplotypes of the chosen samples."""
        return 2 * len(self.chosen)

    @property
    def row_bytes(self) -> int:
        """Bytes that one row of their bits takes."""
        return (self.k + 7) // 8

    @staticmethod
    def of(path: Path, samples: tuple[str, ...], keep: set[str] | None, drop: set[str] | None) -> Selection:
        """The samples in ``keep`` (all when None) and not in ``drop``.

        Raises InputError when one of them is not in the file, or none is left.
        """
        for name in sorted((keep or set()) | (drop or set())):
            if name not in samples:
                raise InputError(f"{path}: no sample {name}; check the list of samples (bcftools query -l FILE)")
        wanted = [(keep is None or name in keep) and not (drop and name in drop) for name in samples]
        chosen = np.flatnonzero(wanted)
        if not len(chosen):
            raise InputError(f"{path}: no sample is left of {len(samples)}; check the lists of samples")
        slots = np.full(len(samples), -1, np.int64)
        slots[chosen] = np.arange(len(chosen))
        return Selection(path, samples, chosen.astype(np.int64), slots)


@dataclass(frozen=True)
class Part:
    """Consecutive records of one contig.

    all_pos: (records,) int64, the positions of all of them, wanted or not. data: the wanted ones, of a panel or of
    targets. n_monomorphic: how many wanted ones of a panel were left out for want of an ALT allele. error: what is
    wrong with the record that follows the last, for whoever has found no fault in these.
    """

    contig: str
    all_pos: np.ndarray
    data: Haplotypes | Targets
    n_monomorphic: int
    error: InputError | None = None

    @staticmethod
    def of_error(error: InputError) -> Part:
        """No records, then ``error``."""
        empty = np.empty(0, np.int64)
        return Part("", empty, Haplotypes(Sites("", empty, [], [], []), np.empty((0, 0), np.uint8), 0), 0, error)


class RecordOrder:
    """Sees the records of one file go by and refuses those out of order and those that come twice."""

    def __init__(self, path: Path):
        self._path = path
        self._contigs: list[str] = []
        self._pos = -1
        self._tail_pos = -1
        self._tail: list[tuple[str, str]] = []

    @property
    def contigs(self) -> list[str]:
        """The contigs seen so far."""
        return self._contigs

    def advance(self, contig: str, pos: np.ndarray) -> None:
        """See the next records' positions. Raises InputError when one goes back or ``contig`` had ended before."""
        if not len(pos):
            return
        if not self._contigs or contig != self._contigs[-1]:
            if contig in self._contigs:
                found = f"{contig}:{pos[0]}: contig {contig} comes again after {self._contigs[-1]}"
                raise InputError(f"{self._path}: {found}; sort the file (bcftools sort -Oz -o sorted.vcf.gz FILE)")
            self._contigs.append(contig)
            self._pos, self._tail_pos, self._tail = -1, -1, []
        before = np.concatenate([[self._pos], pos[:-1]])
        back = np.flatnonzero(pos < before)
        if len(back):
            found = f"{contig}:{pos[back[0]]}: the record comes after position {before[back[0]]}"
            raise InputError(f"{self._path}: {found}; sort the file (bcftools sort -Oz -o sorted.vcf.gz FILE)")
        self._pos = int(pos[-1])

    def distinct(self, sites: Sites) -> None:
        """See the next records' alleles. Raises InputError on a second record of one position, REF and ALT."""
        pos, n = sites.pos, len(sites)
        if not n:
            return
        for i in np.flatnonzero(pos == np.concatenate([[self._tail_pos], pos[:-1]])):
            start = int(np.searchsorted(pos, pos[i]))
            before = list(zip(sites.ref[start:i], sites.alt[start:i], strict=True))
            before += self._tail if pos[i] == self._tail_pos else []
            if (sites.ref[i], sites.alt[i]) in before:
                found = f"{sites.contig}:{pos[i]}: a second record {sites.ref[i]}>{sites.alt[i]}"
                raise InputError(f"{self._path}: {found}; remove repeated records (bcftools norm -d exact)")
        start = int(np.searchsorted(pos, pos[-1]))
        tail = list(zip(sites.ref[start:], sites.alt[start:], strict=True))
        self._tail = tail + self._tail if pos[-1] == self._tail_pos else tail
        self._tail_pos = int(pos[-1])


def genotype_error(path: Path, record: str, sample: str, genotype: str, fault: int, target: bool = False) -> InputError:
    """The error for one genotype. ``record`` is contig:pos, ``genotype`` as written, ``fault`` a code of parse."""
    found, remedy = {
        parse.MISSING: ("is missing", "a panel must be complete: fill it (e.g. with Beagle) or leave the record out"),
        parse.PLOIDY: ("is neither diploid nor haploid", _FEWER),
        parse.UNPHASED: ("is not phased", _PHASE_TARGET if target else _PHASE_PANEL),
        parse.RANGE: ("has an allele number beyond the record's ALT alleles", "the file is damaged: make it again"),
        parse.MALFORMED: ("is not a genotype", "the file is damaged: make it again"),
    }[fault]
    return InputError(f"{path}: {record}, sample {sample}: genotype {clip(genotype)} {found}; {remedy}")


def no_genotypes(path: Path, record: str, names: list[str]) -> InputError:
    """The error for a record without GT, or with GT not in the first place of FORMAT, which has ``names``."""
    if "GT" in names:
        found = f"FORMAT is {clip(':'.join(names))}, but VCF requires GT to be first"
        return InputError(f"{path}: {record}: {found}; make the file again with GT first")
    return InputError(f"{path}: {record}: FORMAT does not start with GT; leave out records without genotypes")


def too_many_alleles(path: Path, record: str, n: int) -> InputError:
    """The error for a target record of more ALT alleles than can be told apart."""
    return InputError(f"{path}: {record}: {n} ALT alleles are too many; leave the record out")


def clip(text: str, width: int = 40) -> str:
    """``text``, cut when it is too long to quote."""
    return text if len(text) <= width else text[:width] + "..."
