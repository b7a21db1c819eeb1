"""What networks over alignments cost: time and memory against columns and rows, where they cross, what sparsity saves.

Every measurement is a process of its own, kept on disk as soon as it is done.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..config import check_device, check_growing
from ..errors import ConfigError
from ..msa.config import BODIES, SPARSITY
from ..outputs import file_errors
from .machine import machine
from .measure import measure
from .msa_cost_report import AGAIN, COSTS, WORK, crossings, same_memory, sparse_gain
from .scaling import exponent
from .trials import claimed, write_json

log = logging.getLogger(__name__)
OUT_OF_MEMORY = 3


class Network(NamedTuple):
    """What is compared. changes: to the body's settings. sparsity: in training, or None. recompute: see
    ``msamamba.AlignmentNetwork``. Where either changes training, forward passes are not measured."""

    label: str
    architecture: str
    changes: dict[str, Any]
    sparsity: float | None = None
    recompute: bool = False


_PLAIN = {
    "msamamba": Network("MSAMamba", "msamamba", {}),
    "msamamba_sparse": Network("MSAMamba, half of the rows skip", "msamamba", {}, SPARSITY["msamamba"]),
    "axial": Network("axial attention, fused", "axial", {}),
    "axial_maps": Network("axial attention, maps kept", "axial", {"fused": False}),
}
# Each also with what it keeps for the backward pass cut down, at equal terms for all.
NETWORKS = _PLAIN | {
    f"{name}{AGAIN}": n._replace(label=f"{n.label}, recomputed", recompute=True) for name, n in _PLAIN.items()
}


@dataclass(frozen=True)
class CostConfig:
    """What grows, and how it is measured. See ``npimpute benchmark msa-cost --help``. Raises ConfigError.

    While lengths grow there are ``at_rows`` rows, while rows grow ``at_length`` columns. body: settings of both
    architectures that differ from the published.
    """

    out: Path
    lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
    rows: tuple[int, ...] = (10, 25, 50, 100)
    at_length: int = 512
    at_rows: int = 25
    networks: tuple[str, ...] = tuple(NETWORKS)
    body: tuple[tuple[str, int], ...] = ()
    repeat: int = 3
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"
    limit_gb: float | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("lengths", "rows"):
            check_growing(f"--{name}", getattr(self, name), 2)
        for name in ("at_length", "at_rows", "repeat", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: 1 or more")
        if unknown := sorted(set(self.networks) - set(NETWORKS)):
            raise ConfigError(f"--networks {unknown[0]}: choose from {', '.join(NETWORKS)}")
        if not self.networks or not (self.lengths or self.rows):
            raise ConfigError("nothing to measure: give --networks, and --lengths or --rows")
        if self.limit_gb is not None and not 0 < self.limit_gb < math.inf:
            raise ConfigError(f"--limit-gb {self.limit_gb}: above 0")
        check_device(self.device)
        for network in (NETWORKS[name] for name in self.networks):
            BODIES[network.architecture](**(dict(self.body) | network.changes))


def benchmark(config: CostConfig) -> dict[str, Any]:
    """Measures what is not measured yet and returns the results, plain values as in results.json.

    "points": a list of network, work ("forward" or "step"), axis ("length" or "rows"), rows, length, status, seconds,
    cpu_seconds, peak_mb (of the process, or on a GPU of its tensors) and added_mb (without what it had before).
    "exponents", "crossings", "same_memory", "sparse_gain": see ``msa_cost_report``. Raises InputError or ConfigError.
    """
    kept = {name: value for name, value in asdict(config).items() if name not in ("out", "lengths", "rows", "networks")}
    with claimed(config.out, kept):
        with file_errors(config.out):
            (config.out / "runs").mkdir(exist_ok=True)
    points = [
        _point(config, name, work, axis, rows, length)
        for axis, rows, length in _places(config)
        for name in config.networks
        for work in WORK
        if work == "step" or (NETWORKS[name].sparsity is None and not NETWORKS[name].recompute)
    ]
    return {
        "kind": "msa-cost",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(config.threads),
        "settings": {name: None if value is None else str(value) for name, value in asdict(config).items()},
        "labels": {name: NETWORKS[name].label for name in config.networks},
        "points": points,
        "exponents": exponents(points),
        "crossings": crossings(points),
        "same_memory": same_memory(points),
        "sparse_gain": sparse_gain(points),
    }


def _places(config: CostConfig) -> list[tuple[str, int, int]]:
    """(axis, rows, length) of every point."""
    along = [("length", config.at_rows, length) for length in config.lengths]
    return along + [("rows", rows, config.at_length) for rows in config.rows]


def _point(config: CostConfig, name: str, work: str, axis: str, rows: int, length: int) -> dict[str, Any]:
    network = NETWORKS[name]
    spec = {
        "architecture": network.architecture,
        "body": dict(config.body) | network.changes,
        "rows": rows,
        "length": length,
        "training": work == "step",
        "sparsity": network.sparsity or 0.0,
        "recompute": network.recompute,
    }
    spec |= {key: getattr(config, key) for key in ("repeat", "threads", "device", "precision", "limit_gb", "seed")}
    place = config.out / "runs" / f"{name}_{work}_{rows}x{length}.json"
    if not place.exists():
        _measured(place, spec)
    with file_errors(place):
        return {"network": name, "work": work, "axis": axis, "rows": rows, "length": length} | json.loads(
            place.read_text()
        )


def _measured(place: Path, spec: dict[str, Any]) -> None:
    asked, told = place.with_suffix(".spec.json"), place.with_suffix(".step.json")
    told.unlink(missing_ok=True)
    write_json(asked, spec)
    module = f"{__package__}.msa_cost_step"
    with file_errors(place):
        done = measure([sys.executable, "-m", module, str(asked), str(told)], place.with_suffix(".log"))
    if done.status in (OUT_OF_MEMORY, -9):
        found = {"status": "out of memory"}
    elif done.status:
        raise ConfigError(f"{place.stem}: ended with status {done.status}: {done.last} ({place.with_suffix('.log')})")
    else:
        step = json.loads(told.read_text())
        peak = step.get("peak_mb", done.peak_mb)
        times = {name: step[name] for name in ("seconds", "cpu_seconds")}
        found = {"status": "done", **times, "peak_mb": peak, "added_mb": peak - step["base_mb"]}
    log.info("%s: %s", place.stem, " ".join(f"{k} {v:.4g}" for k, v in found.items() if k != "status") or "no memory")
    write_json(place, found)


def exponents(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of time and memory of every network along every axis, as powers; see ``scaling.exponent``."""
    found = []
    for key in dict.fromkeys((p["axis"], p["network"], p["work"]) for p in points):
        line = [p for p in points if (p["axis"], p["network"], p["work"]) == key and p["status"] == "done"]
        powers = {cost: exponent([p[key[0]] for p in line], [p[cost] for p in line]) for cost in COSTS}
        found.append({"axis": key[0], "network": key[1], "work": key[2]} | powers)
    return found
