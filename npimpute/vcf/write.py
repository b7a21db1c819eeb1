"""Dosages to VCF.gz, BCF or plain VCF.

A file is written under a hidden temporary name beside its final one, indexed, and renamed when complete, so
that a run that fails or is killed leaves nothing that looks like a result. The bytes depend on the records
alone, not on how they were split over calls or on the number of threads.

What both formats share is rounded once: FORMAT values to 1/1000 (halves up), INFO values to what is printed.
BCF then stores the float32 nearest to the printed value.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np

from npimpute import __version__
from npimpute.errors import ConfigError, InputError
from npimpute.outputs import check_place, file_errors, temporary
from npimpute.types import Dosages, first_haplotypes
from npimpute.vcf import encode
from npimpute.vcf.bgzf import BLOCK, DEFAULT_LEVEL, EOF_BLOCK, BgzfWriter, compress_block
from npimpute.vcf.info import INFO_LINES, NUMBER, bcf_leads, rounded_info, text_leads
from npimpute.vcf.pieces import Pieces

# A .tbi cannot address positions beyond this.
TBI_LIMIT = 2**29

# Rendered at a time; a single record of very many samples may take more.
CHUNK_BYTES = 8 << 20

# Fields of one request: name -> (kernel's number, Number, Type, Description).
FORMAT_LINES = {
    "GT": (encode.GT, "1", "String", "Most probable phased genotype"),
    "DS": (encode.DS, "A", "Float", "ALT allele dosage: expected number of ALT copies"),
    "HDS": (encode.HDS, ".", "Float", "ALT probabilities of the first haplotype, then of the second"),
    "GP": (encode.GP, "G", "Float", "Genotype probabilities"),
    "AP1": (encode.AP1, "A", "Float", "ALT probability of the first haplotype"),
    "AP2": (encode.AP2, "A", "Float", "ALT probability of the second haplotype"),
}
FORMATS = ("GT", "DS", "HDS", "GP", "AP")


class VariantWriter:
    """Write records, in file order, with any number of `write` calls inside a `with` block.

    path: .vcf.gz and .bcf are indexed (.tbi, .csi), .vcf is not. contigs: (name, length in bp or None) in file
    order. formats: of FORMATS, in that order in the file, GT first; "AP" writes AP1 and AP2; without samples the file
    is sites only and they are not used. threads: workers that compress. pieces: a directory that keeps what is written
    until the file is complete, also where that is not reached, and the sizes of those it holds, which come first.

    Raises ConfigError for an unusable name or format list; InputError where the file exists (and not `overwrite`),
    its directory is missing or not writable, or the disk is full.
    """

    def __init__(
        self,
        path: Path,
        samples: tuple[str, ...],
        contigs: list[tuple[str, int | None]],
        formats: tuple[str, ...],
        threads: int = 1,
        overwrite: bool = False,
        pieces: tuple[Path, list[int]] | None = None,
    ) -> None:
        self._path, self._overwrite = Path(path), overwrite
        self._kind = file_kind(self._path)
        self._names = _format_names(formats) if samples else ()
        check_place(self._path, overwrite)
        self._temp = temporary(self._path)
        self._samples = tuple(samples)
        self._contigs = {name: number for number, (name, _) in enumerate(contigs)}
        self._header = _header_text(self._samples, contigs, self._names)
        self._fields = np.array([FORMAT_LINES[name][0] for name in self._names], np.int64)
        self._threads = threads
        self.last_position = max((length or 0 for _, length in contigs), default=0)
        self._out, self._kept, self._suffix = None, pieces, None

    def __enter__(self) -> Self:
        packed = self._kind != ".vcf"
        if self._kept is not None:
            self._out = Pieces(*self._kept, packed, self._threads)
            return self
        with file_errors(self._path):
            self._out = BgzfWriter(self._temp, self._threads) if packed else open(self._temp, "wb")
        try:
            self._put(self._head())
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, dosages: Dosages) -> None:
        """Append the records of `dosages`, whose haplotypes are those of `samples`, in their order."""
        first = first_haplotypes(dosages.ploidy if self._samples else None, dosages.p.shape[1])
        if len(first) != len(self._samples) + 1 or first[-1] != dosages.p.shape[1]:
            raise ValueError(f"{dosages.p.shape[1]} haplotypes for {len(self._samples)} samples")
        if not self.knows(dosages.sites.contig):
            raise ValueError(f"contig {dosages.sites.contig} is not among the writer's contigs")
        for part in _chunks(dosages, self._fields, len(self._samples)):
            self._put(self._render(part, first))
            self.reach(int(part.sites.pos[-1]) + max(map(len, part.sites.ref)) - 1)

    def knows(self, contig: str) -> bool:
        """Whether the header names it."""
        return contig in self._contigs

    def reach(self, position: int) -> None:
        """Notes that a record extends to ``position``."""
        self.last_position = max(self.last_position, position)

    def end_piece(self) -> list[int]:
        """What was written since the last such call is complete, and stays should the run be stopped; the sizes of all
        pieces."""
        self._out.end()
        return self._out.sizes

    def complete(self) -> None:
        """Nothing is written any more. All that may still fail for want of space is done, so that leaving the block
        only renames; without this call leaving it does both."""
        with file_errors(self._path):
            if self._kept is None:
                self._out.close()
            else:
                self._join()
            self._suffix = _build_index(self._temp, self._path, self.last_position)

    def __exit__(self, kind, value, trace) -> None:
        if kind is not None:
            return self._discard()
        try:
            if self._suffix is None:
                self.complete()
            with file_errors(self._path):
                _rename(self._temp, self._path, self._suffix, self._overwrite)
        except BaseException:
            self._discard()
            raise

    def _head(self) -> bytes:
        text = self._header.encode()
        return text if self._kind != ".bcf" else b"BCF\x02\x02" + struct.pack("<I", len(text) + 1) + text + b"\x00"

    def _join(self) -> None:
        """The whole file from its pieces."""
        head, packed = self._head(), self._kind != ".vcf"
        with open(self._temp, "wb") as out:
            for start in range(0, len(head), BLOCK):
                block = head[start : start + BLOCK]
                out.write(compress_block(block, DEFAULT_LEVEL) if packed else block)
            self._out.join(out)
            out.write(EOF_BLOCK if packed else b"")

    def _render(self, part: Dosages, first: np.ndarray) -> np.ndarray:
        """(b,) uint8: the records of one chunk."""
        n_alt = part.sites.n_alt()
        rows = np.concatenate([[0], np.cumsum(n_alt)])
        info = rounded_info(part)
        if self._kind == ".bcf":
            size = len(self._names) << 24 | len(self._samples)
            leads = bcf_leads(part, rows, info, self._contigs[part.sites.contig], size)
        else:
            leads = text_leads(part, rows, info, ":".join(self._names))
        lead = np.frombuffer(bytearray().join(leads), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, leads), np.int64, len(leads)))
        codes = np.empty(int(encode.sample_values(self._fields, n_alt).max()) * len(self._samples), np.int16)
        bound = encode.record_bounds(self._fields, n_alt, len(self._samples))
        out = np.empty(int(bound.sum()) + len(lead), np.uint8)
        p = np.ascontiguousarray(part.p, np.float32)
        if self._kind == ".bcf":
            keys = np.arange(len(self._names)) + len(NUMBER)
            used = encode.bcf_records(p, first, n_alt, self._fields, keys, lead, ends, _floats(), codes, out)
        else:
            plain = encode.plain_text(self._fields)
            used = encode.text_records(p, first, n_alt, self._fields, lead, ends, _texts(), plain, codes, out)
        return out[:used]

    def _put(self, data) -> None:
        with file_errors(self._path):
            self._out.write(data)

    def _discard(self) -> None:
        """Remove the temporary files."""
        # Closing flushes, which fails again where the disk is full.
        with contextlib.suppress(OSError):
            (self._out.abort if hasattr(self._out, "abort") else self._out.close)()
        discard(self._temp)


def publish(temp: Path, path: Path, last_position: int, overwrite: bool) -> None:
    """Index the finished file ``temp`` and give both their final names, after ``path``.

    last_position: the largest of the records and of the header's contig lengths. Raises InputError where ``path``
    exists by now (and not ``overwrite``) or the index cannot be built, OSError as the file system does.
    """
    _rename(temp, path, _build_index(temp, path, last_position), overwrite)


def _rename(temp: Path, path: Path, suffix: str, overwrite: bool) -> None:
    """Gives the file and its index, the suffix of which may be "", their final names."""
    check_place(path, overwrite)  # once more: another run may have finished meanwhile
    # In this order no moment pairs data with the index of another file, and data never waits for its index.
    for old in (".tbi", ".csi", ""):
        _with_suffix(path, old).unlink(missing_ok=True)
    if suffix:
        os.replace(_with_suffix(temp, suffix), _with_suffix(path, suffix))
    os.replace(temp, path)


def discard(temp: Path) -> None:
    """Remove the temporary file and its index, if there are any."""
    for suffix in ("", ".tbi", ".csi"):
        _with_suffix(temp, suffix).unlink(missing_ok=True)


def _build_index(temp: Path, path: Path, last_position: int) -> str:
    """Index ``temp``; the suffix of the index, "" for plain VCF."""
    kind = file_kind(path)
    if kind == ".vcf":
        return ""
    import pysam

    pysam.set_verbosity(0)  # what goes wrong is told once, below
    csi = kind == ".bcf" or last_position > TBI_LIMIT
    try:
        pysam.tabix_index(str(temp), force=True, preset=kind[1:4], keep_original=True, csi=csi)
    except OSError as error:
        # htslib does not say why.
        reason = "no space left (free some or write elsewhere), or records out of order"
        raise InputError(f"{path}: its index cannot be built: {reason}") from error
    return ".csi" if csi else ".tbi"


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def file_kind(path: Path) -> str:
    """The suffix, .vcf.gz, .bcf or .vcf. Raises ConfigError for any other."""
    for suffix in (".vcf.gz", ".bcf", ".vcf"):
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    raise ConfigError(f"output {path}: the name must end in .vcf.gz, .bcf or .vcf")


def _format_names(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The FORMAT keys of a request, AP spelt out."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or len(set(formats)) < len(formats):
        raise ConfigError(f"formats {','.join(formats) or '(none)'}: choose each at most once from {','.join(FORMATS)}")
    if "GT" in formats[1:]:
        raise ConfigError(f"formats {','.join(formats)}: VCF wants GT first")
    return tuple(key for name in formats for key in (("AP1", "AP2") if name == "AP" else (name,)))


def _header_text(samples, contigs, names) -> str:
    """The whole header with its final newline.

    BCF numbers its dictionary by the order of these lines: PASS, INFO, then the fields; only then the caller's.
    """
    lines = ["##fileformat=VCFv4.2", f"##source=npimpute {__version__}"]
    lines.append('##FILTER=<ID=PASS,Description="All filters passed">')
    for name, length in contigs:
        lines.append(f"##contig=<ID={name}>" if length is None else f"##contig=<ID={name},length={length}>")
    for key, (number, kind, text) in INFO_LINES.items():
        lines.append(f'##INFO=<ID={key},Number={number},Type={kind},Description="{text}">')
    for key in names:
        _, number, kind, text = FORMAT_LINES[key]
        lines.append(f'##FORMAT=<ID={key},Number={number},Type={kind},Description="{text}">')
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"] + (
        ["FORMAT", *samples] if samples else []
    )
    return "\n".join([*lines, "\t".join(columns)]) + "\n"


@cache
def _texts() -> np.ndarray:
    return encode.text_table()


@cache
def _floats() -> np.ndarray:
    return encode.float_table()


def _chunks(dosages: Dosages, fields: np.ndarray, n_samples: int) -> Iterator[Dosages]:
    """Consecutive parts of about CHUNK_BYTES when rendered, at least one record each."""
    n_alt = dosages.sites.n_alt()
    rows = np.concatenate([[0], np.cumsum(n_alt)])
    # 256 stands for the fixed columns, which matter where there are few samples.
    size = encode.record_bounds(fields, n_alt, n_samples) + 256
    total = np.concatenate([[0], np.cumsum(size)])
    start = 0
    while start < len(n_alt):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + CHUNK_BYTES, "right")) - 1)
        site, row = slice(start, stop), slice(rows[start], rows[stop])
        yield dosages.take(site, row, dosages.sites.slice(start, stop))
        start = stop
