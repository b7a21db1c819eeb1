"""Selective scan and causal convolution on a CPU: numba kernels, forward and backward, with batches in parallel.

States lie as (m, d), channels contiguous, in one row of m d, so that every inner loop becomes SIMD code. The forward
pass keeps the state before every CHECKPOINT-th step; the backward pass computes the others again. Inner loops work on
whole arrays, not on views of them (a view is counted by reference, which costs as much as a short loop), and are short,
so that few arrays have to be compared for overlap.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

CHECKPOINT = 16
# Sums may be taken in any order, but no loop that sums may store: which version of it runs would then depend on how
# close in memory its arrays lie.
_FASTMATH = {"reassoc", "contract", "nsz"}
_jit = numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy", inline="always")
_entry = numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy", cache=True)

# ln 2 in two parts, the first with so few digits that multiples of it are exact in float32.
_LOG2E, _LN2_HIGH = np.float32(1 / math.log(2)), np.float32(355 / 512)
_LN2_LOW = np.float32(math.log(2) - 355 / 512)
_LOWEST = np.float32(-87)  # exp of less is denormal: taken as this


def _exp(x, power, out):
    """out = exp(x), (d,) each, x at most 88; power: (d,) int32 scratch. For kernels only."""


@overload(_exp, inline="never")
def _exp_for(x, power, out):
    if x.dtype == numba.float64:

        def exp64(x, power, out):
            for i in range(len(x)):
                out[i] = np.exp(x[i])

        return exp64

    def exp32(x, power, out):
        # A call to libm would keep the loop from becoming SIMD code: 2^n exp(r) with |r| <= ln(2)/2, the latter as its
        # Taylor series of degree 7, whose relative error is 5e-9.
        for i in range(len(x)):
            v = max(x[i], _LOWEST)
            n = np.floor(v * _LOG2E + np.float32(0.5))
            r = v - n * _LN2_HIGH - n * _LN2_LOW
            p = np.float32(1 / 5040)
            p = p * r + np.float32(1 / 720)
            p = p * r + np.float32(1 / 120)
            p = p * r + np.float32(1 / 24)
            p = p * r + np.float32(1 / 6)
            p = p * r + np.float32(1 / 2)
            p = p * r + np.float32(1)
            out[i] = p * r + np.float32(1)
            power[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
        scale = power.view(np.float32)
        for i in range(len(x)):
            out[i] *= scale[i]

    return exp32


@_jit
def _advance(u, delta, a, b, i, t, state, driven, rate, power, decay):
    """state = exp(delta a) state + delta u b at step t of batch i; driven is left as delta u, decay as exp(delta a)."""
    m, d = a.shape
    for k in range(d):
        driven[k] = delta[i, t, k] * u[i, t, k]
    for n in range(m):
        for k in range(d):
            rate[n * d + k] = delta[i, t, k] * a[n, k]
    _exp(rate, power, decay)
    for n in range(m):
        weight = b[i, t, n]
        for k in range(d):
            state[n * d + k] = decay[n * d + k] * state[n * d + k] + driven[k] * weight


@_entry
def _forward(first, stop, u, delta, a, b, c, y, h, kept):
    """Batches first..stop-1. u, delta, y: (b, l, d). a: (m, d). b, c: (b, l, m). h: (b, m d), before and then after.
    kept: (b, checkpoints, m d)."""
    m, d = a.shape
    state, rate, decay = np.empty(m * d, u.dtype), np.empty(m * d, u.dtype), np.empty(m * d, u.dtype)
    driven, out, power = np.empty(d, u.dtype), np.empty(d, u.dtype), np.empty(m * d, np.int32)
    for i in range(first, stop):
        for j in range(m * d):
            state[j] = h[i, j]
        for t in range(u.shape[1]):
            if t % CHECKPOINT == 0:
                for j in range(m * d):
                    kept[i, t // CHECKPOINT, j] = state[j]
            _advance(u, delta, a, b, i, t, state, driven, rate, power, decay)
            for k in range(d):
                out[k] = 0
            for n in range(m):
                weight = c[i, t, n]
                for k in range(d):
                    out[k] += weight * state[n * d + k]
            for k in range(d):
                y[i, t, k] = out[k]
        for j in range(m * d):
            h[i, j] = state[j]


@_entry
def _backward(first, stop, u, delta, a, b, c, kept, gy, gh, gu, gdelta, ga, gb, gc):
    """Batches first..stop-1. gy: (b, l, d) and gh: (b, m d) come in, gh as for the last state, and gh leaves as for
    the first. gu, gdelta: (b, l, d), ga: (b, m d), gb, gc: (b, l, m)."""
    m, d = a.shape
    states, decays = np.empty((CHECKPOINT, m * d), u.dtype), np.empty((CHECKPOINT, m * d), u.dtype)
    state, rate, decay = np.empty(m * d, u.dtype), np.empty(m * d, u.dtype), np.empty(m * d, u.dtype)
    g, g_a, power = np.empty(m * d, u.dtype), np.empty(m * d, u.dtype), np.empty(m * d, np.int32)
    x, steps, driven, g_out = np.empty(d, u.dtype), np.empty(d, u.dtype), np.empty(d, u.dtype), np.empty(d, u.dtype)
    g_n, g_driven, g_steps = np.empty(d, u.dtype), np.empty(d, u.dtype), np.empty(d, u.dtype)
    for i in range(first, stop):
        for j in range(m * d):
            g[j] = gh[i, j]
            g_a[j] = 0
        for chunk in range(kept.shape[1] - 1, -1, -1):
            begin, end = chunk * CHECKPOINT, min(u.shape[1], (chunk + 1) * CHECKPOINT)
            for j in range(m * d):
                state[j] = kept[i, chunk, j]
            for t in range(begin, end):
                for j in range(m * d):
                    states[t - begin, j] = state[j]
                _advance(u, delta, a, b, i, t, state, driven, rate, power, decay)
                for j in range(m * d):
                    decays[t - begin, j] = decay[j]
            for t in range(end - 1, begin - 1, -1):
                for k in range(d):
                    x[k], steps[k], g_out[k] = u[i, t, k], delta[i, t, k], gy[i, t, k]
                for k in range(d):
                    driven[k] = steps[k] * x[k]
                    g_driven[k] = 0
                    g_steps[k] = 0
                for n in range(m):
                    of = n * d
                    product = state[of] * g_out[0]
                    for k in range(1, d):
                        product += state[of + k] * g_out[k]
                    gc[i, t, n] = product
                    weight = c[i, t, n]
                    for k in range(d):
                        g_n[k] = g[of + k] + weight * g_out[k]
                    product = g_n[0] * driven[0]
                    for k in range(1, d):
                        product += g_n[k] * driven[k]
                    gb[i, t, n] = product
                    weight = b[i, t, n]
                    for k in range(d):
                        g_driven[k] += g_n[k] * weight
                    for k in range(d):
                        g_n[k] *= decays[t - begin, of + k]
                    for k in range(d):
                        g[of + k] = g_n[k]
                    for k in range(d):
                        state[of + k] = states[t - begin, of + k]
                    for k in range(d):
                        g_n[k] *= state[of + k]
                    for k in range(d):
                        g_a[of + k] += g_n[k] * steps[k]
                    for k in range(d):
                        g_steps[k] += g_n[k] * a[n, k]
                for k in range(d):
                    gdelta[i, t, k] = g_steps[k] + g_driven[k] * x[k]
                for k in range(d):
                    gu[i, t, k] = g_driven[k] * steps[k]
        for j in range(m * d):
            gh[i, j] = g[j]
            ga[i, j] = g_a[j]


def _over_batches(kernel, *arrays) -> None:
    """Runs ``kernel`` on shares of the batches, as many threads as torch would use."""
    batches = len(arrays[0])
    threads = min(torch.get_num_threads(), batches)
    ends = np.linspace(0, batches, threads + 1).astype(int).tolist()
    if threads == 1:
        kernel(0, batches, *arrays)
        return
    with ThreadPoolExecutor(threads) as pool:
        for call in [pool.submit(kernel, ends[i], ends[i + 1], *arrays) for i in range(threads)]:
            call.result()


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, state):
        (batches, length, d), m = u.shape, A.shape[1]
        arrays = [_array(x) for x in (u, delta, A.t(), B, C)]
        y = np.empty((batches, length, d), arrays[0].dtype)
        h = _flat(state).copy()
        kept = np.empty((batches, -(-length // CHECKPOINT), m * d), y.dtype)
        _over_batches(_forward, *arrays, y, h, kept)
        ctx.save_for_backward(*(torch.from_numpy(x) for x in (*arrays, kept)))
        return torch.from_numpy(y), torch.from_numpy(h.reshape(batches, m, d)).transpose(1, 2)

    @staticmethod
    def backward(ctx, gy, gstate):
        u, delta, a, b, c, kept = (x.numpy() for x in ctx.saved_tensors)
        gh = _flat(gstate).copy()
        gu, gdelta, ga, gb, gc = (np.empty_like(x) for x in (u, delta, gh, b, c))
        _over_batches(_backward, u, delta, a, b, c, kept, _array(gy), gh, gu, gdelta, ga, gb, gc)
        first = gh.reshape(len(gh), *a.shape).transpose(0, 2, 1)
        grads = (gu, gdelta, ga.sum(axis=0).reshape(a.shape).T, gb, gc, first)
        return tuple(torch.from_numpy(np.ascontiguousarray(g)) for g in grads)


def _flat(state: Tensor) -> np.ndarray:
    """(b, d, m) as the kernels have it, (b, m d)."""
    return _array(state.transpose(1, 2)).reshape(len(state), -1)


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``reference.selective_scan`` for float32 and float64 tensors on the CPU; differentiable in all arguments."""
    if state is None:
        state = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    return _Scan.apply(u, delta, A, B, C, state)


@_entry
def _conv_forward(first, stop, x, weight, bias, y):
    """Batches first..stop-1. x: (b, l + w - 1, d). weight: (w, d). bias: (d,). y: (b, l, d)."""
    width, d = weight.shape
    for i in range(first, stop):
        for t in range(y.shape[1]):
            for k in range(d):
                y[i, t, k] = bias[k]
            for j in range(width):
                for k in range(d):
                    y[i, t, k] += weight[j, k] * x[i, t + j, k]


@_entry
def _conv_backward(first, stop, x, weight, gy, gx, gweight, gbias):
    """Batches first..stop-1; gx: as x, gweight: (b, w, d), gbias: (b, d), all 0 on entry."""
    width, d = weight.shape
    for i in range(first, stop):
        for t in range(gy.shape[1]):
            for k in range(d):
                gbias[i, k] += gy[i, t, k]
            for j in range(width):
                for k in range(d):
                    gx[i, t + j, k] += weight[j, k] * gy[i, t, k]
                    gweight[i, j, k] += gy[i, t, k] * x[i, t + j, k]


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        arrays = [_array(t) for t in (x, weight, bias)]
        batches, padded, d = arrays[0].shape
        y = np.empty((batches, padded - len(weight) + 1, d), arrays[0].dtype)
        _over_batches(_conv_forward, *arrays, y)
        ctx.save_for_backward(*(torch.from_numpy(a) for a in arrays[:2]))
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx, gy):
        x, weight = (t.numpy() for t in ctx.saved_tensors)
        gx = np.zeros_like(x)
        gweight, gbias = np.zeros((len(x), *weight.shape), x.dtype), np.zeros((len(x), x.shape[2]), x.dtype)
        _over_batches(_conv_backward, x, weight, _array(gy), gx, gweight, gbias)
        return tuple(torch.from_numpy(g) for g in (gx, gweight.sum(axis=0), gbias.sum(axis=0)))


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``reference.causal_conv`` for float32 and float64 tensors on the CPU; differentiable in all arguments."""
    before = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2]) if state is None else state
    padded = torch.cat([before, x], 1)
    y = _Conv.apply(padded, weight.t(), x.new_zeros(x.shape[2]) if bias is None else bias)
    return y, padded[:, x.shape[1] :]
