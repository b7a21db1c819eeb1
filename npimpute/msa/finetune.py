"""Learning to tell classes of sequences apart, from a masked-language model or anew.

Source: Thoutam & Ellsworth 2024, MSAMamba, on fine-tuning; ``classifier`` is the network.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.checkpoint import save_model
from ..errors import ConfigError
from .alphabet import GAP, complement
from .classifier import DROPOUT, Classifier, probabilities
from .config import MSAModelConfig
from .task import BATCH_TOKENS
from .windows import skipped

log = logging.getLogger(__name__)


class Examples(Protocol):
    """Sequences with their classes. labels: the classes' names; classes: (n,) int, numbers of them."""

    labels: tuple[str, ...]
    classes: np.ndarray

    def codes(self, i: int) -> np.ndarray:
        """Sequence i, (m, l) uint8: rows as the model has them, the last ones left away if they are gaps."""
        ...


@dataclass(frozen=True)
class ExamplesConfig:
    """How examples are shown in training. Raises ConfigError.

    sparsity: share of auxiliary rows that skip the row mixer. reverse_complement: half of the examples are of the
    other strand. validate_examples: examples held out that are validated on, at most.
    """

    sparsity: float = 0.5
    reverse_complement: bool = True
    validate_examples: int = 10_000

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise ConfigError(f"data.sparsity {self.sparsity}: a share between 0 and 1")
        if self.validate_examples < 1:
            raise ConfigError(f"data.validate_examples {self.validate_examples}: at least 1")


@dataclass(frozen=True)
class LabelledBatch:
    """tokens: (b, m, l) uint8. classes: (b,) int64. skip: (b, m) bool. kept: (b, d) float32, dropout's factors."""

    tokens: Tensor
    classes: Tensor
    skip: Tensor
    kept: Tensor


def fitted(codes: np.ndarray, length: int) -> np.ndarray:
    """(m, length): the middle of longer sequences (m, l), shorter ones with as many gaps on either side."""
    excess = codes.shape[1] - length
    if excess >= 0:
        return codes[:, excess // 2 : excess // 2 + length]
    before = -excess // 2
    return np.pad(codes, ((0, 0), (before, -excess - before)), constant_values=GAP)


def stacked(found: Sequence[np.ndarray], length: int) -> np.ndarray:
    """(b, m, length): sequences fitted and with the rows of the one that has most."""
    out = np.full((len(found), max(len(codes) for codes in found), length), GAP, np.uint8)
    for row, codes in zip(out, found, strict=True):
        row[: len(codes)] = fitted(codes, length)
    return out


class ClassTask:
    """See ``train.loop.Task``. network: made with ``config``. held_out: to validate on, with the same labels."""

    def __init__(
        self,
        network: Classifier,
        config: MSAModelConfig,
        examples: Examples,
        settings: ExamplesConfig,
        held_out: Examples,
        device: str = "cpu",
    ):
        self.network, self._config, self._device = network, config, device
        self._examples, self._settings, self._held_out = examples, settings, held_out

    def draw(self, rng: np.random.Generator, count: int) -> LabelledBatch:
        chosen = rng.integers(len(self._examples.classes), size=count)
        tokens = stacked([self._examples.codes(i) for i in chosen.tolist()], self._config.length)
        if self._settings.reverse_complement:
            turned = rng.random(count) < 0.5
            tokens[turned] = complement(tokens[turned, :, ::-1])
        skip = skipped(tokens.shape[:2], self._settings.sparsity, rng)
        kept = (rng.random((count, self.network.output.in_features)) >= DROPOUT) / np.float32(1 - DROPOUT)
        classes = np.asarray(self._examples.classes)[chosen].astype(np.int64)
        return LabelledBatch(*map(torch.from_numpy, (tokens, classes, skip, kept.astype(np.float32))))

    def loss(self, network: nn.Module, batch: LabelledBatch, share: float) -> tuple[Tensor, dict[str, float]]:
        tokens, classes, skip, kept = (
            t.to(self._device) for t in (batch.tokens, batch.classes, batch.skip, batch.kept)
        )
        logits = network(tokens.long(), skip if self._settings.sparsity else None, kept)
        loss = _cross_entropy(logits, classes)
        right = (probabilities(logits.detach()).argmax(-1) == classes).float().mean()
        return loss, {"loss": loss.item(), "accuracy": right.item()}

    def validate(self) -> dict[str, Any]:
        """Cross-entropy and accuracy over the examples held out."""
        classes = torch.as_tensor(np.asarray(self._held_out.classes, np.int64))
        found = torch.from_numpy(classify(self.network, self._config, self._held_out, self._device))
        loss = F.nll_loss(found.log(), classes).item()
        accuracy = (found.argmax(-1) == classes).double().mean().item()
        log.info("held-out examples: loss %.4f, accuracy %.4f of %d", loss, accuracy, len(classes))
        return {"examples": len(classes), "loss": loss, "accuracy": accuracy}

    def save(self, path: Path) -> None:
        save_model(path, self.network, self._config)


def classify(network: Classifier, config: MSAModelConfig, examples: Examples, device: str = "cpu") -> np.ndarray:
    """(n, classes) float64: the probability of every class for every example, which does not depend on the others."""
    network.eval()
    size = max(1, BATCH_TOKENS[device.split(":")[0]] // (config.length * len(config.species)))
    parts = []
    for first in range(0, len(examples.classes), size):
        last = min(first + size, len(examples.classes))
        tokens = stacked([examples.codes(i) for i in range(first, last)], config.length)
        with torch.no_grad():
            logits = network(torch.from_numpy(tokens).long().to(device))
        parts.append(probabilities(logits.double()).cpu().numpy())
    return np.concatenate(parts)


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, classes)
    return F.binary_cross_entropy_with_logits(logits[:, 0], classes.to(logits.dtype))
