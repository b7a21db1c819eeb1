"""npimpute benchmark long-range: the same tokens at every context, measures by hand, and mistakes in a line."""

import json

import numpy as np
import pytest
import torch
from conftest import expect_refusal, run_forked
from torch.nn import functional as F

from npimpute.benchmark.long_range import LossConfig, context_of, differences, loss_benchmark, segments
from npimpute.benchmark.long_range_cost import CostConfig, cost_benchmark
from npimpute.benchmark.long_range_labels import measures
from npimpute.benchmark.long_range_report import report_text
from npimpute.benchmark.ranking_metrics import auroc, average_precision
from npimpute.dna.config import CaduceusConfig, HawkConfig, NTConfig
from npimpute.dna.genome import open_genome
from npimpute.dna.heads import HeadConfig
from npimpute.dna.model_files import load_model, new_model, save
from npimpute.dna.regions import Stretch
from npimpute.dna.tokens import BASES, MASK, SIX_MER, bases
from npimpute.errors import ConfigError

CONFIGS = {
    "hawk": HawkConfig(d_model=8, n_layers=1, d_rnn=8, n_blocks=2, expand=1),
    "ntv2": NTConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=8),
    "caduceus": CaduceusConfig(d_model=8, n_layers=1, d_state=2, expand=1),
}
LENGTH, START = 3000, 1000


pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), LENGTH)
    letters[1500:1520] = ord("N")
    (folder / "g.fa").write_text(f">chr1\n{letters.tobytes().decode()}\n")
    for name, config in CONFIGS.items():
        torch.manual_seed(3)
        network = new_model(config)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        save(folder / name, network, config)
    return folder


def config(here, out, *names, **options) -> LossConfig:
    options = {"contexts": (120, 240, 600, 1500, 2700), "segments": 3, "trained_length": 240} | options
    return LossConfig(out, here / "g.fa", {name: here / name for name in names}, f"chr1:{START + 1}-", **options)


def test_contexts_hold_their_segment_and_stay_where_they_may(here):
    genome, region = open_genome(here / "g.fa"), Stretch("chr1", START, LENGTH)
    for words in (BASES, SIX_MER):
        found = segments(genome, region, words, config(here, here / "x", "hawk"))
        assert len(found) == 3 and len({segment.start for segment in found}) == 3
        for segment in found:
            assert START <= segment.start and segment.end <= LENGTH and segment.end - segment.start == 120
            assert (segment.tokens[segment.hidden] < words.unknown).all()
            assert len(segment.hidden) == max(1, round(0.15 * (segment.tokens < words.unknown).sum()))
            for length in (120, 240, 1500, 2000, 2700):
                start, end = context_of(genome, region, segment, length)
                assert end - start == length and start <= segment.start and segment.end <= end
                assert start >= (START if length <= 2000 else 0) and end <= LENGTH
            assert context_of(genome, region, segment, 3001) is None


@pytest.mark.parametrize("name", ["hawk", "caduceus"])
def test_the_loss_at_a_context_is_that_of_the_window(here, tmp_path, name):
    genome, region = open_genome(here / "g.fa"), Stretch("chr1", START, LENGTH)
    asked = config(here, tmp_path / "out", name)
    results = loss_benchmark(asked)
    network, _ = load_model(here / name)
    (program,) = results["programs"]
    assert [point["context"] for point in program["points"]] == [120, 240, 600, 1500, 2700]
    for point in program["points"]:
        total, count = 0.0, 0
        for segment in segments(genome, region, BASES, asked):
            start, end = context_of(genome, region, segment, point["context"])
            tokens = torch.from_numpy(bases(genome.fetch("chr1", start, end)))
            places = torch.from_numpy(segment.hidden + segment.start - start)
            true = tokens[places].clone()
            tokens[places] = MASK
            with torch.no_grad():
                total += float(F.cross_entropy(network(tokens[None])[0][0, places], true, reduction="sum"))
            count += len(true)
        assert point["loss"] == pytest.approx(total / count, abs=1e-4) and point["tokens"] == count
    assert len({point["loss"] for point in program["points"]}) == 5


def test_position_interpolation_begins_beyond_the_trained_length(here, tmp_path, monkeypatch):
    used = []
    from npimpute.dna import ntv2

    rotations = ntv2.rotations
    monkeypatch.setattr(ntv2, "rotations", lambda *args: used.append((args[0], args[2])) or rotations(*args))
    results = loss_benchmark(config(here, tmp_path / "out", "ntv2", contexts=(120, 240, 600)))
    plain, interpolated = results["programs"]
    assert [p["label"] for p in (plain, interpolated)] == ["ntv2", "ntv2 interpolated"]
    assert {scale for _, scale in used} == {1.0, 2.5}
    same = [a["loss"] == b["loss"] for a, b in zip(plain["points"], interpolated["points"], strict=True)]
    assert same == [True, True, False]
    assert plain["points"][0]["loss_per_base"] == pytest.approx(plain["points"][0]["loss"] / 6)
    assert plain["points"][0]["tokens"] == interpolated["points"][2]["tokens"]


def test_what_was_measured_is_kept(here, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = loss_benchmark(config(here, out, "hawk", contexts=(120, 240)))
    reads = []
    monkeypatch.setattr("npimpute.benchmark.long_range._Curve._window", lambda *args: reads.append(args) or 1 / 0)
    again = loss_benchmark(config(here, out, "hawk", contexts=(120, 240)))
    assert again["programs"] == first["programs"] and not reads
    with pytest.raises(ZeroDivisionError):
        loss_benchmark(config(here, out, "hawk", contexts=(120, 240, 600)))
    with pytest.raises(ConfigError, match="another --segments"):
        loss_benchmark(config(here, out, "hawk", segments=2))


def test_a_model_stops_where_the_sequence_or_the_time_ends(here, tmp_path):
    results = loss_benchmark(config(here, tmp_path / "a", "hawk", contexts=(120, 2999, 3001)))
    assert "shorter than 3001" in results["programs"][0]["ended"] and "chr1 is shorter" in report_text(results)
    results = loss_benchmark(config(here, tmp_path / "b", "hawk", minutes=1e-9))
    assert len(results["programs"][0]["points"]) == 1 and "minutes" in results["programs"][0]["ended"]


def test_differences_are_by_segment():
    points = [{"context": 1, "segments": [6.0, 12.0]}, {"context": 2, "segments": [3.0, 12.0]}]
    found = list(differences({"points": points, "hidden": 6}))
    assert found[0] == (1, 0, 0) and found[1] == (2, pytest.approx(-0.25), pytest.approx(0.25))


def test_cost_is_measured_in_processes_of_their_own(here, tmp_path):
    out = tmp_path / "out"
    asked = CostConfig(out, {"hawk": here / "hawk"}, (4000,), chunk=256, threads=1, device="cpu")
    results = cost_benchmark(asked)
    assert [program["label"] for program in results["programs"]] == ["hawk, chunks", "hawk, whole"]
    for program in results["programs"]:
        assert [point["x"] for point in program["points"]] == [4000]
        assert all(point["peak_mb"] > 50 and point["seconds"] > 0 for point in program["points"])
    assert np.load(out / "runs" / "hawk_chunks_4000.npz")["start"].tolist() == [0, 1000, 2000, 3000]
    assert cost_benchmark(asked)["programs"] == results["programs"]


# Labels


def test_ranking_measures_by_counting_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels, scores = rng.integers(0, 2, 30).astype(bool), rng.integers(0, 8, 30)
        pairs = [(a > b) + (a == b) / 2 for a in scores[labels] for b in scores[~labels]]
        assert auroc(labels, scores) == pytest.approx(np.mean(pairs))
        # Of each threshold: precision times the recall that it adds.
        area, before = 0.0, 0.0
        for threshold in sorted(set(scores.tolist()), reverse=True):
            taken = scores >= threshold
            recall = labels[taken].sum() / labels.sum()
            area, before = area + (recall - before) * labels[taken].mean(), recall
        assert average_precision(labels, scores) == pytest.approx(area)
    assert np.isnan(auroc(np.ones(3), np.arange(3))) and np.isnan(average_precision(np.zeros(3), np.arange(3)))
    assert auroc([0, 1, 1], [0.1, 0.2, 0.3]) == 1 and average_precision([1, 0], [0.1, 0.2]) == 0.5


def test_measures_of_numbers():
    head = HeadConfig("regression", ("a", "b"), 10, mean=(1.0, 0.0), scale=(2.0, 1.0))
    true = np.array([[3.0, 1.0], [5.0, 2.0], [7.0, np.nan]])
    labels = (true - [1, 0]) / [2, 1]
    told = np.array([[3.0, 2.0], [5.0, 1.0], [8.0, 5.0]])
    whole, a, b = measures(head, labels, told)
    assert a["r2"] == pytest.approx(1 - 1 / 8) and a["pearson_r2"] == pytest.approx(
        np.corrcoef(true[:, 0], told[:, 0])[0, 1] ** 2
    )
    assert b == {"output": "b", "rows": 2, "r2": pytest.approx(1 - 2 / 0.5), "pearson_r2": pytest.approx(1)}
    assert whole["r2"] == pytest.approx((a["r2"] + b["r2"]) / 2) and whole["output"] == "all"


def test_measures_of_classes_and_labels():
    told = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.8, 0.2]])
    labels = np.array([0, 1, 0, 1])
    whole, second = measures(HeadConfig("variants", ("x",), 10, classes=("no", "yes")), labels, told)
    assert second["output"] == "yes" and second["auroc"] == auroc(labels, told[:, 1]) == 0.5
    assert whole["accuracy"] == 0.5 and whole["auprc"] == average_precision(labels, told[:, 1])
    head = HeadConfig("multi-label", ("a", "b"), 10)
    labels = np.array([[1, 1], [0, 1], [np.nan, 1], [0, 1]])
    whole, a, b = measures(head, labels, told)
    assert (a["rows"], a["auroc"], b["auroc"]) == (3, 1.0, None) and whole["auroc"] == 1.0 and b["auprc"] == 1.0
    three = HeadConfig("classification", ("x",), 10, classes=("a", "b", "c"))
    rows = measures(three, np.array([0, 1, 2]), np.eye(3)[[0, 2, 2]])
    assert [row["output"] for row in rows] == ["all", "a", "b", "c"] and rows[0]["accuracy"] == pytest.approx(2 / 3)


# The command line


def test_loss_by_the_command_line(here, tmp_path):
    out = tmp_path / "out"
    words = ["benchmark", "long-range", "--task", "mlm", "--model", f"one={here / 'hawk'}", "--model", here / "ntv2"]
    words += ["--fasta", here / "g.fa", "--region", "chr1:1001-", "--contexts", "120,240", "--segments", "2"]
    status, printed, log = run_forked(*words, "--out", out, "--threads", "1", "--device", "cpu")
    assert status == 0, log
    assert [line.split()[0] for line in printed.splitlines()] == ["model", "one", "one", "ntv2", "ntv2", "ntv2", "ntv2"]
    names = {path.name for path in out.iterdir()}
    assert {"results.json", "results.tsv", "long_range_loss.png"} <= names
    assert (out / "long_range_loss.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    assert len(results["programs"]) == 3 and len((out / "results.tsv").read_text().splitlines()) == 7


def test_labels_by_the_command_line(here, tmp_path):
    rng = np.random.default_rng(0)
    genome = open_genome(here / "g.fa")
    rows = ["contig\tstart\tend\tsplit\tgc"]
    for i in range(60):
        at = int(rng.integers(0, 1400))
        share = float(np.isin(genome.fetch("chr1", at, at + 20), (67, 71)).mean())
        rows.append(f"chr1\t{at}\t{at + 20}\t{'train' if i < 40 else 'test'}\t{share}")
    rows.append("chr7\t1\t5\ttest\t0.5")
    (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n")
    words = ["--fasta", here / "g.fa", "--out", tmp_path / "tuned", "--threads", "1", "--device", "cpu"]
    words += ["--finetune", tmp_path / "t.tsv", "--task", "regression", "--length", "20", "--init", here / "hawk"]
    loop = ["--steps", "60", "--batch", "16", "--lr", "0.03"]
    status, _, log = run_forked("train", "dna", "--model", "hawk", *words, *loop)
    assert status == 0, log
    words = ["benchmark", "long-range", "--task", "labels", "--model", tmp_path / "tuned", "--fasta", here / "g.fa"]
    words += ["--table", tmp_path / "t.tsv", "--out", tmp_path / "out", "--threads", "1"]
    status, printed, log = run_forked(*words)
    assert status == 0, log
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["rows"], results["left_out"]) == (20, 1) and results["measures"][0]["r2"] > 0.5
    lines = [line.split("\t") for line in (tmp_path / "out" / "predictions.tsv").read_text().splitlines()]
    assert lines[0] == ["contig", "start", "status", "predicted_gc"] and len(lines) == 22
    assert lines[-1][2:] == ["no contig", "nan"] and 0 < float(lines[1][3]) < 1


MLM = ["--task", "mlm", "--model", "hawk", "--fasta", "g.fa", "--region", "chr1:1001-"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "mlm", "--model", "hawk", "--fasta", "g.fa"], "--task mlm needs --region"),
        (["--task", "cost", "--model", "hawk", "--region", "chr1"], "--region is not for --task cost"),
        (["--task", "cost", "--model", "nowhere"], "nowhere/config.json"),
        (["--task", "labels", "--model", "hawk", "--fasta", "g.fa", "--table", "t.tsv"], "not a model with a head"),
        ([*MLM[:-1], "chr9"], "no contig chr9; there are chr1"),
        ([*MLM[:-1], "chr1:2990-"], "no shorter than the shortest context"),
        ([*MLM, "--contexts", "600,240"], "growing numbers"),
        ([*MLM, "--model", "hawk"], "a label of its own"),
        ([*MLM, "--segments", "0"], "--segments"),
    ],
)
def test_mistakes_end_in_a_line(here, monkeypatch, words, message):
    monkeypatch.chdir(here)
    start = ["benchmark", "long-range", "--out", "out", "--threads", "1"]
    expect_refusal(here, [*start, *words], message)
