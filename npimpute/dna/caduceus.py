"""Caduceus: bidirectional Mamba over DNA, equivariant to the reverse complement or averaged over both strands.

BiMamba with tied projections is ``layers.BiMamba``; a block is x + BiMamba(RMSNorm(x)). Caduceus-PS ("shared") and
Caduceus-Ph ("posthoc") have the same weights and differ in how strands are read: see ``Bidirectional``.

Source: Schiff et al. 2024, arXiv 2403.03234, section 3 and 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import BiMamba, MambaState
from .backbone import Bidirectional
from .config import CaduceusConfig


class CaduceusLayer(nn.Module):
    """x + BiMamba(RMSNorm(x)): see ``backbone.Layer``."""

    def __init__(self, config: CaduceusConfig):
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.mixer = BiMamba(config.d_model, config.d_state, config.d_conv, config.expand)

    def forward(
        self, x: Tensor, state: tuple[MambaState | None, MambaState | None] = (None, None)
    ) -> tuple[Tensor, tuple[MambaState, MambaState]]:
        y, state = self.mixer(self.norm(x), state)
        return x + y, state

    def leave_left(self, x: Tensor, state: MambaState | None = None) -> MambaState:
        return self.mixer.leave_left(self.norm(x), state)


class Caduceus(Bidirectional):
    """Base tokens (b, l) -> logits (b, l, v) and hidden states (b, l, 2e), or (b, l, e) of Caduceus-Ph."""

    def __init__(self, config: CaduceusConfig):
        layers = (CaduceusLayer(config) for _ in range(config.n_layers))
        super().__init__(config.d_model, config.vocabulary, layers, config.reverse_complement == "shared")
        self.config = config
