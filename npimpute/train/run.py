"""A training run from its settings: panels -> tables -> loop -> model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..engine.checkpoint import load_weights, new_network
from ..engine.copying import CopyingConfig
from ..engine.device import choose_device
from ..engine.network import NetworkConfig
from ..errors import ConfigError
from ..panel.genetic_map import GeneticMap, constant_rate, read_genetic_map
from ..panel.panel import open_panel
from .copying_task import CopyingDataConfig, CopyingSource, CopyingTask
from .data import DataConfig, Region, TableSource, read_regions
from .loop import LoopConfig, Task, Trainer, check_place, train_task
from .objective import ObjectiveConfig
from .simulate import SimulationConfig, simulate
from .table_task import TableTask
from .validate import HeldOut, choose_people, hold_out

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and how. Raises ConfigError.

    out: the model's directory. panels: files to train on. simulate: how many panels to simulate besides; map: the
    genetic map of those, of validation, and for npssm of the panels. validate: panels that are not trained on; without
    any, those trained on. hold_out: people, by name, who are left out of every panel and imputed to validate, some
    ``hold_out_rows`` sites in each panel; 0 for no validation. init: directory of a model whose weights to start from;
    ``model`` has its architecture and body. objective: of networks that read tables.
    """

    out: Path
    panels: tuple[Path, ...] = ()
    simulate: int = 0
    map: Path | None = None
    validate: tuple[Path, ...] = ()
    hold_out: int = 50
    hold_out_rows: int = 2_000
    init: Path | None = None
    model: NetworkConfig | CopyingConfig = NetworkConfig()
    objective: ObjectiveConfig | None = ObjectiveConfig()
    data: DataConfig | CopyingDataConfig = DataConfig()
    loop: LoopConfig = LoopConfig()
    simulation: SimulationConfig = SimulationConfig()

    def __post_init__(self) -> None:
        if not self.panels and not self.simulate:
            raise ConfigError("nothing to train on: give --panel, or --simulate")
        if self.validate and not self.hold_out:
            raise ConfigError("--validate needs people who are not trained on: give --hold-out 1 or more")
        if self.hold_out < 0 or self.hold_out_rows < 1 or self.simulate < 0:
            raise ConfigError("--hold-out and --simulate are 0 or more, --hold-out-rows 1 or more")
        if self.hold_out and not (self.panels or self.validate):
            raise ConfigError("simulated people cannot be held out: give --validate, or --hold-out 0")
        if shared := {p.resolve() for p in self.panels} & {p.resolve() for p in self.validate}:
            raise ConfigError(f"{min(shared)}: is trained on; --validate takes panels that are not")

    def settings(self) -> dict[str, Any]:
        """Plain values, without the output's place."""
        values = asdict(self)
        del values["out"]
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def train(
    config: TrainConfig,
    device: str | None = None,
    threads: int = 1,
    minutes: float = math.inf,
    resume: bool = False,
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> bool:
    """Trains the model into ``config.out``; whether all its steps are done. The rest: see ``train_task``."""
    check_place(config.out, resume)
    device = choose_device(device, threads)
    torch.manual_seed(config.loop.seed)
    network = new_network(config.model)
    if config.init is not None:
        load_weights(network, config.init)
    task = _task(config, network, *_data(config, threads), device, threads)
    log.info("%s: %d parameters", config.model.architecture, sum(p.numel() for p in network.parameters()))
    improve = config.init is not None and config.hold_out > 0
    trainer = Trainer(task, config.loop, config.out, config.settings(), device, minutes, improve)
    return train_task(trainer, config.out, resume, progress)


def _task(
    config: TrainConfig, network: nn.Module, regions: list[Region], held_out: list[HeldOut], device: str, threads: int
) -> Task:
    if isinstance(config.model, CopyingConfig):
        source = CopyingSource(regions, config.data, config.model, config.loop.seed, threads, config.simulate)
        return CopyingTask(network, config.model, source, held_out, device, threads)
    source = TableSource(regions, config.data, config.model.block, config.model.context, config.model.reach)
    return TableTask(network, config.model, source, config.objective, held_out, device)


def read_held_out(config: TrainConfig, genetic_map: GeneticMap | None, threads: int) -> tuple[set[str], list[HeldOut]]:
    """Who is left out of all panels, and they as targets of those that they are judged on."""
    judges = config.validate or config.panels
    people = choose_people([open_panel(path) for path in judges], config.hold_out, config.loop.seed)
    settings = (config.data, config.hold_out_rows, config.loop.seed, genetic_map, threads)
    return people, [hold_out(path, people, *settings) for path in judges]


def _data(config: TrainConfig, threads: int) -> tuple[list[Region], list[HeldOut]]:
    genetic_map = read_genetic_map(config.map) if config.map else None
    if genetic_map is None and isinstance(config.model, CopyingConfig):
        log.info("genetic map: none given, so 1 cM/Mb is used; --map improves accuracy")
    people, held_out = read_held_out(config, genetic_map, threads) if config.hold_out else (set(), [])
    panels = (open_panel(path, None, None, people & set(open_panel(path).samples), threads) for path in config.panels)
    simulated = (simulate(config.simulation, config.loop.seed + i, genetic_map) for i in range(config.simulate))
    needed = (genetic_map or constant_rate(1.0)) if isinstance(config.model, CopyingConfig) else None
    regions = read_regions([*panels, *simulated], needed)
    for region in regions:
        log.info("training on %s: %d haplotypes, %d sites", region.name, region.k, len(region.pos))
    return regions, held_out
