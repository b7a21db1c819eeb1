"""People of the panel taken out of it and made targets: the labelled data that every panel brings with it."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np

from ..types import Haplotypes
from .windows import Elsewhere, Window


def hide(window: Window, people: np.ndarray) -> tuple[Window, np.ndarray]:
    """The window without these people (int64) in its panel and with them as its targets, typed where the targets are.

    Returns it and the haplotypes (int64) of the panel that its targets are.
    """
    panel = window.panel
    columns = panel.haplotypes_of(people)
    starts = panel.row_start()
    kept = np.delete(np.arange(panel.k), columns)
    bits = np.zeros((len(panel.bits), -(-len(kept) // 8)), np.uint8)
    _copy_bits(panel.bits, *_runs(kept), bits)
    alleles = np.zeros((len(window.typed), len(columns)), np.int8)
    for codes, site in zip(alleles, window.typed, strict=True):
        carried = panel.alleles(slice(starts[site], starts[site + 1]), columns)
        codes[:] = (carried * np.arange(1, len(carried) + 1)[:, None]).sum(axis=0)
    left, own = (None, None) if panel.ploidy is None else (np.delete(panel.ploidy, people), panel.ploidy[people])
    hidden, out = Haplotypes(panel.sites, bits, len(kept), left), window.elsewhere
    if out is not None:
        out = Elsewhere(np.delete(out.codes, columns, axis=1), out.codes[:, columns].astype(np.int8))
    return replace(window, panel=hidden, alleles=alleles, ploidy=own, elsewhere=out, hidden=True), columns


def _runs(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of increasing numbers, the first of each run of neighbours, and how many it has; int64."""
    first = np.flatnonzero(np.diff(kept, prepend=-2) > 1)
    return kept[first], np.diff(np.append(first, len(kept)))


@numba.njit(nogil=True, cache=True)
def _copy_bits(bits, first, length, out):
    """The columns first[i]..first[i]+length[i]-1 of each row of ``bits``, run after run, into ``out``, which is 0."""
    last = bits.shape[1] - 1
    for r in range(len(bits)):
        to = 0
        for i in range(len(first)):
            at, left = first[i], length[i]
            while left > 0:
                n = min(left, 8 - to % 8)
                byte = at // 8
                window = np.int64(bits[r, byte]) | np.int64(bits[r, min(byte + 1, last)]) << 8
                out[r, to // 8] |= np.uint8((window >> (at % 8) & (1 << n) - 1) << (to % 8))
                at, to, left = at + n, to + n, left - n


def middle(window: Window, typed: int, sites: int, least: int = 1) -> tuple[Window, np.ndarray]:
    """The typed sites in the middle of a window (which has one), at most ``typed``, and the panel's sites between them.

    Fewer typed sites, but ``least``, where there are more than so many ``sites`` of the panel between them; with 0
    sites typed ones alone. All of it is to be written. Returns it and which of the panel's rows (r,) bool it has.
    """
    number = min(typed, len(window.typed))
    while sites and number > least and np.ptp(window.typed[_middle(window, number)]) >= sites:
        number = max(least, number * 7 // 8)
    chosen = window.typed[_middle(window, number)]
    take = np.arange(chosen[0], chosen[-1] + 1) if sites else chosen
    starts, panel = window.panel.row_start(), window.panel
    rows = np.repeat(np.isin(np.arange(len(panel.sites)), take), np.diff(starts))
    part = replace(
        window,
        panel=replace(panel, sites=panel.sites.take(take), bits=panel.bits[rows]),
        cm=window.cm[take],
        typed=np.searchsorted(take, chosen),
        alleles=window.alleles[_middle(window, number)],
        start=0,
        stop=len(take),
    )
    return part, rows


def _middle(window: Window, number: int) -> slice:
    """So many of its typed sites, from the middle."""
    first = max(0, (len(window.typed) - number) // 2)
    return slice(first, first + number)
