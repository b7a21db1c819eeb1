"""How much of the network's corrections is taken, as people of the panel tell.

They are hidden and imputed with the network and without, and among rows whose rarer allele is about as frequent the
share that is taken is the one that errs least: all of it, or nearly, where the panel is like those that the network has
learnt from, and little where its rare alleles are called better or worse than those were.

Source: stacked regression, with weights between 0 and 1 (Breiman 1996, Mach. Learn. 24:49), shrunk as James and Stein
do (1961, Proc. 4th Berkeley Symp. 1:361; the positive part).
"""

from __future__ import annotations

import numpy as np

# Copies of the rarer allele from which on rows have a share of their own.
CLASSES = np.array([0, 2, 4, 16])
ALL = np.ones(len(CLASSES), np.float32)
# For so many people who are hidden to learn of rows there is one judge; fewer judges than LEAST tell too little of how
# sure they are. They are imputed at the panel's sites between so many typed ones in the middle of a window, fewer where
# there are more than so many sites.
PEOPLE_A_JUDGE, LEAST, TYPED, SITES = 4, 10, 1_000, 40_000
# What is found is drawn towards what was expected (all of it; of a class, what is found of all) by so many times its
# variance, which is at least that of independent alleles.
DOUBT, VARIANCE = 3.0, 0.25


def classes(counts: np.ndarray, k: int) -> np.ndarray:
    """Of rows whose ALT allele so many of k haplotypes carry, (r,) int64, the number in ``CLASSES``; -1 where none or
    all do."""
    rarer = np.minimum(counts, k - counts)
    return np.where(rarer > 0, np.searchsorted(CLASSES, rarer, side="right") - 1, -1)


def shares(copied: np.ndarray, corrected: np.ndarray, truth: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(c,) float32, of each class. copied, corrected: (n, r) float32, p of hidden haplotypes without and with the
    network; truth: (r, n) uint8, their alleles; group: (r,) int64, ``classes`` in the panel without them."""
    correction, error = corrected - copied, truth.T - copied
    told, squared = np.zeros((2, len(CLASSES), len(copied)))
    for i in range(len(CLASSES)):
        of_class = correction[:, group == i]
        told[i] = np.einsum("nr,nr->n", of_class, error[:, group == i], dtype=np.float64)
        squared[i] = np.einsum("nr,nr->n", of_class, of_class, dtype=np.float64)
    of_all = _share(told.sum(axis=0), squared.sum(axis=0), 1.0)
    found = [_share(*sums, of_all) for sums in zip(told, squared, strict=True)]
    return np.clip(found, 0, 1).astype(np.float32)


def _share(told: np.ndarray, squared: np.ndarray, expected: float) -> float:
    """The share of a correction that errs least, by sums of each haplotype (n,), drawn towards what is expected."""
    if not squared.any():
        return expected
    found = told.sum() / squared.sum()
    variance = max(((told - found * squared) ** 2).sum() / squared.sum() ** 2, VARIANCE / squared.sum())
    away = found - expected
    return expected if away**2 <= DOUBT * variance else found - DOUBT * variance / away
