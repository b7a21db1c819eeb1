"""Training settings from plain values, as a TOML file or the command line gives them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import made
from ..engine.model_files import load_config, model_config
from ..errors import ConfigError
from .copying_task import CopyingDataConfig
from .data import DataConfig
from .loop import LoopConfig
from .objective import ObjectiveConfig
from .run import TrainConfig
from .simulate import SimulationConfig

LOOP = {"loop": LoopConfig, "simulation": SimulationConfig}
TABLE_NETWORKS = {"objective": ObjectiveConfig, "data": DataConfig} | LOOP
COPYING_NETWORK = {"data": CopyingDataConfig} | LOOP
# Sequences of the network over typed sites are small, and a draw has thousands.
COPYING_LOOP = {"steps": 1600, "batch": 2048, "accumulate": 2, "lr": 3e-3, "weight_decay": 1e-3}


def train_config(architecture: str, values: dict[str, Any], out: Path, init: Path | None, **options) -> TrainConfig:
    """values: tables "model" and those of the architecture. options: the other fields of ``TrainConfig``.

    Raises ConfigError, also for settings that do not exist or are of the wrong kind.
    """
    known = COPYING_NETWORK if architecture == "npssm" else TABLE_NETWORKS
    if unknown := sorted(set(values) - {"model", *known}):
        raise ConfigError(f"no table of settings {', '.join(unknown)}; there are model, {', '.join(known)}")
    model = values.get("model", {})
    if not isinstance(model, dict) or "architecture" in model:
        raise ConfigError("model: a table of settings; the architecture is the command's first word, not one of them")
    start = {"architecture": architecture}
    if init is not None:
        start = asdict(load_config(init))
        if (found := start["architecture"]) != architecture:
            raise ConfigError(f"--init {init}: its architecture is {found}; train {found}")
        if "body" in model:
            raise ConfigError(
                f"--init {init}: brings its body's settings; only model.context, block and reach are free"
            )
    options["model"] = model_config(start | model, "model")
    loop = values.get("loop", {})
    if architecture == "npssm" and isinstance(loop, dict):
        values = values | {"loop": COPYING_LOOP | loop}
    tables = {"objective": None} | {name: made(kind, values.get(name, {}), name) for name, kind in known.items()}
    return TrainConfig(out=out, init=init, **options, **tables)
