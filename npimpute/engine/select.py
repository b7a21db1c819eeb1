"""The engine of a name: the one place that knows them all, and loads torch only for those that need it."""

from __future__ import annotations

import logging
from pathlib import Path

from ..config import RunConfig
from ..context.blocks import BlockSize
from ..errors import ConfigError
from .base import Engine
from .blockwise import BlockEngine
from .li_stephens import LiStephens

log = logging.getLogger(__name__)


def make_engine(config: RunConfig) -> Engine:
    """The engine that ``config`` asks for. Raises InputError or ConfigError if its model or device cannot be used."""
    if config.engine == "li-stephens":
        return LiStephens(config.ne, config.err, config.threads, config.seed)
    if config.engine == "knn":
        from .knn import DEFAULT_NEIGHBOURS, KNN

        return BlockEngine("knn", KNN(config.context or DEFAULT_NEIGHBOURS), BlockSize(), config.err)
    device = _device(config)
    if config.engine == "logistic":
        from .logistic import LogisticRegression

        return BlockEngine("logistic", LogisticRegression(device=device), BlockSize(), config.err)
    return _network_engine(config.engine, config.model, config.context, device, config.err)


def _network_engine(name: str, model: Path, context: int | None, device: str, err: float | None) -> Engine:
    from .checkpoint import load_model
    from .network import NetworkPredictor

    network, settings = load_model(model)
    if settings.architecture != name:
        raise ConfigError(f"--model {model}: its architecture is {settings.architecture}; give --engine {name}'s own")
    context = context or settings.context
    log.info("%s: model %s, context of %d haplotypes, on %s", name, model, context, device)
    return BlockEngine(name, NetworkPredictor(network, context, device), settings.block, err)


def _device(config: RunConfig) -> str:
    """The device to use, with torch's threads set. Raises ConfigError for one that is not there."""
    import torch

    torch.set_num_threads(config.threads)
    if config.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {config.device}: torch finds no GPU; see 'npimpute doctor'")
    return config.device
