"""What a run was asked for: frozen, checked when made."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .outputs import check_place

TABLE_NETWORKS = ("npssm-paper", "msa-transformer", "spin")
NETWORKS = ("npssm", *TABLE_NETWORKS)
PHASES = ("auto", "never")
COPYING_MODELS = ("clades", "li-stephens")
ENGINES = ("npssm", *COPYING_MODELS, "knn", "logistic", *TABLE_NETWORKS)


def made(settings: type, values: Any, what: str) -> Any:
    """An instance of the dataclass ``settings`` from plain values, as JSON or TOML have them.

    Raises ConfigError, which names ``what``, for names it lacks and for values that are not of a field's kind.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{what}: a table of settings, not {values!r}")
    known = {f.name: f.type for f in fields(settings)}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{what}: no setting {name}; there are {', '.join(sorted(known))}")
        kinds = _KINDS.get(known[name].partition("[")[0])
        if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise ConfigError(f"{what}.{name} {value!r}: not {_ARTICLES[kinds]}")
    return settings(**values)


def check_counts(**values: int) -> None:
    """Raises ConfigError unless all are whole numbers of 1 or more."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} {value}: a whole number, 1 or more, is needed")


def check_growing(what: str, values: tuple[int, ...], least: int) -> None:
    """Raises ConfigError, which names the option ``what``, unless the numbers grow from ``least`` or more."""
    if any(a >= b for a, b in pairwise(values)) or min(values, default=least) < least:
        raise ConfigError(f"{what} {','.join(map(str, values))}: growing numbers of {least} or more")


def check_device(device: str | None) -> None:
    """Raises ConfigError unless it is None or the name of a device that might be there."""
    if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"--device {device}: choose cpu, cuda, or cuda:N")


_KINDS = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "tuple": (tuple, list), "dict": (dict,)}
_ARTICLES = {
    (int,): "a whole number",
    (int, float): "a number",
    (str,): "a word",
    (bool,): "true or false",
    (tuple, list): "a list",
    (dict,): "a table of settings",
}


@dataclass(frozen=True)
class RunConfig:
    """One imputation. Paths are as given; see ``npimpute run --help`` for what each option does.

    core_cm, flank_cm: windows of ``core_cm`` with ``flank_cm`` more on either side.
    Raises ConfigError, and InputError where an output cannot be written.
    """

    ref: Path
    target: Path
    out: Path
    map: Path | None = None
    region: str | None = None
    phase: str = "auto"
    engine: str = "npssm"
    model: Path | None = None
    context: int | None = None
    device: str | None = None
    ne: float | None = None
    err: float | None = None
    calibrate: int | None = None
    cache: Path | None = None
    formats: tuple[str, ...] = ("GT", "DS")
    min_r2: float = 0.0
    keep_typed: bool = True
    all_typed_sites: bool = False
    fix_strand: bool = False
    swap_alleles: bool = False
    sites_only: Path | None = None
    sample_quality: Path | None = None
    report: Path | None = None
    log: Path | None = None
    samples: Path | None = None
    exclude_samples: Path | None = None
    core_cm: float = 20.0
    flank_cm: float = 2.0
    threads: int = 1
    seed: int = 1
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ConfigError(f"--phase {self.phase}: choose from {', '.join(PHASES)}")
        if self.engine not in ENGINES:
            raise ConfigError(f"--engine {self.engine}: choose from {', '.join(ENGINES)}")
        if self.engine in TABLE_NETWORKS and self.model is None:
            raise ConfigError(f"--engine {self.engine}: needs --model, a directory that 'npimpute train' made")
        if self.engine not in NETWORKS and self.model is not None:
            raise ConfigError(f"--engine {self.engine}: takes no --model")
        if self.context is not None and self.engine in (*COPYING_MODELS, "logistic"):
            raise ConfigError(f"--context {self.context}: --engine {self.engine} takes no number of panel haplotypes")
        if self.context is not None and self.context < 1:
            raise ConfigError(f"--context {self.context}: at least one panel haplotype is needed")
        if self.ne is not None and self.engine not in (*COPYING_MODELS, "npssm"):
            raise ConfigError(f"--ne {self.ne}: --engine {self.engine} has no population size")
        check_device(self.device)
        if self.device not in (None, "cpu") and self.engine in (*COPYING_MODELS, "knn"):
            raise ConfigError(f"--device {self.device}: --engine {self.engine} runs on the CPU")
        if self.calibrate is not None and self.calibrate < 0:
            raise ConfigError(f"--calibrate {self.calibrate}: a number of panel haplotypes, or 0 for none")
        if self.cache is not None and self.engine not in (*COPYING_MODELS, "npssm"):
            raise ConfigError(f"--cache {self.cache}: --engine {self.engine} learns nothing that could be kept")
        if not 0 <= self.min_r2 <= 1:
            raise ConfigError(f"--min-r2 {self.min_r2}: a squared correlation lies between 0 and 1")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: a seed is 0 or more")
        if self.threads < 1:
            raise ConfigError(f"--threads {self.threads}: at least one thread is needed")
        if not 0 < self.core_cm < inf or not 0 <= self.flank_cm < inf:
            raise ConfigError(f"--window {self.core_cm} --flank {self.flank_cm}: cM, above 0 and not below 0")
        outputs = [self.out, self.sites_only, self.sample_quality, self.report, self.log]
        outputs = [path for path in outputs if path is not None]
        inputs = [path for path in (self.ref, self.target, self.map, self.samples, self.exclude_samples) if path]
        for i, path in enumerate(outputs):
            if path.resolve() in {other.resolve() for other in [*outputs[:i], *inputs]}:
                raise ConfigError(f"{path} is named twice; every output needs a name of its own")
            check_place(path, self.overwrite or path is self.log)  # a log grows, it replaces nothing


@dataclass(frozen=True)
class PhaseConfig:
    """One phasing. Paths are as given; see ``npimpute phase --help``. Raises ConfigError, and InputError where the
    output cannot be written."""

    ref: Path
    target: Path
    out: Path
    map: Path | None = None
    region: str | None = None
    ne: float | None = None
    fix_strand: bool = False
    swap_alleles: bool = False
    samples: Path | None = None
    exclude_samples: Path | None = None
    threads: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.ne is not None and not 0 < self.ne < inf:
            raise ConfigError(f"--ne {self.ne}: the effective population size must be a positive number")
        if self.threads < 1:
            raise ConfigError(f"--threads {self.threads}: at least one thread is needed")
        inputs = [path for path in (self.ref, self.target, self.map, self.samples, self.exclude_samples) if path]
        if self.out.resolve() in {path.resolve() for path in inputs}:
            raise ConfigError(f"{self.out} is named twice; the output needs a name of its own")
        check_place(self.out, self.overwrite)
