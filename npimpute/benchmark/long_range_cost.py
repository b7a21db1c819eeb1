"""Time and peak memory of long-range DNA models against the length of the sequence, each run in its own process."""

from __future__ import annotations

import datetime
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..config import check_growing
from ..dna.config import NTConfig
from ..dna.model_files import load_config
from ..errors import ConfigError
from ..outputs import file_errors, temporary
from .machine import machine
from .measure import measure
from .scaling import exponent
from .trials import claimed, fingerprint, write_json

log = logging.getLogger(__name__)
LENGTHS = (10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000)
BIN = 1_000


@dataclass(frozen=True)
class CostConfig:
    """models: label -> directory. lengths: bases of random sequence. chunk: tokens of a piece, of models that hand
    their state on; those are also run without. minutes: a way of running goes on to longer sequences until one takes
    longer than this. Raises ConfigError."""

    out: Path
    models: dict[str, Path]
    lengths: tuple[int, ...] = LENGTHS
    chunk: int = 8_192
    minutes: float = 30.0
    device: str | None = None
    threads: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("give --model LABEL=DIR, once or more")
        check_growing("--lengths", self.lengths, 100)
        if self.chunk < 1 or not self.minutes > 0:
            raise ConfigError("--chunk is 1 or more, --minutes above 0")


def cost_benchmark(config: CostConfig, progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Embeds bins of random sequences with 'npimpute dna embed'; returns plain values as in results.json.

    Raises InputError or ConfigError.
    """
    ways = [(label, path, way) for label, path in config.models.items() for way in _ways(path)]
    with claimed(config.out, {name: fingerprint(getattr(config, name)) for name in ("chunk", "threads", "seed")}):
        with file_errors(config.out):
            (config.out / "runs").mkdir(exist_ok=True)
        for length in config.lengths:
            _write_sequence(_sequence(config, length), length, config.seed)
    programs = []
    for i, (label, path, way) in enumerate(ways):
        points, ended = [], ""
        for length in config.lengths:
            point = _run(config, label, path, way, length)
            progress((i + length / config.lengths[-1]) / len(ways))
            if point["status"]:
                ended = f"{length} bases: {point['last']}"
                log.warning("%s, %s: %s", label, way, ended)
                break
            points.append({name: point[name] for name in ("seconds", "cpu_seconds", "peak_mb")} | {"x": length})
            if point["seconds"] > 60 * config.minutes:
                ended = f"{length} bases took more than {config.minutes:g} minutes"
                break
        grown = {name: exponent([p["x"] for p in points], [p[name] for p in points]) for name in ("seconds", "peak_mb")}
        name = f"{label}, {way}"
        programs.append({"label": name, "name": name, "points": points, "exponents": grown, "ended": ended})
    return {
        "kind": "long-range-cost",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(config.threads),
        "settings": {name: str(value) for name, value in asdict(config).items()},
        "programs": programs,
    }


def _ways(path: Path) -> tuple[str, ...]:
    return ("whole",) if isinstance(load_config(path), NTConfig) else ("chunks", "whole")


def _sequence(config: CostConfig, length: int) -> Path:
    return config.out / "data" / f"random_{length}.fa"


def _write_sequence(path: Path, length: int, seed: int) -> None:
    letters = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng([seed, length]).integers(0, 4, length)]
    with file_errors(path):
        path.parent.mkdir(exist_ok=True)
        temporary(path).write_bytes(b">random\n" + letters.tobytes() + b"\n")
        temporary(path).replace(path)


def _run(config: CostConfig, label: str, path: Path, way: str, length: int) -> dict[str, Any]:
    """What a run took, from disk if it was done before; the shorter ones include the start of Python."""
    import json

    place = config.out / "runs" / f"{label}_{way}_{length}"
    command = [sys.executable, "-m", "npimpute", "dna", "embed", "--model", str(path)]
    command += ["--fasta", str(_sequence(config, length)), "--bin", str(BIN), "--threads", str(config.threads)]
    command += ["--chunk", str(config.chunk)] if way == "chunks" else ["--length", str(length)]
    command += ["--device", config.device] if config.device else []
    command += ["--out", f"{place}.npz", "--overwrite"]
    kept = Path(f"{place}.json")
    if kept.exists() and (found := json.loads(kept.read_text()))["command"] == command:
        return found["measured"]
    log.info("%s, %s, %d bases", label, way, length)
    measured = asdict(measure(command, Path(f"{place}.log")))
    if measured["status"] == 0:
        write_json(kept, {"command": command, "measured": measured})
    return measured
