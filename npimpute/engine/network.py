"""Networks that read tables of haplotypes: tokens -> embedding -> body -> logits of the ALT allele.

Axes: b tables, r rows (context haplotypes and, last, the query), c columns, d channels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import made
from ..context.blocks import Block, BlockSize
from ..context.neighbours import mismatches, nearest, tables
from ..errors import ConfigError
from .blockwise import batches
from .msa_transformer import MSATransformer, MSATransformerConfig
from .npssm_paper import NPSSM, NPSSMConfig
from .spin import SPIN, SPINConfig

BODIES = {
    "npssm-paper": (NPSSMConfig, NPSSM),
    "msa-transformer": (MSATransformerConfig, MSATransformer),
    "spin": (SPINConfig, SPIN),
}
TOKENS = 3  # REF, ALT, masked
# Embedded tables of one call take at most about this, by kind of device.
BATCH_BYTES = {"cpu": 64 << 20, "cuda": 2 << 30}


@dataclass(frozen=True)
class NetworkConfig:
    """A network and the tables it was made for.

    architecture: one of ``BODIES``; body: that body's settings, those not named at their defaults. block: rows of a
    table's columns. context: haplotypes of a table beside the query, those nearest to it; another number may be given
    when imputing. reach: after how many typed columns a mismatch counts 1/e in choosing them; 0, as published, if it
    counts the same everywhere. Raises ConfigError, also for settings that do not exist.
    """

    architecture: str = "npssm-paper"
    body: dict[str, Any] = field(default_factory=dict)
    block: BlockSize = BlockSize()
    context: int = 150
    reach: float = 0.0

    def __post_init__(self) -> None:
        if self.architecture not in BODIES:
            raise ConfigError(f"architecture {self.architecture}: choose from {', '.join(BODIES)}")
        if self.context < 1:
            raise ConfigError(f"context {self.context}: at least 1 haplotype")
        if not 0 <= self.reach < math.inf:
            raise ConfigError(f"reach {self.reach}: a number of typed columns, or 0 for all alike")
        settings = made(BODIES[self.architecture][0], self.body, self.architecture)
        object.__setattr__(self, "body", asdict(settings))


class TableNetwork(nn.Module):
    """Logits of the ALT allele at every cell of a table of alleles."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        settings, body = BODIES[config.architecture]
        width = config.body["d_model"]
        self.allele = nn.Embedding(TOKENS, width)
        self.row_kind = nn.Embedding(2, width)
        self.column_kind = nn.Embedding(2, width)
        self.body = body(settings(**config.body))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """(b, r, c) float32. tokens: (b, r, c) int, 0 REF, 1 ALT, 2 masked. wanted: (c,) bool, the query's unknowns."""
        return self.head(self.norm(self.body(self._embedded(tokens, wanted))))[..., 0].float()

    def query_logits(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """(b, wanted columns) float32: the query's, at the columns that are wanted."""
        x = self.body(self._embedded(tokens, wanted))[:, -1, wanted]
        return self.head(self.norm(x))[..., 0].float()

    def _embedded(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        is_query = torch.arange(tokens.shape[1], device=tokens.device) == tokens.shape[1] - 1
        kinds = self.row_kind(is_query.long())[:, None] + self.column_kind(wanted.long())
        return self.allele(tokens.long()) + kinds


class NetworkPredictor:
    """Fills in blocks by a network, each query's table made of its ``context`` nearest panel haplotypes. reach: see
    ``NetworkConfig``.

    Raises ConfigError, when a block comes, if the panel has fewer.
    """

    def __init__(self, network: TableNetwork, context: int, reach: float = 0.0, device: str = "cpu"):
        self._network = network.to(device).eval()
        self._context, self._reach, self._device = context, reach, device

    def predict(self, block: Block) -> np.ndarray:
        """See ``blockwise.Predictor``."""
        k = block.panel.shape[1]
        if k < self._context:
            raise ConfigError(f"context of {self._context} haplotypes: the panel has {k}; give a smaller --context")
        chosen = nearest(mismatches(block.queries, block.panel, block.wanted, self._reach), self._context)
        wanted = torch.from_numpy(block.wanted).to(self._device)
        table_bytes = 4 * self._network.head.in_features * (self._context + 1) * len(block.rows)
        parts = []
        for part in batches(len(chosen), BATCH_BYTES[self._device.split(":")[0]] / table_bytes):
            tokens = torch.from_numpy(tables(block.queries[part], block.panel, chosen[part])).to(self._device)
            with torch.no_grad():
                parts.append(torch.sigmoid(self._network.query_logits(tokens, wanted)).cpu())
        return torch.cat(parts).numpy()
