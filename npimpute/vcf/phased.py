"""Phased genotypes and nothing else to VCF or BCF."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from npimpute import __version__
from npimpute.outputs import check_place, file_errors, temporary
from npimpute.types import Sites, first_haplotypes
from npimpute.vcf.bgzf import BgzfWriter
from npimpute.vcf.write import TBI_LIMIT, file_kind


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
    import pysam
    from pysam import bcftools

    kind = file_kind(path)
    check_place(path, overwrite)
    temp = temporary(path)
    text = temp if kind == ".vcf.gz" else temp.with_name(f"{temp.name}.vcf")
    index = ".csi" if kind == ".bcf" or max((n or 0 for _, n in contigs), default=0) > TBI_LIMIT else ".tbi"
    try:
        with file_errors(path), BgzfWriter(text, threads) if kind == ".vcf.gz" else open(text, "wb") as out:
            out.write(_header(samples, contigs))
            for sites, codes, ploidy in parts:
                out.write(_records(sites, codes, first_haplotypes(ploidy, codes.shape[1])))
        with file_errors(path):
            if kind == ".bcf":
                bcftools.view("--no-version", "-Ob", "-o", str(temp), str(text), catch_stdout=False)
            if kind != ".vcf":
                pysam.tabix_index(str(temp), preset=kind[1:4], force=True, keep_original=True, csi=index == ".csi")
                os.replace(f"{temp}{index}", f"{path}{index}")
            os.replace(text if kind == ".vcf" else temp, path)
    finally:
        for left in (temp, text, Path(f"{temp}{index}")):
            left.unlink(missing_ok=True)


def _header(samples: tuple[str, ...], contigs: list[tuple[str, int | None]]) -> bytes:
    lines = ["##fileformat=VCFv4.2", f"##source=npimpute {__version__}"]
    lines.append('##FILTER=<ID=PASS,Description="All filters passed">')
    lines += [f"##contig=<ID={name}>" if n is None else f"##contig=<ID={name},length={n}>" for name, n in contigs]
    lines.append('##INFO=<ID=AC,Number=A,Type=Integer,Description="Allele count">')
    lines.append('##INFO=<ID=AN,Number=1,Type=Integer,Description="Number of alleles">')
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples]
    return ("\n".join([*lines, "\t".join(columns)]) + "\n").encode()


def _records(sites: Sites, codes: np.ndarray, first: np.ndarray) -> bytes:
    single = np.empty((*codes.shape, 2), np.uint8)
    single[..., 0] = codes + ord("0")
    single[..., 1] = ord("|")
    single[:, first[1:] - 1, 1] = ord("\t")
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
            calls = ("|".join(map(str, row[a:b])) for a, b in pairwise(first.tolist()))
            out.append(("\t".join(calls) + "\n").encode())
    return b"".join(out)
