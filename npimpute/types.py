"""The values that pass between rooms.

Axes: ``n`` target haplotypes, ``k`` reference haplotypes, ``s`` sites (records), ``t`` typed sites,
``u`` untyped sites, ``r`` rows. A site with ``a`` ALT alleles has ``a`` rows, one per ALT allele in file
order, so that a biallelic site is one row and a multi-allelic record needs no special case.

Alleles are int8 codes: 0 REF, 1 the first ALT, 2 the second, ..., -1 missing. Positions are int64,
1-based bp; genetic positions float64 cM.

Samples have one haplotype or two: ``ploidy`` (samples,) int8 says how many, or None that all have two. Haplotypes are
in the order of their samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

ABSENT = -2
"""The second allele of a haploid call, in alleles as they are read: two a sample."""


def first_haplotypes(ploidy: np.ndarray | None, n: int) -> np.ndarray:
    """(samples+1,) int64: haplotypes first[i]:first[i+1] of the n belong to sample i; of an odd n without ploidies the
    last sample has one."""
    return np.append(np.arange(0, n, 2), n) if ploidy is None else np.append(0, np.cumsum(ploidy, dtype=np.int64))


def present(ploidy: np.ndarray) -> np.ndarray:
    """(2 samples,) bool: which of two columns a sample are haplotypes: of a haploid sample the first alone."""
    return np.stack([np.ones(len(ploidy), np.bool_), ploidy == 2], axis=1).ravel()


def same_ploidy(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Whether the same samples are haploid in both."""
    return np.array_equal(a, b) if a is not None and b is not None else a is b


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
        return self._n_alt

    @cached_property
    def _n_alt(self) -> np.ndarray:
        counts = np.fromiter((0 if a == "." else a.count(",") + 1 for a in self.alt), np.int64, len(self))
        counts.flags.writeable = False
        return counts


@dataclass(frozen=True)
class Haplotypes:
    """Phased reference haplotypes at consecutive sites of one contig, one bit per haplotype and row.

    bits: (r, ceil(k/8)) uint8, bit ``j % 8`` (least significant first) of byte ``j // 8`` is 1 where
    haplotype j carries the row's ALT allele; bits beyond k are 0. ploidy: of the panel's samples.
    """

    sites: Sites
    bits: np.ndarray
    k: int
    ploidy: np.ndarray | None = None

    @staticmethod
    def of_pairs(sites: Sites, bits: np.ndarray, ploidy: np.ndarray | None, samples: int) -> Haplotypes:
        """From bits with two columns a sample, the second of haploid ones unused."""
        if ploidy is None or (ploidy == 2).all():
            return Haplotypes(sites, bits, 2 * samples)
        pairs = np.unpackbits(bits, axis=1, count=2 * samples, bitorder="little")
        packed = np.packbits(pairs.compress(present(ploidy), axis=1), axis=1, bitorder="little")
        return Haplotypes(sites, packed, int(ploidy.sum()), ploidy)

    def pairs(self) -> np.ndarray:
        """(r, ceil(samples/4)) uint8: the bits with two columns a sample, the second of haploid ones 0."""
        if self.ploidy is None:
            return self.bits
        pairs = np.zeros((len(self.bits), 2 * len(self.ploidy)), np.uint8)
        pairs[:, present(self.ploidy)] = self.alleles(slice(None))
        return np.packbits(pairs, axis=1, bitorder="little")

    @property
    def people(self) -> int:
        """How many samples the haplotypes belong to."""
        return self.k // 2 if self.ploidy is None else len(self.ploidy)

    def haplotypes_of(self, people: np.ndarray) -> np.ndarray:
        """(h,) int64: the haplotypes of ``people`` (int64), in their order."""
        first = first_haplotypes(self.ploidy, self.k)
        pairs = np.stack([first[people], first[people + 1] - 1], axis=1)
        return pairs.ravel()[np.stack([np.ones(len(people), np.bool_), pairs[:, 0] < pairs[:, 1]], axis=1).ravel()]

    @staticmethod
    def concat(parts: list[Haplotypes]) -> Haplotypes:
        """One Haplotypes out of several with the same samples and ploidy (at least one)."""
        sites = Sites.concat([part.sites for part in parts])
        return replace(parts[0], sites=sites, bits=np.concatenate([part.bits for part in parts]))

    def slice(self, start: int, stop: int) -> Haplotypes:
        """Sites start..stop-1, their bits copied."""
        rows = self.row_start()
        bits = self.bits[rows[start] : rows[stop]].copy()
        return replace(self, sites=self.sites.slice(start, stop), bits=bits)

    def row_start(self) -> np.ndarray:
        """(s+1,) int64: rows row_start[i]:row_start[i+1] belong to site i."""
        return np.concatenate([[0], np.cumsum(self.sites.n_alt())])

    def alleles(self, rows: slice | np.ndarray, haplotypes: np.ndarray | None = None) -> np.ndarray:
        """(rows, k) uint8: 1 where a haplotype carries the row's ALT allele. haplotypes: (h,) int64, of these alone."""
        if haplotypes is not None:
            rows = rows if isinstance(rows, slice) else rows[:, None]
            return self.bits[rows, haplotypes >> 3] >> (haplotypes & 7).astype(np.uint8) & 1
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

    alleles: (s, n) int8 codes into REF, ALT of the same file, -1 missing. unphased: (s, samples) bool, heterozygotes
    whose phase is not known; None where it always is. As they are read, before ``panel.ploidy`` has looked at them,
    all have two columns a sample, the second ABSENT in haploid calls.
    """

    sites: Sites
    alleles: np.ndarray
    samples: tuple[str, ...]
    unphased: np.ndarray | None = None
    ploidy: np.ndarray | None = None

    def slice(self, start: int, stop: int) -> Targets:
        """Sites start..stop-1."""
        marks = None if self.unphased is None else self.unphased[start:stop]
        return Targets(self.sites.slice(start, stop), self.alleles[start:stop], self.samples, marks, self.ploidy)


@dataclass(frozen=True)
class Dosages:
    """What is written: ALT probabilities at consecutive sites of one contig, and what they are worth.

    p: (r, n) float32, probability that haplotype j carries the row's ALT allele; NaN is missing.
    typed, imputed: (s,) bool, the site was in the target; the site's values were (also) imputed.
    af, dr2, er2, expected_r2: (r,) float32, NaN where undefined (er2 at untyped sites); expected_r2 at typed sites is
    that of the leave-one-out probabilities, whose r2 is er2. n_hap: (r,) int64, sum_p, sum_pq, sum_ppq, sum_pppq: (r,)
    float64: over the p that are not missing their count, and with q = 1 - p the sums of p, pq, ppq and pppq, from which
    AF, DR2, INFO and expected_r2 follow and which add up over batches of samples. ploidy: of the samples.
    """

    sites: Sites
    p: np.ndarray
    typed: np.ndarray
    imputed: np.ndarray
    af: np.ndarray
    dr2: np.ndarray
    er2: np.ndarray
    expected_r2: np.ndarray
    n_hap: np.ndarray
    sum_p: np.ndarray
    sum_pq: np.ndarray
    sum_ppq: np.ndarray
    sum_pppq: np.ndarray
    ploidy: np.ndarray | None = None

    def take(self, sites: np.ndarray | slice, rows: np.ndarray | slice, taken: Sites) -> Dosages:
        """The ``sites`` and their ``rows``; ``taken``: those sites."""
        by_row = {name: getattr(self, name)[rows] for name in ("p", *ROW_VALUES)}
        return replace(self, sites=taken, typed=self.typed[sites], imputed=self.imputed[sites], **by_row)


ROW_VALUES = ("af", "dr2", "er2", "expected_r2", "n_hap", "sum_p", "sum_pq", "sum_ppq", "sum_pppq")
"""The values of Dosages that a row has one of."""
