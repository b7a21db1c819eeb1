"""Training settings from plain values, as a TOML file or the command line gives them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import made
from ..engine.checkpoint import load_config, network_config
from ..errors import ConfigError
from .data import DataConfig
from .loop import LoopConfig
from .objective import ObjectiveConfig
from .run import TrainConfig
from .simulate import SimulationConfig

TABLES = {"objective": ObjectiveConfig, "data": DataConfig, "loop": LoopConfig, "simulation": SimulationConfig}


def train_config(architecture: str, values: dict[str, Any], out: Path, init: Path | None, **options) -> TrainConfig:
    """values: tables "model" and those of ``TABLES``. options: the other fields of ``TrainConfig``.

    Raises ConfigError, also for settings that do not exist or are of the wrong kind.
    """
    if unknown := sorted(set(values) - {"model", *TABLES}):
        raise ConfigError(f"no table of settings {', '.join(unknown)}; there are model, {', '.join(TABLES)}")
    model = values.get("model", {})
    if not isinstance(model, dict) or "architecture" in model:
        raise ConfigError("model: a table of settings; the architecture is the command's first word, not one of them")
    start = {"architecture": architecture}
    if init is not None:
        start = asdict(load_config(init))
        if (found := start["architecture"]) != architecture:
            raise ConfigError(f"--init {init}: its architecture is {found}; train {found}")
        if "body" in model:
            raise ConfigError(f"--init {init}: brings its body's settings; only model.context and model.block are free")
    options["model"] = network_config(start | model, "model")
    tables = {name: made(settings, values.get(name, {}), name) for name, settings in TABLES.items()}
    return TrainConfig(out=out, init=init, **options, **tables)
