"""Read reference panels chunk by chunk, and target files whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npimpute.errors import InputError
from npimpute.types import Haplotypes, Sites, Targets
from npimpute.vcf import parse
from npimpute.vcf.records import Part, RecordOrder, Selection, genotype_error
from npimpute.vcf.region import Region
from npimpute.vcf.source import Source, open_source
from npimpute.vcf.text import text_parts

_MOST_ALLELES = 127  # what int8 codes can tell apart


def open_panel_vcf(
    path: Path | str,
    region: Region | None = None,
    keep_samples: set[str] | None = None,
    drop_samples: set[str] | None = None,
    threads: int = 1,
) -> PanelReader:
    """Open a phased reference panel: VCF, plain or compressed, or BCF.

    region: read only records whose POS is in it, through the file's index if it has one. keep_samples,
    drop_samples: restrict the samples; faults in the genotypes of the others do not count.
    Raises InputError when the file cannot be opened, is truncated, or lacks one of the samples.
    """
    source = open_source(Path(path))
    selection = Selection.of(source.path, source.samples, keep_samples, drop_samples)
    return PanelReader(source, selection, region, max(1, threads))


class PanelReader:
    """A reference panel on disk; iterating reads it from the start.

    samples: those chosen, in file order. contigs: (name, length or None) from the header. k: haplotypes.
    n_skipped_monomorphic: records passed over in the latest iteration because their ALT is ".".
    """

    def __init__(self, source: Source, selection: Selection, region: Region | None, threads: int):
        self.path = source.path
        self.samples = tuple(source.samples[i] for i in selection.chosen)
        self.contigs = source.contigs
        self.k = selection.k
        self.n_skipped_monomorphic = 0
        self._source = source
        self._selection = selection
        self._region = region
        self._threads = threads

    def __iter__(self) -> Iterator[Haplotypes]:
        """Chunks of one contig each, in file order; their borders carry no meaning.

        Raises InputError at the first record that is out of order, comes twice, or whose genotypes are missing,
        unphased, not diploid or malformed; also when there is no record at all, or none on the region's contig.
        """
        self.n_skipped_monomorphic = 0
        order = RecordOrder(self.path)
        for part in self._parts():
            order.advance(part.contig, part.all_pos)
            order.distinct(part.haplotypes.sites)
            if part.error is not None:
                raise part.error
            self.n_skipped_monomorphic += part.n_monomorphic
            if len(part.haplotypes.sites):
                yield part.haplotypes
            if self._is_past(part, order):
                return
        _check_contigs(self._source, self._region, order)

    def _parts(self) -> Iterator[Part]:
        indexed = self._region is not None and self._source.index() is not None
        if not self._source.bcf and not indexed:
            return text_parts(self._source, self._selection, self._region, self._threads)
        # Not imported above: cyvcf2 takes 0.1 s to load, and text does without it.
        from npimpute.vcf.htslib import hts_parts

        return hts_parts(self._source, self._selection, self._region, self._threads)

    def _is_past(self, part: Part, order: RecordOrder) -> bool:
        """Whether no later record of a sorted file can be in the region."""
        region = self._region
        if region is None:
            return False
        if not region.has_contig(part.contig):
            return any(region.has_contig(contig) for contig in order.contigs)
        return region.end is not None and len(part.all_pos) > 0 and part.all_pos[-1] > region.end


@dataclass(frozen=True)
class TargetFile:
    """A target file in memory. contigs: (name, length or None) from the header; by_contig: in file order."""

    path: Path
    samples: tuple[str, ...]
    contigs: list[tuple[str, int | None]]
    by_contig: dict[str, Targets]


def read_targets(path: Path | str, region: Region | None = None, threads: int = 1) -> TargetFile:
    """Read phased target genotypes: VCF, plain or compressed, or BCF.

    Missing and half-missing calls become -1. A homozygote need not be marked as phased. Records with ALT "." are
    kept. Raises InputError when the file cannot be read or is truncated, and at the first record that is out of order,
    comes twice, or has a heterozygote without phase or a call that is not diploid.
    """
    from npimpute.vcf.htslib import in_region, variants

    source = open_source(Path(path))
    order = RecordOrder(source.path)
    found: dict[str, _TargetRecords] = {}
    for record in variants(source, region, max(1, threads)):
        order.advance(record.CHROM, np.array([record.POS]))
        if in_region(record, region):
            records = found.setdefault(record.CHROM, _TargetRecords(source))
            order.distinct(records.add(record))
    _check_contigs(source, region, order)
    by_contig = {contig: records.targets(contig) for contig, records in found.items()}
    return TargetFile(source.path, source.samples, source.contigs, by_contig)


class _TargetRecords:
    """The target records of one contig as they come in."""

    def __init__(self, source: Source):
        self._source = source
        self._sites: list[tuple[int, str, str, str]] = []
        self._alleles: list[np.ndarray] = []

    def add(self, record) -> Sites:
        """Take a cyvcf2 ``record`` in; returns it as a Sites of one. Raises InputError when it is unfit."""
        from npimpute.vcf.htslib import genotype_codes, written

        path, samples, where = self._source.path, self._source.samples, f"{record.CHROM}:{record.POS}"
        codes = genotype_codes(record, path)
        if isinstance(codes, InputError):
            raise codes
        alt = record.ALT
        if len(alt) >= _MOST_ALLELES:
            raise InputError(f"{path}: {where}: {len(alt)} ALT alleles are too many; leave the record out")
        alleles = np.empty(2 * len(samples), np.int8)
        fault, sample = parse.target_codes(codes, len(alt) + 1, alleles)
        if fault != parse.OK:
            raise genotype_error(path, where, samples[sample], written(codes[sample]), fault, target=True)
        self._alleles.append(alleles)
        site = (record.POS, record.ID or ".", record.REF, ",".join(alt) or ".")
        self._sites.append(site)
        return Sites(record.CHROM, np.array(site[:1]), *([name] for name in site[1:]))

    def targets(self, contig: str) -> Targets:
        pos, ids, ref, alt = (list(column) for column in zip(*self._sites, strict=True))
        sites = Sites(contig, np.array(pos, np.int64), ids, ref, alt)
        return Targets(sites, np.stack(self._alleles), self._source.samples)


def _check_contigs(source: Source, region: Region | None, order: RecordOrder) -> None:
    """Raise InputError when the file has no records at all, or does not know the region's contig."""
    if region is None:
        if not order.contigs:
            raise InputError(f"{source.path}: the file has no records; check how it was made")
        return
    known = list(dict.fromkeys([name for name, _ in source.contigs] + order.contigs))
    if any(region.has_contig(name) for name in known):
        return
    some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
    raise InputError(f"{source.path}: no contig {region.contig} (the file has {some}); check --region")
