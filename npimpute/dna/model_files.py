"""Networks that read DNA, by their settings and from disk: a directory with config.json and weights.safetensors."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..engine.checkpoint import load_weights, save_model
from ..engine.model_files import CONFIG, read_settings
from ..errors import ConfigError, InputError
from .caduceus import Caduceus
from .config import ARCHITECTURES, CaduceusConfig, DNAConfig, HawkConfig, dna_config
from .hawk import Hawk
from .ntv2 import NTv2


def new_model(config: DNAConfig) -> nn.Module:
    """With random weights, from torch's generator."""
    if isinstance(config, CaduceusConfig):
        return Caduceus(config)
    return Hawk(config) if isinstance(config, HawkConfig) else NTv2(config)


def save(path: Path, network: nn.Module, config: DNAConfig) -> None:
    """Into the directory ``path``. Raises InputError where that is not possible."""
    save_model(path, network, config)


def load_config(path: Path) -> DNAConfig:
    """The settings of the model in directory ``path``. Raises InputError, also where it is a model of another kind, or
    ConfigError."""
    settings = read_settings(path)
    if settings.get("architecture") not in ARCHITECTURES:
        raise InputError(
            f"{path / CONFIG}: a model of architecture {settings.get('architecture')}; a model of DNA is needed: "
            f"{', '.join(ARCHITECTURES)}"
        )
    try:
        return dna_config(settings)
    except ConfigError as error:
        raise ConfigError(f"{path / CONFIG}: {error}") from error


def load_model(path: Path) -> tuple[nn.Module, DNAConfig]:
    """The network, on the CPU, and its settings. Raises InputError where it is not a whole model of DNA."""
    config = load_config(path)
    network = new_model(config)
    load_weights(network, path)
    return network, config
