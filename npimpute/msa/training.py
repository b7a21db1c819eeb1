"""A training run over alignments from its settings: alignment -> windows -> loop -> model, or labelled sequences ->
loop -> classifier."""

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
from ..errors import ConfigError
from ..train.loop import LoopConfig, Trainer, check_place, train_task
from .classifier import Classifier
from .config import SPARSITY, MSAModelConfig
from .examples import class_names, read_examples
from .finetune import ClassTask, ExamplesConfig
from .model_files import load_model, new_network
from .msamamba import AlignmentNetwork
from .store import Alignment
from .stretches import held_out, remaining
from .task import MaskedTask
from .windows import MaskingConfig, Rows, WindowSource, held_out_windows

log = logging.getLogger(__name__)

BASES = 49_152
# Tokens of one draw, unless told how many draws make a step: training the published network takes some 115 kB for each,
# 7.5 GB, and 4.7 GB where half of the rows skip; about 10 kB with --recompute.
DRAW_TOKENS = 1 << 16
LOOP = {"lr": 3e-5, "weight_decay": 1e-3, "betas": (0.9, 0.95)}
FINETUNE_LOOP = LOOP | {"lr": 3e-4}
WARM_UP = 0.1  # of the steps


@dataclass(frozen=True)
class MSATrainConfig:
    """What to train, on what, and how. Raises ConfigError.

    out: the model's directory. msa: the alignment. hold_out: what is not trained on but validated on, see
    ``stretches.held_out``. init: directory of a masked-language model whose weights to start from; ``model`` has its
    architecture, body and species. finetune: a folder of labelled sequences, with their genome ``fasta``: a classifier
    is trained, and ``msa`` may be None. The loop's batch counts windows. recompute: see ``msamamba.AlignmentNetwork``.
    """

    out: Path
    msa: Path | None
    hold_out: tuple[str, ...]
    init: Path | None
    finetune: Path | None
    fasta: Path | None
    model: MSAModelConfig
    data: MaskingConfig | ExamplesConfig
    loop: LoopConfig
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.finetune is not None and self.hold_out:
            raise ConfigError("--hold-out: --finetune validates on the folder's test split; leave it away")
        if self.finetune is None and self.fasta is not None:
            raise ConfigError("--fasta: the genome of --finetune's intervals; leave it away")

    def settings(self) -> dict[str, Any]:
        """Plain values, without the output's place."""
        paths = {name: getattr(self, name) for name in ("msa", "init", "finetune", "fasta")}
        values: dict[str, Any] = {name: path and str(path) for name, path in paths.items()}
        values |= {"hold_out": list(self.hold_out), "recompute": self.recompute}
        return values | {name: asdict(getattr(self, name)) for name in ("model", "data", "loop")}


def train_config(
    values: dict[str, Any],
    out: Path,
    msa: Path | None,
    bases: int,
    hold_out: tuple[str, ...] = (),
    init: Path | None = None,
    finetune: Path | None = None,
    fasta: Path | None = None,
    recompute: bool = False,
) -> MSATrainConfig:
    """Settings of a run from plain values in the tables model, data and loop.

    bases: columns of a step, from which the loop's batch follows. The rest: see ``MSATrainConfig``. Raises InputError
    or ConfigError.
    """
    if msa is None and finetune is None:
        raise ConfigError("nothing to train on: give --msa, or --finetune")
    check_tables(values, ("model", "data", "loop"))
    table = values.get("model", {})
    if "labels" in table:
        raise ConfigError("model.labels: those of --finetune's files; leave it away")
    # Sequences without an alignment are one row.
    model = model_settings(table, init, lambda: ("reference",) if msa is None else Alignment.open(msa).species)
    if finetune is not None:
        model = replace(model, labels=class_names(finetune))
    kind, defaults = (MaskingConfig, LOOP) if finetune is None else (ExamplesConfig, FINETUNE_LOOP)
    data = made(kind, {"sparsity": SPARSITY[model.architecture]} | values.get("data", {}), "data")
    rows = 1 if msa is None else len(model.species)
    loop = loop_settings(defaults | values.get("loop", {}), bases, model.length, rows)
    return MSATrainConfig(out, msa, hold_out, init, finetune, fasta, model, data, loop, recompute)


def check_tables(values: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises ConfigError unless ``values`` are tables with these names."""
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"no table of settings {', '.join(unknown)}; there are {', '.join(known)}")
    for name, table in values.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{name}: a table of settings, not {table!r}")


def model_settings(values: dict[str, Any], init: Path | None, species: Callable[[], tuple[str, ...]]) -> MSAModelConfig:
    """A model's settings from plain values, and from those of ``init`` if there is one. Raises ConfigError.

    species: asked for where there is none.
    """
    if init is None:
        return made(MSAModelConfig, {"species": species()} | values, "model")
    _, start = load_model(init)
    if fixed := sorted(set(values) & {"body", "species"}):
        raise ConfigError(f"--init {init}: brings model.{fixed[0]}; only model.length is free")
    if values.get("architecture", start.architecture) != start.architecture:
        raise ConfigError(f"--init {init}: its architecture is {start.architecture}; leave --architecture away")
    return made(MSAModelConfig, asdict(start) | values, "model")


def loop_settings(values: dict[str, Any], bases: int, length: int, rows: int) -> LoopConfig:
    """The loop's settings, with windows of a draw from ``bases``, and draws of a step from how large those are."""
    if "batch" in values:
        raise ConfigError("loop.batch: follows from --bases, --length and loop.accumulate; set those")
    windows = bases // length
    if windows < 1:
        raise ConfigError(f"--bases {bases}: fewer than the {length} of one window")
    fitting = -(-windows // max(1, DRAW_TOKENS // (rows * length)))
    loop = made(LoopConfig, {"accumulate": fitting} | values, "loop")
    if loop.accumulate > windows:
        raise ConfigError(f"loop.accumulate {loop.accumulate}: --bases {bases} are {windows} windows of {length}")
    warmup = loop.warmup if "warmup" in values else math.ceil(WARM_UP * loop.steps)
    return replace(loop, batch=windows // loop.accumulate, warmup=warmup)


def train(
    config: MSATrainConfig,
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
    body = network.network if config.model.labels else network
    body.recompute = config.recompute
    if config.init is not None:
        load_weights(body, config.init)
    task = (_masked_task if config.finetune is None else _class_task)(config, network, device)
    log.info("%s: %d parameters", config.model.architecture, sum(p.numel() for p in network.parameters()))
    trainer = Trainer(task, config.loop, config.out, config.settings(), device, minutes)
    return train_task(trainer, config.out, resume, progress)


def _masked_task(config: MSATrainConfig, network: AlignmentNetwork, device: str) -> MaskedTask:
    alignment = Alignment.open(config.msa)
    rows, length = Rows(alignment, config.model.species), config.model.length
    without = held_out(config.hold_out, alignment)
    source = WindowSource(rows, remaining(alignment, without), length, config.data.reverse_complement)
    windows = held_out_windows(rows, without, alignment.contigs, length, config.data, config.loop.seed)
    columns = sum(s.end - s.start for s in without)
    log.info("%d windows to draw from; %d columns held out, %d windows of them to validate on", source.places, columns,
             len(windows))  # fmt: skip
    return MaskedTask(network, config.model, source, config.data, windows, device)


def _class_task(config: MSATrainConfig, network: Classifier, device: str) -> ClassTask:
    found = read_examples(config.finetune, config.fasta, config.msa, config.model.species)
    held_out = found["test"].spread(config.data.validate_examples)
    counts = len(found["train"].classes), len(held_out.classes), len(found["test"].classes)
    log.info("%d examples of %s; validated on %d of %d", counts[0], ", ".join(config.model.labels), *counts[1:])
    return ClassTask(network, config.model, found["train"], config.data, held_out, device)
