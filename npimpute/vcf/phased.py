"""Phased genotypes and nothing else to VCF or BCF."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from npimpute import __version__
from npimpute.types import Sites, first_haplotypes
from npimpute.vcf.lines import LineWriter


def write_phased(
    path: Path,
    samples: tuple[str, ...],
    contigs: list[tuple[str, int | None]],
    parts: Iterable[tuple[Sites, np.ndarray, np.ndarray | None]],
    threads: int = 1,
    overwrite: bool = False,
) -> None:
    """Writes .vcf.gz or .bcf with its index, or .vcf, under a temporary name until complete.

    contigs: name and length, of the header. parts: sites, codes (s, n) int8, all known, and ploidy, in file order.
    Raises InputError where it cannot be written, ConfigError for another kind of name.
    """
    longest = max((n or 0 for _, n in contigs), default=0)
    with LineWriter(path, _header(samples, contigs), longest, threads, overwrite) as out:
        for sites, codes, ploidy in parts:
            if len(sites):
                end = int(sites.pos[-1]) + max(map(len, sites.ref)) - 1
                out.write(_lines(sites, codes, first_haplotypes(ploidy, codes.shape[1])), end)


def _header(samples: tuple[str, ...], contigs: list[tuple[str, int | None]]) -> str:
    lines = ["##fileformat=VCFv4.2", f"##source=npimpute {__version__}"]
    lines.append('##FILTER=<ID=PASS,Description="All filters passed">')
    lines += [f"##contig=<ID={name}>" if n is None else f"##contig=<ID={name},length={n}>" for name, n in contigs]
    lines.append('##INFO=<ID=AC,Number=A,Type=Integer,Description="Allele count">')
    lines.append('##INFO=<ID=AN,Number=1,Type=Integer,Description="Number of alleles">')
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]
    return "\n".join([*lines, "\t".join(columns)]) + "\n"


def _lines(sites: Sites, codes: np.ndarray, first: np.ndarray) -> list[bytes]:
    single = np.empty((codes.shape[1], 2), np.uint8)
    single[:, 1] = ord("|")
    single[first[1:] - 1, 1] = ord("\t")
    out = []
    for i, row in enumerate(codes):
        counts = np.bincount(row, minlength=sites.alt[i].count(",") + 2)[1:].tolist()
        info = f"AC={','.join(map(str, counts))};AN={len(row)}"  # IMPUTE5 wants them
        site = (sites.contig, str(sites.pos[i]), sites.ids[i], sites.ref[i], sites.alt[i], ".", "PASS", info, "GT", "")
        if row.max(initial=0) < 10:
            single[:, 0] = row + ord("0")
            calls = single.tobytes()[:-1]
        else:
            calls = "\t".join("|".join(map(str, row[a:b])) for a, b in pairwise(first.tolist())).encode()
        out.append("\t".join(site).encode() + calls)
    return out
