"""The outputs of several runs to one: batches of samples side by side, regions one after the other.

Batches are files of different samples at the same sites. FORMAT is copied; AF, DR2, R2, INFO and, at untyped sites,
EXPR2 are computed anew from NH and sums, which add up. Regions are files of the same samples. A batch may itself come
in regions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..outputs import check_place
from ..vcf.headers import contig_order, declared, merged_header
from ..vcf.info import SUMS, info_words
from ..vcf.lines import LineReader, LineWriter, Record
from ..vcf.source import Source, open_source
from ..vcf.write import file_kind
from .quality import dr2, expected_r2

log = logging.getLogger(__name__)

BLOCK_BYTES = 4 << 20
"""Lines worked on at a time, about; a single record of very many samples may take more."""
READ_BYTES = 64 << 20
"""Text that is held of all inputs, about."""
_MOST_THREADS = 64  # each holds blocks that wait

_COLUMNS = ("CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")
_SITE = ("CHROM", "POS", "REF", "ALT")
_SUMS = ("NH", *SUMS)
# What is computed, added, or, as ER2 and at typed sites EXPR2, neither.
_OWN = {b"AF", b"DR2", b"R2", b"INFO", b"ER2", b"EXPR2", *(key.encode() for key in _SUMS), b"TYPED", b"IMP", b"."}


@dataclass(frozen=True)
class Batch:
    """Files of the same samples, in the order given."""

    samples: tuple[str, ...]
    sources: list[Source]

    @property
    def name(self) -> str:
        more = f" (and {len(self.sources) - 1} more files of its samples)" if len(self.sources) > 1 else ""
        return f"{self.sources[0].path}{more}"


def merge(files: list[Path], out: Path, threads: int = 1, overwrite: bool = False) -> None:
    """Merges ``files``, VCF or BCF, of one panel and the same options, to ``out``, .vcf.gz or .bcf with index or .vcf.

    Memory does not depend on the number of records, nor the bytes on the threads. Raises ConfigError for another
    kind of name; InputError for files that do not fit together, that cannot be read, or were not written by
    ``npimpute run``, and where the output cannot be written.
    """
    file_kind(out)
    _check_names(files, out)
    check_place(out, overwrite)
    sources = [open_source(path) for path in files]
    batches = _batches(sources)
    contigs = contig_order(sources)
    samples = tuple(name for batch in batches for name in batch.samples)
    if len(batches) > 1:
        _check_origin(sources)
    header = merged_header(sources, samples, contigs, without="ER2" if len(batches) > 1 else "")
    longest = max((length or 0 for source in sources for _, length in source.contigs), default=0)
    threads, n = min(threads, _MOST_THREADS), 0
    with ThreadPoolExecutor(threads) as pool, LineWriter(out, header, longest, threads, overwrite) as writer:
        rank = {name: i for i, name in enumerate(contigs)}
        reader = LineReader(rank, pool, max(1 << 16, min(BLOCK_BYTES, READ_BYTES // len(batches))))
        for rows in _blocks([reader.joined(batch.sources) for batch in batches], batches):
            lines = _pasted(rows) if len(batches) > 1 else [b"\t".join(record.fields) for (record,) in rows]
            writer.write(lines, max(row[0].pos + len(row[0].fields[3]) - 1 for row in rows))
            n += len(rows)
    counts = (out, n, len(samples), len(files), len(batches))
    log.info("%s: %d records of %d samples; files: %d, batches of samples: %d", *counts)


def _check_names(files: list[Path], out: Path) -> None:
    """Raises InputError unless there are two files, each given once, and none of them is the output."""
    if len(files) < 2:
        raise InputError(f"merge: {len(files)} file{'s' * (len(files) != 1)} given: name two or more")
    seen: set[str] = set()
    for path in files:
        real = os.path.realpath(path)
        if real == os.path.realpath(out):
            raise InputError(f"{out}: is also an input: choose another name for --out")
        if real in seen:
            raise InputError(f"{path}: is given twice")
        seen.add(real)


def _batches(sources: list[Source]) -> list[Batch]:
    """Files by their samples, in order. Raises InputError where two share some samples, or have them in other order."""
    batches: dict[tuple[str, ...], Batch] = {}
    owner: dict[str, Batch] = {}
    for source in sources:
        if source.samples in batches:
            batches[source.samples].sources.append(source)
            continue
        batch = batches[source.samples] = Batch(source.samples, [source])
        for name in source.samples:
            other = owner.setdefault(name, batch)
            if other is batch:
                continue
            found = f"{other.sources[0].path} and {source.path}"
            if sorted(other.samples) == sorted(source.samples):
                raise InputError(f"{found} have the same samples in different orders: reorder one (bcftools view -S)")
            remedy = "files must have the same samples, or none in common"
            raise InputError(f"{found}: sample {name} is in both, others are not: {remedy}")
    return list(batches.values())


def _check_origin(sources: list[Source]) -> None:
    """Raises InputError where a header lacks what batches are merged by; warns of different programs."""
    for source in sources:
        lacking = [key for key in _SUMS if key not in declared(source, "INFO")]
        if lacking:
            raise InputError(
                f"{source.path}: has no INFO {', '.join(lacking)}: only outputs of npimpute run can be merged by sample"
            )
    programs = {line for source in sources for line in source.header.splitlines() if line.startswith("##source=")}
    if len(programs) > 1:
        log.warning("batches were imputed by different programs: %s", ", ".join(sorted(programs)))


def _blocks(streams: list[Iterator[Record]], batches: list[Batch]) -> Iterator[list[tuple[Record, ...]]]:
    """Some records at a time, of each the line of every batch. Raises InputError where sites differ."""
    rows: list[tuple[Record, ...]] = []
    size = 0
    for row in zip_longest(*streams):
        if len(row) > 1:
            _check_same(row, batches)
        rows.append(row)
        size += sum(len(record.fields[9]) for record in row) + 256
        if size >= BLOCK_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _check_same(row: tuple[Record | None, ...], batches: list[Batch]) -> None:
    """Raises InputError unless all are one record, with the same FORMAT."""
    if None in row:
        record = next(record for record in row if record is not None)
        found = f"{record.path} has {record.name}, after the last record of {batches[row.index(None)].name}"
        raise InputError(f"{found}: {_ALIKE}")
    first = row[0]
    for record in row[1:]:
        if record.fields[:7] == first.fields[:7] and record.fields[8] == first.fields[8]:
            continue
        column = next(name for i, name in enumerate(_COLUMNS) if i != 7 and record.fields[i] != first.fields[i])
        if any(record.fields[_COLUMNS.index(name)] != first.fields[_COLUMNS.index(name)] for name in _SITE):
            raise InputError(f"{first.path} has {first.name} where {record.path} has {record.name}: {_ALIKE}")
        a, b = (each.fields[_COLUMNS.index(column)].decode("utf-8", "replace") for each in (first, record))
        raise InputError(f"{first.name}: {column} is {a} in {first.path}, {b} in {record.path}: {_ALIKE}")


_ALIKE = "batches need the same sites: impute them with the same panel and options, and do not filter them"


def _pasted(rows: list[tuple[Record, ...]]) -> list[bytes]:
    """The merged line of each record."""
    sums: list[list[float]] = [[] for _ in _SUMS]
    ends, tails = [0], []
    for row in rows:
        infos = [_parsed(record) for record in row]
        tails.append(_tail(row, infos))
        n_alt = 0 if row[0].fields[4] == b"." else row[0].fields[4].count(b",") + 1
        if n_alt:
            of_batches = [_sums(record, info, n_alt) for record, info in zip(row, infos, strict=True)]
            for total, parts in zip(sums, zip(*of_batches, strict=True), strict=True):
                total += [sum(values) for values in zip(*parts, strict=True)]
        ends.append(ends[-1] + n_alt)
    words = _words(np.array(sums[0], np.int64), *map(np.array, sums[1:]))
    lines = []
    for row, start, stop, tail in zip(rows, ends, ends[1:], tails, strict=False):
        info = tail[1:] or b"."
        if stop > start:
            keys = [key for key in words if not (key == "EXPR2" and b"TYPED" in tail.split(b";"))]
            values = (f"{key}={','.join(words[key][start : start + 1 if key == 'NH' else stop])}" for key in keys)
            info = ";".join(values).encode() + tail
        lines.append(b"\t".join([*row[0].fields[:7], info, row[0].fields[8], *(record.fields[9] for record in row)]))
    return lines


def _words(n: np.ndarray, *sums: np.ndarray) -> dict[str, list[str]]:
    """INFO keys in the order of ``npimpute run``, with the text of each row's value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        af = (sums[0] / n).astype(np.float32)
    quality = info_words("DR2", dr2(n, *sums[:2]))
    out = {"AF": info_words("AF", af), "DR2": quality, "R2": quality, "INFO": quality}
    out |= {"EXPR2": info_words("EXPR2", expected_r2(n, *sums)), "NH": [str(x) for x in n.tolist()]}
    return out | {key: info_words(key, values) for key, values in zip(SUMS, sums, strict=True)}


def _parsed(record: Record) -> dict[bytes, bytes]:
    return {key: value for key, _, value in (pair.partition(b"=") for pair in record.fields[7].split(b";"))}


def _sums(record: Record, info: dict[bytes, bytes], n_alt: int) -> list[list[float]]:
    """NH and the sums, by ALT allele. Raises InputError unless they are there, with a value for each ALT allele."""
    try:
        sums = [[float(word) for word in info[key.encode()].split(b",")] for key in SUMS]
        if all(len(values) == n_alt for values in sums):
            return [[int(info[b"NH"])] * n_alt, *sums]
    except (KeyError, ValueError):
        pass
    found = f"INFO lacks {', '.join(_SUMS[:-1])} or {_SUMS[-1]} with a value for each ALT allele"
    raise InputError(f"{record.path}: {record.name}: {found}: only outputs of npimpute run can be merged by sample")


def _tail(row: tuple[Record, ...], infos: list[dict[bytes, bytes]]) -> bytes:
    """Flags, and what INFO holds beyond our keys, each with a semicolon before it.

    TYPED must agree. IMP need not at typed sites, where it is set in those batches in which a genotype was missing;
    one run over all would set it then. Raises InputError where batches disagree.
    """
    flags = [(b"TYPED" in info, b"TYPED" in info or b"IMP" in info) for info in infos]
    others = [[pair for pair in info.items() if pair[0] not in _OWN] for info in infos]
    for record, flag, other in zip(row, flags, others, strict=True):
        if flag != flags[0]:
            found = f"{row[0].path} and {record.path} differ in whether it was typed or imputed"
            raise InputError(f"{row[0].name}: {found} (INFO TYPED, IMP): batches must have the same typed sites")
        if other != others[0]:
            key = next(key for key, _ in dict(set(other) ^ set(others[0])).items()).decode("utf-8", "replace")
            found = f"INFO {key} of {row[0].path} and {record.path} is not the same"
            raise InputError(f"{row[0].name}: {found}: remove it (bcftools annotate -x INFO/{key})")
    typed, imputed = flags[0][0], any(b"IMP" in info for info in infos)
    rest = b"".join(b";" + key + b"=" * bool(value) + value for key, value in others[0])
    return b";TYPED" * typed + b";IMP" * imputed + rest
