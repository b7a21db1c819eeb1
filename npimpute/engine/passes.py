"""A window made ready for the forward-backward kernel, and the kernel run over its targets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np

from ..context.windows import Window
from .ancestry import Ancestry, find_ancestry
from .cells import find_cells
from .clades import Clades, find_clades
from .group_passes import GroupPasses
from .groups import Groups, find_groups
from .lanes import LANES
from .ranking import Ranking
from .tables import Cells, Model, Queries

# Sites closer than this are taken to be this far apart (about 1 bp), so that a switch is never impossible.
MIN_CM = 1e-6
CALLS_PER_THREAD = 8


class Prepared(NamedTuple):
    """A window with at least one typed site, whatever the parameters. cm: (t,) float64, codes: (t, k) uint8, of the
    typed sites. drifts: whether a target drifts within clades."""

    queries: Queries
    groups: Groups
    cells: Cells
    cm: np.ndarray
    codes: np.ndarray
    drifts: bool

    def model(self, ne: float, err: float) -> Model:
        """A target drifts within its clade, if at all, as often as it switches to any haplotype of the panel."""
        distance = np.maximum(np.diff(self.cm), MIN_CM)
        switch = -np.expm1(-0.04 * ne * distance / self.codes.shape[1]).astype(np.float32)
        return Model(
            np.append(np.float32(0), switch), switch if self.drifts else np.zeros_like(switch), np.float32(err)
        )


def prepare(window: Window, threads: int, size: int = 1, beyond: int | None = None) -> Prepared:
    """threads: of the search for distinct haplotypes; the result does not depend on it. size: typed sites of a stretch,
    if some are ranked. beyond: see ``find_clades``; None for a model without clades and ancestry."""
    k, rows, bits = window.panel.k, window.panel.row_start(), window.panel.bits
    typed_rows = np.stack([rows[window.typed], rows[window.typed + 1]], axis=1)
    codes = np.zeros((len(typed_rows), k), np.uint8)
    for alt in range(int(np.diff(typed_rows).max())):
        has = np.flatnonzero(np.diff(typed_rows)[:, 0] > alt)
        codes[has] += window.panel.alleles(typed_rows[has, 0] + alt) * np.uint8(alt + 1)
    gap_start, gap_stop = np.append(0, typed_rows[:, 1]), np.append(typed_rows[:, 0], rows[-1])
    cells, classes = find_cells(bits, k, gap_start, gap_stop, threads)
    if beyond is None:
        clades, ancestry = Clades.none(len(codes), k), Ancestry.none(k, window.alleles.shape[1])
    else:
        clades = find_clades(bits, k, typed_rows, beyond, threads)
        ancestry = find_ancestry(window, codes)
    return Prepared(
        Queries(np.ascontiguousarray(window.alleles.T), typed_rows, _fractions(window, rows), *ancestry),
        find_groups(codes, cells, classes, clades, size),
        cells,
        window.cm[window.typed],
        codes,
        beyond is not None,
    )


def _fractions(window: Window, rows: np.ndarray) -> np.ndarray:
    """(r,) float32: how far each row lies from the typed site before it (0) to the one after it (1), in cM."""
    cm, typed = window.cm, window.typed
    before = np.searchsorted(typed, np.arange(len(cm)), side="right") - 1
    left, right = cm[typed[np.maximum(before, 0)]], cm[typed[np.minimum(before + 1, len(typed) - 1)]]
    gap = right - left
    fraction = np.where(gap > 0, (cm - left) / np.where(gap > 0, gap, 1), 0.0)
    fraction[before < 0] = 1.0
    return np.repeat(fraction, np.diff(rows)).astype(np.float32)


def run_passes(
    prepared: Prepared,
    model: Model,
    threads: int,
    ranking: Ranking | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """(n, r) float32: ALT probabilities, at the rows of typed sites leave-one-out. ranking: is filled.

    progress: called with the share that is done. The result does not depend on ``threads``.
    """
    queries, groups, cells = prepared.queries, prepared.groups, prepared.cells
    n, t = queries.observed.shape
    out, ranking = np.empty((n, len(queries.fraction)), np.float32), ranking or Ranking.of(n, t, 1, 0)
    impute = GroupPasses(queries, groups, cells, model, ranking, out)
    # Several calls for each thread.
    pieces = -(-n // LANES)
    ends = np.minimum(np.linspace(0, pieces, min(pieces, CALLS_PER_THREAD * threads) + 1).astype(int) * LANES, n)
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(impute, range(*pair)) for pair in itertools.pairwise(ends)]
        for done, call in enumerate(calls, 1):
            call.result()
            progress(done / len(calls))
    return out


def observed_probability(p: np.ndarray, queries: Queries, first: int = 0) -> np.ndarray:
    """(n, t) float64: probability of each allele that was observed, by ``p`` (n, r) of targets first..first+n-1; NaN
    where it is missing."""
    out = np.full((len(p), len(queries.typed_rows)), np.nan)
    _observed_probability(p, queries.observed[first : first + len(p)], queries.typed_rows, out)
    return out


@numba.njit(nogil=True, cache=True)
def _observed_probability(p, observed, typed_rows, out):
    for q in range(len(p)):
        for t in range(len(typed_rows)):
            begin, end = typed_rows[t]
            if observed[q, t] > 0:
                out[q, t] = p[q, begin + observed[q, t] - 1]
            elif observed[q, t] == 0:
                out[q, t] = 1.0
                for row in range(begin, end):
                    out[q, t] -= p[q, row]
