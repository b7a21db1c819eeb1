"""Bytes of a VCF or BCF file: what kind it is, its header, and its text in large pieces.

BGZF blocks are independent, so they are inflated by several threads; plain gzip and plain text stream.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from npimpute.errors import InputError

PIECE = 8 << 20
"""About how many bytes of text are worked on at a time."""
ROOM = 1 << 20
"""Bytes left free in front of each piece, so that the line cut by its border can be put there without a copy."""
_READ = 1 << 20
_BLOCK_HEADER = 18
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_GZIP = zlib.MAX_WBITS | 16
_FIXED_COLUMNS = 9


@dataclass(frozen=True)
class Source:
    """A VCF or BCF file whose header was read.

    bcf: it is BCF. packing: "plain", "gzip" or "bgzf". samples: all of them, in file order. contigs: (name,
    length or None) as the header declares them. header: its text, from ##fileformat to the #CHROM line.
    """

    path: Path
    bcf: bool
    packing: str
    samples: tuple[str, ...]
    contigs: list[tuple[str, int | None]]
    header: str


def open_source(path: Path) -> Source:
    """Look into ``path`` and read its header.

    Raises InputError when there is no such file, when it cannot be read, or only once, is empty, truncated, neither
    VCF nor BCF, or has no or repeated samples.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a directory tells by itself
            raise InputError(f"{path}: is not a regular file (a pipe cannot be read twice): write it to disk first")
        with open(path, "rb") as file:
            head = file.read(_READ)
            packing = _packing(head)
            if packing == "bgzf":
                _check_bgzf_end(file, path)
            bcf = _is_bcf(path, head, packing)
            file.seek(0)
            pieces = _read_pieces(file) if packing == "plain" else _gunzip(file, path)
            header = _bcf_header(pieces, path) if bcf else _vcf_header(pieces, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    return Source(path, bcf, packing, _samples(header, path), _contigs(header), header)


def text_pieces(source: Source, pool: ThreadPoolExecutor, depth: int, size: int | None = None) -> Iterator[np.ndarray]:
    """The text of ``source`` in file order: uint8 arrays whose first ROOM bytes are free, the text behind them.

    ``depth`` bounds how many pieces are inflated ahead of the one that is asked for. size: about how many bytes a
    piece of BGZF has; PIECE if not given.
    """
    with open(source.path, "rb") as file:
        if source.packing == "bgzf":
            groups = _bgzf_groups(file, source.path, PIECE if size is None else size)
            yield from in_order(pool, lambda group: _inflate(*group, source.path), groups, depth)
            return
        for data in _read_pieces(file) if source.packing == "plain" else _gunzip(file, source.path):
            piece = np.empty(ROOM + len(data), np.uint8)
            piece[ROOM:] = np.frombuffer(data, np.uint8)
            yield piece


def in_order(pool: ThreadPoolExecutor, work: Callable, items: Iterable, depth: int) -> Iterator:
    """``work(item)`` of each item, in order, done by ``pool`` at most ``depth`` items ahead."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def file_packing(path: Path) -> str:
    """ "plain", "gzip" or "bgzf". Raises OSError."""
    with open(path, "rb") as file:
        return _packing(file.read(_READ))


def truncated(path: Path) -> InputError:
    """The error for a file that ends too early."""
    return InputError(f"{path}: the file is truncated (its end is missing); copy or make it again")


def _packing(head: bytes) -> str:
    if head[:2] != b"\x1f\x8b":
        return "plain"
    return "bgzf" if head[12:16] == b"BC\x02\x00" and head[3] & 4 else "gzip"


def _check_bgzf_end(file: BinaryIO, path: Path) -> None:
    """Every complete BGZF file ends in one fixed empty block; htslib reads on silently without it."""
    size = file.seek(0, 2)
    file.seek(max(0, size - len(_BGZF_END)))
    if file.read() != _BGZF_END:
        raise truncated(path)


def _is_bcf(path: Path, head: bytes, packing: str) -> bool:
    """Whether the file is BCF rather than VCF. Raises InputError when it is neither."""
    if not head:
        raise InputError(f"{path}: the file is empty; make it again")
    if packing != "plain":
        try:
            head = zlib.decompressobj(_GZIP).decompress(head, 64)
        except zlib.error:
            raise _damaged(path) from None
    if head.startswith(b"##fileformat=VCF"):
        return False
    if head.startswith(b"BCF\x02"):
        return True
    raise InputError(f"{path}: neither VCF nor BCF (it starts with {head[:16]!r}); give a VCF, VCF.gz or BCF file")


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: the compressed data are damaged; copy or make the file again (gzip -t FILE checks it)")


def _read_pieces(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(PIECE):
        yield data


def _gunzip(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The inflated bytes of a gzip file of any number of members, at most PIECE at a time."""
    member, complete = zlib.decompressobj(_GZIP), False
    try:
        while data := file.read(_READ):
            while data:
                piece = member.decompress(data, PIECE)
                complete = member.eof
                data = member.unused_data if complete else member.unconsumed_tail
                member = zlib.decompressobj(_GZIP) if complete else member
                if piece:
                    yield piece
        if not complete:
            yield member.flush()
            complete = member.eof
    except zlib.error:
        raise _damaged(path) from None
    if not complete:
        raise truncated(path)


def _bgzf_groups(file: BinaryIO, path: Path, enough: int) -> Iterator[tuple[list[memoryview], int]]:
    """Whole BGZF blocks in groups that inflate to about ``enough`` bytes, each with its inflated size."""
    rest = b""
    group: list[memoryview] = []
    size = 0
    while more := file.read(_READ):
        data = memoryview(rest + more)
        at = 0
        while (length := _block_length(data, at, path)) and at + length <= len(data):
            group.append(data[at : at + length])
            size += struct.unpack_from("<I", data, at + length - 4)[0]
            at += length
            if size >= enough:
                yield group, size
                group, size = [], 0
        rest = bytes(data[at:])
    if rest:
        raise truncated(path)
    yield group, size


def _block_length(data: memoryview, at: int, path: Path) -> int:
    """Length of the BGZF block at ``at``, or 0 when too little of it is there to tell."""
    if at + _BLOCK_HEADER > len(data):
        return 0
    if data[at : at + 2] != b"\x1f\x8b" or data[at + 12 : at + 16] != b"BC\x02\x00":
        raise _damaged(path)
    return struct.unpack_from("<H", data, at + 16)[0] + 1


def _inflate(blocks: list[memoryview], size: int, path: Path) -> np.ndarray:
    """(ROOM + size,) uint8: the blocks' text behind ROOM free bytes. Block checksums are verified."""
    piece = np.empty(ROOM + size, np.uint8)
    at = ROOM
    try:
        for block in blocks:
            # A buffer of the largest block size makes this one call of inflate, 2x faster than the default's growth.
            text = zlib.decompress(block, _GZIP, 1 << 16)
            piece[at : at + len(text)] = np.frombuffer(text, np.uint8)
            at += len(text)
    except (zlib.error, ValueError):
        raise _damaged(path) from None
    return piece


def _vcf_header(pieces: Iterator[bytes], path: Path) -> str:
    """The header's text up to and with the #CHROM line."""
    data = bytearray()
    for piece in pieces:
        data += piece
        start = data.find(b"\n#CHROM")
        end = data.find(b"\n", start + 1)
        if start >= 0 and end >= 0:
            return data[:end].decode("utf-8", "replace")
        if start < 0 and re.search(rb"\n[^#\r\n]", data):
            break
    raise InputError(f"{path}: the header has no complete #CHROM line; the file is damaged or not a VCF")


def _bcf_header(pieces: Iterator[bytes], path: Path) -> str:
    """The text header within a BCF file."""
    data = bytearray()
    for piece in pieces:
        data += piece
        length = struct.unpack_from("<I", data, 5)[0] if len(data) >= 9 else PIECE << 8
        if len(data) >= 9 + length:
            return data[9 : 9 + length].rstrip(b"\0\n").decode("utf-8", "replace")
    raise truncated(path)


def _samples(header: str, path: Path) -> tuple[str, ...]:
    """Sample names of the header's last line. Raises InputError when there are none or one comes twice."""
    samples = header.rstrip("\r\n").rpartition("\n")[2].split("\t")[_FIXED_COLUMNS:]
    if not samples:
        raise InputError(f"{path}: the file has no samples; give one with genotypes")
    seen: set[str] = set()
    for name in samples:
        if name in seen:
            raise InputError(f"{path}: sample {name} comes twice in the header; rename one (bcftools reheader -s)")
        seen.add(name)
    return tuple(samples)


def _contigs(header: str) -> list[tuple[str, int | None]]:
    """(name, length) of each ##contig line."""
    contigs = []
    for fields in re.findall(r"^##contig=<(.*)>", header, re.MULTILINE):
        name = re.search(r"(?:^|,)ID=([^,]+)", fields)
        length = re.search(r"(?:^|,)length=(\d+)", fields)
        if name:
            contigs.append((name[1], int(length[1]) if length else None))
    return contigs
