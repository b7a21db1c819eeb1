"""VCF text to panel haplotypes or target alleles: slabs of whole lines, parsed by several threads at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from npimpute.errors import InputError
from npimpute.types import ABSENT, Haplotypes, Sites, Targets
from npimpute.vcf import parse
from npimpute.vcf.records import Part, Selection, clip, genotype_error, no_genotypes, too_many_alleles
from npimpute.vcf.region import Region
from npimpute.vcf.source import ROOM, Source, in_order, text_pieces, truncated
from npimpute.vcf.target_calls import target_lines

_SHORTEST_FIXED = 18  # nine fields of one byte, each with its tab
_NEWLINE = np.frombuffer(b"\n", np.uint8)


@dataclass(frozen=True)
class Slab:
    """Whole lines: buf[start:stop] of a uint8 array, ending in a newline.

    cut: that newline was not in the file, so the last line may lack its end.
    """

    buf: np.ndarray
    start: int
    stop: int
    cut: bool = False


@dataclass(frozen=True)
class _Index:
    """The lines of a slab; arrays as in ``parse.index_lines``."""

    slab: Slab
    cols: np.ndarray
    pos: np.ndarray
    n_alt: np.ndarray

    def text(self, start: int, stop: int) -> str:
        return self.slab.buf[start:stop].tobytes().decode("utf-8", "replace")

    def contig(self, line: int) -> str:
        return self.text(self.cols[line, 0], self.cols[line, 1] - 1)

    def field(self, lines: np.ndarray, field: int) -> list[str]:
        """One field of each of ``lines``."""
        nothing = np.empty(0, np.uint8)
        joined = np.empty(parse.join_field(self.slab.buf, self.cols, lines, field, nothing), np.uint8)
        parse.join_field(self.slab.buf, self.cols, lines, field, joined)
        return joined.tobytes().decode("utf-8", "replace").split("\n")[:-1]


def text_parts(
    source: Source, selection: Selection, region: Region | None, threads: int, target: bool = False
) -> Iterator[Part]:
    """The records of a VCF in file order, of a panel or a ``target`` file, all of whose samples are selected then.

    Raises InputError when its compressed data are damaged. What lies before a region is inflated, its checksums
    verified and its lines found; genotypes are parsed only within.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        slabs = line_slabs(text_pieces(source, pool, threads))
        work = lambda slab: (parse_slab(slab, selection, region, target), slab.cut)  # noqa: E731
        before = None
        for parts, cut in in_order(pool, work, slabs, threads):
            for part in parts:
                if cut and not part.error and before and _lost_half(before.data, part.data, selection):
                    raise truncated(source.path)
                before = part if len(part.data.sites) else before
                yield part
    finally:
        pool.shutdown(cancel_futures=True)


def line_slabs(pieces: Iterator[np.ndarray]) -> Iterator[Slab]:
    """Move the borders of ``pieces`` (as of ``text_pieces``) to line ends."""
    rest = np.empty(0, np.uint8)
    for piece in pieces:
        last = parse.last_newline(piece, ROOM, len(piece))
        if last < 0:
            rest = np.concatenate([rest, piece[ROOM:]])
            continue
        if len(rest) > ROOM:
            yield Slab(np.concatenate([rest, piece[ROOM : last + 1]]), 0, len(rest) + last + 1 - ROOM)
        else:
            piece[ROOM - len(rest) : ROOM] = rest
            yield Slab(piece, ROOM - len(rest), last + 1)
        rest = piece[last + 1 :]
    if len(rest):
        yield Slab(np.concatenate([rest, _NEWLINE]), 0, len(rest) + 1, cut=True)


def parse_slab(slab: Slab, selection: Selection, region: Region | None, target: bool = False) -> list[Part]:
    """The records of ``slab``, one Part for each run of a contig; a record at fault ends the last one."""
    n_samples = len(selection.samples)
    capacity = (slab.stop - slab.start) // (_SHORTEST_FIXED + 2 * n_samples) + 1
    cols = np.empty((capacity, parse.INDEX_WIDTH), np.int64)
    pos, n_alt = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    new_contig = np.empty(capacity, np.bool_)
    n, fault, at = parse.index_lines(slab.buf, slab.start, slab.stop, cols, pos, n_alt, new_contig)
    index = _Index(slab, cols[:n], pos[:n], n_alt[:n])
    borders = [*np.flatnonzero(new_contig[:n]).tolist(), n]
    parts = []
    for start, stop in pairwise(borders):
        while start < stop:
            part, start = _parse_run(index, start, stop, selection, region, target)
            parts.append(part)
            if part.error:
                return parts
    if fault != parse.OK:
        parts.append(Part.of_error(_line_error(index, at, fault, selection)))
    return parts


def _parse_run(
    index: _Index, start: int, stop: int, selection: Selection, region: Region | None, target: bool
) -> tuple[Part, int]:
    """Lines start..stop-1, all of one contig, or as many as have the same samples haploid; and the line after them."""
    contig = index.contig(start)
    all_pos = index.pos[start:stop].copy()  # not to hold the whole index
    wanted = np.ones(stop - start, np.bool_)
    if region is not None:
        wanted = (all_pos >= region.start) & region.has_contig(contig)
        wanted &= True if region.end is None else all_pos <= region.end
    monomorphic = wanted & (index.n_alt[start:stop] == 0) & (not target)
    lines = start + np.flatnonzero(wanted & ~monomorphic)
    buf, cols, n_alt = index.slab.buf, index.cols, index.n_alt
    unphased = np.zeros((len(lines), len(selection.samples) if selection.unphased else 0), np.bool_)
    ploidy = np.zeros(len(selection.chosen), np.int8)
    if target:
        rows = np.empty((len(lines), selection.k), np.int8)
        done, fault, sample, at = target_lines(buf, cols, lines, n_alt, rows, unphased)
    else:
        rows = np.empty((int(n_alt[lines].sum()), selection.row_bytes), np.uint8)
        chosen = (selection.slots, selection.chosen, ploidy)
        done, fault, sample, at = parse.pack_lines(buf, cols, lines, n_alt, *chosen, rows)
    error = None
    if fault != parse.OK:
        stop = int(lines[done])
        if fault != parse.CHANGED:
            error = _genotype_error(index, stop, fault, sample, at, selection, target)
            stop += 1  # for its position to be seen
        lines = lines[:done]
        rows = rows[: done if target else int(n_alt[lines].sum())]
    names = (index.field(lines, field) for field in (parse.ID, parse.REF, parse.ALT))
    sites = Sites(contig, index.pos[lines], *names)
    if target:
        marked = unphased[: len(lines)] if unphased.any() else None
        data = Targets(sites, rows, selection.samples, marked)
    else:
        data = Haplotypes.of_pairs(sites, rows, ploidy if len(lines) else None, len(ploidy))
    part = Part(contig, all_pos[: stop - start], data, int(monomorphic[: stop - start].sum()), error)
    return part, stop


def _lost_half(before: Haplotypes | Targets, last: Haplotypes | Targets, selection: Selection) -> bool:
    """Whether the file's last line, which has no newline, ends in a haploid call, of the last sample, where the line
    before has a diploid one, and nobody else's ploidy changes."""
    if not len(last.sites) or last.sites.contig != before.sites.contig or selection.slots[-1] < 0:
        return False
    changed = _haploid(before) - _haploid(last)  # of a call that is missing NaN
    return bool(changed[-1] == -1 and not (np.abs(changed[:-1]) == 1).any())


def _haploid(data: Haplotypes | Targets) -> np.ndarray:
    """(samples,) float64: 1 where the last record's call is haploid, 0 diploid, NaN missing."""
    if isinstance(data, Haplotypes):
        return np.zeros(data.people) if data.ploidy is None else 2.0 - data.ploidy
    first, second = data.alleles[-1, 0::2], data.alleles[-1, 1::2]
    return np.where((first < 0) & (second < 0), np.nan, second == ABSENT)


def _genotype_error(
    index: _Index, line: int, fault: int, sample: int, at: int, selection: Selection, target: bool
) -> InputError:
    """The error of a line whose fixed fields are sound."""
    path, end = selection.path, int(index.cols[line, parse.END])
    record = f"{index.contig(line)}:{index.pos[line]}"
    if fault == parse.NO_GT:
        return no_genotypes(path, record, index.field(np.array([line]), parse.FORMAT)[0].split(":"))
    if fault == parse.ALTS:
        return too_many_alleles(path, record, int(index.n_alt[line]))
    if index.slab.cut and line == len(index.cols) - 1:
        stump = fault in (parse.PLOIDY, parse.MALFORMED) and "\t" not in index.text(at, end)
        if stump or fault == parse.TOO_FEW:
            return truncated(path)
    if fault in (parse.TOO_FEW, parse.TOO_MANY):
        many = 9 + len(selection.samples)
        found = f"{'fewer' if fault == parse.TOO_FEW else 'more'} than the header's {many} columns"
        return InputError(f"{path}: {record}: the record has {found}; the file is damaged: make it again")
    genotype = index.text(at, end).split("\t", 1)[0].split(":", 1)[0]
    return genotype_error(path, record, selection.samples[sample], genotype, fault, target)


def _line_error(index: _Index, at: int, fault: int, selection: Selection) -> InputError:
    """The error of the line at ``at``, whose fixed fields could not be parsed."""
    slab, path = index.slab, selection.path
    line = slab.buf[at : slab.stop].tobytes().split(b"\n", 1)[0].decode("utf-8", "replace")
    if slab.cut and at + len(line.encode()) + 1 >= slab.stop:
        return truncated(path)
    fields = line.split("\t")
    if fault == parse.POSITION:
        found = f"POS {clip(fields[1])!r} is not a number"
        return InputError(f"{path}: contig {clip(fields[0])}: {found}; the file is damaged: make it again")
    record = clip(":".join(fields[:2]))
    found = (
        f"the record has {len(fields)} columns, some perhaps empty, where the header has {9 + len(selection.samples)}"
    )
    return InputError(f"{path}: {record}: {found}; columns are parted by single tabs: make the file again")
