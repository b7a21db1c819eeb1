"""Genotypes of any VCF or BCF by row, as comparisons need them: truth as copies, imputed ones with their probabilities.

Axes: r rows (one per ALT allele), N people. A haploid genotype counts as the homozygous one of its allele. A row is
known by its key: contig (as ``contig_key`` has it), position, REF and ALT, so that files may split or join
multi-allelic records as they like.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from ..vcf.htslib import variants
from ..vcf.source import open_source

Key = tuple[str, int, str, str]
# What programs call their own estimate of a row's r2.
QUALITIES = ("EXPR2", "DR2", "R2", "INFO")
BATCH = 1 << 18
"""Genotypes held at a time, about."""


@dataclass(frozen=True)
class Imputed:
    """A batch of imputed rows. rows: (r,) int64, the place of each in the caller's table. dosage (r, N) float32, call
    (r, N) int8 and gp (r, N, 3) float32 as in ``metrics.Rows``, quality (r,) float32."""

    rows: np.ndarray
    dosage: np.ndarray
    call: np.ndarray
    gp: np.ndarray
    quality: np.ndarray


class GenotypeFile:
    """A VCF or BCF file of imputed or true genotypes. Raises InputError where it cannot be read."""

    def __init__(self, path: Path, threads: int = 1):
        self.path, self._threads = Path(path), threads
        self.samples = open_source(self.path).samples

    def columns(self, samples: tuple[str, ...]) -> np.ndarray:
        """(N,) places of ``samples`` in the file. Raises InputError naming those that it lacks."""
        at = {name: i for i, name in enumerate(self.samples)}
        if lacking := [name for name in samples if name not in at]:
            names = ", ".join(lacking[:3]) + (" ..." if len(lacking) > 3 else "")
            raise InputError(f"{self.path}: lacks {len(lacking)} of {len(samples)} samples ({names})")
        return np.array([at[name] for name in samples], np.int64)

    def copies(self, samples: tuple[str, ...]) -> Iterator[tuple[Key, np.ndarray, np.ndarray | None, str]]:
        """For every row its key, copies (N,) int8 (-1 missing), and, once a record, the alleles with phase: (N, 3)
        int16 codes of both and whether they are phased, None at further rows; and the record's ID."""
        columns = self.columns(samples)
        for record in variants(self.path, self._threads):
            with _readable(self.path, record):
                codes, keys = self._codes(record)[columns], record_keys(record)
            for i, key in enumerate(keys):
                yield key, _copies(codes, i + 1), codes if i == 0 else None, record.ID or "."

    def imputed(self, samples: tuple[str, ...], wanted: dict[Key, int]) -> Iterator[Imputed]:
        """The rows of ``wanted``, in file order. Dosages are DS, or else follow from GP, HDS or AP1 and AP2, or else
        from GT; probabilities are GP, or those of HDS or AP; calls are GT, or else the likeliest of GP or the nearest
        to DS. Raises InputError where a record has none of these, or a row comes twice."""
        columns = self.columns(samples)
        batch: list[tuple] = []
        seen: set[int] = set()
        for record in variants(self.path, self._threads):
            with _readable(self.path, record):
                keys = record_keys(record)
            chosen = [(i, wanted[key]) for i, key in enumerate(keys) if key in wanted]
            if not chosen:
                continue
            for i, row in chosen:
                if row in seen:
                    raise InputError(f"{self.path}: {_name(keys[i])} comes twice; remove repeated records")
                seen.add(row)
            with _readable(self.path, record):
                values = self._values(record, columns, chosen)
            batch += zip((row for _, row in chosen), *values, strict=True)
            if len(batch) * len(columns) > BATCH:
                yield _joined(batch)
                batch = []
        if batch:
            yield _joined(batch)

    def _values(self, record, columns: np.ndarray, chosen: list[tuple[int, int]]) -> tuple[list, ...]:
        """Dosage, call, probabilities and quality of the record's chosen rows."""
        n_alt = len(record.ALT)
        fields = record.FORMAT or []
        codes = self._codes(record) if "GT" in fields else None
        haploid = np.zeros(len(self.samples), np.bool_) if codes is None else codes[:, 1] == -2
        pairs = _pairs(record, fields, n_alt, haploid)
        # Other widths are of damaged records, or nobody has a value.
        gp = self._field(record, "GP", fields, (n_alt + 1) if haploid.all() else (n_alt + 1) * (n_alt + 2) // 2)
        ds = self._field(record, "DS", fields, n_alt)
        if ds is None and pairs is None and gp is None and codes is None:
            raise InputError(
                f"{self.path}: {record.CHROM}:{record.POS}: no DS, GP, HDS, AP1 or GT can be read; impute with one"
            )
        out = ([], [], [], [])
        for i, _ in chosen:
            p = None if pairs is None else _of_pair(pairs[i], haploid)
            p = p if gp is None else _of_allele(gp, n_alt, i + 1, haploid)
            dosage = ds[:, i] * (1 + haploid) if ds is not None else None if p is None else p[:, 1] + 2 * p[:, 2]
            if codes is not None:
                call = _copies(codes, i + 1)
            else:
                best = np.rint(dosage)
                if p is not None:
                    best = np.where(np.isnan(p).any(axis=1), best, p.argmax(axis=1))
                call = np.where(np.isnan(dosage), -1, best).astype(np.int8)
            if dosage is None:
                dosage = np.where(call < 0, np.nan, call)
            p = np.full((len(call), 3), np.nan) if p is None else p
            values = (dosage[columns], call[columns], p[columns], _quality(record, i))
            for column, value in zip(out, values, strict=True):
                column.append(value)
        return out

    def _field(self, record, name: str, fields: list[str], width: int) -> np.ndarray | None:
        """(samples, width) float32; None where there is none of this width."""
        values = record.format(name) if name in fields else None
        if values is None or values.shape[1] != width:
            return None
        return np.asarray(values, np.float32)

    def _codes(self, record) -> np.ndarray:
        """(samples, 3) int16: two alleles (-1 missing, -2 none: haploid) and whether they are phased."""
        codes = record.genotype.array()
        if codes.shape[1] == 2:
            codes = np.insert(codes, 1, -2, axis=1)
        if codes.shape[1] != 3:
            raise InputError(f"{self.path}: {record.CHROM}:{record.POS}: more than two alleles a person; leave it out")
        return codes


def keys_of(path: Path, threads: int = 1) -> Iterator[Key]:
    """The key of every row of a file, which may have no samples. Raises InputError where it cannot be read."""
    for record in variants(path, threads):
        with _readable(path, record):
            keys = record_keys(record)
        yield from keys


@contextlib.contextmanager
def _readable(path: Path, record) -> Iterator[None]:
    """Turns what cyvcf2 and numpy make of a damaged record into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = " ".join(str(error).split())
        where = f"position {record.POS}"
        with contextlib.suppress(UnicodeDecodeError):
            where = f"{record.CHROM}:{record.POS}"
        raise InputError(f"{path}: {where}: the record cannot be read ({found}); leave it out") from error


def record_keys(record) -> list[Key]:
    """One key for each ALT allele of a cyvcf2 record."""
    contig = contig_key(record.CHROM)
    return [(contig, record.POS, record.REF.upper(), alt.upper()) for alt in record.ALT]


def is_snp(key: Key) -> bool:
    """Whether one base stands for one base."""
    return len(key[2]) == len(key[3]) == 1 and key[2] in "ACGT" and key[3] in "ACGT"


def _name(key: Key) -> str:
    return f"{key[0]}:{key[1]} {key[2]}>{key[3]}"


def _copies(codes: np.ndarray, allele: int) -> np.ndarray:
    """(N,) int8 copies of the allele, -1 where one is missing."""
    alleles = np.where(codes[:, 1:2] == -2, codes[:, :1], codes[:, :2])
    return np.where((alleles == -1).any(axis=1), -1, (alleles == allele).sum(axis=1)).astype(np.int8)


def _pairs(record, fields: list[str], n_alt: int, haploid: np.ndarray) -> np.ndarray | None:
    """(n_alt, samples, 2) ALT probability of both haplotypes, from HDS or AP1 and AP2; of the samples that are
    ``haploid`` (samples,) bool twice the same."""
    if "AP1" in fields and "AP2" in fields:
        pair = (record.format("AP1"), record.format("AP2"))
    elif "HDS" in fields:
        values = record.format("HDS")
        if haploid.all() and values.shape[1] == n_alt:
            values = np.concatenate([values, values], axis=1)
        if values.shape[1] != 2 * n_alt:
            return None
        pair = (values[:, :n_alt], values[:, n_alt:])
    else:
        return None
    first, second = (np.asarray(p, np.float32) for p in pair)
    return np.stack([first, np.where(haploid[:, None], first, second)], axis=-1).transpose(1, 0, 2)


def _of_pair(p: np.ndarray, haploid: np.ndarray) -> np.ndarray:
    """(N, 3) probabilities of 0, 1 and 2 copies. p: (N, 2). haploid: (N,) bool, whose two are one haplotype."""
    a, b = p[:, 0], p[:, 1]
    two = np.stack([(1 - a) * (1 - b), a * (1 - b) + b * (1 - a), a * b], axis=1)
    return np.where(haploid[:, None], _doubled(a), two)


def _doubled(p: np.ndarray) -> np.ndarray:
    """(N, 3): those of 0, 1 and 2 copies where the only haplotype has the allele with p (N,)."""
    return np.stack([1 - p, np.where(np.isnan(p), p, 0), p], axis=1)


@cache
def _copies_of_genotypes(n_alt: int, allele: int) -> np.ndarray:
    """Copies of the allele in each genotype, in VCF's order (0/0 0/1 1/1 0/2 ...)."""
    pairs = ((a, b) for b in range(n_alt + 1) for a in range(b + 1))
    return np.array([(a == allele) + (b == allele) for a, b in pairs])


def _of_allele(gp: np.ndarray, n_alt: int, allele: int, haploid: np.ndarray) -> np.ndarray:
    """(N, 3) probabilities of 0, 1 and 2 copies of the allele. haploid: (N,) bool, whose values are by allele."""
    if n_alt == 1 and not haploid.any():
        return gp
    one = _doubled(gp[:, allele])
    if haploid.all():
        return one
    copies = _copies_of_genotypes(n_alt, allele)
    two = np.stack([gp[:, copies == c].sum(axis=1) for c in range(3)], axis=1)
    return np.where(haploid[:, None], one, two)


def _quality(record, i: int) -> float:
    for name in QUALITIES:
        value = record.INFO.get(name)
        if isinstance(value, tuple):
            value = value[i] if i < len(value) else None
        if isinstance(value, float | int):
            return float(value)
    return float("nan")


def _joined(batch: list[tuple]) -> Imputed:
    rows, dosage, call, gp, quality = zip(*batch, strict=True)
    return Imputed(
        np.array(rows, np.int64),
        np.stack(dosage).astype(np.float32),
        np.stack(call),
        np.stack(gp).astype(np.float32),
        np.array(quality, np.float32),
    )
