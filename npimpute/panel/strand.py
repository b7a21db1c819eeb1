"""The strand of A/T and C/G records, which their alleles do not tell, from allele frequencies."""

from __future__ import annotations

from math import inf, lgamma, log

import numpy as np

from ..types import Haplotypes, Sites, Targets
from .align import Alignment, Match, Mending, align, complement, is_used

# How far the frequencies of targets and panel drift apart by ancestry (Fst): more than within a continent, less than
# between two.
DRIFT = 0.02
# So many times as probable as the other must a strand be.
CLEAR_ODDS = 1_000.0

_OTHER_STRAND = [Match.FLIPPED, Match.FLIPPED_SWAPPED, Match.UNFLIPPED, Match.UNFLIPPED_UNSWAPPED]
_SAME_STRAND = [Match.MATCHED, Match.SWAPPED, Match.UNSWAPPED]


def aligned(panel: Haplotypes, targets: Targets, mending: Mending) -> Alignment:
    """``align`` of the sites of both, strands settled where ``mending`` turns them."""
    alignment = align(panel.sites, targets.sites, mending)
    return settle_strands(alignment, panel, targets, mending) if mending.strand else alignment


def settle_strands(alignment: Alignment, panel: Haplotypes, targets: Targets, mending: Mending) -> Alignment:
    """Decides on the records that ``align`` left STRAND_UNCLEAR.

    The odds of the two strands are those of the targets' allele counts (``log_odds``) times those that the records
    whose strand is plain give (``flipped_share``); where no such record is on the other strand, none is turned. Odds
    of less than CLEAR_ODDS either way leave a record STRAND_UNCLEAR, as do three alleles or more.

    panel, targets: what was aligned. Returns the alignment without the pairs that are not used.
    """
    kind, codes = alignment.kind.copy(), alignment.codes.copy()
    share = flipped_share(kind, targets.sites)
    rows = panel.row_start()
    for i in np.flatnonzero(kind[alignment.target_index] == Match.STRAND_UNCLEAR):
        t, p = alignment.target_index[i], alignment.panel_index[i]
        here = codes[i][codes[i] >= 0]
        other = _on_the_other_strand(panel.sites, p, here)
        odds = inf
        if share > 0:
            observed = np.bincount(targets.alleles[t][targets.alleles[t] >= 0], minlength=len(here))
            expected = _allele_counts(panel, rows[p], rows[p + 1])[[here[0], other[0]]]
            odds = log_odds(observed, expected) + log((1 - share) / share) if len(here) <= 2 else 0.0
        if odds > log(CLEAR_ODDS):
            kind[t] = Match.MATCHED if here[0] == 0 else Match.UNSWAPPED if mending.swap else Match.SWAPPED
        elif odds < -log(CLEAR_ODDS):
            kind[t] = Match.STRAND_BY_FREQUENCY
            codes[i, : len(other)] = other
    used = is_used(kind[alignment.target_index])
    return Alignment(alignment.target_index[used], alignment.panel_index[used], codes[used], kind)


def flipped_share(kind: np.ndarray, sites: Sites) -> float:
    """The share on the other strand of the single-base ``sites`` with ALT alleles whose strand is plain.

    kind: (s,) uint8, a ``Match`` each. 0 if none is; else half a record is added on either side, since a share of 1 of
    few records is no certainty.
    """
    flipped = int(np.isin(kind, _OTHER_STRAND).sum())
    as_in_panel = np.flatnonzero(np.isin(kind, _SAME_STRAND)).tolist()
    same = sum(complement(_alleles(sites, i)) is not None for i in as_in_panel)
    return (flipped + 0.5) / (flipped + same + 1) if flipped else 0.0


def log_odds(observed: np.ndarray, expected: np.ndarray) -> float:
    """The logarithm of how many times as probable the target's allele counts are on the panel's strand as on the other.

    observed: (1 or 2,) int, target haplotypes with the record's first and second allele. expected: (2,) int, panel
    haplotypes with the same alleles, if the strand is the panel's. The probability is beta-binomial: the targets'
    frequency varies around the panel's by DRIFT and by what chance does to a panel of few haplotypes.
    """
    first, second = int(observed[0]), int(observed[1:].sum())
    n = int(expected.sum())
    frequency = (expected[0] + 0.5) / (n + 1)
    concentration = 1 / (DRIFT + 1 / (n + 2)) - 1
    a, b = frequency * concentration, (1 - frequency) * concentration
    return lgamma(first + a) + lgamma(second + b) - lgamma(second + a) - lgamma(first + b)


def _on_the_other_strand(panel: Sites, index: int, codes: np.ndarray) -> list[int]:
    """The panel's codes of the alleles that complement those of ``codes``."""
    alleles = _alleles(panel, index)
    return [alleles.index(allele) for allele in complement(tuple(alleles[code] for code in codes))]


def _alleles(sites: Sites, index: int) -> tuple[str, ...]:
    return tuple(f"{sites.ref[index]},{sites.alt[index]}".upper().split(","))


def _allele_counts(panel: Haplotypes, start: int, stop: int) -> np.ndarray:
    """(alleles,) int64: panel haplotypes with REF and each ALT allele of the site of rows ``start`` to ``stop``."""
    alt = np.bitwise_count(panel.bits[start:stop]).sum(axis=1, dtype=np.int64)
    return np.concatenate([[panel.k - alt.sum()], alt])
