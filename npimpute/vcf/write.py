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
from functools import cache, lru_cache
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Self

import numpy as np

from npimpute import __version__
from npimpute.errors import ConfigError, InputError
from npimpute.outputs import check_place, file_errors, temporary
from npimpute.types import Dosages
from npimpute.vcf import encode
from npimpute.vcf.bgzf import BgzfWriter

# A .tbi cannot address positions beyond this.
TBI_LIMIT = 2**29

# Rendered at a time; a single record of very many samples may take more.
CHUNK_BYTES = 8 << 20

INFO_LINES = {
    "AF": ("A", "Float", "Estimated ALT allele frequency in the target samples: mean ALT probability"),
    "DR2": ("A", "Float", "Dosage R-squared: estimated squared correlation of ALT probability and true allele"),
    "R2": ("A", "Float", "Same value as DR2"),
    "INFO": ("A", "Float", "IMPUTE info score; equal to DR2, as haplotypes are imputed independently"),
    "ER2": ("A", "Float", "Empirical R-squared at typed sites: leave-one-out ALT probability against the allele"),
    "NH": ("1", "Integer", "Number of haplotypes in SP and SPQ"),
    "SP": ("A", "Float", "Sum of ALT probabilities over haplotypes; adds up over batches of samples"),
    "SPQ": (
        "A",
        "Float",
        "Sum of p(1-p) over haplotypes; adds up over batches of samples, and DR2 = 1 - SPQ / (SP (1 - SP / NH))",
    ),
    "TYPED": ("0", "Flag", "Site was genotyped in the target"),
    "IMP": ("0", "Flag", "Genotypes at this site were imputed"),
}

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

# How INFO values are printed; None: six significant digits.
_DECIMALS = {"AF": 6, "DR2": 4, "R2": 4, "INFO": 4, "ER2": 4, "SP": None, "SPQ": None}

# BCF: CHROM, POS, length of REF, QUAL, counts of alleles and INFO keys, counts of fields and samples.
_SITE = struct.Struct("<iiiIII")
_NUMBER = {key: number for number, key in enumerate(["PASS", *INFO_LINES])}
_INT8, _INT32, _FLOAT, _CHAR = 1, 3, 5, 7
_PASS = bytes([1 << 4 | _INT8, 0])
_FLAG_BYTES = {key: bytes([1 << 4 | _INT8, _NUMBER[key], 0]) for key in ("TYPED", "IMP")}


class VariantWriter:
    """Write records, in file order, with any number of `write` calls inside a `with` block.

    path: .vcf.gz and .bcf are indexed (.tbi, .csi), .vcf is not. contigs: (name, length in bp or None) in file
    order. formats: of FORMATS, in that order in the file, GT first; "AP" writes AP1 and AP2; without samples the file
    is sites only and they are not used. threads: workers that compress.

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
        self._last_position = max((length or 0 for _, length in contigs), default=0)
        self._out = None

    def __enter__(self) -> Self:
        with file_errors(self._path):
            self._out = open(self._temp, "wb") if self._kind == ".vcf" else BgzfWriter(self._temp, self._threads)
        text = self._header.encode()
        if self._kind == ".bcf":
            text = b"BCF\x02\x02" + struct.pack("<I", len(text) + 1) + text + b"\x00"
        try:
            self._put(text)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, dosages: Dosages) -> None:
        """Append the records of `dosages`; its p has two columns per sample, in the order of `samples`."""
        if dosages.p.shape[1] != 2 * len(self._samples):
            raise ValueError(f"{dosages.p.shape[1]} haplotypes for {len(self._samples)} samples")
        if dosages.sites.contig not in self._contigs:
            raise ValueError(f"contig {dosages.sites.contig} is not among the writer's contigs")
        for part in _chunks(dosages, self._fields):
            self._put(self._render(part))
            end = int(part.sites.pos[-1]) + max(map(len, part.sites.ref)) - 1
            self._last_position = max(self._last_position, end)

    def __exit__(self, kind, value, trace) -> None:
        if kind is not None:
            return self._discard()
        try:
            with file_errors(self._path):
                self._out.close()
                publish(self._temp, self._path, self._last_position, self._overwrite)
        except BaseException:
            self._discard()
            raise

    def _render(self, part: Dosages) -> np.ndarray:
        """(b,) uint8: the records of one chunk."""
        n_alt = part.sites.n_alt()
        rows = np.concatenate([[0], np.cumsum(n_alt)])
        info = _rounded_info(part)
        if self._kind == ".bcf":
            leads = _bcf_leads(part, rows, info, self._contigs[part.sites.contig], len(self._names))
        else:
            leads = _text_leads(part, rows, info, ":".join(self._names))
        lead = np.frombuffer(bytearray().join(leads), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, leads), np.int64, len(leads)))
        codes = np.empty(int(encode.sample_values(self._fields, n_alt).max()) * len(self._samples), np.int16)
        bound = encode.record_bounds(self._fields, n_alt, len(self._samples))
        out = np.empty(int(bound.sum()) + len(lead), np.uint8)
        p = np.ascontiguousarray(part.p, np.float32)
        if self._kind == ".bcf":
            keys = np.arange(len(self._names)) + len(_NUMBER)
            used = encode.bcf_records(p, n_alt, self._fields, keys, lead, ends, _floats(), codes, out)
        else:
            used = encode.text_records(p, n_alt, self._fields, lead, ends, _texts(), codes, out)
        return out[:used]

    def _put(self, data) -> None:
        with file_errors(self._path):
            self._out.write(data)

    def _discard(self) -> None:
        """Remove the temporary files."""
        # Closing flushes, which fails again where the disk is full.
        with contextlib.suppress(OSError):
            (self._out.abort if isinstance(self._out, BgzfWriter) else self._out.close)()
        discard(self._temp)


def publish(temp: Path, path: Path, last_position: int, overwrite: bool) -> None:
    """Index the finished file ``temp`` and give both their final names, after ``path``.

    last_position: the largest of the records and of the header's contig lengths. Raises InputError where ``path``
    exists by now (and not ``overwrite``) or the index cannot be built, OSError as the file system does.
    """
    suffix = _build_index(temp, path, last_position)
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


def _chunks(dosages: Dosages, fields: np.ndarray) -> Iterator[Dosages]:
    """Consecutive parts of about CHUNK_BYTES when rendered, at least one record each."""
    n_alt = dosages.sites.n_alt()
    rows = np.concatenate([[0], np.cumsum(n_alt)])
    # 256 stands for the fixed columns, which matter where there are few samples.
    size = encode.record_bounds(fields, n_alt, dosages.p.shape[1] // 2) + 256
    total = np.concatenate([[0], np.cumsum(size)])
    start = 0
    while start < len(n_alt):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + CHUNK_BYTES, "right")) - 1)
        site, row = slice(start, stop), slice(rows[start], rows[stop])
        by_row = (a[row] for a in (dosages.af, dosages.dr2, dosages.er2, dosages.n_hap, dosages.sum_p, dosages.sum_pq))
        sites = dosages.sites.slice(start, stop)
        yield Dosages(sites, dosages.p[row], dosages.typed[site], dosages.imputed[site], *by_row)
        start = stop


def _rounded_info(dosages: Dosages) -> dict[str, np.ndarray]:
    """Row values of the Float keys as printed, float64."""
    out = {"AF": dosages.af, "DR2": dosages.dr2, "R2": dosages.dr2, "INFO": dosages.dr2, "ER2": dosages.er2}
    out |= {"SP": dosages.sum_p, "SPQ": dosages.sum_pq}
    return {key: _rounded(key, values) for key, values in out.items()}


def _rounded(key: str, values: np.ndarray) -> np.ndarray:
    if _DECIMALS[key] is None:
        # Six significant digits are what htslib prints, so that its rendering of the BCF equals the VCF's.
        return np.array([float(f"{x:.6g}") for x in values.tolist()])
    # Adding 0 turns -0 into 0.
    return np.round(values.astype(np.float64), _DECIMALS[key]) + 0.0


def info_words(key: str, values: np.ndarray) -> list[str]:
    """The text of row values of a Float key of INFO."""
    return _words(_rounded(key, values), _DECIMALS[key])


def _words(values: np.ndarray, decimals: int | None) -> list[str]:
    """Values as text without trailing zeros; decimals None: six significant digits."""
    if decimals is None:
        return [f"{x:.6g}" for x in values.tolist()]
    return ["." if isnan(x) else f"{x:.{decimals}f}".rstrip("0").rstrip(".") for x in values.tolist()]


def _er2_known(part: Dosages, rows: np.ndarray) -> np.ndarray:
    """(s,) bool: typed, and the leave-one-out value of one of the ALT alleles is known."""
    known = np.concatenate([[0], np.cumsum(~np.isnan(part.er2))])
    return part.typed & (known[rows[1:]] > known[rows[:-1]])


def _text_leads(part: Dosages, rows: np.ndarray, info: dict[str, np.ndarray], formats: str) -> list[bytes]:
    """The fixed columns of each line, up to FORMAT."""
    columns = []
    for key, values in info.items():
        words = _words(values, _DECIMALS[key])
        if len(words) != len(part.sites) or part.sites.alt.count("."):
            words = [",".join(words[a:b]) for a, b in pairwise(rows.tolist())]
        columns.append(words)
    sites, n_hap, er2 = part.sites, part.n_hap.tolist(), _er2_known(part, rows).tolist()
    flags = [";TYPED" * bool(t) + ";IMP" * bool(i) for t, i in zip(part.typed, part.imputed, strict=True)]
    leads = []
    head, tail = f"{sites.contig}\t", f"\t{formats}" if formats else ""
    fixed = zip(sites.pos.tolist(), sites.ids, sites.ref, sites.alt, flags, rows.tolist(), er2, *columns, strict=False)
    for pos, name, ref, alt, flag, row, typed, af, dr2, r2, score, e, sp, spq in fixed:
        if alt == ".":
            text = flag[1:] or "."
        else:
            er2_text = f";ER2={e}" if typed else ""
            text = f"AF={af};DR2={dr2};R2={r2};INFO={score}{er2_text};NH={n_hap[row]};SP={sp};SPQ={spq}{flag}"
        leads.append(f"{head}{pos}\t{name}\t{ref}\t{alt}\t.\tPASS\t{text}{tail}".encode())
    return leads


def _bcf_leads(part: Dosages, rows: np.ndarray, info: dict[str, np.ndarray], contig: int, n_fields: int) -> list[bytes]:
    """The part of each BCF record that all samples share, from CHROM to INFO."""
    floats = {key: _float_bytes(values) for key, values in info.items()}
    n_hap = part.n_hap.astype("<i4").tobytes()
    typed, imputed = _FLAG_BYTES["TYPED"], _FLAG_BYTES["IMP"]
    flags = [typed * bool(t) + imputed * bool(i) for t, i in zip(part.typed, part.imputed, strict=True)]
    sites, size = part.sites, n_fields << 24 | part.p.shape[1] // 2
    fixed = zip(sites.pos.tolist(), sites.ids, sites.ref, sites.alt, flags, pairwise(rows.tolist()), strict=True)
    leads = []
    for er2, (pos, name, ref, alt, flag, (a, b)) in zip(_er2_known(part, rows).tolist(), fixed, strict=True):
        keys = _info_heads(b - a, er2)
        counts = (b - a + 1) << 16 | len(keys) + len(flag) // len(typed)
        site = _SITE.pack(contig, pos - 1, len(ref), encode.BCF_MISSING_FLOAT, counts, size)
        parts = [site, _typed_text("" if name == "." else name), _typed_text(ref)]
        parts.extend(_typed_text(allele) for allele in alt.split(",") if alt != ".")
        parts.append(_PASS)
        for key, head in keys.items():
            values = n_hap[4 * a : 4 * a + 4] if key == "NH" else floats[key][4 * a : 4 * b]
            parts += (head, values)
        parts.append(flag)
        leads.append(b"".join(parts))
    return leads


def _typed_size(size: int, kind: int) -> bytes:
    """BCF type descriptor of a vector; sizes of 15 and more follow as an int32 of their own."""
    if size < 15:
        return bytes([size << 4 | kind])
    return bytes([15 << 4 | kind, 1 << 4 | _INT32]) + struct.pack("<i", size)


@lru_cache(4096)
def _typed_text(text: str) -> bytes:
    data = text.encode()
    return _typed_size(len(data), _CHAR) + data


@lru_cache(4096)
def _info_heads(n_alt: int, er2: bool) -> dict[str, bytes]:
    """What precedes the values of each INFO key but the flags, in order; a site without ALT has none."""
    heads = {}
    for key in INFO_LINES:
        if n_alt and key not in _FLAG_BYTES and (er2 or key != "ER2"):
            kind = _typed_size(1, _INT32) if key == "NH" else _typed_size(n_alt, _FLOAT)
            heads[key] = bytes([1 << 4 | _INT8, _NUMBER[key]]) + kind
    return heads


def _float_bytes(values: np.ndarray) -> bytes:
    """Little-endian float32, with BCF's pattern for the missing ones."""
    single = values.astype("<f4")
    single.view("<u4")[np.isnan(values)] = encode.BCF_MISSING_FLOAT
    return single.tobytes()
