"""What the pass with clades reads and works in, beside ``tables``. Kernels take them as plain tuples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# What is kept of typed sites takes so many bytes at most, of each haplotype at each of them so many.
KEPT_BYTES, KEPT_BYTES_EACH = 64 << 20, 24


class CladeModel(NamedTuple):
    """Of one window. switch: (t,) float32, probability that a target goes on with any haplotype between typed sites
    i-1 and i; drift: (t-1,) float32, that else it goes on with any of the clade, between i and i+1. err: float32."""

    switch: np.ndarray
    drift: np.ndarray
    err: np.float32


class Scratch(NamedTuple):
    """What one call works in, on one target. The m haplotypes that take part in a stretch have places 0..m-1 there.

    Of pieces of ``sites`` typed sites what is needed again on the way back is kept of one at a time, a row a site.
    """

    who: np.ndarray  # (w, m) int32, haplotypes that take part in each stretch
    n_who: np.ndarray  # (w,) int64, how many
    before: np.ndarray  # (w, m) int32, their places in the stretch before, -1 where they take no part in it
    after: np.ndarray  # (w, m) int32, likewise in the one after
    place: np.ndarray  # (k,) int32, all -1 between calls
    entering: np.ndarray  # (pieces, m) forward probabilities at the first site of each piece, after the emission
    forward: np.ndarray  # (sites, m) likewise at each site
    sums: np.ndarray  # (sites,) their sums
    match: np.ndarray  # (sites, m) probability of the target's allele
    left: np.ndarray  # (sites, m) int32, in the gap after each site, clades of those before it, renumbered
    right: np.ndarray  # (sites, m) int32, likewise of those after it, if others take part there
    share: np.ndarray  # (sites, 2 m) one over the haplotypes of those clades
    n_clades: np.ndarray  # (sites,) int64, how many there are
    number: np.ndarray  # (k,) int32, new numbers of clades; all -1 between gaps
    mass: np.ndarray  # (2, 2 m) of clades, those at even and odd places
    backward: np.ndarray  # (2, m) before the emission, at a typed site and the one after it, in turns
    emitted: np.ndarray  # (m,) after it
    posterior: np.ndarray  # (2, m) as ``backward``
    scale: np.ndarray  # (2,) one over their sums
    likely: np.ndarray  # (2, m) int32, haplotypes that matter at a typed site and the one after it, in turns
    places: np.ndarray  # (2, m) int32, their places
    n_likely: np.ndarray  # (2,) int64, how many
    weight: np.ndarray  # (2, m) their posterior, with a sum of 1
    alleles: np.ndarray  # (256,) of one site
    classes: np.ndarray  # (k, 8), rows: (256, 2), see ``mass`` and ``rows`` of ``tables.Scratch``
    rows: np.ndarray
    best: np.ndarray  # (haplotypes that are ranked,)

    @staticmethod
    def of(t: int, k: int, w: int, m: int, ranked: int) -> Scratch:
        """Where all of a panel take part (m is k, in one stretch) it says so."""
        sites = min(t, max(1, KEPT_BYTES // (KEPT_BYTES_EACH * m)))
        floats = {
            "entering": (-(-t // sites), m), "forward": (sites, m), "sums": (sites,), "match": (sites, m),
            "share": (sites, 2 * m), "mass": (2, 2 * m), "backward": (2, m), "emitted": (m,), "posterior": (2, m),
            "scale": (2,), "weight": (2, m), "alleles": (256,), "classes": (k, 8), "rows": (256, 2), "best": (ranked,),
        }  # fmt: skip
        numbers = {"who": (w, m), "before": (w, m), "after": (w, m), "likely": (2, m), "places": (2, m)}
        numbers |= {"left": (sites, m), "right": (sites, m)}
        lengths = {"n_who": w, "n_clades": sites, "n_likely": 2}
        made = Scratch(
            place=np.full(k, -1, np.int32),
            number=np.full(k, -1, np.int32),
            **{name: np.zeros(shape, np.float32) for name, shape in floats.items()},
            **{name: np.zeros(shape, np.int32) for name, shape in numbers.items()},
            **{name: np.zeros(length, np.int64) for name, length in lengths.items()},
        )
        if (w, m) == (1, k):
            made.who[0], made.n_who[0] = np.arange(k), k
        return made
