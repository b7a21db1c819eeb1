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
    from .device import choose_device

    device = choose_device(config.device, config.threads)
    if config.engine == "logistic":
        from .logistic import LogisticRegression

        return BlockEngine("logistic", LogisticRegression(device=device), BlockSize(), config.err)
    return _network_engine(config.engine, config.model, config.context, device, config.err)


def _network_engine(name: str, model: Path, context: int | None, device: str, err: float | None) -> Engine:
    from .checkpoint import load_model
    from .network import NetworkPredictor

    network, settings = load_model(model)
    if settings.architecture != name:
        raise ConfigError(f"--model {model}: is of another engine; use --engine {settings.architecture}")
    context = context or settings.context
    log.info("%s: model %s, context of %d haplotypes, on %s", name, model, context, device)
    return BlockEngine(name, NetworkPredictor(network, context, device), settings.block, err)
