"""The engine of a name: the one place that knows them all, and loads torch only for those that need it."""

from __future__ import annotations

import logging
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config import RunConfig
from ..context.blocks import BlockSize
from ..errors import ConfigError
from .base import Engine
from .blockwise import BlockEngine
from .calibrated import Calibrated
from .learnt import Learnt
from .li_stephens import CladeCopying, LiStephens, copying_model
from .model_files import WEIGHTS, check_shapes, default_model, load_config, read_weights

log = logging.getLogger(__name__)

COPYING = {engine.name: engine for engine in (LiStephens, CladeCopying)}


def make_engine(config: RunConfig) -> Engine:
    """The engine that ``config`` asks for. Raises InputError or ConfigError if its model or device cannot be used."""
    if config.engine == "npssm":
        return _npssm(config)
    learnt = Learnt(config.cache, config.engine, config.calibrate, config.seed)
    engine = _uncalibrated(config, learnt)
    return Calibrated(engine, config.calibrate, config.seed, learnt) if config.calibrate else engine


def _uncalibrated(config: RunConfig, learnt: Learnt) -> Engine:
    if config.engine in COPYING:
        return COPYING[config.engine](config.ne, config.err, config.threads, config.seed, learnt=learnt)
    if config.engine == "knn":
        from .knn import DEFAULT_NEIGHBOURS, KNN

        return BlockEngine("knn", KNN(config.context or DEFAULT_NEIGHBOURS), BlockSize(), config.err)
    from .device import choose_device

    device = choose_device(config.device, config.threads)
    if config.engine == "logistic":
        from .logistic import LogisticRegression

        return BlockEngine("logistic", LogisticRegression(device=device), BlockSize(), config.err)
    return _network_engine(config.engine, config.model, config.context, device, config.err)


def _npssm(config: RunConfig) -> Engine:
    from .npssm import NPSSMEngine, WithoutLayers
    from .read_out import shapes_without_layers

    path = config.model or default_model()
    settings = _settings(path, config.engine)
    settings = replace(settings, haplotypes=config.context or settings.haplotypes)
    tensors = read_weights(path)
    if settings.layers:
        from .checkpoint import load_model
        from .copying_network import WithLayers
        from .device import choose_device

        # Batches run side by side, each on one thread.
        device = choose_device(config.device, 1)
        reader = WithLayers(load_model(path)[0], device)
    elif config.device not in (None, "cpu"):
        raise ConfigError(f"--device {config.device}: the model {path} runs on the CPU")
    else:
        found = {name: value.shape for name, value in tensors.items()}
        check_shapes(shapes_without_layers(settings), found, path / WEIGHTS)
        device, reader = "cpu", WithoutLayers(tensors)
    calibrate = settings.calibrate if config.calibrate is None else config.calibrate
    log.info("npssm: model %s on %s, %d panel haplotypes hidden to learn of sites", path, device, calibrate)
    weights = {name: zlib.crc32(np.ascontiguousarray(value)) for name, value in tensors.items()}
    learnt = Learnt(config.cache, settings, weights, calibrate, config.seed)
    copying = copying_model(settings, config.ne, config.err, config.threads, config.seed, learnt)
    return NPSSMEngine(settings, tensors, reader, copying, calibrate, config.threads, config.seed, learnt)


def _settings(path: Path, engine: str):
    settings = load_config(path)
    if settings.architecture != engine:
        raise ConfigError(f"--model {path}: is of another engine; use --engine {settings.architecture}")
    return settings


def _network_engine(name: str, model: Path, context: int | None, device: str, err: float | None) -> Engine:
    from .checkpoint import load_model
    from .network import NetworkPredictor

    _settings(model, name)
    network, settings = load_model(model)
    context = context or settings.context
    log.info("%s: model %s, context of %d haplotypes, on %s", name, model, context, device)
    return BlockEngine(name, NetworkPredictor(network, context, settings.reach, device), settings.block, err)
