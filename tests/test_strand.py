"""Target records that are on the other strand or have REF and ALT exchanged: which are used, and with what codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_align import alleles, brute_kind, brute_pairs, sites, some_sites

from npimpute.panel.align import Match, Mending, align, is_used
from npimpute.panel.strand import CLEAR_ODDS, flipped_share, log_odds, settle_strands
from npimpute.types import Haplotypes, Targets

STRAND, SWAP, BOTH = Mending(strand=True), Mending(swap=True), Mending(strand=True, swap=True)
FLIP = dict(zip("ACGT", "TGCA", strict=True))


def aligned(panel, target, mending):
    """Kind and codes (None if not paired) of the one target record among panel records at its position."""
    at = [(7, *record.split()) for record in panel]
    got = align(sites((6, "A", "C"), *at, (8, "A", "C")), sites((7, *target.split())), mending)
    codes = [tuple(row[row >= 0].tolist()) for row in got.codes]
    return Match(got.kind[0]), codes[0] if codes else None


@pytest.mark.parametrize(
    ("panel", "target", "kind", "codes", "needed"),
    [
        (["A C"], "C A", Match.UNSWAPPED, (1, 0), SWAP),
        (["A C"], "c a", Match.UNSWAPPED, (1, 0), SWAP),
        (["AT A"], "A AT", Match.UNSWAPPED, (1, 0), SWAP),
        (["A C,G"], "G A", Match.UNSWAPPED, (2, 0), SWAP),
        (["A C,G"], "G C,A", Match.UNSWAPPED, (2, 1, 0), SWAP),
        (["A C"], "T G", Match.UNFLIPPED, (0, 1), STRAND),
        (["A C,G"], "T G", Match.UNFLIPPED, (0, 1), STRAND),
        (["A C,G"], "T C,G", Match.UNFLIPPED, (0, 2, 1), STRAND),
        (["A C"], "G T", Match.UNFLIPPED_UNSWAPPED, (1, 0), BOTH),
        (["A C,G"], "C T,G", Match.UNFLIPPED_UNSWAPPED, (2, 0, 1), BOTH),
        (["A C"], "C .", Match.UNSWAPPED, (1,), SWAP),
        (["A C"], "T .", Match.UNFLIPPED, (0,), STRAND),
        (["A C"], "G .", Match.UNFLIPPED_UNSWAPPED, (1,), BOTH),
        (["AT A"], "A .", Match.ALLELES_DIFFER, None, None),
        (["AT A"], "T .", Match.ALLELES_DIFFER, None, None),
        (["AC A"], "GT G", Match.ALLELES_DIFFER, None, None),
        (["A C"], "A G", Match.ALLELES_DIFFER, None, None),
        (["A C"], "A A", Match.ALLELES_DIFFER, None, None),
        (["A C,T"], "T G", Match.UNFLIPPED, (0, 1), STRAND),
    ],
)
def test_every_fault_is_mended_with_the_options_that_it_needs(panel, target, kind, codes, needed):
    plain = aligned(panel, target, Mending())
    assert plain[1] is None and plain[0].done == "excluded"
    for mending in (STRAND, SWAP, BOTH):
        enough = needed and mending.swap >= needed.swap and mending.strand >= needed.strand
        assert aligned(panel, target, mending) == ((kind, codes) if enough else plain)


def test_a_record_without_alt_is_left_out_where_several_panel_records_could_be_meant():
    assert aligned(["A C", "A C,G"], "C .", SWAP) == (Match.ALLELES_DIFFER, None)
    assert aligned(["A C", "A G"], "C .", SWAP) == (Match.UNSWAPPED, (1,))
    assert aligned(["A C", "A G"], "C .", BOTH) == (Match.ALLELES_DIFFER, None)


@pytest.mark.parametrize(
    ("panel", "target", "codes", "without"),
    [
        (["A T"], "A T", (0, 1), Match.MATCHED),
        (["a t"], "a t", (0, 1), Match.MATCHED),
        (["A T"], "T A", (1, 0), Match.SWAPPED),
        (["C G"], "G C", (1, 0), Match.SWAPPED),
        (["A C,T"], "A T", (0, 2), Match.MATCHED),
        (["A C,T"], "T A", (2, 0), Match.SWAPPED),
        (["A T"], "A .", (0,), Match.MATCHED),
        (["A T"], "T .", (1,), Match.ALLELES_DIFFER),
        (["A C,G,T"], "A C,T", (0, 1, 3), Match.MATCHED),
    ],
)
def test_records_that_fit_on_either_strand_are_left_to_the_frequencies(panel, target, codes, without):
    assert aligned(panel, target, Mending())[0] == without
    assert aligned(panel, target, SWAP)[0] != Match.STRAND_UNCLEAR
    for mending in (STRAND, BOTH):
        assert aligned(panel, target, mending) == (Match.STRAND_UNCLEAR, codes)


@pytest.mark.parametrize(("panel", "target"), [(["A C,G,T"], "A C"), (["A C"], "A ."), (["A C,T"], "A C")])
def test_records_that_fit_on_one_strand_only_are_matched(panel, target):
    assert aligned(panel, target, BOTH)[0] == Match.MATCHED


def kinds(panel, target, mending=BOTH):
    return [Match(kind) for kind in align(sites(*panel), sites(*target), mending).kind]


def test_a_panel_record_is_given_once_and_to_the_record_that_is_spelled_alike():
    assert kinds([(7, "A", "C")], [(7, "C", "A"), (7, "A", "C")]) == [Match.TAKEN, Match.MATCHED]
    assert kinds([(7, "A", "C")], [(7, "C", "A"), (7, "T", "G")]) == [Match.UNSWAPPED, Match.TAKEN]
    assert kinds([(7, "A", "C"), (7, "A", "G")], [(7, "C", "A"), (7, "T", "C")]) == [Match.UNSWAPPED, Match.UNFLIPPED]


def test_no_rewritten_part_of_a_split_record_is_used():
    assert kinds([(7, "A", "C,T")], [(7, "T", "G"), (7, "T", "A")]) == [Match.TAKEN] * 2
    assert kinds([(7, "A", "C,G")], [(7, "T", "C"), (7, "A", "C")]) == [Match.TAKEN, Match.MATCHED]
    assert kinds([(7, "A", "C,G,T")], [(7, "A", "C"), (7, "A", "G"), (7, "G", "A")]) == [Match.TAKEN] * 3


@settings(max_examples=500)
@given(some_sites(), some_sites(), st.sampled_from([STRAND, SWAP, BOTH]))
def test_brute_force(panel, target, mending):
    """Pairs as written stay; what is mended fits, with its codes, once rewritten; what is not may not or cannot be."""
    pairs = brute_pairs(panel, target)
    got = align(panel, target, mending)
    found = dict(zip(got.target_index.tolist(), got.panel_index.tolist(), strict=True))
    assert pairs.items() <= found.items()
    assert len(set(got.panel_index.tolist())) == len(found)
    assert np.all(np.diff(got.panel_index) > 0)
    for t, p, codes in zip(got.target_index, got.panel_index, got.codes, strict=True):
        (panel_ref, panel_alt), (ref, alt), kind = alleles(panel, p), alleles(target, t), Match(got.kind[t])
        spelled = [[panel_ref, *panel_alt][code] for code in codes if code >= 0]
        flipped = kind in (Match.UNFLIPPED, Match.UNFLIPPED_UNSWAPPED)
        assert spelled == [FLIP[allele] if flipped else allele for allele in [ref, *alt]]
        if kind != Match.STRAND_UNCLEAR:
            assert (codes[0] != 0) == (kind in (Match.UNSWAPPED, Match.UNFLIPPED_UNSWAPPED))
            assert mending.swap or codes[0] == 0
            assert mending.strand or not flipped
            assert (kind == Match.MATCHED) == (int(t) in pairs)
        else:
            assert mending.strand and {FLIP[a] for a in spelled} <= {panel_ref, *panel_alt}
    for t in set(range(len(target))) - set(found):
        kind, plain = Match(got.kind[t]), brute_kind(panel, target, t, pairs)
        assert kind in (plain, Match.TAKEN)
        if kind == plain and kind in (Match.SWAPPED, Match.FLIPPED, Match.FLIPPED_SWAPPED):
            assert (kind != Match.FLIPPED and not mending.swap) or (kind != Match.SWAPPED and not mending.strand)


def window(panel_counts, target_counts, k=1000, n=400, ref="A", alt="T", other=()):
    """A panel and targets of one palindrome a record, with so many ALT alleles each, and then the SNVs ``other`` as
    (target REF, target ALT), which are A>C in the panel."""
    count = len(panel_counts)
    records = [(10 + i, "A", "T") for i in range(count)] + [(1000 + i, "A", "C") for i in range(len(other))]
    ours = [(10 + i, ref, alt) for i in range(count)] + [(1000 + i, *record) for i, record in enumerate(other)]
    bits = [np.packbits(np.arange(k) < c, bitorder="little") for c in [*panel_counts, *[k // 2] * len(other)]]
    codes = [(np.arange(n) < c).astype(np.int8) for c in [*target_counts, *[n // 2] * len(other)]]
    return Haplotypes(sites(*records), np.array(bits), k), Targets(sites(*ours), np.array(codes), ("a",))


def settled(mending, *args, **options):
    panel, targets = window(*args, **options)
    got = settle_strands(align(panel.sites, targets.sites, mending), panel, targets, mending)
    assert is_used(got.kind)[got.target_index].all() and is_used(got.kind).sum() == len(got.target_index)
    codes = dict(zip(got.target_index.tolist(), got.codes.tolist(), strict=True))
    return [(Match(kind), codes.get(i)) for i, kind in enumerate(got.kind)][: len(args[0])]


PLAIN, TURNED = ("A", "C"), ("T", "G")
FLIPS = [PLAIN] * 80 + [TURNED] * 20
FREQUENCY = (Match.STRAND_BY_FREQUENCY, [1, 0])


@pytest.mark.parametrize("mending", [STRAND, BOTH])
def test_palindromes_follow_the_frequencies_where_flips_were_seen(mending):
    got = settled(mending, [200, 200, 480, 0, 1000], [85, 310, 200, 0, 0], other=FLIPS)
    unclear = (Match.STRAND_UNCLEAR, None)
    assert got == [(Match.MATCHED, [0, 1]), FREQUENCY, unclear, (Match.MATCHED, [0, 1]), FREQUENCY]


def test_palindromes_written_the_other_way_round_are_flipped_or_swapped():
    panel, target = [200, 200, 500], [85, 310, 200]
    flipped, unclear = (Match.STRAND_BY_FREQUENCY, [0, 1]), (Match.STRAND_UNCLEAR, None)
    options = {"ref": "T", "alt": "A", "other": FLIPS}
    assert settled(BOTH, panel, target, **options) == [flipped, (Match.UNSWAPPED, [1, 0]), unclear]
    assert settled(STRAND, panel, target, **options) == [flipped, (Match.SWAPPED, None), unclear]
    assert settled(SWAP, panel, target, **options) == [(Match.UNSWAPPED, [1, 0])] * 3


@pytest.mark.parametrize("mending", [STRAND, BOTH])
def test_palindromes_stay_as_written_where_no_flip_was_seen(mending):
    assert settled(mending, [200, 500], [380, 200], other=[PLAIN] * 5) == [(Match.MATCHED, [0, 1])] * 2
    swapped = (Match.UNSWAPPED, [1, 0]) if mending.swap else (Match.SWAPPED, None)
    assert settled(mending, [200, 500], [380, 200], ref="T", alt="A", other=[PLAIN] * 5) == [swapped] * 2


def test_monomorphic_palindromes_follow_the_frequencies():
    got = settled(BOTH, [100, 900, 500], [0, 0, 0], alt=".", other=FLIPS)
    assert [kind for kind, _ in got] == [Match.MATCHED, Match.STRAND_BY_FREQUENCY, Match.STRAND_UNCLEAR]
    assert [codes and codes[0] for _, codes in got] == [0, 1, None]


def test_three_alleles_that_fit_on_either_strand_are_used_only_where_no_flip_is_seen():
    for flips, kind in ((0, Match.MATCHED), (5, Match.STRAND_UNCLEAR)):
        snvs = [(10 + i, "T", "G") if i < flips else (10 + i, "A", "C") for i in range(20)]
        panel = Haplotypes(
            sites((7, "A", "C,G,T"), *((pos, "A", "C") for pos, *_ in snvs)), np.zeros((23, 1), np.uint8), 8
        )
        targets = Targets(sites((7, "A", "C,T"), *snvs), np.zeros((21, 400), np.int8), ("a",))
        got = settle_strands(align(panel.sites, targets.sites, STRAND), panel, targets, STRAND)
        assert got.kind[0] == kind and (0 in got.target_index) == (kind == Match.MATCHED)


def test_few_flips_make_a_flip_improbable_and_many_probable():
    args = [500], [200]
    assert settled(STRAND, *args, other=[PLAIN] * 2000 + [TURNED])[0][0] == Match.MATCHED
    assert settled(STRAND, *args, other=[PLAIN] * 20 + [TURNED])[0][0] == Match.STRAND_UNCLEAR
    assert settled(STRAND, *args, other=[PLAIN] + [TURNED] * 2000)[0] == FREQUENCY
    assert settled(STRAND, *args, other=[("G", "T")] * 2000)[0] == FREQUENCY


def test_few_target_haplotypes_settle_nothing_but_rare_alleles():
    assert settled(STRAND, [300, 2], [1, 0], n=2, other=FLIPS)[0] == (Match.STRAND_UNCLEAR, None)
    assert settled(STRAND, [300, 2], [1, 0], n=2, other=FLIPS)[1] == (Match.MATCHED, [0, 1])


def test_the_share_of_flips_is_that_of_records_whose_strand_is_plain():
    target = sites((1, "A", "C"), (2, "A", "C"), (3, "AT", "A"), (4, "A", "."), (5, "A", "T"), (6, "T", "G"))
    kind = np.array([Match.MATCHED] * 4 + [Match.STRAND_UNCLEAR, Match.FLIPPED], np.uint8)
    assert flipped_share(kind, target) == 1.5 / 4
    assert flipped_share(kind[:5], target.slice(0, 5)) == 0


def test_log_odds_are_those_of_beta_binomial_counts():
    betabinom = pytest.importorskip("scipy.stats").betabinom
    for first, second, a, b in [(30, 370, 90, 910), (3, 1, 5, 5), (0, 9, 0, 2000), (200, 200, 1, 7)]:
        p, c = (a + 0.5) / (a + b + 1), 1 / (0.02 + 1 / (a + b + 2)) - 1
        ours = betabinom(first + second, p * c, (1 - p) * c)
        expected = ours.logpmf(first) - ours.logpmf(second)
        assert log_odds(np.array([first, second]), np.array([a, b])) == pytest.approx(expected, abs=1e-8)
    assert log_odds(np.array([7]), np.array([90, 10])) == log_odds(np.array([7, 0]), np.array([90, 10]))


def test_clear_means_clear():
    """Of targets whose ancestry differs as much as is allowed for, fewer palindromes are read wrongly than 1 in 500."""
    rng = np.random.default_rng(5)
    p = rng.uniform(0.05, 0.95, 20_000)
    c = 1 / 0.02 - 1
    theirs = rng.beta(p * c, (1 - p) * c)
    counts, panel = rng.binomial(400, theirs), rng.binomial(2000, p)
    odds = [log_odds(np.array([400 - t, t]), np.array([2000 - x, x])) for t, x in zip(counts, panel, strict=True)]
    assert np.mean(np.array(odds) < -np.log(CLEAR_ODDS)) < 2e-3
    assert np.mean(np.array(odds) > np.log(CLEAR_ODDS)) > 0.6
