"""The non-parametric state-space model, as published: bidirectional Mamba along the columns and along the rows.

X is a table of b tables, r rows (data points: the context haplotypes and, last, the query), c columns (attributes:
sites) and d channels. A layer is X -> SSM_data(SSM_attr(X)): SSM_attr runs along the columns of each row, SSM_data
along the rows of each column, each a BiMamba in a pre-norm residual. No parameter belongs to a row or a column, so
one set of weights reads tables of any size. The body takes embedded tokens and returns them; what they stand for is
the embedding's and the head's affair (``network.py``).

Source: Algorithm 1 of the NPSSM for genotype imputation; BiMamba: Schiff et al. 2024, arXiv 2403.03234, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import check_counts
from ..errors import ConfigError
from ..layers import BiMamba

# What a layer runs along, in turn. "flat" is every token of the table in one sequence, row after row. Every order has
# as many parameters.
ORDERS = {
    "attr-data": ("attr", "data"),
    "data-attr": ("data", "attr"),
    "attr": ("attr", "attr"),
    "data": ("data", "data"),
    "flat": ("flat", "flat"),
}
# Without gradients, sequences pass a mixer in groups whose inner tensors take about this much, by kind of device; there
# are some twenty of them for a token.
CHUNK_BYTES, INNER_TENSORS = {"cpu": 32 << 20, "cuda": 4 << 30}, 20


@dataclass(frozen=True)
class NPSSMConfig:
    """The published sizes. order: one of ``ORDERS``. Raises ConfigError."""

    d_model: int = 156
    n_layers: int = 2
    d_state: int = 8
    d_conv: int = 4
    expand: int = 2
    order: str = "attr-data"

    def __post_init__(self) -> None:
        check_counts(**{name: getattr(self, name) for name in ("d_model", "n_layers", "d_state", "d_conv", "expand")})
        if self.order not in ORDERS:
            raise ConfigError(f"order {self.order}: choose from {', '.join(ORDERS)}")


class _Along(nn.Module):
    """X + BiMamba(RMSNorm(X)) along one axis of the table."""

    def __init__(self, axis: str, config: NPSSMConfig):
        super().__init__()
        self.axis = axis
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)
        self.mixer = BiMamba(config.d_model, config.d_state, config.d_conv, config.expand)

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == "data":
            return self._mixed(x.transpose(1, 2)).transpose(1, 2)
        return self._mixed(x) if self.axis == "attr" else self._mixed(x.flatten(1, 2)[:, None]).view_as(x)

    def _mixed(self, x: Tensor) -> Tensor:
        """x: (b, sequences, length, d)."""
        if torch.is_grad_enabled():
            flat = x.flatten(0, 1)
            return (flat + self.mixer(self.norm(flat))[0]).view(x.shape)
        # Sequences do not see each other: in groups they give the same, and need memory for a group only.
        b, sequences, length, d = x.shape
        group = CHUNK_BYTES[x.device.type] // (4 * INNER_TENSORS * self.mixer.out_proj.in_features * length)
        at_once, some = max(1, group // sequences), max(1, min(group, sequences))
        for table in range(0, b, at_once):
            for first in range(0, sequences, some):
                part = x[table : table + at_once, first : first + some]
                part += self.mixer(self.norm(part.reshape(-1, length, d)))[0].view(part.shape)
        return x


class NPSSM(nn.Module):
    """(b, r, c, d) -> (b, r, c, d), time and memory linear in r and in c."""

    def __init__(self, config: NPSSMConfig):
        super().__init__()
        axes = ORDERS[config.order] * config.n_layers
        self.layers = nn.ModuleList(_Along(axis, config) for axis in axes)

    def forward(self, x: Tensor) -> Tensor:
        """x: embedded tokens; without gradients it is overwritten."""
        for layer in self.layers:
            x = layer(x)
        return x
