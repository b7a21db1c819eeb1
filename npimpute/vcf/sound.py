"""Which records of a file htslib and cyvcf2 can be given: at a genotype field of no type the one ends the process, at
one of no length, at a line of text with too few columns, and at any unreadable one that is the first of a contig which
the header does not name, the other crashes.

Source: VCF 4.3 specification, section 6.3 (BCF2 records).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numba import njit

from npimpute.vcf.source import ROOM, Source, file_packing, text_pieces
from npimpute.vcf.text import Slab, line_slabs

_MAGIC = b"BCF\x02"
_LONGEST = 1 << 31


def sound_records(path: Path, threads: int, contigs: Callable[[set[str]], None] = lambda names: None) -> Iterator[bool]:
    """For every record in turn whether it can be read: of BCF, whether it has as many samples as the header and its
    first FORMAT field a type and a length; of text, whether the line has as many columns as the header. Ends where the
    file does, or where no further record can be found. contigs: told, of text, the names of contigs before the first
    record that has them. Raises InputError where the compressed data are damaged."""
    with ThreadPoolExecutor(threads) as pool:
        if is_bgzf_bcf(path):
            yield from _of_bcf(text_pieces(Source(path, True, "bgzf", (), [], ""), pool, threads))
        else:
            source = Source(path, False, file_packing(path), (), [], "")
            yield from _of_text(line_slabs(text_pieces(source, pool, threads)), contigs)


def is_bgzf_bcf(path: Path) -> bool:
    """Whether it is BCF in BGZF, as all tools write it."""
    import gzip

    try:
        with gzip.open(path) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, EOFError):
        return False


def _of_text(slabs: Iterator[Slab], contigs: Callable[[set[str]], None]) -> Iterator[bool]:
    tabs, known = None, set()
    for slab in slabs:
        text = slab.buf[slab.start : slab.stop]
        ends = np.flatnonzero(text == ord("\n"))
        starts = np.append(0, ends[:-1] + 1)
        of_tabs = np.flatnonzero(text == ord("\t"))
        until = np.searchsorted(of_tabs, ends)
        counts = np.diff(until, prepend=0)
        heads, records = text[starts] == ord("#"), slice(None)
        if tabs is None:
            names = [i for i in np.flatnonzero(heads) if text[starts[i] : starts[i] + 6].tobytes() == b"#CHROM"]
            if not names:
                continue
            tabs, records = counts[names[0]], slice(names[0] + 1, None)
        # To htslib the header ends with its first #CHROM line: what follows are records, whatever they begin with.
        sound = ((counts == tabs) & ~heads)[records]
        at = starts[records][sound], of_tabs[(until - counts)[records][sound]]
        names = {text[start:stop].tobytes() for start, stop in zip(*(x.tolist() for x in at), strict=True)} - known
        known |= names
        if names:
            contigs({name.decode(errors="replace") for name in names})
        yield from sound.tolist()


def _of_bcf(pieces: Iterator[np.ndarray]) -> Iterator[bool]:
    rest, samples = np.empty(0, np.uint8), -1
    for piece in pieces:
        rest = np.concatenate([rest, piece[ROOM:]])
        if samples < 0:
            length = 9 + int(rest[5:9].view("<u4")[0]) if len(rest) >= 9 else len(rest) + 1
            if length > len(rest):
                continue
            names = rest[9:length].tobytes().rpartition(b"\n#CHROM\t")[2]
            samples, rest = max(0, names.count(b"\t") - 7), rest[length:]
        sound = np.empty(len(rest) // 32 + 1, np.bool_)
        n, used, lost = _scan(rest, samples, sound)
        yield from sound[:n].tolist()
        if lost:
            return
        rest = rest[used:].copy()


@njit(cache=True, nogil=True)
def _word(data, at):
    return (
        np.int64(data[at]) | np.int64(data[at + 1]) << 8 | np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
    )


@njit(cache=True, nogil=True)
def _scan(data, samples, sound):
    """Looks at the whole records of ``data``; returns how many, where the next begins, and whether none can."""
    n = at = 0
    while at + 8 <= len(data):
        shared, own = _word(data, at), _word(data, at + 4)
        if shared < 24 or shared + own > _LONGEST:
            return n, at, True
        end = at + 8 + shared + own
        if end > len(data):
            break
        sound[n] = True
        if (_word(data, at + 28) & 0xFFFFFF) != samples:
            sound[n] = False
        elif data[at + 31] > 0 and samples > 0:  # there are fields
            field = at + 8 + shared
            key = data[field] & 15 if field < end else 0
            kind = field + 1 + (1 if key == 1 else 2 if key == 2 else 4)
            sound[n] = 1 <= key <= 3 and kind < end and data[kind] & 15 in (1, 2, 3, 5, 7) and data[kind] >> 4 > 0
        n += 1
        at = end
    return n, at, False
