"""The Li-Stephens kernels against the plain reference, and what must not change their results."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from npimpute.context.windows import Window, WindowSize, cut_windows
from npimpute.engine import groups, reference
from npimpute.engine.cells import cut_cells, find_cells
from npimpute.engine.clades import find_clades
from npimpute.engine.li_stephens import LiStephens
from npimpute.engine.passes import prepare
from npimpute.errors import ConfigError
from npimpute.panel.genetic_map import read_genetic_map
from npimpute.types import Haplotypes, Sites
from npimpute.vcf.read import open_panel_vcf, read_targets


def mosaics(rng, founders, n, switch):
    """n haplotypes, each a mosaic of the founders (f, s), drawn anew with probability ``switch`` at each site."""
    f, s = founders.shape
    out = np.empty((n, s), founders.dtype)
    for i in range(n):
        anew = rng.random(s) < switch
        anew[0] = True
        source = rng.integers(f, size=s)[np.maximum.accumulate(np.where(anew, np.arange(s), 0))]
        out[i] = founders[source, np.arange(s)]
    return out


def make_window(rng, k=40, n=6, s=160, every=4, multi=True, missing=0.05):
    """A window of random sites, some multi-allelic, and the targets' true codes (s, n)."""
    n_alt = np.ones(s, int)
    if multi:
        n_alt[rng.random(s) < 0.1] = 2
    founders = (rng.random((12, s)) < rng.beta(0.3, 1.0, s)).astype(np.int8)
    founders *= rng.integers(1, n_alt + 1, size=(12, s)).astype(np.int8)
    codes = mosaics(rng, founders, k + n, 0.02).T
    rows = [codes[i, :k] == a + 1 for i in range(s) for a in range(n_alt[i])]
    bits = np.packbits(np.array(rows), axis=1, bitorder="little")
    pos = np.cumsum(rng.integers(1, 2000, s)) + 1000
    alt = [",".join("CGT"[:a]) for a in n_alt]
    panel = Haplotypes(Sites("20", pos, ["."] * s, ["A"] * s, alt), bits, k)
    typed = np.sort(rng.choice(s, s // every, replace=False))
    alleles = codes[typed, k:].copy()
    alleles[rng.random(alleles.shape) < missing] = -1
    return Window(panel, pos / 1e6, typed, alleles, 0, s, (0, len(typed)), np.zeros(len(typed), np.uint8)), codes[:, k:]


def reference_impute(window, ne, err):
    """(n, r) float64: what the engine must compute, from engine/reference.py."""
    k, rows, typed = window.panel.k, window.panel.row_start(), window.typed
    alt = np.unpackbits(window.panel.bits, axis=1, count=k, bitorder="little").astype(bool)
    codes = np.zeros((len(typed), k), np.int64)
    for i, site in enumerate(typed):
        for a, row in enumerate(range(rows[site], rows[site + 1])):
            codes[i, alt[row]] = a + 1
    cm = window.cm[typed]
    switch = np.append(0, -np.expm1(-0.04 * ne * np.maximum(np.diff(cm), 1e-6) / k))
    site_of_row = np.repeat(np.arange(len(window.cm)), np.diff(rows))
    before = np.searchsorted(typed, site_of_row, side="right") - 1
    left, right = cm[np.maximum(before, 0)], cm[np.minimum(before + 1, len(cm) - 1)]
    fraction = np.where(right > left, (window.cm[site_of_row] - left) / np.where(right > left, right - left, 1), 0)
    out = np.empty((window.alleles.shape[1], len(alt)))
    for q in range(len(out)):
        observed = window.alleles[:, q].astype(int)
        posterior = reference.forward_backward(codes, observed, switch, err)
        out[q] = reference.dosages(posterior, alt, before, fraction)
        loo = reference.leave_one_out(codes, observed, switch, err)
        for i, site in enumerate(typed):
            out[q, rows[site] : rows[site + 1]] = loo[i, 1 : rows[site + 1] - rows[site] + 1]
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k", "every"), [(40, 4), (17, 2), (300, 9)])
def test_kernel_equals_reference(seed, k, every):
    window, _ = make_window(np.random.default_rng(seed), k=k, every=every)
    for ne, err in ((1e4, 1e-3), (1e6, 1e-2), (1e2, 1e-4)):
        got = LiStephens(ne, err).impute(window)
        np.testing.assert_allclose(got, reference_impute(window, ne, err), atol=2e-4)


@pytest.mark.parametrize("ne", [1e-3, 1, 1e12])
@pytest.mark.parametrize("err", [1e-12, 1e-5, 0.49])
def test_extreme_parameters_still_give_probabilities(ne, err):
    window, _ = make_window(np.random.default_rng(8), k=500, s=400, every=2)
    got = LiStephens(ne, err).impute(window)
    assert np.isfinite(got).all() and got.min() >= 0 and got.max() <= 1 + 1e-5


def test_reference_is_the_sum_over_all_paths():
    rng = np.random.default_rng(3)
    codes, observed = rng.integers(0, 2, (4, 3)), np.array([0, 1, -1, 1])
    switch, err = np.array([0, 0.2, 0.5, 0.1]), 0.05
    total = np.zeros((4, 3))
    for path in np.ndindex(3, 3, 3, 3):
        p = 1 / 3
        for i, j in enumerate(path):
            if i:
                p *= switch[i] / 3 + (1 - switch[i]) * (j == path[i - 1])
            if observed[i] >= 0:
                p *= 1 - err if codes[i, j] == observed[i] else err
        for i, j in enumerate(path):
            total[i, j] += p
    np.testing.assert_allclose(
        reference.forward_backward(codes, observed, switch, err), total / total[0].sum(), rtol=1e-12
    )


@pytest.mark.parametrize("border", [1.0, -1e6, 1e6])
@pytest.mark.parametrize(("size", "every", "beyond"), [(1, 4, 3), (5, 4, None), (1, 160, 3), (3, 3, None)])
def test_groups_are_the_distinct_haplotypes_of_their_block(size, every, beyond, border, monkeypatch):
    monkeypatch.setattr(groups, "BORDER_COST", border)
    window, _ = make_window(np.random.default_rng(5), k=70, every=every)
    found, starts, typed = prepare(window, 1, size, beyond).groups, window.panel.row_start(), window.typed
    alt = np.unpackbits(window.panel.bits, axis=1, count=70, bitorder="little")
    bounds = found.site_start
    assert bounds[0] == 0 and bounds[-1] == len(typed) - 1 and (bounds[1:-1] % size == 0).all()
    longest = max(np.diff(bounds))
    assert longest <= size if border < 0 else longest == min(64, len(typed) - 1) or border == 1
    for i, (first, last) in enumerate(itertools.pairwise(bounds)):
        begin = 0 if i == 0 else starts[typed[first]]
        rows = slice(begin, len(alt) if last == len(typed) - 1 else starts[typed[last] + 1])
        equal = found.of[i][:, None] == found.of[i]
        same = (alt[rows, :, None] == alt[rows, None]).all(axis=0)
        assert (same[equal]).all()
        n = found.first[i + 1] - found.first[i]
        start = found.start[found.first[i] + i :][: n + 1]
        assert sorted(found.members[i]) == list(range(70)) and start[-1] == 70
        np.testing.assert_array_equal(found.of[i, found.members[i]], np.repeat(np.arange(n), np.diff(start)))
        if beyond is None:
            assert (equal == same).all()
        else:
            clade = find_clades(window.panel.bits, 70, prepare(window, 1).queries.typed_rows, beyond).clade[first:last]
            assert (equal == same & (clade[:, :, None] == clade[:, None]).all(axis=0)).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_classes_spell_out_the_untyped_rows(threads):
    rng = np.random.default_rng(threads)
    k, r = 45, 700
    dense = mosaics(rng, rng.random((8, r)) < 0.3, k, 0.05).T
    gap_start, gap_stop = np.array([0, 10, 300, 301]), np.array([9, 299, 300, r])
    cells, classes = find_cells(np.packbits(dense, axis=1, bitorder="little"), k, gap_start, gap_stop, threads)
    covered = np.zeros(r, int)
    for c, (first, last) in enumerate(zip(cells.row_start, cells.row_stop, strict=True)):
        covered[first:last] += 1
        base, n = cells.class_start[c], cells.class_start[c + 1] - cells.class_start[c]
        assert n == len(np.unique(dense[first:last], axis=1).T)
        for j in range(k):
            v = base + classes[c, j]
            carried = np.zeros(last - first, bool)
            carried[cells.entries[cells.entry_start[v] : cells.entry_start[v + 1]]] = True
            np.testing.assert_array_equal(carried, dense[first:last, j])
    expected = np.zeros(r, int)
    for a, b in zip(gap_start, gap_stop, strict=True):
        expected[a:b] = 1
    np.testing.assert_array_equal(covered, expected)


def test_cells_stay_inside_their_gap():
    start, stop, first_cell = cut_cells(np.array([0, 5, 5, 300]), np.array([4, 5, 299, 300]))
    assert first_cell.tolist() == [0, 1, 1, 6, 6]
    assert start[1] == 5 and stop[5] == 299 and (stop[1:5] == start[2:6]).all() and (stop - start <= 64).all()


def test_same_bytes_for_any_threads_and_any_batch():
    window, _ = make_window(np.random.default_rng(1), k=60, n=14)
    whole = LiStephens(1e5, 1e-3, threads=1).impute(window)
    assert LiStephens(1e5, 1e-3, threads=3).impute(window).tobytes() == whole.tobytes()
    part = Window(**{**vars(window), "alleles": window.alleles[:, 4:7]})
    assert LiStephens(1e5, 1e-3).impute(part).tobytes() == whole[4:7].tobytes()


def test_same_bytes_wherever_the_arrays_lie():
    # Which version of a loop runs may depend on how close in memory its arrays are, which differs from call to call.
    folder = Path(__file__).parents[1] / "examples"
    dropped = set(open_panel_vcf(folder / "panel.vcf.gz").samples[::7])
    panel = list(open_panel_vcf(folder / "panel.vcf.gz", drop_samples=dropped, threads=2))
    targets = read_targets(folder / "chip.vcf.gz").by_contig["20"]
    (window,) = cut_windows(panel, targets, read_genetic_map(folder / "map.txt"), WindowSize(20, 2))
    results, held = set(), []
    for size in range(1, 25):
        results.add(LiStephens(1e5, 1e-3, threads=2).impute(window).tobytes())
        held.append(np.ones(1000 * size))
    assert len(results) == 1


def test_order_of_the_panel_does_not_matter():
    rng = np.random.default_rng(2)
    window, _ = make_window(rng, k=64)
    alt = np.unpackbits(window.panel.bits, axis=1, bitorder="little")[:, rng.permutation(64)]
    shuffled = Haplotypes(window.panel.sites, np.packbits(alt, axis=1, bitorder="little"), 64)
    one = LiStephens(1e5, 1e-3).impute(window)
    other = LiStephens(1e5, 1e-3).impute(Window(**{**vars(window), "panel": shuffled}))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_typed_allele_does_not_predict_itself():
    window, _ = make_window(np.random.default_rng(4), multi=False, missing=0)
    engine = LiStephens(1e5, 1e-3)
    before = engine.impute(window)
    flipped = window.alleles.copy()
    site = int(np.argmin(np.abs(flipped.mean(axis=1) - 0.5)))
    flipped[site] = 1 - flipped[site]
    after = engine.impute(Window(**{**vars(window), "alleles": flipped}))
    here = window.panel.row_start()[window.typed[site]]
    np.testing.assert_allclose(before[:, here], after[:, here], atol=1e-5)
    assert np.abs(before - after).max() > 0.01  # elsewhere it counts


def test_targets_copied_from_the_panel_are_recovered():
    rng = np.random.default_rng(5)
    founders = (rng.random((50, 2000)) < 0.4).astype(np.int8)
    truth = mosaics(rng, founders, 10, 0.002).T
    pos = np.arange(2000) * 500 + 1
    sites = Sites("1", pos, ["."] * 2000, ["A"] * 2000, ["C"] * 2000)
    typed = np.arange(0, 2000, 10)
    panel = Haplotypes(sites, np.packbits(founders.T, axis=1, bitorder="little"), 50)
    window = Window(panel, pos / 1e6, typed, truth[typed], 0, 2000, (0, 200), np.zeros(200, np.uint8))
    assert ((LiStephens().impute(window).T >= 0.5) == truth).mean() > 0.98


def test_estimates_follow_the_data():
    rng = np.random.default_rng(6)
    founders = (rng.random((100, 800)) < 0.4).astype(np.int8)
    pos = np.arange(800) * 4000 + 1
    sites = Sites("1", pos, ["."] * 800, ["A"] * 800, ["C"] * 800)
    panel = Haplotypes(sites, np.packbits(founders.T, axis=1, bitorder="little"), 100)

    def estimate(switch, errors):
        codes = mosaics(rng, founders, 40, switch).T
        codes ^= (rng.random(codes.shape) < errors).astype(np.int8)
        window = Window(panel, pos / 1e6, np.arange(800), codes, 0, 800, (0, 800), np.zeros(800, np.uint8))
        engine = LiStephens()
        engine.impute(window)
        return engine.ne, engine.error_rate

    for switch, errors in ((0.01, 0.01), (0.1, 0.03)):
        ne, err = estimate(switch, errors)
        # switch = 0.04 Ne d / k with d = 0.004 cM and k = 100
        assert 0.5 < ne / (switch * 100 / 0.04 / 0.004) < 2
        assert 0.6 < err / errors < 1.4


def test_without_typed_sites_the_panel_frequencies():
    window, _ = make_window(np.random.default_rng(7))
    none = np.empty(0, np.int64)
    bare = Window(**{**vars(window), "typed": none, "alleles": window.alleles[:0]})
    alt = np.unpackbits(window.panel.bits, axis=1, count=window.panel.k, bitorder="little")
    expected = np.tile(alt.mean(axis=1), (6, 1))
    np.testing.assert_allclose(LiStephens().impute(bare), expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{"ne": 0}, {"ne": -5}, {"ne": np.inf}, {"err": 0}, {"err": 0.5}])
def test_impossible_parameters_are_refused(options):
    with pytest.raises(ConfigError, match=r"^--(ne|err) "):
        LiStephens(**options)
