"""MSA Transformer: axial attention over a table of haplotypes, as a body from embedded tokens to embedded tokens.

Axes: b tables, r rows (haplotypes, the last one the query), c columns (sites), d model width, h heads, e = d / h
channels of a head. Source: Rao et al. 2021, bioRxiv 2021.02.12.430858, section 3 (methods).

As in the paper, each layer is tied row attention, column attention and an MLP, in residual branches that begin with
LayerNorm, and the last layer's output is normalised. Where this differs:

- Columns have fixed sinusoidal positions where the authors learn an embedding per position: c may vary, and no weight
  belongs to one column. They are added once, where the paper adds its own, so the order of sites is known to every
  layer. Distances in bp or cM are for the embedding to tell.
- Rows have no positions. Any r will do, and to permute rows is to permute the output.
- Dropout is applied to what a branch adds, not to attention maps as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import check_counts
from ..errors import ConfigError

# Heads are padded to a multiple of this many channels: others do not suit every fused attention kernel of CUDA, and
# what stands in for those keeps every logit, which for 2000 rows is gigabytes.
HEAD_MULTIPLE = 8


def check_sizes(d_model: int, n_heads: int, dropout: float, **sizes: int) -> None:
    """Checks what attention networks have in common; ``sizes`` are further whole numbers of 1 or more, by name.

    Raises ConfigError.
    """
    check_counts(d_model=d_model, n_heads=n_heads, **sizes)
    if d_model % n_heads:
        raise ConfigError(f"n_heads {n_heads}: the heads share d_model {d_model} equally, so they must divide it")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"dropout {dropout}: a share of at least 0 and below 1 is needed")


@dataclass(frozen=True)
class MSATransformerConfig:
    """Sizes of an MSATransformer. expand: hidden width of the MLP, in widths of the model. Raises ConfigError."""

    d_model: int = 100
    n_heads: int = 10
    n_layers: int = 4
    expand: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes(self.d_model, self.n_heads, self.dropout, n_layers=self.n_layers, expand=self.expand)


def column_positions(like: Tensor) -> Tensor:
    """(c, d) sinusoidal positions for tokens ``like`` (..., c, d), in their dtype and on their device.

    Sines, then cosines, of wavelengths from 2 pi to 2e4 pi columns. Source: Vaswani et al. 2017, arXiv 1706.03762,
    section 3.5.
    """
    c, d = like.shape[-2:]
    half = (d + 1) // 2
    # In float32 or better: bfloat16 cannot count beyond 256.
    places = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    angles = torch.arange(c, **places)[:, None] * 1e4 ** (-torch.arange(half, **places) / half)
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :d].to(like.dtype)


class Heads(nn.Module):
    """The weights of multi-head attention in a residual branch: LayerNorm, projections in and out, dropout."""

    def __init__(self, d_model: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(d_model)
        self.query, self.value, self.out = (nn.Linear(d_model, d_model) for _ in range(3))
        # A bias would add the same to all logits of a query, which softmax does not see.
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x (..., n, d), keys and values of y (..., m, d) or, without y, of x: (..., n or m, h, e)."""
        x = self.norm(x)
        # The projections of y would take in any scale and shift that its norm could learn.
        y = x if y is None else F.layer_norm(y, y.shape[-1:])
        projected = self.query(x), self.key(y), self.value(y)
        return tuple(t.unflatten(-1, (self.n_heads, -1)) for t in projected)

    def merge(self, read: Tensor) -> Tensor:
        """(..., n, h, e), what the heads read, to what the branch adds, (..., n, d)."""
        return self.dropout(self.out(read.flatten(-2)))


class Attention(Heads):
    """x + what x reads from y (from itself without y): x (b, n, d), y (b, m, d) -> (b, n, d)."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in self.project(x, y))
        e = q.shape[-1]
        q, k, v = (F.pad(t, (0, -e % HEAD_MULTIPLE)) for t in (q, k, v))
        read = F.scaled_dot_product_attention(q, k, v, scale=e**-0.5)[..., :e]
        return x + self.merge(read.transpose(1, 2))


class TiedAttention(Heads):
    """x + what x reads from y (from itself without y), with one attention map for all t slices of a table.

    x (b, t, n, d), y (b, t, m, d) -> (b, t, n, d); the map is (b, h, n, m), its logits summed over slices and scaled
    by 1 / sqrt(t e). Source: Rao et al. 2021, section 3, tied row attention with square root normalisation.
    """

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        # A head with the channels of all slices side by side sums over slices in one product: (b, h, n or m, t e).
        q, k, v = (t.permute(0, 3, 2, 1, 4).flatten(-2) for t in self.project(x, y))
        # Scaled before the product, or float16 would overflow.
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
        read = (weights @ v).unflatten(-1, (x.shape[1], -1))
        return x + self.merge(read.permute(0, 3, 2, 1, 4))


class MLP(nn.Module):
    """x + a two-layer perceptron of LayerNorm(x), token by token: (..., d) -> (..., d)."""

    def __init__(self, d_model: int, expand: int, dropout: float):
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, expand * d_model),
            nn.GELU(),
            nn.Linear(expand * d_model, d_model),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class AxialLayer(nn.Module):
    """Tied row attention, column attention, MLP: (b, r, c, d) -> (b, r, c, d)."""

    def __init__(self, config: MSATransformerConfig):
        super().__init__()
        self.rows = TiedAttention(config.d_model, config.n_heads, config.dropout)
        self.columns = Attention(config.d_model, config.n_heads, config.dropout)
        self.mlp = MLP(config.d_model, config.expand, config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, _, c, _ = x.shape
        x = self.rows(x)
        x = self.columns(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (b, c)).transpose(1, 2)
        return self.mlp(x)


class MSATransformer(nn.Module):
    """Embedded tokens (b, r, c, d) in, embedded tokens (b, r, c, d) of the same float dtype out.

    Any r and c with the same weights. Work grows as c r^2 + r c^2; without gradients, memory as c r + c^2.
    """

    def __init__(self, config: MSATransformerConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(AxialLayer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + column_positions(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)
