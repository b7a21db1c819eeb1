"""``npimpute dna``: from files of places to files of embeddings or scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine.device import choose_device
from ..errors import ConfigError, InputError
from .bins import check_whole, embed_bins
from .genome import Genome, open_genome
from .predict import ReadConfig, Reader, embed_intervals, embed_variants, score_variants
from .results import check_output, write_results
from .windows import (
    Interval,
    Variant,
    check_contigs,
    counted,
    interval_status,
    pair,
    read_intervals,
    read_variants,
    warn_of_build,
)

log = logging.getLogger(__name__)
Progress = Callable[[float], None]
# Places that are looked at before all are read, to see whether they are of the genome's build.
SAMPLE = 1000


@dataclass(frozen=True)
class ApplyConfig:
    """Paths as given; see ``npimpute dna embed --help``. Raises ConfigError, and InputError where the output cannot be
    written.

    bed, vcf: places, one of them; or bin: bases of a bin of ``contigs`` (all, if there are none).
    """

    model: Path
    fasta: Path
    out: Path
    bed: Path | None = None
    vcf: Path | None = None
    bin: int | None = None
    contigs: tuple[str, ...] = ()
    read: ReadConfig = ReadConfig()
    device: str | None = None
    threads: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.bed, self.vcf, self.bin)]
        if sum(given) != 1:
            raise ConfigError("give one of --bed, --vcf and --bin")
        if self.bin is not None and self.bin < 1:
            raise ConfigError(f"--bin {self.bin}: 1 base or more")
        if self.contigs and self.bin is None:
            raise ConfigError(f"--contig {self.contigs[0]}: belongs to --bin")
        if self.vcf is not None and self.read.length is None:
            raise ConfigError("--vcf needs --length, the bases of the window around a variant")
        inputs = [path for path in (self.model, self.fasta, self.bed, self.vcf) if path is not None]
        if self.out.resolve() in {path.resolve() for path in inputs}:
            raise ConfigError(f"{self.out} is named twice; the output needs a name of its own")
        check_output(self.out, self.overwrite)


def embed(config: ApplyConfig, progress: Progress = lambda share: None) -> None:
    """Writes embeddings of intervals, of variants (with either allele) or of bins. Raises InputError or ConfigError."""
    genome, places, reader = _opened(config)
    if config.bin is not None:
        columns, matrices = _bins(config, genome, reader, progress)
    elif config.vcf is not None:
        status, means = embed_variants(reader, genome, places, progress)
        columns = _variants(places, status)
        matrices = {"embedding_ref": means[:, 0], "embedding_alt": means[:, 1]}
    else:
        status, means = embed_intervals(reader, genome, places, progress)
        columns, matrices = _intervals(places) | {"status": _text(status)}, {"embedding": means}
    _written(config, columns, matrices)


def score(config: ApplyConfig, distance: bool = True, progress: Progress = lambda share: None) -> None:
    """Writes scores of variants. distance: see ``predict.score_variants``. Raises InputError or ConfigError."""
    genome, places, reader = _opened(config)
    status, scores = score_variants(reader, genome, places, distance, progress)
    columns = {"llr": scores.llr} | ({"distance": scores.distance, "cosine": scores.cosine} if distance else {})
    _written(config, _variants(places, status) | columns, {})


def _opened(config: ApplyConfig) -> tuple[Genome, Sequence, Reader]:
    device = choose_device(config.device, config.threads)
    reader = Reader.of(config.model, config.read, device)
    genome = open_genome(config.fasta)
    if config.bin is not None:
        check_whole(reader)
        return genome, (), reader
    path = config.bed or config.vcf
    places = read_intervals(path) if config.bed else read_variants(path)
    check_contigs(genome, [place.contig for place in places], path)
    some = places[:: -(-len(places) // SAMPLE)]
    if config.bed:
        status = [interval_status(genome, interval) for interval in some]
    else:
        status = [pair(genome, variant, config.read.length).status for variant in some]
    warn_of_build(genome, status, path)
    return genome, places, reader


def _bins(config: ApplyConfig, genome: Genome, reader: Reader, progress: Progress) -> tuple[dict, dict]:
    contigs = list(dict.fromkeys(genome.name(contig) for contig in config.contigs)) or list(genome.lengths)
    sizes = np.array([genome.lengths[contig] for contig in contigs])
    if not sizes.any():
        raise InputError(f"{genome.path}: {', '.join(contigs)} without a base: name another --contig")
    before = np.cumsum(sizes) - sizes
    places, status, means = [], [], []
    for contig, size, done in zip(contigs, sizes, before, strict=True):
        share = lambda part: progress((done + part * size) / sizes.sum())  # noqa: B023, E731
        found, mean = embed_bins(reader, genome, contig, config.bin, share)
        status += found
        means.append(mean)
        places += [Interval(contig, start, min(start + config.bin, size)) for start in range(0, size, config.bin)]
    columns = {name: values for name, values in _intervals(places).items() if name != "name"}
    return columns | {"status": _text(status)}, {"embedding": np.concatenate(means)}


def _intervals(places: Sequence[Interval]) -> dict[str, np.ndarray]:
    starts, ends = (np.array(values, np.int64) for values in zip(*((p.start, p.end) for p in places), strict=True))
    return {
        "contig": _text(p.contig for p in places),
        "start": starts,
        "end": ends,
        "name": _text(p.name for p in places),
    }


def _variants(places: Sequence[Variant], status: list[str]) -> dict[str, np.ndarray]:
    columns = {"contig": _text(p.contig for p in places), "pos": np.array([p.pos for p in places], np.int64)}
    columns |= {"id": _text(p.name for p in places)}
    columns |= {"ref": _text(p.ref for p in places), "alt": _text(p.alt for p in places)}
    return columns | {"status": _text(status)}


def _text(values) -> np.ndarray:
    return np.array(list(values), np.str_)


def _written(config: ApplyConfig, columns: dict[str, np.ndarray], matrices: dict[str, np.ndarray]) -> None:
    read = config.read
    about = {"model": str(config.model), "fasta": str(config.fasta), "length": read.length, "pool": read.pool}
    write_results(config.out, columns, matrices, {name: value for name, value in about.items() if value is not None})
    log.info("%s: %d rows: %s", config.out, len(columns["status"]), counted(columns["status"].tolist()))
