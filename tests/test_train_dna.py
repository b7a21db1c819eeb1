"""Training of DNA models: what is hidden, what is never read, resuming, and labels that can be learnt."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import expect_refusal, run_cli, run_forked
from safetensors.torch import load_file
from torch import nn

from npimpute.config import made
from npimpute.dna.config import CaduceusConfig, HawkConfig, NTConfig
from npimpute.dna.finetune import FinetuneConfig, Rows, head_config, labels_of, predictions, read_window, tell
from npimpute.dna.genome import Genome, open_genome
from npimpute.dna.heads import HeadConfig, head_loss, headed, load_headed
from npimpute.dna.model_files import load_model, new_model
from npimpute.dna.pretrain import MaskedTask, PretrainConfig, hide
from npimpute.dna.regions import Stretch
from npimpute.dna.run import DNATrainConfig, Labels, train, train_config
from npimpute.dna.tables import read_table
from npimpute.dna.tokens import BASES, SIX_MER, bases
from npimpute.dna.windows import Interval, Variant
from npimpute.engine.model_files import WEIGHTS
from npimpute.errors import ConfigError, InputError
from npimpute.train.loop import LoopConfig
from npimpute.train.state import METRICS

HAWK = HawkConfig(d_model=8, n_layers=1, d_rnn=8, n_blocks=2, expand=1)
NT = NTConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=8)
CADUCEUS = CaduceusConfig(d_model=8, n_layers=1, d_state=2, expand=1)
LOOP = LoopConfig(steps=6, batch=2, accumulate=2, lr=1e-2, warmup=2, validate_every=3, save_every=2, log_every=1)


pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    path = tmp_path_factory.mktemp("genome") / "g.fa"
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 6000).tobytes().decode()
    path.write_text(f">chr1\n{letters[:4000]}\n>chr2\n{letters[4000:]}{'N' * 100}\n")
    return path


class Fake(nn.Module):
    """Logits and states that are a table of the token."""

    def __init__(self, vocabulary: int = 6, width: int = 3):
        super().__init__()
        self.states, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)

    def forward(self, tokens):
        states = self.states(tokens)
        return self.head(states), states


@pytest.mark.parametrize("words", [BASES, SIX_MER], ids=["bases", "6-mers"])
def test_what_is_hidden(words):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, words.unknown + 1, (40, 2000))
    shown, chosen = hide(tokens, words, 0.15, np.random.default_rng(1))
    assert not chosen[tokens == words.unknown].any()
    assert abs(chosen[tokens < words.unknown].mean() - 0.15) < 0.01
    assert (shown[~chosen] == tokens[~chosen]).all()
    masked, same = (shown == words.mask)[chosen].mean(), (shown == tokens)[chosen].mean()
    other = shown[chosen & (shown != words.mask) & (shown != tokens)]
    assert abs(masked - 0.8) < 0.02
    # Of the tenth that is another word, some happen to be the same one.
    assert abs(same - 0.1 - 0.1 / words.words) < 0.02 and other.max() < words.words


def masked_task(genome, data, network=None, model=HAWK, held_out=()):
    places = [Stretch("chr1", 0, 1000)]
    return MaskedTask(network or Fake(), model, data, genome, places, list(held_out), seed=1)


def test_the_loss_is_that_of_the_chosen_tokens(fasta):
    torch.manual_seed(0)
    network = Fake()
    task = masked_task(open_genome(fasta), PretrainConfig(length=100), network)
    batch = task.draw(np.random.default_rng(0), 3)
    loss, metrics = task.loss(network, batch, 0.0)
    logits = network(batch.shown)[0].log_softmax(-1)
    told = [logits[i, j, batch.wanted[i, j]] for i, j in batch.chosen.nonzero().tolist()]
    assert torch.allclose(loss, -torch.stack(told).mean())
    assert metrics["loss"] == pytest.approx(float(loss.detach())) and metrics["length"] == 100


def test_unknown_sequence_has_a_loss_of_nothing(tmp_path):
    path = tmp_path / "n.fa"
    path.write_text(">chr1\n" + "N" * 500 + "\n")
    task = masked_task(open_genome(path), PretrainConfig(length=50))
    loss, _ = task.loss(task.network, task.draw(np.random.default_rng(0), 2), 0.0)
    assert float(loss.detach()) == 0


def test_the_curriculum_cuts_windows_into_pieces(fasta):
    data = PretrainConfig(length=120, curriculum=((30, 0.5), (50, 0.25), (120, 0.25)))
    lengths = {share: data.length_at(share) for share in (0.0, 0.49, 0.5, 0.7, 0.75, 0.99, 1.0)}
    assert list(lengths.values()) == [30, 30, 50, 50, 120, 120, 120]
    for model, width in ((HAWK, 1), (NT, 6)):
        seen = []
        network = Fake(model.vocabulary)
        network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        task = masked_task(open_genome(fasta), data, network, model)
        batch = task.draw(np.random.default_rng(0), 2)
        for share in (0.0, 0.6, 0.9):
            task.loss(network, batch, share)
        assert seen == [(8, 30 // width), (4, 50 // width) if width == 1 else (4, 8), (2, 120 // width)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"curriculum": [[30, 0.5], [50, 0.4]]}, "sum to 1"),
        ({"length": 20, "curriculum": [[30, 1.0]]}, "at most data.length"),
        ({"mask": 0.0}, "data.mask"),
        ({"length": 0}, "data.length"),
        ({"curriculum": [30]}, "a length"),
        ({"nothing": 1}, "no setting nothing"),
    ],
)
def test_settings_that_cannot_be_used(data, message):
    with pytest.raises(ConfigError, match=message):
        made(PretrainConfig, data, "data")


def test_both_strands_are_read(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(">chr1\n" + "AC" * 600 + "\n")
    seen = []
    for either in (True, False):
        task = masked_task(open_genome(path), PretrainConfig(length=40, reverse_complement=either))
        drawn = task.draw(np.random.default_rng(0), 40).wanted
        seen.append({"A" if set(row.tolist()) == {0, 1} else "T" for row in drawn})
        assert all(set(row.tolist()) in ({0, 1}, {2, 3}) for row in drawn)
    assert seen == [{"A", "T"}, {"A"}]


def settings(fasta, out, model=HAWK, loop=LOOP, **others) -> DNATrainConfig:
    options = {"data": PretrainConfig(length=60, windows=4), "hold_out": ("chr1:2001-",)} | others
    return DNATrainConfig(out=out, fasta=fasta, model=model, loop=loop, **options)


def same_weights(a, b) -> bool:
    ours, theirs = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


@pytest.mark.parametrize("model", [HAWK, NT, CADUCEUS], ids=lambda model: model.architecture)
def test_a_resumed_run_is_the_run(fasta, tmp_path, model):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(settings(fasta, whole, model))
    assert not train(settings(fasta, parts, model), minutes=0)
    assert train(settings(fasta, parts, model), resume=True)
    assert same_weights(whole, parts)
    assert [line.get("loss") for line in lines(whole)] == [line.get("loss") for line in lines(parts)]
    assert sum("validation" in line for line in lines(whole)) == 2
    _, config = load_model(whole)
    assert config == model
    with pytest.raises(ConfigError, match="data.length 60, not 70"):
        train(settings(fasta, parts, model, data=PretrainConfig(length=70)), resume=True)


def test_held_out_bases_are_never_read_to_train(fasta, tmp_path, monkeypatch):
    read = []
    fetch = Genome.fetch
    monkeypatch.setattr(Genome, "fetch", lambda self, *place: read.append(place) or fetch(self, *place))
    train(settings(fasta, tmp_path / "a", hold_out=("chr1:2001-2500", "chr2")))
    held = [place for place in read if place[0] == "chr2" or (place[1] < 2500 and place[2] > 2000)]
    assert len(held) == 4  # the windows to validate on
    assert len(read) == 4 + 6 * 4
    read.clear()
    train(settings(fasta, tmp_path / "b", hold_out=(), regions=("chr1:501-1000",)))
    assert len(read) == 24 and all(name == "chr1" and 500 <= a < b <= 1000 for name, a, b in read)


def test_bfloat16_trains(fasta, tmp_path):
    out = tmp_path / "run"
    assert train(settings(fasta, out, NT, replace(LOOP, precision="bfloat16")))
    assert all(value.dtype == torch.float32 for value in load_file(out / WEIGHTS).values())


def test_what_can_be_learnt_is_learnt(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">chr1\n" + "ACCGTTT" * 900 + "\n")
    data = PretrainConfig(length=60, windows=4, reverse_complement=False)
    loop = replace(LOOP, steps=60, validate_every=60, lr=3e-2)
    train(settings(path, tmp_path / "run", loop=loop, data=data, hold_out=("chr1:5000-",)))
    found = lines(tmp_path / "run")[-1]["validation"]
    assert found["loss"] < 0.3 and found["accuracy"] > 0.9


# Labels


def table(path, rows, header="contig\tstart\tend\tlabel"):
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_tables_of_any_kind_are_the_same(tmp_path):
    import gzip

    import pyarrow
    from pyarrow import parquet

    rows = [("chr1", 3, 9, "-", "train", 1, 0.5), ("2", 0, 4, "+", "valid", 0, ""), ("2", 1, 4, ".", "TEST", "", "NA")]
    header = ["CHROM", "start", "STOP", "strand", "Split", "a", "b"]
    tab = table(tmp_path / "a.tsv", rows, "\t".join(header))
    (tmp_path / "a.csv").write_text(tab.read_text().replace("\t", ","))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(tab.read_bytes()))
    columns = [[row[i] if row[i] not in ("", "NA") else None for row in rows] for i in range(len(header))]
    parquet.write_table(pyarrow.table(dict(zip(header, columns, strict=True))), tmp_path / "a.parquet")
    for name in ("a.tsv", "a.csv", "a.tsv.gz", "a.parquet"):
        found = read_table(tmp_path / name, variants=False)
        places = [Interval("chr1", 3, 9, ".", "-"), Interval("2", 0, 4), Interval("2", 1, 4)]
        assert found.places == places and found.columns == ("a", "b") and found.stranded
        assert found.splits == ["train", "validation", "test"]
        assert np.array_equal(found.numbers(), [[1, 0.5], [0, np.nan], [np.nan, np.nan]], equal_nan=True)
        assert found.split("test").places == places[2:]
        assert read_table(tmp_path / name, variants=False, columns=("b",)).labels[0] == ["0.5"]


def test_a_table_of_variants(tmp_path):
    path = table(tmp_path / "v.tsv", [("chr1", 5, "a", "G", "x")], "chromosome\tposition\treference\talternate\tlabel")
    assert read_table(path, variants=True).places == [Variant("chr1", 5, ".", "A", "G")]


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("contig\tstart\tlabel", "chr1\t1\t2", "no column end"),
        ("contig\tstart\tend", "chr1\t1\t2", "no column of labels"),
        ("contig\tstart\tend\ta", "chr1\t1\t2", "line 2: 3 columns; its header has 4"),
        ("contig\tstart\tend\ta", "chr1\tx\t2\t1", "line 2: start is 'x'"),
        ("contig\tstart\tend\ta", "chr1\t5\t5\t1", "line 2: ends at 5"),
        ("contig\tstart\tend\tsplit\ta", "chr1\t5\t7\tsome\t1", "line 2: split some"),
        ("contig\tstart\tend\tstrand\ta", "chr1\t5\t7\tx\t1", "line 2: strand x"),
    ],
)
def test_bad_tables_are_refused_in_a_line(tmp_path, header, row, message):
    path = tmp_path / "t.tsv"
    path.write_text(f"{header}\n{row}\n")
    with pytest.raises(InputError, match=message):
        read_table(path, variants=False)


def test_heads_of_tasks(tmp_path):
    rows = [("chr1", 0, 4, "b", 1, 2.0), ("chr1", 0, 4, "a", 0, 4.0), ("chr1", 0, 4, "", "", "")]
    path = table(tmp_path / "t.tsv", rows, "contig\tstart\tend\tkind\thit\tvalue")
    config = FinetuneConfig(length=10)

    def of(task, *columns):
        found = read_table(path, False, columns)
        head = head_config(task, found, config)
        return head, labels_of(found, head)

    head, labels = of("classification", "kind")
    assert head.classes == ("a", "b") and head.outputs == 2 and labels.tolist() == [1, 0, -1]
    head, labels = of("regression", "value")
    assert (head.mean, head.scale) == ((3.0,), (1.0,)) and labels[:2, 0].tolist() == [-1, 1] and np.isnan(labels[2, 0])
    assert predictions(head, torch.tensor([[-1.0], [1.0]])).tolist() == [[2], [4]]
    head, labels = of("multi-label", "hit")
    assert labels[:2].tolist() == [[1], [0]] and np.isnan(labels[2, 0])
    with pytest.raises(ConfigError, match="learns one column, and .* has kind, hit, value"):
        of("classification")
    with pytest.raises(InputError, match="a label is 2; those of multi-label are 0 and 1"):
        of("multi-label", "value")
    with pytest.raises(InputError, match="is b, no number"):
        of("regression", "kind")


def test_losses_of_heads_leave_missing_labels_out():
    told = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    head = HeadConfig("regression", ("a", "b"), 10, mean=(0.0, 0.0), scale=(1.0, 1.0))
    labels = torch.tensor([[1.0, torch.nan], [0.0, 0.3]])
    assert float(head_loss(head, told, labels)) == pytest.approx((0.25 + 4 + 0) / 3)
    head = HeadConfig("multi-label", ("a", "b"), 10)
    labels = torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])
    expected = (-torch.tensor(0.5).sigmoid().log() - (1 - torch.tensor(0.3).sigmoid()).log()) / 2
    assert float(head_loss(head, told, labels)) == pytest.approx(float(expected))
    assert torch.isfinite(head_loss(head, told, torch.full((2, 2), torch.nan)))


def test_pooling_is_over_known_tokens_of_the_place():
    letters = np.frombuffer(b"ACNNACGTAC", np.uint8)
    tokens, weights = read_window(BASES, letters, 1, 6)
    assert tokens.tolist() == bases(letters).tolist()
    assert weights.tolist() == pytest.approx([0, 1 / 3, 0, 0, 1 / 3, 1 / 3, 0, 0, 0, 0])
    assert read_window(BASES, letters, 2, 4)[1].tolist() == pytest.approx([0.1] * 10)
    _, six = read_window(SIX_MER, np.frombuffer(b"ACGTAC" * 4, np.uint8), 5, 7)
    assert six.tolist() == [0.5, 0.5, 0, 0]


def test_the_strand_of_a_place_is_read(fasta):
    genome = open_genome(fasta)
    rows = [Interval("chr1", 100, 120, ".", strand) for strand in "+-"]
    from npimpute.dna.tables import Table

    found = Table(fasta, rows, [["1"], ["0"]], ("x",), None, True)
    read = Rows(genome, found, HeadConfig("multi-label", ("x",), 30, stranded=True), 6)
    tokens = read.windows(np.array([0, 1]), np.zeros(2, bool)).tokens
    assert tokens[1].tolist() == [3 - t for t in tokens[0].tolist()[::-1]]
    assert tokens[0].tolist() == bases(genome.fetch("chr1", 95, 125)).tolist()


def test_rows_that_cannot_be_read_are_left_out(fasta, tmp_path, caplog):
    genome = open_genome(fasta)
    ref = genome.fetch("chr1", 50, 51).tobytes().decode()
    other = "A" if ref != "A" else "C"
    rows = [("chr1", 51, ref, other, 1), ("chr1", 51, other, ref, 0), ("chr9", 5, "A", "C", 1)]
    rows.append(("1", 51, ref, other, 0))
    path = table(tmp_path / "v.tsv", rows, "contig\tpos\tref\talt\tlabel")
    found = read_table(path, True)
    head = head_config("variants", found, FinetuneConfig(length=21, pool=4))
    read = Rows(genome, found, head, 6)
    assert read.kept.tolist() == [0, 3] and read.labels.tolist() == [1, 0]
    assert read.status == ["ok", "reference mismatch", "no contig", "ok"]
    assert "2 of 4 rows are used: 2 ok, 1 reference mismatch, 1 no contig" in caplog.text
    windows = read.windows(np.array([0, 1]), np.array([False, True]))
    assert (windows.tokens != windows.other).sum(1).tolist() == [1, 1]
    assert windows.tokens[1].tolist() == [3 - t for t in windows.tokens[0].tolist()[::-1]]
    # The mean is over the same bases on either strand, around the variant.
    assert windows.weights[0, 0].nonzero().flatten().tolist() == [8, 9, 10, 11]
    assert torch.equal(windows.weights[0, 1], windows.weights[0, 0].flip(0))


def test_the_head_sees_what_it_should():
    torch.manual_seed(0)
    body = Fake()
    network = headed(body, HAWK, HeadConfig("variants", ("x",), 4, classes=("a", "b")))
    tokens, other = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0, 1, 2, 2]])
    weights = torch.full((2, 1, 4), 0.25)
    change = (body.states.weight[2] - body.states.weight[3]) / 4
    expected = network.head(network.norm(torch.cat([change, change.abs()])[None]))
    assert torch.allclose(network(tokens, weights, other), expected, atol=1e-5)
    assert not body.head.weight.requires_grad and body.states.weight.requires_grad
    frozen = headed(Fake(), HAWK, HeadConfig("multi-label", ("x",), 4), frozen=True)
    learns = [name for name, p in frozen.named_parameters() if p.requires_grad]
    assert learns and all(name.startswith(("head", "norm")) for name in learns)


def gc_table(fasta, path, task):
    """Labels that follow from the sequence, so that a head must come to know them."""
    genome, rng, rows = open_genome(fasta), np.random.default_rng(0), []
    for i in range(90):
        split = "train" if i < 60 else "validation" if i < 75 else "test"
        at = int(rng.integers(0, 3900))
        if task == "variants":
            ref = genome.fetch("chr1", at, at + 1).tobytes().decode()
            alt = str(rng.choice([letter for letter in "ACGT" if letter != ref]))
            rows.append(("chr1", at + 1, ref, alt, split, "ti" if {ref, alt} in ({"A", "G"}, {"C", "T"}) else "tv"))
        else:
            share = float(np.isin(genome.fetch("chr1", at, at + 24), (67, 71)).mean())
            label = {"regression": 10 * share, "multi-label": int(share > 0.5), "classification": "no" * (share > 0.5)}
            rows.append(("chr1", at, at + 24, split, label[task] or "yes"))
    places = "pos\tref\talt" if task == "variants" else "start\tend"
    rows = [(*row[:-1], 0 if task == "multi-label" and row[-1] == "yes" else row[-1]) for row in rows]
    return table(path, rows, f"contig\t{places}\tsplit\tlabel")


def finetune(fasta, out, labels, task, **others) -> DNATrainConfig:
    loop = replace(LOOP, steps=60, batch=32, accumulate=1, lr=3e-2, validate_every=20, save_every=20)
    data = FinetuneConfig(length=24, pool=24)
    return settings(fasta, out, loop=loop, data=data, hold_out=(), labels=Labels(labels, task, **others))


@pytest.mark.parametrize("task", ["classification", "regression", "multi-label", "variants"])
def test_labels_are_learnt_and_told_from_disk(fasta, tmp_path, task):
    path, out = gc_table(fasta, tmp_path / "t.tsv", task), tmp_path / "run"
    config = finetune(fasta, out, path, task)
    assert train(config)
    network, saved = load_headed(out)
    rows = Rows(open_genome(fasta), read_table(path, task == "variants").split("test"), saved.head, 6)
    told = tell(network, rows, both_strands=True)
    if task == "regression":
        assert np.corrcoef(told[:, 0], rows.labels[:, 0])[0, 1] > 0.8
    elif task == "multi-label":
        assert ((told[:, 0] > 0).numpy() == rows.labels[:, 0]).mean() > 0.75
    else:
        assert (told.argmax(1).numpy() == rows.labels).mean() > 0.75
    # The model that is kept is the best of those that were validated.
    losses = [line["validation"]["loss"] for line in lines(out) if "validation" in line]
    judged = Rows(open_genome(fasta), read_table(path, task == "variants").split("validation"), saved.head, 6)
    kept = head_loss(saved.head, tell(network, judged, True), torch.from_numpy(judged.labels))
    assert float(kept) == pytest.approx(min(losses), rel=1e-4) and losses[0] > min(losses)


def test_a_resumed_fine_tuning_with_a_frozen_body(fasta, tmp_path):
    start = tmp_path / "start"
    train(settings(fasta, start))
    path = gc_table(fasta, tmp_path / "t.tsv", "regression")
    plain = path.read_text().replace("\tsplit\t", "\tname\t")
    path.write_text(plain)  # without validation the last model is kept
    config = replace(finetune(fasta, tmp_path / "a", path, "regression", freeze=True), init=start)
    config = replace(config, loop=replace(config.loop, steps=5, save_every=2))
    assert train(config)
    parts = replace(config, out=tmp_path / "b")
    assert not train(parts, minutes=0)
    assert train(parts, resume=True)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    before, after = load_file(start / WEIGHTS), load_file(tmp_path / "a" / WEIGHTS)
    assert all(torch.equal(after[f"body.{name}"], value) for name, value in before.items())


# The command line


def test_settings_from_the_command_line(fasta, tmp_path):
    words = ["train", "dna", "--model", "ntv2", "--fasta", fasta, "--out", tmp_path / "x", "--show-settings"]
    words += ["--curriculum", "1000:0.25,12000:0.75", "--set", "data.mask=0.2", "--lr", "0.1", "--hold-out", "chr2"]
    status, printed, _ = run_forked(*words)
    found = json.loads(printed)
    assert status == 0 and found["data"]["curriculum"] == [[1000, 0.25], [12000, 0.75]] and found["data"]["mask"] == 0.2
    assert found["model"]["architecture"] == "ntv2" and found["loop"]["lr"] == 0.1 and found["hold_out"] == ["chr2"]
    assert found["data"]["length"] == 12000 and not (tmp_path / "x").exists()


def test_presets_and_init(fasta, tmp_path):
    config = train_config("hawk", "base-50m", {}, None, None, out=tmp_path, fasta=fasta)
    assert sum(p.numel() for p in new_model(config.model).parameters()) > 45e6
    train(settings(fasta, tmp_path / "start"))
    init = tmp_path / "start"
    assert train_config("hawk", None, {}, init, None, out=tmp_path, fasta=fasta).model == HAWK
    with pytest.raises(ConfigError, match="--model hawk"):
        train_config("caduceus", None, {}, init, None, out=tmp_path, fasta=fasta)
    with pytest.raises(ConfigError, match="brings its sizes"):
        train_config("hawk", "tiny", {}, init, None, out=tmp_path, fasta=fasta)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hold-out", "chr9"], "no contig chr9; there are chr1, chr2"),
        (["--hold-out", "chr1", "--hold-out", "chr2"], "nothing is left to train on"),
        (["--length", "3"], "shorter than one token"),
        (["--curriculum", "5"], "LENGTH:SHARE"),
        (["--set", "data.nothing=1"], "no setting nothing"),
        (["--set", "nothing.mask=1"], "no table of settings nothing"),
        (["--task", "regression"], "--task belongs to --finetune"),
        (["--finetune", "t.tsv"], "--finetune needs --task"),
        (["--finetune", "none.tsv", "--task", "regression"], "none.tsv"),
        (["--init", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_in_a_line(fasta, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    start = ["train", "dna", "--model", "ntv2", "--fasta", fasta, "--out", tmp_path / "x", "--threads", "1"]
    expect_refusal(tmp_path, [*start, *words], message)


def test_a_run_by_the_command_line(fasta, tmp_path):
    words = ["train", "dna", "--model", "hawk", "--fasta", fasta, "--out", tmp_path / "x", "--length", "64"]
    words += ["--steps", "2", "--batch", "2", "--threads", "1", "--set", "model.d_model=8", "--device", "cpu"]
    status, _, log = run_cli(*words)
    assert status == 0 and "trained" in log
    assert load_model(tmp_path / "x")[1] == replace(HawkConfig(), d_model=8)
