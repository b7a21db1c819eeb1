"""The training objective: L = (1 - lambda) L_MLM + lambda L_aux.

L_MLM is the cross-entropy of masked cells anywhere in the table, L_aux that of the query's labels, which are always
masked. Source: the NPSSM's published objective; spans along rows are its setting.
Axes: b tables, r rows (context haplotypes and, last, the query), c columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..context.neighbours import MASKED
from ..errors import ConfigError

MASKS = ("tokens", "rows", "columns")
ANNEALS = ("constant", "linear", "cosine")
AUXILIARY = ("plain", "maf", "annealed")
# A site's weight in the MAF-weighted loss is the inverse of its allele's variance, of no less than this.
LEAST_VARIANCE = 0.005


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised. Raises ConfigError.

    mask: what is masked for L_MLM: single cells ("tokens"), runs of ``span`` rows of a column ("rows", along data
    points) or runs of ``span`` columns of a row ("columns", along attributes). mask_rate: share of the cells.
    lambda_start, lambda_end, anneal: lambda at the first and the last step, and the way between.
    auxiliary: L_aux "plain", weighted by minor allele frequency ("maf"), or from the latter to the former ("annealed").
    """

    mask: str = "rows"
    mask_rate: float = 0.1
    span: int = 10
    lambda_start: float = 1.0
    lambda_end: float = 0.5
    anneal: str = "linear"
    auxiliary: str = "annealed"

    def __post_init__(self) -> None:
        choices = {"mask": MASKS, "anneal": ANNEALS, "auxiliary": AUXILIARY}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"objective.{name} {getattr(self, name)}: choose from {', '.join(known)}")
        if not 0 <= self.mask_rate < 1:
            raise ConfigError(f"objective.mask_rate {self.mask_rate}: at least 0, below 1")
        if self.span < 1:
            raise ConfigError(f"objective.span {self.span}: at least 1")
        for name in ("lambda_start", "lambda_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} {getattr(self, name)}: between 0 and 1")
        if self.mask_rate == 0 and (self.lambda_start, self.lambda_end) != (1, 1):
            raise ConfigError("objective.mask_rate 0: nothing is masked for L_MLM; lambda must be 1 throughout")


def lambda_at(config: ObjectiveConfig, share: float) -> float:
    """lambda when ``share`` (0 to 1) of the steps are done."""
    if config.anneal == "constant":
        return config.lambda_start
    way = share if config.anneal == "linear" else (1 - math.cos(math.pi * share)) / 2
    return config.lambda_start + (config.lambda_end - config.lambda_start) * way


def draw_mask(config: ObjectiveConfig, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """(b, r, c) bool: cells to be masked, ``mask_rate`` of them in expectation (fewer near a span's first edge)."""
    if config.mask == "tokens":
        return torch.rand(shape, generator=generator) < config.mask_rate
    axis = 1 if config.mask == "rows" else 2
    span = min(config.span, shape[axis])
    # A cell is free if none of the ``span`` places begins a run that reaches it.
    begins = torch.rand(shape, generator=generator) < 1 - (1 - config.mask_rate) ** (1 / span)
    mask = begins.clone()
    for shift in range(1, span):
        mask.narrow(axis, shift, shape[axis] - shift).logical_or_(begins.narrow(axis, 0, shape[axis] - shift))
    return mask


def masked_tokens(tokens: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
    """The table the network sees: without the masked cells and without the query's labels. wanted: (c,) bool."""
    hidden = mask.clone()
    hidden[:, -1] |= wanted
    return torch.where(hidden, torch.full_like(tokens, MASKED), tokens)


def total_loss(
    config: ObjectiveConfig,
    logits: Tensor,
    tokens: Tensor,
    mask: Tensor,
    wanted: Tensor,
    frequency: Tensor,
    share: float,
) -> tuple[Tensor, dict[str, float]]:
    """L, and its parts by name.

    logits, tokens: (b, r, c), the tokens as they are, unmasked (``MASKED`` where not known: not counted). mask: (b, r,
    c) bool. wanted: (c,) bool. frequency: (c,) float32, of ALT in the panel. share: of the steps done.
    """
    weight = lambda_at(config, share)
    loss = F.binary_cross_entropy_with_logits(logits, (tokens == 1).float(), reduction="none")
    by_site = _site_weights(config, frequency[wanted], share)
    auxiliary = _mean(loss[:, -1, wanted] * by_site, tokens[:, -1, wanted] != MASKED)
    known = mask & (tokens != MASKED)
    known[:, -1] &= ~wanted  # the query's labels are L_aux's
    mlm = _mean(loss, known)
    # At weight 1 or 0 the other term is no part of the graph.
    total = auxiliary if weight == 1 else mlm if weight == 0 else (1 - weight) * mlm + weight * auxiliary
    return total, {"loss": total.item(), "mlm": mlm.item(), "aux": auxiliary.item(), "lambda": weight}


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)


def _site_weights(config: ObjectiveConfig, frequency: Tensor, share: float) -> Tensor:
    """(wanted columns) float32, 1 on average."""
    plain = torch.ones_like(frequency)
    if config.auxiliary == "plain":
        return plain
    by_maf = 1 / (frequency * (1 - frequency)).clamp(min=LEAST_VARIANCE)
    by_maf = by_maf / by_maf.mean()
    return by_maf if config.auxiliary == "maf" else (1 - share) * by_maf + share * plain
