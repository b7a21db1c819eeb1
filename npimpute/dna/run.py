"""A training run from its settings: a genome, and for fine-tuning a table of labels -> loop -> model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..config import made
from ..engine.checkpoint import load_weights
from ..engine.device import choose_device
from ..errors import ConfigError, InputError
from ..train.loop import LoopConfig, Task, Trainer, check_place, train_task
from .config import DNAConfig, dna_config, preset
from .finetune import FinetuneConfig, LabelTask, Rows, head_config
from .genome import Genome, open_genome
from .heads import TASKS, HeadConfig, HeadedConfig, headed
from .model_files import load_config, new_model
from .pretrain import MaskedTask, PretrainConfig
from .regions import stretches, training_stretches
from .tables import Table, read_table
from .tokens import tokeniser

log = logging.getLogger(__name__)
# Windows are long, so a draw has few of them.
LOOP = {"batch": 8, "accumulate": 1, "lr": 2e-3, "weight_decay": 0.01, "betas": (0.9, 0.95)}


@dataclass(frozen=True)
class Labels:
    """What fine-tuning learns. table: rows to train on, or with a column "split" also those to validate on; validate:
    these, in a file of their own; columns: of labels, all that are not places if there are none. Raises ConfigError."""

    table: Path
    task: str
    validate: Path | None = None
    columns: tuple[str, ...] = ()
    freeze: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"--task {self.task}: choose from {', '.join(TASKS)}")


@dataclass(frozen=True)
class DNATrainConfig:
    """What to train, on what, and how. Raises ConfigError.

    out: the model's directory. fasta: the genome. regions, hold_out: what of it to train on and what not, as regions or
    BED files; what is held out is validated on. init: directory of a model whose weights to start from. labels: for
    fine-tuning, with ``data`` of its kind.
    """

    out: Path
    fasta: Path
    model: DNAConfig
    data: PretrainConfig | FinetuneConfig
    loop: LoopConfig = LoopConfig(**LOOP)
    regions: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    init: Path | None = None
    labels: Labels | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and (self.regions or self.hold_out):
            raise ConfigError("--region and --hold-out: of pretraining; a table's column 'split' says what is held out")
        width = tokeniser(self.model.vocabulary).width
        lengths = [self.data.length, *(length for length, _ in getattr(self.data, "curriculum", ()))]
        if min(lengths) < width:
            raise ConfigError(f"data.length {min(lengths)}: shorter than one token, of {width} bases")

    def settings(self) -> dict[str, Any]:
        """Plain values, without the output's place."""
        values = asdict(self)
        del values["out"]
        return _plain(values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def train_config(
    architecture: str, size: str | None, values: dict[str, Any], init: Path | None, labels: Labels | None, **options
) -> DNATrainConfig:
    """values: tables "model", "data" and "loop". size: a preset. options: the other fields of ``DNATrainConfig``.

    Raises ConfigError, also for settings that do not exist or are of the wrong kind, and InputError.
    """
    if unknown := sorted(set(values) - {"model", "data", "loop"}):
        raise ConfigError(f"no table of settings {', '.join(unknown)}; there are model, data, loop")
    model = values.get("model", {})
    if not isinstance(model, dict) or "architecture" in model:
        raise ConfigError("model: a table of settings; the architecture is --model's, not one of them")
    if init is None:
        start = preset(architecture, size or "tiny")
    else:
        start = load_config(init)
        if start.architecture != architecture:
            raise ConfigError(f"--init {init}: its architecture is {start.architecture}: --model {start.architecture}")
        if size is not None:
            raise ConfigError(f"--preset {size}: --init {init} brings its sizes")
    data = made(PretrainConfig if labels is None else FinetuneConfig, values.get("data", {}), "data")
    if labels is None:
        data = replace(data, curriculum=tuple(tuple(pair) for pair in data.curriculum))
    loop = values.get("loop", {})
    loop = made(LoopConfig, LOOP | loop if isinstance(loop, dict) else loop, "loop")
    config = dna_config(asdict(start) | model)
    return DNATrainConfig(model=config, data=data, loop=loop, init=init, labels=labels, **options)


def train(
    config: DNATrainConfig,
    device: str | None = None,
    threads: int = 1,
    minutes: float = math.inf,
    resume: bool = False,
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> bool:
    """Trains the model into ``config.out``; whether all its steps are done. The rest: see ``train_task``."""
    check_place(config.out, resume)
    device = choose_device(device, threads)
    genome = open_genome(config.fasta)
    torch.manual_seed(config.loop.seed)
    task = _masked_task(config, genome, device) if config.labels is None else _label_task(config, genome, device)
    improve = isinstance(task, LabelTask) and task.judges
    learns = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    log.info("%s: %d parameters that learn", config.model.architecture, learns)
    trainer = Trainer(task, config.loop, config.out, config.settings(), device, minutes, improve)
    return train_task(trainer, config.out, resume, progress)


def _masked_task(config: DNATrainConfig, genome: Genome, device: str) -> Task:
    held_out = stretches(genome, config.hold_out)
    places = training_stretches(genome, config.regions, held_out)
    network = new_model(config.model)
    if config.init is not None:
        load_weights(network, config.init)
    sizes = [sum(place.end - place.start for place in them) for them in (places, held_out)]
    log.info("training on %d bases, %d are held out", *sizes)
    return MaskedTask(network, config.model, config.data, genome, places, held_out, config.loop.seed, device)


def _label_task(config: DNATrainConfig, genome: Genome, device: str) -> LabelTask:
    labels = config.labels
    table = _table(labels, labels.table)
    rows = table.split("train")
    if not len(rows):
        raise InputError(f"{labels.table}: no row of split train")
    head = head_config(labels.task, rows, config.data)
    body = new_model(config.model)
    if config.init is not None:
        load_weights(body, config.init)
    else:
        log.warning("without --init the network starts from random weights, not from a pretrained model")
    network = headed(body, config.model, head, labels.freeze)
    vocabulary = config.model.vocabulary
    judged = _judged(labels, table, head)
    train_rows = Rows(genome, rows, head, vocabulary)
    judged_rows = None if judged is None else Rows(genome, judged, head, vocabulary)
    log.info("training on %d rows, validating on %d", len(train_rows), len(judged_rows or ()))
    return LabelTask(network, HeadedConfig(config.model, head), train_rows, judged_rows, device)


def _judged(labels: Labels, table: Table, head: HeadConfig) -> Table | None:
    if labels.validate is not None:
        found = _table(labels, labels.validate, head.columns)
        return found.split("validation") if found.splits and "validation" in found.splits else found
    judged = table.split("validation") if table.splits else None
    return judged if judged is not None and len(judged) else None


def _table(labels: Labels, path: Path, columns: tuple[str, ...] = ()) -> Table:
    return read_table(path, labels.task == "variants", columns or labels.columns)
