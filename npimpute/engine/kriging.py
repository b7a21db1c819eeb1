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

from .passes import Prepared

# Of the nearest typed sites, its fall with every further one, and of one haplotype's allele beside the process.
WEIGHT, FALL, NOISE = 0.3, 6.0, 0.2
MOST_CLASSES = 512
# Of a network: logarithms of the prediction and of what is left to 1, both with so much added.
FEATURES, FLOOR = 2, np.float32(0.01)

_jit = numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")


def krige(prepared: Prepared, bits: np.ndarray, wanted: np.ndarray, reach: int, threads: int) -> np.ndarray:
    """(n, r) float32: predicted ALT, from 0 to 1, of the untyped rows that are ``wanted`` (r,) bool; 0 elsewhere.

    bits: as in ``Haplotypes``. reach: typed sites looked at on either side of a gap, at most. The result does not
    depend on ``threads``, nor a row's or a target's on what else is wanted.
    """
    queries, t = prepared.queries, len(prepared.cm)
    out = np.zeros((len(queries.observed), len(queries.fraction)), np.float32)
    starts = np.append(0, queries.typed_rows[:, 1])
    stops = np.append(queries.typed_rows[:, 0], len(queries.fraction))
    observed, codes = np.ascontiguousarray(queries.observed.T), prepared.codes

    def gap(i: int) -> None:
        rows = starts[i] + np.flatnonzero(wanted[starts[i] : stops[i]])
        if len(rows):
            _krige_gap(codes, observed, bits, i, rows, reach, MOST_CLASSES, out)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(gap, range(t + 1)))
    return out


def features(predicted: np.ndarray) -> np.ndarray:
    """(..., 2) float32, of predictions (...)."""
    return np.log(np.stack([predicted, 1 - predicted], axis=-1) + FLOOR)


@_jit
def _dot(a, b, n):
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


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
def _add_distance(weight, theirs, mine, distance):
    for d in range(len(distance)):
        distance[d] += weight if theirs[d] != mine else 0.0


@_jit
def _add_missing(weight, theirs, share, distance):
    """The allele is not known: the mean of the covariance factor over the panel's alleles, of which ``share`` is
    theirs."""
    for d in range(len(distance)):
        own = share[theirs[d]]
        distance[d] -= np.log(own + (1 - own) * np.exp(-weight))


@_jit
def _factor(matrix):
    """Cholesky's, into the lower half."""
    n = len(matrix)
    for i in range(n):
        for j in range(i):
            matrix[i, j] = (matrix[i, j] - _dot(matrix[i], matrix[j], j)) / matrix[j, j]
        matrix[i, i] = np.sqrt(matrix[i, i] - _dot(matrix[i], matrix[i], i))


@_jit
def _subtract(scale, from_row, row):
    for c in range(len(row)):
        row[c] -= scale * from_row[c]


@_jit
def _divide(row, by):
    for c in range(len(row)):
        row[c] /= by


@_jit
def _solve(lower, values):
    """values (d, c), of K x = values where K = lower lower^T, into x."""
    n = len(lower)
    for i in range(n):
        for j in range(i):
            _subtract(lower[i, j], values[j], values[i])
        _divide(values[i], lower[i, i])
    for i in range(n - 1, -1, -1):
        _divide(values[i], lower[i, i])
        for j in range(i):
            _subtract(lower[i, j], values[i], values[j])


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _krige_gap(codes, observed, bits, gap, which, reach, most, out):
    sites, member, classes = _classes(codes, gap, reach, most)
    k, rows = codes.shape[1], len(which)
    weight = np.empty(len(sites))
    for i in range(len(sites)):
        beyond = sites[i] - gap if sites[i] >= gap else gap - 1 - sites[i]
        weight[i] = WEIGHT * np.exp(-beyond / FALL)
    size = np.zeros(classes)
    pattern = np.zeros((len(sites), classes), np.uint8)
    share = np.zeros((len(sites), 256))
    for j in range(k):
        size[member[j]] += 1
        for i in range(len(sites)):
            pattern[i, member[j]] = codes[sites[i], j]
            share[i, codes[sites[i], j]] += 1 / k
    # Mean alleles of every class, less the row's.
    mean, values = np.zeros(rows), np.zeros((classes, rows))
    for c in range(rows):
        for j in range(k):
            if (bits[which[c], j >> 3] >> (j & 7)) & 1:
                values[member[j], c] += 1
                mean[c] += 1 / k
    for d in range(classes):
        for c in range(rows):
            values[d, c] = values[d, c] / size[d] - mean[c]
    covariance = np.zeros((classes, classes))
    for d in range(classes):
        for i in range(len(sites)):
            _add_distance(weight[i], pattern[i], pattern[i, d], covariance[d, : d + 1])
        for e in range(d + 1):
            covariance[d, e] = np.exp(-covariance[d, e])
        covariance[d, d] += NOISE / size[d]
    _factor(covariance)
    _solve(covariance, values)
    distance, predicted = np.empty(classes), np.empty(rows)
    for q in range(observed.shape[1]):
        distance[:] = 0
        for i in range(len(sites)):
            if observed[sites[i], q] < 0:
                _add_missing(weight[i], pattern[i], share[i], distance)
            else:
                _add_distance(weight[i], pattern[i], observed[sites[i], q], distance)
        predicted[:] = mean
        for d in range(classes):
            _subtract(-np.exp(-distance[d]), values[d], predicted)
        for c in range(rows):
            out[q, which[c]] = min(max(predicted[c], 0.0), 1.0)
