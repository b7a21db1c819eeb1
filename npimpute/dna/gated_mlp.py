"""Perceptrons whose hidden layer is gated."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {"gelu": partial(F.gelu, approximate="tanh"), "silu": F.silu}


class GatedMLP(nn.Module):
    """W_down (act(W_gate x) * W_up x), token by token: (..., e) -> (..., e). activation: "gelu" (GeGLU) or "silu"
    (SwiGLU). Source: Shazeer 2020, arXiv 2002.05202."""

    def __init__(self, d_model: int, d_hidden: int, activation: str, bias: bool):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_proj, self.up_proj = (nn.Linear(d_model, d_hidden, bias=bias) for _ in range(2))
        self.down_proj = nn.Linear(d_hidden, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
