"""The parameters of the Li-Stephens model, estimated: those that impute best, not those that are likeliest.

The error rate comes from typed alleles of the targets that are left out. Ne comes from people of the panel that are
hidden and imputed at the sites that the array lacks, because how far a haplotype should be trusted between typed sites
cannot be seen at typed sites: left out one at a time, they make a denser array's neighbours look twice as far apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..context.hidden import hide, middle
from ..context.windows import Window
from .passes import Prepared, observed_probability, prepare, run_passes

START_NE, START_ERR = 1e5, 1e-3
NE_POWERS = 12  # how often Ne is doubled or halved at most, from the start
# Where data hardly tell, Ne stays at the start: each doubling must pay this share of the error, squared.
NE_PRIOR = 5e-4
# Hidden are one in so many of the panel's people, and at most so many; imputed are the panel's sites between at most so
# many typed sites in the middle of a window, fewer where there are more than so many sites, but LEAST_TYPED. In a short
# stretch Ne would be too small: what haplotypes share beyond its ends is not seen.
FOLDS, MOST_PEOPLE, NE_TYPED, NE_SITES = 10, 100, 1_000, 40_000
# Fewer people are hidden where they would have more typed sites in all, but LEAST_PEOPLE.
NE_BUDGET, LEAST_PEOPLE = 50_000, 20
# Few arrays have so many errors, but haplotypes are also left for reasons that the model does not know (recurrent
# mutation, gene conversion), and rare variants are imputed better with at least this much.
ERR_RANGE = (1e-3, 0.05)
EM_STEPS = 10  # at most; ends when a step changes less than a tenth
# Targets that tell: this many typed sites of a window and as many haplotypes as a budget of (panel haplotypes x sites x
# target haplotypes) allows, within limits.
TYPED, BUDGET, HAPLOTYPES = 1_000, 10**8, (30, 100)
LEAST_TYPED, LEAST_ALLELES = 20, 500  # that vary in the panel; with less nothing is estimated
# Hidden people stand for the targets unless, at that of these powers of 2 (times the start) where the targets' typed
# alleles are predicted best, theirs are predicted with more than so many times the error, by so many standard errors:
# then the panel holds founders, and the targets descend from them.
ALIKE, ALIKE_POWERS, CERTAIN = 2.0, (0, -3, -6), 2.0


def estimate(
    window: Window,
    ne: float | None,
    err: float | None,
    threads: int,
    seed: int,
    beyond: int | None = None,
    people: int = MOST_PEOPLE,
) -> tuple[float | None, float | None]:
    """Ne and err, where they are None and the window (with a typed site) has enough to tell; else as they are.

    Ne does not depend on the targets but where these descend from the panel (see ALIKE). seed: chooses whom to look at.
    beyond: see ``prepare``; the Ne is that of the model that it says, but err that of Li-Stephens alone. people: of the
    panel are hidden, at most.
    """
    sample = _sample(window, np.random.default_rng([seed, 0]))
    if sample is None:
        return ne, err
    targets = _Fit(sample, threads)
    found_ne, found_err = ne or START_NE, err or START_ERR
    if err is None:
        found_err = targets.error_rate(found_ne, found_err)
    if ne is None:
        rng = np.random.default_rng([seed, 1])
        hidden = _hidden_loss(window, targets, err or START_ERR, threads, rng, beyond, people)
        loss = hidden or (lambda x: targets.relative_error(x, found_err)[0])
        prior = lambda x: 1 + NE_PRIOR * math.log2(x / START_NE) ** 2  # noqa: E731
        found_ne = _minimise(lambda x: loss(x) * prior(x), START_NE)
        found_ne = float(f"{found_ne:.3g}")  # as logged, so that a run with the logged values is the same run
    if err is None:
        found_err = float(f"{targets.error_rate(found_ne, found_err):.3g}")
    return found_ne, found_err


def _sample(window: Window, rng: np.random.Generator) -> Window | None:
    """Typed sites alone and some of the targets; None if there are too few."""
    part, _ = middle(window, TYPED, 0)
    count, k = part.panel.counts(), part.panel.k
    row_varies = (count > 0) & (count < k)
    varies = np.array([row_varies[a:b].any() for a, b in itertools.pairwise(part.panel.row_start())])
    called = part.alleles[varies] >= 0
    if called.any(axis=1).sum() < LEAST_TYPED or called.sum() < LEAST_ALLELES:
        return None
    telling = np.flatnonzero(called.any(axis=0))
    number = int(np.clip(BUDGET // (k * len(part.typed)), *HAPLOTYPES))
    return replace(part, alleles=part.alleles[:, np.sort(rng.permutation(telling)[:number])])


def _hidden_loss(
    window: Window,
    targets: _Fit,
    err: float,
    threads: int,
    rng: np.random.Generator,
    beyond: int | None,
    most: int,
) -> Callable[[float], float] | None:
    """Error of hidden people, ``most`` at most, at untyped rows as a function of Ne; None where they do not stand for
    the targets."""
    people = window.panel.people
    if people < FOLDS:
        return None
    part, _ = middle(window, NE_TYPED, NE_SITES, LEAST_TYPED)
    number = min(people // FOLDS, most, max(LEAST_PEOPLE, NE_BUDGET // len(part.typed)))
    hidden, columns = hide(part, np.sort(rng.permutation(people)[:number]))
    fit = _Fit(hidden, threads, beyond)
    share = part.panel.counts() / part.panel.k
    rows = np.flatnonzero(~hidden.typed_rows() & (share > 0) & (share < 1))
    if not len(rows) or not _alike(fit, targets, err):
        return None
    truth = part.panel.alleles(rows, columns).T.astype(np.float32)
    deviation = np.sqrt(share * (1 - share))[rows]

    def loss(ne: float) -> float:
        error = fit.p(ne, err)[:, rows]
        error -= truth
        return float(np.mean(np.mean(np.square(error, out=error), axis=0, dtype=np.float64) / deviation))

    return loss


def _alike(hidden: _Fit, targets: _Fit, err: float) -> bool:
    """Whether hidden people are predicted about as well as the targets."""
    (error, deviation), ne = min(
        (targets.relative_error(START_NE * 2.0**power, err), START_NE * 2.0**power) for power in ALIKE_POWERS
    )
    if not hidden.useful.any():
        return False
    theirs, their_deviation = hidden.relative_error(ne, err)
    return theirs - ALIKE * error <= CERTAIN * math.hypot(their_deviation, ALIKE * deviation)


class _Fit:
    """How well parameters predict the targets of a window, leaving out what is predicted."""

    def __init__(self, window: Window, threads: int, beyond: int | None = None):
        self._prepared: Prepared = prepare(window, threads, beyond=beyond)
        self._threads, self._tried = threads, None
        codes, observed = self._prepared.codes, self._prepared.queries.observed
        shares = [np.bincount(site) / len(site) for site in codes]
        self._variance = np.array([1 - (share**2).sum() for share in shares])
        # Where the panel does not vary there is nothing to predict; where nothing was called, nothing to compare.
        self.useful = (self._variance > 0) & (observed >= 0).any(axis=0)

    def p(self, ne: float, err: float) -> np.ndarray:
        """See ``run_passes``. The last is kept: who stands for the targets is asked at the first Ne that is tried."""
        if self._tried != (ne, err):
            self._tried, self._p = (ne, err), run_passes(self._prepared, self._prepared.model(ne, err), self._threads)
        return self._p

    def _miss(self, ne: float, err: float) -> np.ndarray:
        """(n, useful sites) probability of another allele than the observed; NaN where missing."""
        return 1 - observed_probability(self.p(ne, err), self._prepared.queries)[:, self.useful]

    def relative_error(self, ne: float, err: float) -> tuple[float, float]:
        """Mean of squared error over the panel's allele variance at typed sites, and its standard error over
        haplotypes."""
        errors = self._miss(ne, err) ** 2 / self._variance[self.useful]
        weight = np.count_nonzero(~np.isnan(errors), axis=0)
        each = np.nansum(errors / weight, axis=1) * len(errors) / errors.shape[1]
        return float(each.mean()), float(each.std() / math.sqrt(len(each)))

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
