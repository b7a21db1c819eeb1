"""Alignments as they are published to a store: every column a base of the reference, in the reference's order.

Columns where the reference has a gap are dropped. Where blocks overlap, each base of the reference has the columns of
the block that comes first in the files, as in UCSC's mafFilter -overlap. Of several rows of one species in a block, the
one with most bases equal to the reference's is kept, the first of equals. A FASTA's bases, where it has them, go
before those of the alignment's reference row. Memory is that of a few shards (``store.SHARD`` columns of all rows).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dna.genome import Genome, open_genome
from ..errors import ConfigError, InputError
from .alphabet import GAP, complement, encode
from .maf import Row, blocks
from .shards import Shards
from .store import StoreWriter, check_store_place

log = logging.getLogger(__name__)
# A FASTA of the build that the alignment is of differs from it in few bases, those that were patched or masked.
MOST_DIFFERENT, EARLY_DIFFERENT, EARLY_BASES, FEW = 0.01, 0.05, 10_000, 5


@dataclass(frozen=True)
class BuildConfig:
    """One store. Paths are as given; see ``npimpute msa build --help``.

    species: those besides the reference, in the order of the rows; None: all, as they first come. offset: what is added
    to positions of the alignment, 0-based, where they count from the start of a region. Raises ConfigError.
    """

    out: Path
    maf: tuple[Path, ...] = ()
    alignment: Path | None = None
    fasta: Path | None = None
    reference: str | None = None
    species: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    contig: str | None = None
    offset: int = 0
    whole_contigs: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.maf and self.alignment:
            raise ConfigError("--maf and --alignment: a store is made of one of them")
        if not (self.maf or self.alignment or self.fasta):
            raise ConfigError("nothing to build from: give --maf, --alignment or --fasta")
        if self.alignment and not self.contig:
            raise ConfigError("--alignment: needs --contig, the name of the contig that the first record is of")
        if self.offset < 0:
            raise ConfigError(f"--offset {self.offset}: a 0-based position, 0 or more, is needed")
        if self.whole_contigs and not self.fasta:
            raise ConfigError("--whole-contigs: needs --fasta, which has the bases")
        if not (self.maf or self.alignment) and (self.species or self.exclude or self.contig or self.offset):
            raise ConfigError("--species, --exclude, --contig and --offset are for --maf and --alignment")
        if self.species and (twice := [name for name, n in Counter(self.species).items() if n > 1]):
            raise ConfigError(f"--species: {twice[0]} is named twice")


def build(config: BuildConfig, progress: Callable[[float], None] = lambda share: None) -> dict:
    """Writes the store and returns what was counted. Raises InputError, and ConfigError for unknown species."""
    check_store_place(config.out, config.overwrite)
    genome = open_genome(config.fasta) if config.fasta else None
    if config.maf:
        reference, species = _species_of_mafs(config)
    elif config.alignment:
        rows = open_genome(config.alignment)
        reference, species = _chosen(config, list(rows.lengths), str(config.alignment))
    else:
        reference, species = config.reference or "reference", ()
    with StoreWriter(config.out, (reference, *species), config.overwrite) as writer:
        builder = Builder(config, writer, genome)
        if config.maf:
            for i, path in enumerate(config.maf):
                for rows in blocks(path):
                    builder.add_block(path, rows)
                progress((i + 1) / (len(config.maf) + 1))
        elif config.alignment:
            builder.add_records(config.alignment, rows)
        else:
            builder.add_genome()
        counts = builder.finish()
        progress(1.0)
    return counts


def _species_of_mafs(config: BuildConfig) -> tuple[str, tuple[str, ...]]:
    """The reference, and the other rows. The files are read through for the names unless both are given."""
    if config.reference and config.species is not None:
        return _chosen(config, [config.reference, *config.species], "")
    found: dict[str, None] = {}
    for path in config.maf:
        for rows in blocks(path):
            found.update(dict.fromkeys(split_src(row.src, config.reference)[0] for row in rows))
            if config.species is not None:  # only the reference's name is wanted, the first row's
                return _chosen(config, [*found, *config.species], "")
    return _chosen(config, list(found), ", ".join(map(str, config.maf)))


def _chosen(config: BuildConfig, found: list[str], where: str) -> tuple[str, tuple[str, ...]]:
    reference = config.reference or found[0]
    for name in (reference, *(config.species or ()), *config.exclude):
        if where and name not in found:
            some = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
            raise ConfigError(f"{where}: no species {name}; there are {some}")
    wanted = config.species if config.species is not None else dict.fromkeys(found)
    species = tuple(name for name in wanted if name != reference and name not in config.exclude)
    if reference in config.exclude:
        raise ConfigError(f"--exclude {reference}: is the reference, which every store has")
    return reference, species


def split_src(src: str, reference: str | None = None) -> tuple[str, str]:
    """Species and contig of a MAF row: hg18.chr6 is split at the first dot, but for a reference whose name has dots.

    Without a dot the name is both.
    """
    if reference and src.startswith(f"{reference}."):
        return reference, src[len(reference) + 1 :]
    species, dot, contig = src.partition(".")
    return species, contig if dot else species


class Builder:
    """Adds columns to a store and counts what there was to say of them."""

    def __init__(self, config: BuildConfig, writer: StoreWriter, genome: Genome | None):
        self._config, self._writer, self._genome = config, writer, genome
        self._reference = writer.species[0]
        self._places = {name: i for i, name in enumerate(writer.species)}
        self._dotted = [name for name in writer.species if "." in name]
        self._lengths: dict[str, int] = {}
        self._renamed = ""
        self._shards = Shards(writer)
        self.counts: Counter[str] = Counter()
        self._bases = np.zeros(len(writer.species), np.int64)

    def add_block(self, path: Path, rows: list[Row]) -> None:
        """Adds a MAF block. Raises InputError where it does not lie on its contig."""
        self.counts["blocks"] += 1
        named = [(self._species(row.src), row) for row in rows]
        own = [row for name, row in named if name == self._reference]
        if not own:
            self.counts["blocks without the reference"] += 1
            return
        head = own[0]
        contig = self._contig(path, split_src(head.src, self._reference)[1])
        length = self._length(path, contig, head.src_size + self._config.offset)
        start = head.start if head.strand == "+" else head.src_size - head.start - head.size
        start += self._config.offset
        if start + head.size > length:
            found = f"{head.src} ends at {start + head.size}, beyond the {length} bases of {contig} in the FASTA"
            raise InputError(f"{path}, line {head.line}: {found}; give the FASTA of the same build")
        chosen = [(name, row.text) for name, row in named if name in self._places and name != self._reference]
        places, codes = self._columns(head.text, chosen)
        if head.strand == "-":
            codes = complement(codes[:, ::-1])
        self._add(str(path), contig, start, places, codes)

    def add_records(self, path: Path, rows: Genome) -> None:
        """Adds a FASTA of rows of one length. Raises InputError."""
        names = [name for name in self._places if name in rows.lengths]
        if len(set(rows.lengths.values())) > 1:
            sizes = ", ".join(f"{name} {size}" for name, size in list(rows.lengths.items())[:4])
            raise InputError(f"{path}: records of different lengths ({sizes}) are no alignment; align them first")
        texts = {name: rows.fetch(name, 0, rows.lengths[name]) for name in names}
        kept = ~np.isin(texts[self._reference], np.frombuffer(b"-.", np.uint8))
        start, n = self._config.offset, int(kept.sum())
        codes = np.stack([encode(texts[name][kept]) for name in names])
        length = self._length(path, self._config.contig, start + n)
        if start + n > length:
            found = f"{self._reference} ends at {start + n}, beyond the {length} bases of {self._config.contig}"
            raise InputError(f"{path}: {found}; check --offset")
        self.counts["blocks"] += 1
        self._add(str(path), self._config.contig, start, np.arange(len(names)), codes)

    def add_genome(self) -> None:
        """Adds every contig of the FASTA, alone."""
        for contig in self._genome.lengths:
            self._length(self._genome.path, contig, 0)

    def finish(self) -> dict:
        """Fills in what no block covers, and tells the store what was counted. Raises InputError for another build."""
        self._check_build(MOST_DIFFERENT, 1)
        if not self._lengths:
            raise InputError(f"{self._config.maf[0]}: no block has a row of the reference {self._reference}")
        whole = self._config.whole_contigs or not (self._config.maf or self._config.alignment)
        for contig, length in self._lengths.items():
            stretch = (0, length) if whole else self._shards.covered[contig]
            self._writer.cover(contig, *stretch)
            self._shards.fill(contig, *stretch, self._filler(contig))
        counts = dict(self.counts) | {"columns": sum(self._shards.filled.values())}
        bases = dict(zip(self._writer.species, self._bases.tolist(), strict=True))
        if silent := [name for name, n in bases.items() if not n]:
            log.warning("no base of %s is in the alignment; are the names right?", ", ".join(silent))
        sources = [str(path) for path in (*self._config.maf, self._config.alignment, self._config.fasta) if path]
        self._writer.tell(counts=counts, bases=bases, sources=sources)
        return counts | {"bases": bases}

    def _species(self, src: str) -> str:
        return next((name for name in self._dotted if src.startswith(f"{name}.")), None) or split_src(src)[0]

    def _contig(self, path: Path, found: str) -> str:
        if not self._config.contig:
            return found
        self._found = getattr(self, "_found", found)
        if self._found != found:
            raise InputError(
                f"{path}: --contig {self._config.contig} names one contig, and it has {self._found}, {found}"
            )
        return self._config.contig

    def _length(self, path: Path, contig: str, length: int) -> int:
        """Bases of a contig, which is made when it first comes."""
        if contig not in self._lengths:
            if self._genome:
                length, claimed = self._genome.lengths[self._genome.name(contig)], length
                if self._config.maf and claimed != length and not self._config.offset:
                    log.warning("%s: %s has %d bases, in the FASTA %d", path, contig, claimed, length)
            self._lengths[contig] = length
            self._writer.add_contig(contig, length)
        return self._lengths[contig]

    def _columns(self, head: bytes, rows: list[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray]:
        """Places of the rows of a block among the species, and their codes at bases of the reference."""
        texts = np.frombuffer(b"".join([head, *(text for _, text in rows)]), np.uint8).reshape(len(rows) + 1, -1)
        codes = encode(texts[:, ~np.isin(texts[0], np.frombuffer(b"-.", np.uint8))])
        places = np.array([0, *(self._places[name] for name, _ in rows)])
        if len(set(places.tolist())) == len(places):
            return places, codes
        like = ((codes == codes[0]) & (codes < GAP)).sum(axis=1)
        order = np.lexsort((np.arange(len(places)), -like, places))
        kept = order[np.r_[True, np.diff(places[order]) > 0]]
        self.counts["rows of a species that its block has already"] += len(places) - len(kept)
        return places[kept], codes[kept]

    def _add(self, path: str, contig: str, start: int, places: np.ndarray, codes: np.ndarray) -> None:
        if self._genome and codes.shape[1]:
            bases = encode(self._genome.fetch(contig, start, start + codes.shape[1]))
            known = (bases < GAP) & (codes[0] < GAP)
            self.counts["bases compared with the FASTA"] += int(known.sum())
            self.counts["bases unlike the FASTA"] += int((known & (bases != codes[0])).sum())
            self._check_build(EARLY_DIFFERENT, EARLY_BASES)
            codes[0] = np.where(bases < GAP, bases, codes[0])
        new = self._shards.add(contig, start, places, codes)
        self.counts["columns that an earlier block has"] += int((~new).sum())
        self._bases[places] += (codes[:, new] < GAP).sum(axis=1)

    def _check_build(self, most: float, enough: int) -> None:
        compared, unlike = self.counts["bases compared with the FASTA"], self.counts["bases unlike the FASTA"]
        if compared >= enough and unlike > max(FEW, most * compared):
            found = f"{unlike} of {compared} bases of {self._reference} differ from the alignment's"
            remedy = "give the FASTA of the same build, or --offset if positions count from the start of a region"
            raise InputError(f"{self._genome.path}: {found}; {remedy}")

    def _filler(self, contig: str) -> Callable[[int, int], np.ndarray] | None:
        if not self._genome:
            return None
        return lambda start, end: encode(self._genome.fetch(contig, start, end))
