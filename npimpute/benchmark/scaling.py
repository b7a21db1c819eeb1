"""Time and memory against the size of the panel, the number of targets and the context, with fitted exponents."""

from __future__ import annotations

import datetime
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ConfigError
from ..outputs import file_errors
from ..panel.genetic_map import read_genetic_map
from ..panel.panel import all_diploid, open_panel
from ..vcf.phased import write_phased
from ..vcf.region import Region
from .arrays import Array, read_array, thinned
from .dataset import Cast, Dataset, make_dataset
from .machine import machine
from .metrics import bootstrap_weights
from .programs import Program, npimpute
from .score import plain, score
from .trials import Trials, claimed, fingerprint

log = logging.getLogger(__name__)
DEFAULT_TARGETS = 100
# Engines that read so many panel haplotypes, given with --context.
READ_A_CONTEXT = ("npssm", "knn", "npssm-paper", "msa-transformer", "spin")


@dataclass(frozen=True)
class ScalingConfig:
    """What grows, and on what. Paths are as given; see ``npimpute benchmark scaling --help``. Raises ConfigError.

    panel_sizes, target_counts: people; contexts: haplotypes. While one grows, the panel is the largest of panel_sizes
    (or all that are not targets), the targets the largest of target_counts (or ``DEFAULT_TARGETS``).
    """

    out: Path
    panel: Path | None = None
    simulate: int | None = None
    length_mb: float = 5.0
    array: Path | None = None
    thin: int | None = None
    map: Path | None = None
    region: str | None = None
    panel_sizes: tuple[int, ...] = ()
    target_counts: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    threads: int = 1
    repeat: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        if (self.panel is None) == (self.simulate is None):
            raise ConfigError("give --panel, or --simulate, how many people to simulate")
        if (self.array is None) == (self.thin is None):
            raise ConfigError("give --array, the sites that are typed, or --thin, one site every so many bp")
        if self.simulate is not None and (self.array or self.region):
            raise ConfigError("--simulate: positions are drawn, so use --thin, and no --region")
        if not (self.panel_sizes or self.target_counts or self.contexts):
            raise ConfigError("nothing grows: give --panel-sizes, --target-counts or --contexts")
        for name in ("panel_sizes", "target_counts", "contexts"):
            values = getattr(self, name)
            if any(value < 1 for value in values) or len(set(values)) < len(values):
                listed = ",".join(map(str, values))
                raise ConfigError(f"--{name.replace('_', '-')} {listed}: different numbers, 1 or more")
        for name in ("thin", "threads", "repeat"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name} {value}: 1 or more")

    @property
    def targets(self) -> int:
        """How many people are imputed where their number does not grow."""
        return max(self.target_counts, default=DEFAULT_TARGETS)


def benchmark(config: ScalingConfig, programs: list[Program]) -> dict[str, Any]:
    """Runs the programs at every point and returns the results, plain values as in results.json.

    Runs that were finished by an interrupted call are kept. Raises InputError or ConfigError.
    """
    names = ("panel", "simulate", "length_mb", "array", "thin", "map", "region", "threads", "seed")
    growing = ("panel_sizes", "target_counts")
    readers = _readers(config, programs)
    with claimed(config.out, {name: fingerprint(getattr(config, name)) for name in (*names, *growing)}):
        people = _People.of(config)
        grown = {
            axis: [(size, people.dataset(axis, size)) for size in sorted(sizes)]
            for axis, sizes in (("panel", config.panel_sizes), ("targets", config.target_counts))
            if sizes
        }
        whole = people.dataset("context", 0) if config.contexts else None
    trials = Trials(config.out / "runs", config.threads, config.repeat)
    axes: dict[str, list[dict[str, Any]]] = {}
    for axis, datasets in grown.items():
        trials.run(programs, [data for _, data in datasets])
        able = [p for p in programs if not p.missing]
        entries = (_entry(p, [(_x(axis, size, d), p, d) for size, d in datasets], trials, config) for p in able)
        axes[axis] = [entry for entry in entries if entry["points"]]
    if whole is not None:
        axes["context"] = _contexts(config, readers, whole, trials)
    return {
        "kind": "scaling",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(config.threads),
        "settings": {name: None if v is None else str(v) for name, v in asdict(config).items()},
        "axes": axes,
        "failures": trials.failures(),
    }


def _readers(config: ScalingConfig, programs: list[Program]) -> list[Program]:
    """Those of our programs that read a context. Raises ConfigError if one is to grow and there are none."""
    readers = [program for program in programs if program.ours and program.engine in READ_A_CONTEXT]
    if config.contexts and not readers:
        engines = ", ".join(READ_A_CONTEXT)
        raise ConfigError(f"--contexts: none of the programs reads one; --engines that do: {engines}")
    return readers


def _contexts(config: ScalingConfig, readers: list[Program], data: Dataset, trials: Trials) -> list[dict[str, Any]]:
    entries = []
    for program in readers:
        options = [(k, [*program.options, "--context", str(k)]) for k in sorted(config.contexts)]
        grown = [(k, npimpute(f"{program.label}_k{k}", words)) for k, words in options]
        trials.run([p for _, p in grown], [data])
        entries.append(_entry(program, [(k, p, data) for k, p in grown], trials, config))
    return [entry for entry in entries if entry["points"]]


def _x(axis: str, size: int, data: Dataset) -> int:
    return data.haplotypes if axis == "panel" else size


def _entry(program: Program, runs: list[tuple[int, Program, Dataset]], trials: Trials, config: ScalingConfig) -> dict:
    """A program's points (x, times, memory, r2) where it finished, and the exponents."""
    points = []
    for x, run, data in runs:
        if not trials.finished(run, [data]):
            continue
        usage = trials.usage(run, [data])
        used = {name: usage[name] for name in ("seconds", "cpu_seconds", "peak_mb")}
        points.append({"x": x} | used | {"r2_pooled": _r2(trials.output(run, data), data, config.threads)})
    names = ("seconds", "cpu_seconds", "peak_mb")
    exponents = {name: exponent([p["x"] for p in points], [p[name] for p in points]) for name in names}
    return {
        "name": program.name,
        "label": program.label,
        "ours": program.ours,
        "points": points,
        "exponents": exponents,
    }


def _r2(path: Path, data: Dataset, threads: int) -> float | None:
    weights = bootstrap_weights(len(data.truth.samples), 0, 0)
    tally = score(path, data.truth, np.ones(len(data.truth.copies), bool), weights, (0.0, 0.5), threads)
    return plain(dict(tally.by_bin())["all"]["r2_pooled"][0])


def exponent(x: list[float], y: list[float]) -> float | None:
    """The slope of log y on log x by least squares over the larger half of the points, two or more, since the smaller
    ones are mostly start-up; None with fewer than two points. x: increasing."""
    if len(x) < 2:
        return None
    start = min(len(x) // 2, len(x) - 2)
    slope, _ = np.polyfit(np.log(x[start:]), np.log(np.maximum(y[start:], 1e-3)), 1)
    return float(slope)


class _People:
    """Who is imputed from whom: the targets come first in a random order of the panel's people, then its part."""

    def __init__(self, config: ScalingConfig, panel: Path, names: tuple[str, ...], genetic_map):
        self._config, self._panel, self._map = config, panel, genetic_map
        order = np.random.default_rng(config.seed).permutation(len(names))
        self._names = [names[i] for i in order]
        rest = len(names) - config.targets
        self._largest = max(config.panel_sizes, default=rest)
        if rest < self._largest or rest < 1:
            raise ConfigError(
                f"{panel}: {len(names)} people are too few for {config.targets} targets and a panel of "
                f"{self._largest}; give smaller --target-counts or --panel-sizes"
            )
        self._region = Region.parse(config.region) if config.region else None

    @staticmethod
    def of(config: ScalingConfig) -> _People:
        genetic_map = read_genetic_map(config.map) if config.map else None
        panel = config.panel or _simulated(config, genetic_map)
        return _People(config, panel, open_panel(panel).samples, genetic_map)

    def dataset(self, axis: str, size: int) -> Dataset:
        """The files of one point; of all at their largest where it is not the panel or the targets that grow."""
        panel = size if axis == "panel" else self._largest
        targets = size if axis == "targets" else self._config.targets
        split = self._config.targets
        cast = Cast(
            self._panel,
            keep=frozenset(self._names[split : split + panel]),
            targets=frozenset(self._names[split - targets : split]),
        )
        folder = self._config.out / "data" / f"panel{panel}_targets{targets}"
        log.info("%d people in the panel, %d targets", panel, targets)
        return make_dataset(folder, cast, self._array(), self._map, self._region, self._config.threads)

    def _array(self) -> Array:
        config = self._config
        return read_array(config.array) if config.array else thinned(config.thin, config.seed)


def _simulated(config: ScalingConfig, genetic_map) -> Path:
    """A simulated panel (out-of-Africa, Europeans), written once."""
    from ..train.simulate import SimulationConfig, simulate

    path = config.out / "data" / "simulated.vcf.gz"
    if path.exists():
        return path
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    settings = SimulationConfig(samples=config.simulate, length_mb=config.length_mb, populations=("CEU",))
    panel = simulate(settings, config.seed, genetic_map)
    parts = ((chunk.sites, chunk.codes(np.arange(len(chunk.sites))), None) for chunk in all_diploid(panel))
    write_phased(path, panel.samples, panel.contigs, parts, config.threads)
    return path
