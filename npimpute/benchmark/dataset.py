"""One comparison's data: a panel, people who are not in it typed as by an array, and the truth at all other rows.

Axes: r compared rows (one per ALT allele), N people.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from ..outputs import file_errors
from ..panel.genetic_map import GeneticMap
from ..panel.panel import Panel, all_diploid, open_panel
from ..types import Haplotypes, Sites
from ..vcf.phased import write_phased
from ..vcf.records import clip
from ..vcf.region import Region
from .arrays import Array, PanelRows
from .files import write_maps
from .genotypes import GenotypeFile, Key, is_snp

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """What the targets carry. samples: N. wanted: key -> row. copies: (r, N) int8, -1 missing. maf: (r,) float64 and
    alt_major: (r,) bool, in the panel. snp: (r,) bool."""

    samples: tuple[str, ...]
    wanted: dict[Key, int]
    copies: np.ndarray
    maf: np.ndarray
    alt_major: np.ndarray
    snp: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """panel, chip: VCF.gz files with indexes. maps: as ``write_maps`` writes them, or None. haplotypes: of the panel.
    typed: array sites. contigs: name, first and last position in the panel."""

    folder: Path
    panel: Path
    chip: Path
    maps: tuple[Path, Path] | None
    haplotypes: int
    typed: int
    contigs: list[tuple[str, int, int]]
    truth: Truth


@dataclass(frozen=True)
class Cast:
    """Who plays what. panel: file; keep: its people to use, None for all. truth: a file whose people are the targets,
    or None: then ``targets``, people of the panel's file who are left out of it."""

    panel: Path
    keep: frozenset[str] | None = None
    truth: Path | None = None
    targets: frozenset[str] = frozenset()


def make_dataset(
    folder: Path, cast: Cast, array: Array, genetic_map: GeneticMap | None, region: Region | None, threads: int
) -> Dataset:
    """Writes the files that the programs get, where they are not there already, and reads the truth.

    Raises InputError: several contigs, targets who are in the panel, no array site in the panel or the truth, a typed
    heterozygote without phase, no row to compare.
    """
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    drop = set(cast.targets) or None
    keep = None if cast.keep is None else set(cast.keep)
    panel = open_panel(cast.panel, region, keep, drop, threads)
    source = None
    if cast.truth is not None:
        source = GenotypeFile(cast.truth, threads)
        _check_apart(cast.truth, source.samples, panel)
    rows, file = _survey(folder, panel, as_it_is=region is None and keep is None and drop is None, threads=threads)
    if len(rows.contigs) > 1:  # some peers impute one at a time
        names = clip(", ".join(rows.contigs.values()), 60)
        raise InputError(f"{cast.panel}: has several contigs ({names}); benchmark one at a time with --region")
    typed = {rows.keys[i]: i for i in array(rows)}
    people = open_panel(cast.panel, region, drop, None, threads) if source is None else None
    truth_rows = _of_panel(people) if people is not None else source.copies(source.samples)
    samples = people.samples if people is not None else source.samples
    truth, chip_parts = _read_truth(cast, truth_rows, samples, rows, typed)
    chip = folder / "chip.vcf.gz"
    if not chip.exists():
        write_phased(chip, samples, panel.contigs or [(n, None) for n in rows.contigs.values()], chip_parts, threads)
    names = list(rows.contigs.values())
    maps = write_maps(folder, genetic_map, names) if genetic_map is not None else None
    spans = [(name, *_span(rows, key)) for key, name in rows.contigs.items()]
    return Dataset(folder, file, chip, maps, panel.k, sum(len(s) for s, *_ in chip_parts), spans, truth)


def _check_apart(path: Path, samples: tuple[str, ...], panel: Panel) -> None:
    shared = sorted(set(samples) & set(panel.samples))
    if shared:
        names = ", ".join(shared[:5]) + (" ..." if len(shared) > 5 else "")
        raise InputError(
            f"{path}: {len(shared)} of its {len(samples)} samples are in the panel {panel.path} ({names}), which would "
            "know the answers; take them out of one of the two (bcftools view -S ^FILE)"
        )


def _survey(folder: Path, panel: Panel, as_it_is: bool, threads: int) -> tuple[PanelRows, Path]:
    """What rows the panel has, and a VCF.gz of it: its own file where that is one, with an index, and
    nothing is left out of it."""
    keys: list[Key] = []
    alone, counts, contigs = [], [], {}

    def seen(chunks) -> Iterator[tuple[Sites, np.ndarray]]:
        for chunk in chunks:
            n_alt = chunk.sites.n_alt()
            contig = contig_key(chunk.sites.contig)
            contigs.setdefault(contig, chunk.sites.contig)
            sites = zip(chunk.sites.pos.tolist(), chunk.sites.ref, chunk.sites.alt, strict=True)
            keys.extend((contig, pos, ref.upper(), a.upper()) for pos, ref, alt in sites for a in alt.split(","))
            alone.append(np.repeat(n_alt == 1, n_alt))
            counts.append(chunk.counts())
            yield chunk

    indexed = any(Path(f"{panel.path}{suffix}").exists() for suffix in (".tbi", ".csi"))
    as_it_is = as_it_is and indexed and panel.path.name.endswith(".vcf.gz")
    path = panel.path if as_it_is else folder / "panel.vcf.gz"
    chunks = seen(all_diploid(panel))
    if not as_it_is and not path.exists():
        parts = ((chunk.sites, chunk.codes(np.arange(len(chunk.sites))), None) for chunk in chunks)
        write_phased(path, panel.samples, _contigs(panel), parts, threads)
    for _ in chunks:
        pass
    if not keys:
        raise InputError(f"{panel.path}: no record; check --region")
    return PanelRows(keys, np.concatenate(alone), np.concatenate(counts), panel.k, contigs), path


def _contigs(panel: Panel) -> list[tuple[str, int | None]]:
    return panel.contigs or [(chunk.sites.contig, None) for chunk in panel][:1]


def _span(rows: PanelRows, contig: str) -> tuple[int, int]:
    pos = [key[1] for key in rows.keys if key[0] == contig]
    return pos[0], pos[-1]


def _of_panel(panel: Panel) -> Iterator[tuple[Key, np.ndarray, np.ndarray | None, str]]:
    """As ``GenotypeFile.copies``, of a panel's people."""
    for chunk in all_diploid(panel):
        yield from _of_chunk(chunk)


def _of_chunk(chunk: Haplotypes) -> Iterator[tuple[Key, np.ndarray, np.ndarray | None, str]]:
    contig, starts = contig_key(chunk.sites.contig), chunk.row_start()
    alleles, codes = chunk.alleles(slice(None)).astype(np.int8), chunk.codes(np.arange(len(chunk.sites)))
    for i in range(len(chunk.sites)):
        pair = np.ones((chunk.k // 2, 3), np.int16)
        pair[:, :2] = codes[i].reshape(-1, 2)
        for a, alt in enumerate(chunk.sites.alt[i].upper().split(",")):
            row = alleles[starts[i] + a]
            key = (contig, int(chunk.sites.pos[i]), chunk.sites.ref[i].upper(), alt)
            yield key, row[0::2] + row[1::2], pair if a == 0 else None, chunk.sites.ids[i]


def _read_truth(cast: Cast, found, samples: tuple[str, ...], rows: PanelRows, typed: dict[Key, int]):
    """The truth, and the chip's records, contig by contig, as ``write_phased`` takes them."""
    place = {key: i for i, key in enumerate(rows.keys)}
    wanted: dict[Key, int] = {}
    copies, at, chip = [], [], {}
    missing = 0
    path = cast.truth or cast.panel
    for key, row, codes, name in found:
        i = place.get(key)
        if i is None or key in wanted or key in chip:
            continue
        if key in typed:
            if codes is None or not np.isin(codes[:, :2], (0, 1)).all():
                missing += 1
                continue
            _check_phase(path, key, codes, samples)
            chip[key] = (name, codes[:, :2].reshape(-1).astype(np.int8))
        else:
            wanted[key] = len(copies)
            copies.append(row)
            at.append(i)
    if missing:
        log.warning("%d array sites have missing genotypes or other alleles in %s: not typed", missing, path)
    if not chip:
        raise InputError(f"{path}: none of the {len(typed)} array sites that the panel has is in it, without missing "
                         "genotypes; check that both use the same genome build")  # fmt: skip
    if not copies:
        raise InputError(f"{path}: no site beside the array's is in the panel; there is nothing to compare")
    at = np.array(at)
    alt_major = rows.count[at] * 2 > rows.k
    snp = np.array([is_snp(rows.keys[i]) for i in at])
    truth = Truth(samples, wanted, np.stack(copies), rows.maf[at], alt_major, snp)
    return truth, _chip_parts(chip, typed, rows)


def _check_phase(path: Path, key: Key, codes: np.ndarray, samples: tuple[str, ...]) -> None:
    unphased = np.flatnonzero((codes[:, 0] != codes[:, 1]) & (codes[:, 2] == 0))
    if len(unphased):
        raise InputError(
            f"{path}: {key[0]}:{key[1]}, sample {samples[unphased[0]]}: a heterozygote without phase at an array site; "
            "phase the truth first"
        )


def _chip_parts(chip: dict, typed: dict[Key, int], rows: PanelRows) -> list[tuple[Sites, np.ndarray, None]]:
    parts = []
    for contig, name in rows.contigs.items():
        keys = sorted((key for key in chip if key[0] == contig), key=typed.__getitem__)
        if keys:
            pos, ref, alt = (np.array([k[1] for k in keys]), [k[2] for k in keys], [k[3] for k in keys])
            sites = Sites(name, pos, [chip[k][0] for k in keys], ref, alt)
            parts.append((sites, np.stack([chip[k][1] for k in keys]), None))
    return parts
