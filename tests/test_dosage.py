"""Dosages from probabilities and genotypes, and the figures that say what they are worth."""

import numpy as np
import pytest

from npimpute.context.windows import Window
from npimpute.dosage import stitch as stitching
from npimpute.dosage.quality import R2Table, SampleQuality, dr2, er2
from npimpute.dosage.stitch import StitchConfig, stitch
from npimpute.panel.align import Match
from npimpute.types import Haplotypes, Sites, Targets


def sums(p):
    return np.full(len(p), p.shape[1]), p.sum(axis=1), (p * (1 - p)).sum(axis=1)


def test_dr2_is_1_for_certain_and_0_for_uninformative_or_monomorphic():
    certain = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0.3, 0.3, 0.3, 0.3]], float)
    assert dr2(*sums(certain)).tolist() == [1, 0, 0, 0]
    assert np.isnan(dr2(np.array([0]), np.array([0.0]), np.array([0.0]))).all()


def test_dr2_estimates_the_squared_correlation_with_the_truth():
    rng = np.random.default_rng(1)
    p = rng.beta(0.3, 0.7, (1, 200_000))
    truth = rng.random(p.shape) < p
    assert dr2(*sums(p))[0] == pytest.approx(np.corrcoef(p[0], truth[0])[0, 1] ** 2, abs=0.01)


def test_dr2_is_imputes_info_score_when_haplotypes_are_independent():
    p = np.random.default_rng(2).random((30, 40))
    a, b = p[:, 0::2], p[:, 1::2]
    gp1, gp2 = a * (1 - b) + b * (1 - a), a * b
    e, f = gp1 + 2 * gp2, gp1 + 4 * gp2
    q = e.mean(axis=1) / 2
    info = 1 - (f - e**2).sum(axis=1) / (40 * q * (1 - q))
    np.testing.assert_allclose(dr2(*sums(p)), np.clip(info, 0, 1), atol=1e-6)


def test_er2_is_the_squared_correlation_over_what_was_observed():
    rng = np.random.default_rng(3)
    predicted = rng.random((5, 50)).astype(np.float32)
    carried = (rng.random((5, 50)) < predicted).astype(np.float32)
    carried[0, :10] = np.nan
    carried[3] = 1
    carried[4] = np.nan
    got = er2(predicted, carried)
    assert got[0] == pytest.approx(np.corrcoef(predicted[0, 10:], carried[0, 10:])[0, 1] ** 2, rel=1e-5)
    assert got[1] == pytest.approx(np.corrcoef(predicted[1], carried[1])[0, 1] ** 2, rel=1e-5)
    assert got[3] == 0 and np.isnan(got[4])


@pytest.fixture
def imputed():
    """A window of 8 sites (site 3 with two ALTs), typed at 1 and 3, writing sites 1..6; 2 samples."""
    rng = np.random.default_rng(4)
    alt = ["C", "C", "C", "C,G", "C", "C", "C", "C"]
    sites = Sites("20", np.arange(10, 90, 10), [str(i) for i in range(8)], ["A"] * 8, alt)
    panel = Haplotypes(sites, np.zeros((9, 1), np.uint8), 8)
    alleles = np.array([[0, 1, 1, -1], [2, 0, 1, 2]], np.int8)
    only = Sites(
        "20", np.array([20, 25, 40, 65, 65]), ["t1", "x", "t3", "y", "z"], ["A"] * 5, ["C", "T", "C,G", "T", "."]
    )
    targets = Targets(
        only, np.array([alleles[0], [1, 0, -1, 1], alleles[1], [0, 0, 0, 1], [0] * 4], np.int8), ("a", "b")
    )
    kind = np.array(
        [Match.MATCHED, Match.NOT_IN_PANEL, Match.MATCHED, Match.NOT_IN_PANEL, Match.NOT_IN_PANEL], np.uint8
    )
    window = Window(panel, np.arange(8.0), np.array([1, 3]), alleles, 1, 7, (0, 5), kind)
    p = rng.random((4, 9)).astype(np.float32)
    p[:, 3:5] /= 2
    return window, p, targets


def together(parts):
    parts = list(parts)
    fields = ("p", "typed", "imputed", "af", "dr2", "er2", "n_hap", "sum_p", "sum_pq")
    return Sites.concat([d.sites for d in parts]), {f: np.concatenate([getattr(d, f) for d in parts]) for f in fields}


@pytest.mark.parametrize("rows", [1, 3, 10_000])
def test_observed_alleles_come_back_and_missing_ones_are_filled(imputed, monkeypatch, rows):
    monkeypatch.setattr(stitching, "CHUNK_ROWS", rows)
    window, p, targets = imputed
    sites, d = together(stitch(window, p, 0.01, targets, StitchConfig()))
    assert sites.ids == ["1", "2", "3", "4", "5", "6"]
    assert d["typed"].tolist() == [True, False, True, False, False, False]
    assert d["imputed"].tolist() == [True, True, False, True, True, True]
    np.testing.assert_array_equal(d["p"][0], [0, 1, 1, p[3, 1]])
    np.testing.assert_array_equal(d["p"][2:4], [[0, 0, 1, 0], [1, 0, 0, 1]])
    np.testing.assert_array_equal(d["p"][[1, 4, 5, 6]], p.T[[2, 5, 6, 7]])
    assert np.isnan(d["er2"]).tolist() == [False, True, False, False, True, True, True]
    np.testing.assert_allclose(d["af"], d["p"].mean(axis=1), rtol=1e-6)
    p64 = d["p"].astype(float)
    np.testing.assert_allclose(d["sum_pq"], (p64 * (1 - p64)).sum(axis=1), rtol=1e-6)


def test_imputing_typed_sites_weighs_the_observation(imputed):
    window, p, targets = imputed
    e = 0.1
    _, d = together(stitch(window, p, e, targets, StitchConfig(keep_typed=False)))
    prior = p[1, 1].astype(float)
    assert d["p"][0, 1] == pytest.approx(prior * (1 - e) / (prior * (1 - e) + (1 - prior) * e), rel=1e-5)
    assert d["p"][0, 3] == p[3, 1]
    ref, c, g = 1 - p[0, 3] - p[0, 4], p[0, 3], p[0, 4]
    assert d["p"][3, 0] == pytest.approx(g * (1 - e) / (g * (1 - e) + (ref + c) * e), rel=1e-5)
    assert d["imputed"].all()


@pytest.mark.parametrize("rows", [1, 10_000])
def test_target_only_sites_are_merged_by_position(imputed, monkeypatch, rows):
    monkeypatch.setattr(stitching, "CHUNK_ROWS", rows)
    window, p, targets = imputed
    sites, d = together(stitch(window, p, 0.01, targets, StitchConfig(all_typed=True)))
    assert sites.ids == ["1", "x", "2", "3", "4", "5", "y", "6"]
    assert d["typed"][[1, 6]].all() and not d["imputed"][[1, 6]].any()
    np.testing.assert_array_equal(d["p"][1], [1, 0, np.nan, 1])
    assert d["n_hap"][1] == 3 and d["af"][1] == pytest.approx(2 / 3)


def test_min_r2_leaves_out_untyped_sites_only(imputed):
    window, p, targets = imputed
    p[:, 2] = [0, 1, 0, 1]
    sites, d = together(stitch(window, p, 0.01, targets, StitchConfig(min_r2=0.99)))
    assert sites.ids == ["1", "2", "3"]
    assert d["dr2"][1] == 1


def test_sample_quality_table(tmp_path, imputed):
    window, p, targets = imputed
    quality = SampleQuality(("a", "b"))
    list(stitch(window, p, 0.01, targets, StitchConfig(), quality))
    quality.write(tmp_path / "q.tsv")
    lines = [line.split("\t") for line in (tmp_path / "q.tsv").read_text().splitlines()]
    assert lines[0] == ["sample", "typed", "filled", "concordance", "r2", "confidence"]
    assert [line[:3] for line in lines[1:]] == [["a", "3", "0"], ["b", "2", "1"]]
    x = [p[0, 1] + p[1, 1], p[0, 3] + p[1, 3], p[0, 4] + p[1, 4]]
    y = [1, 0, 1]
    assert float(lines[1][4]) == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-4)
    assert float(lines[1][3]) == pytest.approx(np.mean(np.rint(x) == y), abs=1e-4)
    a, b = p[0, [2, 5, 6, 7]], p[1, [2, 5, 6, 7]]
    best = np.max([(1 - a) * (1 - b), a * (1 - b) + b * (1 - a), a * b], axis=0)
    assert float(lines[1][5]) == pytest.approx(best.mean(), abs=1e-4)


def test_r2_table_counts_imputed_rows_by_frequency(imputed):
    window, p, targets = imputed
    p[:, [2, 5, 6, 7]] = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]]).T
    table = R2Table()
    for d in stitch(window, p, 0.01, targets, StitchConfig()):
        table.add(d)
    (line,) = [line for line in table.lines() if "20.0%" in line and "50.0%" in line]
    assert line.split(":")[1].startswith("        4 alleles, mean DR2 1.000")
