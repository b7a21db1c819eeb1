"""Which sites an array types: from a list of positions, a BIM file or a VCF, or drawn from the panel."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from .genotypes import Key, is_snp, keys_of

THIN_MAF = 0.05


@dataclass(frozen=True)
class PanelRows:
    """What is known of a panel's rows, in file order. keys: r; alone: (r,) bool, of a biallelic record; count: (r,)
    int64 of ALT; k: haplotypes; contigs: names by ``contig_key``."""

    keys: list[Key]
    alone: np.ndarray
    count: np.ndarray
    k: int
    contigs: dict[str, str]

    @property
    def maf(self) -> np.ndarray:
        return np.minimum(self.count, self.k - self.count) / self.k


Array = Callable[[PanelRows], list[int]]
"""Chooses the rows that are typed."""


def read_array(path: Path) -> Array:
    """The array in a file, which types biallelic SNPs of the panel: those with the alleles in a VCF or BCF, or, in any
    order, in PLINK's .bim; or all at the positions of a table of contig and position (a header, if any, is passed over;
    .bed: contig, start, end, from 0). Raises InputError where it cannot be read or is empty.
    """
    if path.name.endswith((".vcf", ".vcf.gz", ".bcf", ".vcf.bgz")):
        keys = {key for key in keys_of(path) if is_snp(key)}
        return _named(path, keys)
    rows = _table(path)
    if _is(path, ".bim"):
        alleles = {(contig_key(row[0]), int(row[3]), frozenset(row[4:6])) for row in rows}
        return _either_way(path, alleles)
    from_zero = _is(path, ".bed")
    sites: set[tuple[str, int]] = set()
    for contig, first, *rest in rows:
        start = int(first) + 1 if from_zero else int(first)
        stop = int(rest[0]) if from_zero else start
        sites.update((contig_key(contig), pos) for pos in range(start, stop + 1))
    return _at(path, sites)


def thinned(spacing: int, seed: int) -> Array:
    """One biallelic SNP at random of those with a minor allele frequency above 5 % in every ``spacing`` bp."""

    def choose(panel: PanelRows) -> list[int]:
        rng = np.random.default_rng(seed)
        fit = [i for i in np.flatnonzero(panel.alone & (panel.maf > THIN_MAF)).tolist() if is_snp(panel.keys[i])]
        windows: dict[tuple[str, int], list[int]] = {}
        for i in fit:
            windows.setdefault((panel.keys[i][0], panel.keys[i][1] // spacing), []).append(i)
        return [rows[rng.integers(len(rows))] for rows in windows.values()]

    return choose


def _table(path: Path) -> list[list[str]]:
    """The lines that have a number where a position should be, as all must but the first."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of sites ({error})") from error
    numbers, width = ((3,), 6) if _is(path, ".bim") else ((1, 2), 3) if _is(path, ".bed") else ((1,), 2)
    out, first = [], True
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) >= width and all(words[i].isascii() and words[i].isdecimal() for i in numbers):
            out.append(words)
        elif not first:
            columns = " and ".join(str(i + 1) for i in numbers)
            raise InputError(
                f"{path}, line {number}: {width} columns or more are needed, with a position in column {columns}"
            )
        first = False
    if not out:
        raise InputError(f"{path}: names no site; write one a line: contig and position")
    return out


def _is(path: Path, suffix: str) -> bool:
    return path.name.endswith((suffix, f"{suffix}.gz"))


def _at(path: Path, sites: set[tuple[str, int]]) -> Array:
    def fits(key: Key, alone: bool) -> bool:
        return alone and key[:2] in sites and is_snp(key)

    return _chosen(path, len(sites), fits)


def _named(path: Path, keys: set[Key]) -> Array:
    return _chosen(path, len(keys), lambda key, alone: alone and key in keys)


def _either_way(path: Path, sites: set) -> Array:
    def fits(key: Key, alone: bool) -> bool:
        return alone and is_snp(key) and (key[0], key[1], frozenset(key[2:])) in sites

    return _chosen(path, len(sites), fits)


def _chosen(path: Path, number: int, fits: Callable[[Key, bool], bool]) -> Array:
    def choose(panel: PanelRows) -> list[int]:
        rows = [i for i, key in enumerate(panel.keys) if fits(key, panel.alone[i])]
        if not rows:
            first, last = panel.keys[0], panel.keys[-1]
            raise InputError(
                f"{path}: none of its {number} sites is a SNP of the panel ({first[0]}:{first[1]} to {last[0]}:"
                f"{last[1]}); check that both use the same genome build"
            )
        return rows

    return choose
