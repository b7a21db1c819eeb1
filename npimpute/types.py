"""The values that pass between rooms.

Axes: ``n`` target haplotypes, ``k`` reference haplotypes, ``s`` sites (records), ``t`` typed sites,
``u`` untyped sites, ``r`` rows. A site with ``a`` ALT alleles has ``a`` rows, one per ALT allele in file
order, so that a biallelic site is one row and a multi-allelic record needs no special case.

Alleles are int8 codes: 0 REF, 1 the first ALT, 2 the second, ..., -1 missing. Positions are int64,
1-based bp; genetic positions float64 cM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sites:
    """Consecutive sites of one contig, in file order.

    pos: (s,) int64, 1-based, non-decreasing. ids, ref, alt: s strings each; ``alt`` holds the ALT alleles
    joined by commas as in the file ("." for none). The same position may occur with other alleles.
    """

    contig: str
    pos: np.ndarray
    ids: list[str]
    ref: list[str]
    alt: list[str]

    def __len__(self) -> int:
        return len(self.pos)

    def slice(self, start: int, stop: int) -> Sites:
        """Sites start..stop-1."""
        part = slice(start, stop)
        return Sites(self.contig, self.pos[part], self.ids[part], self.ref[part], self.alt[part])

    def take(self, index: np.ndarray) -> Sites:
        """The sites at ``index`` (int array), in that order."""
        ids, ref, alt = ([names[i] for i in index] for names in (self.ids, self.ref, self.alt))
        return Sites(self.contig, self.pos[index], ids, ref, alt)

    @staticmethod
    def concat(parts: list[Sites]) -> Sites:
        """One Sites out of several of the same contig (at least one)."""
        return Sites(
            parts[0].contig,
            np.concatenate([p.pos for p in parts]),
            [x for p in parts for x in p.ids],
            [x for p in parts for x in p.ref],
            [x for p in parts for x in p.alt],
        )

    def n_alt(self) -> np.ndarray:
        """(s,) int64: how many ALT alleles each site has."""
        return np.fromiter((0 if a == "." else a.count(",") + 1 for a in self.alt), np.int64, len(self))


@dataclass(frozen=True)
class Haplotypes:
    """Phased reference haplotypes at consecutive sites of one contig, one bit per haplotype and row.

    bits: (r, ceil(k/8)) uint8, bit ``j % 8`` (least significant first) of byte ``j // 8`` is 1 where
    haplotype j carries the row's ALT allele; bits beyond k are 0. Haplotypes 2i and 2i+1 belong to sample i.
    """

    sites: Sites
    bits: np.ndarray
    k: int

    def row_start(self) -> np.ndarray:
        """(s+1,) int64: rows row_start[i]:row_start[i+1] belong to site i."""
        return np.concatenate([[0], np.cumsum(self.sites.n_alt())])

    def alleles(self, rows: slice | np.ndarray) -> np.ndarray:
        """(rows, k) uint8: 1 where a haplotype carries the row's ALT allele."""
        return np.unpackbits(self.bits[rows], axis=1, count=self.k, bitorder="little")

    def codes(self, sites: np.ndarray) -> np.ndarray:
        """(len(sites), k) int8: the allele of each haplotype at some of the sites (int array)."""
        starts = self.row_start()
        out = self.alleles(starts[sites]).astype(np.int8)
        for codes, site in zip(out, sites, strict=True):
            for allele in range(1, starts[site + 1] - starts[site]):
                codes += self.alleles(starts[[site]] + allele)[0].astype(np.int8) * np.int8(allele + 1)
        return out

    def counts(self) -> np.ndarray:
        """(r,) int64: how many haplotypes carry each row's ALT allele."""
        return np.bitwise_count(self.bits).sum(axis=1, dtype=np.int64)


@dataclass(frozen=True)
class Targets:
    """Target haplotypes at their typed sites.

    alleles: (s, n) int8 codes into REF, ALT of the same file, -1 missing. Haplotypes 2i and 2i+1 belong to
    sample i. unphased: (s, samples) bool, heterozygotes whose phase is not known; None where it always is.
    """

    sites: Sites
    alleles: np.ndarray
    samples: tuple[str, ...]
    unphased: np.ndarray | None = None


@dataclass(frozen=True)
class Dosages:
    """What is written: ALT probabilities at consecutive sites of one contig, and what they are worth.

    p: (r, n) float32, probability that haplotype j carries the row's ALT allele; NaN is missing.
    typed, imputed: (s,) bool, the site was in the target; the site's values were (also) imputed.
    af, dr2, er2: (r,) float32, NaN where undefined (er2 at untyped sites).
    n_hap: (r,) int64, sum_p, sum_pq: (r,) float64: over the p that are not missing their count, sum p, and sum
    p (1 - p), from which AF, DR2 and INFO follow and which add up over batches of samples.
    """

    sites: Sites
    p: np.ndarray
    typed: np.ndarray
    imputed: np.ndarray
    af: np.ndarray
    dr2: np.ndarray
    er2: np.ndarray
    n_hap: np.ndarray
    sum_p: np.ndarray
    sum_pq: np.ndarray
