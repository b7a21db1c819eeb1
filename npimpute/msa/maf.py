"""Blocks of MAF files, and multiple alignments in FASTA.

Source: UCSC's description of the multiple alignment format, and genome.ucsc.edu/FAQ/FAQformat.html#format5.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..vcf.records import clip

# Lines of a block that say nothing of bases: what lies between blocks, qualities, and species with no base here.
_OTHER = (b"i", b"e", b"q")


class Row(NamedTuple):
    """A line "s". start: 0-based on ``strand``, "-" counting from the other end; size: bases; text: with its gaps."""

    src: str
    start: int
    size: int
    strand: str
    src_size: int
    text: bytes
    line: int


def blocks(path: Path) -> Iterator[list[Row]]:
    """The rows of each block of a MAF file, plain or gzip, in file order; blocks without rows are left out.

    Raises InputError, with the line, where the file is none or is damaged.
    """
    rows: list[Row] | None = None
    for number, line in lines(path):
        key = line[:2].strip()
        if key == b"s":
            if rows is None:
                raise _error(path, number, "a row before the first block ('a' line)")
            row = _row(path, number, line)
            if rows and len(row.text) != len(rows[0].text):
                found = f"{row.src} has {len(row.text)} columns, the first row of its block {len(rows[0].text)}"
                raise _error(path, number, found)
            rows.append(row)
        elif key == b"a":
            if rows:
                yield rows
            rows = []
        elif key and not key.startswith(b"#") and key not in _OTHER and not line.startswith(b"track"):
            found = f"neither a block nor a row of one: {clip(line.decode('utf-8', 'replace'), 30)!r}"
            raise _error(path, number, found)
    if rows is None:
        raise InputError(f"{path}: no alignment block; is it a MAF file?")
    if rows:
        yield rows


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1, without their ends, of a file that is plain or gzip. Raises InputError."""
    number = 0
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip(b"\r\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = f"the compressed data are damaged or end early, after line {number}"
        raise InputError(f"{path}: {found} (gzip -t FILE checks it); copy or make it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _row(path: Path, number: int, line: bytes) -> Row:
    words = line.split()
    if len(words) != 7:
        raise _error(path, number, f"{len(words)} words where a row has 7 (s src start size strand srcSize text)")
    _, src, start, size, strand, src_size, text = words
    if not (start.isdigit() and size.isdigit() and src_size.isdigit()) or strand not in (b"+", b"-"):
        raise _error(path, number, "start, size and srcSize must be whole numbers, and strand + or -")
    row = Row(src.decode("utf-8", "replace"), int(start), int(size), strand.decode(), int(src_size), text, number)
    if (bases := len(text) - text.count(b"-") - text.count(b".")) != row.size:
        raise _error(path, number, f"{row.src} has {bases} bases, its size says {row.size}")
    if row.start + row.size > row.src_size:
        raise _error(path, number, f"{row.src} ends at {row.start + row.size}, beyond its size of {row.src_size}")
    return row


def _error(path: Path, number: int, found: str) -> InputError:
    return InputError(f"{path}, line {number}: {found}; the file is damaged: make it again")
