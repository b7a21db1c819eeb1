"""Squared correlations by minor allele frequency, against numpy's."""

import numpy as np
import pytest

from npimpute.dosage.accuracy import MAF_BINS, r2_by_maf


def corr2(x, y) -> float:
    return float(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1] ** 2)


def made(rows: int = 40, people: int = 25, seed: int = 0):
    """Dosages and the truth, which varies in every row."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (rows, people))
    truth[:, :3] = (0, 1, 2)
    return np.clip(truth + rng.normal(0, 0.7, truth.shape), 0, 2).astype(np.float32), truth


def test_it_is_numpy_s_correlation():
    dosage, truth = made()
    maf = np.random.default_rng(1).uniform(0, 0.5, 40)
    found = r2_by_maf(dosage, truth, maf)
    assert len(found) > 3 and list(found)[0] == "all"
    for name, values in found.items():
        low, high = (0, 0.5) if name == "all" else map(float, name.split("-"))
        rows = np.flatnonzero((maf > low) & (maf <= high))
        assert values["alleles"] == len(rows) > 0 and type(values["alleles"]) is int
        assert values["pooled"] == pytest.approx(corr2(dosage[rows], truth[rows]), rel=1e-6)
        assert values["mean"] == pytest.approx(np.mean([corr2(dosage[i], truth[i]) for i in rows]), rel=1e-6)
    assert sum(values["alleles"] for name, values in found.items() if name != "all") == 40


def test_a_perfect_and_a_reversed_dosage_are_both_1_and_scale_does_not_matter():
    truth = made()[1]
    for dosage in (truth, 2 - truth, 0.1 * truth + 0.3):
        found = r2_by_maf(dosage, truth, np.full(40, 0.3))
        assert list(found) == ["all", "0.2-0.5"]
        for values in found.values():
            assert values == pytest.approx({"alleles": 40, "pooled": 1, "mean": 1})


def test_edges_belong_to_the_lower_bin_and_zero_to_the_first():
    maf = np.array([0, 0.001, *MAF_BINS[1:], *np.nextafter(MAF_BINS[1:-1], 1)])
    dosage, truth = made(len(maf))
    found = r2_by_maf(dosage, truth, maf)
    counts = {name: values["alleles"] for name, values in found.items()}
    first, *others = [f"{low:g}-{high:g}" for low, high in zip(MAF_BINS, MAF_BINS[1:], strict=False)]
    assert first == "0-0.002" and others[-1] == "0.2-0.5"
    assert counts == {"all": len(maf), first: 3} | dict.fromkeys(others, 2)


def test_the_rows_of_a_bin_are_those_that_are_judged():
    dosage, truth = made(4)
    dosage[:2] = truth[:2]
    found = r2_by_maf(dosage, truth, np.array([0.002, 0.001, 0.003, 0.005]))
    assert found["0-0.002"] == pytest.approx({"alleles": 2, "pooled": 1, "mean": 1})
    assert found["0.002-0.005"]["mean"] < 0.95


def test_alleles_that_no_one_or_everyone_carries_are_left_out_of_the_mean():
    dosage, truth = made(4)
    truth[0], truth[1] = 0, 2
    found = r2_by_maf(dosage, truth, np.full(4, 0.1))["all"]
    assert found["alleles"] == 4
    assert found["mean"] == pytest.approx(np.mean([corr2(dosage[i], truth[i]) for i in (2, 3)]))
    assert found["pooled"] == pytest.approx(corr2(dosage, truth)), "but not of the pool"


def test_a_dosage_that_does_not_vary_counts_0():
    dosage, truth = made(2)
    dosage[0] = 0.37
    found = r2_by_maf(dosage, truth, np.full(2, 0.1))["all"]
    assert found["mean"] == pytest.approx(corr2(dosage[1], truth[1]) / 2)
    flat = r2_by_maf(np.full_like(dosage, 0.37), truth, np.full(2, 0.1))["all"]
    assert (flat["mean"], flat["pooled"]) == (0, 0)


def test_what_is_undefined_is_nan():
    dosage = made(3)[0]
    found = r2_by_maf(dosage, np.zeros(dosage.shape, int), np.array([0.1, 0.1, 0.001]))
    assert list(found) == ["all", "0-0.002", "0.05-0.1"]
    for values in found.values():
        assert np.isnan(values["mean"]) and np.isnan(values["pooled"])
    one = r2_by_maf(dosage[:, :1], np.ones((3, 1)), np.full(3, 0.1))["all"]
    assert np.isnan(one["mean"]), "of one person"


def test_whole_numbers_and_float32_give_the_same():
    dosage, truth = made()
    maf = np.full(40, 0.1)
    a, b = r2_by_maf(dosage.round().astype(np.int8), truth, maf), r2_by_maf(dosage.round(), truth.astype(np.uint8), maf)
    assert a == b
