"""SPIN: a table of haplotypes read through a few inducing points, from embedded tokens to embedded tokens.

Axes: b tables, r rows (haplotypes, the last one the query), c columns (sites), d model width, a latent attributes,
p inducing points. Source: Rastogi et al. 2023, arXiv 2205.11718, section 3; details from the authors' code for it
(github.com/RichRast/SPIN, npt/model).

| Here | Paper | |
|---|---|---|
| context rows, c, d | n, d, e | the training set D, (n, d, e) |
| a | f | latent attributes of a row, H_A: (n, f, e) |
| p | h | inducing points, H_D: (h, f, e) |

Each layer, as in the paper: XABA, H_A of every row reads the row's tokens; ABLA, H_A of every row reads itself; XABD,
H_D reads H_A of the context rows. The predictor then has tokens read H_D. Work grows linearly in r. H_D comes from
context rows alone, so that no context row's output depends on the query. Where this differs:

- c may vary, so no weight belongs to one column: H_A starts as a learned latent that all rows share, not as a learned
  linear map of the row's d attributes, and columns have fixed sinusoidal positions, not learned ones.
- XABD compares whole rows, all attributes at once, as the authors' does, which flattens (f, e) for that; but each
  attribute is projected by the same d x d weights in place of one (f e) x (f e) matrix, 100 times as large for f = 10.
- The predictor is defined at all rows and works token by token, where the authors' flattens a query's d attributes to
  one. A masked token would not know what else its row holds, so it reads its own row's H_A before it reads H_D, which
  the authors' code has as an option ("decoderBoth").
- Every block is pre-norm, normalises what it reads as well, and adds to its input as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .msa_transformer import MLP, Attention, TiedAttention, check_sizes, column_positions


@dataclass(frozen=True)
class SPINConfig:
    """Sizes of a SPIN. inducing: p; attributes: a; expand: hidden width of the MLPs, in widths of the model.

    Ten inducing points and attributes are what the authors' scripts for imputation use. Raises ConfigError.
    """

    d_model: int = 100
    n_heads: int = 10
    n_layers: int = 4
    inducing: int = 10
    attributes: int = 10
    expand: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("n_layers", "inducing", "attributes", "expand")}
        check_sizes(self.d_model, self.n_heads, self.dropout, **sizes)


class SPINBlock(nn.Module):
    """Attention, plain or tied, and an MLP after it: the paper's multi-head attention block."""

    def __init__(self, kind: type[Attention] | type[TiedAttention], config: SPINConfig):
        super().__init__()
        self.attention = kind(config.d_model, config.n_heads, config.dropout)
        self.mlp = MLP(config.d_model, config.expand, config.dropout)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x reads y, or itself; shapes as for ``kind``."""
        return self.mlp(self.attention(x, y))


class SPINLayer(nn.Module):
    """XABA, ABLA and XABD: one update of H_A and of H_D."""

    def __init__(self, config: SPINConfig):
        super().__init__()
        self.xaba, self.abla = SPINBlock(Attention, config), SPINBlock(Attention, config)
        self.xabd = SPINBlock(TiedAttention, config)

    def forward(self, tokens: Tensor, h_a: Tensor, h_d: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (b r, c, d); h_a: (b r, a, d); h_d: (b, a, p, d). Returns h_a and h_d."""
        h_a = self.abla(self.xaba(h_a, tokens))
        context = h_a.unflatten(0, (len(h_d), -1))[:, :-1]
        return h_a, self.xabd(h_d, context.transpose(1, 2))


class SPIN(nn.Module):
    """Embedded tokens (b, r, c, d) in, embedded tokens (b, r, c, d) of the same float dtype out.

    Any r of 2 or more and any c with the same weights: the last row is the query, there must be context before it.
    """

    def __init__(self, config: SPINConfig):
        super().__init__()
        self.config = config
        self.h_a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.attributes, config.d_model)))
        # One vector a point, as the authors start them, for the scale of its values.
        points = nn.init.xavier_uniform_(torch.empty(config.inducing, config.attributes * config.d_model))
        self.h_d = nn.Parameter(points.unflatten(1, (config.attributes, -1)).transpose(0, 1).contiguous())
        self.layers = nn.ModuleList(SPINLayer(config) for _ in range(config.n_layers))
        self.read_row, self.read_points = SPINBlock(Attention, config), SPINBlock(Attention, config)
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        b, r, c, _ = x.shape
        tokens = (x + column_positions(x)).flatten(0, 1)
        h_a, h_d = self.h_a.expand(b * r, -1, -1), self.h_d.expand(b, -1, -1, -1)
        for layer in self.layers:
            h_a, h_d = layer(tokens, h_a, h_d)
        tokens = self.read_row(tokens, h_a).unflatten(0, (b, r))
        read = self.read_points(tokens.flatten(1, 2), h_d.flatten(1, 2))
        return self.norm(read.unflatten(1, (r, c)))
