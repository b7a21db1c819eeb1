"""What the pass of a copying model knows of a window, and how each target copies from its likeliest haplotypes.

Sequences are cut along the typed sites: one for each target and stretch of ``size`` typed sites, with the site after
the stretch and a flank on either side, and in it the m haplotypes with the most posterior over the stretch. Their
forward and backward probabilities are those of the model over all haplotypes, exactly: with the factors that each site
was scaled with, one haplotype's follow from its own alleles alone.

Axes: q sequences, m haplotypes, t columns (typed sites of a sequence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from ..config import check_counts
from ..errors import ConfigError
from .passes import Prepared, observed_probability
from .ranking import Ranking
from .tables import Model

# Features of a haplotype at a typed site: log posterior, log forward, log backward probability, and whether it has the
# target's allele (0 where that is missing).
HAPLOTYPE_FEATURES = 4
# Features of a typed site: log frequency of the target's allele, log cM to the site before and to the one after,
# minus log leave-one-out probability of the allele, whether it is missing, whether the column is a site at all.
SITE_FEATURES = 6
LOG_SCALE = np.float32(0.25)
FLOOR, NEAR_CM = np.float32(1e-7), np.float32(1e-5)
# Of probabilities at untyped rows, before their logarithm.
ROW_FLOOR = 1e-6
# Features of an untyped row, beside pooled tokens and what the panel tells of it.
ROW_FEATURES = 11
# Features of a haplotype at an untyped row: its log posterior, and whether it carries ALT.
TOKEN_FEATURES = 2
# Rows where the copying model is this sure of either allele are left as they are.
CERTAIN = 1e-3


@dataclass(frozen=True)
class CopyingConfig:
    """Sizes of the network over typed sites. Raises ConfigError.

    clades: whether it corrects the copying model with clades and ancestry, or exact Li-Stephens. ne_share: of Ne, what
    that takes: Ne is such that copying is best by itself, flat enough where it is not sure, but the network flattens
    what needs to be. size: typed sites of a sequence; flank: more on either side that it sees; haplotypes: of a
    sequence. layers: 0 for none; width, d_state, expand: of them. token: width of what it makes of a haplotype at a
    row; readout: width of the two hidden layers that read it. calibrate: panel haplotypes that are hidden to learn of
    rows, if nothing else is asked for.
    """

    architecture: str = "npssm"
    clades: bool = True
    ne_share: float = 0.8
    size: int = 1
    flank: int = 0
    haplotypes: int = 12
    layers: int = 0
    width: int = 16
    d_state: int = 4
    expand: int = 1
    token: int = 16
    readout: int = 32
    calibrate: int = 400

    def __post_init__(self) -> None:
        if self.architecture != "npssm":
            raise ConfigError(f"architecture {self.architecture}: not npssm")
        for name in ("layers", "flank", "calibrate"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: 0 or more")
        if not 0 < self.ne_share <= 1:
            raise ConfigError(f"ne_share {self.ne_share}: above 0, at most 1")
        names = ("size", "haplotypes", "width", "d_state", "expand", "token", "readout")
        check_counts(**{name: getattr(self, name) for name in names})
        if self.clades and (self.size, self.flank) != (1, 0):
            raise ConfigError(f"size {self.size}, flank {self.flank}: with clades a sequence is one gap: 1 and 0")


class Copying(NamedTuple):
    """p: (n, r) float32, what ``run_passes`` made of ``prepared`` at the parameters of ``model``. codes: (k, t) uint8,
    those of ``prepared`` by haplotype. frequency: (t, 256) float64, of each allele code in the panel."""

    p: np.ndarray
    prepared: Prepared
    model: Model
    ranking: Ranking
    codes: np.ndarray
    frequency: np.ndarray

    @staticmethod
    def of(p: np.ndarray, prepared: Prepared, model: Model, ranking: Ranking) -> Copying:
        counts = np.stack([np.bincount(site, minlength=256) for site in prepared.codes])
        codes = np.ascontiguousarray(prepared.codes.T)
        return Copying(p, prepared, model, ranking, codes, counts / len(codes))


class Places(NamedTuple):
    """Where rows lie among sequences, (r,) int64 each. stretch: the sequence of a target's; left, right: the core
    columns before and after the row, which outside the typed sites are both the nearest."""

    stretch: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @staticmethod
    def of(copying: Copying) -> Places:
        typed, size = copying.prepared.queries.typed_rows[:, 0], copying.ranking.size
        before = np.searchsorted(typed, np.arange(copying.p.shape[1]), side="right") - 1
        stretch = np.maximum(before, 0) // size
        return Places(
            stretch, np.maximum(before, 0) - stretch * size, np.minimum(before + 1, len(typed) - 1) - stretch * size
        )


class Sequences(NamedTuple):
    """Of targets and stretches that are wanted, target by target.

    haplotypes: (q, m) int32; one that fills up has no posterior anywhere. haplotype: (q, m, t, 4), site: (q, t, 6),
    posterior: (q, m, t), all float32. Column ``flank`` is the stretch's first typed site; columns beyond the window's
    ends are all 0. number: (n, w) int64, which of the q belongs to a target and stretch, -1 where it was not wanted.
    """

    haplotypes: np.ndarray
    haplotype: np.ndarray
    site: np.ndarray
    posterior: np.ndarray
    number: np.ndarray


def sequences(copying: Copying, first: int, wanted: np.ndarray, flank: int) -> Sequences:
    """wanted: (n, w) bool, of targets first..first+n-1 and every stretch. Releases the GIL."""
    ranking, prepared = copying.ranking, copying.prepared
    last, m, q = first + len(wanted), ranking.haplotypes.shape[2], int(wanted.sum())
    columns = ranking.size + 1 + 2 * flank
    out = Sequences(
        np.maximum(ranking.haplotypes[first:last][wanted], 0),
        np.zeros((q, m, columns, HAPLOTYPE_FEATURES), np.float32),
        np.zeros((q, columns, SITE_FEATURES), np.float32),
        np.zeros((q, m, columns), np.float32),
        np.where(wanted, np.cumsum(wanted).reshape(wanted.shape) - 1, -1),
    )
    per_site = _per_site(copying, first, last)
    if len(ranking.ends):
        _fill_between_two(first, prepared.queries.observed, copying.codes, tuple(ranking), per_site, tuple(out))
        return out
    switch, _, err = copying.model
    known = (prepared.queries.observed, copying.codes, switch, err, tuple(ranking), per_site)
    # A haplotype's passes serve all the stretches that it is in.
    by_haplotype = np.where(wanted[..., None], ranking.haplotypes[first:last], -1).reshape(len(wanted), -1)
    order = np.argsort(by_haplotype, axis=1, kind="stable")
    _fill_sequences(first, last, *known, by_haplotype, order, flank, tuple(out))
    return out


def _per_site(copying: Copying, first: int, last: int) -> np.ndarray:
    """(n, t, 5) float32: ``SITE_FEATURES`` but the last."""
    prepared = copying.prepared
    observed = prepared.queries.observed[first:last]
    missing = observed < 0
    k, t = copying.codes.shape
    frequency = copying.frequency[np.arange(t), np.maximum(observed, 0)]
    expected = observed_probability(copying.p[first:last], prepared.queries, first)
    gap = np.log(np.diff(prepared.cm) + NEAR_CM)
    out = np.empty((*observed.shape, SITE_FEATURES - 1), np.float32)
    out[..., 0] = np.where(missing, 0, np.log(np.maximum(frequency, 1 / (2 * k))))
    out[..., 1], out[..., 2] = np.append(0, gap), np.append(gap, 0)
    out[..., 3] = np.where(missing, 0, -np.log(np.clip(expected, 1e-4, 1)))
    out[..., 4] = missing
    out[..., :4] *= LOG_SCALE
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill_sequences(first, last, observed, codes, switch, err, ranking, per_site, by_haplotype, orders, flank, out):
    size, ranked, scale, _ = ranking
    _, haplotype, site, posterior, number = out
    t_all, k, w, m = len(switch), len(codes), ranked.shape[1], ranked.shape[2]
    columns = size + 1 + 2 * flank
    forward, backward = np.empty(t_all, np.float32), np.empty(t_all, np.float32)
    one, per = np.float32(1), np.float32(1) / np.float32(k)
    for q in range(first, last):
        wanted, order = by_haplotype[q - first], orders[q - first]
        at = 0
        while at < len(order):
            j = wanted[order[at]]
            if j < 0:
                at += 1
                continue
            value = per
            for t in range(t_all):
                if observed[q, t] >= 0:
                    value *= one - err if codes[j, t] == observed[q, t] else err
                forward[t] = value
                if t + 1 < t_all:
                    value = value * ((one - switch[t + 1]) * scale[q, 0, t]) + switch[t + 1] * per
            value = one
            for t in range(t_all - 1, -1, -1):
                backward[t] = value * per
                if observed[q, t] >= 0:
                    value *= one - err if codes[j, t] == observed[q, t] else err
                if t:
                    value = value * ((one - switch[t]) * scale[q, 1, t]) + switch[t]
            while at < len(order) and wanted[order[at]] == j:
                a, i = order[at] // m, order[at] % m
                s = number[q - first, a]
                for c in range(columns):
                    t = a * size - flank + c
                    if 0 <= t < t_all:
                        p = forward[t] * backward[t] * scale[q, 2, t] * np.float32(k)
                        posterior[s, i, c] = p
                        haplotype[s, i, c, 0] = LOG_SCALE * np.log(p + FLOOR)
                        haplotype[s, i, c, 1] = LOG_SCALE * np.log(forward[t] + FLOOR)
                        haplotype[s, i, c, 2] = LOG_SCALE * np.log(backward[t] + FLOOR)
                        haplotype[s, i, c, 3] = one if codes[j, t] == observed[q, t] else np.float32(0)
                at += 1
        for a in range(w):
            s = number[q - first, a]
            for c in range(columns):
                t = a * size - flank + c
                if s >= 0 and 0 <= t < t_all:
                    for i in range(per_site.shape[2]):
                        site[s, c, i] = per_site[q - first, t, i]
                    site[s, c, per_site.shape[2]] = one


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill_between_two(first, observed, codes, ranking, per_site, out):
    """Of stretches of one typed site, without a flank, from what the pass left of their ends."""
    _, ranked, scale, ends = ranking
    _, haplotype, site, posterior, number = out
    for n in range(len(number)):
        q = first + n
        for a in range(number.shape[1]):
            s = number[n, a]
            if s < 0:
                continue
            for c in range(2):
                t = a + c
                if t == observed.shape[1]:
                    continue
                for i in range(per_site.shape[2]):
                    site[s, c, i] = per_site[n, t, i]
                site[s, c, per_site.shape[2]] = np.float32(1)
                for i in range(ranked.shape[2]):
                    j = ranked[q, a, i]
                    if j < 0:
                        continue
                    one, p = ends[q, a, i, 2 * c], ends[q, a, i, 2 * c + 1]
                    other = p / max(one * scale[q, 2, t], np.float32(1e-30))
                    posterior[s, i, c] = p
                    haplotype[s, i, c, 0] = LOG_SCALE * np.log(p + FLOOR)
                    haplotype[s, i, c, 1] = LOG_SCALE * np.log((one if c == 0 else other) + FLOOR)
                    haplotype[s, i, c, 2] = LOG_SCALE * np.log((other if c == 0 else one) + FLOOR)
                    haplotype[s, i, c, 3] = np.float32(1) if codes[j, t] == observed[q, t] else np.float32(0)
