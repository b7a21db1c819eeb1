"""The recurrences in plain tensor operations, for devices that have no kernel of their own.

Blocks of BLOCK steps are scanned side by side as if each began from nothing, the recurrence over the blocks' ends is
solved the same way, and every block gets what the state before it adds. So l steps cost about 3 l elementwise
operations in BLOCK log(l) / log(BLOCK) launches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

BLOCK = 32
# The states of as many steps as take this much are held at once by the selective scan.
STATE_BYTES = 256 << 20


def _scan(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
    """h (b, l, d), without gradients. Short inputs are one block."""
    batches, length, d = a.shape
    steps = min(BLOCK, length)
    pad = -length % steps
    # Steps that are padded change nothing that is kept.
    decay, h = (F.pad(x, (0, 0, 0, pad)).view(batches, -1, steps, d).clone() for x in (a, b))
    for t in range(1, steps):
        h[:, :, t].addcmul_(decay[:, :, t], h[:, :, t - 1])
        decay[:, :, t] *= decay[:, :, t - 1]
    if h.shape[1] > 1:
        ends = _scan(decay[:, :, -1], h[:, :, -1], state)
        state = torch.cat([state[:, None], ends[:, :-1]], 1)[:, :, None]
    else:
        state = state[:, None, None]
    return h.addcmul_(decay, state).view(batches, -1, d)[:, :length]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, state):
        h = _scan(a, b, state)
        ctx.save_for_backward(a, state, h)
        return h, h[:, -1].clone()

    @staticmethod
    def backward(ctx, gh, glast):
        a, state, h = ctx.saved_tensors
        # What reaches a state is the same recurrence from the right: g_t = gh_t + a_{t+1} g_{t+1}.
        after = torch.cat([torch.ones_like(a[:, :1]), a[:, 1:].flip(1)], 1)
        g = _scan(after, gh.flip(1), glast).flip(1)
        before = torch.cat([state[:, None], h[:, :-1]], 1)
        return g * before, g, g[:, 0] * a[:, 0]


def linear_scan(a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``reference.linear_scan`` for tensors anywhere; differentiable in all arguments."""
    if state is None:
        state = b.new_zeros(b.shape[0], b.shape[2])
    if not b.shape[1]:
        return b, state
    return _Scan.apply(a, b, state)


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``reference.selective_scan`` for tensors anywhere; differentiable in all arguments. Piece by piece along l, and
    the backward pass computes a piece's states again."""
    if state is None:
        state = u.new_zeros(u.shape[0], *A.shape)
    steps = max(BLOCK, STATE_BYTES // max(1, state.numel() * state.element_size()))
    ys = []
    for part in zip(*(x.split(steps, 1) for x in (u, delta, B, C)), strict=True):
        y, state = checkpoint(_selective_piece, *part, A, state, use_reentrant=False)
        ys.append(y)
    return torch.cat(ys, 1), state


def _selective_piece(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    decay = torch.exp(delta[..., None] * A).flatten(2)
    driven = ((delta * u)[..., None] * B[:, :, None]).flatten(2)
    h, last = linear_scan(decay, driven, state.flatten(1))
    with torch.autocast(u.device.type, enabled=False):  # it would take the sum in bfloat16
        return torch.einsum("bldm,blm->bld", h.unflatten(2, A.shape), C), last.view_as(state)
