"""The real-gated linear recurrent unit (RG-LRU) and Hawk's recurrent block, here in two directions.

    r_t = sigmoid(W_a x_t + b_a)       i_t = sigmoid(W_x x_t + b_x)       log a_t = -c softplus(Lambda) r_t
    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t)

Axes: b batch, l length, e model width, d recurrence width, h blocks of the gates, w convolution width. Paper to code:
W_a, b_a are ``recurrent_gate_*``, W_x, b_x ``input_gate_*``, Lambda ``recurrent_param`` (of the sign that makes
a = exp(-softplus), as in the released weights, whose names and shapes these are).

Source: De et al. 2024, arXiv 2402.19427, sections 2.3 and 2.4 and appendix A.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..scan.select import causal_conv, linear_scan

C = 8.0
# Under the root: where a is 1 in floating point, the root would have no finite derivative.
SMALLEST = 1e-12


class RecurrentState(NamedTuple):
    """What a direction carries from one piece of a sequence to the next. conv: (b, w-1, d); scan: (b, d)."""

    conv: Tensor
    scan: Tensor


class RGLRU(nn.Module):
    """(b, l, d) -> (b, l, d), with gates whose weights are block-diagonal."""

    def __init__(self, d_rnn: int, n_blocks: int):
        super().__init__()
        width = d_rnn // n_blocks
        self.recurrent_param = nn.Parameter(torch.empty(d_rnn))
        for gate in ("input_gate", "recurrent_gate"):
            self.register_parameter(f"{gate}_weight", nn.Parameter(torch.empty(n_blocks, width, width)))
            self.register_parameter(f"{gate}_bias", nn.Parameter(torch.zeros(n_blocks, width)))
            nn.init.normal_(getattr(self, f"{gate}_weight"), std=width**-0.5)
        # As the released code begins: exp(-softplus(Lambda)), of which a is the power c r, has its square uniform
        # between those of 0.9 and 0.999. The paper says that of the power c; memories are then all long, and what is
        # near was learnt more slowly.
        with torch.no_grad():
            rate = -torch.empty(d_rnn).uniform_(0.9**2, 0.999**2).log() / 2
            self.recurrent_param.copy_(torch.log(torch.expm1(rate)))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """state: (b, d), h before x. None where x begins the sequence: its first step then has no state to weigh its
        input against and takes it whole, h_0 = i_0 x_0, as the released model does. Returns h and the last of it."""
        weight = torch.cat([self.input_gate_weight, self.recurrent_gate_weight], -1)
        bias = torch.cat([self.input_gate_bias, self.recurrent_gate_bias], -1)
        blocks = x.unflatten(-1, (weight.shape[0], -1))
        gates = torch.einsum("blhi,hij->blhj", blocks, weight) + bias
        # The recurrence is float32 or better whatever the rest is: decays near 1 round to 1 in less.
        dtype = torch.promote_types(x.dtype, torch.float32)
        i, r = (gate.flatten(-2) for gate in torch.sigmoid(gates.to(dtype)).chunk(2, -1))
        log_a = r * (-C * F.softplus(self.recurrent_param.to(dtype)))
        scale = torch.sqrt((-torch.expm1(2 * log_a)).clamp(min=SMALLEST))
        if state is None:
            scale = torch.cat([torch.ones_like(scale[:, :1]), scale[:, 1:]], 1)
        h, state = linear_scan(torch.exp(log_a), scale * i * x.to(dtype), state)
        return h.to(x.dtype), state


class Direction(nn.Module):
    """Convolution and RG-LRU along l, one way."""

    def __init__(self, d_rnn: int, n_blocks: int, d_conv: int):
        super().__init__()
        self.conv_1d = nn.Conv1d(d_rnn, d_rnn, d_conv, groups=d_rnn, padding=d_conv - 1)
        self.rg_lru = RGLRU(d_rnn, n_blocks)

    def forward(self, x: Tensor, state: RecurrentState | None = None) -> tuple[Tensor, RecurrentState]:
        """x: (b, l, d). Returns the output (b, l, d) and the state after it."""
        conv, scan = state if state is not None else (None, None)
        weight, bias = self.conv_1d.weight[:, 0].to(x.dtype), self.conv_1d.bias.to(x.dtype)
        x, conv = causal_conv(x, weight, bias, conv)
        y, scan = self.rg_lru(x, scan)
        return y, RecurrentState(conv, scan)


class BiRecurrentBlock(nn.Module):
    """Hawk's recurrent block in both directions, which share its projections and its gate, as BiMamba's do.

    out = W_out ((R(W_x x) + reverse(L(reverse(W_x x)))) * gelu(W_y x)), R and L a ``Direction`` each.
    """

    def __init__(self, d_model: int, d_rnn: int, n_blocks: int, d_conv: int):
        super().__init__()
        self.linear_y, self.linear_x = nn.Linear(d_model, d_rnn), nn.Linear(d_model, d_rnn)
        self.linear_out = nn.Linear(d_rnn, d_model)
        self.rightward, self.leftward = (Direction(d_rnn, n_blocks, d_conv) for _ in range(2))

    def forward(
        self, x: Tensor, state: tuple[RecurrentState | None, RecurrentState | None] = (None, None)
    ) -> tuple[Tensor, tuple[RecurrentState, RecurrentState]]:
        """x: (b, l, e), a piece of a sequence. state: what the piece before it left for the rightward direction, and
        the piece after it for the leftward one; None at the ends. Returns (b, l, e) and both states after x."""
        inner = self.linear_x(x)
        right, after_right = self.rightward(inner, state[0])
        left, after_left = self.leftward(inner.flip(1), state[1])
        gate = F.gelu(self.linear_y(x), approximate="tanh")
        return self.linear_out((right + left.flip(1)) * gate), (after_right, after_left)

    def leave_left(self, x: Tensor, state: RecurrentState | None = None) -> RecurrentState:
        """Only the state that the leftward direction leaves after x, at less cost than the whole."""
        return self.leftward(self.linear_x(x).flip(1), state)[1]
