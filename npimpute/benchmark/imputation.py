"""Imputation compared: every program on the same data in turn, timed, and scored where all of them wrote."""

from __future__ import annotations

import datetime
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..dosage.accuracy import MAF_BINS
from ..errors import ConfigError, InputError
from ..panel.genetic_map import read_genetic_map
from ..panel.panel import open_panel
from ..vcf.region import Region
from .arrays import Array, read_array, thinned
from .dataset import Cast, Dataset, make_dataset
from .files import populations_of
from .machine import machine
from .metrics import Tally, bootstrap_weights, check_edges
from .programs import Program
from .score import bin_table, calibration, population_table, rows_written, sample_table, score
from .trials import Trials, claimed, fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImputationConfig:
    """What is compared on what. Paths are as given; see ``npimpute benchmark imputation --help``. Raises ConfigError.

    truth: people beside the panel; without one, ``targets`` people of the panel are taken out of it, ``folds`` times
    and never the same. array: a file; or thin: bp.
    """

    panel: Path
    out: Path
    truth: Path | None = None
    targets: int | None = None
    folds: int = 1
    array: Path | None = None
    thin: int | None = None
    map: Path | None = None
    region: str | None = None
    populations: Path | None = None
    maf_bins: tuple[float, ...] = MAF_BINS
    threads: int = 1
    repeat: int = 1
    bootstrap: int = 200
    seed: int = 1

    def __post_init__(self) -> None:
        if (self.truth is None) == (self.targets is None):
            raise ConfigError("give --truth, people who are not in the panel, or --targets, how many to take out of it")
        if (self.array is None) == (self.thin is None):
            raise ConfigError("give --array, the sites that are typed, or --thin, one site every so many bp")
        if self.truth is not None and self.folds != 1:
            raise ConfigError("--folds: with --truth there is one comparison; use --targets")
        for name in ("targets", "folds", "thin", "threads", "repeat"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name} {value}: 1 or more")
        check_edges(self.maf_bins)
        if self.bootstrap < 0 or self.seed < 0:
            raise ConfigError("--bootstrap and --seed are 0 or more")

    def data_settings(self) -> dict[str, Any]:
        """What the data are made of: runs of programs are kept as long as it stays the same."""
        names = ("panel", "truth", "targets", "folds", "array", "thin", "map", "region", "threads", "seed")
        return {name: fingerprint(getattr(self, name)) for name in names}


def benchmark(config: ImputationConfig, programs: list[Program]) -> dict[str, Any]:
    """Runs the programs and returns the results, plain values as in results.json.

    Runs that were finished by an interrupted call are kept. Raises InputError or ConfigError.
    """
    _check_names(programs)
    with claimed(config.out, config.data_settings()):
        datasets = make_datasets(config)
        samples = [name for data in datasets for name in data.truth.samples]
        populations = populations_of(config.populations, samples) if config.populations else None
    trials = Trials(config.out / "runs", config.threads, config.repeat)
    for data in datasets:
        log.info(
            "%s: %d panel haplotypes, %d targets, %d array sites, %d alleles to compare",
            data.folder.name, data.haplotypes, len(data.truth.samples), data.typed, len(data.truth.wanted),
        )  # fmt: skip
    trials.run(programs, datasets)
    return _results(config, programs, datasets, trials, samples, populations)


def make_datasets(config: ImputationConfig) -> list[Dataset]:
    """One for each fold."""
    genetic_map = read_genetic_map(config.map) if config.map else None
    region = Region.parse(config.region) if config.region else None
    array: Array = read_array(config.array) if config.array else thinned(config.thin, config.seed)
    return [
        make_dataset(config.out / "data" / f"fold{i}", cast, array, genetic_map, region, config.threads)
        for i, cast in enumerate(_casts(config), 1)
    ]


def _casts(config: ImputationConfig) -> list[Cast]:
    if config.truth is not None:
        return [Cast(config.panel, truth=config.truth)]
    names = open_panel(config.panel).samples
    wanted = config.targets * config.folds
    if wanted > len(names) or config.targets >= len(names):
        raise ConfigError(
            f"--targets {config.targets} --folds {config.folds}: the panel has {len(names)} samples; take out fewer"
        )
    order = np.random.default_rng(config.seed).permutation(len(names))[:wanted]
    groups = np.split(order, config.folds)
    return [Cast(config.panel, targets=frozenset(names[i] for i in group)) for group in groups]


def _check_names(programs: list[Program]) -> None:
    names = [program.name for program in programs]
    if not programs:
        raise ConfigError("nothing to compare: name --engines, --run or --peers")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name} is named twice; give each a label of its own (--run LABEL=OPTIONS)")


@dataclass
class _Scored:
    """Programs' tallies over the folds; written: alleles that each wrote, of those in truth and panel."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    alleles: int = 0
    compared: int = 0


def _score(config: ImputationConfig, done: list[Program], datasets: list[Dataset], trials: Trials) -> _Scored:
    out = _Scored(written=dict.fromkeys((program.name for program in done), 0))
    parts: dict[str, list[Tally]] = {program.name: [] for program in done}
    for i, data in enumerate(datasets):
        truth, paths = data.truth, {p.name: trials.output(p, data) for p in done}
        there = {name: rows_written(path, truth, config.threads) for name, path in paths.items()}
        common = np.logical_and.reduce(list(there.values()))
        if not common.any():
            raise InputError(f"{config.out}: no allele was written by all of {', '.join(paths)}; compare fewer")
        out.alleles += len(common)
        out.compared += int(common.sum())
        weights = bootstrap_weights(len(truth.samples), config.bootstrap, config.seed + i)
        for name, path in paths.items():
            log.info("scoring %s, %s", name, data.folder.name)
            out.written[name] += int(there[name].sum())
            parts[name].append(score(path, truth, common, weights, config.maf_bins, config.threads))
    out.tallies = {name: Tally.joined(tallies) for name, tallies in parts.items()}
    return out


def _results(config, programs, datasets, trials, samples, populations) -> dict[str, Any]:
    done = [program for program in programs if trials.finished(program, datasets)]
    if not done:
        reasons = "; ".join(f"{failed['label']}: {failed['reason']}" for failed in trials.failures())
        raise InputError(f"{config.out}: no program finished ({reasons})")
    scored = _score(config, done, datasets, trials)
    # What the others are measured against: the first peer, or else the first program.
    reference = next((p for p in done if not p.ours), done[0])
    table = []
    for program in programs:
        entry = {"name": program.name, "label": program.label, "version": program.version, "ours": program.ours}
        if program not in done:
            table.append(entry | trials.failure(program))
            continue
        tally = scored.tallies[program.name]
        entry |= {"status": "done", "reason": None, "alleles_written": scored.written[program.name]}
        entry |= trials.usage(program, datasets)
        entry["bins"] = bin_table(tally, None if program is reference else scored.tallies[reference.name])
        entry["calibration"] = calibration(tally)
        entry["samples"] = sample_table(tally, samples)
        if populations is not None:
            entry["populations"] = population_table(tally, populations)
        table.append(entry)
    return {
        "kind": "imputation",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(config.threads),
        "settings": {name: None if v is None else str(v) for name, v in asdict(config).items()},
        "data": [_describe(data) for data in datasets],
        "alleles": scored.alleles,
        "compared": scored.compared,
        "reference": reference.name,
        "programs": table,
    }


def _describe(data: Dataset) -> dict[str, Any]:
    contig, first, last = data.contigs[0]
    return {
        "name": data.folder.name,
        "region": f"{contig}:{first}-{last}",
        "haplotypes": data.haplotypes,
        "targets": len(data.truth.samples),
        "typed": data.typed,
    }
