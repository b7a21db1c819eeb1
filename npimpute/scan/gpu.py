"""The selective scan and the convolution on a GPU, by the mamba-ssm and causal-conv1d packages.

The only place that imports either. Both want (b, d, l), and the scan starts from nothing: what a carried state adds
to the outputs and the last state follows from linearity.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Steps whose (b, steps, d, m) decays are held at once when a state is carried in.
STATE_STEPS = 256


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``reference.selective_scan`` for CUDA tensors. The last state passes no gradient on (mamba-ssm gives none)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    along = (x.transpose(1, 2).contiguous() for x in (u, delta, B, C))
    u_, delta_, B_, C_ = along
    y, last = selective_scan_fn(u_, delta_, A.contiguous(), B_, C_, return_last_state=True)
    y = y.transpose(1, 2)
    if state is None:
        return y, last
    carried, state = _carry(delta, A, C, state)
    return y + carried, last + state


def _carry(delta: Tensor, A: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What ``state`` (b, d, m) adds to every output (b, l, d), and what is left of it after the last step."""
    outs = []
    for part, weights in zip(delta.split(STATE_STEPS, 1), C.split(STATE_STEPS, 1), strict=True):
        decay = torch.exp(part.cumsum(1)[..., None] * A)
        left = decay * state[:, None]
        with torch.autocast(delta.device.type, enabled=False):  # it would take the sum in bfloat16
            outs.append(torch.einsum("bldm,blm->bld", left, weights))
        state = left[:, -1]
    return torch.cat(outs, 1), state


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``reference.causal_conv`` for CUDA tensors."""
    from causal_conv1d import causal_conv1d_fn

    before = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]) if state is None else state
    padded = torch.cat([before, x], 1)
    out = causal_conv1d_fn(padded.transpose(1, 2).contiguous(), weight, bias)
    return out.transpose(1, 2)[:, before.shape[1] :], padded[:, x.shape[1] :]
