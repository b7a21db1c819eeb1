"""Windows: how a contig is cut, and what must not depend on it."""

import itertools

import numpy as np
import pytest

from npimpute.context import windows
from npimpute.context.windows import WindowSize, cut_windows
from npimpute.panel.align import Match
from npimpute.panel.genetic_map import constant_rate
from npimpute.types import Haplotypes, Sites, Targets


@pytest.fixture
def contig():
    """A panel of 500 sites over 25 cM, some at one position and some with two rows, and targets at every fifth."""
    rng = np.random.default_rng(1)
    pos = np.sort(rng.integers(1, 25_000_000, 500))
    pos[100:110] = pos[100]
    n_alt = rng.integers(1, 3, 500)
    alt = [",".join(("C" * (i % 10 + 1), "G" * (i % 10 + 1))[:a]) for i, a in enumerate(n_alt)]
    names = [f"s{i}" for i in range(500)]
    panel = Haplotypes(Sites("20", pos, names, ["A"] * 500, alt), rng.integers(0, 256, (n_alt.sum(), 3), np.uint8), 24)
    at = np.arange(0, 500, 5)
    sites = panel.sites.take(at)
    extra = Sites("20", np.array([7, 24_999_999]), [".", "."], ["T", "T"], ["C", "C"])
    both = Sites.concat([extra.slice(0, 1), sites, extra.slice(1, 2)])
    alleles = rng.integers(-1, 2, (102, 6)).astype(np.int8)
    return panel, Targets(both, alleles, ("a", "b", "c"))


def chunked(panel, sizes):
    rows, start = panel.row_start(), 0
    while start < len(panel.sites):
        stop = min(start + next(sizes), len(panel.sites))
        yield Haplotypes(panel.sites.slice(start, stop), panel.bits[rows[start] : rows[stop]], panel.k)
        start = stop


def cut(contig, core, flank, chunk=37):
    panel, targets = contig
    sizes = iter(lambda: chunk, None)
    return list(cut_windows(chunked(panel, sizes), targets, constant_rate(), WindowSize(core, flank)))


@pytest.mark.parametrize("core", [0.5, 3, 24, 100])
@pytest.mark.parametrize("flank", [0, 1, 40])
def test_every_site_is_written_once_and_in_order(contig, core, flank):
    panel, targets = contig
    cuts = cut(contig, core, flank)
    written = [name for w in cuts for name in w.panel.sites.ids[w.start : w.stop]]
    assert written == panel.sites.ids
    assert next(w.span for w in cuts)[0] == 0 and cuts[-1].span[1] == len(targets.sites)
    assert all(a.span[1] == b.span[0] for a, b in itertools.pairwise(cuts))
    matched = np.concatenate([w.kind for w in cuts]) == Match.MATCHED
    assert matched.tolist() == [False] + [True] * 100 + [False]


def test_windows_have_their_flanks_and_length(contig):
    cuts = cut(contig, 3, 1)
    for w in cuts:
        first, last = w.cm[w.start], w.cm[w.stop - 1]
        assert last - first <= (4 if w is cuts[-1] else 3) + 1e-9  # no short window is left at the end
        assert w.start == 0 or w.panel.sites.pos[w.start] > w.panel.sites.pos[w.start - 1]
        assert first - w.cm[0] <= 1 + 1e-9 and w.cm[-1] - last <= 1 + 1e-9
        whole = contig[0].sites.pos / 1e6
        assert len(w.cm) == ((whole >= first - 1) & (whole <= last + 1)).sum()


@pytest.mark.parametrize("chunk", [1, 13, 1000])
def test_chunks_of_the_panel_do_not_matter(contig, chunk):
    for one, other in zip(cut(contig, 2, 0.7), cut(contig, 2, 0.7, chunk), strict=True):
        assert one.panel.sites.ids == other.panel.sites.ids and (one.start, one.stop) == (other.start, other.stop)
        np.testing.assert_array_equal(one.panel.bits, other.panel.bits)
        np.testing.assert_array_equal(one.typed, other.typed)
        np.testing.assert_array_equal(one.alleles, other.alleles)


def test_typed_alleles_follow_their_site(contig):
    _panel, targets = contig
    index = {name: i for i, name in enumerate(targets.sites.ids)}
    for w in cut(contig, 2, 1):
        names = [w.panel.sites.ids[i] for i in w.typed]
        np.testing.assert_array_equal(w.alleles, targets.alleles[[index[name] for name in names]])
        assert len(names) == sum(name in index for name in w.panel.sites.ids)


def test_allele_codes_are_the_panels(contig):
    panel, _ = contig
    site = panel.sites.alt.index("C" * 3 + "," + "G" * 3)
    target = Sites("20", panel.sites.pos[site : site + 1], ["x"], ["A"], ["GGG"])
    alleles = np.array([[1, 0, -1, 1]], np.int8)
    (w,) = cut((panel, Targets(target, alleles, ("a", "b"))), 100, 1)
    assert w.alleles.tolist() == [[2, 0, -1, 2]]


def test_a_window_is_cut_short_when_it_would_need_too_much_memory(contig, monkeypatch):
    monkeypatch.setattr(windows, "MIN_WINDOW_SITES", 50)
    monkeypatch.setattr(windows, "WINDOW_BYTES", 1)
    cuts = cut(contig, 100, 0.2)
    assert max(w.stop - w.start for w in cuts) <= 60 and len(cuts) >= 9
    assert sum(w.stop - w.start for w in cuts) == 500


@pytest.mark.parametrize("rows", [slice(3, 90), np.array([7, 7, 2, 400])])
def test_the_alleles_of_some_haplotypes_are_those_among_all(contig, rows):
    panel = contig[0]
    some = np.array([0, 9, 5, panel.k - 1])
    np.testing.assert_array_equal(panel.alleles(rows, some), panel.alleles(rows)[:, some])
