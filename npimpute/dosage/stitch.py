"""An engine's probabilities and the observed genotypes of a window -> the Dosages of the sites it writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..context.windows import Window
from ..panel.align import Match, is_used
from ..types import ROW_VALUES, Dosages, Sites, Targets
from .by_turns import Waiting
from .quality import SampleQuality, dr2, er2, expected_r2, row_sums

# Rows stitched at a time, and probabilities: enough for fast array code, few enough to stay small beside a window.
CHUNK_ROWS, CHUNK_VALUES = 8_192, 1 << 23


@dataclass(frozen=True)
class StitchConfig:
    """keep_typed: observed alleles come back as they were (else the posterior given them and all others).
    all_typed: sites that only the targets have are written too. min_r2: untyped sites with less DR2 are not."""

    keep_typed: bool = True
    all_typed: bool = False
    min_r2: float = 0.0


def stitch(
    window: Window,
    p: np.ndarray | Waiting,
    error_rate: float,
    targets: Targets,
    config: StitchConfig,
    quality: SampleQuality | None = None,
) -> Iterator[Dosages]:
    """The window's own sites, in order, some thousand rows at a time.

    p: (n, r) float32 from an engine. quality: receives the samples' figures.
    """
    rows = window.panel.row_start()
    start, chunk_rows = window.start, max(1, min(CHUNK_ROWS, CHUNK_VALUES // p.shape[0]))
    only = _target_only(window, targets) if config.all_typed else np.empty(0, np.int64)
    while start < window.stop:
        stop = int(np.searchsorted(rows, rows[start] + chunk_rows, side="left"))
        stop = min(max(stop, start + 1), window.stop)
        stop = int(np.searchsorted(window.panel.sites.pos, window.panel.sites.pos[stop - 1], side="right"))
        dosages = _panel_sites(window, p, rows, start, stop, error_rate, config.keep_typed, quality, targets.ploidy)
        dosages = _well_imputed(dosages, config.min_r2)
        end = len(only) if stop == window.stop else np.searchsorted(
            targets.sites.pos[only], window.panel.sites.pos[stop - 1], side="right"
        )  # fmt: skip
        if end:
            dosages = _merged(dosages, _observed(targets, only[:end]))
            only = only[end:]
        yield dosages
        start = stop


def _panel_sites(window, p, rows, start, stop, error_rate, keep_typed, quality, ploidy) -> Dosages:
    sites = window.panel.sites.slice(start, stop)
    chunk = np.ascontiguousarray(p[:, rows[start] : rows[stop]].T)
    typed = np.zeros(stop - start, bool)
    first, last = np.searchsorted(window.typed, [start, stop])
    typed[window.typed[first:last] - start] = True
    imputed = np.ones(stop - start, bool)
    typed_rows = np.flatnonzero(np.repeat(typed, np.diff(rows[start : stop + 1])))
    quality_er2 = np.full(len(chunk), np.nan, np.float32)
    # Of typed sites too that of what was predicted, which is replaced by what was observed.
    expected = expected_r2(*row_sums(chunk))
    if len(typed_rows):
        alleles = window.alleles[first:last]
        n_alt = np.diff(rows)[window.typed[first:last]]
        carried = _carried(alleles, n_alt)
        left_out = chunk[typed_rows]
        quality_er2[typed_rows] = er2(left_out, carried)
        if quality is not None:
            quality.add_typed(left_out, carried, ploidy)
        known = carried if keep_typed else _posterior(left_out, alleles, n_alt, error_rate)
        chunk[typed_rows] = np.where(np.isnan(carried), left_out, known)
        if keep_typed:
            imputed[typed] = (alleles < 0).any(axis=1)
    if quality is not None:
        quality.add_imputed(np.delete(chunk, typed_rows, axis=0) if len(typed_rows) else chunk, ploidy)
    return _dosages(sites, chunk, typed, imputed, quality_er2, expected, ploidy)


def _carried(alleles: np.ndarray, n_alt: np.ndarray) -> np.ndarray:
    """(rows, n) float32: 1 where the haplotype's observed allele is the row's, 0 where another, NaN missing.

    alleles: (t, n) int8 codes; n_alt: (t,) rows of each site.
    """
    site = np.repeat(np.arange(len(n_alt)), n_alt)
    code = np.arange(len(site)) - np.repeat(np.cumsum(n_alt) - n_alt, n_alt) + 1
    observed = alleles[site]
    return np.where(observed < 0, np.nan, observed == code[:, None]).astype(np.float32)


def _posterior(left_out: np.ndarray, alleles: np.ndarray, n_alt: np.ndarray, error_rate: float) -> np.ndarray:
    """(rows, n) float32: ``left_out`` updated with the observed allele, which is wrong with ``error_rate``."""
    site = np.repeat(np.arange(len(n_alt)), n_alt)
    starts = np.cumsum(n_alt) - n_alt
    agrees = _carried(alleles, n_alt) == 1
    ref = 1 - np.add.reduceat(left_out, starts, axis=0)
    alt = left_out * np.where(agrees, 1 - error_rate, error_rate)
    ref *= np.where(alleles == 0, 1 - error_rate, error_rate)
    total = ref + np.add.reduceat(alt, starts, axis=0)
    return (alt / total[site]).astype(np.float32)


def _dosages(sites, p, typed, imputed, quality_er2, expected, ploidy) -> Dosages:
    n, sum_p, sum_pq, *more = row_sums(p)
    with np.errstate(invalid="ignore"):
        af = (sum_p / n).astype(np.float32)
    quality = (dr2(n, sum_p, sum_pq), quality_er2, expected)
    return Dosages(sites, p, typed, imputed, af, *quality, n, sum_p, sum_pq, *more, ploidy)


def _target_only(window: Window, targets: Targets) -> np.ndarray:
    """Target sites in this window's span that are no panel record and carry an ALT allele, int64.

    Those of unclear strand are panel records, though not used: written too they would be in the file twice.
    """
    index = np.arange(*window.span)[~is_used(window.kind) & (window.kind != Match.STRAND_UNCLEAR)]
    return index[targets.sites.take(index).n_alt() > 0] if len(index) else index


def _observed(targets: Targets, index: np.ndarray) -> Dosages:
    """The target sites ``index`` as they were."""
    sites = targets.sites.take(index)
    p = _carried(targets.alleles[index], sites.n_alt())
    nothing = np.full(len(p), np.nan, np.float32)
    flags = (np.ones(len(sites), bool), np.zeros(len(sites), bool))
    return _dosages(sites, p, *flags, nothing, nothing, targets.ploidy)


def _take(dosages: Dosages, index: np.ndarray) -> Dosages:
    """The sites ``index`` (int64), in that order."""
    n_alt = dosages.sites.n_alt()
    starts = np.cumsum(n_alt) - n_alt
    rows = np.repeat(starts[index], n_alt[index])
    rows += np.arange(len(rows)) - np.repeat(np.cumsum(n_alt[index]) - n_alt[index], n_alt[index])
    return dosages.take(index, rows, dosages.sites.take(index))


def _well_imputed(dosages: Dosages, min_r2: float) -> Dosages:
    """Without the untyped sites that have no ALT allele with at least ``min_r2``."""
    if min_r2 <= 0:
        return dosages
    n_alt = dosages.sites.n_alt()
    best = np.maximum.reduceat(dosages.dr2, np.cumsum(n_alt) - n_alt)
    return _take(dosages, np.flatnonzero(dosages.typed | (best >= min_r2)))


def _merged(a: Dosages, b: Dosages) -> Dosages:
    """Both, by position; at the same position ``a`` first."""
    order = np.argsort(np.concatenate([a.sites.pos, b.sites.pos]), kind="stable")
    names = ("p", "typed", "imputed", *ROW_VALUES)
    joined = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in names}
    return _take(replace(a, sites=Sites.concat([a.sites, b.sites]), **joined), order)
