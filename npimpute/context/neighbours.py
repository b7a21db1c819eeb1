"""The panel haplotypes nearest to a target haplotype, and the tables that they make. Axes as in ``blocks``."""

from __future__ import annotations

import numpy as np

MASKED = 2  # the token of an allele that is not known; 0 and 1 are REF and ALT
UNIT = 1024  # what a mismatch beside the columns that are wanted counts, where it counts by its distance


def mismatches(queries: np.ndarray, panel: np.ndarray, wanted: np.ndarray, reach: float) -> np.ndarray:
    """(n, k) int64: L1 distance over the columns that are not ``wanted``, (c,) bool, and where the query is known.

    queries: (n, c) int8, -1 unknown. panel: (c, k) uint8. reach: a mismatch counts as ``column_weights`` says; 0: 1.
    Exact for distances below 2^24.
    """
    known = (queries >= 0).any(axis=0) & ~wanted
    queries, panel = queries[:, known], panel[known].astype(np.float32)
    alt, ref = (queries == 1).astype(np.float32), (queries == 0).astype(np.float32)
    if reach:
        weight = column_weights(wanted, reach)[known].astype(np.float32)
        alt, ref = alt * weight, ref * weight
    # (alt - ref) @ panel counts an ALT that is shared as -1 more than one that is not; all sums are whole numbers.
    return (alt.sum(axis=1, keepdims=True) - (alt - ref) @ panel).astype(np.int64)


def column_weights(wanted: np.ndarray, reach: float) -> np.ndarray:
    """(c,) int64: what a mismatch counts for the columns that are ``wanted``, (c,) bool, at least one. reach: above 0.

    Of the other columns, those next to a wanted one count ``UNIT``, and one that lies ``reach`` such columns further
    off counts 1/e of that; none less than 1.
    """
    place = np.cumsum(~wanted)  # among the columns that are not wanted
    ends = np.unique(place[wanted])
    after = np.searchsorted(ends, place)
    before = np.where(after > 0, place - ends[np.maximum(after - 1, 0)] - 1, len(wanted))
    behind = np.where(after < len(ends), ends[np.minimum(after, len(ends) - 1)] - place, len(wanted))
    return np.maximum(1, np.round(UNIT * np.exp(-np.minimum(before, behind) / reach))).astype(np.int64)


def nearest(distance: np.ndarray, count: int) -> np.ndarray:
    """(n, count) int64: the panel haplotypes of least distance, nearest last; of equals the first comes nearer.

    distance: (n, k) int64, of at least ``count`` haplotypes.
    """
    k = distance.shape[1]
    keys = distance * k + np.arange(k)
    if count < k:
        keys = np.partition(keys, count - 1, axis=1)[:, :count]
    return np.sort(keys, axis=1)[:, ::-1] % k


def tables(queries: np.ndarray, panel: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n, m+1, c) int8 tokens: the chosen haplotypes' alleles, then the query's, ``MASKED`` where not known.

    chosen: (n, m) int64 into the k haplotypes of ``panel``.
    """
    context = panel.T[chosen].astype(np.int8)
    query = np.where(queries < 0, MASKED, queries).astype(np.int8)
    return np.concatenate([context, query[:, None]], axis=1)
