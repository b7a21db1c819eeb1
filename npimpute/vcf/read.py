"""Read reference panels chunk by chunk, and target files whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from npimpute.errors import InputError
from npimpute.types import Haplotypes, Sites, Targets
from npimpute.vcf.records import Part, RecordOrder, Selection
from npimpute.vcf.region import Region
from npimpute.vcf.source import Source, open_source
from npimpute.vcf.text import text_parts

log = logging.getLogger(__name__)

_MOST_THREADS = 64  # htslib refuses thousands, and text pieces are held in memory for each


def open_panel_vcf(
    path: Path | str,
    region: Region | None = None,
    keep_samples: set[str] | None = None,
    drop_samples: set[str] | None = None,
    threads: int = 1,
) -> PanelReader:
    """Open a phased reference panel: VCF, plain or compressed, or BCF.

    region: give only records whose POS is in it. The file is read from its start to the region's end (an index is
    not used, so that damage is seen): more than 1 GB of inflated data a second on two cores. keep_samples,
    drop_samples: restrict the samples; faults in the genotypes of the others do not count.
    Raises InputError when the file cannot be opened, is truncated, or lacks one of the samples.
    """
    source = open_source(Path(path))
    selection = Selection.of(source.path, source.samples, keep_samples, drop_samples)
    return PanelReader(source, selection, region, threads)


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
        for part in _sound_parts(self._source, self._selection, self._region, self._threads, target=False):
            self.n_skipped_monomorphic += part.n_monomorphic
            if len(part.data.sites):
                yield part.data
        if self.n_skipped_monomorphic:
            log.info("%s: %d records without an ALT allele passed over", self.path, self.n_skipped_monomorphic)


@dataclass(frozen=True)
class TargetFile:
    """A target file in memory. contigs: (name, length or None) from the header; by_contig: in file order."""

    path: Path
    samples: tuple[str, ...]
    contigs: list[tuple[str, int | None]]
    by_contig: dict[str, Targets]


def read_targets(
    path: Path | str, region: Region | None = None, threads: int = 1, unphased: bool = False
) -> TargetFile:
    """Read target genotypes: VCF, plain or compressed, or BCF.

    unphased: heterozygotes may lack their phase, and are marked. Missing and half-missing calls become -1. A homozygote
    need not be marked as phased. Records with ALT "." are kept. Raises InputError when the file cannot be read or is
    truncated, and at the first record that is out of order, comes twice, or has a call that is not diploid or, unless
    ``unphased``, a heterozygote without phase.
    """
    source = open_source(Path(path))
    selection = replace(Selection.of(source.path, source.samples, None, None), unphased=unphased)
    found: dict[str, list[Targets]] = {}
    for part in _sound_parts(source, selection, region, threads, target=True):
        if len(part.data.sites):
            found.setdefault(part.contig, []).append(part.data)
    by_contig = {contig: _joined(parts) for contig, parts in found.items()}
    return TargetFile(source.path, source.samples, source.contigs, by_contig)


def _joined(parts: list[Targets]) -> Targets:
    """One contig's targets from its consecutive parts."""
    sites = Sites.concat([part.sites for part in parts])
    marks = [part.unphased for part in parts]
    if all(mark is None for mark in marks):
        marked = None
    else:
        none = (np.zeros((len(part.sites), len(part.samples)), np.bool_) for part in parts)
        marked = np.concatenate([no if mark is None else mark for mark, no in zip(marks, none, strict=True)])
    return Targets(sites, np.concatenate([part.alleles for part in parts]), parts[0].samples, marked)


def _sound_parts(
    source: Source, selection: Selection, region: Region | None, threads: int, target: bool
) -> Iterator[Part]:
    """The file's parts in order, up to the region's end. Raises InputError at the first record that is unfit."""
    order = RecordOrder(source.path)
    for part in _parts(source, selection, region, max(1, min(threads, _MOST_THREADS)), target):
        order.advance(part.contig, part.all_pos)
        order.distinct(part.data.sites)
        if part.error is not None:
            raise part.error
        yield part
        if _is_past(part, region, order):
            return
    _check_contigs(source, region, order)


def _parts(source: Source, selection: Selection, region: Region | None, threads: int, target: bool) -> Iterator[Part]:
    if not source.bcf:
        return text_parts(source, selection, region, threads, target)
    # Not imported above: cyvcf2 takes 0.1 s to load, and text does without it.
    from npimpute.vcf.htslib import hts_parts, hts_target_parts

    return (hts_target_parts if target else hts_parts)(source, selection, region, threads)


def _is_past(part: Part, region: Region | None, order: RecordOrder) -> bool:
    """Whether no later record of a sorted file can be in the region."""
    if region is None:
        return False
    if not region.has_contig(part.contig):
        return any(region.has_contig(contig) for contig in order.contigs)
    return region.end is not None and len(part.all_pos) > 0 and part.all_pos[-1] > region.end


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
