"""Parameters estimated: people hidden to see what imputes best, and whom the answer may depend on."""

from dataclasses import replace

import numpy as np
import pytest
from test_blocks import dense
from test_engine import make_window, mosaics

from npimpute.context.hidden import hide, middle
from npimpute.context.windows import Window
from npimpute.engine import parameters
from npimpute.engine.li_stephens import CladeCopying, LiStephens
from npimpute.engine.parameters import NE_POWERS, START_NE, _minimise, estimate
from npimpute.types import Haplotypes, Sites

CM = 0.004  # between sites


def window_of(panel, targets, every):
    """Of biallelic haplotypes (k, s) and (n, s) at sites ``CM`` apart, each ``every``th typed."""
    k, s = panel.shape
    pos, typed = np.arange(s) * round(CM * 1e6) + 1, np.arange(0, s, every)
    sites = Sites("1", pos, ["."] * s, ["A"] * s, ["C"] * s)
    bits = np.packbits(panel.T, axis=1, bitorder="little")
    alleles = np.ascontiguousarray(targets.T[typed])
    kind = np.zeros(len(typed), np.uint8)
    return Window(Haplotypes(sites, bits, k), pos / 1e6, typed, alleles, 0, s, (0, len(typed)), kind)


def family(switch, seed=1, s=1200):
    """200 haplotypes for a panel, and 260 more drawn like them, as mosaics of 30 founders."""
    rng = np.random.default_rng(seed)
    founders = (rng.random((30, s)) < rng.beta(0.3, 1, s)).astype(np.int8)
    codes = mosaics(rng, founders, 460, switch)
    return codes[:200], codes[200:]


def wrong(window, share, seed=0):
    """The window with so many of the targets' alleles exchanged."""
    errors = np.random.default_rng(seed).random(window.alleles.shape) < share
    return replace(window, alleles=window.alleles ^ errors.astype(np.int8))


@pytest.mark.parametrize("k", [40, 45])
def test_who_is_hidden_is_a_target_and_not_in_the_panel(k):
    window, _ = make_window(np.random.default_rng(k), k=k, every=2)
    found, columns = hide(window, np.array([7, 2, 19]))
    assert columns.tolist() == [14, 15, 4, 5, 38, 39]
    whole, starts = dense(window), window.panel.row_start()
    others = [j for j in range(k) if j not in columns]
    expected = np.packbits(whole[:, others], axis=1, bitorder="little")
    assert found.panel.k == k - 6 and found.panel.sites == window.panel.sites
    np.testing.assert_array_equal(found.panel.bits, expected)
    codes = [[[0, *whole[starts[s] : starts[s + 1], j]] for j in columns] for s in window.typed]
    expected = [[max((a for a, has in enumerate(one) if has), default=0) for one in site] for site in codes]
    assert found.alleles.dtype == np.int8 and found.alleles.max() == 2
    np.testing.assert_array_equal(found.alleles, expected)
    np.testing.assert_array_equal(found.typed, window.typed)


@pytest.mark.parametrize("least", [1, 6])
@pytest.mark.parametrize("typed", [1, 2, 5, 14, 40, 1000])
@pytest.mark.parametrize("sites", [0, 1, 7, 50, 10**6])
def test_the_middle_of_a_window(typed, sites, least):
    window, _ = make_window(np.random.default_rng(typed), s=160, every=4)
    part, rows = middle(window, typed, sites, least)
    kept = np.searchsorted(window.panel.sites.pos, part.panel.sites.pos)
    starts, chosen = window.panel.row_start(), kept[part.typed]
    first, last = (int(np.searchsorted(window.typed, end)) for end in (chosen[0], chosen[-1]))
    assert len(chosen) <= min(typed, 40) and abs(first - (39 - last)) <= 1
    np.testing.assert_array_equal(chosen, window.typed[first : last + 1])
    inside = np.arange(chosen[0], chosen[-1] + 1)
    np.testing.assert_array_equal(kept, inside if sites else chosen)
    enough = not sites or len(inside) <= sites
    assert enough or len(chosen) == min(typed, least)
    if len(chosen) < min(typed, 40):  # as many as there is room for, or nearly
        assert sites and len(inside) * 8 / 7 + 8 > min(sites, len(inside))
    np.testing.assert_array_equal(
        np.flatnonzero(rows), np.concatenate([np.arange(starts[i], starts[i + 1]) for i in kept])
    )
    np.testing.assert_array_equal(part.panel.bits, window.panel.bits[rows])
    assert part.panel.k == 40 and part.panel.sites.alt == [window.panel.sites.alt[i] for i in kept]
    np.testing.assert_array_equal(part.panel.sites.pos, window.panel.sites.pos[kept])
    np.testing.assert_array_equal(part.cm, window.cm[kept])
    np.testing.assert_array_equal(part.alleles, window.alleles[first : last + 1])
    assert (part.start, part.stop) == (0, len(kept))


@pytest.mark.parametrize("engine", [LiStephens, CladeCopying])
@pytest.mark.parametrize("switch", [0.005, 0.05])
def test_ne_is_what_imputes_people_like_the_panel_best(switch, engine):
    panel, others = family(switch)
    found, _ = engine(err=1e-3).estimate(window_of(panel, others[:30], 8))
    fresh = others[60:]
    window = window_of(panel, fresh, 8)
    untyped = ~window.typed_rows()
    grid = START_NE * 2.0 ** np.arange(-7, 6)
    errors = [np.mean((engine(ne, 1e-3).impute(window) - fresh)[:, untyped] ** 2) for ne in grid]
    best = grid[int(np.argmin(errors))]
    assert grid[0] < best < grid[-1]
    assert 1 / 3 < found / best < 3


@pytest.mark.parametrize("seed", [1, 2])
def test_ne_is_the_panel_s_and_the_error_rate_the_targets(seed):
    panel, others = family(0.01)
    one, other = (window_of(panel, targets, 8) for targets in (others[:30], others[30:60]))
    bad = wrong(other, 0.03)
    ne, err = estimate(one, None, 2e-3, 1, seed)
    assert err == 2e-3 and abs(np.log2(ne / START_NE)) > 1
    assert estimate(other, None, 2e-3, 1, seed) == estimate(bad, None, 2e-3, 1, seed) == (ne, err)
    assert estimate(window_of(panel, others[:9], 8), None, 2e-3, 1, seed) == (ne, err)
    (ne, err), (bad_ne, bad_err) = (estimate(window, None, None, 1, seed) for window in (other, bad))
    assert err < 5e-3 < 0.015 < bad_err < 0.045
    assert bad_ne == ne


def test_the_same_seed_gives_the_same_whatever_the_threads():
    panel, others = family(0.01)
    window = wrong(window_of(panel, others[:120], 8), 0.02)
    found = {estimate(window, None, None, threads, 3) for threads in (1, 1, 2, 3)}
    assert len(found) == 1
    assert found != {estimate(window, None, None, 1, seed) for seed in (4, 5)}  # others are hidden and looked at


@pytest.mark.parametrize("beyond", [None, 30])
@pytest.mark.parametrize(("switch", "errors"), [(0.03, 0), (0.04, 0.01), (0.01, 0)])
def test_where_the_panel_holds_founders_the_targets_decide(monkeypatch, switch, errors, beyond):
    rng = np.random.default_rng(7)
    founders = (rng.random((100, 1600)) < 0.4).astype(np.int8)
    window = wrong(window_of(founders, mosaics(rng, founders, 40, switch), 2), errors)
    true = switch * 100 / 0.04 / CM
    ne, err = estimate(window, None, None, 1, 1, beyond)
    assert 1 / 3 < ne / true < 3
    assert 0.6 < err / max(errors, 1e-3) < 1.4
    monkeypatch.setattr(parameters, "ALIKE", np.inf)  # founders would say nothing
    assert not 1 / 3 < estimate(window, None, None, 1, 1, beyond)[0] / true < 3


class Predicted:
    """A fit whose error and its standard error are known."""

    def __init__(self, error, deviation):
        self.useful, self._errors = np.ones(3, bool), (error, deviation)

    def relative_error(self, ne, err):
        return self._errors


@pytest.mark.parametrize(
    ("hidden", "targets", "alike"),
    [
        ((3.1e-3, 1.3e-3), (0.9e-3, 0.4e-3), True),  # by chance: few of either are predicted badly
        ((3.1e-3, 0.3e-3), (0.9e-3, 0.1e-3), False),
        ((1.7e-3, 0.0), (0.9e-3, 0.0), True),
        ((0.3, 0.02), (0.01, 0.01), False),
    ],
)
def test_founders_are_told_by_more_than_chance(hidden, targets, alike):
    assert parameters._alike(Predicted(*hidden), Predicted(*targets), 1e-3) == alike


def test_errors_and_their_standard_error_are_those_over_haplotypes():
    panel, others = family(0.01, s=400)
    window = window_of(panel, others[:30], 4)
    window.alleles[5, 3] = -1
    fit = parameters._Fit(window, 1)
    error = fit._miss(1e5, 1e-3) ** 2 / fit._variance[fit.useful]
    found, deviation = fit.relative_error(1e5, 1e-3)
    assert found == pytest.approx(np.nanmean(error, axis=0).mean())
    assert deviation == pytest.approx(np.nanmean(error, axis=1).std() / 30**0.5, rel=0.05)


@pytest.mark.parametrize(("every", "people", "sites"), [(2, 62, 800), (1, 50, 1000), (8, 99, 200)])
def test_the_more_sites_tell_of_ne_the_fewer_people_are_hidden(every, people, sites, monkeypatch):
    rng = np.random.default_rng(6)
    founders = (rng.random((40, 1600)) < 0.4).astype(np.int8)
    panel = mosaics(rng, founders, 1980, 0.01)
    hidden = []

    def watched(part, who):
        hidden.append((len(who), len(part.typed)))
        return hide(part, who)

    monkeypatch.setattr(parameters, "hide", watched)
    estimate(window_of(panel, mosaics(rng, founders, 30, 0.01), every), None, 1e-3, 1, 1)
    assert hidden == [(people, sites)]


def test_what_is_given_stays():
    panel, others = family(0.01, s=400)
    window = wrong(window_of(panel, others[:30], 4), 0.03)
    ne, err = estimate(window, 12345.678, None, 1, 1)
    assert ne == 12345.678 and 0.015 < err < 0.045
    ne, err = estimate(window, None, 0.0123456, 1, 1)
    assert ne not in (None, START_NE) and err == 0.0123456
    assert estimate(window, 12345.678, 0.0123456, 1, 1) == (12345.678, 0.0123456)


def test_with_too_few_typed_alleles_nothing_is_estimated():
    rng = np.random.default_rng(5)
    panel, targets = rng.integers(0, 2, (20, 40), np.int8), rng.integers(0, 2, (25, 40), np.int8)
    enough = window_of(panel, targets, 2)  # 20 sites, 500 alleles
    assert None not in estimate(enough, None, None, 1, 1)
    missing, unvarying = enough.alleles.copy(), panel.copy()
    missing[3, 4], unvarying[:, 6] = -1, 1
    sparse = np.vstack([targets, targets])
    uncalled = window_of(panel, sparse, 2)
    uncalled.alleles[11] = -1
    few = {
        "499 alleles": replace(enough, alleles=missing),
        "19 that vary": window_of(unvarying, sparse, 2),
        "19 called": uncalled,
    }
    for why, window in few.items():
        assert estimate(window, None, None, 1, 1) == (None, None), why
        assert estimate(window, 2e4, None, 1, 1) == (2e4, None) and estimate(window, None, 0.01, 1, 1) == (None, 0.01)


@pytest.mark.parametrize("least", [31, 777, 1e5, 1.4e5, 2.5e8])
def test_the_least_of_a_valley(least):
    tried = []

    def valley(x):
        tried.append(x)
        return 1 + (x / least) ** 0.4 + (least / x) ** 0.4

    assert _minimise(valley, START_NE) == pytest.approx(least, rel=0.05)
    assert len(tried) == len(set(tried)) <= NE_POWERS + 4


@pytest.mark.parametrize("slope", [1, -1])
def test_without_a_valley_the_search_ends(slope):
    tried = []

    def endless(x):
        tried.append(x)
        return float(x) ** (0.1 * slope)

    found = abs(np.log2(_minimise(endless, START_NE) / START_NE))
    assert NE_POWERS <= found <= NE_POWERS + 0.5 and len(tried) <= NE_POWERS + 3
    assert _minimise(lambda x: 1.0, START_NE) == START_NE  # where nothing tells
