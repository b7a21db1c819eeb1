"""Nucleotide Transformer v2: attention with rotary positions over 6-mers, the baseline of the recurrent models.

A layer is x + attention(norm(x)), then x + SwiGLU(norm(x)); the head's weights are the embedding's. The norm is
RMSNorm where the released models have LayerNorm. Axes: b batch, t tokens, e model width, h heads, c channels of a head.

Source: Dalla-Torre et al. 2023, doi 10.1101/2023.01.11.523679, Methods; rotary positions: Su et al. 2021, arXiv
2104.09864; position interpolation: Chen et al. 2023, arXiv 2306.15595, equation 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .config import NTConfig
from .gated_mlp import GatedMLP


def rotations(length: int, channels: int, scale: float, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines (t, c/2), float32, of position p / ``scale``, at frequencies 1e4^(-2i/c) for pair i."""
    # In float64, for the angles of far positions are large.
    pairs = torch.arange(channels // 2, dtype=torch.float64, device=device)
    angles = torch.arange(length, dtype=torch.float64, device=device)[:, None] / scale * 1e4 ** (-2 * pairs / channels)
    return angles.cos().float(), angles.sin().float()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channels i and i + c/2 of x (..., t, c) as a point of the plane, turned by the angle of their position."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class RotaryAttention(nn.Module):
    """Every token reads every other: (b, t, e) -> (b, t, e), in memory that grows with t where the kernel is fused."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        read = F.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v)
        return self.out(read.transpose(1, 2).flatten(-2))


class NTLayer(nn.Module):
    def __init__(self, config: NTConfig):
        super().__init__()
        self.attention_norm, self.mlp_norm = (nn.RMSNorm(config.d_model, eps=1e-6) for _ in range(2))
        self.attention = RotaryAttention(config.d_model, config.n_heads)
        self.mlp = GatedMLP(config.d_model, config.d_mlp, "silu", bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.mlp(self.mlp_norm(x))


class NTv2(nn.Module):
    """6-mer tokens (b, t) -> logits (b, t, v) and hidden states (b, t, e).

    position_interpolation begins as the settings say and may be set to another value at any time.
    """

    def __init__(self, config: NTConfig):
        super().__init__()
        self.config, self.vocabulary = config, config.vocabulary
        self.position_interpolation = config.position_interpolation
        self.embedding = nn.Embedding(config.vocabulary, config.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(NTLayer(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    @property
    def width(self) -> int:
        """Channels of the hidden states."""
        return self.config.d_model

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (b, t) int64. Raises InputError for more than the settings' ``max_tokens``."""
        config, length = self.config, tokens.shape[1]
        if length > config.max_tokens:
            raise InputError(
                f"a window of {length:,} tokens: this ntv2 reads at most {config.max_tokens:,} at once, all of which "
                "attend to all; use shorter windows, or caduceus or hawk"
            )
        channels = config.d_model // config.n_heads
        cos, sin = rotations(length, channels, self.position_interpolation, tokens.device)
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        hidden = self.norm(x)
        return F.linear(hidden, self.embedding.weight, self.bias), hidden
