"""The training loop: any task that draws batches and knows its loss, on one device or several.

Draw ``i`` of step ``s`` is a function of (seed, s, i) alone. So a run that was interrupted and resumed is the run that
was not, and one over several processes is one in a single process, up to rounding.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, distributed, nn

from ..engine.model_files import WEIGHTS
from ..errors import ConfigError, InputError
from ..outputs import file_errors
from .state import METRICS, STATE, cut_metrics, load_state, save_state, validated

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SCHEDULES = ("constant", "cosine")
# Draws made ahead of the step that needs them.
AHEAD = 2


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast. Raises ConfigError.

    steps: optimiser steps. batch: tables of one draw; accumulate: draws of one step, over all processes. lr: Adam's,
    after ``warmup`` steps; schedule: "constant", or "cosine" down to a hundredth. clip: the gradient's norm at most, 0
    for no limit. precision: of what autocast may run in less ("bfloat16"). validate_every, save_every, log_every: in
    steps. betas: how much Adam keeps of its two means at a step.
    """

    steps: int = 10_000
    batch: int = 8
    accumulate: int = 16
    lr: float = 1e-3
    warmup: int = 100
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: str = "float32"
    validate_every: int = 500
    save_every: int = 500
    log_every: int = 10
    seed: int = 1
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "validate_every", "save_every", "log_every"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"loop.{name} {getattr(self, name)}: at least 1")
        for name in ("warmup", "weight_decay", "clip", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"loop.{name} {getattr(self, name)}: at least 0")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"loop.lr {self.lr}: above 0")
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2 or not all(type(b) in (int, float) and 0 <= b < 1 for b in self.betas):
            raise ConfigError(f"loop.betas {list(self.betas)}: two numbers, at least 0 and below 1")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"loop.precision {self.precision}: choose from {', '.join(PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"loop.schedule {self.schedule}: choose from {', '.join(SCHEDULES)}")

    def lr_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.lr * warm
        return self.lr * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2)


class Task(Protocol):
    """What is learnt."""

    network: nn.Module

    def draw(self, rng: np.random.Generator, count: int) -> Any:
        """A batch of ``count`` tables, on the CPU."""
        ...

    def loss(self, network: nn.Module, batch: Any, share: float) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of a batch and what to report of it. share: of the steps done."""
        ...

    def validate(self) -> dict[str, Any]:
        """Accuracy on held-out data, for the metrics; empty where there is none."""
        ...

    def save(self, path: Path) -> None:
        """Writes the model to the directory ``path``."""
        ...


@dataclass(frozen=True)
class Processes:
    """This process among those that torchrun started; one of one without it."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def joined(device: str) -> Processes:
        """Joins the others, if there are any, as the environment that torchrun sets says."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return Processes()
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return Processes(distributed.get_rank(), world)

    def mean(self, values: dict[str, float], device: str) -> dict[str, float]:
        """Each value's mean over the processes."""
        if self.world == 1:
            return values
        sums = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        distributed.all_reduce(sums)
        return dict(zip(values, (sums / self.world).tolist(), strict=True))

    def any(self, flag: bool, device: str) -> bool:
        return self.mean({"flag": float(flag)}, device)["flag"] > 0


class Trainer:
    """Trains ``task`` into the directory ``out``: the model, metrics.jsonl, and the state to resume from.

    settings: what the run is, saved with its state; another run's state is refused. minutes: stop, resumable, after
    so long. improve: of a task that validates, save the model only where it validates better than the network does at
    the start and than any saved before. Raises ConfigError, also when the loss is not a number.
    """

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        out: Path,
        settings: dict[str, Any],
        device: str = "cpu",
        minutes: float = math.inf,
        improve: bool = False,
    ):
        if not minutes >= 0:
            raise ConfigError(f"--minutes {minutes}: 0 or more")
        self.improve, self._best = improve, -math.inf
        self._task, self._config, self._out, self._settings, self._device = task, config, out, settings, device
        self._deadline = time.monotonic() + 60 * minutes
        self._processes = Processes.joined(device)
        if config.accumulate % self._processes.world:
            raise ConfigError(
                f"loop.accumulate {config.accumulate}: must divide by the {self._processes.world} processes"
            )
        network = task.network.to(device)
        self._parallel = network if self._processes.world == 1 else nn.parallel.DistributedDataParallel(network)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self._step = 0

    def resume(self) -> int:
        """Goes on from the state in ``out``; returns the steps that are done."""
        self._step = load_state(self._out, self._task.network, self._optimizer, self._settings)
        if self._leads:
            cut_metrics(self._out / METRICS, self._step)
            if self.improve:
                self._best = max(validated(self._out / METRICS), default=-math.inf)
        return self._step

    @property
    def saved(self) -> bool:
        """Whether there is a model in ``out``."""
        return (self._out / WEIGHTS).exists()

    def run(self, progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None) -> bool:
        """Trains to the end, or until the minutes are over; whether the end was reached. progress: called after every
        step with the steps done and the step's metrics."""
        config = self._config
        mine = range(self._processes.rank, config.accumulate, self._processes.world)
        if self.improve and self._step == 0:
            self._validate()
        with ThreadPoolExecutor(1) as pool:
            draws = ((step, i) for step in range(self._step, config.steps) for i in mine)
            queue = deque(pool.submit(self._draw, *draw) for draw in islice(draws, AHEAD))
            while self._step < config.steps:
                metrics = self._train_step(pool, draws, queue, len(mine))
                self._step += 1
                progress(self._step, metrics)
                last = self._step == config.steps
                if self._leads and (last or self._step % config.log_every == 0):
                    self._write({"step": self._step, **metrics})
                if last or self._step % config.validate_every == 0:
                    self._validate()
                late = self._processes.any(time.monotonic() > self._deadline, self._device)
                if last or late or self._step % config.save_every == 0:
                    self._save()
                if late and not last:
                    return False
        return True

    @property
    def _leads(self) -> bool:
        return self._processes.rank == 0

    def _train_step(self, pool: ThreadPoolExecutor, draws: Iterator, queue: deque, count: int) -> dict[str, float]:
        config = self._config
        rate = config.lr_at(self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._parallel.train()
        totals: dict[str, float] = {}
        for i in range(count):
            queue.extend(pool.submit(self._draw, *draw) for draw in islice(draws, 1))
            batch = queue.popleft().result()
            for name, value in self._backward(batch, last=i == count - 1, parts=count).items():
                totals[name] = totals.get(name, 0.0) + value / count
        totals = self._processes.mean(totals, self._device)
        norm = float(nn.utils.clip_grad_norm_(self._task.network.parameters(), config.clip or math.inf))
        for what, value in (totals | {"gradient": norm}).items():
            if not math.isfinite(value):
                raise ConfigError(
                    f"step {self._step + 1}: the {what} is not a number; start anew, or from the saved model (--init), "
                    "with a lower --lr or with --precision float32"
                )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return totals | {"lr": rate, "gradient": norm}

    def _draw(self, step: int, i: int) -> Any:
        return self._task.draw(np.random.default_rng([self._config.seed, step, i]), self._config.batch)

    def _backward(self, batch: Any, last: bool, parts: int) -> dict[str, float]:
        share = self._step / self._config.steps
        together = nullcontext() if last or self._processes.world == 1 else self._parallel.no_sync()
        precision = PRECISIONS[self._config.precision]
        kind = self._device.split(":")[0]
        with together:
            with torch.autocast(kind, precision, enabled=precision != torch.float32):
                loss, metrics = self._task.loss(self._parallel, batch, share)
            (loss / parts).backward()
        return metrics

    def _validate(self) -> None:
        if self._leads and (found := self._task.validate()):
            self._write({"step": self._step, "validation": found})
            if self.improve:
                self._keep_if_best(found["all"]["pooled"])
        if self._processes.world > 1:
            distributed.barrier()

    def _keep_if_best(self, r2: float) -> None:
        if self._step and r2 > self._best:
            self._task.save(self._out)
        self._best = max(self._best, r2)

    def _save(self) -> None:
        if self._leads:
            if not self.improve:
                self._task.save(self._out)
            save_state(self._out, self._task.network, self._optimizer, self._settings, self._step)

    def _write(self, metrics: dict[str, Any]) -> None:
        with file_errors(self._out / METRICS), open(self._out / METRICS, "a") as file:
            file.write(json.dumps(_without_nan(metrics), allow_nan=False) + "\n")


def _without_nan(values: Any) -> Any:
    """null for what is not a number: JSON has no other word for it."""
    if isinstance(values, dict):
        return {name: _without_nan(value) for name, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def check_place(out: Path, resume: bool) -> None:
    """Raises InputError where a run that is not to be resumed would end one that can be."""
    if not resume and (out / STATE).exists():
        raise InputError(f"{out}: holds a training run; add --resume to go on with it, or name another directory")


def train_task(trainer: Trainer, out: Path, resume: bool, progress: Callable[[int, dict[str, float]], None]) -> bool:
    """Runs what trains into the directory ``out``, from the start or from the state there; whether all its steps are
    done. progress: see ``Trainer.run``. Raises InputError or ConfigError, also where only a better model was to be kept
    and none was."""
    if trainer.improve and not resume and (out / WEIGHTS).exists():
        raise InputError(f"{out}: holds a model, which would be taken for a better one; name another directory")
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if not resume:  # of a run that ended before it saved anything
            (out / METRICS).unlink(missing_ok=True)
    if resume:
        log.info("resumed after step %d", trainer.resume())
    done = trainer.run(progress)
    if done and not trainer.saved:
        raise ConfigError(
            f"{out}: no step validated better than the start, so no model was saved; train on more data, longer, or "
            "with a lower --lr"
        )
    return done
