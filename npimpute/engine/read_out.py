"""Tokens and read-out of ``CopyingNetwork`` on the CPU, and columns of a network without layers; see there.

In torch most of the time would go into padding: a target has few rows where the copying model is not sure.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numba
import numpy as np

from .copying import (
    CERTAIN,
    FLOOR,
    HAPLOTYPE_FEATURES,
    LOG_SCALE,
    ROW_FEATURES,
    ROW_FLOOR,
    TOKEN_FEATURES,
    CopyingConfig,
    Sequences,
)
from .self_imputed import FEATURES

# Sums may be taken in any order, but always in the same one: no loop that sums may also store.
_jit = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
_ONE, _ZERO = np.float32(1), np.float32(0)
_FLOOR = np.float32(ROW_FLOOR)


class ReadWeights(NamedTuple):
    """Of a network without layers, from a column's features to its share of a token: left, right: (4, s), bias: (s,),
    float32."""

    left: np.ndarray
    right: np.ndarray
    bias: np.ndarray

    @staticmethod
    def of(tensors: dict[str, np.ndarray]) -> ReadWeights:
        left, right = (_transposed(tensors[f"{name}.weight"]) for name in ("left", "right"))
        return ReadWeights(left, right, tensors["left.bias"])


class OutWeights(NamedTuple):
    """Of tokens and of the read-out's three linear layers, float32. row: (2, s), token: (s, s), bias, correction: (s,),
    shift: (1,) of the correction; then (inputs, h), (h,), (h, h), (h,), (h,), (1,)."""

    row: np.ndarray
    token: np.ndarray
    bias: np.ndarray
    correction: np.ndarray
    shift: np.ndarray
    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    w3: np.ndarray
    b3: np.ndarray

    @staticmethod
    def of(tensors: dict[str, np.ndarray]) -> OutWeights:
        row, token = (_transposed(tensors[f"{name}.weight"]) for name in ("row", "token"))
        correction = tensors["correction.weight"][0], tensors["correction.bias"]
        w1, w2, w3 = (_transposed(tensors[f"readout.{i}.weight"]) for i in (0, 2, 4))
        b1, b2, b3 = (tensors[f"readout.{i}.bias"] for i in (0, 2, 4))
        return OutWeights(row, token, tensors["token.bias"], *correction, w1, b1, w2, b2, w3[:, 0].copy(), b3)


class Untyped(NamedTuple):
    """Rows of a window. bits: as in ``Haplotypes``. stretch, left, right: as in ``Places``. fraction: (r,) float32 on
    the way from left to right. untyped: (r,) bool. known: (r, 6) float32, ``SelfImputed.features``."""

    bits: np.ndarray
    stretch: np.ndarray
    left: np.ndarray
    right: np.ndarray
    fraction: np.ndarray
    untyped: np.ndarray
    known: np.ndarray


def row_inputs(config: CopyingConfig) -> int:
    """What the read-out sees of an untyped row."""
    return ROW_FEATURES + FEATURES + 2 * config.token


def shapes_without_layers(config: CopyingConfig) -> dict[str, tuple[int, ...]]:
    """Of the weights of a network without layers, by name."""
    s, h = config.token, config.readout
    widths = (row_inputs(config), h, h, 1)
    shapes = {"left.weight": (s, HAPLOTYPE_FEATURES), "left.bias": (s,), "right.weight": (s, HAPLOTYPE_FEATURES)}
    shapes |= {"row.weight": (s, TOKEN_FEATURES), "token.weight": (s, s), "token.bias": (s,)}
    shapes |= {"correction.weight": (1, s), "correction.bias": (1,)}
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


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _read(haplotype, weights, after, before):
    left, right, bias = weights
    q_all, m, t_all, n = haplotype.shape
    for q in range(q_all):
        for i in range(m):
            for t in range(t_all):
                _copy(bias, after[q, i, t])
                _linear(haplotype[q, i, t], n, left, after[q, i, t])
                before[q, i, t] = _ZERO
                _linear(haplotype[q, i, t], n, right, before[q, i, t])


def read(sequences: Sequences, weights: ReadWeights) -> tuple[np.ndarray, np.ndarray]:
    """``CopyingNetwork.read`` of a network without layers, for sequences without flanks; releases the GIL."""
    after, before = (np.empty((*sequences.posterior.shape, len(weights.bias)), np.float32) for _ in range(2))
    _read(sequences.haplotype, tuple(weights), after, before)
    return after, before


@_jit
def _gather(s, r, left, right, f, bits, haplotypes, posterior, there, carries):
    """Of each haplotype of sequence s its posterior at the row, and whether it carries ALT."""
    for i in range(len(there)):
        j = haplotypes[s, i]
        carries[i] = np.float32((bits[r, j >> 3] >> (j & 7)) & 1)
        there[i] = (_ONE - f) * posterior[s, i, left] + f * posterior[s, i, right]


@_jit
def _tokens(s, left, right, after, before, there, carries, row, token, bias, correction, shift, x, weight, tokens):
    """Each haplotype's token (m, s), and its posterior after correction."""
    n = len(bias)
    for i in range(len(there)):
        weight[i] = _ZERO
        if not there[i] > 0:
            continue
        own, carried = LOG_SCALE * np.log(there[i] + FLOOR), carries[i]
        for c in range(n):
            x[c] = max(after[s, i, left, c] + before[s, i, right, c] + own * row[0, c] + carried * row[1, c], _ZERO)
        for c in range(n):
            tokens[i, c] = bias[c]
        for d in range(n):
            value = x[d]
            if value > 0:
                for c in range(n):
                    tokens[i, c] += value * token[d, c]
        total = shift[0]
        for c in range(n):
            tokens[i, c] = max(tokens[i, c], _ZERO)
        for c in range(n):
            total += tokens[i, c] * correction[c]
        weight[i] = there[i] * np.exp(total)


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
def _pool(tokens, weight, carries, alt, ref, x, at):
    """Weighted means of the carriers' tokens and of the others', into x[at:]. tokens: (m, s)."""
    n = tokens.shape[1]
    for c in range(2 * n):
        x[at + c] = _ZERO
    for i in range(len(weight)):
        if weight[i] > 0:
            share = weight[i] / ((alt if carries[i] else ref) + _FLOOR)
            first = at if carries[i] else at + n
            for c in range(n):
                x[first + c] += share * tokens[i, c]


@_jit
def _deep(x, w1, b1, w2, b2, w3, b3, h1, h2):
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
    """(n, stretches) bool: whether a stretch has rows to read out, by what was copied, p (n, r); releases the GIL."""
    wanted = np.zeros((len(p), stretches), bool)
    _find_unsure(p, rows.stretch, rows.untyped, wanted)
    return wanted


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _read_out(p, sequences, after, before, rows, weights, scratch):
    bits, stretch, all_left, all_right, fraction, untyped, known = rows
    haplotypes, _, site, posterior, number = sequences
    row, token, bias, w_correction, shift, w1, b1, w2, b2, w3, b3 = weights
    there, weight, carries, x, h1, h2, state, tokens = scratch
    for q in range(len(p)):
        for r in range(p.shape[1]):
            copied = p[q, r]
            if not untyped[r] or not _unsure(copied):
                continue
            s, left, right, f = number[q, stretch[r]], all_left[r], all_right[r], fraction[r]
            _gather(s, r, left, right, f, bits, haplotypes, posterior, there, carries)
            _tokens(
                s, left, right, after, before, there, carries,
                row, token, bias, w_correction, shift, state, weight, tokens,
            )  # fmt: skip
            inside, inside_alt, alt, ref, best_alt, best_ref = _masses(there, weight, carries)
            outside = max(_ONE - inside, _ZERO)
            outside_alt = min(max(copied - inside_alt, _ZERO), outside)
            all_alt, all_ref = alt + outside_alt, ref + outside - outside_alt
            scale = _ONE / (all_alt + all_ref)
            base = np.log(all_alt + _FLOOR) - np.log(all_ref + _FLOOR)
            x[0] = base
            x[1] = np.log(copied) - np.log(_ONE - copied)
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
            _pool(tokens, weight, carries, alt, ref, x, n)
            p[q, r] = _ONE / (_ONE + np.exp(-(base + _deep(x, w1, b1, w2, b2, w3, b3, h1, h2))))


def read_out(
    p: np.ndarray, sequences: Sequences, after: np.ndarray, before: np.ndarray, rows: Untyped, weights: OutWeights
) -> None:
    """Replaces p (n, r) of the targets that ``sequences`` are of, at untyped rows where it is not sure; releases the
    GIL. sequences: of core columns alone, as after and before (q, m, c, s) are."""
    m, s, h = sequences.haplotypes.shape[1], len(weights.bias), len(weights.b1)
    scratch = *(np.empty(n, np.float32) for n in (m, m, m, len(weights.w1), h, h, s)), np.empty((m, s), np.float32)
    _read_out(p, tuple(sequences), after, before, tuple(rows), tuple(weights), scratch)
