"""Clades, and the pass of a copying model with them, against the plain reference."""

from dataclasses import replace

import numpy as np
import pytest
from test_blocks import dense
from test_copying import every
from test_engine import make_window

from npimpute.engine import ancestry, group_passes, groups, reference
from npimpute.engine.clades import find_clades
from npimpute.engine.li_stephens import CladeCopying, LiStephens
from npimpute.engine.passes import prepare, run_passes
from npimpute.errors import ConfigError

NE, ERR = 3e4, 2e-3


def typed_rows(window):
    starts = window.panel.row_start()
    return np.stack([starts[window.typed], starts[window.typed + 1]], axis=1)


def plain_clades(window, beyond):
    """(t-1, k) the first haplotype with the same alleles around each gap."""
    alleles, rows = dense(window), typed_rows(window)
    carriers = np.minimum(alleles.sum(axis=1), window.panel.k - alleles.sum(axis=1))
    kept = np.flatnonzero(carriers >= 2)
    out = []
    for (left, _), (_, right) in zip(rows[:-1], rows[1:], strict=True):
        first, last = np.searchsorted(kept, left), np.searchsorted(kept, right)
        part = alleles[kept[max(0, first - beyond) : last + beyond]]
        out.append([int(np.flatnonzero((part == column[:, None]).all(axis=0))[0]) for column in part.T])
    return np.array(out)


@pytest.mark.parametrize(("k", "every", "beyond"), [(40, 4, 0), (41, 4, 7), (17, 2, 3), (300, 9, 20), (30, 40, 500)])
@pytest.mark.parametrize("threads", [1, 3])
def test_clades_are_equal_around_their_gap(k, every, beyond, threads):
    window, _ = make_window(np.random.default_rng(k + beyond), k=k, every=every)
    expected = plain_clades(window, beyond)
    clade, number = find_clades(window.panel.bits, k, typed_rows(window), beyond, threads)
    for gap, first in enumerate(expected):
        assert number[gap] == len(set(first))
        assert (clade[gap] == clade[gap, first]).all()
        assert len(set(zip(clade[gap], first, strict=True))) == number[gap]


def test_a_row_that_one_haplotype_differs_at_parts_nobody():
    window, _ = make_window(np.random.default_rng(3), k=24, every=8, multi=False)
    bits = window.panel.bits.copy()
    bits[:] = 0
    bits[40, 1] = 1  # haplotype 8 alone
    bits[41, 0] = 255  # haplotypes 0 to 7
    bits[42] = 255
    bits[42, 2] = 254  # all but haplotype 16
    clade, number = find_clades(bits, 24, typed_rows(window), 1000)
    assert (number == 2).all()
    assert (clade == np.where(np.arange(24) < 8, 0, 1)).all()


def weight_of(window, q):
    """(k,) how probable the panel's haplotypes are for target q after a switch."""
    near, place, anyone = ancestry.find_ancestry(window, prepare(window, 1).codes)
    weight = np.exp(-((near.astype(float) - place[q]) ** 2).sum(axis=1))
    return (1 - anyone) * weight / weight.sum() + anyone / window.panel.k


def expected_posterior(window, observed, weight):
    """(t, k) of one target, by the reference. weight: see ``weight_of``."""
    panel, rows, k = dense(window), typed_rows(window), window.panel.k
    codes = np.array([sum((a * panel[row] for a, row in enumerate(range(*ends), 1)), 0) for ends in rows])
    distance = np.maximum(np.diff(window.cm[window.typed]), 1e-6)
    share = -np.expm1(-0.04 * NE * distance / k)
    switch = np.append(0, share)
    clades = plain_clades(window, CladeCopying.beyond)
    same = clades[:, :, None] == clades[:, None, :]
    within = same * weight / (same * weight).sum(axis=2, keepdims=True)
    drift = share[:, None, None] * within + (1 - share[:, None, None]) * np.eye(k)
    return reference.forward_backward(codes, observed.astype(int), switch, ERR, drift, weight), codes


@pytest.mark.parametrize(("k", "every"), [(40, 4), (17, 2), (300, 9), (40, 60)])
@pytest.mark.parametrize("border", [1.0, -1e6, 1e6])
def test_the_pass_equals_the_reference(k, every, border, monkeypatch):
    """border: what a haplotype costs where blocks meet; with less than nothing they have one gap, with much they are as
    long as can be."""
    monkeypatch.setattr(groups, "BORDER_COST", border)
    monkeypatch.setattr(CladeCopying, "beyond", 4)
    window, _ = make_window(np.random.default_rng(k), k=k, every=every, n=11)
    p, alt, rows = CladeCopying(NE, ERR).impute(window), dense(window), typed_rows(window)
    prepared = prepare(window, 1)
    before = np.searchsorted(rows[:, 0], np.arange(len(alt)), side="right") - 1
    untyped = ~window.typed_rows()
    for q, observed in enumerate(window.alleles.T):
        weight = weight_of(window, q)
        posterior, codes = expected_posterior(window, observed, weight)
        dosages = reference.dosages(posterior, alt, before, prepared.queries.fraction)
        np.testing.assert_allclose(p[q, untyped], dosages[untyped], atol=2e-4)
        for t in range(0, len(rows), 5):
            hidden = observed.copy()
            hidden[t] = -1
            without, _ = expected_posterior(window, hidden, weight)
            for code, row in enumerate(range(*rows[t]), 1):
                assert p[q, row] == pytest.approx(without[t, codes[t] == code].sum(), abs=2e-4)


def test_drifting_matters_and_without_it_the_pass_is_that_of_li_stephens(monkeypatch):
    window, _ = make_window(np.random.default_rng(5), k=60, every=5, n=20)
    plain = LiStephens(NE, ERR).impute(window)
    monkeypatch.setattr(CladeCopying, "beyond", 1)
    monkeypatch.setattr(ancestry, "ANYONE", 1.0)
    assert np.abs(CladeCopying(NE, ERR).impute(window) - plain).max() > 0.05
    without = prepare(window, 1, beyond=1)._replace(drifts=False)
    np.testing.assert_allclose(run_passes(without, without.model(NE, ERR), 1), plain, atol=1e-3)


def test_results_do_not_depend_on_threads_or_on_who_goes_with_whom():
    window, _ = make_window(np.random.default_rng(7), k=90, every=4, n=37)
    whole = CladeCopying(NE, ERR).copying(window, 1, 6)
    threaded = CladeCopying(NE, ERR, threads=3).copying(window, 1, 6)
    assert whole.p.tobytes() == threaded.p.tobytes()
    assert whole.ranking.ends.tobytes() == threaded.ranking.ends.tobytes()
    order = np.random.default_rng(8).permutation(18)[:10]
    # Samples stay whole.
    order = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
    part = CladeCopying(NE, ERR).copying(replace(window, alleles=window.alleles[:, order]), 1, 6)
    assert part.p.tobytes() == whole.p[order].tobytes()
    assert (part.ranking.haplotypes == whole.ranking.haplotypes[order]).all()
    assert part.ranking.ends.tobytes() == whole.ranking.ends[order].tobytes()


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_sequences_hold_the_model_over_all_haplotypes(missing):
    window, _ = make_window(np.random.default_rng(11), k=50, every=4, n=5, missing=missing)
    copying, m = CladeCopying(NE, ERR).copying(window, 1, 9), 9
    found = every(copying, 0, 5, 0)
    t = len(window.typed)
    for q, observed in enumerate(window.alleles.T):
        posterior, codes = expected_posterior(window, observed, weight_of(window, q))
        for a in range(t):
            s, ends = found.number[q, a], [c for c in (0, 1) if a + c < t]
            total = posterior[a : a + 2].sum(axis=0)
            here = copying.ranking.haplotypes[q, a]
            named = here[here >= 0]
            np.testing.assert_allclose(total[named], np.sort(total)[::-1][: len(named)], atol=1e-4)
            assert len(named) == m or np.sort(total)[::-1][len(named)] < 3e-4
            for c in ends:
                expected = posterior[a + c, named]
                np.testing.assert_allclose(found.posterior[s, : len(named), c], expected, atol=1e-4)
                features = found.haplotype[s, : len(named), c]
                np.testing.assert_allclose(np.exp(4 * features[:, 0]), expected, atol=2e-4)
                matches = (codes[a + c, named] == observed[a + c]) & (observed[a + c] >= 0)
                np.testing.assert_array_equal(features[:, 3], matches)
                # Both probabilities give the posterior, but for what they add up to.
                product = np.exp(4 * features[:, 1]) * np.exp(4 * features[:, 2])
                likely = expected > 0.01
                ratio = product[likely] / expected[likely]
                np.testing.assert_allclose(ratio, ratio.mean(), rtol=5e-2) if likely.any() else None
            assert (found.posterior[s, :, len(ends) :] == 0).all()


@pytest.mark.parametrize("kept", [0, 3])
def test_what_is_kept_at_a_time_does_not_matter(kept, monkeypatch):
    """kept: blocks, 0: as many as there are then pieces."""
    window, _ = make_window(np.random.default_rng(9), k=90, s=600, every=3, n=7)
    monkeypatch.setattr(groups, "BORDER_COST", -1e6)
    whole = CladeCopying(NE, ERR).copying(window, 1, 6)
    assert len(whole.prepared.groups.of) == len(window.typed) - 1
    monkeypatch.setattr(group_passes, "KEPT_BYTES", kept * 64 * 90)
    part = CladeCopying(NE, ERR).copying(window, 1, 6)
    assert part.p.tobytes() == whole.p.tobytes() and part.ranking.ends.tobytes() == whole.ranking.ends.tobytes()


def test_the_first_and_last_rows_and_one_typed_site():
    window, _ = make_window(np.random.default_rng(13), k=30, every=160, n=3)
    assert len(window.typed) == 1
    p = CladeCopying(NE, ERR).impute(window)
    np.testing.assert_allclose(p, LiStephens(NE, ERR).impute(window), atol=1e-6)


@pytest.mark.parametrize("model", [LiStephens, CladeCopying])
def test_no_probability_is_above_one(model):
    most = 0
    for seed in range(4):
        window, _ = make_window(np.random.default_rng(seed), k=1500, every=6, n=9, missing=0.3)
        p = model(NE, ERR).impute(window)
        assert p.min() >= 0 and p.max() <= 1
        most = max(most, p.max())
    assert most > 0.9999


def test_longer_stretches_are_refused():
    window, _ = make_window(np.random.default_rng(1))
    with pytest.raises(ConfigError, match="size 2: with clades a stretch has one typed site"):
        CladeCopying(NE, ERR).copying(window, 2, 4)
