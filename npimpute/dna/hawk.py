"""Hawk over DNA: residual blocks of a recurrent block (RG-LRU) and a gated MLP, here in both directions.

Source: De et al. 2024, arXiv 2402.19427, section 2; bidirectional as BiMamba is (arXiv 2403.03234, section 3.1).
"""

from __future__ import annotations

from torch import Tensor, nn

from .backbone import Bidirectional
from .config import HawkConfig
from .gated_mlp import GatedMLP
from .rg_lru import BiRecurrentBlock, RecurrentState


class HawkLayer(nn.Module):
    """x + recurrent block, then x + MLP, each of RMSNorm(x): see ``backbone.Layer``."""

    def __init__(self, config: HawkConfig):
        super().__init__()
        self.mixer_norm, self.mlp_norm = (nn.RMSNorm(config.d_model, eps=1e-6) for _ in range(2))
        self.mixer = BiRecurrentBlock(config.d_model, config.d_rnn, config.n_blocks, config.d_conv)
        self.mlp = GatedMLP(config.d_model, config.expand * config.d_model, "gelu", bias=True)

    def forward(
        self, x: Tensor, state: tuple[RecurrentState | None, RecurrentState | None] = (None, None)
    ) -> tuple[Tensor, tuple[RecurrentState, RecurrentState]]:
        y, state = self.mixer(self.mixer_norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state

    def leave_left(self, x: Tensor, state: RecurrentState | None = None) -> RecurrentState:
        return self.mixer.leave_left(self.mixer_norm(x), state)


class Hawk(Bidirectional):
    """Base tokens (b, l) -> logits (b, l, v) and hidden states (b, l, e)."""

    def __init__(self, config: HawkConfig):
        layers = (HawkLayer(config) for _ in range(config.n_layers))
        super().__init__(config.d_model, config.vocabulary, layers, shared=False)
        self.config = config
