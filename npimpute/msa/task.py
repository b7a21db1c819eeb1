"""Learning to fill in the reference's masked bases.

Source: Thoutam & Ellsworth 2024, MSAMamba, on pre-training: masked-language modelling, of the reference row only.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.checkpoint import save_model
from .alphabet import MASK
from .config import MSAModelConfig
from .msamamba import AlignmentNetwork
from .windows import MaskingConfig, WindowSource, hide, skipped

log = logging.getLogger(__name__)

# Embedded tokens of one call in validation, by kind of device.
BATCH_TOKENS = {"cpu": 1 << 15, "cuda": 1 << 20}


@dataclass(frozen=True)
class Batch:
    """tokens: (b, m, l) uint8, as shown. bases: (b, l) uint8, the reference's own. asked: (b, l), skip: (b, m) bool."""

    tokens: Tensor
    bases: Tensor
    asked: Tensor
    skip: Tensor


class MaskedTask:
    """See ``train.loop.Task``. network: made with ``config``. held_out: see ``windows.held_out_windows``."""

    def __init__(
        self,
        network: AlignmentNetwork,
        config: MSAModelConfig,
        source: WindowSource,
        masking: MaskingConfig,
        held_out: list[tuple[np.ndarray, np.ndarray]],
        device: str = "cpu",
    ):
        self.network, self._config, self._device = network, config, device
        self._source, self._masking, self._held_out = source, masking, held_out

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        codes = self._source.draw(rng, count)
        tokens, asked = hide(codes, self._masking, rng)
        skip = skipped(codes.shape[:2], self._masking.sparsity, rng)
        return Batch(*map(torch.from_numpy, (tokens, codes[:, 0].copy(), asked, skip)))

    def loss(self, network: nn.Module, batch: Batch, share: float) -> tuple[Tensor, dict[str, float]]:
        tokens, bases, asked, skip = (t.to(self._device) for t in (batch.tokens, batch.bases, batch.asked, batch.skip))
        logits = network(tokens.long(), skip if self._masking.sparsity else None)[asked]
        wanted = bases[asked].long()
        loss = F.cross_entropy(logits, wanted)
        right = (logits.detach().argmax(-1) == wanted).float().mean()
        return loss, {"loss": loss.item(), "accuracy": right.item()}

    def validate(self) -> dict[str, Any]:
        """Cross-entropy, perplexity and accuracy at the masked bases of held-out stretches, no row skipped."""
        if not self._held_out:
            return {}
        self.network.eval()
        loss, right, bases = 0.0, 0, 0
        size = max(1, BATCH_TOKENS[self._device.split(":")[0]] // self._held_out[0][0].size)
        for first in range(0, len(self._held_out), size):
            codes, asked = (np.stack(part) for part in zip(*self._held_out[first : first + size], strict=True))
            wanted = torch.from_numpy(codes[:, 0][asked]).long()
            codes[:, 0][asked] = MASK
            with torch.no_grad():
                logits = self.network(torch.from_numpy(codes).long().to(self._device)).cpu()[torch.from_numpy(asked)]
            loss += F.cross_entropy(logits, wanted, reduction="sum").item()
            right += int((logits.argmax(-1) == wanted).sum())
            bases += len(wanted)
        found = {"bases": bases, "loss": loss / bases, "perplexity": math.exp(loss / bases), "accuracy": right / bases}
        log.info("held-out stretches: loss %.4f, accuracy %.4f at %d bases", found["loss"], found["accuracy"], bases)
        return found

    def save(self, path: Path) -> None:
        save_model(path, self.network, self._config)
