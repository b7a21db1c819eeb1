"""Measures of a comparison, against plain loops over genotypes and numpy's correlation."""

import math
from dataclasses import fields

import numpy as np
import pytest

from npimpute.benchmark.dataset import Truth
from npimpute.benchmark.metrics import (
    LEAST_PROBABILITY,
    MEASURES,
    Rows,
    Tally,
    bins,
    bootstrap_weights,
    calls_by_truth,
    check_edges,
    interval,
)
from npimpute.benchmark.score import (
    bin_table,
    calibration,
    plain,
    population_table,
    quality_table,
    rows_written,
    sample_table,
    score,
)
from npimpute.dosage.accuracy import MAF_BINS
from npimpute.errors import ConfigError, InputError

PEOPLE = 14
# Frequencies of every bin, on their edges and between, and of none.
MAFS = (0, 0.001, 0.002, 0.0021, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)
POOLED = tuple(m for m in MEASURES if m not in ("r2_mean", "iqs"))


def made(n: int = 68, people: int = PEOPLE, seed: int = 3, gaps: float = 0.06) -> Rows:
    """Rows of every bin, kind and major allele; ``gaps``: how many of each value are missing."""
    rng = np.random.default_rng(seed)
    maf = np.resize(MAFS, n)
    alt_major = np.arange(n) % 3 == 0
    share = np.where(alt_major, 0.8, 0.2)[:, None]
    truth = (rng.random((n, people)) < share).astype(np.int8) + (rng.random((n, people)) < share)
    truth[5:6], truth[6:7] = 0, 2
    gp = rng.dirichlet([0.4, 0.4, 0.4], (n, people)) + 2 * np.eye(3)[truth] * (rng.random((n, people, 1)) < 0.7)
    gp[rng.random((n, people)) < 0.2] = (1, 0, 0)
    gp /= gp.sum(axis=2, keepdims=True)
    gp, dosage, call = gp.astype(np.float32), (gp @ [0, 1, 2]).astype(np.float32), gp.argmax(axis=2).astype(np.int8)
    dosage[9:10], dosage[10:11, 0] = 0.37, 2
    for values, gap in ((truth, -1), (call, -1), (dosage, np.nan), (gp, np.nan)):
        values[rng.random((n, people)) < gaps] = gap
    if gaps:
        truth[12:13] = -1
    quality = np.where(np.arange(n) % 7 == 0, np.nan, rng.random(n)).astype(np.float32)
    return Rows(dosage, truth.astype(np.int8), call, gp, maf, alt_major, np.arange(n) % 4 != 1, quality)


def perfect(rows: Rows) -> Rows:
    truth = rows.truth
    gp = np.where(truth[..., None] < 0, np.nan, np.eye(3)[truth]).astype(np.float32)
    known = np.where(truth < 0, np.nan, truth).astype(np.float32)
    return Rows(known, truth, truth, gp, rows.maf, rows.alt_major, rows.snp, rows.quality)


def of_rows(rows: Rows, index) -> Rows:
    return Rows(*(getattr(rows, f.name)[index] for f in fields(Rows)))


def of_people(rows: Rows, index) -> Rows:
    facts = (rows.maf, rows.alt_major, rows.snp, rows.quality)
    return Rows(rows.dosage[:, index], rows.truth[:, index], rows.call[:, index], rows.gp[:, index], *facts)


def drawn(rows: Rows, weights: np.ndarray) -> Rows:
    """Everybody as often as the weight says."""
    return of_people(rows, np.repeat(np.arange(len(weights)), weights.astype(int)))


def tally_of(*parts: Rows, weights: np.ndarray | None = None, edges=MAF_BINS) -> Tally:
    tally = Tally(np.ones((1, parts[0].truth.shape[1])) if weights is None else weights, edges)
    for part in parts:
        tally.add(part)
    return tally


def in_bin(rows: Rows, name: str) -> np.ndarray:
    if name in ("all", "0"):
        return np.ones(len(rows.maf), bool) if name == "all" else rows.maf == 0
    low, high = map(float, name.split("-"))
    return (rows.maf > low) & (rows.maf <= high)


def corr2(x: list, y: list) -> float:
    """NaN where y does not vary, 0 where only x does not."""
    if len(set(y)) < 2:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1] ** 2) if len(set(x)) > 1 else 0.0


def counting(rows: Rows, i: int) -> list[tuple]:
    """(truth, call, dosage, gp or None) of each genotype of a row that counts."""
    out = []
    for j in range(rows.truth.shape[1]):
        truth, call, dosage = int(rows.truth[i, j]), int(rows.call[i, j]), float(rows.dosage[i, j])
        if truth >= 0 and call >= 0 and not math.isnan(dosage):
            gp = [float(p) for p in rows.gp[i, j]]
            out.append((truth, call, dosage, None if any(map(math.isnan, gp)) else gp))
    return out


def plain_iqs(found: list[tuple]) -> float:
    """Lin et al. 2010: of the table of true genotypes by probabilities, how much is right, how much by chance."""
    table, n = [[0.0] * 3 for _ in range(3)], 0
    for truth, _, _, gp in found:
        if gp is not None:
            n += 1
            for g in range(3):
                table[g][truth] += gp[g]
    if not n:
        return math.nan
    observed = sum(table[g][g] for g in range(3)) / n
    chance = sum(sum(table[g]) * sum(row[g] for row in table) for g in range(3)) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 - 1e-6 else math.nan


def mean(values: list) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def plain_measures(rows: Rows) -> dict[str, float]:
    by_row = [counting(rows, i) for i in range(len(rows.maf))]
    all_of_them = [g for found in by_row for g in found]
    x, y = [], []
    for found, flip in zip(by_row, rows.alt_major, strict=True):
        x += [2 - dosage if flip else dosage for _, _, dosage, _ in found]
        y += [2 - truth if flip else truth for truth, _, _, _ in found]
    r2 = [corr2([g[2] for g in found], [g[0] for g in found]) for found in by_row]
    iqs = [math.nan if math.isnan(r) else plain_iqs(found) for r, found in zip(r2, by_row, strict=True)]
    wrong = sum(truth != call for truth, call, _, _ in all_of_them)
    same_ref = sum(truth == call == 0 for truth, call, _, _ in all_of_them)
    probabilities = [gp[truth] for truth, _, _, gp in all_of_them if gp is not None]
    return {
        "genotypes": len(all_of_them),
        "r2_pooled": corr2(x, y),
        "r2_pooled_alt": corr2([g[2] for g in all_of_them], [g[0] for g in all_of_them]),
        "r2_mean": mean(r2),
        "iqs": mean(iqs),
        "concordance": ratio(len(all_of_them) - wrong, len(all_of_them)),
        "nrd": ratio(wrong, len(all_of_them) - same_ref),
        "cross_entropy": mean([-math.log(max(p, 0.005)) for p in probabilities]),
    }


def same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9, nan_ok=True), name


def test_every_measure_of_every_bin_is_that_of_a_plain_loop():
    rows = made()
    found = dict(tally_of(rows).by_bin())
    assert list(found) == [name for name, _ in bins(MAF_BINS)] and len(found) == 10
    for name, measured in found.items():
        expected = plain_measures(of_rows(rows, in_bin(rows, name)))
        same({m: v[0] for m, v in measured.items()}, expected)
        assert all(v.shape == (1,) for v in measured.values())
        assert not any(map(math.isnan, expected.values()))
    values = {m: v[0] for m, v in found["all"].items()}
    assert abs(values["r2_pooled"] - values["r2_pooled_alt"]) > 0.02, "the ALT-major rows tell them apart"
    assert abs(values["r2_mean"] - values["iqs"]) > 0.02


def test_other_edges_make_other_bins_and_all_has_what_is_outside_of_them():
    rows = made()
    found = dict(tally_of(rows, edges=(0.01, 0.05, 0.2)).by_bin())
    assert list(found) == ["all", "0-0.01", "0.01-0.05", "0.05-0.2"]
    of_bin = {"all": rows.maf >= 0, "0-0.01": rows.maf <= 0.01}
    for name, measured in found.items():
        chosen = of_bin[name] if name in of_bin else in_bin(rows, name)
        same({m: v[0] for m, v in measured.items()}, plain_measures(of_rows(rows, chosen)))
    assert [entry["alleles"] for entry in bin_table(tally_of(rows, edges=(0.01, 0.05, 0.2)))] == [68, 28, 16, 16]


def test_a_frequency_that_is_an_edge_but_for_rounding_is_that_edge():
    rows = made()
    expected = tally_of(rows).rows()["group"]
    for maf in (1 - (1 - rows.maf), rows.maf.astype(np.float32).astype(np.float64)):
        assert (maf > rows.maf).any()
        near = Rows(*(maf if f.name == "maf" else getattr(rows, f.name) for f in fields(Rows)))
        assert (tally_of(near).rows()["group"] == expected).all()


def test_the_frequency_of_a_bin_s_genotypes_is_summed_over_those_that_count():
    rows = made()
    found = tally_of(*(of_rows(rows, part) for part in np.split(np.arange(68), [30]))).maf_sums
    names = [name for name, _ in bins(MAF_BINS)[1:]]
    expected = np.zeros((2, len(names) + 1))
    for i, snp in enumerate(rows.snp):
        group = next(g for g, name in enumerate(names) if in_bin(rows, name)[i])
        expected[int(not snp), group] += rows.maf[i] * counts(rows)[i].sum()
    assert found == pytest.approx(expected)


def test_edges_that_do_not_increase_or_are_no_frequencies_are_refused():
    for edges in ((0, 0.5), MAF_BINS, (0.01, 0.02, 0.5)):
        check_edges(edges)
    for edges in ((), (0.1,), (0, 0.1, 0.1), (0.2, 0.1), (-0.1, 0.5), (0, 0.6), (0, math.nan)):
        with pytest.raises(ConfigError, match="--maf-bins .*increasing edges"):
            check_edges(edges)


def test_a_replicate_is_the_measure_of_people_drawn_as_often_as_its_weights_say():
    rows = made(n=34)
    weights = bootstrap_weights(PEOPLE, 6, seed=1)
    for name, measured in tally_of(rows, weights=weights).by_bin():
        chosen = of_rows(rows, in_bin(rows, name))
        for b, weight in enumerate(weights):
            same({m: v[b] for m, v in measured.items()}, plain_measures(drawn(chosen, weight)))


def test_bootstrap_weights_count_everybody_once_and_then_draw_as_many():
    weights = bootstrap_weights(20, 300, seed=5)
    assert weights.shape == (301, 20)
    assert (weights[0] == 1).all() and (weights.sum(axis=1) == 20).all()
    assert (weights == weights.round()).all() and weights.min() == 0
    assert weights[1:].mean(axis=0) == pytest.approx(np.ones(20), abs=0.25), "nobody is favoured"
    assert weights[1:].var() == pytest.approx(0.95, abs=0.05), "of a binomial of 20 draws"
    assert (weights == bootstrap_weights(20, 300, seed=5)).all()
    assert (weights[1:] != bootstrap_weights(20, 300, seed=6)[1:]).any()
    assert bootstrap_weights(3, 0, seed=1).tolist() == [[1, 1, 1]]


def test_the_truth_against_itself_is_exactly_right():
    rows = perfect(made(seed=8))
    for name, measured in tally_of(rows, weights=bootstrap_weights(PEOPLE, 4, seed=2)).by_bin():
        for m in ("r2_pooled", "r2_pooled_alt", "r2_mean", "iqs", "concordance"):
            assert (measured[m] == 1).all(), (name, m)
        assert (measured["nrd"] == 0).all() and (measured["cross_entropy"] == 0).all()


def test_the_opposite_of_the_truth_is_all_wrong_though_it_correlates():
    rows = perfect(made(seed=8))
    wrong = Rows(2 - rows.dosage, rows.truth, np.where(rows.truth < 0, -1, 2 - rows.truth), rows.gp[..., ::-1],
                 rows.maf, rows.alt_major, rows.snp, rows.quality)  # fmt: skip
    found = {m: v[0] for m, v in dict(tally_of(wrong).by_bin())["all"].items()}
    heterozygous = (rows.truth == 1).sum() / (rows.truth >= 0).sum()
    assert found["r2_mean"] == pytest.approx(1) and found["iqs"] < 0.2
    assert found["concordance"] == pytest.approx(heterozygous)
    assert found["nrd"] == pytest.approx(1 - heterozygous), "no REF/REF matches"
    assert found["cross_entropy"] == pytest.approx(-math.log(LEAST_PROBABILITY) * (1 - heterozygous))


def test_parts_add_up_and_their_order_does_not_matter():
    rows, weights = made(), bootstrap_weights(PEOPLE, 3, seed=2)
    whole = tally_of(rows, weights=weights)
    order = np.random.default_rng(0).permutation(len(rows.maf))
    parts = tally_of(*(of_rows(rows, part) for part in np.split(order, [0, 1, 25])), weights=weights)
    assert (parts.glimpse_bins == whole.glimpse_bins).all() and whole.glimpse_bins.sum() > 100
    for name in ("cells", "dosage_bins", "gp_bins"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    for (name, a), (other, b) in zip(parts.by_bin(), whole.by_bin(), strict=True):
        assert name == other
        same(a, b)
    for name, values in parts.rows().items():
        np.testing.assert_allclose(values, whole.rows()[name][order], rtol=1e-6)


def test_rows_tell_each_row_s_own_measures():
    rows = made()
    found = tally_of(rows, weights=bootstrap_weights(PEOPLE, 2, seed=1)).rows()
    names = [name for name, _ in bins(MAF_BINS)[1:]]
    for i in range(len(rows.maf)):
        expected = plain_measures(of_rows(rows, [i]))
        assert found["r2"][i] == pytest.approx(expected["r2_mean"], rel=1e-5, abs=1e-6, nan_ok=True)
        assert found["iqs"][i] == pytest.approx(expected["iqs"], rel=1e-5, abs=1e-6, nan_ok=True)
        assert in_bin(rows, names[int(found["group"][i])])[i]
    np.testing.assert_array_equal(found["quality"], rows.quality)
    np.testing.assert_array_equal(found["maf"], rows.maf.astype(np.float32))
    assert np.isnan(found["r2"][[5, 6, 12]]).all(), "what does not vary in the truth"
    assert found["r2"][9] == 0, "what varies in the truth alone"
    assert tally_of(of_rows(rows, [])).rows()["r2"].shape == (0,)
    assert Tally(np.ones((1, 2))).rows() == {}


def test_nothing_counts_without_truth_call_and_dosage():
    rows = made(n=4, gaps=0)
    rows.truth[0, 0], rows.call[1, 1], rows.dosage[2, 2] = -1, -1, np.nan
    rows.gp[3, 3, 1] = np.nan
    tally = tally_of(rows)
    found = {m: v[0] for m, v in dict(tally.by_bin())["all"].items()}
    assert found["genotypes"] == 4 * PEOPLE - 3
    assert tally.gp_bins[:, 0].sum() == 3 * (4 * PEOPLE - 4), "a probability is missing as well"
    assert tally.dosage_bins[:, 0].sum() == 4 * PEOPLE - 3
    same(found, plain_measures(rows))


def test_bins_without_a_genotype_are_left_out_and_what_is_undefined_is_nan():
    rows = made(n=3)
    rows.gp[:], rows.truth[0], rows.truth[1] = np.nan, -1, 0
    found = dict(tally_of(rows).by_bin())
    assert list(found) == ["all", "0-0.002"], "row 0 is of frequency 0, and has no truth"
    assert np.isnan([found["all"]["iqs"][0], found["all"]["cross_entropy"][0]]).all(), "without probabilities"
    assert dict(tally_of(of_rows(rows, [])).by_bin()) == {}
    alone = dict(tally_of(of_rows(rows, [1])).by_bin())["all"]
    assert np.isnan([alone[m][0] for m in ("r2_pooled", "r2_pooled_alt", "r2_mean")]).all()
    assert alone["concordance"][0] == (rows.call[1][counts(rows)[1]] == 0).mean()


def counts(rows: Rows) -> np.ndarray:
    return (rows.truth >= 0) & (rows.call >= 0) & ~np.isnan(rows.dosage)


def test_discordance_without_a_carrier_or_a_wrong_call_is_undefined():
    rows = perfect(made(n=2, gaps=0))
    rows.truth[:] = rows.call[:] = rows.dosage[:] = 0
    found = dict(tally_of(rows).by_bin())["all"]
    assert np.isnan(found["nrd"][0]) and found["concordance"][0] == 1


def test_everybody_alone_has_the_pooled_measures_of_a_plain_loop():
    rows = made()
    found = tally_of(rows, weights=bootstrap_weights(PEOPLE, 2, seed=1)).by_sample()
    assert found.keys() == {"genotypes", *POOLED}
    for j in range(PEOPLE):
        expected = plain_measures(of_people(rows, [j]))
        same({m: v[j] for m, v in found.items()}, {m: expected[m] for m in found})


def test_some_of_the_people_have_the_pooled_measures_of_a_plain_loop_of_them():
    rows, weights = made(n=34), bootstrap_weights(PEOPLE, 3, seed=4)
    people = np.arange(PEOPLE) % 3 == 1
    for name, measured in tally_of(rows, weights=weights).by_bin(people):
        chosen = of_rows(rows, in_bin(rows, name))
        for b, weight in enumerate(weights):
            expected = plain_measures(drawn(chosen, weight * people))
            same({m: v[b] for m, v in measured.items()}, {m: expected[m] for m in ("genotypes", *POOLED)})


def test_tallies_of_other_people_join_to_one_of_all_of_them():
    """As in folds: other people, and other rows."""
    first, second = made(n=34, seed=1), made(n=40, people=9, seed=2)
    weights = [bootstrap_weights(PEOPLE, 3, seed=1), bootstrap_weights(9, 3, seed=2)]
    tallies = [tally_of(rows, weights=w) for rows, w in zip((first, second), weights, strict=True)]
    joined = Tally.joined(tallies)
    for name, measured in joined.by_bin():
        for b in range(4):
            chosen = [drawn(of_rows(rows, in_bin(rows, name)), w[b]) for rows, w in zip((first, second), weights,
                                                                                       strict=True)]  # fmt: skip
            expected = plain_measures(side_by_side(*chosen))
            same({m: v[b] for m, v in measured.items()}, expected)
    assert (joined.glimpse_bins == tallies[0].glimpse_bins + tallies[1].glimpse_bins).all()
    for name in ("dosage_bins", "gp_bins"):
        assert (getattr(joined, name) == getattr(tallies[0], name) + getattr(tallies[1], name)).all()
    assert len(joined.rows()["r2"]) == 74 and (joined.rows()["maf"][34:] == second.maf.astype(np.float32)).all()
    assert len(joined.by_sample()["nrd"]) == PEOPLE + 9
    assert joined.by_sample()["nrd"][PEOPLE:] == pytest.approx(tallies[1].by_sample()["nrd"])


def side_by_side(a: Rows, b: Rows) -> Rows:
    """The rows of both, each of its own people: missing in the others."""

    def padded(rows: Rows, before: int, after: int) -> Rows:
        sides = ((0, 0), (before, after))
        values = [np.pad(rows.dosage, sides, constant_values=np.nan)]
        values += [np.pad(v, sides, constant_values=-1) for v in (rows.truth, rows.call)]
        values += [np.pad(rows.gp, (*sides, (0, 0)), constant_values=np.nan)]
        return Rows(*values, rows.maf, rows.alt_major, rows.snp, rows.quality)

    n, m = a.truth.shape[1], b.truth.shape[1]
    both = padded(a, 0, m), padded(b, n, 0)
    return Rows(*(np.concatenate([getattr(part, f.name) for part in both]) for f in fields(Rows)))


def test_calls_by_truth_are_copies_of_the_minor_allele():
    rows = made()
    expected = np.zeros((3, 3), int)
    for i, flip in enumerate(rows.alt_major):
        for truth, call, _, _ in counting(rows, i):
            expected[2 - truth if flip else truth, 2 - call if flip else call] += 1
    cells = tally_of(rows).cells
    found = calls_by_truth(cells.sum(axis=(0, 1)))
    assert found.shape == (3, 3, PEOPLE) and found.dtype == np.int64
    assert found.sum(axis=-1).tolist() == expected.tolist()
    assert len(set(expected.ravel().tolist())) == 9, "so that no two can be mistaken"
    snps = calls_by_truth(cells[0].sum(axis=(0, -1)))
    assert snps.sum() == sum(len(counting(rows, i)) for i in np.flatnonzero(rows.snp))


@pytest.mark.parametrize("edges", [MAF_BINS, (0.01, 0.05, 0.2)])
def test_genotypes_of_the_bins_are_counted_by_the_largest_probability(edges):
    rows = made()
    rows.gp[1, 0] = rows.gp[9, 0] = (0, 1, 0)
    for values in (rows.truth, rows.call, rows.dosage):
        values[1, 0] = values[9, 0] = 1
    expected = np.zeros((2, 2, 100, 3, 2), int)
    for i in np.flatnonzero((rows.maf > edges[0]) & (rows.maf <= edges[-1])):
        flip = int(rows.alt_major[i])
        for truth, _, _, gp in counting(rows, i):
            if gp is not None:
                at = int(np.float32(max(gp)) * np.float32(99))
                wrong = gp.index(max(gp)) != truth
                expected[int(not rows.snp[i]), flip, at, 2 - truth if flip else truth, int(wrong)] += 1
    found = tally_of(rows, edges=edges).glimpse_bins
    assert (found == expected).all()
    assert found[:, :, 99].sum() > 0 and found[..., 1].sum() > 20


def test_calibration_is_of_predicted_dosages_and_probabilities_in_ten_bins():
    rows = made()
    dosage, probability = np.zeros((10, 3)), np.zeros((10, 3))
    for i in range(len(rows.maf)):
        for truth, _, x, gp in counting(rows, i):
            dosage[min(int(x * 5), 9)] += (1, x, truth)
            for g, p in enumerate(gp or ()):
                probability[min(int(p * 10), 9)] += (1, p, truth == g)
    tally = tally_of(rows)
    assert tally.dosage_bins == pytest.approx(dosage, rel=1e-6)
    assert tally.gp_bins == pytest.approx(probability, rel=1e-6)
    found = calibration(tally)
    assert found.keys() == {"quality", "dosage", "probability"} and found["quality"] == quality_table(tally)
    for name, table, top in (("dosage", dosage, 2), ("probability", probability, 1)):
        assert len(found[name]) == 10
        for i, (entry, (n, predicted, true)) in enumerate(zip(found[name], table, strict=True)):
            assert entry == pytest.approx(
                {"low": i * top / 10, "high": (i + 1) * top / 10, "n": n, "predicted": predicted / n, "true": true / n}
            )


def test_the_ends_of_calibration_s_bins_belong_to_the_first_and_the_last():
    rows = perfect(made(gaps=0))
    found = calibration(tally_of(rows))
    n = [int((rows.truth == g).sum()) for g in range(3)]
    assert [(e["low"], e["n"], e["predicted"], e["true"]) for e in found["dosage"]] == [
        (0, n[0], 0, 0), (1, n[1], 1, 1), (1.8, n[2], 2, 2),
    ]  # fmt: skip
    assert [(e["low"], e["n"], e["true"]) for e in found["probability"]] == [(0, 2 * sum(n), 0), (0.9, sum(n), 1)]


def test_a_program_s_own_quality_is_held_against_the_true_one():
    rows = made()
    tally = tally_of(rows)
    found = quality_table(tally)
    of_row = np.array([plain_measures(of_rows(rows, [i]))["r2_mean"] for i in range(len(rows.maf))])
    known = ~np.isnan(of_row) & ~np.isnan(rows.quality)
    assert 0 < known.sum() < len(known)
    assert found["by_maf"].keys() == {name for name, _ in bins(MAF_BINS)}
    for name, entry in found["by_maf"].items():
        at = known & in_bin(rows, name)
        said, true = rows.quality[at].astype(float), of_row[at]
        assert entry["alleles"] == at.sum()
        assert entry["bias"] == pytest.approx((said - true).mean(), abs=1e-5)
        correlation = np.corrcoef(said, true)[0, 1] if at.sum() > 2 else None
        assert entry["correlation"] == pytest.approx(correlation, abs=1e-5)
    tenth = np.minimum((rows.quality[known] * 10).astype(int), 9)
    assert [entry["low"] for entry in found["bins"]] == [i / 10 for i in sorted(set(tenth))]
    for entry, i in zip(found["bins"], sorted(set(tenth)), strict=True):
        said, true = rows.quality[known][tenth == i], of_row[known][tenth == i]
        expected = {"low": i / 10, "high": (i + 1) / 10, "alleles": len(said)}
        assert entry == pytest.approx(expected | {"predicted": said.mean(), "true": true.mean()}, abs=1e-5)


def test_without_a_quality_or_with_one_that_does_not_vary_there_is_no_correlation():
    rows = made()
    rows.quality[:] = 1
    found = quality_table(tally_of(rows))
    assert all(entry["correlation"] is None for entry in found["by_maf"].values())
    assert [(entry["low"], entry["high"]) for entry in found["bins"]] == [(0.9, 1)]
    rows.quality[:] = np.nan
    assert quality_table(tally_of(rows)) == {}


def test_an_interval_is_the_value_and_196_standard_errors():
    values = np.array([0.9, 0.2, 0.3, 0.7, 0.4])
    half = 1.96 * np.sqrt(np.sum((values[1:] - 0.4) ** 2) / 3)
    assert interval(values) == pytest.approx((0.9 - half, 0.9 + half))
    for undefined in ([0.9], [0.9, 0.8], [np.nan, 0.1, 0.2], [0.9, np.nan, 0.2, 0.3]):
        assert np.isnan(interval(np.array(undefined))).all()


def test_the_table_of_bins_has_values_intervals_and_differences():
    rows, weights = made(), bootstrap_weights(PEOPLE, 30, seed=1)
    other = perfect(of_rows(rows, rows.maf > 0))
    tally, reference = tally_of(rows, weights=weights), tally_of(other, weights=weights)
    table = bin_table(tally, reference)
    measured, of_reference = dict(tally.by_bin()), dict(reference.by_bin())
    assert [entry["bin"] for entry in table] == list(measured)
    for entry in table:
        at = in_bin(rows, entry["bin"])
        assert entry["alleles"] == at.sum() and entry["maf"] == pytest.approx(rows.maf[at].mean(), rel=1e-5)
        assert entry["genotypes"] == counts(rows)[at].sum() and type(entry["genotypes"]) is int
        assert entry["measures"].keys() == set(MEASURES)
        for m, found in entry["measures"].items():
            values = measured[entry["bin"]][m]
            assert found == [plain(v) for v in (values[0], *interval(values))]
    assert "difference" not in table[1] and table[1]["bin"] == "0", "the reference has no such rows"
    assert "difference" not in bin_table(tally)[0]
    for entry in table[:1] + table[2:]:
        for m, found in entry["difference"].items():
            both = measured[entry["bin"]][m] - of_reference[entry["bin"]][m]
            assert found == pytest.approx([both[0], *interval(both)])
    assert [found[:3] for found in bin_table(tally, tally)[0]["difference"].values()] == [[0, 0, 0]] * len(MEASURES)


def test_undefined_values_are_none_in_tables():
    rows = made()
    rows.gp[:] = np.nan
    entry = bin_table(tally_of(rows))[0]
    assert entry["measures"]["iqs"] == [None, None, None] == entry["measures"]["cross_entropy"]
    value, low, high = entry["measures"]["nrd"]
    assert 0 < value < 1 and low is high is None, "without bootstrap samples"


def test_tables_of_populations_and_samples():
    rows, weights = made(), bootstrap_weights(PEOPLE, 5, seed=1)
    tally = tally_of(rows, weights=weights)
    names = ["YRI" if j % 3 else "CEU" for j in range(PEOPLE)]
    found = population_table(tally, names)
    assert list(found) == ["CEU", "YRI"]
    for name, table in found.items():
        people = np.array(names) == name
        measured = dict(tally.by_bin(people))
        assert [entry["bin"] for entry in table] == list(measured)
        for entry in table:
            assert entry["people"] == people.sum() and entry["measures"].keys() == set(POOLED)
            expected = plain_measures(of_people(of_rows(rows, in_bin(rows, entry["bin"])), people))
            for m, found_values in entry["measures"].items():
                values = measured[entry["bin"]][m]
                assert found_values[0] == pytest.approx(expected[m], rel=1e-6)
                assert found_values == [plain(v) for v in (values[0], *interval(values))]
    samples = [f"S{j}" for j in range(PEOPLE)]
    table = sample_table(tally, samples)
    assert [entry.pop("sample") for entry in table] == samples
    for j, entry in enumerate(table):
        expected = plain_measures(of_people(rows, [j]))
        assert entry == pytest.approx({m: plain(expected[m]) for m in ("genotypes", *POOLED)}, rel=1e-6)


HEADER = """##fileformat=VCFv4.2
##contig=<ID=20>
##INFO=<ID=DR2,Number=A,Type=Float,Description="">
##FORMAT=<ID=GT,Number=1,Type=String,Description="">
##FORMAT=<ID=DS,Number=A,Type=Float,Description="">
##FORMAT=<ID=GP,Number=G,Type=Float,Description="">
"""


def imputed_file(path, samples: str, *records: str):
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples.split()]
    lines = ["\t".join(columns), *("\t".join(record.split()) for record in records)]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def test_a_file_is_scored_by_name_at_the_chosen_rows(tmp_path):
    path = imputed_file(
        tmp_path / "out.vcf",
        "B extra A",
        "20 10 . A C . . DR2=0.9 GT:DS:GP 0|1:0.9:0.2,0.7,0.1 1|1:2:0,0,1 0|0:0.1:0.9,0.1,0",
        "20 20 . A C,G . . DR2=0.4,0.3 GT:DS 1|2:1,1 0|0:0,0 2|2:0,2",
        "20 30 . AT A . . DR2=0.6 GT:DS 0|1:1 0|0:0 1|1:1.5",
        "20 40 . G C . . . GT 0|1 0|0 1|1",
    )
    keys = [("20", 30, "AT", "A"), ("20", 10, "A", "C"), ("20", 20, "A", "G"), ("20", 40, "G", "T")]
    copies = np.array([[2, 0], [0, 1], [2, 2], [0, 0]], np.int8)
    truth = Truth(
        ("A", "B"), {key: i for i, key in enumerate(keys)}, copies, np.array([0.3, 0.01, 0.1, 0.2]),
        np.array([True, False, False, False]), np.array([False, True, True, True]),
    )  # fmt: skip
    assert rows_written(path, truth, 1).tolist() == [True, True, True, False]
    tally = score(path, truth, np.array([True, True, True, True]), np.ones((1, 2)), MAF_BINS, 1)
    expected = Rows(
        np.float32([[0.1, 0.9], [2, 1], [1.5, 1]]), copies[[1, 2, 0]], np.int8([[0, 1], [2, 1], [2, 1]]),
        np.float32([[[0.9, 0.1, 0], [0.2, 0.7, 0.1]], *np.full((2, 2, 3), np.nan)]), truth.maf[[1, 2, 0]],
        truth.alt_major[[1, 2, 0]], truth.snp[[1, 2, 0]], np.float32([0.9, 0.3, 0.6]),
    )  # fmt: skip
    assert (tally.cells == tally_of(expected).cells).all()
    for name, values in tally.rows().items():
        np.testing.assert_array_equal(values, tally_of(expected).rows()[name])
    assert tally.rows()["quality"].tolist() == np.float32([0.9, 0.3, 0.6]).tolist(), "in the order of the file"
    part = score(path, truth, np.array([False, True, False, True]), np.ones((1, 2)), MAF_BINS, 1)
    assert (part.cells == tally_of(of_rows(expected, [0])).cells).all()
    lacking = Truth(("A", "Z"), *(getattr(truth, f.name) for f in fields(Truth)[1:]))
    with pytest.raises(InputError, match="lacks 1 of 2 samples .Z."):
        score(path, lacking, np.ones(4, bool), np.ones((1, 2)), MAF_BINS, 1)
