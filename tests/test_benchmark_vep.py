"""Scores against labels: measures, tables, features; the published figures of a real table."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npimpute.benchmark import constraint as constraint_benchmark
from npimpute.benchmark import vep as vep_benchmark
from npimpute.benchmark.constraint import ConstraintConfig, labelled_positions, read_features
from npimpute.benchmark.ranking import curve, ranked
from npimpute.benchmark.ranking_metrics import auroc, average_precision
from npimpute.benchmark.saturation import table_reference, write_table_reference
from npimpute.benchmark.vep import VepBenchmarkConfig
from npimpute.dna.genome import open_genome
from npimpute.errors import ConfigError, InputError
from npimpute.msa.alphabet import GAP, decode, encode
from npimpute.msa.build import BuildConfig, build
from npimpute.msa.labelled import read_labelled, sequences
from npimpute.msa.score import ColumnFrequency
from npimpute.msa.store import Alignment, write_alignment
from npimpute.msa.variants import open_table
from npimpute.msa.vep import VepConfig, run

DATA = Path(__file__).parents[2] / "shared" / "data"
HAS_DATA = pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
BRCA1 = DATA / "vep" / "brca1_sge_findlay2018.xlsx"


def made_scores(seed, n=300, ties=True):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    scores = rng.normal(labels, 1.5)
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("seed", range(4))
def test_areas_are_those_of_their_definitions(seed):
    labels, scores = made_scores(seed, 120)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert auroc(labels, scores) == pytest.approx(np.mean(pairs))
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = scores >= threshold
        recall = labels[above].sum() / labels.sum()
        area += (recall - before) * labels[above].mean()
        before = recall
    assert average_precision(labels, scores) == pytest.approx(area)


def test_areas_are_those_of_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        labels, scores = made_scores(seed)
        assert auroc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
        assert average_precision(labels, scores) == pytest.approx(metrics.average_precision_score(labels, scores))


def test_curves_enclose_the_areas():
    labels, scores = made_scores(1, 3000)
    points = curve(labels, scores)
    area = np.trapezoid([0, *points["recall"]], [0, *points["fpr"]])
    assert area == pytest.approx(auroc(labels, scores), abs=1e-3)
    assert points["recall"][-1] == points["fpr"][-1] == 1
    assert points["precision"][-1] == pytest.approx(labels.mean(), abs=1e-6)


def test_intervals_cover_and_widen_with_groups():
    labels, scores = made_scores(2, 400, ties=False)
    alone = ranked(labels, scores, 200, 1)
    assert alone["auroc"][1] < alone["auroc"][0] < alone["auroc"][2]
    assert ranked(labels, scores, 200, 1) == alone and ranked(labels, scores, 200, 2) != alone
    # Each row ten times over is no more evidence, if its copies are drawn together.
    ten, groups = np.repeat(np.arange(400), 10), np.repeat(np.arange(400), 10)
    width = {
        name: np.diff(ranked(labels[ten], scores[ten], 200, 1, g)["auroc"][1:])[0]
        for name, g in (("rows", None), ("groups", groups))
    }
    own = alone["auroc"][2] - alone["auroc"][1]
    assert width["groups"] == pytest.approx(own, rel=0.25) and width["rows"] < 0.5 * own
    # Half width of a normal interval by Hanley & McNeil 1982, which assumes exponential scores: about right.
    a, p, n = alone["auroc"][0], labels.sum(), (~labels).sum()
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (p - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (p * n))
    assert own == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert ranked(np.ones(5, bool), scores[:5], 10, 1)["auroc"] == [None, None, None]


@pytest.fixture(scope="module")
def msa(tmp_path_factory):
    """Two species beside the reference; columns 100-199 and 300-399 are kept, others are random."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (4, 500)).astype(np.uint8)
    for start in (100, 300):
        codes[1:, start : start + 100] = codes[0, start : start + 100]
    path = tmp_path_factory.mktemp("store") / "x.msa"
    write_alignment(path, ("hg", "mm", "rn", "cf"), {"chr6": (0, codes)})
    return path


def labelled_table(path, msa, rng):
    """Variants in kept columns are LOF, others FUNC; a column of scores, one with holes, a class, odd rows."""
    window = Alignment.open(msa).window("6", 0, 500)
    lines = ["chrom,pos,ref,alt,effect,cadd,holes,consequence"]
    for i in range(0, 500, 2):
        ref = "ACGT"[window[0, i]]
        alt = "ACGT"[(window[0, i] + 1) % 4]
        kept = 100 <= i < 200 or 300 <= i < 400
        effect = "INT" if i % 50 == 0 else "LOF" if kept else "FUNC"
        holes = "NA" if i % 3 else f"{-kept + rng.normal():.3f}"
        consequence = "missense" if i % 4 else "silent"
        lines.append(f"6,{i + 1},{ref},{alt},{effect},{kept + rng.normal():.3f},{holes},{consequence}")
    lines.append("6,9999,A,C,FUNC,0.5,0.1,silent")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_models_and_columns_side_by_side(tmp_path, msa):
    table = labelled_table(tmp_path / "t.csv", msa, np.random.default_rng(5))
    config = VepBenchmarkConfig(table, "effect", ("LOF",), ("FUNC",), tmp_path / "out", ("cadd",), ("holes",),
                                ("column-frequency",), msa, by="consequence", bootstrap=20)  # fmt: skip
    results = vep_benchmark.benchmark(config)
    json.dumps(results, allow_nan=False)
    run(VepConfig("column-frequency", msa, table, tmp_path / "scored.csv"))
    rows = [line.split(",") for line in (tmp_path / "scored.csv").read_text().splitlines()[1:]]
    rows = [row for row in rows if row[4] in ("LOF", "FUNC")]
    labels = np.array([row[4] == "LOF" for row in rows])
    columns = {
        "cadd": np.array([float(row[5]) for row in rows]),
        "holes": np.array([np.nan if row[6] == "NA" else -float(row[6]) for row in rows]),
        "column-frequency": np.array([np.nan if row[9] == "NA" else float(row[9]) for row in rows]),
    }
    common = ~np.isnan(columns["holes"]) & ~np.isnan(columns["column-frequency"])
    assert results["rows"] == len(rows) == 241 and results["compared"] == common.sum()
    for entry in results["scores"]:
        values = columns[entry["name"]]
        whole, *classes = entry["groups"]
        assert whole["auroc"][0] == pytest.approx(auroc(labels[common], values[common]))
        assert whole["auprc"][0] == pytest.approx(average_precision(labels[common], values[common]))
        own = ~np.isnan(values)
        assert entry["own_rows"]["auroc"][0] == pytest.approx(auroc(labels[own], values[own]))
        assert [part["group"] for part in classes] == ["missense", "silent"]
        kind = np.array([row[7] == "silent" for row in rows]) & common
        assert classes[1]["auroc"][0] == pytest.approx(auroc(labels[kind], values[kind]))
    assert results["scores"][2]["statuses"] == {"ok": 240, "outside_alignment": 1}
    assert results["scores"][2]["groups"][0]["auroc"][0] > 0.9


def test_what_cannot_be_compared_is_told(tmp_path, msa):
    table = labelled_table(tmp_path / "t.csv", msa, np.random.default_rng(5))
    good = {"table": table, "label": "effect", "positive": ("LOF",), "negative": ("FUNC",), "out": tmp_path / "o"}
    for change, error, text in [
        ({"scores": ("no",)}, InputError, "no column no; there are chrom, pos"),
        ({"scores": ("cadd",), "positive": ("LOSS",)}, InputError, "no row has effect LOSS; there are FUNC"),
        ({"scores": ("consequence",)}, InputError, "the column consequence has no number"),
        ({}, ConfigError, "nothing to compare"),
        ({"models": ("column-frequency",)}, ConfigError, "needs --msa"),
        ({"scores": ("cadd",), "lower": ("cadd",)}, ConfigError, "cadd: is named twice"),
        ({"scores": ("cadd",), "negative": ("LOF",)}, ConfigError, "must differ"),
    ]:
        with pytest.raises(error, match=text):
            vep_benchmark.benchmark(VepBenchmarkConfig(**good | change))


FEATURES = """# a comment
chr6\tx\tkept\t101\t200\t.\t.\t.\tone
6\tx\tfree\t201\t300\t.\t.\t.\ttwo
chr6\tx\tkept\t301\t400\t.\t.\t.\tthree
chr6\tx\tfree\t391\t450\t.\t.\t.\tfour
chr7\tx\tkept\t1\t10\t.\t.\t.\tfive
chr6\tx\tother\t1\t10\t.\t.\t.\tsix
"""


def config_of(tmp_path, msa, **options):
    (tmp_path / "f.gff").write_text(FEATURES)
    good = {"msa": msa, "models": ("column-frequency",), "features": (tmp_path / "f.gff",), "out": tmp_path / "out"}
    good |= {"positive_features": ("kept",), "negative_features": ("free",), "bootstrap": 20}
    return ConstraintConfig(**good | options)


def test_positions_of_features(tmp_path, msa):
    alignment = Alignment.open(msa)
    places = labelled_positions(config_of(tmp_path, msa), alignment)
    assert places.at[places.positive].tolist() == [*range(100, 200), *range(300, 390)]
    assert places.at[~places.positive].tolist() == [*range(200, 300), *range(400, 450)]
    assert len(set(places.element.tolist())) == 4
    (tmp_path / "held.bed").write_text("6\t150\t350\n")
    places = labelled_positions(config_of(tmp_path, msa, hold_out=(str(tmp_path / "held.bed"),)), alignment)
    assert places.at[places.positive].tolist() == [*range(150, 200), *range(300, 350)]
    assert places.at[~places.positive].tolist() == [*range(200, 300)]
    few = labelled_positions(config_of(tmp_path, msa, positions=10), alignment)
    assert few.positive.sum() == (~few.positive).sum() == 10
    (tmp_path / "f.bed.gz").write_bytes(gzip.compress(b"chr6\t100\t200\tkept\nchr6\t200\t300\tfree\n"))
    assert [str(s) for _, s in read_features(tmp_path / "f.bed.gz", alignment)] == ["chr6:101-200", "chr6:201-300"]


def test_kept_columns_are_found(tmp_path, msa):
    results = constraint_benchmark.benchmark(config_of(tmp_path, msa))
    json.dumps(results, allow_nan=False)
    positions, elements = results["scores"][0]["groups"]
    assert (results["positive_elements"], results["negative_elements"]) == (2, 2)
    assert positions["auroc"][0] > 0.95 and elements["auroc"][0] == 1
    window = Alignment.open(msa).window("6", 0, 500)
    plain = []
    for i in (*range(100, 200), *range(300, 390), *range(200, 300), *range(400, 450)):
        log_p = ColumnFrequency(Alignment.open(msa)).log_p("6", np.array([i]))[0]
        ref = window[0, i]
        plain.append(np.mean([log_p[ref] - log_p[alt] for alt in range(4) if alt != ref]))
    labels = np.arange(len(plain)) < 190
    assert positions["auroc"][0] == pytest.approx(auroc(labels, np.array(plain)))


def test_bad_features_are_told(tmp_path, msa):
    alignment = Alignment.open(msa)
    for text in ("chr6\tx\tkept\t9\t5\t.\n", "chr6 x kept 1 5 .\n", "chr6\tx\tkept\tone\t5\t.\n"):
        (tmp_path / "bad.gff").write_text(text)
        with pytest.raises(InputError, match="bad.gff, line 1: not a line of GFF with tabs"):
            read_features(tmp_path / "bad.gff", alignment)
    with pytest.raises(InputError, match="no position of none is in the alignment; features there: "):
        labelled_positions(config_of(tmp_path, msa, positive_features=("none",)), alignment)


def test_a_table_of_mutations_has_its_reference(tmp_path):
    (tmp_path / "t.tsv").write_text("chr\tpos\tref\talt\n17\t101\tA\tC\n17\t101\tA\tG\n17\t103\tG\tT\n17\tx\tT\tC\n")
    ((contig, (start, codes)),) = table_reference(tmp_path / "t.tsv").items()
    assert (contig, start, decode(codes)) == ("17", 100, b"A-G")
    (tmp_path / "t.tsv").write_text("chr\tpos\tref\talt\n17\t101\tA\tC\n17\t101\tT\tG\n")
    with pytest.raises(InputError, match="two rows have other reference bases at 17:101"):
        table_reference(tmp_path / "t.tsv")


def genomic_benchmark(folder, rng):
    """Intervals of two classes in both splits, of a genome; returns what their sequences should be."""
    genome = "".join(rng.choice(list("ACGT"), 300))
    (folder / "g.fa").write_text(f">chr1\n{genome}\n")
    expected = {}
    for split, n in (("train", 4), ("test", 2)):
        (folder / split).mkdir()
        expected[split] = []
        for label in ("negative", "positive"):
            lines = ["id,region,start,end,strand"]
            for i in range(n):
                start = int(rng.integers(0, 250))
                strand = "+-"[i % 2]
                lines.append(f"{i},1,{start},{start + 40},{strand}")
                bases = genome[start : start + 40]
                bases = bases if strand == "+" else bases[::-1].translate(str.maketrans("ACGT", "TGCA"))
                expected[split].append((bases, label))
            text = "\n".join(lines) + "\n"
            (folder / split / f"{label}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return expected


def test_labelled_intervals_and_sequences(tmp_path):
    expected = genomic_benchmark(tmp_path, np.random.default_rng(1))
    found = read_labelled(tmp_path)
    genome = open_genome(tmp_path / "g.fa")
    for split, items in found.items():
        assert [(decode(codes).decode(), label) for codes, label in sequences(items, genome)] == expected[split]
    for split in ("train", "test"):
        (tmp_path / "fasta" / split).mkdir(parents=True)
        for label in ("negative", "positive"):
            own = [bases for bases, kind in expected[split] if kind == label]
            text = "".join(f">{i}\n{bases}\n" for i, bases in enumerate(own))
            (tmp_path / "fasta" / split / f"{label}.fa.gz").write_bytes(gzip.compress(text.encode()))
    for split, items in read_labelled(tmp_path / "fasta").items():
        assert [(decode(codes).decode(), label) for codes, label in sequences(items)] == expected[split]
    with pytest.raises(InputError, match="has intervals, which need a genome"):
        list(sequences(found["train"]))


def test_bad_labelled_sets_are_told(tmp_path):
    genomic_benchmark(tmp_path, np.random.default_rng(1))
    with pytest.raises(InputError, match="no such folder; a labelled set has the folders train and test"):
        read_labelled(tmp_path / "train")
    (tmp_path / "test" / "positive.csv.gz").rename(tmp_path / "test" / "other.csv.gz")
    with pytest.raises(InputError, match="both splits need the same two classes or more"):
        read_labelled(tmp_path)
    bad = tmp_path / "test" / "other.csv"
    for text, told in [
        ("id,region,start,end,strand\n0,1,x,5,+\n", "line 2: no region, start and end"),
        ("id,region,start,end,strand\n0,1,7,5,+\n", "line 2: 1:7-5. is no interval"),
        ("id,start,end\n", "no column region"),
    ]:
        bad.write_text(text)
        with pytest.raises(InputError, match=told):
            read_labelled(tmp_path)


def npimpute(folder, *words):
    return subprocess.run([sys.executable, "-m", "npimpute", *words], capture_output=True, text=True, cwd=folder)


def test_the_commands_write_reports(tmp_path, msa):
    pytest.importorskip("matplotlib")
    table = labelled_table(tmp_path / "t.csv", msa, np.random.default_rng(5))
    words = ["--label", "effect", "--positive", "LOF", "--negative", "FUNC", "--bootstrap", "10", "--out", "v"]
    done = npimpute(tmp_path, "benchmark", "vep", "--table", str(table), "--score", "cadd", *words)
    assert done.returncode == 0 and "AUROC" in done.stdout, done.stderr
    again = npimpute(tmp_path, "benchmark", "vep", "--table", str(table), "--score", "cadd", *words)
    assert again.returncode == 2 and "has results.json already" in again.stderr and again.stderr.count("\n") == 1
    config_of(tmp_path, msa)
    words = ["--features", "f.gff", "--positive-features", "kept", "--negative-features", "free", "--out", "c"]
    done = npimpute(tmp_path, "benchmark", "constraint", "--msa", str(msa), "--model", "column-frequency", *words)
    assert done.returncode == 0 and "2 elements against 2" in done.stdout, done.stderr
    for folder in ("v", "c"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert names == {"results.json", "results.tsv", "curves.png", "report.html"}
        assert (tmp_path / folder / "curves.png").read_bytes().startswith(b"\x89PNG")


@HAS_DATA
def test_brca1_has_the_published_areas_and_all_rows_are_scored(tmp_path):
    pytest.importorskip("openpyxl")
    from npimpute.engine.checkpoint import save_model
    from npimpute.msa.config import MSAModelConfig
    from npimpute.msa.model_files import new_network

    table = open_table(BRCA1, header_row=3)
    rows = [table.columns, *(map(str, cells) for cells, _ in table.rows)]
    (tmp_path / "brca1.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    write_table_reference(tmp_path / "brca1.tsv", tmp_path / "x.msa", "hg19")
    tiny = {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_state": 4}
    model = MSAModelConfig("msamamba", tiny, ("hg19", "mm9"), 16)
    save_model(tmp_path / "model", new_network(model), model)
    vep = VepConfig(str(tmp_path / "model"), tmp_path / "x.msa", tmp_path / "brca1.tsv", tmp_path / "out.tsv", 512)
    assert run(vep) == {"ok": 3893}
    lines = (tmp_path / "out.tsv").read_text().splitlines()
    assert len(lines) == 3894 and len({line.count("\t") for line in lines}) == 1
    config = VepBenchmarkConfig(tmp_path / "out.tsv", "func.class", ("LOF",), ("FUNC",), tmp_path / "o",
                                ("CADD.score", "phyloP", "score"), by="consequence", bootstrap=0)  # fmt: skip
    cadd, phylop, _ = vep_benchmark.benchmark(config)["scores"]
    assert round(cadd["groups"][0]["auroc"][0], 3) == 0.817 and round(phylop["groups"][0]["auroc"][0], 3) == 0.793
    assert {part["group"] for part in cadd["groups"]} > {"Missense", "Nonsense", "Synonymous"}
    codes = Alignment.open(tmp_path / "x.msa").window("chr17", 41_276_134, 41_276_135)
    assert codes.tolist() == [[int(encode("T")[0])]]
    assert (Alignment.open(tmp_path / "x.msa").window("17", 41_250_000, 41_250_010) == GAP).all()


@HAS_DATA
def test_column_frequency_tells_constraint_in_enr334(tmp_path):
    build(BuildConfig(tmp_path / "x.msa", maf=(DATA / "msa" / "ENr334-100k.maf.gz",)))
    config = ConstraintConfig(tmp_path / "x.msa", ("column-frequency",), (DATA / "msa" / "gencode.ENr334-100k.gff",),
                              ("phastCons",), ("AR",), tmp_path / "o", bootstrap=0)  # fmt: skip
    results = constraint_benchmark.benchmark(config)
    assert (results["positive_elements"], results["negative_elements"]) == (105, 94)
    assert results["scores"][0]["groups"][0]["auroc"][0] == pytest.approx(0.875, abs=0.001)
