"""Dosages from probabilities and genotypes, and the figures that say what they are worth."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Vcf, impute, mosaic, simulate, write_map

from npimpute.context.windows import Window
from npimpute.dosage import quality as qualities
from npimpute.dosage import stitch as stitching
from npimpute.dosage.quality import R2Table, SampleQuality, dr2, er2, expected_r2, row_sums
from npimpute.dosage.stitch import StitchConfig, stitch
from npimpute.panel.align import Match
from npimpute.summary import SURPRISING, TELLING_ROWS, Summary, check_overlap
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
    fields = ("p", "typed", "imputed", "af", "dr2", "er2", "expected_r2", "n_hap", "sum_p", "sum_pq")
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


# The r2 to expect


def drawn(p: np.ndarray, n: int, rng: np.random.Generator, unforeseen: float = 0.0) -> tuple[np.ndarray, ...]:
    """(n,) each: covariance of the (k,) ``p`` with alleles drawn from it, and their variance. unforeseen: variance that
    each of them has besides."""
    g = (rng.random((n, len(p))) < p) + rng.normal(0, np.sqrt(unforeseen), (n, len(p)))
    return (g - g.mean(axis=1, keepdims=True)) @ (p - p.mean()) / len(p), g.var(axis=1)


def some_rows() -> list[np.ndarray]:
    """From one doubtful carrier to common alleles, and carriers of nearly all."""
    rng = np.random.default_rng(5)
    rare, few = np.zeros(60), np.zeros(40)
    rare[3], few[:5] = 0.3, [0.9, 0.5, 0.1, 0.02, 0.7]
    rows = [rare, few, 1 - few, rng.beta(0.2, 0.6, 50), rng.beta(2, 5, 50), rng.random(8), np.array([0.2, 0.9])]
    return [np.rint(row * 1024).astype(np.float32) / 1024 for row in rows]  # so that 1 - p is exact


def test_expected_r2_is_what_alleles_drawn_from_p_give(monkeypatch):
    """The expected squared covariance to the expected variance of the alleles, and what r2 is where they vary."""
    monkeypatch.setattr(qualities, "UNFORESEEN", 0.0)
    rng = np.random.default_rng(6)
    for p in some_rows():
        got = expected_r2(*row_sums(p[None]))[0]
        cov, var = drawn(p, 40_000, rng)
        assert got == pytest.approx((cov**2).mean() / (p.var(dtype=np.float64) * var.mean()), rel=0.03), p
        varies = var > 0
        r2 = cov[varies] ** 2 / (p.var(dtype=np.float64) * var[varies])
        # A mean of ratios is not the ratio of the means, least of all over few haplotypes.
        assert got == pytest.approx(r2.mean(), abs=0.06 if len(p) >= 40 else 0.25), p


def test_what_is_unforeseen_is_noise(monkeypatch):
    monkeypatch.setattr(qualities, "UNFORESEEN", 0.1)
    rng = np.random.default_rng(6)
    for p in (row for row in some_rows() if len(row) >= 40):
        cov, var = drawn(p, 40_000, rng, 0.1)
        expected = (cov**2).mean() / (p.var(dtype=np.float64) * (var.mean() + 0.1 / len(p)))
        assert expected_r2(*row_sums(p[None]))[0] == pytest.approx(expected, rel=0.03), p


def test_expected_r2_does_not_depend_on_which_allele_is_counted():
    for p in some_rows():
        a, b = (expected_r2(*row_sums(row[None]))[0] for row in (p, 1 - p))
        assert 0 < a <= 1 and a == pytest.approx(b, rel=1e-5)


def test_expected_r2_adds_up_over_batches_and_passes_over_missing_values():
    p = np.random.default_rng(7).beta(0.2, 0.9, (20, 90)).astype(np.float32)
    parts = [row_sums(p[:, part]) for part in (slice(0, 10), slice(10, 11), slice(11, 90))]
    joined = [sum(values) for values in zip(*parts, strict=True)]
    for got, expected in zip(joined, row_sums(p), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(expected_r2(*joined), expected_r2(*row_sums(p)), rtol=1e-5)
    holes = np.insert(p, [0, 40, 90], np.nan, axis=1)
    np.testing.assert_allclose(expected_r2(*row_sums(holes)), expected_r2(*row_sums(p)), rtol=1e-6)


def test_row_sums_are_what_they_are_called():
    p = np.random.default_rng(8).random((4, 30)).astype(np.float32)
    p[1, 2:5] = np.nan
    x = p.astype(np.float64)
    n, *sums = row_sums(p)
    assert n.tolist() == [30, 27, 30, 30] and n.dtype == np.int64
    for got, values in zip(sums, (x, x * (1 - x), x**2 * (1 - x), x**3 * (1 - x)), strict=True):
        np.testing.assert_allclose(got, np.nansum(values, axis=1), rtol=1e-6)
        assert got.dtype == np.float64


def test_expected_r2_is_dr2_where_many_carry_the_allele():
    rng = np.random.default_rng(9)
    p = np.stack([rng.beta(a, b, 100_000) for a, b in ((0.3, 0.7), (5, 5), (0.05, 0.2))]).astype(np.float32)
    sums = row_sums(p)
    np.testing.assert_allclose(expected_r2(*sums), dr2(*sums[:3]), atol=0.003)
    assert dr2(*sums[:3])[1] < 0.15


def test_one_doubtful_carrier(monkeypatch):
    """That the allele is there at all is in doubt, not who has it."""
    p = np.zeros((1, 1000), np.float32)
    p[0, 7] = 0.3
    assert dr2(*row_sums(p)[:3])[0] == pytest.approx(0.3, abs=0.001)
    assert expected_r2(*row_sums(p))[0] == pytest.approx(0.3 / (0.3 + 1000 * qualities.UNFORESEEN), rel=0.01)
    monkeypatch.setattr(qualities, "UNFORESEEN", 0.0)
    assert expected_r2(*row_sums(p))[0] == pytest.approx(1, abs=0.001)


def test_expected_r2_is_0_where_p_does_not_vary_and_unknown_where_there_is_none():
    p = np.array([[0] * 6, [1] * 6, [0.3] * 6, [np.nan] * 6, [np.nan, 0.2, *[np.nan] * 4]], np.float32)
    np.testing.assert_array_equal(expected_r2(*row_sums(p)), np.array([0, 0, 0, np.nan, 0], np.float32))


def test_of_typed_sites_it_is_of_what_was_predicted(imputed):
    window, p, targets = imputed
    for config in (StitchConfig(), StitchConfig(keep_typed=False), StitchConfig(all_typed=True)):
        sites, d = together(stitch(window, p, 0.01, targets, config))
        found = d["expected_r2"][~np.isin(np.repeat(sites.ids, sites.n_alt()), ["x", "y"])]
        np.testing.assert_array_equal(found, expected_r2(*row_sums(np.ascontiguousarray(p.T[1:8]))))
        assert np.isnan(d["expected_r2"]).sum() == (2 if config.all_typed else 0)


# What is said of targets that the panel does not fit


def told(caplog, summary: Summary) -> bool:
    caplog.clear()
    file = SimpleNamespace(contigs=[], path="x", by_contig={})
    with caplog.at_level(logging.WARNING):
        check_overlap(SimpleNamespace(region=None, fix_strand=False, swap_alleles=False), summary, file, file)
    return "left out, typed alleles are predicted" in caplog.text


def test_the_warning_depends_on_how_much_worse_and_on_how_many_rows(caplog):
    def summary(n: int, found: float, expected: float) -> Summary:
        made = Summary(windows=1, typed=1)
        made.r2.sums = [[0] * 8, [0.0] * 8, [n, n * found, n * expected]]
        return made

    assert told(caplog, summary(TELLING_ROWS, 0.9 * SURPRISING - 0.001, 0.9))
    assert "mean r2 0.863, where 0.900 was to be expected" in caplog.text
    assert not told(caplog, summary(TELLING_ROWS - 1, 0.5, 0.9))
    assert not told(caplog, summary(TELLING_ROWS, 0.9 * SURPRISING + 0.001, 0.9))
    assert not told(caplog, summary(10 * TELLING_ROWS, 0.95, 0.9))
    assert not told(caplog, summary(0, 0, 0))


@pytest.mark.parametrize("own", [True, False])
def test_targets_of_founders_that_the_panel_lacks_are_warned_of(tmp_path, caplog, own):
    """Of the panel's frequencies, but not of its haplotypes."""
    data = simulate(n_sites=1_000, n_panel=40, n_target=8)
    data.ref, data.map = data.panel.save(tmp_path / "panel.vcf"), write_map(tmp_path / "map.txt")
    chip = data.target
    if not own:
        rng = np.random.default_rng(1)
        carried = {record.key: np.mean(record.alleles > 0) for record in data.panel.records}
        records = [record for record in chip.records if record.key in carried]
        founders = (rng.random((len(records), 12)) < [[carried[r.key]] for r in records]).astype(np.int64)
        alleles = np.take_along_axis(founders, mosaic(12, 16, len(records), rng, 75), 1)
        chip = Vcf(chip.samples, [r.with_alleles(a) for r, a in zip(records, alleles, strict=True)], chip.contigs)
    data.chip = chip.save(tmp_path / "chip.vcf")
    with caplog.at_level(logging.WARNING):
        impute(data, tmp_path / "out.vcf", ne=None, err=None)
    assert ("the panel lacks the targets' ancestry" in caplog.text) != own


def test_typed_rows_are_compared_that_vary_and_were_all_observed(imputed):
    window, p, targets = imputed
    window.alleles[1] = [2, 0, 0, 2]  # of site 3 nobody carries the first ALT; of site 1 a genotype is missing
    table = R2Table()
    for d in stitch(window, p, 0.01, targets, StitchConfig()):
        table.add(d)
    carried = np.array([[1, 0, 0, 1]], np.float32)
    left_out = np.ascontiguousarray(p.T[[4]])
    assert table.typed == (1, er2(left_out, carried)[0], expected_r2(*row_sums(left_out))[0])
