"""Axial attention over alignments: the baseline of GPN-MSA's kind, self-attention along rows and along columns in turn.

Axes as in ``msamamba``, whose blocks these are, but for the row mixer: full multi-head self-attention along a row with
rotary positions, whose work grows as the square of the length. Source: Ho et al. 2019, arXiv 1912.12180, section 3;
Su et al. 2021, arXiv 2104.09864, section 3.2; Benegas et al. 2025, GPN-MSA, Nature Biotechnology (whose own network
concatenates the rows of a column, and then is attention along the length alone).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import AxialConfig
from .msamamba import EPS, AlignmentNetwork

LONGEST = 1e4  # the longest wavelength is 2 pi times this many columns


def rotated(x: Tensor) -> Tensor:
    """x (..., l, e) with channels i and i + e / 2 as a point in a plane, turned by an angle that grows with the column.

    Inner products of rotated queries and keys know the distance of their columns, not where they are.
    """
    l, half = x.shape[-2], x.shape[-1] // 2  # noqa: E741
    places = {"device": x.device, "dtype": torch.promote_types(x.dtype, torch.float32)}
    angles = torch.arange(l, **places)[:, None] * LONGEST ** (-torch.arange(half, **places) / half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class AttentionRows(nn.Module):
    """What multi-head self-attention along rows adds to them: (r, l, d) -> (r, l, d)."""

    def __init__(self, config: AxialConfig):
        super().__init__()
        self.n_heads, self.fused = config.n_heads, config.fused
        self.norm = nn.RMSNorm(config.d_model, eps=EPS)
        self.qkv, self.out = nn.Linear(config.d_model, 3 * config.d_model), nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, self.n_heads, -1))
        q, k, v = (t.transpose(1, 2) for t in heads.unbind(2))
        q, k = rotated(q), rotated(k)
        if self.fused:
            read = F.scaled_dot_product_attention(q, k, v)
        else:
            read = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v
        return self.out(read.transpose(1, 2).flatten(2))


def axial(config: AxialConfig, n_species: int) -> AlignmentNetwork:
    """With random weights, from torch's generator."""
    mixers = [AttentionRows(config) for _ in range(config.n_layers)]
    return AlignmentNetwork(mixers, config.d_model, config.n_heads, config.mlp, n_species)
