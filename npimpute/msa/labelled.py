"""Labelled sequences for fine-tuning, split as they were published.

Either of two layouts, each with the folders ``train`` and ``test``, and in them a file for each class, which it names:

- intervals, CLASS.csv or CLASS.csv.gz, as GenomicBenchmarks has them: columns id, region, start, end, strand. start and
  end are 0-based, half-open; region is a contig of the genome, 20 being chr20; a strand of - is read as the reverse
  complement. They need a genome.
- sequences, CLASS.fa or CLASS.fa.gz, FASTA.

Source: Gresova et al. 2023, Genomic benchmarks, BMC Genomic Data 24:25.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..dna.genome import Genome, open_genome
from ..errors import InputError
from .alphabet import complement, encode
from .maf import lines

SPLITS = ("train", "test")
_INTERVALS, _FASTA = (".csv", ".csv.gz"), (".fa", ".fasta", ".fa.gz", ".fasta.gz")
_COLUMNS = {"region": ("region", "chrom", "chr", "contig"), "start": ("start",), "end": ("end",), "strand": ("strand",)}


class Labelled(NamedTuple):
    """Bases ``start`` to ``end`` of a contig, 0-based half-open, or all of a FASTA record. label: the class's name."""

    contig: str
    start: int
    end: int
    strand: str
    label: str
    source: Path


def read_labelled(folder: Path) -> dict[str, list[Labelled]]:
    """ "train" and "test" -> their intervals or sequences, class by class in the order of names.

    Raises InputError where the folder is of neither layout, or the splits have other classes.
    """
    found = {split: _read_split(Path(folder) / split) for split in SPLITS}
    train, test = ({item.label for item in found[split]} for split in SPLITS)
    if train != test or len(train) < 2:
        told = f"train has {', '.join(sorted(train))}; test has {', '.join(sorted(test))}"
        raise InputError(f"{folder}: both splits need the same two classes or more ({told})")
    return found


def sequences(items: list[Labelled], genome: Genome | None = None) -> Iterator[tuple[np.ndarray, str]]:
    """(codes (l,) uint8, label) of each, in order. genome: of intervals. Raises InputError."""
    opened: dict[Path, Genome] = {}
    for item in items:
        of_fasta = item.source.name.endswith(_FASTA)
        if of_fasta and item.source not in opened:
            opened = {item.source: open_genome(item.source)}
        place = opened[item.source] if of_fasta else genome
        if place is None:
            raise InputError(f"{item.source}: has intervals, which need a genome to be read from")
        end = place.lengths[item.contig] if of_fasta else item.end
        codes = encode(place.fetch(item.contig, item.start, end))
        yield (complement(codes[::-1]) if item.strand == "-" else codes), item.label


def _read_split(folder: Path) -> list[Labelled]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a labelled set has the folders {' and '.join(SPLITS)}")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(_INTERVALS + _FASTA))
    if not files:
        raise InputError(f"{folder}: no file of a class (CLASS.csv, CLASS.csv.gz, CLASS.fa, CLASS.fa.gz)")
    items = []
    for path in files:
        ending = max((e for e in _INTERVALS + _FASTA if path.name.endswith(e)), key=len)
        label = path.name.removesuffix(ending)
        if path.name.endswith(_FASTA):
            items += [Labelled(name, 0, size, "+", label, path) for name, size in open_genome(path).lengths.items()]
        else:
            items += _intervals(path, label)
    return items


def _intervals(path: Path, label: str) -> list[Labelled]:
    text = (line.decode("utf-8", "replace") for _, line in lines(path))
    rows = csv.reader(text)
    names = [name.strip().lower() for name in next(rows, [])]
    places = {}
    for column, synonyms in _COLUMNS.items():
        places[column] = next((names.index(name) for name in synonyms if name in names), None)
        if places[column] is None and column != "strand":
            raise InputError(f"{path}: no column {column}; columns id, region, start, end, strand are needed")
    found = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        try:
            contig, start, end, strand = (row[at] if at is not None else "+" for at in places.values())
            item = Labelled(contig, int(start), int(end), strand, label, path)
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {number}: no region, start and end: {','.join(row)[:60]!r}") from None
        if not 0 <= item.start < item.end or strand not in ("+", "-", "."):
            raise InputError(f"{path}, line {number}: {contig}:{start}-{end}{strand} is no interval")
        found.append(item)
    return found
