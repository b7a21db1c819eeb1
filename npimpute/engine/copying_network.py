"""The NPSSM over typed sites: corrections to what a target copies from its likeliest haplotypes.

Every sequence is a table of m haplotypes x t typed sites (``copying.Sequences``). A layer, if there are any, is a
bidirectional Mamba along the columns of each haplotype, then, in each column, every haplotype reads the
posterior-weighted mean and the maximum of all. At an untyped row each haplotype is a token, made of its columns before
and after the row, its posterior there, and whether it carries ALT. Of tokens come corrections to the copying logits;
the read-out sees the mean token of the carriers and that of the others, and what the panel, imputing itself, told of
the row. Both heads start at 0, and with heads of 0 the network is the copying model that it corrects.

Axes: q sequences, m haplotypes, t columns, c = size + 1 core columns, r untyped rows, e width, s token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import BiMamba
from .copying import (
    FLOOR,
    HAPLOTYPE_FEATURES,
    LOG_SCALE,
    ROW_FLOOR,
    SITE_FEATURES,
    TOKEN_FEATURES,
    CopyingConfig,
    Sequences,
)
from .read_out import row_inputs


class Rows(NamedTuple):
    """Untyped rows of each sequence. left: (q, r) int64, core column before the row; right: the one after it; fraction:
    (q, r) float32 on the way between the two. alleles: (q, r, m) float32, 1 where a haplotype carries ALT. p: (q, r)
    float32, of the copying model. known: (q, r, x) float32, what ``SelfImputed.features`` tells."""

    left: Tensor
    right: Tensor
    fraction: Tensor
    alleles: Tensor
    p: Tensor
    known: Tensor


class Layer(nn.Module):
    """(q, m, t, e) -> the same: along the columns, then across the haplotypes of each column."""

    def __init__(self, width: int, d_state: int, expand: int):
        super().__init__()
        self.norm_columns, self.norm_haplotypes = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.columns = BiMamba(width, d_state=d_state, expand=expand)
        self.own, self.pooled = nn.Linear(width, width), nn.Linear(2 * width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, posterior: Tensor) -> Tensor:
        q, m, t, e = x.shape
        x = x + self.columns(self.norm_columns(x).view(q * m, t, e))[0].view(q, m, t, e)
        h = self.norm_haplotypes(x)
        mean = torch.einsum("qmte,qmt->qte", h, posterior)
        pooled = self.pooled(torch.cat([mean, h.amax(1)], -1))
        return x + self.out(F.silu(self.own(h) + pooled[:, None]))


class CopyingNetwork(nn.Module):
    def __init__(self, config: CopyingConfig):
        super().__init__()
        self.config = config
        width, token = config.width, config.token
        if config.layers:
            self.haplotype = nn.Linear(HAPLOTYPE_FEATURES, width)
            self.site = nn.Linear(SITE_FEATURES, width, bias=False)
            self.layers = nn.ModuleList(Layer(width, config.d_state, config.expand) for _ in range(config.layers))
            self.norm = nn.RMSNorm(width, eps=1e-5)
        column = width if config.layers else HAPLOTYPE_FEATURES
        self.left, self.right = nn.Linear(column, token), nn.Linear(column, token, bias=False)
        self.row = nn.Linear(TOKEN_FEATURES, token, bias=False)
        self.token = nn.Linear(token, token)
        self.correction = nn.Linear(token, 1)
        inputs = row_inputs(config)
        self.readout = nn.Sequential(
            nn.Linear(inputs, config.readout),
            nn.SiLU(),
            nn.Linear(config.readout, config.readout),
            nn.SiLU(),
            nn.Linear(config.readout, 1),
        )
        for head in (self.correction, self.readout[-1]):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, haplotype: Tensor, site: Tensor, posterior: Tensor, rows: Rows) -> Tensor:
        """(q, r) logits of ALT."""
        return self.logits(*self.read(haplotype, site, posterior), site, posterior, rows)

    def read(self, haplotype: Tensor, site: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """(q, m, c, s) twice: what core columns add to the tokens of rows after them, and of rows before them."""
        x, core = haplotype, slice(self.config.flank, haplotype.shape[2] - self.config.flank)
        if self.config.layers:
            x = self.haplotype(haplotype) + self.site(site)[:, None]
            for layer in self.layers:
                x = layer(x, posterior)
            x = F.silu(self.norm(x))
        return self.left(x[:, :, core]), self.right(x[:, :, core])

    def logits(self, after: Tensor, before: Tensor, site: Tensor, posterior: Tensor, rows: Rows) -> Tensor:
        """(q, r) logits of ALT, from what ``read`` made of ``site`` and ``posterior`` (of all columns)."""
        core = slice(self.config.flank, posterior.shape[2] - self.config.flank)
        posterior, site = posterior[:, :, core], site[:, core]
        left, right, f = rows.left, rows.right, rows.fraction
        there = (1 - f[..., None]) * _at(posterior, left) + f[..., None] * _at(posterior, right)  # (q, r, m)
        own = torch.stack([LOG_SCALE * torch.log(there + FLOOR), rows.alleles], -1)
        tokens = F.relu(_states_at(after, left) + _states_at(before, right) + self.row(own))
        tokens = F.relu(self.token(tokens))  # (q, r, m, s)
        weight = there * torch.exp(self.correction(tokens)[..., 0])
        carried = weight * rows.alleles
        others = weight - carried
        # What the haplotypes outside the sequence hold, of all and of ALT.
        outside = (1 - there.sum(-1)).clamp(min=0)
        outside_alt = torch.minimum((rows.p - (there * rows.alleles).sum(-1)).clamp(min=0), outside)
        alt, ref = carried.sum(-1) + outside_alt, others.sum(-1) + outside - outside_alt
        base = torch.log(alt + ROW_FLOOR) - torch.log(ref + ROW_FLOOR)
        total = alt + ref
        features = [
            base,
            torch.logit(rows.p, ROW_FLOOR),
            torch.log(carried.amax(-1) / total + ROW_FLOOR),
            torch.log(others.amax(-1) / total + ROW_FLOOR),
            outside / total,
            _entropy(weight / total[..., None]),
            torch.minimum(_at(posterior, left), _at(posterior, right)).sum(-1),
            site[..., 2].gather(1, left) / LOG_SCALE,
            torch.minimum(f, 1 - f),
            *_ends(site[..., 3], left, right, f),
        ]
        pooled = [_pooled(share, tokens) for share in (carried, others)]
        x = torch.cat([torch.stack(features, -1), rows.known, *pooled], -1)
        return base + self.readout(x)[..., 0]


class WithLayers:
    """See ``npssm.Reader``: a network on any device."""

    def __init__(self, network: CopyingNetwork, device: str):
        self._network, self._device = network.to(device).eval(), device
        self.flank = network.config.flank

    def __call__(self, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        parts = (sequences.haplotype, sequences.site, sequences.posterior)
        with torch.no_grad():
            after, before = self._network.read(*(torch.from_numpy(part).to(self._device) for part in parts))
        return after.contiguous().cpu().numpy(), before.contiguous().cpu().numpy()


def _at(values: Tensor, column: Tensor) -> Tensor:
    """values (q, m, c) at columns (q, r): (q, r, m)."""
    return values.transpose(1, 2).gather(1, column[..., None].expand(-1, -1, values.shape[1]))


def _states_at(states: Tensor, column: Tensor) -> Tensor:
    """states (q, m, c, s) at columns (q, r): (q, r, m, s)."""
    q, m, c, channels = states.shape
    return _at(states.transpose(2, 3).reshape(q, m * channels, c), column).unflatten(-1, (m, channels))


def _entropy(share: Tensor) -> Tensor:
    return -(share * torch.log(share + ROW_FLOOR)).sum(-1)


def _ends(values: Tensor, left: Tensor, right: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """values (q, c): between the columns, and the greater of the two."""
    a, b = values.gather(1, left), values.gather(1, right)
    return (1 - fraction) * a + fraction * b, torch.maximum(a, b)


def _pooled(share: Tensor, states: Tensor) -> Tensor:
    """(q, r, s): mean of the haplotypes' tokens (q, r, m, s), weighted by their share (q, r, m)."""
    return torch.einsum("qrm,qrms->qrs", share / (share.sum(-1, keepdim=True) + ROW_FLOOR), states)
