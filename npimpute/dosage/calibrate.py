"""The panel imputes itself: what that tells of every site's dosages.

Some people of the panel are hidden and imputed from the others, from the sites that the targets are typed at. What they
carry is known at every site, and how it depends on what was imputed is true of the targets too: at a site where panel
genotypes are often wrong, or which mutated more than once, an imputed copy is worth less than it says.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..context.hidden import hide, row_parts
from ..context.windows import Window
from ..engine.base import Engine

# Of the panel's people at most one in so many is hidden at a time, and no more than MOST_HIDDEN.
FOLDS, MOST_HIDDEN = 10, 250
# A slope of 1 counts as much as a site where imputed probabilities of hidden haplotypes have this sum of squared
# deviations, about that many carriers; measured best between 2 and 8.
PRIOR = 4.0


class SelfImputed:
    """Sums over hidden haplotypes at every row of a window. n: how many; x, y, xx, xy: (r,) float64, sums of the
    imputed probability x, of the allele y (0 or 1), of x^2 and of x y."""

    def __init__(self, rows: int):
        self.n = 0
        self.x, self.y, self.xx, self.xy = (np.zeros(rows) for _ in range(4))

    def add(self, p: np.ndarray, alleles: np.ndarray, rows: slice) -> None:
        """p: (n, rows) float32. alleles: (rows, n) uint8. Counts nobody: see ``n``."""
        x = p.T.astype(np.float64)
        self.x[rows] += x.sum(axis=1)
        self.y[rows] += alleles.sum(axis=1)
        self.xx[rows] += np.einsum("ij,ij->i", x, x)
        self.xy[rows] += np.einsum("ij,ij->i", x, alleles)

    def slope(self) -> np.ndarray:
        """(r,) float64: regression of allele on imputed probability, drawn towards 1."""
        cov, var = self.xy - self.x * self.y / self.n, self.xx - self.x**2 / self.n
        return (cov + PRIOR) / (var + PRIOR)


def calibrate(
    engine: Engine,
    window: Window,
    p: np.ndarray,
    haplotypes: int,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Corrects the untyped rows of ``p`` (n, r) float32, the engine's of this window, in place.

    haplotypes: how many of the panel are hidden, by turns; all, if it has no more. seed: chooses them. What a target
    gets does not depend on who else is imputed. Without a typed site, or with one person in the panel, nothing is done.
    """
    if len(window.typed) == 0 or window.panel.k < 4:
        return
    sums = self_impute(engine, window, haplotypes, seed, progress)
    untyped = ~window.typed_rows()
    slope = np.where(untyped, sums.slope(), 1)
    offset = np.where(untyped, sums.y - slope * sums.x, 0) / sums.n
    for row in p:
        np.clip(slope * row + offset, 0, 1, out=row, casting="same_kind")


def self_impute(
    engine: Engine,
    window: Window,
    haplotypes: int,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> SelfImputed:
    """Hides haplotypes of the window's panel by turns, both of a person together, and imputes them with ``engine``."""
    sums = SelfImputed(len(window.panel.bits))
    turns = _turns(window.panel.k // 2, haplotypes // 2, seed)
    for done, hidden in enumerate(turns, 1):
        part, columns = hide(window, hidden)
        p = engine.impute(part)
        for rows in row_parts(window.panel):
            sums.add(p[:, rows], window.panel.alleles(rows)[:, columns], rows)
        sums.n += len(columns)
        progress(done / len(turns))
    return sums


def _turns(people: int, hidden: int, seed: int) -> list[np.ndarray]:
    """Which people (int64, increasing) are hidden in each turn."""
    chosen = np.random.default_rng(seed).permutation(people)[: max(1, hidden)]
    at_once = max(1, min(people // FOLDS, MOST_HIDDEN))
    return [np.sort(chosen[first : first + at_once]) for first in range(0, len(chosen), at_once)]
