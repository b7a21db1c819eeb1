"""Mamba layers: one direction and two, with their recurrent state as a value that comes in and goes out.

Axes: b batch, l length, e model width, d inner channels (expand x e), m state size, w convolution width, r rank of
the step size. Source: Gu & Dao 2023, arXiv 2312.00752, section 3.4; parameter names, shapes and initial values are
those of the official implementation, so that weights move either way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .scan.select import causal_conv, selective_scan


class MambaState(NamedTuple):
    """What a mixer carries from one piece of a sequence to the next. conv: (b, w-1, d); scan: (b, d, m)."""

    conv: Tensor
    scan: Tensor


class Mixer(nn.Module):
    """The part of Mamba between its projections: convolution, selection and scan over (b, l, d), gated."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int):
        super().__init__()
        self.d_state, self.dt_rank = d_state, dt_rank
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self._start_steps()

    def _start_steps(self, low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> None:
        """Step sizes begin log-uniform between ``low`` and ``high``: softplus of the bias, plus a small projection."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        steps = torch.empty_like(self.dt_proj.bias).uniform_(math.log(low), math.log(high)).exp().clamp(min=floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def mix(self, x: Tensor, z: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """x, z: (b, l, d), input and gate. Returns the output (b, l, d) and the state after it."""
        y, state = self.run(x, state)
        return (y * F.silu(z.to(y.dtype))).to(x.dtype), state

    def run(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """``mix`` without its gate; the output is float32 or better."""
        conv, scan = state if state is not None else (None, None)
        weight, bias = self.conv1d.weight[:, 0].to(x.dtype), self.conv1d.bias.to(x.dtype)
        x, conv = causal_conv(x, weight, bias, conv)
        x = F.silu(x)
        steps, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], -1)
        # The recurrence is float32 or better whatever the rest is: small steps vanish in less.
        dtype = torch.promote_types(x.dtype, torch.float32)
        u, delta, B, C = (t.to(dtype) for t in (x, F.softplus(self.dt_proj(steps).to(dtype)), B, C))
        y, scan = selective_scan(u, delta, -torch.exp(self.A_log.to(dtype)), B, C, scan)
        return y + self.D * u, MambaState(conv, scan)


def _rank(dt_rank: int | str, d_model: int) -> int:
    return math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)


class Mamba(Mixer):
    """Mamba-1 along l: (b, l, e) -> (b, l, e)."""

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, dt_rank: int | str = "auto"):
        super().__init__(expand * d_model, d_state, d_conv, _rank(dt_rank, d_model))
        self.in_proj = nn.Linear(d_model, 2 * expand * d_model, bias=False)
        self.out_proj = nn.Linear(expand * d_model, d_model, bias=False)

    def forward(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """x: (b, l, e), a piece of a sequence; state: what the piece before left, None at the start."""
        inner, gate = self.in_proj(x).chunk(2, -1)
        y, state = self.mix(inner, gate, state)
        return self.out_proj(y), state


class BiMamba(nn.Module):
    """Mamba(x) + reverse(Mamba(reverse(x))), the two directions with the same projections in and out.

    Source: Schiff et al. 2024, arXiv 2403.03234, section 3.1.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, dt_rank: int | str = "auto"):
        super().__init__()
        sizes = (expand * d_model, d_state, d_conv, _rank(dt_rank, d_model))
        self.in_proj = nn.Linear(d_model, 2 * expand * d_model, bias=False)
        self.out_proj = nn.Linear(expand * d_model, d_model, bias=False)
        self.rightward, self.leftward = Mixer(*sizes), Mixer(*sizes)

    def forward(
        self, x: Tensor, state: tuple[MambaState | None, MambaState | None] = (None, None)
    ) -> tuple[Tensor, tuple[MambaState, MambaState]]:
        """x: (b, l, e), a piece of a sequence. state: what the piece before it left for the rightward direction, and
        the piece after it for the leftward one; None at the ends. Returns (b, l, e) and both states after x."""
        inner, gate = self.in_proj(x).chunk(2, -1)
        right, after_right = self.rightward.mix(inner, gate, state[0])
        left, after_left = self.leftward.mix(inner.flip(1), gate.flip(1), state[1])
        return self.out_proj(right + left.flip(1)), (after_right, after_left)

    def leave_left(self, x: Tensor, state: MambaState | None = None) -> MambaState:
        """Only the state that the leftward direction leaves after x, at less cost than the whole."""
        inner = F.linear(x, self.in_proj.weight.chunk(2)[0])
        return self.leftward.run(inner.flip(1), state)[1]
