"""Models on disk: a directory with config.json and weights.safetensors. Nothing here needs torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..config import made
from ..context.blocks import BlockSize
from ..errors import ConfigError, InputError
from ..outputs import temporary
from .copying import CopyingConfig

if TYPE_CHECKING:
    from .network import NetworkConfig

FORMAT, FORMAT_VERSION = "npimpute-model", 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def default_model() -> Path:
    """The directory of the model that npimpute comes with: within the package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside, beside = package / "models" / "npssm", package.parent / "models" / "npssm"
    return inside if inside.exists() else beside


def write_config(path: Path, config: NetworkConfig | CopyingConfig) -> None:
    """Into the directory ``path``, complete before it has its name. Raises OSError."""
    temp = temporary(path / CONFIG)
    temp.write_text(json.dumps({"format": FORMAT, "version": FORMAT_VERSION} | asdict(config), indent=2) + "\n")
    os.replace(temp, path / CONFIG)


def load_config(path: Path) -> NetworkConfig | CopyingConfig:
    """The settings of the model in directory ``path``. Raises InputError where there is none, or ConfigError."""
    return model_config(read_settings(path), str(path / CONFIG))


def read_settings(path: Path) -> dict:
    """The settings of any model in directory ``path``, as plain values. Raises InputError."""
    found = _read_json(path / CONFIG)
    if found.pop("format", None) != FORMAT:
        raise InputError(f"{path / CONFIG}: not the settings of a model that 'npimpute train' made")
    if (version := found.pop("version", None)) != FORMAT_VERSION:
        raise InputError(f"{path / CONFIG}: model of format version {version}, not {FORMAT_VERSION}; train it again")
    return found


def model_config(found: dict, what: str) -> NetworkConfig | CopyingConfig:
    """Settings of a model from plain values. what: named in the ConfigError for those that do not exist or fit."""
    try:
        if found.get("architecture") == "npssm":
            return made(CopyingConfig, found, "model")
        from .network import NetworkConfig

        return made(NetworkConfig, found | {"block": made(BlockSize, found.get("block", {}), "block")}, "model")
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the model in directory ``path``, float32. Raises InputError."""
    try:
        tensors = load_file(path / WEIGHTS)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: bfloat16, which numpy does not have
        raise InputError(f"{path / WEIGHTS}: cannot be read as weights ({error})") from error
    for name, value in tensors.items():
        if value.dtype != np.float32:
            raise InputError(f"{path / WEIGHTS}: {name} is {value.dtype}; weights are float32")
    return tensors


def check_shapes(own: dict[str, tuple], found: dict[str, tuple], path: Path) -> None:
    """Raises InputError unless the tensors that were read from ``path`` are those of a network, by name and shape."""
    for name in sorted(set(own) | set(found)):
        ours, theirs = (shapes.get(name, "none") for shapes in (own, found))
        if ours != theirs:
            raise InputError(f"{path}: weights of another model: {name} is {theirs}, the settings say {ours}")


def _read_json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a directory with a model") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: not an object of settings")
    return found
