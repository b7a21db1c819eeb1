"""Networks over alignments to and from disk: directories with config.json and weights.safetensors."""

from __future__ import annotations

from pathlib import Path

from ..config import made
from ..engine.checkpoint import load_weights
from ..engine.model_files import CONFIG, read_settings
from ..errors import ConfigError, InputError
from .axial import axial
from .classifier import Classifier
from .config import BODIES, MSAModelConfig
from .msamamba import AlignmentNetwork, msamamba

_MAKERS = {"msamamba": msamamba, "axial": axial}


def new_network(config: MSAModelConfig) -> AlignmentNetwork | Classifier:
    """With random weights, from torch's generator; a classifier where there are labels."""
    body = made(BODIES[config.architecture], config.body, config.architecture)
    network = _MAKERS[config.architecture](body, len(config.species))
    return Classifier(network, len(config.labels)) if config.labels else network


def load_config(path: Path) -> MSAModelConfig:
    """The settings of the model in directory ``path``. Raises InputError where it is none over alignments."""
    found = read_settings(path)
    if found.get("architecture") not in BODIES:
        architecture = found.get("architecture")
        raise InputError(f"{path / CONFIG}: a model of {architecture}; name one that 'npimpute train msa' made")
    try:
        return made(MSAModelConfig, found, "model")
    except ConfigError as error:
        raise ConfigError(f"{path / CONFIG}: {error}") from error


def load_model(path: Path) -> tuple[AlignmentNetwork, MSAModelConfig]:
    """A masked-language model, for evaluation on the CPU, and its settings.

    Raises InputError where it is not a whole one, or a classifier.
    """
    config = load_config(path)
    if config.labels:
        raise InputError(f"{path}: classifies sequences and predicts no bases; name the model it was tuned from")
    return _loaded(path, config), config


def load_classifier(path: Path) -> tuple[Classifier, MSAModelConfig]:
    """A classifier, for evaluation on the CPU, and its settings. Raises InputError where it is not a whole one."""
    config = load_config(path)
    if not config.labels:
        raise InputError(f"{path}: predicts bases and no classes; tune it with 'npimpute train msa --finetune'")
    return _loaded(path, config), config


def _loaded(path: Path, config: MSAModelConfig) -> AlignmentNetwork | Classifier:
    network = new_network(config)
    load_weights(network, path)
    return network.eval()
