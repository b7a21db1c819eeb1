"""Learning to fill in tables of haplotypes: the task that the published NPSSM and its rival networks share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.blockwise import BlockEngine
from ..engine.checkpoint import save_model
from ..engine.network import NetworkConfig, NetworkPredictor, TableNetwork
from .data import TableSource
from .objective import ObjectiveConfig, draw_mask, masked_tokens, total_loss
from .validate import HeldOut, validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Batch:
    tokens: Tensor
    mask: Tensor
    wanted: Tensor
    frequency: Tensor


class TableTask:
    """See ``loop.Task``. network: made with ``config``."""

    def __init__(
        self,
        network: TableNetwork,
        config: NetworkConfig,
        source: TableSource,
        objective: ObjectiveConfig,
        held_out: list[HeldOut],
        device: str = "cpu",
    ):
        self.network, self._config, self._device = network, config, device
        self._source, self._objective, self._held_out = source, objective, held_out

    def draw(self, rng: np.random.Generator, count: int) -> _Batch:
        drawn = self._source.draw(rng, count)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        mask = draw_mask(self._objective, drawn.tokens.shape, generator)
        return _Batch(torch.from_numpy(drawn.tokens), mask, *map(torch.from_numpy, (drawn.wanted, drawn.frequency)))

    def loss(self, network: nn.Module, batch: _Batch, share: float) -> tuple[Tensor, dict[str, float]]:
        on_device = (t.to(self._device) for t in (batch.tokens, batch.mask, batch.wanted, batch.frequency))
        tokens, mask, wanted, frequency = on_device
        logits = network(masked_tokens(tokens, mask, wanted), wanted)
        return total_loss(self._objective, logits, tokens, mask, wanted, frequency, share)

    def validate(self) -> dict[str, Any]:
        if not self._held_out:
            return {}
        predictor = NetworkPredictor(self.network, self._config.context, self._config.reach, self._device)
        engine = BlockEngine(self._config.architecture, predictor, self._config.block)
        found = validate(engine, self._held_out)
        log.info("held-out people: r2 %.4f over %d alleles", found["all"]["pooled"], found["all"]["alleles"])
        return found

    def save(self, path: Path) -> None:
        save_model(path, self.network, self._config)
