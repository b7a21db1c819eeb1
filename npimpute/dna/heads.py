"""Networks with a head that tells labels: what they are, what they compute, and their place on disk.

Axes: b rows, t tokens, e width of the body, o outputs of the head.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_counts, made
from ..engine.checkpoint import load_weights, save_model
from ..engine.model_files import CONFIG, read_settings
from ..errors import ConfigError, InputError
from .config import DNAConfig, dna_config
from .model_files import new_model

TASKS = ("classification", "regression", "multi-label", "variants")
HEADED = "dna-labels"


@dataclass(frozen=True)
class HeadConfig:
    """What is told of a place. Raises ConfigError.

    task: one of ``TASKS``. columns: of the labels. classes: their names, of "classification" and "variants". mean,
    scale: of each column in training, of "regression". length: bases that the network reads around a place. pool:
    bases around a variant's first letter whose states are averaged; of intervals it is all of the window. hidden: width
    of a hidden layer, 0 for a linear head. stranded: only a place's own strand is read.
    """

    task: str
    columns: tuple[str, ...]
    length: int
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    pool: int = 1536
    hidden: int = 0
    stranded: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"task {self.task}: choose from {', '.join(TASKS)}")
        check_counts(length=self.length, pool=self.pool)
        if self.hidden < 0:
            raise ConfigError(f"hidden {self.hidden}: 0 or more")
        if self.has_classes and (len(self.columns) != 1 or len(self.classes) < 2):
            raise ConfigError(f"--task {self.task}: one column of labels, of two classes or more, is needed")

    @property
    def has_classes(self) -> bool:
        return self.task in ("classification", "variants")

    @property
    def outputs(self) -> int:
        return len(self.classes) if self.has_classes else len(self.columns)


@dataclass(frozen=True)
class HeadedConfig:
    """A model with a head, as config.json has it."""

    body: DNAConfig
    head: HeadConfig
    architecture: str = HEADED


class Headed(nn.Module):
    """A body, the mean of its last states, and a head. frozen: the body does not learn."""

    def __init__(self, body: nn.Module, width: int, config: HeadConfig, frozen: bool = False):
        super().__init__()
        self.body, self._frozen = body, frozen
        features = 2 * width if config.task == "variants" else width
        # States of the two alleles differ by little: without this a head would need large weights.
        self.norm = nn.LayerNorm(features, eps=1e-10)
        hidden = [nn.Linear(features, config.hidden), nn.GELU()] if config.hidden else []
        self.head = nn.Sequential(*hidden, nn.Linear(config.hidden or features, config.outputs))
        if frozen:
            self.body.requires_grad_(False)

    def pooled(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """tokens: (b, t); weights: (b, t), of a mean over t. Returns (b, e)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            states = self.body(tokens)[1].float()
        return (states * weights[..., None]).sum(1)

    def forward(self, tokens: Tensor, weights: Tensor, other: Tensor | None = None) -> Tensor:
        """tokens: (b, t), of the reference allele where there are two; ``other``: those of the other allele. weights:
        (b, t), or (2, b, t) of both alleles. Returns (b, o)."""
        if other is None:
            features = self.pooled(tokens, weights)
        else:
            ref, alt = self.pooled(torch.cat([tokens, other]), weights.flatten(0, 1)).chunk(2)
            features = torch.cat([alt - ref, (alt - ref).abs()], -1)
        return self.head(self.norm(features))


def headed(body: nn.Module, body_config: DNAConfig, head: HeadConfig, frozen: bool = False) -> Headed:
    """With a new head, from torch's generator. What of the body no label can teach does not learn."""
    width, unused = _trace(body, body_config.vocabulary)
    for parameter in unused:
        parameter.requires_grad_(False)
    return Headed(body, width, head, frozen)


def _trace(body: nn.Module, vocabulary: int) -> tuple[int, list[nn.Parameter]]:
    """The width of its states, and the parameters that they do not depend on, such as those of its own head."""
    states = body(torch.zeros(1, 8, dtype=torch.int64) + vocabulary - 1)[1]
    parameters = list(body.parameters())
    found = torch.autograd.grad(states.square().sum(), parameters, allow_unused=True)
    return states.shape[-1], [p for p, gradient in zip(parameters, found, strict=True) if gradient is None]


def head_loss(config: HeadConfig, told: Tensor, labels: Tensor) -> Tensor:
    """Mean loss. told: (b, o). labels: (b,) int64 classes, or (b, o) float, standardised for "regression", NaN where
    missing. Cross-entropy of classes and of labels, squared error of numbers."""
    told = told.float()
    if config.has_classes:
        return F.cross_entropy(told, labels)
    known = torch.isfinite(labels)
    wanted = torch.where(known, labels, torch.zeros_like(labels))
    if config.task == "multi-label":
        losses = F.binary_cross_entropy_with_logits(told, wanted, reduction="none")
    else:
        losses = (told - wanted).square()
    return (losses * known).sum() / known.sum().clamp(min=1)


def save_headed(path: Path, network: Headed, config: HeadedConfig) -> None:
    """Into the directory ``path``. Raises InputError where that is not possible."""
    save_model(path, network, config)


def load_headed(path: Path) -> tuple[Headed, HeadedConfig]:
    """The network, on the CPU, and its settings. Raises InputError where it is not a whole model with a head."""
    settings = read_settings(path)
    if settings.get("architecture") != HEADED:
        raise InputError(f"{path / CONFIG}: not a model with a head; make one with 'npimpute train dna --finetune'")
    try:
        config = headed_config(settings)
    except ConfigError as error:
        raise ConfigError(f"{path / CONFIG}: {error}") from error
    network = headed(new_model(config.body), config.body, config.head)
    load_weights(network, path)
    return network, config


def headed_config(settings: dict[str, Any]) -> HeadedConfig:
    """From plain values. Raises ConfigError."""
    head = made(HeadConfig, settings.get("head", {}), "head")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in asdict(head).items()}
    return HeadedConfig(dna_config(settings.get("body", {}), "body"), HeadConfig(**values))
