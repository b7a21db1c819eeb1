"""Who of the panel is like a target."""

from dataclasses import replace

import numpy as np
import pytest
from test_engine import make_window

from npimpute.context.hidden import hide
from npimpute.context.windows import Elsewhere, Window
from npimpute.engine import ancestry
from npimpute.engine.ancestry import ANYONE, DIMENSIONS, _components, find_ancestry
from npimpute.engine.li_stephens import CladeCopying
from npimpute.types import Haplotypes, Sites


def two_populations(rng, people=400, sites=200, targets=10):
    """A window of unlinked sites, all typed. The panel has ``people`` haplotypes of either population, one after the
    other, and so many targets. Returns it and the populations of the panel's haplotypes and of the targets'."""
    frequency = rng.uniform(0.1, 0.9, (2, sites))
    of = np.repeat([0, 1], people)
    own = np.repeat([0, 1], targets)
    panel = rng.random((sites, 2 * people)) < frequency[of].T
    alleles = (rng.random((sites, 2 * targets)) < frequency[own].T).astype(np.int8)
    rows = Sites("20", np.arange(1, sites + 1) * 1000, ["."] * sites, ["A"] * sites, ["C"] * sites)
    haplotypes = Haplotypes(rows, np.packbits(panel, axis=1, bitorder="little"), 2 * people)
    cm, kind = np.arange(sites) / 100, np.zeros(sites, np.uint8)
    return Window(haplotypes, cm, np.arange(sites), alleles, 0, sites, (0, sites), kind), of, own


def codes_of(window):
    return window.panel.codes(window.typed).astype(np.uint8)


def nearness(found):
    return np.exp(-((found.near[None] - found.place[:, None]) ** 2).sum(axis=2))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_people_are_near_those_of_their_population(missing):
    rng = np.random.default_rng(1)
    window, of, own = two_populations(rng)
    alleles = np.where(rng.random(window.alleles.shape) < missing, -1, window.alleles).astype(np.int8)
    found = find_ancestry(replace(window, alleles=alleles), codes_of(window))
    # Unlinked sites: all that components have in common in both halves is the population.
    assert found.near.shape == (800, d := found.near.shape[1]) and found.place.shape == (20, d) and 1 <= d <= 5
    assert found.anyone == np.float32(ANYONE)
    near = nearness(found)
    same = np.where(of == own[:, None], near, 0).sum(axis=1) / near.sum(axis=1)
    assert same.min() > 0.95
    # Both haplotypes of a person are in one place.
    for places in (found.near, found.place):
        np.testing.assert_array_equal(places[::2], places[1::2])


def test_without_populations_all_are_nearly_alike():
    rng = np.random.default_rng(9)
    window, _, _ = two_populations(rng)
    one = rng.random((200, 800)) < rng.uniform(0.1, 0.9, (200, 1))
    one = replace(window, panel=replace(window.panel, bits=np.packbits(one, axis=1, bitorder="little")))
    near = nearness(find_ancestry(one, codes_of(one)))
    assert (near.max(axis=1) < 1.5 * near.min(axis=1)).all()
    # Sites that are one site over and over tell nothing that the copying model does not see.
    again = np.repeat(window.panel.bits[:4], 50, axis=0)
    again = replace(window, panel=replace(window.panel, bits=again), alleles=np.repeat(window.alleles[:4], 50, axis=0))
    assert find_ancestry(again, codes_of(again)).near.shape == (800, 0)


def test_a_target_is_where_it_is_whoever_comes_with_it():
    window, _, _ = two_populations(np.random.default_rng(2))
    whole = find_ancestry(window, codes_of(window))
    part = find_ancestry(replace(window, alleles=window.alleles[:, 6:8]), codes_of(window))
    assert part.place.tobytes() == whole.place[6:8].tobytes() and part.near.tobytes() == whole.near.tobytes()


def test_sites_elsewhere_tell_as_much():
    window, _, _ = two_populations(np.random.default_rng(7), people=60)
    codes = codes_of(window)
    right = replace(window, typed=window.typed[80:], alleles=window.alleles[80:])
    part = replace(right, elsewhere=Elsewhere(codes[:80], window.alleles[:80]))
    for whole, found in ((window, part), (hide(window, np.arange(9))[0], hide(part, np.arange(9))[0])):
        expected, told = (find_ancestry(w, codes_of(w)) for w in (whole, found))
        np.testing.assert_array_equal(told.near, expected.near)
        np.testing.assert_array_equal(told.place, expected.place)


def test_haploid_people_have_their_own_place():
    window, _, _ = two_populations(np.random.default_rng(3), targets=3)
    ploidy = np.array([2, 1, 2, 1], np.int8)
    found, samples = find_ancestry(replace(window, ploidy=ploidy), codes_of(window)), np.repeat(np.arange(4), ploidy)
    assert [len(np.unique(found.place[samples == i], axis=0)) for i in range(4)] == [1, 1, 1, 1]
    assert len(np.unique(found.place, axis=0)) == 4
    ploidy = np.repeat([2, 1], [300, 200]).astype(np.int8)
    mixed = replace(window, panel=replace(window.panel, ploidy=ploidy))
    near = find_ancestry(mixed, codes_of(window)).near
    assert len(near) == 800 and len(np.unique(near, axis=0)) == 500


def test_where_nobody_differs_all_are_alike():
    window, _, _ = two_populations(np.random.default_rng(4))
    alone = replace(window.panel, bits=np.zeros_like(window.panel.bits))
    for part in (replace(window, panel=alone), replace(window, typed=window.typed[:0], alleles=window.alleles[:0])):
        found = find_ancestry(part, codes_of(part))
        assert found.near.shape == (800, 0) and found.place.shape == (20, 0) and found.anyone == 1


@pytest.mark.parametrize("people", [1, 2, 3, 5])
def test_small_panels_and_panels_of_clones(people):
    window, _, _ = two_populations(np.random.default_rng(8), people=people)
    clones = np.repeat(window.panel.alleles(slice(None))[:, : 2 * people], 60, axis=1)
    clones = Haplotypes(window.panel.sites, np.packbits(clones, axis=1, bitorder="little"), clones.shape[1])
    for part in (window, replace(window, panel=clones)):
        near = nearness(find_ancestry(part, codes_of(part)))
        assert np.isfinite(near).all() and (near <= 1).all()
        assert np.isfinite(CladeCopying(1e5, 1e-3).impute(part)).all()


def test_turns_keep_samples_whole(monkeypatch):
    monkeypatch.setattr("npimpute.context.windows.TOGETHER", 5)
    window, _ = make_window(np.random.default_rng(5), n=24)
    elsewhere = Elsewhere(np.zeros((3, window.panel.k), np.uint8), window.alleles[:3] + 1)
    for ploidy in (None, np.resize([2, 1, 1], 18).astype(np.int8)):
        whole = replace(window, ploidy=ploidy, elsewhere=elsewhere)
        turns = whole.turns()
        assert len(turns) == 5
        np.testing.assert_array_equal(np.concatenate([turn.alleles for turn in turns], axis=1), window.alleles)
        for turn in turns:
            np.testing.assert_array_equal(turn.elsewhere.alleles, turn.alleles[:3] + 1)
        if ploidy is None:
            assert all(turn.alleles.shape[1] % 2 == 0 and turn.ploidy is None for turn in turns)
        else:
            np.testing.assert_array_equal(np.concatenate([turn.ploidy for turn in turns]), ploidy)
            assert all(turn.alleles.shape[1] == turn.ploidy.sum() for turn in turns)


def test_with_ancestry_a_target_goes_on_with_its_own_population(monkeypatch):
    rng = np.random.default_rng(6)
    window, of, own = two_populations(rng)
    # A row that tells the populations apart, where nothing is typed: what is known of it is whom a target copies.
    bits = np.concatenate([window.panel.bits, np.packbits(of.astype(np.uint8), bitorder="little")[None]])
    sites = Sites("20", np.append(window.panel.sites.pos, 10**6), ["."] * 201, ["A"] * 201, ["C"] * 201)
    window = replace(window, panel=Haplotypes(sites, bits, 800), cm=np.append(window.cm, 4.0), stop=201)
    wrong = []
    for anyone in (1.0, ANYONE):
        monkeypatch.setattr(ancestry, "ANYONE", anyone)
        wrong.append(np.abs(CladeCopying(1e5, 1e-3).impute(window)[:, -1] - own).mean())
    assert wrong[1] < 0.6 * wrong[0]


@pytest.mark.parametrize("people", [40, 59, 60, 300])
def test_components_are_those_of_the_singular_value_decomposition(people):
    rng = np.random.default_rng(people)
    panel = (rng.normal(size=(60, 20)) @ (0.8 ** np.arange(20)[:, None] * rng.normal(size=(20, people)))).astype(
        np.float32
    )
    values, axes = _components(panel)
    left, lengths, _ = np.linalg.svd(panel.astype(float), full_matrices=False)
    assert axes.shape == (60, DIMENSIONS) and axes.dtype == np.float32
    assert values.sum() == pytest.approx((lengths**2).sum(), rel=1e-5)
    assert (values**2).sum() == pytest.approx((lengths**4).sum(), rel=1e-5)
    np.testing.assert_allclose(np.abs((axes * left[:, :DIMENSIONS]).sum(axis=0)), 1, atol=1e-3)
    # Of people who are all alike but one, two components are more than errors of rounding.
    panel = np.tile(panel[:, :1], 8)
    panel[:, 0] += 1
    few = _components(panel)[1]
    assert few.shape == (60, 8) and (np.linalg.norm(few, axis=0) > 0.5).sum() == 2
