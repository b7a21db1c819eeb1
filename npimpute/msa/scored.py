"""Scored variants to files: TSV, CSV, parquet, VCF and BCF, under a temporary name until complete.

VCF holds no broken rows, and a row must not be lost: what is no VCF of a record is replaced (CHROM by "unknown", POS by
0, REF by N, anything else by "."), and the record has the input's line, percent-encoded, in INFO.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from ..errors import ConfigError, InputError
from ..outputs import check_place, file_errors, temporary
from ..vcf.bgzf import BLOCK, BgzfWriter, compress_block
from ..vcf.write import discard, file_kind, publish
from .variants import MALFORMED, VCF_COLUMNS, Row, VariantFile, check_parquet

if TYPE_CHECKING:
    from .vep import Scored

log = logging.getLogger(__name__)
NAMES = ("llr", "score", "status")
OUTPUTS = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".parquet", ".vcf", ".vcf.gz", ".bcf")
MISSING = "NA"
_TBI_LIMIT = 2**29


def open_writer(path: Path, source: VariantFile, prefix: str, overwrite: bool, threads: int = 1) -> Writer:
    """A writer of the kind of the name. Raises ConfigError for another, or where the input has columns of the names
    that are added; InputError where it cannot be written."""
    kind = next((kind for kind in OUTPUTS if path.name.endswith(kind) and path.name != kind), None)
    if kind is None:
        raise ConfigError(f"--out {path}: the name must end in one of {', '.join(OUTPUTS)}")
    names = tuple(f"{prefix}{name}" for name in NAMES)
    declared = set(re.findall(r"^##INFO=<ID=([^,>]+)", "\n".join(source.header), re.MULTILINE))
    if taken := [name for name in names if name in source.columns or name in declared]:
        raise ConfigError(f"{source.path}: has {taken[0]} already; name the new columns otherwise with --prefix")
    check_place(path, overwrite)
    if kind == ".parquet":
        check_parquet(path)
    maker = {".parquet": ParquetWriter, ".vcf": VcfWriter, ".vcf.gz": VcfWriter, ".bcf": VcfWriter}.get(
        kind, TextWriter
    )
    return maker(path, kind, source, names, overwrite, threads)


class Writer(ABC):
    """Rows with what was said of them, in file order, inside a ``with`` block."""

    def __init__(
        self, path: Path, kind: str, source: VariantFile, names: tuple[str, ...], overwrite: bool, threads: int
    ):
        self._path, self._kind, self._source, self._names = path, kind, source, names
        self._overwrite, self._threads = overwrite, threads
        self._temp = temporary(path)
        self._order = Order()

    @abstractmethod
    def write(self, rows: Sequence[Row], scored: Sequence[Sequence[Scored]]) -> None:
        """scored: of each row, what was said of its ALT."""

    def __enter__(self) -> Self:
        with file_errors(self._path):
            self._open()
        return self

    def __exit__(self, kind, value, trace) -> None:
        try:
            if kind is None:
                with file_errors(self._path):
                    self._finish()
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._drop()
            discard(self._temp)

    @abstractmethod
    def _open(self) -> None:
        """Begin the temporary file."""

    @abstractmethod
    def _finish(self) -> None:
        """All is written: close, index, and give the file its name."""

    @abstractmethod
    def _drop(self) -> None:
        """Close what is open; harmless after ``_finish``."""

    def _rename(self) -> None:
        check_place(self._path, self._overwrite)
        for suffix in (".tbi", ".csi"):  # of the file that is replaced
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        os.replace(self._temp, self._path)


class Order:
    """Whether rows come sorted: each contig in one stretch, by position. last: the largest position."""

    def __init__(self):
        self.sorted, self.last, self._seen, self._at = True, 0, set(), ("", 0)

    def add(self, contig: str, pos: int) -> None:
        if contig != self._at[0]:
            self.sorted &= contig not in self._seen
            self._seen.add(contig)
        elif pos < self._at[1]:
            self.sorted = False
        self.sorted &= pos > 0
        self.last = max(self.last, pos)
        self._at = contig, pos


class TextWriter(Writer):
    """TSV or CSV. .tsv.gz is BGZF, and has a tabix index where the rows are sorted."""

    def _open(self) -> None:
        packed = self._kind.endswith(".gz")
        self._out = BgzfWriter(self._temp, self._threads) if packed else open(self._temp, "wb")
        comma = self._kind.startswith(".csv")
        self._tabs = not comma
        above = self._source.header if self._source.kind in (".tsv", ".txt") and not comma else []
        self._lines_above = len(above) + 1
        columns = list(self._source.columns)
        if self._source.vcf:
            columns[0] = "#CHROM" if not comma else "CHROM"
        self._put([*([line] for line in above), [*columns, *self._names]])

    def write(self, rows: Sequence[Row], scored: Sequence[Sequence[Scored]]) -> None:
        lines = []
        for row, alleles in zip(rows, scored, strict=True):
            self._order.add(row.contig, row.pos)
            lines.append([*map(_cell, row.fields), *_words(alleles)])
        with file_errors(self._path):
            self._put(lines)

    def _put(self, lines: list[list[str]]) -> None:
        if self._tabs:
            text = "".join("\t".join(_untabbed(cell) for cell in line) + "\n" for line in lines)
        else:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows(lines)
            text = buffer.getvalue()
        self._out.write(text.encode("utf-8", "surrogateescape"))

    def _finish(self) -> None:
        self._out.close()
        tabix = self._kind == ".tsv.gz" and self._order.last > 0
        if tabix and not self._order.sorted:
            log.info("%s: rows are not sorted or lack positions, so it has no tabix index", self._path)
        index = self._index() if tabix and self._order.sorted else None
        self._rename()
        if index:
            os.replace(index, self._path.with_name(self._path.name + index.suffix))

    def _index(self) -> Path:
        import pysam

        contig, pos, *_ = self._source.places
        csi = self._order.last > _TBI_LIMIT
        options = {"seq_col": contig, "start_col": pos, "end_col": pos, "line_skip": self._lines_above}
        pysam.tabix_index(str(self._temp), force=True, keep_original=True, csi=csi, **options)
        return self._temp.with_name(self._temp.name + (".csi" if csi else ".tbi"))

    def _drop(self) -> None:
        (self._out.abort if isinstance(self._out, BgzfWriter) else self._out.close)()


class ParquetWriter(Writer):
    """Cells as they are in a parquet input, else as text. Of a VCF, what is added are lists, a value of each ALT."""

    def _open(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        if self._source.kind == ".parquet":
            fields = list(self._source.schema)
        else:
            fields = [pa.field(name or f"column_{i + 1}", pa.string()) for i, name in enumerate(self._source.columns)]
        kinds = [pa.float64(), pa.float64(), pa.string()]
        kinds = [pa.list_(kind) for kind in kinds] if self._source.vcf else kinds
        self._schema = pa.schema([*fields, *map(pa.field, self._names, kinds)])
        self._out = pyarrow.parquet.ParquetWriter(self._temp, self._schema)

    def write(self, rows: Sequence[Row], scored: Sequence[Sequence[Scored]]) -> None:
        import pyarrow as pa

        cells = list(zip(*(row.fields for row in rows), strict=True))
        if self._source.kind != ".parquet":
            cells = [[_clean(cell) for cell in column] for column in cells]
        values = [
            [[_known(a.llr) for a in row], [_known(-a.llr) for a in row], [a.status for a in row]] for row in scored
        ]
        added = list(zip(*values, strict=True))
        if not self._source.vcf:
            added = [[row[0] for row in column] for column in added]
        columns = [pa.array(c, field.type) for c, field in zip([*cells, *added], self._schema, strict=True)]
        with file_errors(self._path):
            self._out.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def _finish(self) -> None:
        self._out.close()
        self._rename()

    def _drop(self) -> None:
        self._out.close()


class VcfWriter(Writer):
    """VCF, or BCF made of it. Contigs are declared as they come, so the header is put before the records at the end."""

    def _open(self) -> None:
        self._body = self._temp.with_name(f"{self._temp.name}.body")
        self._out = BgzfWriter(self._body, self._threads) if self._kind != ".vcf" else open(self._body, "wb")
        self._contigs: dict[str, None] = {}
        self._mended = 0

    def write(self, rows: Sequence[Row], scored: Sequence[Sequence[Scored]]) -> None:
        lines = [self._line(row, alleles) for row, alleles in zip(rows, scored, strict=True)]
        with file_errors(self._path):
            self._out.write("".join(lines).encode("utf-8", "surrogateescape"))

    def _line(self, row: Row, alleles: Sequence[Scored]) -> str:
        fields = row.fields if self._source.vcf else vcf_fields(row)
        fields, broken = mended(fields)
        whole = row.fault != MALFORMED and not broken
        info = [] if fields[7] == "." else [fields[7]]
        if len(alleles) == len(fields[4].split(",")) and any(not math.isnan(a.llr) for a in alleles):
            for name, sign in zip(self._names, (1, -1), strict=False):
                info.append(f"{name}={','.join(_number(sign * a.llr, '.') for a in alleles)}")
        info.append(f"{self._names[2]}={','.join(a.status for a in alleles)}")
        if not whole:
            self._mended += 1
            line = (
                "\t".join([*map(_cell, row.fields), *([row.rest] if row.rest else [])])
                if row.line is None
                else row.line
            )
            info.append(f"{self._record}={quote(line.encode('utf-8', 'surrogateescape'), safe='') or '.'}")
        fields[7] = ";".join(info)
        if self._source.samples:
            fields.append(
                row.rest
                if row.rest and row.fault != MALFORMED
                else "\t".join(["GT", *["."] * len(self._source.samples)])
            )
        self._contigs[fields[0]] = None
        self._order.add(fields[0], int(fields[1]))
        return "\t".join(fields) + "\n"

    @property
    def _record(self) -> str:
        return f"{self._names[2].removesuffix('status')}record"

    def _header(self) -> str:
        lines = [line for line in self._source.header if line.startswith("##")] if self._source.vcf else []
        if not lines or not lines[0].startswith("##fileformat"):
            lines.insert(0, "##fileformat=VCFv4.2")
        declared = set(re.findall(r"^##contig=<(?:.*?,)?ID=([^,>]+)", "\n".join(lines), re.MULTILINE))
        lines += [f"##contig=<ID={name}>" for name in self._contigs if name not in declared]
        llr, score, status = self._names
        told = [
            (llr, "A", "Float", "log p(ALT) - log p(REF), natural logarithm"),
            (score, "A", "Float", f"-{llr}: higher is more damaging"),
            (status, ".", "String", "Whether each ALT was scored, or why not"),
        ]
        if self._mended:
            told.append((self._record, "1", "String", "Percent-encoded line of the input that is no VCF"))
        lines += [f'##INFO=<ID={n},Number={k},Type={t},Description="{d}">' for n, k, t, d in told]
        if self._source.samples and not any(line.startswith("##FORMAT=<ID=GT,") for line in lines):
            lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
        names = ["FORMAT", *self._source.samples] if self._source.samples else []
        return "\n".join([*lines, "\t".join(["#CHROM", *VCF_COLUMNS[1:], *names])]) + "\n"

    def _finish(self) -> None:
        self._out.close()
        text = self._temp if self._kind != ".bcf" else self._temp.with_name(f"{self._temp.name}.vcf.gz")
        header = self._header().encode("utf-8", "surrogateescape")
        with open(text, "wb") as out, open(self._body, "rb") as body:
            blocks = [header[i : i + BLOCK] for i in range(0, len(header), BLOCK)]
            for block in blocks:  # BGZF files may follow one another
                out.write(block if self._kind == ".vcf" else compress_block(block, 4))
            shutil.copyfileobj(body, out, 1 << 20)
        if self._kind == ".bcf":
            self._to_bcf(text)
        if self._mended:
            log.warning(
                "%s: %d records are no VCF; what is wrong in them is replaced, their lines are in INFO/%s (TSV keeps "
                "them as they are)", self._path, self._mended, self._record,
            )  # fmt: skip
        if self._order.sorted or file_kind(self._path) == ".vcf":
            publish(self._temp, self._path, self._order.last, self._overwrite)
        else:
            log.info("%s: rows are not sorted or lack positions, so it has no index (bcftools sort)", self._path)
            self._rename()

    def _to_bcf(self, text: Path) -> None:
        import pysam.bcftools

        pysam.set_verbosity(0)  # what goes wrong is told once, below
        try:
            pysam.bcftools.view("--no-version", "-Ob", "-o", str(self._temp), str(text), catch_stdout=False)
        except pysam.SamtoolsError as error:
            reason = "INFO, FILTER or FORMAT that the header does not declare, or no space left"
            raise InputError(f"{self._path}: cannot be made BCF ({reason}); write .vcf.gz") from error
        finally:
            text.unlink(missing_ok=True)

    def _drop(self) -> None:
        (self._out.abort if isinstance(self._out, BgzfWriter) else self._out.close)()
        self._body.unlink(missing_ok=True)


_CONTIG = re.compile(r"[0-9A-Za-z!#$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*")
_BASES = re.compile(r"[ACGTNacgtn]+")
_ALLELE = re.compile(r"[ACGTNacgtn]+|\*|<[^<>\s,;]+>|[\[\].0-9A-Za-z:_-]*[\[\]][^\s,;]*")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def mended(fields: Sequence[str]) -> tuple[list[str], bool]:
    """The eight fixed fields of a record, what is no VCF replaced, and whether anything but an empty cell was."""
    contig, pos, name, ref, alt, qual, filters, info = fields
    out = [
        contig if _CONTIG.fullmatch(contig) else "unknown",
        pos if pos.isascii() and pos.isdigit() and int(pos) < 2**31 - 1 else "0",
        _word(name),
        ref if _BASES.fullmatch(ref) else "N",
        alt if alt == "." or all(_ALLELE.fullmatch(allele) for allele in alt.split(",")) else ".",
        qual if qual == "." or _FLOAT.fullmatch(qual) else ".",
        _word(filters),
        _word(info),
    ]
    return out, any(was not in ("", now) for was, now in zip(fields, out, strict=True)) or not all(fields[:5])


def _word(text: str) -> str:
    return text if text and not re.search(r"\s", text) else "."


def vcf_fields(row: Row) -> list[str]:
    """The fixed fields of a record of a row of a table."""
    return [row.contig, str(row.pos) if row.pos else "", ".", row.ref, row.alts[0], ".", ".", "."]


def _words(alleles: Sequence[Scored]) -> list[str]:
    """llr, score and status of a row, as text; of several ALT with commas between them."""
    values = [",".join(_number(sign * a.llr) for a in alleles) for sign in (1, -1)]
    return [*values, ",".join(a.status for a in alleles)]


def _number(value: float, missing: str = MISSING) -> str:
    return missing if math.isnan(value) else f"{value + 0.0:.6g}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)


def _untabbed(cell: str) -> str:
    return cell if "\t" not in cell and "\n" not in cell else re.sub(r"[\t\r\n]", " ", cell)


def _clean(cell: Any) -> str | None:
    """Text that parquet takes: bytes that are no UTF-8 are replaced."""
    return None if cell is None else _cell(cell).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
