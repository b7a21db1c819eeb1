"""Kriging against its formula over all haplotypes, written out; what it may not depend on."""

from dataclasses import replace

import numpy as np
import pytest
from test_npssm import window_of

from npimpute.engine import kriging
from npimpute.engine.copying import CERTAIN
from npimpute.engine.kriging import FALL, NOISE, WEIGHT, krige
from npimpute.engine.passes import prepare


def sites_of(codes, gap, reach, most):
    """The typed sites of a gap, nearest first, the right one of two as near, while haplotypes are of few kinds."""
    t, chosen = len(codes), []
    for step in range(reach):
        for site in (gap + step, gap - 1 - step):
            if 0 <= site < t:
                if len(np.unique(codes[[*chosen, site]], axis=1).T) > most:
                    return chosen
                chosen.append(site)
    return chosen


def plain(prepared, alleles, reach, most=10_000):
    """(n, r): every haplotype an observation of its own."""
    codes, observed = prepared.codes, prepared.queries.observed
    rows = prepared.queries.typed_rows
    out = np.zeros((len(observed), len(alleles)))
    k = codes.shape[1]
    for gap in range(len(codes) + 1):
        span = slice(rows[gap - 1, 1] if gap else 0, rows[gap, 0] if gap < len(codes) else len(alleles))
        sites = sites_of(codes, gap, reach, most)
        weight = {s: WEIGHT * np.exp(-(s - gap if s >= gap else gap - 1 - s) / FALL) for s in sites}
        between = np.ones((k, k))
        with_targets = np.ones((len(observed), k))
        for s in sites:
            between *= np.exp(-weight[s] * (codes[s][:, None] != codes[s]))
            share = (codes[s][:, None] == codes[s]).mean(axis=1)
            for q, allele in enumerate(observed[:, s]):
                unlike = 1 - share if allele < 0 else codes[s] != allele
                with_targets[q] *= 1 - unlike * (1 - np.exp(-weight[s]))
        y = alleles[span].T.astype(float)
        weights = np.linalg.solve(between + NOISE * np.eye(k), y - y.mean(axis=0))
        out[:, span] = np.clip(y.mean(axis=0) + with_targets @ weights, 0, 1)
    return out


def case(seed, **options):
    window = window_of(seed, **options)
    window.alleles[1::3, 2] = -1
    untyped = ~window.typed_rows()
    return window, prepare(window, 1), window.panel.alleles(slice(None)), untyped


def krige_all(window, prepared, reach, threads=1):
    p = np.full((len(prepared.queries.observed), len(window.panel.bits)), 0.5, np.float32)
    return krige(prepared, window.panel.bits, p, reach, threads)


@pytest.mark.parametrize(("seed", "options"), [(0, {}), (1, {"k": 17}), (2, {"k": 300}), (3, {"every": 9})])
@pytest.mark.parametrize("reach", [1, 4, 100])
def test_it_is_the_best_linear_prediction_from_all_haplotypes(seed, options, reach):
    window, prepared, alleles, untyped = case(seed, **options)
    expected, got = plain(prepared, alleles, reach), krige_all(window, prepared, reach)
    assert np.ptp(expected[:, untyped]) > 0.9 and got.dtype == np.float32
    np.testing.assert_allclose(got[:, untyped], expected[:, untyped], atol=1e-5)


@pytest.mark.parametrize("most", [2, 9, 40])
def test_sites_are_left_out_where_haplotypes_are_of_too_many_kinds(most, monkeypatch):
    window, prepared, alleles, untyped = case(4, k=120)
    monkeypatch.setattr(kriging, "MOST_CLASSES", most)
    got, expected = krige_all(window, prepared, 20), plain(prepared, alleles, 20, most)
    assert np.abs(expected - plain(prepared, alleles, 20))[:, untyped].max() > 0.02
    np.testing.assert_allclose(got[:, untyped], expected[:, untyped], atol=1e-5)


def test_the_same_bytes_for_any_threads_targets_and_rows_that_are_not_sure():
    window, prepared, _, untyped = case(5, n=9)
    whole = krige_all(window, prepared, 8)
    assert krige_all(window, prepared, 8, threads=3).tobytes() == whole.tobytes()
    rng = np.random.default_rng(0)
    sure = np.array([0, CERTAIN, 1 - np.float32(CERTAIN), 1], np.float32)
    for share in (0.3, 0.003):
        unsure = rng.random(whole.shape) < share
        p = np.where(unsure, np.float32(0.998), rng.choice(sure, whole.shape))
        part = krige(prepared, window.panel.bits, p, 8, 1)
        assert part[unsure & untyped].tobytes() == whole[unsure & untyped].tobytes()
    assert (part != whole).any(), "what is sure is passed over"
    some = replace(window, alleles=window.alleles[:, [7, 2]])
    assert krige_all(some, prepare(some, 1), 8).tobytes() == whole[[7, 2]].tobytes()


def test_what_a_network_sees_are_logarithms_of_both_alleles():
    seen = kriging.features(np.array([[0, 0.5, 1]], np.float32))
    np.testing.assert_allclose(seen, [[np.log([0.01, 1.01]), np.log([0.51, 0.51]), np.log([1.01, 0.01])]], rtol=1e-6)
