"""Pretraining by masked-language modelling: hide tokens of windows of sequence, and have the network tell them.

Axes: b windows, l bases, t tokens, V vocabulary. Source: Devlin et al. 2018, arXiv 1810.04805, section 3.1 (15 %;
80/10/10), as Caduceus and the Nucleotide Transformer use it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .config import DNAConfig
from .genome import Genome
from .model_files import save
from .regions import Stretch, draw_window, spaced_windows
from .tokens import Tokeniser, reverse_complement, tokeniser

log = logging.getLogger(__name__)
# Of the tokens that are chosen: shown as MASK, shown as another word; the rest are shown as they are.
SHOWN_AS_MASK, SHOWN_AS_OTHER = 0.8, 0.1


@dataclass(frozen=True)
class PretrainConfig:
    """What is read, and what hidden. Raises ConfigError.

    length: bases of a window. curriculum: pairs of a length and the share of the steps that it has, in their order;
    windows of ``length`` are cut into such pieces, so that every step reads as many bases; without any, windows are
    whole throughout. mask: share of the tokens that are chosen. reverse_complement: read either strand, at random.
    windows: held-out windows to validate on.
    """

    length: int = 12_000
    curriculum: tuple[tuple[int, float], ...] = ()
    mask: float = 0.15
    reverse_complement: bool = True
    windows: int = 64

    def __post_init__(self) -> None:
        for name in ("length", "windows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} {getattr(self, name)}: 1 or more")
        if not 0 < self.mask < 1:
            raise ConfigError(f"data.mask {self.mask}: between 0 and 1")
        for pair in self.curriculum:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not 1 <= pair[0] <= self.length or pair[1] <= 0:
                raise ConfigError(
                    f"data.curriculum {pair}: a length of at most data.length ({self.length}) and a share of the steps"
                )
        if self.curriculum and not math.isclose(sum(share for _, share in self.curriculum), 1, abs_tol=1e-6):
            raise ConfigError("data.curriculum: the shares of the steps must sum to 1")

    def length_at(self, share: float) -> int:
        """Bases of a piece when ``share`` of the steps are done."""
        done = 0.0
        for length, part in self.curriculum:
            done += part
            if share < done - 1e-9:
                return length
        return self.curriculum[-1][0] if self.curriculum else self.length


class Batch(NamedTuple):
    """shown, wanted: (b, t) int64 tokens as the network sees them, and as they are; chosen: (b, t) bool."""

    shown: Tensor
    wanted: Tensor
    chosen: Tensor


def hide(tokens: np.ndarray, words: Tokeniser, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as the network sees them, and which are to be told, both of the shape of ``tokens``; never an N."""
    chosen = (rng.random(tokens.shape) < rate) & (tokens < words.unknown)
    fate = rng.random(tokens.shape)
    shown = np.where(chosen & (fate < SHOWN_AS_MASK), words.mask, tokens)
    other = chosen & (fate >= SHOWN_AS_MASK) & (fate < SHOWN_AS_MASK + SHOWN_AS_OTHER)
    return np.where(other, rng.integers(0, words.words, tokens.shape), shown), chosen


def masked_loss(logits: Tensor, wanted: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the chosen tokens: cross-entropy in nats, and how many were told right. logits: (b, t, V)."""
    told, true = logits[chosen].float(), wanted[chosen]
    return F.cross_entropy(told, true, reduction="sum"), (told.argmax(-1) == true).sum()


class MaskedTask:
    """See ``train.loop.Task``. places: to train on; held_out: to validate on, or none."""

    def __init__(
        self,
        network: nn.Module,
        model: DNAConfig,
        config: PretrainConfig,
        genome: Genome,
        places: list[Stretch],
        held_out: list[Stretch],
        seed: int = 1,
        device: str = "cpu",
    ):
        self.network, self._model, self._config, self._device = network, model, config, device
        self._genome, self._places = genome, places
        self._words = tokeniser(model.vocabulary)
        self._held_out = self._validation(held_out, seed) if held_out else None

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        config = self._config
        windows = []
        for _ in range(count):
            letters = draw_window(self._genome, self._places, config.length, rng)
            if config.reverse_complement and rng.random() < 0.5:
                letters = reverse_complement(letters)
            windows.append(self._words.fixed(letters)[0])
        return self._hidden(np.stack(windows), rng)

    def _hidden(self, tokens: np.ndarray, rng: np.random.Generator) -> Batch:
        shown, chosen = hide(tokens, self._words, self._config.mask, rng)
        return Batch(*map(torch.from_numpy, (shown, tokens, chosen)))

    def _validation(self, held_out: list[Stretch], seed: int) -> Batch:
        windows = spaced_windows(self._genome, held_out, self._config.length, self._config.windows)
        tokens = np.stack([self._words.fixed(letters)[0] for letters in windows])
        return self._hidden(tokens, np.random.default_rng([seed, 0]))

    def loss(self, network: nn.Module, batch: Batch, share: float) -> tuple[Tensor, dict[str, float]]:
        """Nats per chosen token; and of the metrics the share told right and the bases of a piece."""
        length = self._config.length_at(share)
        shown, wanted, chosen = (self._cut(t, length).to(self._device) for t in batch)
        logits, _ = network(shown)
        total, right = masked_loss(logits, wanted, chosen)
        count = max(1, int(chosen.sum()))
        loss = total / count
        return loss, {"loss": float(loss.detach()), "accuracy": float(right) / count, "length": float(length)}

    def _cut(self, tokens: Tensor, length: int) -> Tensor:
        """Windows into as many pieces of ``length`` bases as they hold, what is over left out."""
        piece = max(1, length // self._words.width)
        pieces = tokens.shape[1] // piece
        return tokens[:, : pieces * piece].reshape(-1, piece)

    def validate(self) -> dict[str, Any]:
        """Nats per hidden token of the held-out windows, and the share told right."""
        if self._held_out is None:
            return {}
        self.network.eval()
        total, right = 0.0, 0
        with torch.no_grad():
            for parts in zip(*(t.split(1) for t in self._held_out), strict=True):
                shown, wanted, chosen = (t.to(self._device) for t in parts)
                loss, hits = masked_loss(self.network(shown)[0], wanted, chosen)
                total, right = total + float(loss), right + int(hits)
        count = int(self._held_out.chosen.sum())
        found = {"loss": total / max(1, count), "accuracy": right / max(1, count), "tokens": count}
        log.info("held-out sequence: loss %.4f, %.1f %% right", found["loss"], 100 * found["accuracy"])
        return found

    def save(self, path: Path) -> None:
        save(path, self.network, self._model)
