"""Networks to and from disk: see ``model_files``."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from ..outputs import file_errors, temporary
from .copying import CopyingConfig
from .copying_network import CopyingNetwork
from .model_files import CONFIG, WEIGHTS, check_shapes, load_config, read_weights, write_config
from .network import NetworkConfig, TableNetwork

__all__ = ["CONFIG", "WEIGHTS", "fill", "load_config", "load_model", "load_weights", "new_network", "save_model"]


def new_network(config: NetworkConfig | CopyingConfig) -> TableNetwork | CopyingNetwork:
    """With random weights, from torch's generator."""
    return CopyingNetwork(config) if isinstance(config, CopyingConfig) else TableNetwork(config)


def save_model(path: Path, network: nn.Module, config: NetworkConfig | CopyingConfig) -> None:
    """Writes both files, each complete before it has its name. Raises InputError where that is not possible."""
    with file_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        write_config(path, config)
        write_tensors(path / WEIGHTS, network.state_dict())


def load_model(path: Path) -> tuple[TableNetwork | CopyingNetwork, NetworkConfig | CopyingConfig]:
    """The network, on the CPU, and its settings. Raises InputError where it is not a whole model."""
    config = load_config(path)
    network = new_network(config)
    load_weights(network, path)
    return network, config


def load_weights(network: nn.Module, path: Path) -> None:
    """Gives ``network`` the weights of the model in directory ``path``. Raises InputError where they do not fit."""
    fill(network, {name: torch.from_numpy(value) for name, value in read_weights(path).items()}, path / WEIGHTS)


def fill(network: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Loads the weights that were read from ``path``. Raises InputError unless they are exactly the network's."""
    own, found = ({name: tuple(t.shape) for name, t in these.items()} for these in (network.state_dict(), tensors))
    check_shapes(own, found, path)
    network.load_state_dict(tensors)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """One safetensors file, complete before it has its name. Raises OSError."""
    whole = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    temp = temporary(path)
    try:
        temp.write_bytes(whole)
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
