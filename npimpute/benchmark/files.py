"""The files that every program is given: phased genotypes as VCF.gz with an index, and genetic maps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from ..outputs import file_errors, temporary
from ..panel.genetic_map import GeneticMap
from ..types import Haplotypes, Sites
from ..vcf.bgzf import BgzfWriter


def allele_codes(chunk: Haplotypes) -> np.ndarray:
    """(s, k) int8: the allele of each haplotype at each site, 0 REF, 1 the first ALT, ..."""
    starts = chunk.row_start()
    alleles = chunk.alleles(slice(None)).astype(np.int8)
    first = starts[:-1]
    codes = alleles[first]
    for site in np.flatnonzero(np.diff(starts) > 1):
        for allele in range(1, starts[site + 1] - first[site]):
            codes[site] += alleles[first[site] + allele] * np.int8(allele + 1)
    return codes


def write_phased(
    path: Path,
    samples: tuple[str, ...],
    contigs: list[tuple[str, int | None]],
    parts: Iterable[tuple[Sites, np.ndarray]],
    threads: int = 1,
) -> None:
    """Writes VCF.gz with an index, under a temporary name until complete. parts: sites and codes (s, 2N) int8, all
    known. Raises InputError where it cannot be written."""
    import pysam

    lines = ["##fileformat=VCFv4.2", '##FILTER=<ID=PASS,Description="All filters passed">']
    lines += [f"##contig=<ID={name}>" if n is None else f"##contig=<ID={name},length={n}>" for name, n in contigs]
    lines.append('##INFO=<ID=AC,Number=A,Type=Integer,Description="Allele count">')
    lines.append('##INFO=<ID=AN,Number=1,Type=Integer,Description="Number of alleles">')
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]
    temp = temporary(path)
    try:
        with file_errors(path):
            out = BgzfWriter(temp, threads)
            out.write(("\n".join([*lines, "\t".join(columns)]) + "\n").encode())
            for sites, codes in parts:
                out.write(_records(sites, codes))
            out.close()
            pysam.tabix_index(str(temp), preset="vcf", force=True, csi=True)
            os.replace(f"{temp}.csi", f"{path}.csi")
            os.replace(temp, path)
    finally:
        for left in (temp, Path(f"{temp}.csi")):
            left.unlink(missing_ok=True)


def _records(sites: Sites, codes: np.ndarray) -> bytes:
    single = np.empty((*codes.shape, 2), np.uint8)
    single[..., 0] = codes + ord("0")
    single[:, 0::2, 1], single[:, 1::2, 1] = ord("|"), ord("\t")
    single[:, -1, 1] = ord("\n")
    out = []
    for i, row in enumerate(codes):
        counts = np.bincount(row, minlength=sites.alt[i].count(",") + 2)[1:].tolist()
        info = f"AC={','.join(map(str, counts))};AN={len(row)}"  # IMPUTE5 wants them
        site = (sites.contig, str(sites.pos[i]), sites.ids[i], sites.ref[i], sites.alt[i], ".", "PASS", info, "GT", "")
        out.append("\t".join(site).encode())
        if row.max(initial=0) < 10:
            out.append(single[i].tobytes())
        else:
            calls = (f"{a}|{b}" for a, b in row.reshape(-1, 2).tolist())
            out.append(("\t".join(calls) + "\n").encode())
    return b"".join(out)


def write_maps(folder: Path, genetic_map: GeneticMap, contigs: list[str]) -> tuple[Path, Path]:
    """The map as Beagle and Minimac4 read it (chrom id cM bp) and as IMPUTE5 does (pos chr cM), contigs named as in
    the panel. Raises InputError where the map lacks a contig."""
    plink, gmap = folder / "map.plink.txt", folder / "map.gmap.txt"
    points = []
    for contig in contigs:
        genetic_map.to_cm(contig, np.array([1]))  # refuses a contig that it lacks
        bp, cm = genetic_map.points[contig_key(contig)]
        points += [(contig, int(b), float(c)) for b, c in zip(bp, cm, strict=True)]
    with file_errors(plink):
        plink.write_text("".join(f"{contig} . {cm:.8g} {bp}\n" for contig, bp, cm in points))
        gmap.write_text("pos\tchr\tcM\n" + "".join(f"{bp}\t{contig}\t{cm:.8g}\n" for contig, bp, cm in points))
    return plink, gmap


def read_populations(path: Path) -> dict[str, str]:
    """Sample -> population, from the first two columns of a table, blank- or tab-separated; a first line whose first
    word is sample, id or IID (any case, # in front) is a header. Raises InputError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of samples and populations ({error})") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("\t") if "\t" in line else line.split()
        if not words or (number == 1 and words[0].lstrip("#").lower() in ("sample", "id", "iid")):
            continue
        if len(words) < 2:
            raise InputError(f"{path}, line {number}: one column; write a sample and its population")
        if found.setdefault(words[0], words[1].strip()) != words[1].strip():
            raise InputError(f"{path}, line {number}: sample {words[0]} has two populations; keep one of the lines")
    if not found:
        raise InputError(f"{path}: names no sample; write one a line, with its population")
    return found


def populations_of(path: Path, samples: Sequence[str]) -> list[str]:
    """The population of each of ``samples``. Raises InputError where the table lacks one."""
    found = read_populations(path)
    if lost := [name for name in samples if name not in found]:
        names = ", ".join(lost[:3]) + (" ..." if len(lost) > 3 else "")
        raise InputError(f"{path}: lacks {len(lost)} of {len(samples)} samples ({names})")
    return [found[name] for name in samples]
