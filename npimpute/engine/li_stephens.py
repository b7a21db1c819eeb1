"""The Li-Stephens engine: a haploid copying model over all panel haplotypes.

Between typed sites d cM apart the copied haplotype is drawn anew with probability 1 - exp(-0.04 Ne d / k); an
observed allele differs from the copied one with probability err. Source: Li & Stephens 2003, Genetics 165:2213,
appendix A; the parametrisation is Beagle's (Browning, Zhou & Browning 2018, AJHG 103:338).
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..context.windows import Window
from ..errors import ConfigError
from .base import check_error_rate
from .collapse import collapse_typed, collapse_untyped
from .forward_backward import impute_range
from .tables import Blocks, Cells, Model, Queries

log = logging.getLogger(__name__)

# Sites closer than this are taken to be this far apart (about 1 bp), so that a switch is never impossible.
MIN_CM = 1e-6
START_NE, START_ERR = 1e5, 1e-3
NE_POWERS = 12  # Ne within a factor of 2**12 of the start
# Where the targets hardly tell, Ne stays at the start: each doubling must pay this share of the error, squared.
NE_PRIOR = 5e-4
# Few arrays have so many errors, but haplotypes are also left for reasons that the model does not know (recurrent
# mutation, gene conversion), and rare variants are imputed better with at least this much.
ERR_RANGE = (1e-3, 0.05)
EM_STEPS = 10  # at most; ends when a step changes less than a tenth
# Parameters are estimated from this many typed sites of the first window and as many target haplotypes as a budget of
# (panel haplotypes x sites x target haplotypes) allows, within limits.
ESTIMATE_SITES, ESTIMATE_BUDGET, ESTIMATE_HAPLOTYPES = 1_000, 10**8, (30, 100)
LEAST_SITES, LEAST_ALLELES = 20, 500  # that vary in the panel; with less the start values are used
# A block takes sites while its distinct haplotypes are few beside the panel's; measured best between 16 and 64.
MIN_GROUPS, HAPLOTYPES_PER_GROUP = 32, 32
CALLS_PER_THREAD = 8


@dataclass(frozen=True)
class _Compressed:
    """A window's typed sites, ready for the kernel. cm: (t,) float64; codes: (t, k) uint8."""

    cm: np.ndarray
    codes: np.ndarray
    blocks: Blocks

    def part(self, sites: slice) -> _Compressed:
        return _compressed(self.cm[sites], self.codes[sites])


class LiStephens:
    """Exact Li-Stephens imputation.

    ne: effective population size, err: mismatch probability; None to estimate both from the first window that has
    typed sites. threads: how many targets at a time; results do not depend on it. seed: chooses the haplotypes that
    the estimates are made from.
    """

    name = "li-stephens"

    def __init__(self, ne: float | None = None, err: float | None = None, threads: int = 1, seed: int = 1):
        if ne is not None and not 0 < ne < math.inf:
            raise ConfigError(f"--ne {ne}: the effective population size must be a positive number")
        check_error_rate(err)
        self._ne, self._err, self._threads, self._seed = ne, err, threads, seed

    @property
    def error_rate(self) -> float:
        return self._err if self._err is not None else START_ERR

    @property
    def ne(self) -> float:
        return self._ne if self._ne is not None else START_NE

    def impute(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """See ``Engine.impute``. Without a typed site, every haplotype gets the panel's allele frequencies."""
        n = window.alleles.shape[1]
        if len(window.typed) == 0:
            return np.tile((window.panel.counts() / window.panel.k).astype(np.float32), (n, 1))
        rows = window.panel.row_start()
        typed_rows = np.stack([rows[window.typed], rows[window.typed + 1]], axis=1)
        typed = _compress(window, typed_rows)
        observed = np.ascontiguousarray(window.alleles.T)
        if self._ne is None or self._err is None:
            self._estimate(typed, observed)
        ne, err = self.ne, self.error_rate
        gap_start, gap_stop = np.append(0, typed_rows[:, 1]), np.append(typed_rows[:, 0], rows[-1])
        cells = collapse_untyped(window.panel.bits, window.panel.k, gap_start, gap_stop, self._threads)
        queries = Queries(observed, typed_rows, _fractions(window, rows))
        return self._run(queries, typed, cells, ne, err, progress)

    def _run(
        self,
        queries: Queries,
        typed: _Compressed,
        cells: Cells,
        ne: float,
        err: float,
        progress: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray:
        n = len(queries.observed)
        model = _model(typed, ne, err)
        out = np.empty((n, len(queries.fraction)), np.float32)
        ends = np.linspace(0, n, min(n, CALLS_PER_THREAD * self._threads) + 1).astype(int)
        with ThreadPoolExecutor(self._threads) as pool:
            calls = [
                pool.submit(impute_range, first, last, queries, typed.blocks, cells, model, out)
                for first, last in itertools.pairwise(ends)
            ]
            for done, call in enumerate(calls, 1):
                call.result()
                progress(done / len(calls))
        return out

    def _estimate(self, typed: _Compressed, observed: np.ndarray) -> None:
        """Sets what was not given of Ne and err, from leave-one-out predictions of typed alleles.

        Ne minimises the mean over sites of squared error relative to the panel's allele variance, which is 1 - r2
        where predictions are calibrated; err is the expected share of mismatches, by a few EM steps. Both beat
        maximum likelihood, which trades accuracy between sites for fit within long haplotypes. Where there is too
        little to tell from, nothing is set, and a later window may tell.
        """
        t = observed.shape[1]
        first = max(0, (t - ESTIMATE_SITES) // 2)
        part = slice(first, first + ESTIMATE_SITES)
        varies = typed.codes[part].min(axis=1) < typed.codes[part].max(axis=1)
        called = observed[:, part][:, varies] >= 0
        if called.any(axis=0).sum() < LEAST_SITES or called.sum() < LEAST_ALLELES:
            log.info("too few typed alleles to estimate from: Ne %.3g, error rate %.3g", self.ne, self.error_rate)
            return
        telling = np.flatnonzero(called.any(axis=1))
        affordable = ESTIMATE_BUDGET // (typed.codes.shape[1] * min(t, ESTIMATE_SITES))
        n_sample = int(np.clip(affordable, *ESTIMATE_HAPLOTYPES))
        sample = np.sort(np.random.default_rng(self._seed).permutation(telling)[:n_sample])
        fit = _Fit(self, typed.part(part), np.ascontiguousarray(observed[sample, part]))
        ne, err = self.ne, self.error_rate
        if self._err is None:
            err = fit.error_rate(ne, err)
        if self._ne is None:
            ne = _minimise(lambda x: fit.relative_error(x, err) * (1 + NE_PRIOR * math.log2(x / START_NE) ** 2), ne)
            ne = float(f"{ne:.3g}")  # as logged, so that a run with the logged values is the same run
        if self._err is None:
            err = float(f"{fit.error_rate(ne, err):.3g}")
        self._ne, self._err = ne, err
        log.info("Ne %.3g, error rate %.3g (estimated from %d target haplotypes)", self._ne, self._err, len(sample))


class _Fit:
    """How well parameters predict typed alleles that were left out. observed: (n, t) int8."""

    def __init__(self, engine: LiStephens, typed: _Compressed, observed: np.ndarray):
        self._engine, self._typed, self._observed = engine, typed, observed
        t, k = typed.codes.shape
        self._rows = np.append(0, np.cumsum(np.maximum(typed.codes.max(axis=1), 1).astype(np.int64)))
        typed_rows = np.stack([self._rows[:-1], self._rows[1:]], axis=1)
        self._queries = Queries(observed, typed_rows, np.zeros(self._rows[-1], np.float32))
        nothing = np.zeros(t + 1, np.int64)
        self._no_cells = collapse_untyped(np.zeros((0, 1), np.uint8), k, nothing, nothing, 1)
        shares = [np.bincount(site) / k for site in typed.codes]
        self._variance = np.array([1 - (share**2).sum() for share in shares])
        # Where the panel does not vary there is nothing to predict; where nothing was called, nothing to compare.
        self._useful = (self._variance > 0) & (observed >= 0).any(axis=0)

    def _miss(self, ne: float, err: float) -> np.ndarray:
        """(n, useful sites) probability, leaving a site out, of another allele than the observed; NaN where missing."""
        loo = self._engine._run(self._queries, self._typed, self._no_cells, ne, err)
        alt = np.take_along_axis(loo, self._rows[:-1] + np.maximum(self._observed - 1, 0), axis=1)
        ref = 1 - np.add.reduceat(loo, self._rows[:-1], axis=1)
        miss = np.where(self._observed < 0, np.nan, 1 - np.where(self._observed == 0, ref, alt))
        return miss[:, self._useful]

    def relative_error(self, ne: float, err: float) -> float:
        error = np.nanmean(self._miss(ne, err) ** 2, axis=0)
        return float(np.mean(error / self._variance[self._useful]))

    def error_rate(self, ne: float, err: float) -> float:
        """Expected share of observed alleles that differ from the copied ones, by a few EM steps from ``err``."""
        for _ in range(EM_STEPS):
            miss, before = self._miss(ne, err), err
            share = np.nanmean(miss * err / (miss * err + (1 - miss) * (1 - err)))
            err = float(np.clip(share, *ERR_RANGE))
            if abs(err - before) < 0.1 * before:
                break
        return err


def _minimise(loss: Callable[[float], float], start: float) -> float:
    """Where a function of a positive number with one valley is least, to some 5 %: bracketed by factors of 2,
    then the vertex of the parabola through the best three points on a log scale."""
    values: dict[int, float] = {}

    def at(power: int) -> float:
        if power not in values:
            values[power] = loss(start * 2.0**power)
        return values[power]

    best = 0
    while best < NE_POWERS and at(best + 1) < at(best):
        best += 1
    while best > -NE_POWERS and at(best - 1) < at(best):
        best -= 1
    left, middle, right = at(best - 1), at(best), at(best + 1)
    curvature = left - 2 * middle + right
    shift = (left - right) / (2 * curvature) if curvature > 0 else 0.0
    return start * 2.0 ** (best + float(np.clip(shift, -0.5, 0.5)))


def _compress(window: Window, typed_rows: np.ndarray) -> _Compressed:
    k = window.panel.k
    codes = np.zeros((len(typed_rows), k), np.uint8)
    for alt in range(int(np.diff(typed_rows).max())):
        has = np.flatnonzero(np.diff(typed_rows)[:, 0] > alt)
        codes[has] += window.panel.alleles(typed_rows[has, 0] + alt) * np.uint8(alt + 1)
    return _compressed(window.cm[window.typed], codes)


def _compressed(cm: np.ndarray, codes: np.ndarray) -> _Compressed:
    return _Compressed(cm, codes, collapse_typed(codes, max(MIN_GROUPS, codes.shape[1] // HAPLOTYPES_PER_GROUP)))


def _model(typed: _Compressed, ne: float, err: float) -> Model:
    distance = np.maximum(np.diff(typed.cm), MIN_CM)
    switch = -np.expm1(-0.04 * ne * distance / typed.codes.shape[1])
    return Model(np.append(0, switch).astype(np.float32), np.float32(err))


def _fractions(window: Window, rows: np.ndarray) -> np.ndarray:
    """(r,) float32: how far each row lies from the typed site before it (0) to the one after it (1), in cM."""
    cm, typed = window.cm, window.typed
    before = np.searchsorted(typed, np.arange(len(cm)), side="right") - 1
    left, right = cm[typed[np.maximum(before, 0)]], cm[typed[np.minimum(before + 1, len(typed) - 1)]]
    gap = right - left
    fraction = np.where(gap > 0, (cm - left) / np.where(gap > 0, gap, 1), 0.0)
    fraction[before < 0] = 1.0
    return np.repeat(fraction, np.diff(rows)).astype(np.float32)
