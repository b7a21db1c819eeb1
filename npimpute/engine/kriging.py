"""Kriging of untyped rows: the best linear prediction of a row from the haplotypes around it.

Alleles at a row are taken for a Gaussian process over haplotypes, whose covariance is exp(-distance): a sum over typed
sites around the row's gap of a weight, which falls with the number of sites between, where two haplotypes differ. The
prediction for a target is then linear in the panel's alleles, with weights K^-1 k that may be negative: haplotypes
that are alike share theirs, which copying, where every haplotype counts by its own likeness, does not know.

Haplotypes that are the same at the sites looked at are one class, observed as often as it has members; as many sites
are looked at as leave few enough classes. Source: Rasmussen & Williams 2006, Gaussian Processes for Machine Learning,
eq. 2.25.

Axes: k haplotypes, t typed sites, r rows, n targets, d classes, w sites looked at.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from .copying import CERTAIN, Copying
from .passes import Prepared

# Of the nearest typed sites, its fall with every further one, and of one haplotype's allele beside the process.
WEIGHT, FALL, NOISE = 0.3, 6.0, 0.2
MOST_CLASSES = 512
# Of a network: the panel's size, and logarithms of the prediction and of what is left to 1, both with so much added.
FEATURES, FLOOR = 3, np.float32(0.01)
# Panels as large as this count as one of this size: larger ones are rarely there to be learnt from.
LARGE_PANEL = 4000

_ONE = np.float32(1)
_jit = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")


def krige(prepared: Prepared, bits: np.ndarray, p: np.ndarray, reach: int, threads: int) -> np.ndarray:
    """(n, r) float32: predicted ALT, from 0 to 1, of untyped rows where ``p`` (n, r) is not sure; elsewhere anything.

    bits: as in ``Haplotypes``. reach: typed sites looked at on either side of a gap, at most. The result does not
    depend on ``threads``, nor one target's on the others.
    """
    queries, t = prepared.queries, len(prepared.cm)
    out = np.zeros(p.shape, np.float32)
    starts = np.append(0, queries.typed_rows[:, 1])
    stops = np.append(queries.typed_rows[:, 0], p.shape[1])
    observed, codes = np.ascontiguousarray(queries.observed.T), prepared.codes

    def gap(i: int) -> None:
        here = p[:, starts[i] : stops[i]]
        unsure = (here > CERTAIN) & (here < 1 - np.float32(CERTAIN))
        rows, targets = starts[i] + np.flatnonzero(unsure.any(axis=0)), np.flatnonzero(unsure.any(axis=1))
        if len(rows):
            _krige_gap(codes, observed, bits, i, rows, targets, reach, MOST_CLASSES, out)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(gap, range(t + 1)))
    return out


def kriged_of(copying: Copying, bits: np.ndarray, reach: int, threads: int) -> np.ndarray:
    """``krige`` for a network, (n, 0) without ``reach``."""
    if not reach:
        return np.empty((len(copying.p), 0), np.float32)
    return krige(copying.prepared, bits, copying.p, reach, threads)


def with_size(known: np.ndarray, k: int, reach: int) -> np.ndarray:
    """known (r, x) float32, with ``reach`` with the panel's size beside it: the smaller, the more kriging adds."""
    size = np.full((len(known), 1 if reach else 0), np.log(min(k, LARGE_PANEL) / 1000), np.float32)
    return np.concatenate([known, size], axis=1)


def features(predicted: np.ndarray) -> np.ndarray:
    """(..., 2) float32, of predictions (...)."""
    return np.log(np.stack([predicted, 1 - predicted], axis=-1) + FLOOR)


@_jit
def _dots(a, b, c, d, other, n):
    """Four at once, which read ``other`` once."""
    w = x = y = z = 0.0
    for i in range(n):
        w += a[i] * other[i]
        x += b[i] * other[i]
        y += c[i] * other[i]
        z += d[i] * other[i]
    return w, x, y, z


@numba.njit(nogil=True, error_model="numpy")
def _classes(codes, gap, reach, most):
    """Which sites are looked at, nearest first, and every haplotype's class. Site gap - 1 is the one before the gap."""
    t, k = codes.shape
    sites, count = np.empty(2 * reach, np.int64), 0
    found, finer, number = np.zeros(k, np.int64), np.empty(k, np.int64), 1
    for step in range(2 * reach):
        site = gap + step // 2 if step % 2 == 0 else gap - 1 - step // 2
        if not 0 <= site < t:
            continue
        width = np.int64(codes[site].max()) + 1
        name, next_number = np.full(number * width, -1), 0
        for j in range(k):
            key = found[j] * width + codes[site, j]
            if name[key] < 0:
                name[key] = next_number
                next_number += 1
            finer[j] = name[key]
        if next_number > most:
            break
        found[:], number = finer, next_number
        sites[count] = site
        count += 1
    return sites[:count], found, number


@_jit
def _multiply(drop, theirs, mine, out):
    """By 1 - drop where alleles differ."""
    for d in range(len(out)):
        out[d] *= _ONE - drop * np.float32(theirs[d] != mine)


@_jit
def _multiply_missing(drop, theirs, share, out):
    """The allele is not known: the mean factor over the panel's alleles, of which ``share`` is theirs."""
    for d in range(len(out)):
        out[d] *= _ONE - drop * (_ONE - share[theirs[d]])


@_jit
def _factor(matrix):
    """Cholesky's, of a matrix (d, d) whose d is a multiple of 4, into the lower half."""
    for i in range(0, len(matrix), 4):
        rows = matrix[i], matrix[i + 1], matrix[i + 2], matrix[i + 3]
        for j in range(i + 4):
            done = _dots(*rows, matrix[j], min(i, j))
            for a in range(4):
                total = done[a]
                for c in range(i, min(j, i + a)):
                    total += matrix[i + a, c] * matrix[j, c]
                if j < i + a:
                    matrix[i + a, j] = (matrix[i + a, j] - total) / matrix[j, j]
                elif j == i + a:
                    matrix[j, j] = np.sqrt(matrix[j, j] - total)


@_jit
def _subtract(scale, from_row, row):
    for c in range(len(row)):
        row[c] -= scale * from_row[c]


@_jit
def _solve(lower, values):
    """values (c, d), c a multiple of 4, of K x = values where K = lower lower^T, into x."""
    n = len(lower)
    for c in range(0, len(values), 4):
        four = values[c], values[c + 1], values[c + 2], values[c + 3]
        for i in range(n):
            done = _dots(*four, lower[i], i)
            for a in range(4):
                four[a][i] = (four[a][i] - done[a]) / lower[i, i]
        for i in range(n - 1, -1, -1):
            for a in range(4):
                four[a][i] /= lower[i, i]
                _subtract(four[a][i], lower[i, :i], four[a][:i])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _krige_gap(codes, observed, bits, gap, which, targets, reach, most, out):
    sites, member, classes = _classes(codes, gap, reach, most)
    k, rows = codes.shape[1], len(which)
    drop = np.empty(len(sites), np.float32)
    for i in range(len(sites)):
        beyond = sites[i] - gap if sites[i] >= gap else gap - 1 - sites[i]
        drop[i] = -np.expm1(-WEIGHT * np.exp(-beyond / FALL))
    size = np.zeros(classes)
    pattern = np.zeros((len(sites), classes), np.uint8)
    share = np.zeros((len(sites), 256), np.float32)
    for j in range(k):
        size[member[j]] += 1
        for i in range(len(sites)):
            pattern[i, member[j]] = codes[sites[i], j]
            share[i, codes[sites[i], j]] += np.float32(1 / k)
    # Both are filled up to multiples of 4, with classes that are like no other.
    padded, wide = (classes + 3) // 4 * 4, (rows + 3) // 4 * 4
    mean, values = np.zeros(rows), np.zeros((wide, padded))
    for c in range(rows):
        for j in range(k):
            if (bits[which[c], j >> 3] >> (j & 7)) & 1:
                values[c, member[j]] += 1
        mean[c] = values[c].sum() / k
        for d in range(classes):
            values[c, d] = values[c, d] / size[d] - mean[c]
    covariance, like = np.zeros((padded, padded)), np.empty(classes, np.float32)
    for d in range(classes):
        like[: d + 1] = 1
        for i in range(len(sites)):
            _multiply(drop[i], pattern[i], pattern[i, d], like[: d + 1])
        covariance[d, : d + 1] = like[: d + 1]
        covariance[d, d] += NOISE / size[d]
    for d in range(classes, padded):
        covariance[d, d] = 1
    _factor(covariance)
    _solve(covariance, values)
    weights = np.ascontiguousarray(values[:rows, :classes].T)
    predicted = np.empty(rows)
    for q in targets:
        like[:] = 1
        for i in range(len(sites)):
            if observed[sites[i], q] < 0:
                _multiply_missing(drop[i], pattern[i], share[i], like)
            else:
                _multiply(drop[i], pattern[i], observed[sites[i], q], like)
        predicted[:] = mean
        for d in range(classes):
            _subtract(-like[d], weights[d], predicted)
        for c in range(rows):
            out[q, which[c]] = min(max(predicted[c], 0.0), 1.0)
