"""Tables of places in a genome with labels: TSV, CSV or parquet. Axes: n rows, c label columns."""

from __future__ import annotations

import csv
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, InputError
from .windows import Interval, Variant

# Other names of columns, in small letters, as public tables have them.
_NAMES = {"chrom": "contig", "#chrom": "contig", "chr": "contig", "chromosome": "contig", "seqname": "contig"}
_NAMES |= {"stop": "end", "position": "pos", "reference": "ref", "alternate": "alt"}
_PLACES = ("contig", "start", "end", "pos", "ref", "alt", "strand", "split", "name", "id")
_SPLITS = {"train": "train", "training": "train", "valid": "validation", "val": "validation"}
_SPLITS |= {"validation": "validation", "dev": "validation", "test": "test"}
_NOTHING = {"", "na", "nan", "none", "."}


@dataclass(frozen=True)
class Table:
    """places: where each row is, all ``Interval`` or all ``Variant``. labels: (n, c) text, as read; "" is missing.
    columns: their names. splits: "train", "validation" or "test" of each row; None without a column "split".
    stranded: whether there is a column "strand"."""

    path: Path
    places: list[Interval] | list[Variant]
    labels: list[list[str]]
    columns: tuple[str, ...]
    splits: list[str] | None
    stranded: bool

    def __len__(self) -> int:
        return len(self.places)

    def split(self, name: str) -> Table:
        """The rows of one split; all where the table has no such column."""
        if self.splits is None:
            return self
        rows = [i for i, split in enumerate(self.splits) if split == name]
        places, labels = ([values[i] for i in rows] for values in (self.places, self.labels))
        return Table(self.path, places, labels, self.columns, [name] * len(rows), self.stranded)

    def numbers(self) -> np.ndarray:
        """(n, c) float64, NaN where missing. Raises InputError where a label is not a number."""
        values = np.full((len(self), len(self.columns)), np.nan)
        for i, row in enumerate(self.labels):
            for j, text in enumerate(row):
                if text:
                    values[i, j] = self._number(i, j, text)
        return values

    def _number(self, i: int, j: int, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise InputError(
                f"{self.path}: {self.columns[j]} of {_told(self.places[i])} is {text}, no number"
            ) from None


def read_table(path: Path, variants: bool, columns: tuple[str, ...] = ()) -> Table:
    """A table with a header: contig, start and end (0-based half-open, as BED) or, for ``variants``, contig, pos
    (1-based), ref and alt; strand, split, name and id if they are there. All else, or ``columns``, are labels.

    Raises InputError, and ConfigError for columns that it lacks.
    """
    path = Path(path)
    header, rows = _parquet(path) if path.name.lower().endswith(".parquet") else _text(path)
    names = [_NAMES.get(name.strip().lower(), name.strip().lower()) for name in header]
    at = {name: names.index(name) for name in _PLACES if name in names}
    needed = ("contig", "pos", "ref", "alt") if variants else ("contig", "start", "end")
    if lost := [name for name in needed if name not in at]:
        raise InputError(f"{path}: no column {lost[0]}; columns {', '.join(needed)} and labels are needed")
    labels = _label_columns(path, header, set(at.values()), columns)
    places, splits = [], []
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} columns; its header has {len(header)}")
        places.append(_place(path, number, {name: row[i].strip() for name, i in at.items()}, variants))
        if "split" in at:
            splits.append(_split(path, number, row[at["split"]].strip()))
    if not rows:
        raise InputError(f"{path}: holds no row")
    texts = [[_label(row[i]) for i in labels] for row in rows]
    found = tuple(header[i].strip() for i in labels)
    return Table(path, places, texts, found, splits if "split" in at else None, "strand" in at)


def _label_columns(path: Path, header: list[str], taken: set[int], columns: tuple[str, ...]) -> list[int]:
    whole = [name.strip() for name in header]
    if lost := [name for name in columns if name not in whole]:
        raise ConfigError(f"--labels {lost[0]}: no column of {path}; there are {', '.join(whole)}")
    found = [whole.index(name) for name in columns] or [i for i in range(len(header)) if i not in taken]
    if not found:
        raise InputError(f"{path}: no column of labels; there are only {', '.join(whole)}")
    return found


def _place(path: Path, number: int, values: dict[str, str], variant: bool) -> Interval | Variant:
    name = values.get("name", values.get("id", "."))
    numbers = ("pos",) if variant else ("start", "end")
    for key in numbers:
        if not values[key].removesuffix(".0").isdigit():  # pandas writes whole numbers with a missing one so
            raise InputError(f"{path}, line {number}: {key} is {values[key]!r}; a position is needed")
    first, *last = (int(values[key].removesuffix(".0")) for key in numbers)
    if variant:
        return Variant(values["contig"], first, name, values["ref"].upper(), values["alt"].upper())
    if last[0] <= first:
        raise InputError(f"{path}, line {number}: ends at {last[0]}, not after its start {first}")
    if (strand := values.get("strand", "+")) not in ("+", "-", "."):
        raise InputError(f"{path}, line {number}: strand {strand}: + or - is needed")
    return Interval(values["contig"], first, last[0], name, "-" if strand == "-" else "+")


def _split(path: Path, number: int, text: str) -> str:
    if text.lower() not in _SPLITS:
        raise InputError(f"{path}, line {number}: split {text}: train, validation or test is needed")
    return _SPLITS[text.lower()]


def _label(text: str) -> str:
    return "" if text.strip().lower() in _NOTHING else text.strip()


def _told(place: Interval | Variant) -> str:
    return f"{place.contig}:{place.pos if isinstance(place, Variant) else place.start}"


def _text(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        how = {"newline": "", "encoding": "utf-8-sig"}  # spreadsheets begin a file with a mark of its encoding
        with gzip.open(path, "rt", **how) if path.suffix == ".gz" else open(path, **how) as file:
            head = file.readline()
            file.seek(0)
            rows = [row for row in csv.reader(file, delimiter="\t" if "\t" in head else ",") if row]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    if not rows:
        raise InputError(f"{path}: is empty")
    return rows[0], rows[1:]


def _parquet(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise InputError(f"{path}: parquet files need pyarrow: pip install 'npimpute[dna]'") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise InputError(f"{path}: cannot be read as parquet ({error})") from error
    columns = [["" if value is None else str(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(row) for row in zip(*columns, strict=True)]
