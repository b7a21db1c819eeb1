"""The recurrences written as loops over time, in torch: what fast backends are tested against, and the fallback.

Axes: b batch, l length (time), d channels, m state size, w convolution width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The selective state-space recurrence of Mamba.

        h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        y_t = C_t h_t

    u, delta: (b, l, d), delta positive. A: (d, m). B, C: (b, l, m). state: (b, d, m) h before the first step, zeros if
    None. All of one floating dtype. Returns y (b, l, d) and the state after the last step (b, d, m).
    Source: Gu & Dao 2023, arXiv 2312.00752, equation 2 and algorithm 2, with B discretised as delta B.
    """
    b, length, d = u.shape
    h = u.new_zeros(b, d, A.shape[1]) if state is None else state
    ys = []
    for t in range(length):
        decay = torch.exp(delta[:, t, :, None] * A)
        h = decay * h + (delta[:, t] * u[:, t])[:, :, None] * B[:, t, None, :]
        ys.append((h * C[:, t, None, :]).sum(-1))
    return (torch.stack(ys, 1) if ys else u), h


def linear_scan(a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The elementwise linear recurrence h_t = a_t h_{t-1} + b_t.

    a, b: (b, l, d). state: (b, d) h before the first step, zeros if None. All of one floating dtype. Returns h
    (b, l, d) and the state after the last step (b, d), the last h.
    Source: De et al. 2024, arXiv 2402.19427, equation 4 (the RG-LRU, its gates already taken).
    """
    h = b.new_zeros(b.shape[0], b.shape[2]) if state is None else state
    hs = []
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        hs.append(h)
    return (torch.stack(hs, 1) if hs else b), h


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution: out_t = bias + sum_i weight[:, i] x_{t - (w-1) + i}.

    x: (b, l, d). weight: (d, w), the last column multiplies x_t. bias: (d,). state: (b, w-1, d), the inputs before
    the first, zeros if None. Returns out (b, l, d) and the state after the last step (b, w-1, d).
    """
    width = weight.shape[1]
    before = x.new_zeros(x.shape[0], width - 1, x.shape[2]) if state is None else state
    padded = torch.cat([before, x], 1)
    windows = padded.unfold(1, width, 1) if x.shape[1] else x[..., None]
    out = (windows * weight).sum(-1)
    return (out if bias is None else out + bias), padded[:, x.shape[1] :]
