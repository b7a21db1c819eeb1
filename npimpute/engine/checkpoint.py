"""Models on disk: a directory with config.json and weights.safetensors."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..config import made
from ..context.blocks import BlockSize
from ..errors import ConfigError, InputError
from ..outputs import file_errors, temporary
from .network import NetworkConfig, TableNetwork

FORMAT, FORMAT_VERSION = "npimpute-model", 1
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def save_model(path: Path, network: TableNetwork, config: NetworkConfig) -> None:
    """Writes both files, each complete before it has its name. Raises InputError where that is not possible."""
    with file_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        _write_json(path / CONFIG, {"format": FORMAT, "version": FORMAT_VERSION} | asdict(config))
        write_tensors(path / WEIGHTS, network.state_dict())


def load_model(path: Path) -> tuple[TableNetwork, NetworkConfig]:
    """The network, on the CPU, and its settings. Raises InputError where it is not a whole model."""
    config = load_config(path)
    network = TableNetwork(config)
    load_weights(network, path)
    return network, config


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Gives ``network`` the weights of the model in directory ``path``. Raises InputError where they do not fit."""
    fill(network, _read_tensors(path / WEIGHTS), path / WEIGHTS)


def load_config(path: Path) -> NetworkConfig:
    """The settings of the model in directory ``path``."""
    found = _read_json(path / CONFIG)
    if found.pop("format", None) != FORMAT:
        raise InputError(f"{path / CONFIG}: not the settings of a model that 'npimpute train' made")
    if (version := found.pop("version", None)) != FORMAT_VERSION:
        raise InputError(f"{path / CONFIG}: model of format version {version}, not {FORMAT_VERSION}; train it again")
    return network_config(found, str(path / CONFIG))


def network_config(found: dict, what: str) -> NetworkConfig:
    """``NetworkConfig`` from plain values. what: named in the ConfigError for those that do not exist or fit."""
    try:
        return made(NetworkConfig, found | {"block": made(BlockSize, found.get("block", {}), "block")}, "model")
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error


def fill(network: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Loads the weights that were read from ``path``. Raises InputError unless they are exactly the network's."""
    own = network.state_dict()
    for name in sorted(set(own) | set(tensors)):
        ours, theirs = (tuple(t[name].shape) if name in t else "none" for t in (own, tensors))
        if ours != theirs:
            raise InputError(f"{path}: weights of another model: {name} is {theirs}, the settings say {ours}")
    network.load_state_dict(tensors)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as weights ({error})") from error


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


def _write_json(path: Path, values: dict) -> None:
    temp = temporary(path)
    temp.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temp, path)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """One safetensors file, complete before it has its name. Raises OSError."""
    whole = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    temp = temporary(path)
    try:
        temp.write_bytes(whole)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
