"""Imputation from end to end: files in, files out, against the known truth and against itself."""

import logging
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from conftest import (
    ALL,
    EXAMPLES,
    FAST_SWITCHING,
    GIVEN,
    Record,
    alt_counts,
    bcftools,
    impute,
    matrix,
    needs,
    r2,
    read_rows,
    run_cli,
    same_files,
)

from npimpute.context.windows import WindowSize, cut_windows
from npimpute.engine import parameters
from npimpute.engine.li_stephens import LiStephens
from npimpute.panel.genetic_map import read_genetic_map
from npimpute.panel.panel import open_panel
from npimpute.vcf.read import read_targets


def is_typed(rows):
    """(rows of all ALT alleles,) bool."""
    return np.repeat(["TYPED" in row.info for row in rows], [row.alt.count(",") + 1 for row in rows])


def lines(path, columns=None):
    return [line.split("\t")[:columns] for line in bcftools("view", "-H", path).splitlines()]


def test_common_untyped_sites_are_imputed_as_the_truth_is(data, whole):
    rows = read_rows(whole)
    imputed, truth = matrix(rows), alt_counts(data.truth.records)
    frequency = alt_counts(data.panel.records).mean(axis=1) / 2
    common = (np.minimum(frequency, 1 - frequency) > 0.1) & ~is_typed(rows)
    assert common.sum() > 300
    assert r2(imputed[common], truth[common]) > 0.95
    multi = np.repeat(["," in row.alt for row in rows], [row.alt.count(",") + 1 for row in rows])
    assert r2(imputed[multi], truth[multi]) > 0.85
    indel = np.repeat([len(row.ref) > 1 for row in rows], [row.alt.count(",") + 1 for row in rows])
    assert r2(imputed[indel], truth[indel]) > 0.85


def test_every_panel_record_comes_back_once_in_order_as_it_was_named(data, whole):
    names = [(r.contig, r.pos, r.name, r.ref, r.alt) for r in data.panel.records]
    assert [(r.contig, r.pos, r.name, r.ref, r.alt) for r in read_rows(whole)] == names


def test_estimated_parameters_are_as_good_as_given_ones(data, tmp_path):
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", ne=None, err=None))
    assert r2(matrix(rows)[~is_typed(rows)], alt_counts(data.truth.records)[~is_typed(rows)]) > 0.93


def test_observed_genotypes_come_back_and_missing_ones_are_filled(data, whole):
    chip = {record.key: record for record in data.target.records}
    truth = {record.key: record for record in data.truth.records}
    typed = [row for row in read_rows(whole) if "TYPED" in row.info]
    assert len(typed) == len(chip) - 3
    filled = []
    for row in typed:
        observed, written = chip[row.key].alleles, row.fields["GT"]
        alleles = np.array([int(a) for call in written for a in call.split("|")])
        known = observed >= 0
        assert (alleles[known] == observed[known]).all(), row.key
        dosage = row.numbers("AP1")[:, 0], row.numbers("AP2")[:, 0]
        assert (np.stack(dosage, 1).ravel()[known] == observed[known]).all()
        assert ("IMP" in row.info) == (not known.all())
        filled += (alleles == truth[row.key].alleles)[~known].tolist()
    assert len(filled) > 30
    assert np.mean(filled) > 0.9


def test_impute_typed_lets_the_model_overrule_a_wrong_genotype(data, tmp_path):
    at = 40
    wrong = replace(data.target, records=list(data.target.records))
    record = wrong.records[at]
    wrong.records[at] = record.with_alleles(np.where(np.arange(16) == 4, 1 - record.alleles, record.alleles))
    options = {"target": wrong.save(tmp_path / "chip.vcf.gz"), "err": 0.02, "formats": ALL}
    kept = read_rows(impute(data, tmp_path / "kept.vcf.gz", **options))
    seen = read_rows(impute(data, tmp_path / "seen.vcf.gz", keep_typed=False, **options))
    typed = [(a, b) for a, b in zip(kept, seen, strict=True) if "TYPED" in a.info]
    assert all(a == b for a, b in zip(kept, seen, strict=True) if "TYPED" not in a.info)
    assert all("IMP" in b.info and b.info["ER2"] == a.info["ER2"] for a, b in typed)
    ours, theirs = next((a, b) for a, b in typed if a.key == record.key)
    assert ours.numbers("AP1")[2, 0] == 1 - record.alleles[4]
    assert abs(theirs.numbers("AP1")[2, 0] - record.alleles[4]) < 0.2
    assert any((b.numbers("DS") % 1 != 0).any() for _, b in typed)


@pytest.mark.parametrize("kind", ["chip.bcf", "chip.vcf"])
def test_targets_of_any_kind_give_the_same_bytes(data, whole, tmp_path, kind):
    target = data.target.save(tmp_path / kind)
    assert same_files(impute(data, tmp_path / "out.vcf.gz", target=target, formats=ALL), whole)


@pytest.mark.parametrize("suffix", [".vcf.gz", ".bcf"])
def test_threads_do_not_change_a_byte(data, tmp_path, suffix):
    estimated = {"ne": None, "err": None, "core_cm": 6.0}
    one = impute(data, tmp_path / f"one{suffix}", threads=1, **estimated)
    assert same_files(one, impute(data, tmp_path / f"two{suffix}", threads=2, **estimated))


@pytest.mark.parametrize("n_samples", [37, 47, 49, 51, 53, 57])
def test_the_same_input_gives_the_same_bits_each_time(data, n_samples):
    wanted = set(data.panel.samples[:n_samples])
    targets = read_targets(data.chip).by_contig["20"]
    chunks, genetic_map = open_panel(data.ref, None, wanted), read_genetic_map(data.map)
    window = next(cut_windows(chunks, targets, genetic_map, WindowSize(20.0, 2.0)))
    engine = LiStephens(**GIVEN)
    # Scratch memory comes to lie at other addresses when more is in use.
    results, in_use = set(), []
    for size in range(20):
        in_use.append(np.empty(37 * size + 1, np.float32))
        results.add(engine.impute(window).tobytes())
    assert len(results) == 1


@needs("bcftools")
def test_bcf_and_plain_vcf_say_what_vcf_gz_says(data, whole, tmp_path):
    for name in ("out.bcf", "out.vcf"):
        assert lines(impute(data, tmp_path / name, formats=ALL)) == lines(whole)


@pytest.mark.parametrize("core_cm", [1.0, 3.0])
def test_windows_give_what_one_window_gives(data, fast_rows, tmp_path, core_cm):
    cut = read_rows(impute(data, tmp_path / "cut.vcf.gz", core_cm=core_cm, **FAST_SWITCHING))
    assert [row.key for row in cut] == [row.key for row in fast_rows]
    assert np.abs(matrix(cut) - matrix(fast_rows)).max() < 2e-3
    bare = read_rows(impute(data, tmp_path / "bare.vcf.gz", core_cm=core_cm, ne=10_000.0, flank_cm=0.0))
    assert [row.key for row in bare] == [row.key for row in fast_rows]
    assert np.abs(matrix(bare) - matrix(fast_rows)).max() > 0.05, "flanks would not matter here"


@pytest.mark.parametrize("region", ["20:700000-1600000", "chr20:700000-1600000"])
def test_contig_names_may_differ_by_their_prefix(data, tmp_path, region):
    target = data.target.renamed({"20": "chr20"}).save(tmp_path / "chip.vcf.gz")
    ours = impute(data, tmp_path / "ours.vcf.gz", region="20:700000-1600000")
    assert same_files(ours, impute(data, tmp_path / "theirs.vcf.gz", target=target, region=region))


def test_min_r2_leaves_out_poor_untyped_sites_only(data, whole, tmp_path):
    limit = 0.9
    kept = read_rows(impute(data, tmp_path / "out.vcf.gz", min_r2=limit, formats=ALL))
    wanted = [row for row in read_rows(whole) if "TYPED" in row.info or row.floats("DR2").max() >= limit]
    assert len(data.target.records) < len(kept) < len(data.panel.records) - 20
    assert kept == wanted


@pytest.mark.parametrize("core_cm", [20.0, 2.0])
def test_all_typed_sites_adds_the_target_s_own_sites_as_they_were(data, tmp_path, core_cm):
    ends = [Record("20", pos, "end", "C", "T", ("0|1",) * 7 + (".|1",)) for pos in (10, 4_900_000)]
    records = [ends[0], *data.target.records, ends[1]]
    target = replace(data.target, records=records).save(tmp_path / "chip.vcf.gz")
    options = {"target": target, "core_cm": core_cm, "formats": ALL}
    plain = read_rows(impute(data, tmp_path / "plain.vcf.gz", **options))
    rows = read_rows(impute(data, tmp_path / "all.vcf.gz", all_typed_sites=True, **options))
    panel = {record.key for record in data.panel.records}
    own = [row for row in rows if row.key not in panel]
    assert [row for row in rows if row.key in panel] == plain
    assert [row.pos for row in rows] == sorted(row.pos for row in rows)
    theirs = [record for record in records if record.key not in panel]
    assert len(theirs) == 5
    assert [(row.key, row.name, tuple(row.fields["GT"])) for row in own] == [(r.key, r.name, r.calls) for r in theirs]
    assert all("TYPED" in row.info and "IMP" not in row.info and "ER2" not in row.info for row in own)
    np.testing.assert_array_equal(matrix(own), alt_counts(theirs))


@needs("bcftools")
@pytest.mark.parametrize("suffix", [".vcf.gz", ".bcf"])
def test_sites_only_file_has_the_same_sites_and_info(data, tmp_path, suffix):
    sites = tmp_path / f"sites{suffix}"
    options = {"min_r2": 0.3, "all_typed_sites": True, "core_cm": 4.0}
    out = impute(data, tmp_path / "out.vcf.gz", sites_only=sites, **options)
    assert lines(sites) == lines(out, columns=8)
    assert "FORMAT" not in bcftools("view", "-h", sites).splitlines()[-1]
    assert bcftools("index", "-s", sites).split()[2] == str(len(lines(out)))


def test_sample_quality_tells_a_shuffled_sample(data, tmp_path):
    rng = np.random.default_rng(1)
    order = rng.permutation(len(data.target.records) - 3)
    chip = [r for r in data.target.records if not r.name.startswith("own")]
    records = [r.with_call(3, chip[i].calls[3]) for r, i in zip(chip, order, strict=True)]
    target = replace(data.target, records=records).save(tmp_path / "chip.vcf.gz")
    impute(data, tmp_path / "out.vcf.gz", target=target, sample_quality=tmp_path / "q.tsv", core_cm=5.0)
    header, *table = [line.split("\t") for line in (tmp_path / "q.tsv").read_text().splitlines()]
    assert header == ["sample", "typed", "filled", "concordance", "r2", "confidence"]
    assert [row[0] for row in table] == data.target.samples
    values = np.array([row[1:] for row in table], float)
    assert (values[:, 0] + values[:, 1] == len(records)).all()
    assert values[:, 1].tolist() == [sum("." in r.calls[i] for r in records) for i in range(8)]
    assert ((values[:, 2:] >= 0) & (values[:, 2:] <= 1)).all()
    good = np.delete(values, 3, axis=0)
    assert values[3, 3] < 0.5 < 0.85 < good[:, 3].min()
    assert values[3, 2] < good[:, 2].min() and values[3, 4] < good[:, 4].min()


def test_fields_agree_with_each_other(whole):
    for row in read_rows(whole):
        first, second, dosage = row.numbers("AP1"), row.numbers("AP2"), row.numbers("DS")
        n_alt = row.alt.count(",") + 1
        np.testing.assert_array_equal(row.numbers("HDS"), np.concatenate([first, second], axis=1))
        np.testing.assert_allclose(dosage, first + second, atol=1.6e-3)
        genotypes = [(a, b) for b in range(n_alt + 1) for a in range(b + 1)]
        gp = row.numbers("GP")
        assert gp.shape == (8, len(genotypes))
        np.testing.assert_allclose(gp.sum(axis=1), 1, atol=5e-3)
        for a in range(n_alt):
            copies = np.array([genotype.count(a + 1) for genotype in genotypes])
            np.testing.assert_allclose(gp @ copies, dosage[:, a], atol=5e-3)
        for haplotype, p in enumerate((first, second)):
            best = np.argmax(np.column_stack([1 - p.sum(axis=1), p]), axis=1)
            called = np.array([int(call.split("|")[haplotype]) for call in row.fields["GT"]])
            certain = np.abs(np.sort(np.column_stack([1 - p.sum(1), p]))[:, -2:] @ [-1, 1]) > 2e-3
            assert (called == best)[certain].all()


@pytest.mark.parametrize("formats", [("DS",), ("GT",), ("HDS", "GP"), ("GT", "AP", "DS")])
def test_fields_asked_for_are_those_written(data, whole, tmp_path, formats):
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", formats=formats))
    wanted = {key for name in formats for key in (("AP1", "AP2") if name == "AP" else (name,))}
    for row, full in zip(rows, read_rows(whole), strict=True):
        assert row == replace(full, fields={key: value for key, value in full.fields.items() if key in wanted})


def test_given_parameters_are_used(data, whole, tmp_path):
    args = ["run", "--ref", data.ref, "--target", data.chip, "--map", data.map, "--threads", 1]
    args += ["--engine", "li-stephens", "--format"]
    both = ["GT,DS,HDS,GP,AP", "--ne", GIVEN["ne"], "--err", GIVEN["err"]]
    status, _, log = run_cli(*args, *both, "--out", tmp_path / "both.vcf.gz")
    assert status == 0 and "estimated" not in log
    assert same_files(tmp_path / "both.vcf.gz", whole)
    assert not same_files(impute(data, tmp_path / "ne.vcf.gz", ne=3e4, formats=ALL), whole)
    assert not same_files(impute(data, tmp_path / "err.vcf.gz", err=0.05, formats=ALL), whole)


def test_one_given_parameter_is_used_as_given_while_the_other_is_estimated(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    one = impute(data, tmp_path / "one.vcf.gz", ne=1234.5, err=None, formats=("HDS",))
    err = float(caplog.text.partition("error rate ")[2].split()[0])
    assert same_files(one, impute(data, tmp_path / "both.vcf.gz", ne=1234.5, err=err, formats=("HDS",)))


def test_seed_chooses_the_haplotypes_that_are_estimated_from(data, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "MOST_PEOPLE", 1)
    files = [impute(data, tmp_path / f"{i}.vcf.gz", ne=None, err=None, seed=s) for i, s in enumerate((5, 5, 6))]
    assert same_files(files[0], files[1])
    assert not same_files(files[0], files[2])


def test_log_goes_to_stderr_and_to_the_file_and_nothing_to_stdout(data, tmp_path):
    (tmp_path / "log.txt").write_text("before\n")
    args = ["run", "--ref", data.ref, "--target", data.chip, "--out", tmp_path / "out.vcf.gz", "--format", "gt,ds"]
    status, printed, log = run_cli(*args, "--log", tmp_path / "log.txt", "--threads", 2)
    assert (status, printed) == (0, "")
    assert (tmp_path / "log.txt").read_text() == "before\n" + log
    assert all(line.startswith(("I ", "W ")) for line in log.splitlines()), log
    assert "\r" not in log
    assert "genetic map: none given, so 1 cM/Mb is used" in log
    assert f"{len(data.panel.records)} sites read" in log
    assert f"{len(data.target.records) - 3} found in the panel" in log and "3 position not in the panel" in log
    holes = sum(any("." in call for call in r.calls) for r in data.target.records if not r.name.startswith("own"))
    assert f"{holes} typed sites had missing genotypes" in log
    assert read_rows(tmp_path / "out.vcf.gz")[0].fields.keys() == {"GT", "DS"}


def test_overwrite_replaces_the_output_and_every_old_index(data, whole, tmp_path):
    out = tmp_path / "out.vcf.gz"
    for name in ("out.vcf.gz", "out.vcf.gz.csi", "out.vcf.gz.tbi"):
        (tmp_path / name).write_text("old")
    impute(data, out, formats=ALL, overwrite=True)
    assert same_files(out, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.vcf.gz", "out.vcf.gz.tbi"]


def test_nothing_but_what_was_asked_for_is_written(data, tmp_path):
    impute(data, tmp_path / "a.vcf.gz", sites_only=tmp_path / "s.bcf", sample_quality=tmp_path / "q.tsv")
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"a.vcf.gz", "a.vcf.gz.tbi", "s.bcf", "s.bcf.csi", "q.tsv"}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Rows of the example imputed with defaults, and the truth's ALT counts."""
    from npimpute.config import RunConfig
    from npimpute.pipeline import run

    out = tmp_path_factory.mktemp("example") / "out.vcf.gz"
    names = {"ref": "panel.vcf.gz", "target": "chip.vcf.gz", "map": "map.txt"}
    run(RunConfig(**{key: EXAMPLES / name for key, name in names.items()}, out=out, formats=("GT", "DS", "HDS")))
    truth = [
        Record(row.contig, row.pos, row.name, row.ref, row.alt, tuple(row.fields["GT"]))
        for row in read_rows(EXAMPLES / "truth.vcf.gz")
    ]
    rows = read_rows(out)
    assert [row.key for row in rows] == [record.key for record in truth]
    return rows, alt_counts(truth)


def test_example_reaches_its_accuracy(example):
    rows, truth = example
    untyped = ~is_typed(rows)
    assert r2(matrix(rows)[untyped], truth[untyped]) > 0.97
    quality = np.concatenate([row.floats("DR2") for row in rows])
    assert r2(matrix(rows)[untyped & (quality > 0.8)], truth[untyped & (quality > 0.8)]) > 0.983


def test_statistics_follow_from_the_probabilities(example):
    for row in example[0]:
        n_alt = row.alt.count(",") + 1
        p = row.numbers("HDS").reshape(-1, 2, n_alt).reshape(-1, n_alt)
        n, total, squares = len(p), p.sum(axis=0), (p**2).sum(axis=0)
        assert ("ER2" in row.info) == ("TYPED" in row.info)
        assert row.info["NH"] == "60" and row.info["R2"] == row.info["DR2"]
        np.testing.assert_allclose(row.floats("AF"), total / n, atol=5e-4)
        np.testing.assert_allclose(row.floats("SP"), total, atol=n * 5e-4)
        np.testing.assert_allclose(row.floats("SPQ"), total - squares, atol=n * 1e-3)
        q, exact, spread = total / n, row.floats("SP"), row.floats("SPQ")
        expected = exact * (1 - exact / n)
        known = (expected > 1e-3) & (q < 0.99)
        np.testing.assert_allclose(row.floats("DR2")[known], 1 - spread[known] / expected[known], atol=2e-4)
        for a in np.flatnonzero((q > 0.05) & (q < 0.95)):
            # e = GP1 + 2 GP2, f = GP1 + 4 GP2, from the probabilities of the two haplotypes, which are rounded: the
            # many small ones of a rare allele all to 0.
            one, two = p[0::2, a] + p[1::2, a] - 2 * p[0::2, a] * p[1::2, a], p[0::2, a] * p[1::2, a]
            info = 1 - (one + 4 * two - (one + 2 * two) ** 2).sum() / (n * q[a] * (1 - q[a]))
            dr2 = (squares[a] - total[a] ** 2 / n) / (total[a] - total[a] ** 2 / n)
            assert row.floats("DR2")[a] == pytest.approx(dr2, abs=5e-3)
            assert row.floats("INFO")[a] == pytest.approx(info, abs=5e-3)


def test_batches_of_samples_add_up_to_the_whole(data, whole, tmp_path):
    parts = []
    for name, index in (("a", [0, 1, 2, 3]), ("b", [4, 5, 6, 7])):
        target = data.target.columns(index).save(tmp_path / f"{name}-chip.vcf.gz")
        parts.append(read_rows(impute(data, tmp_path / f"{name}.vcf.gz", target=target, formats=ALL)))
    for row, a, b in zip(read_rows(whole), *parts, strict=True):
        assert row.fields == {key: a.fields[key] + b.fields[key] for key in row.fields}
        n, total, spread = (a.floats(key) + b.floats(key) for key in ("NH", "SP", "SPQ"))
        for key, value in (("NH", n), ("SP", total), ("SPQ", spread), ("AF", total / n)):
            np.testing.assert_allclose(row.floats(key), value, rtol=2e-5, atol=2e-6)
        expected = total * (1 - total / n)
        known = expected > 1e-3
        np.testing.assert_allclose(row.floats("DR2")[known], 1 - spread[known] / expected[known], atol=1e-3)


@needs("bcftools")
@pytest.mark.parametrize("suffix", [".vcf.gz", ".bcf"])
def test_bcftools_takes_the_output_without_a_warning(data, tmp_path, suffix):
    out = impute(data, tmp_path / f"out{suffix}", formats=ALL, all_typed_sites=True)
    assert len(bcftools("view", "-H", out).splitlines()) == len(data.panel.records) + 3
    assert bcftools("index", "-s", out).split()[::2] == ["20", str(len(data.panel.records) + 3)]
    found = bcftools("view", "-H", "-r", "20:700000-1600000", out).splitlines()
    assert len(found) > 200
    assert bcftools("stats", out)


@needs("plink2")
@needs("bcftools")
def test_plink2_takes_the_dosages_without_a_warning(data, whole, tmp_path):
    # plink2 has no multi-allelic dosages.
    bcftools("view", "-M", 2, "-Oz", "-o", tmp_path / "two.vcf.gz", whole)
    command = ["plink2", "--vcf", tmp_path / "two.vcf.gz", "dosage=DS", "--freq", "--out", tmp_path / "p"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr
    table = [line.split() for line in (tmp_path / "p.afreq").read_text().splitlines()]
    at = table[0].index("ALT_FREQS")
    theirs = np.array([float(line[at]) for line in table[1:]])
    ours = np.concatenate([row.floats("AF") for row in read_rows(whole) if "," not in row.alt])
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


def test_what_the_targets_have_where_the_panel_has_nothing_changes_nothing(data, whole, tmp_path):
    records = []
    for record in data.target.records:
        changed = record.name.startswith("own")
        records.append(record.with_alleles((record.alleles <= 0).astype(int)) if changed else record)
    assert records != data.target.records
    target = replace(data.target, records=records).save(tmp_path / "chip.vcf.gz")
    assert same_files(impute(data, tmp_path / "out.vcf.gz", target=target, formats=ALL), whole)


def test_the_order_of_the_panel_s_samples_does_not_matter(data, whole, tmp_path):
    order = np.random.default_rng(3).permutation(60).tolist()
    ref = data.panel.columns(order).save(tmp_path / "panel.vcf.gz")
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", ref=ref))
    assert np.abs(matrix(rows) - matrix(read_rows(whole))).max() < 1.5e-3
