"""Target to panel: every kind of match by example, and all the rules against a brute-force search."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npimpute.panel.align import Match, align
from npimpute.types import Sites


def sites(*records):
    """Sites out of (pos, ref, alt)."""
    pos = np.array([record[0] for record in records], np.int64)
    return Sites("20", pos, ["."] * len(records), [r[1] for r in records], [r[2] for r in records])


def kinds(panel, target):
    return [Match(k) for k in align(sites(*panel), sites(*target)).kind]


@pytest.mark.parametrize(
    ("panel", "target", "kind"),
    [
        (["A C"], "A C", Match.MATCHED),
        (["a c"], "A C", Match.MATCHED),
        (["A C,T"], "A T", Match.MATCHED),
        (["A C,T"], "A T,C", Match.MATCHED),
        (["A C", "A T"], "A C,T", Match.ALLELES_DIFFER),
        (["AT A"], "at a", Match.MATCHED),
        (["A *,C"], "A *", Match.MATCHED),
        (["A <DEL>"], "A <del>", Match.MATCHED),
        (["A <DEL>"], "A <DUP>", Match.ALLELES_DIFFER),
        (["A ."], "A .", Match.MATCHED),
        (["A C"], "A .", Match.MATCHED),
        (["A C", "G C"], "A .", Match.MATCHED),
        (["A C", "A T"], "A .", Match.AMBIGUOUS),
        (["G C"], "A .", Match.ALLELES_DIFFER),
        (["A ."], "A C", Match.ALLELES_DIFFER),
        (["A C"], "C A", Match.SWAPPED),
        (["A C,G"], "G A", Match.SWAPPED),
        (["AT A"], "A AT", Match.SWAPPED),
        (["A C"], "T G", Match.FLIPPED),
        (["A C"], "G T", Match.FLIPPED_SWAPPED),
        (["A C"], "A G", Match.ALLELES_DIFFER),
        (["A C"], "A A", Match.ALLELES_DIFFER),
        (["A T"], "A T", Match.MATCHED),
        (["A T"], "T A", Match.SWAPPED),
        (["C G"], "C G", Match.MATCHED),
        (["AC A"], "GT G", Match.ALLELES_DIFFER),
    ],
)
def test_one_target_record(panel, target, kind):
    at = [(7, *record.split()) for record in panel]
    neighbours = [(6, "A", "C"), *at, (8, "A", "C")]
    assert kinds(neighbours, [(7, *target.split())]) == [kind]


def test_position_not_in_panel_and_empty_sides():
    around = [(5, "A", "C"), (7, "A", "C"), (9, "A", "C")]
    assert kinds([(6, "A", "C"), (8, "A", "C")], around) == [Match.NOT_IN_PANEL] * 3
    assert kinds([], [(5, "A", "C")]) == [Match.NOT_IN_PANEL]
    empty = align(sites((5, "A", "C")), sites())
    assert empty.target_index.shape == empty.panel_index.shape == empty.kind.shape == (0,)
    assert empty.codes.shape == (0, 1)


def test_exact_set_first_then_panel_order():
    panel = sites((7, "A", "C,G,T"), (7, "A", "C,T"), (7, "A", "C"), (7, "A", "C"))
    assert align(panel, sites((7, "A", "C"))).panel_index.tolist() == [2]
    assert align(panel, sites((7, "A", "T"))).panel_index.tolist() == [0]
    assert align(panel, sites((7, "A", "T,C"))).panel_index.tolist() == [1]


def test_codes_and_panel_order():
    """The indices, the code tables and the padding, with the two files in opposite order at one position."""
    panel = sites((3, "G", "T"), (7, "A", "C,G,T"), (7, "AT", "A"), (9, "C", "G"))
    target = sites((7, "AT", "A"), (7, "A", "T,C"), (8, "A", "C"), (9, "C", "."))
    got = align(panel, target)
    assert got.panel_index.tolist() == [1, 2, 3]
    assert got.target_index.tolist() == [1, 0, 3]
    assert got.codes.tolist() == [[0, 3, 1], [0, 1, -1], [0, -1, -1]]
    assert (got.codes.dtype, got.kind.dtype) == (np.int8, np.uint8)
    assert got.target_index.dtype == got.panel_index.dtype == np.int64
    assert got.kind.tolist() == [Match.MATCHED, Match.MATCHED, Match.NOT_IN_PANEL, Match.MATCHED]


def test_a_panel_record_is_given_once():
    """The report does not blame the alleles of the others."""
    assert kinds([(7, "A", "C,T")], [(7, "A", "C"), (7, "A", "T,C")]) == [Match.TAKEN, Match.MATCHED]
    assert kinds([(7, "A", "C")], [(7, "A", "."), (7, "A", "C")]) == [Match.TAKEN, Match.MATCHED]
    assert kinds([(7, "A", "C"), (7, "A", "C")], [(7, "A", "C")] * 3) == [Match.MATCHED, Match.MATCHED, Match.TAKEN]


def test_no_part_of_a_split_record_is_used():
    """Its 0 may stand for another part's allele."""
    assert kinds([(7, "A", "C,T")], [(7, "A", "C"), (7, "A", "T")]) == [Match.TAKEN, Match.TAKEN]
    assert kinds([(7, "A", "C,T")], [(7, "A", "C")]) == [Match.MATCHED]
    split = [(7, "A", "C"), (7, "A", "T")]
    assert kinds(split, split) == [Match.MATCHED, Match.MATCHED]
    assert kinds([(7, "A", "C,T"), (7, "A", "C")], split) == [Match.MATCHED, Match.MATCHED]


def test_labels_are_plain_and_distinct():
    labels = [kind.label for kind in Match]
    assert len(set(labels)) == len(labels)
    assert not any("_" in label for label in labels)


def alleles(site, i):
    alt = site.alt[i].upper()
    return site.ref[i].upper(), [] if alt == "." else alt.split(",")


def fits(panel, p, target, t):
    (panel_ref, panel_alt), (ref, alt) = alleles(panel, p), alleles(target, t)
    return panel.pos[p] == target.pos[t] and panel_ref == ref and set(alt) <= set(panel_alt)


def brute_pairs(panel, target):
    """Every pair of the two files, in the order of preference, with no thought for speed."""
    n_fitting = [sum(fits(panel, p, target, t) for p in range(len(panel))) for t in range(len(target))]
    pairs = {}

    def pair(wanted):
        for t in range(len(target)):
            for p in range(len(panel)):
                if fits(panel, p, target, t) and t not in pairs and p not in pairs.values() and wanted(t, p):
                    pairs[t] = p

    pair(lambda t, p: alleles(target, t)[1] and set(alleles(target, t)[1]) == set(alleles(panel, p)[1]))
    rest = [t for t in range(len(target)) if t not in pairs and alleles(target, t)[1]]
    parts = {p: sum(fits(panel, p, target, t) for t in rest) for p in range(len(panel))}
    pair(lambda t, p: t in rest and parts[p] == 1)
    pair(lambda t, p: not alleles(target, t)[1] and n_fitting[t] == 1)
    return pairs


def brute_kind(panel, target, t, pairs):
    """The kind of one target site, by rewriting the whole site and asking again whether it fits."""
    at = [p for p in range(len(panel)) if panel.pos[p] == target.pos[t]]
    if t in pairs:
        return Match.MATCHED
    if not at:
        return Match.NOT_IN_PANEL
    ref, alt = alleles(target, t)
    n_fitting = sum(fits(panel, p, target, t) for p in at)
    if n_fitting:
        return Match.AMBIGUOUS if not alt and n_fitting > 1 else Match.TAKEN
    flip = dict(zip("ACGT", "TGCA", strict=True))
    spellings = [(Match.SWAPPED, ref, alt, True)]
    if all(allele in flip for allele in [ref, *alt]):
        other = flip[ref], [flip[allele] for allele in alt]
        spellings += [(Match.FLIPPED, *other, False), (Match.FLIPPED_SWAPPED, *other, True)]
    for kind, r, a, swap in spellings if alt else []:
        firsts = range(len(a)) if swap else [None]
        for i in firsts:
            new = (r, a) if i is None else (a[i], [r, *a[:i], *a[i + 1 :]])
            rewritten = sites((target.pos[t], new[0], ",".join(new[1])))
            if any(fits(panel, p, rewritten, 0) for p in at):
                return kind
    return Match.ALLELES_DIFFER


ALLELES = ["A", "C", "G", "T", "AC", "*"]


@st.composite
def some_sites(draw):
    records = []
    for _ in range(draw(st.integers(0, 7))):
        names = draw(st.lists(st.sampled_from(ALLELES), min_size=1, max_size=4, unique=True))
        names = [draw(st.sampled_from([name, name.lower()])) for name in names]
        records.append((draw(st.integers(1, 4)), names[0], ",".join(names[1:]) or "."))
    return sites(*sorted(records, key=lambda record: record[0]))


@settings(max_examples=500)
@given(some_sites(), some_sites())
def test_brute_force(panel, target):
    got = align(panel, target)
    pairs = brute_pairs(panel, target)
    assert dict(zip(got.target_index.tolist(), got.panel_index.tolist(), strict=True)) == pairs
    assert np.all(np.diff(got.panel_index) > 0)
    expected = [brute_kind(panel, target, t, pairs) for t in range(len(target))]
    assert [Match(k) for k in got.kind] == expected
    for t, p, codes in zip(got.target_index, got.panel_index, got.codes, strict=True):
        (ref, alt), (panel_ref, panel_alt) = alleles(target, t), alleles(panel, p)
        spelled = [[panel_ref, *panel_alt][code] for code in codes if code >= 0]
        assert spelled == [ref, *alt]
        assert np.all(codes[len(spelled) :] == -1)


def test_array_against_large_panel_is_quick():
    rng = np.random.default_rng(1)
    ref = rng.integers(0, 4, 600_000)
    alt = (ref + rng.integers(1, 4, ref.size)) % 4
    base = np.array(list("ACGT"))
    pos = np.sort(rng.integers(1, 60_000_000, ref.size))
    panel = Sites("20", pos, ["."] * ref.size, base[ref].tolist(), base[alt].tolist())
    index = np.sort(rng.choice(ref.size, 40_000, replace=False))
    start = time.perf_counter()
    got = align(panel, panel.take(index))
    assert time.perf_counter() - start < 1
    assert np.mean(got.panel_index == index) > 0.99
