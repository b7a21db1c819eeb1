"""Variants as people have them: VCF, BCF, TSV, CSV, parquet and XLSX, row by row, with what is wrong with a row.

Whatever a row holds, it is a row: what cannot be read of it is its fault, told beside it, and no error. Only a file
that cannot be read on (damaged compression, no column of positions) is one.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from .maf import lines

MALFORMED, BAD_POSITION, NO_ALT, SEVERAL_ALTS = "malformed_row", "bad_position", "no_alt", "several_alts"
KINDS = (".vcf", ".bcf", ".tsv", ".txt", ".csv", ".parquet", ".xlsx")
VCF_COLUMNS = ("CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
SYNONYMS = {
    "chrom": ("chrom", "chromosome", "chr", "contig", "seqname", "seqnames"),
    "pos": ("pos", "position", "bp"),
    "ref": ("ref", "reference", "ref_allele", "reference_allele", "ref_base"),
    "alt": ("alt", "alternate", "alternative", "alt_allele", "alternate_allele", "alternative_allele", "alt_base"),
}
_LARGEST = 2**31 - 1
# A quoted cell of a CSV file may go on over so many lines; beyond, a quote was forgotten.
_CELL_LINES = 20
_CHUNK = 16_384


class Row(NamedTuple):
    """A row of the input. pos: 1-based, or 0 where it is none. alts: one of a table's, all of a VCF record's. fault:
    why the row is not scored, or "". fields: its cells, as many as there are columns. rest: FORMAT and samples of a
    VCF. line: a VCF's line where its cells do not tell it."""

    contig: str
    pos: int
    ref: str
    alts: tuple[str, ...]
    fault: str
    fields: list[Any]
    rest: str = ""
    line: str | None = None


@dataclass
class VariantFile:
    """Variants of a file, to be read once. columns: names of the cells. places: of chrom, pos, ref and alt among them.
    header: lines above the columns, as they are. rows: all of them. schema: a parquet file's."""

    path: Path
    kind: str
    columns: tuple[str, ...]
    places: tuple[int, int, int, int]
    rows: Iterable[Row]
    header: list[str] = field(default_factory=list)
    samples: tuple[str, ...] = ()
    schema: Any = None

    @property
    def vcf(self) -> bool:
        return self.kind in (".vcf", ".bcf")

    def chunks(self, size: int = _CHUNK) -> Iterator[tuple[Row, ...]]:
        """Rows in file order, so many at a time."""
        rows = iter(self.rows)
        while chunk := tuple(islice(rows, size)):
            yield chunk


def variant_kind(path: Path) -> str:
    """The suffix that tells what a file is, without .gz. Raises InputError for any other."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".bgz")
    for kind in KINDS:
        if name.endswith(kind):
            return kind
    raise InputError(f"{path}: what it is must show in its name: {', '.join(KINDS)}; text may end in .gz")


def open_variants(path: Path, sheet: str | None = None, header_row: int = 1) -> VariantFile:
    """The variants of a file of any kind. sheet, header_row: of tables. Raises InputError."""
    kind = variant_kind(path)
    if kind == ".vcf":
        return _vcf(path)
    if kind == ".bcf":
        return _bcf(path)
    table = open_table(path, sheet, header_row)
    places = _places(path, table.columns)
    table.places = places
    table.rows = (_table_row(cells, places, len(table.columns), fault) for cells, fault in table.rows)
    return table


def open_table(path: Path, sheet: str | None = None, header_row: int = 1) -> VariantFile:
    """A table of any content; its ``rows`` are (cells, fault). Raises InputError."""
    kind = variant_kind(path)
    if kind == ".parquet":
        return _parquet(path)
    header, number = [], 0
    rows = _sheet(path, sheet) if kind == ".xlsx" else _text(path, "," if kind == ".csv" else "\t")
    for cells, _ in rows:
        comment = kind != ".xlsx" and str(cells[0]).startswith("##")
        number += not comment
        if number >= header_row:
            columns = tuple("" if cell is None else str(cell) for cell in cells)
            return VariantFile(path, kind, columns, (0, 0, 0, 0), rows, header)
        if kind != ".xlsx":
            header.append(("," if kind == ".csv" else "\t").join(cells))
    raise InputError(f"{path}: has no line {header_row} that could name the columns")


def column_place(path: Path, columns: tuple[str, ...], name: str) -> int:
    """The place of a column, its case and a leading # aside. Raises InputError."""
    plain = [_plain(column) for column in columns]
    if name in columns:
        return columns.index(name)
    if _plain(name) in plain:
        return plain.index(_plain(name))
    some = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
    raise InputError(f"{path}: no column {name}; there are {some}")


def _plain(name: str) -> str:
    """Position (hg19) is position: what stands in brackets is no part of a column's name."""
    return re.sub(r"\s*[(\[].*", "", name.strip().lstrip("#")).strip().lower().replace(" ", "_")


def _places(path: Path, columns: tuple[str, ...]) -> tuple[int, int, int, int]:
    plain = [_plain(name) for name in columns]
    found = []
    for wanted, synonyms in SYNONYMS.items():
        place = next((plain.index(name) for name in synonyms if name in plain), None)
        if place is None:
            some = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
            raise InputError(f"{path}: no column {wanted}; name columns chrom, pos, ref, alt (found: {some})")
        found.append(place)
    return tuple(found)


def _table_row(cells: list[Any], places: tuple[int, int, int, int], width: int, fault: str) -> Row:
    """A row of a table: short ones are filled up, what is too many stands in the last cell."""
    if len(cells) != width:
        fault = MALFORMED
        cells = (
            [*cells, *[""] * (width - len(cells))]
            if len(cells) < width
            else [
                *cells[: width - 1],
                " ".join(map(str, cells[width - 1 :])),
            ]
        )
    contig, pos, ref, alt = ("" if cells[at] is None else str(cells[at]).strip() for at in places)
    position = _position(pos)
    if not fault:
        fault = BAD_POSITION if not position else NO_ALT if alt in ("", ".") else SEVERAL_ALTS if "," in alt else ""
    # pandas writes whole numbers of a column with gaps as 20.0
    contig = contig[:-2] if re.fullmatch(r"\d+\.0", contig) else contig
    return Row(contig, position, ref, (alt,), fault, cells)


def _position(text: str) -> int:
    """0 unless it is a position."""
    found = re.fullmatch(r"(\d{1,10})(\.0*)?", text, re.ASCII)
    return int(found[1]) if found and int(found[1]) <= _LARGEST else 0


def _vcf(path: Path) -> VariantFile:
    """A file without header lines has the columns in the order of VCF."""
    header, samples, first = [], (), None
    read = (line for _, line in lines(path))
    for line in read:
        if not line.startswith(b"#"):
            first = line
            break
        header.append(line.decode("utf-8", "surrogateescape"))
        if line.startswith(b"#CHROM"):
            samples = tuple(header.pop().split("\t")[9:])
            break
    rows = (_vcf_row(line, len(samples)) for line in _without_tail(first, read) if not line.startswith(b"#"))
    return VariantFile(path, ".vcf", VCF_COLUMNS, (0, 1, 3, 4), rows, header, samples)


def _without_tail(first: bytes | None, rest: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, less blank ones at the end."""
    blank = 0
    for line in rest if first is None else chain([first], rest):
        if not line.strip():
            blank += 1
            continue
        yield from [b""] * blank
        blank = 0
        yield line


def _vcf_row(line: bytes, n_samples: int) -> Row:
    text = line.decode("utf-8", "surrogateescape")
    cells = text.split("\t")
    fields, rest = cells[:8], cells[8:]
    whole = len(fields) >= 5 and all(fields[:5]) and (not rest or len(rest) == (n_samples + 1 if n_samples else 0))
    told = None if len(fields) == 8 else text
    fields += [""] * (8 - len(fields))
    position = _position(fields[1]) if fields[1].isdigit() else 0
    alts = tuple(fields[4].split(","))
    fault = MALFORMED if not whole else BAD_POSITION if not position else NO_ALT if alts == (".",) else ""
    return Row(fields[0], position, fields[3], alts, fault, fields, "\t".join(rest), told)


def _bcf(path: Path) -> VariantFile:
    from cyvcf2 import VCF

    from ..vcf.htslib import variants

    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        *header, last = VCF(str(path)).raw_header.rstrip("\n").split("\n")
    except Exception as error:
        raise InputError(f"{path}: cannot be read as BCF ({' '.join(str(error).split())})") from error
    samples = tuple(last.split("\t")[9:])
    header = [re.sub(r",IDX=\d+(?=[,>])", "", line) for line in header]
    rows = (
        _vcf_row(str(record).rstrip("\n").encode("utf-8", "surrogateescape"), len(samples))
        for record in variants(path, 1)
    )
    return VariantFile(path, ".bcf", VCF_COLUMNS, (0, 1, 3, 4), rows, header, samples)


def _text(path: Path, separator: str) -> Iterator[tuple[list[str], str]]:
    """(cells, fault) of each line of a table in text."""
    read = _without_tail(None, (line for _, line in lines(path)))
    for i, line in enumerate(read):
        text = line.decode("utf-8", "surrogateescape")
        text = text.removeprefix("\ufeff") if not i else text
        if separator == "\t":
            yield text.split("\t"), "" if text.strip() else MALFORMED
        else:
            yield from _csv_rows(text, read)


def _csv_rows(text: str, read: Iterator[bytes]) -> Iterator[tuple[list[str], str]]:
    """The row that starts in ``text``; where its quotes do not close in reach, each of the lines as it is."""
    taken = [text]
    while sum(line.count('"') for line in taken) % 2 and len(taken) < _CELL_LINES:
        if (more := next(read, None)) is None:
            break
        taken.append(more.decode("utf-8", "surrogateescape"))
    if sum(line.count('"') for line in taken) % 2 == 0:
        yield next(csv.reader(f"{line}\n" for line in taken)), "" if text.strip() else MALFORMED
        return
    yield text.split(","), MALFORMED
    for line in taken[1:]:
        yield next(csv.reader([line]), [""]), MALFORMED if line.count('"') % 2 or not line else ""


def check_parquet(path: Path) -> None:
    """Raises InputError where parquet files cannot be read or written."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path}: parquet files need pyarrow: pip install 'npimpute[dna]', or use TSV")


def _parquet(path: Path) -> VariantFile:
    check_parquet(path)
    import pyarrow.parquet

    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet ({' '.join(str(error).split())})") from error
    schema = file.schema_arrow

    def rows() -> Iterator[tuple[list[Any], str]]:
        try:
            for batch in file.iter_batches(_CHUNK):
                columns = [column.to_pylist() for column in batch.columns]
                yield from ((list(cells), "") for cells in zip(*columns, strict=True))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{path}: damaged ({' '.join(str(error).split())}); make it again") from error

    return VariantFile(path, ".parquet", tuple(schema.names), (0, 0, 0, 0), rows(), schema=schema)


def _sheet(path: Path, sheet: str | None) -> Iterator[tuple[list[Any], str]]:
    try:
        import openpyxl
    except ImportError as error:
        raise InputError(
            f"{path}: .xlsx files need openpyxl: pip install 'npimpute[dna]', or save it as CSV"
        ) from error
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise InputError(f"{path}: cannot be read as XLSX ({error})") from error
    if sheet is not None and sheet not in book.sheetnames:
        raise InputError(f"{path}: no sheet {sheet}; there are {', '.join(book.sheetnames)}")
    blank: list = []
    for cells in (book[sheet] if sheet else book.worksheets[0]).iter_rows(values_only=True):
        if all(cell is None for cell in cells):
            blank.append(cells)
            continue
        yield from ((list(row), MALFORMED) for row in blank)
        blank = []
        yield list(cells), ""
