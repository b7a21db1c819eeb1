"""The linear recurrence on a CPU: numba kernels, forward and backward, with batches in parallel.

The outputs are the states, so the backward pass has nothing to compute again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .cpu import _array, _entry, _over_batches


@_entry
def _forward(first, stop, a, b, start, h):
    """Batches first..stop-1. a, b, h: (b, l, d). start: (b, d)."""
    length, d = a.shape[1:]
    for i in range(first, stop):
        before = start[i]
        for t in range(length):
            now = h[i, t]
            for k in range(d):
                now[k] = a[i, t, k] * before[k] + b[i, t, k]
            before = now


@_entry
def _backward(first, stop, a, h, start, gh, ga, gb, gstart):
    """Batches first..stop-1. gh: (b, l, d), as for every h. ga, gb: (b, l, d). gstart: (b, d), as for the last state
    on entry and for the first on return."""
    length, d = a.shape[1:]
    for i in range(first, stop):
        g = gstart[i]
        for t in range(length - 1, -1, -1):
            before = h[i, t - 1] if t else start[i]
            for k in range(d):
                g[k] += gh[i, t, k]
            for k in range(d):
                gb[i, t, k] = g[k]
                ga[i, t, k] = g[k] * before[k]
                g[k] *= a[i, t, k]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, state):
        arrays = [_array(x) for x in (a, b, state)]
        h = np.empty_like(arrays[1])
        _over_batches(_forward, *arrays, h)
        out = torch.from_numpy(h)
        ctx.save_for_backward(a.detach(), state.detach(), out)
        last = out[:, -1] if a.shape[1] else state
        return out, last.clone()

    @staticmethod
    def backward(ctx, gh, glast):
        a, state, h = (_array(x) for x in ctx.saved_tensors)
        ga, gb, gstart = np.empty_like(a), np.empty_like(a), glast.contiguous().numpy().copy()
        _over_batches(_backward, a, h, state, _array(gh), ga, gb, gstart)
        return tuple(torch.from_numpy(g) for g in (ga, gb, gstart))


def linear_scan(a: Tensor, b: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``reference.linear_scan`` for float32 and float64 tensors on the CPU; differentiable in all arguments."""
    return _Scan.apply(a, b, b.new_zeros(b.shape[0], b.shape[2]) if state is None else state)
