"""The panel imputes itself: what is learnt of every row from people of the panel who are hidden by turns.

Their alleles are known everywhere, and how they depend on what was imputed is true of the targets too: where panel
genotypes are often wrong, or where the site mutated more than once, an imputed copy is worth less than it says.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from ..context.hidden import hide
from ..context.windows import Window

# Of the panel's people at most one in so many is hidden at a time, and no more than MOST_HIDDEN.
FOLDS, MOST_HIDDEN = 10, 250
# A slope of 1 counts as much as a site where imputed probabilities of hidden haplotypes have this sum of squared
# deviations, about that many carriers; measured best between 2 and 8.
PRIOR = 4.0
FEATURES = 6
ROWS = 64  # that are added to at a time, in the cache


class SelfImputed:
    """Sums over hidden haplotypes at every row of a window. n: how many; x, y, xx, xy: (r,) float64, sums of the
    imputed probability x, of the allele y (0 or 1), of x^2 and of x y."""

    def __init__(self, rows: int):
        self.n = 0
        self.x, self.y, self.xx, self.xy = (np.zeros(rows) for _ in range(4))

    def add(self, p: np.ndarray, bits: np.ndarray, columns: np.ndarray) -> None:
        """p: (n, r) float32, of the haplotypes ``columns`` (int64) of a panel. bits: as in ``Haplotypes``."""
        _add(p, bits, columns, self.x, self.y, self.xx, self.xy)
        self.n += len(columns)

    def slope(self) -> np.ndarray:
        """(r,) float64: regression of allele on imputed probability, drawn towards 1."""
        cov, var = self._moments()
        return (cov + PRIOR) / (var + PRIOR)

    def features(self) -> np.ndarray:
        """(r, 6) float32, for a network: the slope less 1; squared correlation, drawn towards 0; logit of the mean
        probability of carriers, and of the others; log of 1 + the rarer allele's count; 1. All 0 if n is."""
        out = np.zeros((len(self.x), FEATURES), np.float32)
        if not self.n:
            return out
        n, x, y, xy = self.n, self.x, self.y, self.xy
        cov, var = self._moments()
        out[:, 0] = self.slope() - 1
        out[:, 1] = np.maximum(cov, 0) ** 2 / ((var + 1) * (y - y**2 / n + 1))
        out[:, 2] = _logit((xy + 0.5) / (y + 1))
        out[:, 3] = _logit((x - xy + 0.5) / (n - y + 1))
        out[:, 4] = np.log1p(np.minimum(y, n - y))
        out[:, 5] = 1
        return out

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """(r,) float64 both: sums of products of deviations of x and y, and of x."""
        return self.xy - self.x * self.y / self.n, self.xx - self.x**2 / self.n


@numba.njit(nogil=True, cache=True)
def _add(p, bits, columns, x, y, xx, xy):
    for begin in range(0, len(bits), ROWS):
        for q in range(len(p)):
            byte, bit = columns[q] >> 3, columns[q] & 7
            for r in range(begin, min(begin + ROWS, len(bits))):
                value, carried = np.float64(p[q, r]), np.float64(bits[r, byte] >> bit & 1)
                x[r] += value
                y[r] += carried
                xx[r] += value * value
                xy[r] += value * carried


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(p) - np.log1p(-p)


def in_turn(
    progress: Callable[[float], None], before: int, after: int
) -> tuple[Callable[[float], None], Callable[[float], None]]:
    """Progress of imputing so many haplotypes, and then so many, each from its own share."""
    first = before / (before + after)
    return lambda share: progress(first * share), lambda share: progress(first + (1 - first) * share)


def self_impute(
    impute: Callable[[Window], np.ndarray],
    window: Window,
    haplotypes: int,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
    apart: int = 0,
) -> SelfImputed:
    """Hides some ``haplotypes`` of the window's panel by turns, both of a person together, and has them imputed.

    apart: the first so many people ``in_random_order`` are not. Without a typed site, or with one person in the panel,
    or for no haplotypes, nobody is.
    """
    sums = SelfImputed(len(window.panel.bits))
    if len(window.typed) == 0 or window.panel.people < 2 or haplotypes == 0:
        return sums
    number = max(1, haplotypes * window.panel.people // window.panel.k)
    turns = _turns(window.panel.people, in_random_order(window.panel.people, seed)[apart:][:number])
    for done, people in enumerate(turns, 1):
        part, columns = hide(window, people)
        sums.add(impute(part), window.panel.bits, columns)
        progress(done / len(turns))
    return sums


def in_random_order(people: int, seed: int) -> np.ndarray:
    """The panel's people, (people,) int64."""
    return np.random.default_rng(seed).permutation(people)


def _turns(people: int, chosen: np.ndarray) -> list[np.ndarray]:
    """Which of so many people (int64, increasing) are hidden in each turn, of those who are chosen."""
    at_once = max(1, min(people // FOLDS, MOST_HIDDEN))
    return [np.sort(chosen[first : first + at_once]) for first in range(0, len(chosen), at_once)]
