"""The read-out of ``CopyingNetwork`` on the CPU, and what is before it where the network has no layers; see there.

In torch most of the time would go into padding: a target has few rows where Li-Stephens is not sure.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numba
import numpy as np

from . import kriging
from .copying import (
    CERTAIN,
    HAPLOTYPE_FEATURES,
    LOG_SCALE,
    ROW_FEATURES,
    ROW_FLOOR,
    SITE_FEATURES,
    CopyingConfig,
    Sequences,
)
from .self_imputed import FEATURES

# Sums may be taken in any order, but always in the same one: no loop that sums may also store.
_jit = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
_ONE, _ZERO = np.float32(1), np.float32(0)
_FLOOR, _KRIGED = np.float32(ROW_FLOOR), kriging.FLOOR


class ReadWeights(NamedTuple):
    """Of a network without layers, from features to corrections and states. haplotype: (4, e), site: (6, e), bias,
    norm, correction: (e,), state: (e, s), biases: (1 + s,) of the last two. All float32."""

    haplotype: np.ndarray
    site: np.ndarray
    bias: np.ndarray
    norm: np.ndarray
    correction: np.ndarray
    state: np.ndarray
    biases: np.ndarray

    @staticmethod
    def of(tensors: dict[str, np.ndarray]) -> ReadWeights:
        haplotype, site, state = (_transposed(tensors[f"{name}.weight"]) for name in ("haplotype", "site", "state"))
        biases = np.concatenate([tensors["correction.bias"], tensors["state.bias"]])
        correction = tensors["correction.weight"][0]
        return ReadWeights(
            haplotype, site, tensors["haplotype.bias"], tensors["norm.weight"], correction, state, biases
        )


class OutWeights(NamedTuple):
    """Of the read-out's three linear layers, float32: (inputs, h), (h,), (h, h), (h,), (h,), (1,)."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    w3: np.ndarray
    b3: np.ndarray

    @staticmethod
    def of(tensors: dict[str, np.ndarray]) -> OutWeights:
        w1, w2, w3 = (_transposed(tensors[f"readout.{i}.weight"]) for i in (0, 2, 4))
        b1, b2, b3 = (tensors[f"readout.{i}.bias"] for i in (0, 2, 4))
        return OutWeights(w1, b1, w2, b2, w3[:, 0].copy(), b3)


class Untyped(NamedTuple):
    """Rows of a window. bits: as in ``Haplotypes``. stretch, left, right: as in ``Places``. fraction: (r,) float32 on
    the way from left to right. untyped: (r,) bool. known: (r, 6 or 7) float32, ``SelfImputed.features`` and, for a
    network with kriging, ``kriging.with_size``. kriged: (n, r) float32, of the same targets as ``p``, or (n, 0)."""

    bits: np.ndarray
    stretch: np.ndarray
    left: np.ndarray
    right: np.ndarray
    fraction: np.ndarray
    untyped: np.ndarray
    known: np.ndarray
    kriged: np.ndarray


def row_inputs(config: CopyingConfig) -> int:
    """What the read-out sees of an untyped row."""
    return ROW_FEATURES + FEATURES + kriging.FEATURES * (config.reach > 0) + 2 * config.row_state


def shapes_without_layers(config: CopyingConfig) -> dict[str, tuple[int, ...]]:
    """Of the weights of a network without layers, by name."""
    e, s, h = config.width, config.row_state, config.readout
    widths = (row_inputs(config), h, h, 1)
    shapes = {"haplotype.weight": (e, HAPLOTYPE_FEATURES), "haplotype.bias": (e,), "site.weight": (e, SITE_FEATURES)}
    shapes |= {"norm.weight": (e,), "correction.weight": (1, e), "correction.bias": (1,)}
    shapes |= {"state.weight": (s, e), "state.bias": (s,)}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= {f"readout.{2 * i}.weight": (outputs, inputs), f"readout.{2 * i}.bias": (outputs,)}
    return shapes


def _transposed(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight.T)


@_jit
def _copy(values, out):
    for i in range(len(values)):
        out[i] = values[i]


@_jit
def _silu(x):
    return x / (_ONE + np.exp(-x))


@_jit
def _linear(x, n, weight, out):
    """Adds x[:n] @ weight to ``out``."""
    for i in range(n):
        value = x[i]
        for h in range(len(out)):
            out[h] += value * weight[i, h]


@_jit
def _mean_square(x):
    s = _ZERO
    for i in range(len(x)):
        s += x[i] * x[i]
    return s / np.float32(len(x))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _read(haplotype, site, weights, correction, state):
    w_haplotype, w_site, bias, norm, w_correction, w_state, biases = weights
    q_all, m, t_all, n = haplotype.shape
    x, here = np.empty(len(bias), np.float32), np.empty((t_all, len(bias)), np.float32)
    for q in range(q_all):
        for t in range(t_all):
            _copy(bias, here[t])
            _linear(site[q, t], site.shape[2], w_site, here[t])
        for i in range(m):
            for t in range(t_all):
                _copy(here[t], x)
                _linear(haplotype[q, i, t], n, w_haplotype, x)
                scale = _ONE / np.sqrt(_mean_square(x) + np.float32(1e-5))
                corrected = biases[0]
                for e in range(len(x)):
                    x[e] = _silu(x[e] * scale * norm[e])
                for e in range(len(x)):
                    corrected += x[e] * w_correction[e]
                correction[q, i, t] = corrected
                _copy(biases[1:], state[q, i, t])
                _linear(x, len(x), w_state, state[q, i, t])


def read(sequences: Sequences, weights: ReadWeights) -> tuple[np.ndarray, np.ndarray]:
    """``CopyingNetwork.read`` of a network without layers, for sequences without flanks; releases the GIL."""
    correction = np.empty(sequences.posterior.shape, np.float32)
    state = np.empty((*correction.shape, len(weights.biases) - 1), np.float32)
    _read(sequences.haplotype, sequences.site, tuple(weights), correction, state)
    return correction, state


@_jit
def _gather(s, r, left, right, f, bits, haplotypes, posterior, correction, there, weight, carries):
    """Per haplotype of sequence s its posterior at the row, that after correction, and whether it carries ALT."""
    for i in range(len(there)):
        j = haplotypes[s, i]
        carries[i] = np.float32((bits[r, j >> 3] >> (j & 7)) & 1)
        there[i] = (_ONE - f) * posterior[s, i, left] + f * posterior[s, i, right]
        weight[i] = there[i] * np.exp((_ONE - f) * correction[s, i, left] + f * correction[s, i, right])


@_jit
def _overlap(posterior, left, right):
    total = _ZERO
    for i in range(len(posterior)):
        total += min(posterior[i, left], posterior[i, right])
    return total


@_jit
def _entropy(weight, scale):
    total = _ZERO
    for i in range(len(weight)):
        share = weight[i] * scale
        total -= share * np.log(share + _FLOOR)
    return total


@_jit
def _masses(there, weight, carries):
    """Sums over haplotypes: posterior, posterior of carriers, weight of carriers, of others; the greatest of both."""
    inside = inside_alt = alt = ref = best_alt = best_ref = _ZERO
    for i in range(len(there)):
        c = carries[i]
        inside += there[i]
        inside_alt += there[i] * c
        alt += weight[i] * c
        ref += weight[i] * (_ONE - c)
        best_alt = max(best_alt, weight[i] * c)
        best_ref = max(best_ref, weight[i] * (_ONE - c))
    return inside, inside_alt, alt, ref, best_alt, best_ref


@_jit
def _pool(state, weight, carries, alt, ref, left, right, f, x, at):
    """Weighted means of the carriers' states and of the others', into x[at:]. state: (m, c, s)."""
    n = state.shape[2]
    for c in range(2 * n):
        x[at + c] = _ZERO
    for i in range(len(weight)):
        share = weight[i] / ((alt if carries[i] else ref) + _FLOOR)
        first = at if carries[i] else at + n
        for c in range(n):
            x[first + c] += share * ((_ONE - f) * state[i, left, c] + f * state[i, right, c])


@_jit
def _deep(x, weights, h1, h2):
    w1, b1, w2, b2, w3, b3 = weights
    _copy(b1, h1)
    _linear(x, len(x), w1, h1)
    for h in range(len(h1)):
        h1[h] = _silu(h1[h])
    _copy(b2, h2)
    _linear(h1, len(h1), w2, h2)
    total = b3[0]
    for h in range(len(h2)):
        h2[h] = _silu(h2[h])
    for h in range(len(h2)):
        total += h2[h] * w3[h]
    return total


@_jit
def _unsure(p):
    return CERTAIN < p < _ONE - np.float32(CERTAIN)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _find_unsure(p, stretch, untyped, wanted):
    for q in range(len(p)):
        for r in range(p.shape[1]):
            if untyped[r] and _unsure(p[q, r]):
                wanted[q, stretch[r]] = True


def unsure(p: np.ndarray, rows: Untyped, stretches: int) -> np.ndarray:
    """(n, stretches) bool: whether a stretch has rows to read out, by ``p`` (n, r) of Li-Stephens; releases the GIL."""
    wanted = np.zeros((len(p), stretches), bool)
    _find_unsure(p, rows.stretch, rows.untyped, wanted)
    return wanted


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _read_out(p, sequences, correction, state, rows, weights, scratch):
    bits, stretch, all_left, all_right, fraction, untyped, known, kriged = rows
    haplotypes, _, site, posterior, number = sequences
    there, weight, carries, x, h1, h2 = scratch
    for q in range(len(p)):
        for r in range(p.shape[1]):
            before = p[q, r]
            if not untyped[r] or not _unsure(before):
                continue
            s, left, right, f = number[q, stretch[r]], all_left[r], all_right[r], fraction[r]
            _gather(s, r, left, right, f, bits, haplotypes, posterior, correction, there, weight, carries)
            inside, inside_alt, alt, ref, best_alt, best_ref = _masses(there, weight, carries)
            outside = max(_ONE - inside, _ZERO)
            outside_alt = min(max(before - inside_alt, _ZERO), outside)
            all_alt, all_ref = alt + outside_alt, ref + outside - outside_alt
            scale = _ONE / (all_alt + all_ref)
            base = np.log(all_alt + _FLOOR) - np.log(all_ref + _FLOOR)
            x[0] = base
            x[1] = np.log(before) - np.log(_ONE - before)
            x[2] = np.log(best_alt * scale + _FLOOR)
            x[3] = np.log(best_ref * scale + _FLOOR)
            x[4] = outside * scale
            x[5] = _entropy(weight, scale)
            x[6] = _overlap(posterior[s], left, right)
            x[7] = site[s, left, 2] / LOG_SCALE
            x[8] = min(f, _ONE - f)
            x[9] = (_ONE - f) * site[s, left, 3] + f * site[s, right, 3]
            x[10] = max(site[s, left, 3], site[s, right, 3])
            n = ROW_FEATURES + known.shape[1]
            _copy(known[r], x[ROW_FEATURES:n])
            if kriged.shape[1]:
                x[n], x[n + 1] = np.log(kriged[q, r] + _KRIGED), np.log(_ONE - kriged[q, r] + _KRIGED)
                n += 2
            _pool(state[s], weight, carries, alt, ref, left, right, f, x, n)
            p[q, r] = _ONE / (_ONE + np.exp(-(base + _deep(x, weights, h1, h2))))


def read_out(
    p: np.ndarray, sequences: Sequences, correction: np.ndarray, state: np.ndarray, rows: Untyped, weights: OutWeights
) -> None:
    """Replaces p (n, r) of the targets that ``sequences`` are of, at untyped rows where it is not sure; releases the
    GIL. sequences: of core columns alone, as correction (q, m, c) and state (q, m, c, s) are."""
    m, h = sequences.haplotypes.shape[1], len(weights.b1)
    scratch = tuple(np.empty(n, np.float32) for n in (m, m, m, len(weights.w1), h, h))
    _read_out(p, tuple(sequences), correction, state, tuple(rows), tuple(weights), scratch)
