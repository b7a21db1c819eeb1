"""Records of VCF and BCF as lines of text, as they are copied from file to file: in from any kind, out to any kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import NamedTuple, Self

from npimpute.errors import InputError
from npimpute.outputs import check_place, file_errors, temporary
from npimpute.vcf.bgzf import BgzfWriter
from npimpute.vcf.htslib import variants
from npimpute.vcf.records import clip
from npimpute.vcf.source import ROOM, Source, text_pieces, truncated
from npimpute.vcf.write import discard, file_kind, publish


class Record(NamedTuple):
    """One line. fields: the nine fixed columns, then those of all samples in one."""

    path: Path
    contig: str
    pos: int
    fields: list[bytes]

    @property
    def name(self) -> str:
        """Where it is, and its alleles."""
        ref, alt = (clip(field.decode("utf-8", "replace")) for field in self.fields[3:5])
        return f"{self.contig}:{self.pos} {ref}>{alt}"


class LineReader:
    """Files as records. rank: the place of each contig in the order that files must have.

    size: about how many bytes of text are held of a file at a time; pool: inflates.
    """

    def __init__(self, rank: dict[str, int], pool: ThreadPoolExecutor, size: int):
        self._rank, self._pool, self._size = rank, pool, size

    def records(self, source: Source) -> Iterator[Record]:
        """The records of a file. Raises InputError at one that is damaged, out of order or on an unknown contig."""
        path, tabs = source.path, 8 + len(source.samples)
        before = (-1, -1)
        for line in self._lines(source):
            fields = line.split(b"\t", 9)
            start = clip(line[:60].decode("utf-8", "replace").replace("\t", " "))
            if line.count(b"\t") != tabs or not fields[1].isdigit():
                found = f"the record {start!r} has not the header's {tabs + 1} columns, or POS is not a number"
                raise InputError(f"{path}: {found}; the file is damaged: make it again")
            record = Record(path, fields[0].decode("utf-8", "replace"), int(fields[1]), fields)
            if record.contig not in self._rank:
                raise InputError(f"{path}: {record.name}: the header has no ##contig line of {record.contig}: add it")
            place = (self._rank[record.contig], record.pos)
            if place < before:
                found = f"{record.name} is out of order"
                raise InputError(f"{path}: {found}; sort the file (bcftools sort -Oz -o sorted.vcf.gz FILE)")
            before = place
            yield record

    def joined(self, sources: list[Source]) -> Iterator[Record]:
        """The records of all files in order, whatever the order of the files.

        Raises InputError where the positions of two files overlap, which their records tell when they come.
        """
        heads = [(self._first(source), i) for i, source in enumerate(sources)]
        heads = [(self._place(record), i) for record, i in heads if record]
        heapify(heads)
        open_files: dict[int, tuple[Record, Iterator[Record]]] = {}
        last = start = None
        while heads:
            _, i = heappop(heads)
            if i not in open_files:
                rest = self.records(sources[i])
                open_files[i] = next(rest), rest
            record, rest = open_files.pop(i)
            _check_apart(start, last, record)
            start = record
            while record is not None and record.contig == start.contig:
                last = record
                yield record
                record = next(rest, None)
            if record is not None:
                open_files[i] = record, rest
                heappush(heads, (self._place(record), i))

    def _first(self, source: Source) -> Record | None:
        with contextlib.closing(self.records(source)) as records:
            return next(records, None)

    def _place(self, record: Record) -> tuple[int, int]:
        return self._rank[record.contig], record.pos

    def _lines(self, source: Source) -> Iterator[bytes]:
        """The lines of a file that are no header, without their ends."""
        if source.bcf:
            for record in variants(source.path, 1):
                yield str(record).rstrip("\n").encode()
            return
        rest: list[bytes] = []
        for piece in text_pieces(source, self._pool, 1, self._size):
            lines = piece[ROOM:].tobytes().split(b"\n")
            if len(lines) > 1:
                lines[0] = b"".join([*rest, lines[0]])
                rest.clear()
            rest.append(lines.pop())
            for line in lines:
                if not line.startswith(b"#"):
                    yield line.rstrip(b"\r")
        if any(rest):
            raise truncated(source.path)


def _check_apart(start: Record | None, last: Record | None, record: Record) -> None:
    """start, last: the ends of a stretch of another file. Raises InputError if ``record`` does not come after it."""
    if last is None or last.contig != record.contig or last.pos < record.pos:
        return
    found = f"{start.path} has {start.contig}:{start.pos}-{last.pos}, and {record.path} begins at {record.pos}"
    remedy = "records would come twice: merge regions that do not overlap (npimpute run --region)"
    raise InputError(f"{found}; {remedy}")


class LineWriter:
    """Writes lines, in file order, inside a ``with`` block, under a temporary name until complete.

    path: .vcf.gz and .bcf are indexed, .vcf is not. header: text with its final newline. last_position: the longest of
    its contigs. threads: workers that compress; the bytes do not depend on them. Raises ConfigError for an unusable
    name; InputError where the file exists (and not ``overwrite``) or cannot be written.
    """

    def __init__(self, path: Path, header: str, last_position: int, threads: int = 1, overwrite: bool = False):
        self._path, self._kind = path, file_kind(path)
        check_place(path, overwrite)
        self._header, self._last_position = header, last_position
        self._threads, self._overwrite = threads, overwrite
        self._temp = temporary(path)
        # BCF is made of the complete text, which is kept compressed, lightly, until then.
        self._text = self._temp.with_name(f"{self._temp.name}.vcf.gz") if self._kind == ".bcf" else self._temp

    def __enter__(self) -> Self:
        with file_errors(self._path):
            if self._kind == ".vcf":
                self._out = open(self._text, "wb")
            else:
                self._out = BgzfWriter(self._text, self._threads, **({"level": 1} if self._kind == ".bcf" else {}))
        try:
            self.write([self._header.encode().removesuffix(b"\n")], 0)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, lines: list[bytes], end: int) -> None:
        """Append lines, of which none reaches beyond position ``end``."""
        self._last_position = max(self._last_position, end)
        with file_errors(self._path):
            self._out.write(b"\n".join([*lines, b""]))

    def __exit__(self, kind, value, trace) -> None:
        try:
            if kind is None:
                with file_errors(self._path):
                    self._out.close()
                    if self._kind == ".bcf":
                        self._convert()
                    publish(self._temp, self._path, self._last_position, self._overwrite)
        finally:
            self._discard()

    def _convert(self) -> None:
        import pysam.bcftools

        pysam.set_verbosity(0)  # what goes wrong is told once, below
        options = ["--threads", str(self._threads)] if self._threads > 1 else []
        try:
            pysam.bcftools.view(
                "--no-version", "-Ob", *options, "-o", str(self._temp), str(self._text), catch_stdout=False
            )
        except pysam.SamtoolsError as error:
            reason = "no space left (free some or write elsewhere), or records that are no VCF"
            raise InputError(f"{self._path}: cannot be made BCF: {reason}") from error

    def _discard(self) -> None:
        """Remove the temporary files that are left."""
        # Closing flushes, which fails again where the disk is full.
        with contextlib.suppress(OSError):
            (self._out.abort if isinstance(self._out, BgzfWriter) else self._out.close)()
        for left in {self._temp, self._text}:
            discard(left)
