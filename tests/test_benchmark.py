"""``npimpute benchmark`` and ``npimpute concordance``, end to end on small data, and the peers where they are."""

import csv
import gzip
import json
import math
import subprocess
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from conftest import alt_counts, contents, expect_refusal, matrix, needs, read_rows, run_forked

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

GIVEN = "--engine li-stephens --ne 1e5 --err 1e-3"
ALONE = ["--engines", "none", "--peers", "none"]


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """Paths by name: panel, truth, array and map of conftest's data; people, a table of two populations."""
    folder = tmp_path_factory.mktemp("files")
    records = [record for record in data.target.records if not record.name.startswith("own")]
    (folder / "array.pos").write_text("".join(f"{record.contig} {record.pos}\n" for record in records))
    names = data.truth.samples
    (folder / "people.txt").write_text("sample pop\n" + "".join(f"{n} {'AB'[i % 2]}\n" for i, n in enumerate(names)))
    truth = data.truth.save(folder / "truth.vcf.gz")
    paths = {"panel": data.ref, "truth": truth, "array": folder / "array.pos", "map": data.map}
    return paths | {"people": folder / "people.txt"}


def imputation(files, out, *words):
    given = ["--panel", files["panel"], "--array", files["array"], "--map", files["map"], "--bootstrap", "20"]
    return ["benchmark", "imputation", *given, "--threads", "2", "--out", out, *words]


@pytest.fixture(scope="module")
def first(files, tmp_path_factory):
    """The directory of a benchmark of two runs, its terminal output and its log."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    runs = ["--run", f"given={GIVEN}", "--run", f"other err={GIVEN} --seed 2 --err=0.05"]
    words = imputation(files, out, "--truth", files["truth"], "--populations", files["people"], *ALONE, *runs)
    status, printed, log = run_forked(*words)
    assert status == 0, log
    return out, printed, log, words


def results(out):
    return json.loads((out / "results.json").read_text())


def test_it_leaves_tables_plots_and_a_page(first):
    out, printed, _, _ = first
    names = {path.name for path in out.iterdir()}
    tables = {"results.json", "results.tsv", "samples.tsv", "programs.tsv", "report.html", "settings.json"}
    assert tables | {"r2_by_maf.png", "calibration.png", "time_accuracy.png"} <= names
    assert all(path.stat().st_size for path in out.iterdir() if path.is_file())
    assert "given" in printed and "other err" in printed and "r2 by MAF" in printed


def test_the_measures_are_those_of_the_file_that_was_written(first, files, data):
    out, *_ = first
    entry = results(out)["programs"][0]
    rows = read_rows(out / "runs" / "fold1" / "given" / "imputed.vcf.gz")
    typed = np.repeat(["TYPED" in row.info for row in rows], [row.alt.count(",") + 1 for row in rows])
    x, y = matrix(rows)[~typed], alt_counts(data.truth.records)[~typed]
    frequency = np.concatenate(
        [[np.mean(r.alleles == a + 1) for a in range(r.alt.count(",") + 1)] for r in data.panel.records]
    )[~typed]
    assert results(out)["compared"] == len(x) == entry["bins"][0]["alleles"]
    flip = (frequency > 0.5)[:, None]
    minor_x, minor_y = np.where(flip, 2 - x, x), np.where(flip, 2 - y, y)
    measures = {name: values[0] for name, values in entry["bins"][0]["measures"].items()}
    assert measures["r2_pooled"] == pytest.approx(np.corrcoef(minor_x.ravel(), minor_y.ravel())[0, 1] ** 2)
    assert measures["r2_pooled_alt"] == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1] ** 2)


def test_tables_say_what_the_json_says(first):
    out, *_ = first
    with open(out / "results.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    told = {(r["program"], r["population"], r["bin"], r["measure"]): float(r["value"]) for r in rows}
    for entry in results(out)["programs"]:
        for part in entry["bins"]:
            for name, (value, _, _) in part["measures"].items():
                found = told[entry["name"], "all", part["bin"], name]
                assert math.isnan(found) if value is None else found == pytest.approx(value, rel=1e-5)
        assert {(entry["name"], name, "all", "r2_pooled") for name in "AB"} <= told.keys()
    with open(out / "samples.tsv") as file:
        assert [row["sample"] for row in csv.DictReader(file, delimiter="\t")] == [f"T{i}" for i in range(8)] * 2


def test_runs_that_are_done_are_kept_and_others_added(first):
    out, printed, log, words = first
    assert log.count(": impute\n") == 2
    outputs = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("imputed.vcf.gz")}
    before = results(out)
    status, _, log = run_forked(*words, "--run", "third=--engine knn")
    assert status == 0 and log.count(": impute\n") == 1
    assert {path: path.stat().st_mtime_ns for path in outputs} == outputs
    after = results(out)
    assert [entry["name"] for entry in after["programs"]] == ["given", "other_err", "third"]
    assert after["programs"][:2] == before["programs"]


def test_an_unfinished_run_is_done_again(first):
    out, _, _, words = first
    place = out / "runs" / "fold1" / "given"
    (place / "imputed.vcf.gz").unlink()
    status, _, log = run_forked(*words)
    assert status == 0 and "given, fold1: impute\n" in log and "other err, fold1: impute" not in log


def test_other_data_are_refused_where_a_benchmark_is(first, files):
    out, _, _, words = first
    status, _, log = run_forked(*words, "--seed", "5")
    assert status == 2 and "another --seed" in log.splitlines()[-1]


def test_people_are_taken_out_of_the_panel(files, tmp_path):
    out = tmp_path / "out"
    words = imputation(files, out, "--targets", 5, "--folds", 2, *ALONE, "--run", f"a={GIVEN}")
    status, _, log = run_forked(*words)
    assert status == 0, log
    found = results(out)
    assert [part["targets"] for part in found["data"]] == [5, 5]
    assert [part["haplotypes"] for part in found["data"]] == [110, 110]
    names = [row["sample"] for row in found["programs"][0]["samples"]]
    assert len(set(names)) == 10
    for fold in (1, 2):
        with gzip.open(out / "data" / f"fold{fold}" / "panel.vcf.gz", "rt") as file:
            header = next(line for line in file if line.startswith("#CHROM")).split()
        assert not set(header) & set(names[5 * fold - 5 : 5 * fold])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--truth", "PANEL"], ("60 of its 60 samples are in the panel", "P0")),
        (["--targets", "60"], ("--targets 60",)),
        (["--truth", "TRUTH", "--targets", "3"], ("--truth",)),
        (["--truth", "TRUTH", "--peers", "impute6"], ("--peers impute6",)),
        (["--truth", "TRUTH", "--engines", "best"], ("--engines best",)),
        (["--truth", "TRUTH", "--run", "a=--ref x"], ("--ref is set by the benchmark",)),
        (["--truth", "TRUTH", "--run", f"a={GIVEN}", "--run", f"a={GIVEN}"], ("named twice",)),
        (["--truth", "TRUTH", "--populations", "ARRAY"], ("line 2", "two populations")),
        (["--truth", "TRUTH", "--region", "21", "--run", f"a={GIVEN}"], ("no contig 21",)),
        (["--truth", "TRUTH", "--program", "beagle=x"], ("--program beagle",)),
        (["--truth", "MISSING"], ("cannot be read",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line_and_leave_nothing(files, tmp_path, words, expected):
    places = {"PANEL": files["panel"], "TRUTH": files["truth"], "ARRAY": files["array"], "MISSING": tmp_path / "no.vcf"}
    words = [places.get(word, word) for word in words]
    expect_refusal(tmp_path, imputation(files, tmp_path / "out", *ALONE, "--run", f"b={GIVEN}", *words), *expected)


def test_an_array_of_another_build_is_refused(files, tmp_path):
    (tmp_path / "array.pos").write_text("20 17\n20 23\n")
    words = imputation(files, tmp_path / "out", "--truth", files["truth"], "--run", f"a={GIVEN}", *ALONE)
    expect_refusal(tmp_path, [*words, "--array", tmp_path / "array.pos"], "none of its 2 sites", "genome build")


def test_time_and_memory_against_sizes(files, tmp_path):
    out = tmp_path / "out"
    grows = ["--panel-sizes", "20,40", "--target-counts", "2,5", "--contexts", "2,6"]
    words = ["--panel", files["panel"], "--array", files["array"], "--map", files["map"], *grows, "--out", out]
    status, printed, log = run_forked("benchmark", "scaling", *words, *ALONE, "--run", "k=--engine knn")
    assert status == 0, log
    axes = results(out)["axes"]
    assert {axis: [p["x"] for p in entries[0]["points"]] for axis, entries in axes.items()} == {
        "panel": [40, 80],
        "targets": [2, 5],
        "context": [2, 6],
    }
    accuracy = [[p["r2_pooled"] for p in entries[0]["points"]] for entries in axes.values()]
    assert len({value for values in accuracy for value in values}) > 3, "every point is its own run"
    assert all(p["seconds"] > 0 and p["peak_mb"] > 10 for e in axes.values() for p in e[0]["points"])
    assert {"scaling_panel.png", "scaling_targets.png", "scaling_context.png", "report.html"} <= {
        path.name for path in out.iterdir()
    }
    assert "memory ~ x^" in printed


# --- concordance ---


def concordance(truth, imputed, *words):
    return run_forked("concordance", "--truth", truth, "--imputed", imputed, *words)


def test_a_file_against_itself_is_perfect(files, tmp_path):
    status, _, log = concordance(files["truth"], files["truth"], "--out", tmp_path / "self", "--panel", files["panel"])
    assert status == 0, log
    found = json.loads((tmp_path / "self.json").read_text())["programs"][0]
    assert len(found["bins"]) > 3
    for part in found["bins"]:
        measures = {name: value for name, (value, _, _) in part["measures"].items()}
        for name in ("r2_pooled", "r2_pooled_alt", "r2_mean", "concordance", "nrd"):
            undefined = part["bin"] != "all" and measures[name] is None
            assert undefined or measures[name] == (0 if name == "nrd" else 1), (part["bin"], name)
    assert all(row["r2_pooled"] == row["concordance"] == 1 for row in found["samples"])


def test_switch_errors_are_counted_at_heterozygotes_that_both_files_phase(files, data, tmp_path):
    """The first person's haplotypes are exchanged from the 40th record on, one record is unphased, and one is not a
    heterozygote of the truth."""
    carried = np.array([record.alleles[:2] for record in data.truth.records])
    hets = np.flatnonzero((carried.min(axis=1) == 0) & (carried.max(axis=1) == 1))
    records = list(data.truth.records)
    for i in hets[40:]:
        records[i] = records[i].with_call(0, "|".join(map(str, carried[i][::-1])))
    records[hets[10]] = records[hets[10]].with_call(0, "0/1")
    records[hets[20]] = records[hets[20]].with_call(0, "0|0")
    other = replace(data.truth, records=records).save(tmp_path / "other.vcf.gz")
    for imputed, switches, fewer in ((files["truth"], 0, 0), (other, 1, 2)):
        words = ["--out", tmp_path / "c", "--overwrite", "--bootstrap", "0"]
        status, printed, log = concordance(files["truth"], imputed, *words)
        assert status == 0, log
        found = json.loads((tmp_path / "c.json").read_text())["phase"]
        alleles = np.array([record.alleles.reshape(-1, 2) for record in data.truth.records])
        pairs = ((alleles.min(axis=2) == 0) & (alleles.max(axis=2) == 1)).sum(axis=0) - 1
        assert found == {"pairs": int(pairs.sum()) - fewer, "switches": switches}
        assert f"switch errors: {switches} of {found['pairs']}" in printed


def test_the_same_file_gets_the_same_measures_as_in_a_benchmark(first, files, tmp_path):
    out, *_ = first
    imputed = out / "runs" / "fold1" / "given" / "imputed.vcf.gz"
    words = ["--panel", files["panel"], "--array", files["array"], "--bootstrap", "20", "--out", tmp_path / "c"]
    status, _, log = concordance(files["truth"], imputed, *words)
    assert status == 0, log
    found = json.loads((tmp_path / "c.json").read_text())["programs"][0]["bins"]
    there = next(entry for entry in results(out)["programs"] if entry["name"] == "given")["bins"]
    for ours, theirs in zip(found, there, strict=True):
        assert ours["alleles"] == theirs["alleles"]
        assert ours["measures"]["iqs"] == theirs["measures"]["iqs"]
        assert ours["measures"]["r2_pooled"] == pytest.approx(theirs["measures"]["r2_pooled"])


def test_glimpse_s_files_have_its_columns_and_counts_that_add_up(first, files, tmp_path):
    out, *_ = first
    imputed = out / "runs" / "fold1" / "given" / "imputed.vcf.gz"
    status, _, log = concordance(files["truth"], imputed, "--panel", files["panel"], "--out", tmp_path / "c")
    assert status == 0, log
    lines = defaultdict(list)
    for name in ("error.spl", "error.grp", "error.cal"):
        with gzip.open(tmp_path / f"c.{name}.txt.gz", "rt") as file:
            for line in file:
                words = line.split()
                lines[words[0]].append(words)
    for kind in ("GCsS", "GCsI", "GCsV", "GCsSAF", "GCsIAF", "GCsVAF", "GCsSC", "GCsIC", "GCsVC"):
        assert {len(words) for words in lines[kind]} == {len(lines[f"#{kind}"][0])}, kind
    columns = lines["#GCsV"][0]
    for words in lines["GCsV"]:
        row = dict(zip(columns, words, strict=True))
        for truth, name in (("RR", "RR_hom"), ("RA", "RA_het"), ("AA", "AA_hom")):
            assert int(row[f"#val_gt_{truth}"]) == int(row[f"{name}_matches"]) + int(row[f"{name}_mismatches"])
    total = [sum(int(words[2]) for words in lines[f"GCs{kind}AF"]) for kind in "SIV"]
    found = json.loads((tmp_path / "c.json").read_text())["programs"][0]["bins"]
    in_bins = [part for part in found if part["bin"] not in ("all", "0")]
    assert total[0] + total[1] == total[2] == sum(8 * part["alleles"] for part in in_bins)
    with gzip.open(tmp_path / "c.rsquare.grp.txt.gz", "rt") as file:
        by_bin = [line.split() for line in file]
    assert [words[1] for words in by_bin] == [words[2] for words in lines["GCsVAF"]]
    told = [part["measures"]["r2_pooled"][0] for part in in_bins]
    assert [float(words[4]) for words in by_bin if int(words[1])] == pytest.approx(told, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--samples", "PEOPLE"], ("lacks", "sample")),
        (["--frequencies", "TRUTH"], ("INFO/AF",)),
        (["--frequencies", "TRUTH", "--panel", "PANEL"], ("one of them",)),
        (["--region", "21"], ("no allele of it",)),
        (["--maf-bins", "0.1"], ("--maf-bins",)),
        (["--truth", "PANEL"], ("lacks 8 of the 8 samples", "T0")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_compared_is_told_in_one_line(files, tmp_path, words, expected):
    places = {"PEOPLE": files["people"], "TRUTH": files["truth"], "PANEL": files["panel"]}
    words = [places.get(word, word) for word in words]
    given = ["concordance", "--truth", files["truth"], "--imputed", files["truth"], "--out", tmp_path / "c"]
    expect_refusal(tmp_path, [*given, *words], *expected)


def test_reports_are_not_overwritten_unasked(files, tmp_path):
    (tmp_path / "c.tsv").write_text("mine")
    words = ["concordance", "--truth", files["truth"], "--imputed", files["truth"], "--out", tmp_path / "c"]
    expect_refusal(tmp_path, words, "exists already")
    assert run_forked(*words, "--overwrite")[0] == 0
    assert (tmp_path / "c.tsv").read_text() != "mine" and len(contents(tmp_path)) == 8


# --- the peers ---


@pytest.fixture(scope="module")
def beagle(files, data, tmp_path_factory):
    """Beagle's output with allele probabilities, of phased targets at the array's sites."""
    out = tmp_path_factory.mktemp("beagle")
    status, _, log = run_forked(
        *imputation(files, out / "b", "--truth", files["truth"], "--engines", "none", "--peers", "beagle")
    )
    assert status == 0, log
    words = [
        f"gt={out / 'b' / 'data' / 'fold1' / 'chip.vcf.gz'}",
        f"ref={files['panel']}",
        "ap=true",
        f"out={out / 'ap'}",
    ]
    subprocess.run(["beagle", *words], check=True, capture_output=True)
    return out


@needs("beagle")
def test_our_r2_of_beagle_s_output_is_what_a_plain_script_computes(beagle, files, data):
    """As GLIMPSE2_concordance does it: minor allele of the panel, all genotypes of the bin in one correlation."""
    truth = {}
    for record in data.truth.records:
        codes = record.alleles.reshape(-1, 2)
        for number, alt in enumerate(record.alt.split(","), 1):
            truth[record.pos, record.ref, alt] = (codes == number).sum(axis=1)
    minor = {}
    for record in data.panel.records:
        for number, alt in enumerate(record.alt.split(","), 1):
            minor[record.pos, record.ref, alt] = float(np.mean(record.alleles == number))
    typed = {int(line.split()[1]) for line in files["array"].read_text().splitlines()}
    pairs = defaultdict(list)
    for row in read_rows(beagle / "b" / "runs" / "fold1" / "beagle" / "imputed.vcf.gz"):
        for number, alt in enumerate(row.alt.split(",")):
            if row.pos in typed:
                continue
            af = minor[row.pos, row.ref, alt]
            for text, copies in zip(row.fields["DS"], truth[row.pos, row.ref, alt], strict=True):
                dosage = float(text.split(",")[number])
                pair = (dosage, copies) if af <= 0.5 else (2 - dosage, 2 - copies)
                pairs["all"].append(pair)
                pairs["0.2-0.5" if min(af, 1 - af) > 0.2 else "rest"].append(pair)
    found = {p["bin"]: p["measures"]["r2_pooled"][0] for p in results(beagle / "b")["programs"][0]["bins"]}
    for name in ("all", "0.2-0.5"):
        x, y = np.array(pairs[name]).T
        assert found[name] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-7)  # dosages are read as float32


@needs("beagle")
def test_dr2_recomputed_from_allele_probabilities_is_beagle_s(beagle):
    from npimpute.dosage.quality import dr2

    checked = 0
    for row in read_rows(beagle / "ap.vcf.gz"):
        if "IMP" not in row.info:
            continue
        p = np.concatenate([row.numbers("AP1"), row.numbers("AP2")])
        told = row.floats("DR2")
        # Probabilities are printed with two decimals: DR2 lies between those of the nearest and the farthest.
        values = [dr2(np.full(p.shape[1], len(p)), q.sum(axis=0), (q * (1 - q)).sum(axis=0)) for q in _rounded(p)]
        low, high = np.min(values, axis=0) - 0.006, np.max(values, axis=0) + 0.006
        assert ((low <= told) & (told <= high)).all(), row.key
        checked += len(told)
    assert checked > 300


def _rounded(p):
    """The probabilities as printed, and at either end of what they were rounded from."""
    sharper = np.where(p < 0.5, np.maximum(p - 0.005, 0), np.minimum(p + 0.005, 1))
    flatter = np.where(p < 0.5, p + 0.005, p - 0.005)
    return p, sharper, flatter


@needs("beagle")
@needs("minimac4")
def test_peers_are_run_timed_and_compared(files, tmp_path):
    out = tmp_path / "out"
    words = imputation(files, out, "--truth", files["truth"], "--engines", "none", "--run", f"ours={GIVEN}")
    status, printed, log = run_forked(*words, "--peers", "beagle,minimac4,impute5", "--program", "impute5=/bin/false")
    assert status == 0, log
    by_name = {entry["name"]: entry for entry in results(out)["programs"]}
    assert [entry["status"] for entry in by_name.values()] == ["done", "done", "done", "failed"]
    assert "exit status 1" in by_name["impute5"]["reason"] and "IMPUTE5: failed" in printed
    assert results(out)["reference"] == "beagle" and "difference" in by_name["ours"]["bins"][0]
    assert by_name["minimac4"]["prepare_seconds"] > 0 and by_name["ours"]["warm_up_seconds"] > 0
    assert by_name["beagle"]["version"].startswith("Beagle 5") and by_name["beagle"]["cpu_seconds"] > 0
    assert 0.2 < by_name["beagle"]["bins"][0]["measures"]["r2_pooled"][0] < 1
