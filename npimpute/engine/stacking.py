"""How much of the network's corrections is taken, as people of the panel tell.

They are hidden and imputed with the network and without, and among rows whose rarer allele is about as frequent the
share that is taken is the one that errs least: all of it, or nearly, where the panel is like those that the network has
learnt from, and little where its rare alleles are called better or worse than those were.

Source: stacked regression, with weights between 0 and 1 (Breiman 1996, Mach. Learn. 24:49).
"""

from __future__ import annotations

import numpy as np

# Copies of the rarer allele from which on rows have a share of their own.
CLASSES = np.array([0, 2, 4, 16])
# Of people who are hidden to learn of rows, one in so many is a judge instead. They are imputed at the panel's sites
# between so many typed ones in the middle of a window, fewer where there are more than so many sites.
JUDGES, TYPED, SITES = 4, 1_000, 40_000
# A share of 1 counts as much as squared differences between network and copying that add up to this, and so does, in
# one class, the share of all.
PRIOR = 5.0


def classes(counts: np.ndarray, k: int) -> np.ndarray:
    """Of rows whose ALT allele so many of k haplotypes carry, (r,) int64, the number in ``CLASSES``; -1 where none or
    all do."""
    rarer = np.minimum(counts, k - counts)
    return np.where(rarer > 0, np.searchsorted(CLASSES, rarer, side="right") - 1, -1)


def shares(copied: np.ndarray, corrected: np.ndarray, truth: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(c,) float64, of each class. copied, corrected: (n, r) float32, p of hidden haplotypes without and with the
    network; truth: (r, n) uint8, their alleles; group: (r,) int64, ``classes`` in the panel without them."""
    correction, error = corrected - copied, truth.T - copied
    told, squared = (np.einsum("nr,nr->r", correction, other, dtype=np.float64) for other in (error, correction))
    told, squared = (np.bincount(group[group >= 0], x[group >= 0], len(CLASSES)) for x in (told, squared))
    of_all = (told.sum() + PRIOR) / (squared.sum() + PRIOR)
    return np.clip((told + PRIOR * of_all) / (squared + PRIOR), 0, 1)
