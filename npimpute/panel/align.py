"""Which panel record each target record is, by position and alleles, never by order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np

from npimpute.types import Sites

_COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
_PALINDROMES = {"AT", "TA", "CG", "GC"}


class Match(IntEnum):
    """What became of a target record; ``label`` says it in words, ``done`` in one."""

    MATCHED = 0
    UNSWAPPED = 1
    UNFLIPPED = 2
    UNFLIPPED_UNSWAPPED = 3
    STRAND_BY_FREQUENCY = 4
    NOT_IN_PANEL = 5
    SWAPPED = 6
    FLIPPED = 7
    FLIPPED_SWAPPED = 8
    ALLELES_DIFFER = 9
    AMBIGUOUS = 10
    TAKEN = 11
    STRAND_UNCLEAR = 12

    @property
    def label(self) -> str:
        """Plain language, for a line 'N sites: label' of a report."""
        return _LABELS[self]

    @property
    def done(self) -> str:
        """What was done with the record: "used", as it is, "swapped" or the like, and used, or "excluded"."""
        return _DONE.get(self, "excluded")


_LABELS = {
    Match.MATCHED: "found in the panel",
    Match.UNSWAPPED: "found in the panel with REF and ALT exchanged, exchanged back",
    Match.UNFLIPPED: "found in the panel on the other strand, turned",
    Match.UNFLIPPED_UNSWAPPED: "found in the panel on the other strand, with REF and ALT exchanged, mended",
    Match.STRAND_BY_FREQUENCY: "found in the panel, A/T or C/G and on the other strand by the frequencies, turned",
    Match.NOT_IN_PANEL: "position not in the panel",
    Match.SWAPPED: "in the panel with REF and ALT exchanged",
    Match.FLIPPED: "in the panel on the other strand",
    Match.FLIPPED_SWAPPED: "in the panel on the other strand, with REF and ALT exchanged",
    Match.ALLELES_DIFFER: "position in the panel, but with other alleles",
    Match.AMBIGUOUS: "no ALT allele given, and several panel records fit",
    Match.TAKEN: "in the panel, but other target records fit there too; join split ones (bcftools norm -m +any)",
    Match.STRAND_UNCLEAR: "in the panel, but alleles and frequencies do not tell the strand (A/T or C/G)",
}
_DONE = {
    Match.MATCHED: "used",
    Match.UNSWAPPED: "swapped",
    Match.UNFLIPPED: "flipped",
    Match.UNFLIPPED_UNSWAPPED: "flipped and swapped",
    Match.STRAND_BY_FREQUENCY: "flipped",
}


def is_used(kind: np.ndarray) -> np.ndarray:
    """(s,) bool: targets whose ``Match`` is ``kind`` (s,) uint8 are imputed from."""
    return np.isin(kind, list(_DONE))


@dataclass(frozen=True)
class Mending:
    """Which target records are used although they are not spelled as in the panel.

    strand: those on the other strand. swap: those with REF and ALT exchanged. Records that are both need both.
    """

    strand: bool = False
    swap: bool = False

    def undoes(self, kind: Match) -> bool:
        """Whether records of this kind are to be used."""
        flipped, swapped = _FAULTS[kind]
        return (self.strand or not flipped) and (self.swap or not swapped)


# What is wrong with a record, strand and order of alleles, and what it is when that is mended.
_FAULTS = {Match.SWAPPED: (False, True), Match.FLIPPED: (True, False), Match.FLIPPED_SWAPPED: (True, True)}
_MENDED = {
    Match.SWAPPED: Match.UNSWAPPED,
    Match.FLIPPED: Match.UNFLIPPED,
    Match.FLIPPED_SWAPPED: Match.UNFLIPPED_UNSWAPPED,
}
AS_WRITTEN = Mending()


@dataclass(frozen=True, eq=False)
class Alignment:
    """Pairs of a target site and the panel site that it is, or, STRAND_UNCLEAR, may be.

    target_index, panel_index: (t,) int64, the pairs, in panel order; no site occurs twice. codes: (t, c) int8,
    ``codes[i, a]`` is the panel's code of allele ``a`` of target site ``target_index[i]``, -1 where that
    site has no allele ``a``; c is the largest number of alleles of a matched target site (at least 1).
    kind: (len(target),) uint8, a ``Match`` for every target site.
    """

    target_index: np.ndarray
    panel_index: np.ndarray
    codes: np.ndarray
    kind: np.ndarray

    def translated(self, alleles: np.ndarray) -> np.ndarray:
        """(t, n) int8: the targets' ``alleles`` (s, n) of the pairs as the panel codes them, -1 missing."""
        out = np.empty((len(self.codes), alleles.shape[1]), np.int8)
        # Row by row: an index of all at once would take eight times the memory of the alleles.
        for row, codes, t in zip(out, self.codes, self.target_index, strict=True):
            row[:] = np.where(alleles[t] < 0, np.int8(-1), codes[np.maximum(alleles[t], 0)])
        return out


@dataclass(frozen=True)
class _Record:
    """One site's place in its Sites and its alleles in capitals; ``alt`` is empty for "."."""

    index: int
    ref: str
    alt: tuple[str, ...]

    @property
    def alleles(self) -> tuple[str, ...]:
        return self.ref, *self.alt


@dataclass(frozen=True)
class _Pair:
    """A target site, the panel site that it is, the panel's code of each target allele, and how it was found."""

    target: int
    panel: int
    codes: tuple[int, ...]
    kind: Match = Match.MATCHED


def align(panel: Sites, target: Sites, mending: Mending = AS_WRITTEN) -> Alignment:
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

    With ``mending``, records so named are rewritten and paired by the same rules with the panel records then still
    free; a rewritten record that finds none is TAKEN. A record without ALT is rewritten, though not named, if exactly
    one panel record at the position has its allele or, with ``mending.strand``, the complement. With
    ``mending.strand``, pairs that would also fit on the other strand, such as A/T and C/G, are STRAND_UNCLEAR, with
    the codes that hold if the strand is the panel's: ``settle_strands`` then decides.
    """
    lo = np.searchsorted(panel.pos, target.pos, side="left")
    hi = np.searchsorted(panel.pos, target.pos, side="right")
    kind = np.full(len(target), Match.NOT_IN_PANEL, np.uint8)
    alone = (hi - lo == 1) & _unrepeated(target.pos)
    pairs = _match_simple(panel, target, np.flatnonzero(alone), lo, mending)
    rest = hi > lo
    rest[[pair.target for pair in pairs]] = False
    for start, group in groupby(np.flatnonzero(rest).tolist(), key=lo.__getitem__):
        at_panel = [_record(panel, i) for i in range(start, np.searchsorted(panel.pos, panel.pos[start], "right"))]
        at_target = [_record(target, i) for i in group]
        found, others = _align_position(at_panel, at_target, mending)
        pairs += found
        for index, why in others.items():
            kind[index] = why
    return _alignment(pairs, kind)


def _unrepeated(pos: np.ndarray) -> np.ndarray:
    """(s,) bool: the position occurs once in the non-decreasing ``pos``."""
    same = pos[1:] == pos[:-1]
    return ~(np.concatenate([[False], same]) | np.concatenate([same, [False]]))[: len(pos)]


def _match_simple(panel: Sites, target: Sites, index: np.ndarray, lo: np.ndarray, mending: Mending) -> list[_Pair]:
    """The pairs that need no thought: one record on either side, biallelic, spelled alike; most of any array."""
    unclear = _PALINDROMES if mending.strand else ()
    return [
        _Pair(t, p, (0, 1))
        for t, p in zip(index.tolist(), lo[index].tolist(), strict=True)
        if target.ref[t] == panel.ref[p]
        and target.alt[t] == panel.alt[p] != "."
        and "," not in target.alt[t]
        and (target.ref[t] + target.alt[t]).upper() not in unclear
    ]


def _record(sites: Sites, index: int) -> _Record:
    alt = sites.alt[index]
    return _Record(index, sites.ref[index].upper(), () if alt == "." else tuple(alt.upper().split(",")))


def _align_position(
    at_panel: list[_Record], at_target: list[_Record], mending: Mending
) -> tuple[list[_Pair], dict[int, Match]]:
    """The pairs among the records of one position, and of the target records in none what they are."""
    given = _pair_up(at_panel, at_target)
    pairs = [_pair(panel, target.index, target.alleles, Match.MATCHED, mending) for target, panel in given]
    done = {pair.target for pair in pairs}
    left = [record for record in at_target if record.index not in done]
    why = {record.index: _why_not(at_panel, record) for record in left}
    readings = {t.index: r for t in left if why[t.index] in _UNFIT and (r := _reading(at_panel, t, mending))}
    taken = {pair.panel for pair in pairs}
    # Parts of a split record stay in, so that no rewritten one is taken for the whole of it.
    again = [readings[t.index].record if t.index in readings else t for t in left if t.index in readings or t.alt]
    for target, panel in _pair_up([p for p in at_panel if p.index not in taken], again) if readings else ():
        if reading := readings.get(target.index):
            pairs.append(_pair(panel, target.index, reading.alleles, _MENDED[reading.kind], mending))
            why.pop(target.index)
    return pairs, why | {index: Match.TAKEN for index in readings if index in why}


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


def _pair(panel: _Record, target: int, alleles: tuple[str, ...], kind: Match, mending: Mending) -> _Pair:
    """alleles: the target's, in its order, as they are spelled on the panel's strand if ``kind`` is right."""
    codes = tuple(panel.alleles.index(allele) for allele in alleles)
    unclear = mending.strand and _either_strand(panel, alleles)
    return _Pair(target, panel.index, codes, Match.STRAND_UNCLEAR if unclear else kind)


def _why_not(at_panel: list[_Record], target: _Record) -> Match:
    """The kind of a target record that got no panel record."""
    fitting = sum(_fits(p, target) for p in at_panel)
    if fitting:
        return Match.AMBIGUOUS if not target.alt and fitting > 1 else Match.TAKEN
    if not target.alt:
        return Match.ALLELES_DIFFER
    found = (kind for kind, alleles, swapped in _readings(target) if any(_reads(p, alleles, swapped) for p in at_panel))
    return next(found, Match.ALLELES_DIFFER)


_UNFIT = {*_FAULTS, Match.ALLELES_DIFFER}


@dataclass(frozen=True)
class _Reading:
    """A target record as it is if it has the faults of ``kind``: its alleles in its own order, on the panel's strand,
    and the record that it then is in the panel's words."""

    kind: Match
    alleles: tuple[str, ...]
    record: _Record


def _reading(at_panel: list[_Record], target: _Record, mending: Mending) -> _Reading | None:
    """How to use a target record that fits no panel record as written; None if that is not wanted or not possible."""
    for kind, alleles, swapped in _readings(target):
        panel = next((p for p in at_panel if _reads(p, alleles, swapped)), None)
        if panel is None:
            continue
        # Whether A/T is swapped or flipped is not told by its alleles.
        unclear = mending.strand and _either_strand(panel, alleles)
        names = {alleles[0], *((complement(alleles[:1]) or ()) if mending.strand else ())}
        several = not target.alt and sum(not names.isdisjoint(p.alleles) for p in at_panel) > 1
        if several or not (mending.undoes(kind) or unclear):
            return None
        others = tuple(allele for allele in alleles if allele != panel.ref)
        return _Reading(kind, alleles, _Record(target.index, panel.ref, others))
    return None


def _readings(target: _Record) -> Iterator[tuple[Match, tuple[str, ...], bool]]:
    """Every way in which a record can be misspelled, in the order in which they are considered: what it is then, its
    alleles on the panel's strand, and whether REF is another than the panel's."""
    yield Match.SWAPPED, target.alleles, True
    flipped = complement(target.alleles)
    if flipped is not None:
        yield Match.FLIPPED, flipped, False
        yield Match.FLIPPED_SWAPPED, flipped, True


def _reads(panel: _Record, alleles: tuple[str, ...], swapped: bool) -> bool:
    """Whether a target record of these alleles is the panel's, but for the order of its alleles if ``swapped``.

    Swapped, the panel's REF is one of the target's ALT alleles, and its REF is not. A target that names no ALT may have
    a substitution's; that of a deletion is also the genome's base, and likely that.
    """
    if not swapped:
        return alleles[0] == panel.ref and set(alleles[1:]) <= set(panel.alt)
    has_ref = panel.ref in alleles[1:] or (len(alleles) == 1 and len(panel.ref) == len(alleles[0]))
    return has_ref and alleles[0] != panel.ref and set(alleles) - {panel.ref} <= set(panel.alt)


def _either_strand(panel: _Record, alleles: tuple[str, ...]) -> bool:
    """Whether a record of these alleles, which is the panel's, could be so on the other strand too."""
    other = complement(alleles)
    return other is not None and (_reads(panel, other, False) or _reads(panel, other, True))


def complement(alleles: tuple[str, ...]) -> tuple[str, ...] | None:
    """The alleles on the other strand; None unless every one is one of the four bases.

    The reverse complement of an indel starts at another position, so that there is nothing to compare.
    """
    if not all(allele in _COMPLEMENT for allele in alleles):
        return None
    return tuple(_COMPLEMENT[allele] for allele in alleles)


def _alignment(pairs: list[_Pair], kind: np.ndarray) -> Alignment:
    """The arrays, in panel order. kind: what the target sites in no pair are."""
    pairs = sorted(pairs, key=lambda pair: pair.panel)
    width = max((len(pair.codes) for pair in pairs), default=1)
    padded = [pair.codes + (-1,) * (width - len(pair.codes)) for pair in pairs]
    target_index = np.array([pair.target for pair in pairs], np.int64)
    kind[target_index] = [pair.kind for pair in pairs]
    return Alignment(
        target_index=target_index,
        panel_index=np.array([pair.panel for pair in pairs], np.int64),
        codes=np.array(padded, np.int8).reshape(len(pairs), width),
        kind=kind,
    )
