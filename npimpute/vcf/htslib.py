"""Records of BCF through cyvcf2 (htslib).

Files are read from the start even when a region is wanted and there is an index: on the way through an index cyvcf2
ends at damage as if the records ended there. VCF text is not read this way: cyvcf2 crashes on a blank line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cyvcf2 import VCF, Variant
from cyvcf2.cyvcf2 import set_htslib_log_level

from npimpute.errors import InputError
from npimpute.types import Haplotypes, Sites, Targets
from npimpute.vcf import parse, target_calls
from npimpute.vcf.records import Part, Selection, clip, genotype_error, no_genotypes, too_many_alleles
from npimpute.vcf.region import Region
from npimpute.vcf.sound import sound_records
from npimpute.vcf.source import PIECE, Source

if "CYVCF2_HTSLIB_LOG_LEVEL" not in os.environ:
    # htslib writes to stderr by itself; what matters of it is raised here as an InputError.
    set_htslib_log_level(0)


def variants(path: Path, threads: int) -> Iterator[Variant]:
    """The records of a file in file order. Raises InputError where htslib cannot go on.

    htslib verifies the checksums of what it inflates.
    """
    last = None
    try:
        file = VCF(str(path), threads=threads)
        records, sound = iter(file), sound_records(path, threads, lambda names: _declare(file, names))
        while next(sound, True):
            if (record := next(records, None)) is None:
                return
            last = f"{record.CHROM}:{record.POS}"
            _ = record.ID, record.REF, record.ALT  # here, where text that is none is told of
            yield record
        raise ValueError(
            "the next record has another number of columns or samples than the header, or genotypes of no type"
        )
    except InputError:
        raise
    except Exception as error:
        found = " ".join(str(error).split())
        if last is None:
            raise InputError(f"{path}: cannot be read as VCF or BCF ({found})") from None
        raise InputError(
            f"{path}: cannot be read past {last} ({found}); the file is damaged or truncated: make it again"
        ) from None


def _declare(file: VCF, contigs: set[str]) -> None:
    """Adds ``contigs`` to the header as it was read. Of one that is not there cyvcf2 takes even a record that htslib
    could not read. Raises ValueError where a name can be none."""
    for name in sorted(contigs - _contigs(file)):
        file.add_to_header(f"##contig=<ID={name}>")
    if unfit := sorted(contigs - _contigs(file)):
        raise ValueError(f"{clip(unfit[0])!r} is no name of a contig")


def _contigs(file: VCF) -> set[str]:
    return set(re.findall("^##contig=<(?:.*,)?ID=([^,>]+)", file.raw_header, re.MULTILINE))


def hts_target_parts(source: Source, selection: Selection, region: Region | None, threads: int) -> Iterator[Part]:
    """The target records of ``source`` in file order, one in each part, as ``text_parts`` gives them."""
    samples = selection.samples
    for record in variants(source.path, threads):
        alleles = np.empty((1 if in_region(record, region) else 0, selection.k), np.int8)
        unphased = np.zeros((len(alleles), len(samples) if selection.unphased else 0), np.bool_)
        error = _target_row(record, selection, alleles[0], unphased[0]) if len(alleles) else None
        n = 0 if error else len(alleles)
        marked = unphased[:n] if unphased.any() else None
        site = (record.POS, record.ID or ".", record.REF, ",".join(record.ALT) or ".")
        sites = Sites(record.CHROM, np.array(site[:1] * n, np.int64), *([name] * n for name in site[1:]))
        yield Part(record.CHROM, np.array(site[:1], np.int64), Targets(sites, alleles[:n], samples, marked), 0, error)
        if error is not None:
            return


def _target_row(record: Variant, selection: Selection, row: np.ndarray, unphased: np.ndarray) -> InputError | None:
    """Read the record's alleles to ``row``, and which are heterozygotes without phase to ``unphased``; returns what
    makes it unfit, if anything does."""
    where = f"{record.CHROM}:{record.POS}"
    codes = genotype_codes(record, selection)
    if isinstance(codes, InputError):
        return codes
    n_alt = len(record.ALT)
    if n_alt > target_calls.MOST_ALT:
        return too_many_alleles(selection.path, where, n_alt)
    fault, sample = target_calls.target_codes(codes, n_alt + 1, row, unphased)
    if fault == parse.OK:
        return None
    return genotype_error(selection.path, where, selection.samples[sample], written(codes[sample]), fault, target=True)


def hts_parts(source: Source, selection: Selection, region: Region | None, threads: int) -> Iterator[Part]:
    """The panel records of ``source`` in file order, as ``text_parts`` gives them."""
    capacity = max(1, PIECE // (4 * len(selection.samples)))
    batch = None
    for record in variants(source.path, threads):
        if batch is None or batch.contig != record.CHROM or not batch.has_room(record):
            if batch is not None:
                yield batch.part()
            batch = _Batch(record.CHROM, selection, max(capacity, len(record.ALT)))
        found = batch.add(record, region)
        if found is CHANGED:
            yield batch.part()
            batch = _Batch(record.CHROM, selection, max(capacity, len(record.ALT)))
            found = batch.add(record, region)
        if found is not None:
            yield batch.part(found)
            return
    if batch is not None:
        yield batch.part()


CHANGED = object()


class _Batch:
    """Records of one contig, with the same samples haploid, as they come in, up to ``capacity`` rows."""

    def __init__(self, contig: str, selection: Selection, capacity: int):
        self.contig = contig
        self._selection = selection
        self._capacity = capacity
        self._bits = np.empty((min(capacity, 1024), selection.row_bytes), np.uint8)
        self._rows = 0
        self._ploidy = np.zeros(len(selection.chosen), np.int8)
        self._all_pos: list[int] = []
        self._sites: list[tuple[int, str, str, str]] = []
        self._n_monomorphic = 0

    def has_room(self, record: Variant) -> bool:
        return len(self._all_pos) < self._capacity and self._rows + len(record.ALT) <= self._capacity

    def add(self, record: Variant, region: Region | None) -> InputError | object | None:
        """Take ``record`` in; returns what makes it unfit, if anything does, or CHANGED where others are haploid."""
        self._all_pos.append(record.POS)
        if not in_region(record, region):
            return None
        alt = record.ALT
        if not alt:
            self._n_monomorphic += 1
            return None
        stop = self._rows + len(alt)
        if stop > len(self._bits):
            self._bits = np.concatenate(
                [self._bits, np.empty((max(stop, len(self._bits)), self._bits.shape[1]), np.uint8)]
            )
        codes = genotype_codes(record, self._selection)
        if isinstance(codes, InputError):
            return codes
        rows = self._bits[self._rows : stop]
        fault, sample = parse.pack_codes(codes, len(alt) + 1, self._selection.slots, self._ploidy, rows)
        if fault == parse.CHANGED:
            self._all_pos.pop()
            return CHANGED
        if fault != parse.OK:
            where = f"{record.CHROM}:{record.POS}"
            name = self._selection.samples[sample]
            return genotype_error(self._selection.path, where, name, written(codes[sample]), fault)
        self._rows = stop
        self._sites.append((record.POS, record.ID or ".", record.REF, ",".join(alt)))
        return None

    def part(self, error: InputError | None = None) -> Part:
        """All that was taken in."""
        pos, ids, ref, alt = (
            (list(column) for column in zip(*self._sites, strict=True)) if self._sites else ([], [], [], [])
        )
        sites = Sites(self.contig, np.array(pos, np.int64), ids, ref, alt)
        ploidy = self._ploidy if len(pos) else None
        haplotypes = Haplotypes.of_pairs(sites, self._bits[: self._rows].copy(), ploidy, len(self._ploidy))
        return Part(self.contig, np.array(self._all_pos, np.int64), haplotypes, self._n_monomorphic, error)


def in_region(record: Variant, region: Region | None) -> bool:
    """Whether the record's POS is in ``region``."""
    if region is None:
        return True
    inside = region.start <= record.POS and (region.end is None or region.end >= record.POS)
    return inside and region.has_contig(record.CHROM)


def genotype_codes(record: Variant, selection: Selection) -> np.ndarray | InputError:
    """(samples, ploidy + 1) int16 allele codes, as ``parse.pack_codes`` takes them; the error if there is none."""
    if record.FORMAT[:1] != ["GT"]:
        return no_genotypes(selection.path, f"{record.CHROM}:{record.POS}", record.FORMAT)
    genotype = record.genotype
    codes = None if genotype is None else genotype.array()
    if codes is None or len(codes) != len(selection.samples):
        found = "genotypes of another number of samples than the header's"
        where = f"{record.CHROM}:{record.POS}"
        return InputError(f"{selection.path}: {where}: {found}; the file is damaged: make it again")
    return codes


def written(codes: np.ndarray) -> str:
    """One sample's allele codes as VCF text."""
    alleles = ["." if code == -1 else str(code) for code in codes[:-1] if code != -2]
    return ("|" if codes[-1] else "/").join(alleles)
