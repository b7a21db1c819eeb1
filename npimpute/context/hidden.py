"""People of the panel taken out of it and made targets: the labelled data that every panel brings with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..types import Haplotypes
from .windows import Window

UNPACKED_BYTES = 32 << 20


def hide(window: Window, people: np.ndarray) -> tuple[Window, np.ndarray]:
    """The window without these people (int64) in its panel and with them as its targets, typed where the targets are.

    Returns it and the haplotypes (int64) of the panel that its targets are.
    """
    panel = window.panel
    columns = panel.haplotypes_of(people)
    starts = panel.row_start()
    kept = np.delete(np.arange(panel.k), columns)
    parts = (panel.alleles(rows).take(kept, axis=1) for rows in row_parts(panel))
    bits = np.concatenate([np.packbits(part, axis=1, bitorder="little") for part in parts])
    alleles = np.zeros((len(window.typed), len(columns)), np.int8)
    for codes, site in zip(alleles, window.typed, strict=True):
        carried = panel.alleles(slice(starts[site], starts[site + 1]))[:, columns]
        codes[:] = (carried * np.arange(1, len(carried) + 1)[:, None]).sum(axis=0)
    ploidy = None if panel.ploidy is None else np.delete(panel.ploidy, people)
    return replace(window, panel=Haplotypes(panel.sites, bits, len(kept), ploidy), alleles=alleles), columns


def row_parts(panel: Haplotypes) -> Iterator[slice]:
    """All rows, so many at a time that their unpacked alleles take little memory."""
    step = max(1, UNPACKED_BYTES // panel.k)
    for first in range(0, len(panel.bits), step):
        yield slice(first, first + step)


def middle(window: Window, typed: int, sites: int) -> Window:
    """At most ``typed`` typed sites from the middle of a window (which has one), and of the panel's sites between them
    at most ``sites``, spread evenly. All of it is to be written."""
    first = max(0, (len(window.typed) - typed) // 2)
    chosen = window.typed[first : first + typed]
    inside = np.arange(chosen[0], chosen[-1] + 1)
    take = np.union1d(inside[:: -(-len(inside) // sites)] if sites else chosen, chosen)
    starts, panel = window.panel.row_start(), window.panel
    rows = np.repeat(np.isin(np.arange(len(panel.sites)), take), np.diff(starts))
    return replace(
        window,
        panel=replace(panel, sites=panel.sites.take(take), bits=panel.bits[rows]),
        cm=window.cm[take],
        typed=np.searchsorted(take, chosen),
        alleles=window.alleles[first : first + typed],
        start=0,
        stop=len(take),
    )
