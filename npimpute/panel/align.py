"""Which panel record each target record is, by position and alleles, never by order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np

from npimpute.types import Sites

_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}


class Match(IntEnum):
    """What became of a target record; ``label`` says it in words."""

    MATCHED = 0
    NOT_IN_PANEL = 1
    SWAPPED = 2
    FLIPPED = 3
    FLIPPED_SWAPPED = 4
    ALLELES_DIFFER = 5
    AMBIGUOUS = 6
    TAKEN = 7

    @property
    def label(self) -> str:
        """Plain language, for a line 'N sites: label' of a report."""
        return _LABELS[self]


_LABELS = {
    Match.MATCHED: "found in the panel",
    Match.NOT_IN_PANEL: "position not in the panel",
    Match.SWAPPED: "in the panel with REF and ALT exchanged",
    Match.FLIPPED: "in the panel on the other strand",
    Match.FLIPPED_SWAPPED: "in the panel on the other strand, with REF and ALT exchanged",
    Match.ALLELES_DIFFER: "position in the panel, but with other alleles",
    Match.AMBIGUOUS: "no ALT allele given, and several panel records fit",
    Match.TAKEN: "in the panel, but other target records fit there too; join split ones (bcftools norm -m +any)",
}


@dataclass(frozen=True, eq=False)
class Alignment:
    """Pairs of a target site and the panel site that it is.

    target_index, panel_index: (t,) int64, the pairs, in panel order; no site occurs twice. codes: (t, c) int8,
    ``codes[i, a]`` is the panel's code of allele ``a`` of target site ``target_index[i]``, -1 where that
    site has no allele ``a``; c is the largest number of alleles of a matched target site (at least 1).
    kind: (len(target),) uint8, a ``Match`` for every target site.
    """

    target_index: np.ndarray
    panel_index: np.ndarray
    codes: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True)
class _Record:
    """One site's place in its Sites and its alleles in capitals; ``alt`` is empty for "."."""

    index: int
    ref: str
    alt: tuple[str, ...]


def align(panel: Sites, target: Sites) -> Alignment:
    """Match target records to panel records of the same contig; the names of the contigs are not compared.

    A target record is a panel record at the same position if REF is equal and its ALT alleles are among the
    panel record's, letter case aside; `*` and symbolic alleles compare as strings. Records at one position
    are paired first where the sets of ALT alleles are equal, then where the target's is a proper subset and no
    other target record is part of the same panel record, in both cases in target order, each with the first panel
    record still free. Last come target records without ALT ("."):
    they match if exactly one panel record has their REF, free or not. A record that fits, but
    only panel records already given away or split over several target records, is TAKEN.

    What does not match is named by the first that holds for any panel record at the position: SWAPPED,
    FLIPPED, FLIPPED_SWAPPED, ALLELES_DIFFER. Strands are compared for single bases only. A/T and C/G sites
    match as written, and are SWAPPED, not FLIPPED, the other way round, since the two cannot be told apart.
    """
    lo = np.searchsorted(panel.pos, target.pos, side="left")
    hi = np.searchsorted(panel.pos, target.pos, side="right")
    kind = np.full(len(target), Match.NOT_IN_PANEL, np.uint8)
    alone = (hi - lo == 1) & _unrepeated(target.pos)
    pairs = _match_simple(panel, target, np.flatnonzero(alone), lo)
    simple = np.array([t for t, _, _ in pairs], np.int64)
    kind[simple] = Match.MATCHED
    rest = (hi > lo) & (kind != Match.MATCHED)
    for start, group in groupby(np.flatnonzero(rest).tolist(), key=lo.__getitem__):
        at_panel = [_record(panel, i) for i in range(start, np.searchsorted(panel.pos, panel.pos[start], "right"))]
        at_target = [_record(target, i) for i in group]
        given = _pair_up(at_panel, at_target)
        pairs += [(t.index, p.index, _codes(p, t)) for t, p in given]
        matched = {t.index for t, _ in given}
        for record in at_target:
            kind[record.index] = Match.MATCHED if record.index in matched else _why_not(at_panel, record)
    return _alignment(pairs, kind)


def _unrepeated(pos: np.ndarray) -> np.ndarray:
    """(s,) bool: the position occurs once in the non-decreasing ``pos``."""
    same = pos[1:] == pos[:-1]
    return ~(np.concatenate([[False], same]) | np.concatenate([same, [False]]))[: len(pos)]


def _match_simple(panel: Sites, target: Sites, index: np.ndarray, lo: np.ndarray) -> list[tuple[int, int, tuple]]:
    """The pairs that need no thought: one record on either side, biallelic, spelled alike; most of any array."""
    return [
        (t, p, (0, 1))
        for t, p in zip(index.tolist(), lo[index].tolist(), strict=True)
        if target.ref[t] == panel.ref[p] and target.alt[t] == panel.alt[p] != "." and "," not in target.alt[t]
    ]


def _record(sites: Sites, index: int) -> _Record:
    alt = sites.alt[index]
    return _Record(index, sites.ref[index].upper(), () if alt == "." else tuple(alt.upper().split(",")))


def _fits(panel: _Record, target: _Record) -> bool:
    return target.ref == panel.ref and set(target.alt) <= set(panel.alt)


def _pair_up(at_panel: list[_Record], at_target: list[_Record]) -> list[tuple[_Record, _Record]]:
    """(target, panel) pairs among the records of one position, by the rules of ``align``."""
    free = list(at_panel)
    pairs = []

    def give(record: _Record, candidates: list[_Record]) -> None:
        if candidates:
            pairs.append((record, candidates[0]))
            free.remove(candidates[0])

    named = [t for t in at_target if t.alt]
    for t in named:
        give(t, [p for p in free if _fits(p, t) and set(p.alt) == set(t.alt)])
    done = {t.index for t, _ in pairs}
    rest = [t for t in named if t.index not in done]
    # A part of a split record (bcftools norm -m -any) says 0 where another part's allele is carried: none is used.
    whole = [p for p in free if sum(_fits(p, t) for t in rest) == 1]
    for t in rest:
        give(t, [p for p in whole if p in free and _fits(p, t)])
    for t in at_target:
        fitting = [p for p in at_panel if _fits(p, t)]
        if not t.alt and len(fitting) == 1:
            give(t, [p for p in free if p is fitting[0]])
    return pairs


def _codes(panel: _Record, target: _Record) -> tuple[int, ...]:
    """The panel's code of each allele of the target record."""
    return 0, *(panel.alt.index(allele) + 1 for allele in target.alt)


def _why_not(at_panel: list[_Record], target: _Record) -> Match:
    """The kind of a target record that got no panel record."""
    fitting = sum(_fits(p, target) for p in at_panel)
    if fitting:
        return Match.AMBIGUOUS if not target.alt and fitting > 1 else Match.TAKEN
    if not target.alt:
        return Match.ALLELES_DIFFER
    if any(_fits_swapped(p, target) for p in at_panel):
        return Match.SWAPPED
    flipped = _flip(target)
    if flipped is None:
        return Match.ALLELES_DIFFER
    if any(_fits(p, flipped) for p in at_panel):
        return Match.FLIPPED
    return Match.FLIPPED_SWAPPED if any(_fits_swapped(p, flipped) for p in at_panel) else Match.ALLELES_DIFFER


def _fits_swapped(panel: _Record, target: _Record) -> bool:
    """The panel's REF is one of the target's ALT alleles, and all other target alleles are panel ALT alleles."""
    others = {target.ref, *target.alt} - {panel.ref}
    return panel.ref in target.alt and target.ref != panel.ref and others <= set(panel.alt)


def _flip(record: _Record) -> _Record | None:
    """The record on the other strand; None unless every allele is one of the four bases.

    The reverse complement of an indel starts at another position, so that there is nothing to compare.
    """
    if not all(allele in _COMPLEMENT for allele in (record.ref, *record.alt)):
        return None
    return _Record(record.index, _COMPLEMENT[record.ref], tuple(_COMPLEMENT[allele] for allele in record.alt))


def _alignment(pairs: list[tuple[int, int, tuple]], kind: np.ndarray) -> Alignment:
    """The arrays, in panel order."""
    pairs = sorted(pairs, key=lambda pair: pair[1])
    width = max((len(codes) for _, _, codes in pairs), default=1)
    padded = [codes + (-1,) * (width - len(codes)) for _, _, codes in pairs]
    return Alignment(
        target_index=np.array([t for t, _, _ in pairs], np.int64),
        panel_index=np.array([p for _, p, _ in pairs], np.int64),
        codes=np.array(padded, np.int8).reshape(len(pairs), width),
        kind=kind,
    )
