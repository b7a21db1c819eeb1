"""MSAMamba: Mamba along the rows of an alignment, attention along its columns.

Axes: b alignments, m rows (species, row 0 the reference), l columns (positions of the reference), d model width,
h heads, e = d / h channels of a head, r rows of all alignments that are mixed, n alignments x columns.
Source: Thoutam & Ellsworth 2024, MSAMamba, ICML workshop on long-context foundation models. A block is, each in a
residual branch that begins with RMSNorm: Mamba along every row; multi-head self-attention along the rows of every
column, which are told apart by absolute position embeddings (which species); an MLP.

Where this differs from the paper:

- Rows are scanned from both ends unless the settings say otherwise: the task is to fill in masked bases, and what is
  right of a base tells of it as much as what is left of it.
- Rows that are gaps throughout are no keys of column attention and are not scanned, so that a species an alignment
  lacks changes nothing for the others.
- The last block is computed as far as the reference row's output needs it: its other rows are keys and values only.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BiMamba, Mamba
from .alphabet import GAP, VOCABULARY
from .config import MSAMambaConfig
from .pieces import in_pieces

EPS = 1e-5


class MambaRows(nn.Module):
    """What Mamba adds to rows: (r, l, d) -> (r, l, d)."""

    def __init__(self, config: MSAMambaConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=EPS)
        kind = BiMamba if config.bidirectional else Mamba
        self.mamba = kind(config.d_model, config.d_state, config.d_conv, config.expand)

    def forward(self, x: Tensor) -> Tensor:
        return self.mamba(self.norm(x))[0]


class ColumnAttention(nn.Module):
    """What multi-head self-attention along the m rows adds: (b, m, l, d) -> (b, m, l, d), or (b, 1, l, d).

    ``qkv`` and ``out`` are in_proj and out_proj of ``torch.nn.MultiheadAttention``, whose input is the normed x plus
    the row's embedding.
    """

    def __init__(self, d_model: int, n_heads: int, rows: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.RMSNorm(d_model, eps=EPS)
        self.species = nn.Parameter(0.02 * torch.randn(rows, d_model))
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, present: Tensor | None, reference_only: bool = False) -> Tensor:
        """present: (b, m) bool, rows that are attended to; None for all. reference_only: for row 0 alone."""
        b, m, l, d = x.shape  # noqa: E741
        # A column's rows side by side, so that heads are strided views.
        x = (self.norm(x) + self.species[:m, None]).transpose(1, 2).reshape(b * l, m, d)
        if reference_only:
            query = F.linear(x[:, :1], self.qkv.weight[:d], self.qkv.bias[:d])
            key, value = F.linear(x, self.qkv.weight[d:], self.qkv.bias[d:]).chunk(2, -1)
        else:
            query, key, value = self.qkv(x).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (query, key, value))
        mask = None if present is None else present[:, None].expand(b, l, m).reshape(b * l, 1, 1, m)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.out(read).unflatten(0, (b, l)).transpose(1, 2)


class MLP(nn.Module):
    """What a two-layer perceptron adds: (..., d) -> (..., d). expand: its hidden width, in widths of the model."""

    def __init__(self, d_model: int, expand: int):
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=EPS)
        self.wide, self.out = nn.Linear(d_model, expand * d_model), nn.Linear(expand * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.wide(self.norm(x))))


class Block(nn.Module):
    """Rows, columns, MLP: (b, m, l, d) -> (b, m, l, d), or (b, 1, l, d) of the last block. rows: the row mixer."""

    def __init__(self, rows: nn.Module, d_model: int, n_heads: int, mlp: int, n_species: int):
        super().__init__()
        self.rows, self.mlp = rows, MLP(d_model, mlp)
        self.columns = ColumnAttention(d_model, n_heads, n_species)

    def forward(
        self, x: Tensor, mixed: Tensor | None, present: Tensor | None, last: bool, recompute: bool = False
    ) -> Tensor:
        """mixed: (r,) int, which of the b x m rows are mixed; the others pass as they are. None: all are."""
        flat = x.flatten(0, 1)
        rows = flat if mixed is None else flat[mixed]
        added = in_pieces(self.rows, self.rows, rows, 0) if recompute else self.rows(rows)
        flat = flat + added if mixed is None else flat.index_add(0, mixed, added.to(flat.dtype))
        x, down = flat.view_as(x), partial(self._down, present=present, last=last)
        return in_pieces(down, nn.ModuleList([self.columns, self.mlp]), x, 2) if recompute else down(x)

    def _down(self, x: Tensor, present: Tensor | None, last: bool) -> Tensor:
        """What follows the row mixer, each column by itself."""
        added = self.columns(x, present, reference_only=last)
        x = (x[:, :1] if last else x) + added
        return x + self.mlp(x)


class AlignmentNetwork(nn.Module):
    """Tokens of an alignment -> blocks -> logits of the reference's bases.

    mixers: one row mixer for each block. n_species: rows of an alignment. Attribute ``recompute``: whether training
    keeps the blocks' residual streams alone and computes the rest again in the backward pass. Outputs and gradients are
    the same up to rounding, memory is a fraction and steps take longer, most of a forward pass.
    """

    recompute = False

    def __init__(self, mixers: list[nn.Module], d_model: int, n_heads: int, mlp: int, n_species: int):
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, d_model)
        self.blocks = nn.ModuleList(Block(rows, d_model, n_heads, mlp, n_species) for rows in mixers)
        self.norm = nn.RMSNorm(d_model, eps=EPS)
        self.head = nn.Linear(d_model, VOCABULARY)

    def forward(self, tokens: Tensor, skip: Tensor | None = None) -> Tensor:
        """(b, l, VOCABULARY) float32 logits at the reference row; see ``hidden``."""
        return self.head(self.hidden(tokens, skip)).float()

    def hidden(self, tokens: Tensor, skip: Tensor | None = None) -> Tensor:
        """(b, l, d), the reference row's last hidden states, normed.

        tokens: (b, m, l) int64 codes, rows as in training; last ones that are gaps may be left away. skip: (b, m) bool,
        rows that skip the row mixer of every block (row-sparse training); None: none does, as it must be in evaluation.
        Row 0 never skips.
        """
        present = (tokens != GAP).any(-1)
        present[:, 0] = True
        mixed = present
        if skip is not None:
            mixed = present & ~skip
            mixed[:, 0] = True
        rows = None if mixed.all() else mixed.flatten().nonzero()[:, 0]
        keys = None if present.all() else present
        x = self.token(tokens)
        recompute = self.recompute and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            x = block(x, rows, keys, i == len(self.blocks) - 1, recompute)
        return self.norm(x[:, 0])


def msamamba(config: MSAMambaConfig, n_species: int) -> AlignmentNetwork:
    """With random weights, from torch's generator."""
    mixers = [MambaRows(config) for _ in range(config.n_layers)]
    return AlignmentNetwork(mixers, config.d_model, config.n_heads, config.mlp, n_species)
