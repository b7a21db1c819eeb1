"""Labelled sequences as a network over alignments reads them: of the alignment, of a genome, or of FASTA files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..dna.genome import open_genome
from ..errors import ConfigError
from .alphabet import complement
from .labelled import Labelled, read_labelled, sequences
from .store import Alignment
from .windows import Rows


class Sequences:
    """See ``finetune.Examples``. found: (m, l) uint8 of each."""

    def __init__(self, labels: tuple[str, ...], classes: np.ndarray, found: list[np.ndarray]):
        self.labels, self.classes, self._found = labels, classes, found

    def codes(self, i: int) -> np.ndarray:
        return self._found[i]

    def spread(self, count: int) -> Sequences:
        """``count`` of them, or all if there are no more, spread evenly: every class keeps its share."""
        n = len(self.classes)
        if count >= n:
            return self
        chosen = np.linspace(0, n - 1, count).round().astype(int)
        return Sequences(self.labels, self.classes[chosen], [self._found[i] for i in chosen])


def class_names(folder: Path) -> tuple[str, ...]:
    """Of a labelled set. Raises InputError."""
    return tuple(sorted({item.label for item in read_labelled(folder)["train"]}))


def read_examples(folder: Path, fasta: Path | None, msa: Path | None, species: tuple[str, ...]) -> dict[str, Sequences]:
    """ "train" and "test" -> the sequences of a labelled set.

    fasta: the genome of intervals. msa: an alignment, for the rows of intervals, and for their reference too where
    there is no genome. species: the model's rows. Raises InputError or ConfigError.
    """
    genome = None if fasta is None else open_genome(fasta)
    rows = None if msa is None else Rows(Alignment.open(msa), species)
    out = {}
    for split, items in read_labelled(folder).items():
        labels = tuple(sorted({item.label for item in items}))
        classes = np.array([labels.index(item.label) for item in items])
        if rows is None or genome is not None:
            found = [codes[None] for codes, _ in sequences(items, genome)]
        if rows is not None:
            aligned = [_aligned(item, rows) for item in items]
            if genome is not None:
                aligned = [np.concatenate([one, rest[1:]]) for one, rest in zip(found, aligned, strict=True)]
            found = aligned
        out[split] = Sequences(labels, classes, found)
    return out


def _aligned(item: Labelled, rows: Rows) -> np.ndarray:
    if not item.source.name.endswith((".csv", ".csv.gz")):
        raise ConfigError(f"{item.source}: sequences without a place in the alignment; leave --msa away")
    codes = rows.window(item.contig, item.start, item.end)
    return complement(codes[:, ::-1]) if item.strand == "-" else codes
