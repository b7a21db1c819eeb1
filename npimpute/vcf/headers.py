"""One header of several."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from itertools import pairwise

from npimpute.contigs import contig_key
from npimpute.errors import InputError
from npimpute.vcf.source import Source

_IDX = re.compile(r",IDX=\d+(?=[,>])")
_STRUCTURED = re.compile(r"##(\w+)=<(?:.*?,)?ID=([^,>]+)")
_FIXED = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT")


def merged_header(sources: list[Source], samples: tuple[str, ...], contigs: list[str], without: str = "") -> str:
    """The lines of the first header, then what only others declare; text with its final newline.

    contigs: their order, of ``contig_order``. without: an INFO key that is left out. Raises InputError where two
    headers declare a contig, INFO or FORMAT key differently, or have not the same FORMAT keys.
    """
    lines: dict[tuple[str, str], tuple[str, Source]] = {}
    for source in sources:
        for key, line in _meta_lines(source):
            if not key[0] and source is not sources[0]:
                continue
            first, owner = lines.setdefault(key, (line, source))
            a, b = _definition(key[0], first), _definition(key[0], line)
            if a != b and None not in (a, b):
                raise InputError(f"{owner.path} and {source.path}: {key[0]} {key[1]} is {a} here and {b} there")
            if a is None and b is not None:
                lines[key] = line, source
    _check_formats(sources)
    lines.pop(("INFO", without), None)
    of_contigs = [lines["contig", name][0] for name in contigs]
    out = []
    for (kind, _), (line, _) in lines.items():
        if kind != "contig":
            out.append(line)
        elif of_contigs:
            out += of_contigs
            of_contigs = []
    return "\n".join([*out, "\t".join([*_FIXED, *samples])]) + "\n"


def declared(source: Source, kind: str) -> set[str]:
    """The keys of the header's lines of a kind, INFO or FORMAT."""
    return {name for (found, name), _ in _meta_lines(source) if found == kind}


def contig_order(sources: list[Source]) -> list[str]:
    """The contigs of all headers, in an order that agrees with each; where they leave it open, numbers count.

    Raises InputError where no order agrees with all, or two headers spell a contig differently.
    """
    _check_spelling(sources)
    graph: TopologicalSorter[str] = TopologicalSorter()
    for source in sources:
        names = list(dict.fromkeys(name for name, _ in source.contigs))
        for name in names:
            graph.add(name)
        for before, name in pairwise(names):
            graph.add(name, before)
    try:
        graph.prepare()
    except CycleError as error:
        names = ", ".join(dict.fromkeys(error.args[1]))
        raise InputError(f"the headers have contigs in different orders ({names}): sort the files alike") from None
    out, ready = [], []
    while graph.is_active():
        for name in graph.get_ready():
            heappush(ready, (_natural(name), name))
        _, name = heappop(ready)
        graph.done(name)
        out.append(name)
    return out


def _natural(name: str) -> list:
    """A key of sorting by which chr2 comes before chr10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _meta_lines(source: Source) -> list[tuple[tuple[str, str], str]]:
    """((kind, ID), line) of each ## line; the kind is "" and the ID the line for those without an ID."""
    out = []
    for line in source.header.splitlines()[:-1]:
        line = _IDX.sub("", line)
        found = _STRUCTURED.match(line)
        out.append(((found[1], found[2]) if found else ("", line), line))
    return out


def _definition(kind: str, line: str) -> str | None:
    """What must be the same wherever it is declared."""
    if kind == "contig":
        length = re.search(r"[<,]length=(\d+)", line)
        return f"{length[1]} bp" if length else None
    if kind not in ("INFO", "FORMAT"):
        return None
    number, value = (re.search(rf"[<,]{name}=([^,>]+)", line) for name in ("Number", "Type"))
    return f"{number and number[1]} {value and value[1]}"


def _check_formats(sources: list[Source]) -> None:
    """Raises InputError where the FORMAT keys of two headers are not the same."""
    first = declared(sources[0], "FORMAT")
    for source in sources[1:]:
        if odd := first ^ declared(source, "FORMAT"):
            found = f"FORMAT {', '.join(sorted(odd))} is in only one of {sources[0].path} and {source.path}"
            raise InputError(f"{found}: impute both with the same --format")


def _check_spelling(sources: list[Source]) -> None:
    """Raises InputError where one chromosome has different names in two headers."""
    seen: dict[str, tuple[str, Source]] = {}
    for source in sources:
        for name, _ in source.contigs:
            other, owner = seen.setdefault(contig_key(name), (name, source))
            if other != name and name not in dict(owner.contigs) and other not in dict(source.contigs):
                found = f"contig {other} of {owner.path} is {name} in {source.path}"
                raise InputError(f"{found}: give them one name (bcftools annotate --rename-chrs)")
