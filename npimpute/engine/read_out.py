"""Tokens and read-out of ``CopyingNetwork`` on the CPU, and columns of a network without layers; see there.

In torch most of the time would go into padding: a target has few rows where the copying model is not sure.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from .compiled import in_order, in_order_inline, in_order_kernel
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
from .lanes import LANES, exp, greater, less, load, log, spread, store, vectors
from .self_imputed import FEATURES

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
    shift: (1,) of the correction; then (h, inputs), (h,), (h, h), (h,), (h,), (1,). Of square ones the first axis is
    that of outputs."""

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
        row, token = _transposed(tensors["row.weight"]), tensors["token.weight"]
        correction = tensors["correction.weight"][0], tensors["correction.bias"]
        w1, w2, w3 = (tensors[f"readout.{i}.weight"] for i in (0, 2, 4))
        b1, b2, b3 = (tensors[f"readout.{i}.bias"] for i in (0, 2, 4))
        return OutWeights(row, token, tensors["token.bias"], *correction, w1, b1, w2, b2, w3[0], b3)


class Scratch(NamedTuple):
    """Of sixteen rows at a time: arrays of vectors, (..., LANES) float32."""

    there: np.ndarray  # (m,) posterior of haplotypes at the row
    carries: np.ndarray  # (m,) whether they carry ALT
    weight: np.ndarray  # (m,) posterior after correction
    tokens: np.ndarray  # (m s,) what sequences add to tokens, then tokens
    state: np.ndarray  # (s,) of one haplotype
    x: np.ndarray  # (inputs,) of the read-out
    h1: np.ndarray  # (h,)
    h2: np.ndarray  # (h,)

    @staticmethod
    def of(m: int, weights: OutWeights) -> Scratch:
        s, h = len(weights.bias), len(weights.b1)
        sizes = (m, m, m, m * s, s, weights.w1.shape[1], h, h)
        return Scratch(*(vectors(size) for size in sizes))


class Untyped(NamedTuple):
    """Rows of a window. bits: as in ``Haplotypes``. stretch, left, right: as in ``Places``. fraction: (r,) float32 on
    the way from left to right. untyped: (r,) bool. known: (r, 6) float32, ``SelfImputed.features``. classes:
    (r,) int64, ``stacking.classes``."""

    bits: np.ndarray
    stretch: np.ndarray
    left: np.ndarray
    right: np.ndarray
    fraction: np.ndarray
    untyped: np.ndarray
    known: np.ndarray
    classes: np.ndarray


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


@in_order
def _linear(x, weight, bias, out):
    """Of a column's features."""
    a, b, c, d = x[0], x[1], x[2], x[3]
    for h in range(len(out)):
        out[h] = bias[h] + (a * weight[0, h] + b * weight[1, h]) + (c * weight[2, h] + d * weight[3, h])


@in_order_kernel
def _read(haplotype, weights, after, before):
    left, right, bias = weights
    none = np.zeros_like(bias)
    for q in range(haplotype.shape[0]):
        for i in range(haplotype.shape[1]):
            for t in range(haplotype.shape[2]):
                _linear(haplotype[q, i, t], left, bias, after[q, i, t])
                _linear(haplotype[q, i, t], right, none, before[q, i, t])


def read(sequences: Sequences, weights: ReadWeights) -> tuple[np.ndarray, np.ndarray]:
    """``CopyingNetwork.read`` of a network without layers, for sequences without flanks; releases the GIL."""
    after, before = (np.empty((*sequences.posterior.shape, len(weights.bias)), np.float32) for _ in range(2))
    _read(sequences.haplotype, tuple(weights), after, before)
    return after, before


@in_order_inline
def _gather(q, found, rows, sequences, after, before, p, work):
    """Fills ``there``, ``carries``, ``tokens`` and what the read-out sees of sites, of the rows ``found``."""
    bits, stretch, all_left, all_right, fraction, _, known, _ = rows
    haplotypes, _, site, posterior, number = sequences
    m, n = haplotypes.shape[1], after.shape[3]
    for lane in range(LANES):
        r = found[lane]
        s, left, right, f = number[q, stretch[r]], all_left[r], all_right[r], fraction[r]
        overlap = _ZERO
        for i in range(m):
            j, before_row, after_row = haplotypes[s, i], posterior[s, i, left], posterior[s, i, right]
            work.carries[i, lane] = np.float32((bits[r, j >> 3] >> (j & 7)) & 1)
            work.there[i, lane] = (_ONE - f) * before_row + f * after_row
            overlap += min(before_row, after_row)
            for c in range(n):
                work.tokens[i * n + c, lane] = after[s, i, left, c] + before[s, i, right, c]
        x, surprise, surprise_after = work.x, site[s, left, 3], site[s, right, 3]
        x[1, lane] = p[q, r]
        x[6, lane] = overlap
        x[7, lane] = site[s, left, 2] / LOG_SCALE
        x[8, lane] = min(f, _ONE - f)
        x[9, lane] = (_ONE - f) * surprise + f * surprise_after
        x[10, lane] = max(surprise, surprise_after)
        for i in range(known.shape[1]):
            x[ROW_FEATURES + i, lane] = known[r, i]


@in_order_inline
def _tokens(weights, m, work):
    """Each haplotype's token, and its posterior after correction."""
    row, token, bias, correction, shift = weights[:5]
    n, zero = len(bias), spread(_ZERO)
    for i in range(m):
        there, carries, total = load(work.there, i), load(work.carries, i), spread(shift[0])
        own = spread(LOG_SCALE) * log(there + spread(FLOOR))
        for c in range(n):
            value = load(work.tokens, i * n + c) + own * spread(row[0, c]) + carries * spread(row[1, c])
            store(work.state, c, greater(value, zero))
        for c in range(n):
            value = spread(bias[c])
            for d in range(n):
                value = value + load(work.state, d) * spread(token[c, d])
            value = greater(value, zero)
            store(work.tokens, i * n + c, value)
            total = total + value * spread(correction[c])
        store(work.weight, i, there * exp(total))


@in_order_inline
def _pool(m, n, at, work):
    """Sums over haplotypes of posterior and corrected posterior, and weighted means of the tokens of carriers and of
    the others, from x[at] on. Returns log odds of ALT."""
    x, one, floor, zero = work.x, spread(_ONE), spread(_FLOOR), spread(_ZERO)
    inside = inside_alt = alt = ref = best_alt = best_ref = zero
    for i in range(m):
        there, weight, carries = load(work.there, i), load(work.weight, i), load(work.carries, i)
        carried, other = weight * carries, weight * (one - carries)
        inside, inside_alt = inside + there, inside_alt + there * carries
        alt, ref = alt + carried, ref + other
        best_alt, best_ref = greater(best_alt, carried), greater(best_ref, other)
    copied = load(x, 1)
    outside = greater(one - inside, zero)
    outside_alt = less(greater(copied - inside_alt, zero), outside)
    all_alt, all_ref = alt + outside_alt, ref + outside - outside_alt
    scale, entropy = one / (all_alt + all_ref), zero
    for c in range(2 * n):
        store(x, at + c, zero)
    share_alt, share_ref = one / (alt + floor), one / (ref + floor)
    for i in range(m):
        weight, carries = load(work.weight, i), load(work.carries, i)
        share = weight * scale
        entropy = entropy - share * log(share + floor)
        carried, other = weight * carries * share_alt, weight * (one - carries) * share_ref
        for c in range(n):
            token = load(work.tokens, i * n + c)
            store(x, at + c, load(x, at + c) + carried * token)
            store(x, at + n + c, load(x, at + n + c) + other * token)
    base = log(all_alt + floor) - log(all_ref + floor)
    store(x, 0, base)
    store(x, 1, log(copied) - log(one - copied))
    store(x, 2, log(best_alt * scale + floor))
    store(x, 3, log(best_ref * scale + floor))
    store(x, 4, outside * scale)
    store(x, 5, entropy)
    return base


@in_order
def _layer(x, weight, bias, out):
    """A linear layer and SiLU. weight: (outputs, inputs)."""
    for h in range(len(bias)):
        value = spread(bias[h])
        for i in range(weight.shape[1]):
            value = value + load(x, i) * spread(weight[h, i])
        store(out, h, value / (spread(_ONE) + exp(spread(_ZERO) - value)))


@in_order
def _unsure(p):
    return CERTAIN < p < _ONE - np.float32(CERTAIN)


@in_order_kernel
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


@in_order_kernel
def _read_out(p, sequences, after, before, rows, taken, weights, work):
    work, untyped, classes, found, n = Scratch(*work), rows[5], rows[7], np.zeros(LANES, np.int64), 0
    w1, b1, w2, b2, w3, b3 = weights[5:]
    m, width = len(work.there), after.shape[3]
    for q in range(len(p)):
        for r in range(p.shape[1]):
            if untyped[r] and _unsure(p[q, r]):
                found[n] = r
                n += 1
            if n == LANES or (n and r == p.shape[1] - 1):
                found[n:] = found[n - 1]
                _gather(q, found, rows, sequences, after, before, p, work)
                _tokens(weights, m, work)
                total = _pool(m, width, len(work.x) - 2 * width, work) + spread(b3[0])
                _layer(work.x, w1, b1, work.h1)
                _layer(work.h1, w2, b2, work.h2)
                for h in range(len(w3)):
                    total = total + load(work.h2, h) * spread(w3[h])
                store(work.x, 0, spread(_ONE) / (spread(_ONE) + exp(spread(_ZERO) - total)))
                for lane in range(n):
                    row = found[lane]
                    p[q, row] += taken[classes[row]] * (work.x[0, lane] - p[q, row])
                n = 0


def read_out(
    p: np.ndarray,
    sequences: Sequences,
    after: np.ndarray,
    before: np.ndarray,
    rows: Untyped,
    taken: np.ndarray,
    weights: OutWeights,
) -> None:
    """Corrects p (n, r) of the targets that ``sequences`` are of, at untyped rows where it is not sure; releases the
    GIL. sequences: of core columns alone, as after and before (q, m, c, s) are. taken: see ``stacking.shares``."""
    work = tuple(Scratch.of(sequences.haplotypes.shape[1], weights))
    _read_out(p, tuple(sequences), after, before, tuple(rows), taken, tuple(weights), work)
