"""Classifiers of sequences: examples as they are shown, runs that learn and can be resumed, labelled files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import expect_refusal, run_cli
from safetensors.torch import load_file

from npimpute.engine.checkpoint import WEIGHTS, save_model
from npimpute.errors import ConfigError, InputError
from npimpute.msa.alphabet import GAP, complement, decode
from npimpute.msa.classifier import DROPOUT, probabilities
from npimpute.msa.config import MSAModelConfig
from npimpute.msa.examples import Sequences, read_examples
from npimpute.msa.finetune import ClassTask, ExamplesConfig, classify, fitted, stacked
from npimpute.msa.model_files import load_classifier, load_model, new_network
from npimpute.msa.store import write_alignment
from npimpute.msa.training import train, train_config
from npimpute.train.state import METRICS, STATE

SPECIES = ("hg38", "panTro5", "mm10")
BODY = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_state": 4}
LOOP = {"steps": 6, "accumulate": 2, "lr": 5e-3, "validate_every": 3, "save_every": 2, "log_every": 1}
MASKED = MSAModelConfig("msamamba", BODY, SPECIES, 32)
MODEL = replace(MASKED, labels=("no", "yes"))
LENGTH = 400


pytestmark = pytest.mark.usefixtures("torch_alone")


def sequence(rng, label, length) -> np.ndarray:
    """Class "yes" has three quarters of G and C, on either strand, class "no" a quarter."""
    strong = rng.random(length) < (0.75 if label == "yes" else 0.25)
    return np.where(strong, rng.integers(1, 3, length), 3 * rng.integers(0, 2, length)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """FASTA files of sequences of 20 to 40 bases."""
    rng, path = np.random.default_rng(5), tmp_path_factory.mktemp("labelled")
    for split, count in (("train", 40), ("test", 15)):
        (path / split).mkdir()
        for label in ("yes", "no"):
            found = [sequence(rng, label, int(rng.integers(20, 40))) for _ in range(count)]
            text = "".join(f">{label}{i}\n{decode(codes).decode()}\n" for i, codes in enumerate(found))
            (path / split / f"{label}.fa").write_text(text)
    return path


@pytest.fixture(scope="module")
def intervals(tmp_path_factory) -> Path:
    """A folder of intervals (``labelled``), their genome (``genome.fa``) and an alignment that begins at 100."""
    rng, path = np.random.default_rng(6), tmp_path_factory.mktemp("intervals")
    codes = rng.integers(0, 4, (3, LENGTH), dtype=np.uint8)
    (path / "genome.fa").write_text(f">chr1\n{decode(codes[0]).decode()}\n")
    write_alignment(path / "a.msa", SPECIES, {"chr1": (100, codes[:, 100:])})
    for split in ("train", "test"):
        (path / "labelled" / split).mkdir(parents=True)
        for label, strand in (("no", "+"), ("yes", "-")):
            rows = [f"{i},chr1,{start},{start + 30},{strand}\n" for i, start in enumerate((90, 200, 300))]
            text = "id,region,start,end,strand\n" + "".join(rows)
            (path / "labelled" / split / f"{label}.csv").write_text(text)
    return path


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "masked"
    torch.manual_seed(3)
    save_model(path, new_network(MASKED), MASKED)
    return path


def config(folder, out, init=None, bases=512, msa=None, fasta=None, hold_out=(), **loop):
    model = {"length": 32} | ({} if init else {"body": BODY})
    options = {"msa": msa, "bases": bases, "init": init, "finetune": folder, "fasta": fasta, "hold_out": hold_out}
    return train_config({"model": model, "loop": LOOP | loop}, out, **options)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


# Examples.


def test_sequences_are_cut_and_padded_about_their_middle():
    codes = np.arange(5, dtype=np.uint8)[None] % 4
    np.testing.assert_array_equal(fitted(codes, 3), [[1, 2, 3]])
    np.testing.assert_array_equal(fitted(codes, 2), [[1, 2]])
    np.testing.assert_array_equal(fitted(codes, 8), [[GAP, 0, 1, 2, 3, 0, GAP, GAP]])
    np.testing.assert_array_equal(fitted(codes, 5), codes)
    whole = stacked([codes, np.ones((3, 7), np.uint8)], 7)
    assert whole.shape == (2, 3, 7) and (whole[0, 1:] == GAP).all() and (whole[1] == 1).all()
    np.testing.assert_array_equal(whole[0, 0], fitted(codes, 7)[0])


def some(rng, n=12):
    classes = np.arange(n) % 2
    found = [rng.integers(0, 4, (1 + i % 3, 20 + i), dtype=np.uint8) for i in range(n)]
    return Sequences(MODEL.labels, classes, found)


def test_rows_that_are_left_away_are_gaps():
    torch.manual_seed(0)
    network = new_network(MODEL).eval()
    tokens = torch.randint(0, 4, (2, 3, 20))
    tokens[:, 1:] = GAP
    torch.testing.assert_close(network(tokens), network(tokens[:, :1]))
    tokens[:, 1] = torch.randint(0, 4, (2, 20))
    torch.testing.assert_close(network(tokens), network(tokens[:, :2]))


def test_an_example_s_probability_does_not_depend_on_the_others():
    torch.manual_seed(0)
    network, examples = new_network(MODEL).eval(), some(np.random.default_rng(1))
    whole = classify(network, MODEL, examples)
    assert whole.shape == (12, 2)
    np.testing.assert_allclose(whole.sum(1), 1)
    for i in range(12):
        tokens = torch.from_numpy(fitted(examples.codes(i), 32)).long()[None]
        alone = probabilities(network(tokens).double()).detach().numpy()
        np.testing.assert_allclose(whole[i], alone[0], rtol=1e-5)


def test_a_draw_is_examples_of_either_strand_with_their_classes():
    examples = some(np.random.default_rng(1))
    task = ClassTask(new_network(MODEL), MODEL, examples, ExamplesConfig(), examples)
    batch, again = (task.draw(np.random.default_rng(3), 200) for _ in range(2))
    for name in ("tokens", "classes", "skip", "kept"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    known = {}
    for i in range(12):
        codes = stacked([examples.codes(i), np.zeros((3, 32), np.uint8)], 32)[0]
        known[codes.tobytes()] = i, 0
        known[complement(codes[:, ::-1]).tobytes()] = i, 1
    found = np.array([known[tokens.numpy().tobytes()] for tokens in batch.tokens])
    np.testing.assert_array_equal(batch.classes, examples.classes[found[:, 0]])
    assert len(set(found[:, 0])) == 12 and 60 < found[:, 1].sum() < 140
    assert batch.kept.unique().tolist() == pytest.approx([0, 1 / (1 - DROPOUT)])
    assert batch.kept.mean() == pytest.approx(1, abs=0.05)
    one_strand = ClassTask(new_network(MODEL), MODEL, examples, ExamplesConfig(reverse_complement=False), examples)
    assert all(known[t.numpy().tobytes()][1] == 0 for t in one_strand.draw(np.random.default_rng(3), 50).tokens)


@pytest.mark.parametrize("labels", [("no", "yes"), ("a", "b", "c")])
def test_the_loss_is_cross_entropy_over_what_dropout_leaves(labels):
    torch.manual_seed(0)
    model, rng = replace(MODEL, labels=labels), np.random.default_rng(1)
    examples = Sequences(labels, np.arange(12) % len(labels), [examples_codes(rng) for _ in range(12)])
    task = ClassTask(new_network(model).eval(), model, examples, ExamplesConfig(), examples)
    batch = task.draw(np.random.default_rng(2), 6)
    loss, metrics = task.loss(task.network, batch, 0.0)
    tokens = batch.tokens.long()
    hidden = task.network.network.hidden(tokens, batch.skip)
    known = (tokens[:, 0] != GAP)[..., None]
    p = probabilities(task.network.output((hidden * known).sum(1) / known.sum(1) * batch.kept))
    wanted = -p[torch.arange(6), batch.classes].log().mean().item()
    assert metrics["loss"] == pytest.approx(wanted, rel=1e-4) == loss.item()
    assert metrics["accuracy"] == pytest.approx((p.argmax(1) == batch.classes).double().mean().item())


def examples_codes(rng):
    return rng.integers(0, 4, (3, 32), dtype=np.uint8)


# Files.


def test_intervals_are_read_from_the_genome_the_alignment_or_both(intervals):
    labelled, genome, msa = intervals / "labelled", intervals / "genome.fa", intervals / "a.msa"
    of_genome = read_examples(labelled, genome, None, SPECIES)["train"]
    of_msa = read_examples(labelled, None, msa, SPECIES)["train"]
    both = read_examples(labelled, genome, msa, SPECIES)["train"]
    assert of_genome.labels == ("no", "yes") and of_genome.classes.tolist() == [0, 0, 0, 1, 1, 1]
    for i in range(6):
        assert (of_genome.codes(i).shape, of_msa.codes(i).shape) == ((1, 30), (3, 30))
        np.testing.assert_array_equal(both.codes(i)[0], of_genome.codes(i)[0])
        np.testing.assert_array_equal(both.codes(i)[1:], of_msa.codes(i)[1:])
    for i in (1, 2, 4, 5):
        np.testing.assert_array_equal(of_msa.codes(i)[0], of_genome.codes(i)[0])
    # The first begins before the alignment; the second class is on the other strand.
    assert (of_msa.codes(0)[:, :10] == GAP).all() and (of_msa.codes(0)[:, 10:] != GAP).all()
    np.testing.assert_array_equal(both.codes(4), complement(both.codes(1)[:, ::-1]))


def test_examples_spread_keep_their_shares():
    examples = Sequences(("a", "b"), np.repeat([0, 1], [30, 60]), [np.full((1, 2), i % 4, np.uint8) for i in range(90)])
    few = examples.spread(9)
    assert np.bincount(few.classes).tolist() == [3, 6] and few.codes(8) is examples.codes(89)
    assert examples.spread(90) is examples


# Runs.


def test_classes_are_learnt_and_a_run_is_resumed(folder, tmp_path):
    settings = {"steps": 40, "accumulate": 1, "lr": 1e-2, "validate_every": 40, "save_every": 15}
    assert train(config(folder, tmp_path / "a", bases=1024, **settings))
    found = lines(tmp_path / "a")[-1]["validation"]
    assert found["examples"] == 30 and found["accuracy"] > 0.85 and found["loss"] < 0.5
    network, model = load_classifier(tmp_path / "a")
    assert model.labels == ("no", "yes") and model.species == ("reference",)
    test = read_examples(folder, None, None, model.species)["test"]
    right = classify(network, model, test).argmax(1) == test.classes
    assert right.mean() == pytest.approx(found["accuracy"])


def test_stopped_after_every_step_is_uninterrupted(folder, masked, tmp_path):
    assert train(config(folder, tmp_path / "a", init=masked))
    done = [train(config(folder, tmp_path / "b", init=masked), minutes=0)]
    while not done[-1]:
        done.append(train(config(folder, tmp_path / "b", init=masked), minutes=0, resume=True))
    assert done == [False] * 5 + [True]
    ours, theirs = load_file(tmp_path / "a" / STATE), load_file(tmp_path / "b" / STATE)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_init_gives_the_classifier_its_network(intervals, masked, tmp_path):
    found = config(intervals / "labelled", tmp_path, init=masked, msa=intervals / "a.msa", steps=1, lr=1e-9, bases=64)
    assert found.model == MODEL and found.loop.lr == 1e-9
    assert config(intervals / "labelled", tmp_path, fasta=intervals / "genome.fa").loop.weight_decay == 1e-3
    assert train(found)
    ours, theirs = load_file(tmp_path / WEIGHTS), load_file(masked / WEIGHTS)
    assert {f"network.{name}" for name in theirs} | {"output.weight", "output.bias"} == ours.keys()
    assert all((ours[f"network.{name}"] - theirs[name]).abs().max() < 1e-6 for name in theirs)
    with pytest.raises(InputError, match="classifies sequences and predicts no bases"):
        config(intervals / "labelled", tmp_path, init=tmp_path)


def test_published_learning_rate(folder, tmp_path):
    values = {"model": {"body": BODY, "length": 32}}
    assert train_config(values, tmp_path, None, 512, finetune=folder).loop.lr == 3e-4


def test_what_does_not_go_together(folder, intervals, masked, tmp_path):
    with pytest.raises(ConfigError, match="--hold-out: --finetune validates on the folder's test split"):
        config(folder, tmp_path, hold_out=("chr1",))
    with pytest.raises(ConfigError, match="nothing to train on: give --msa, or --finetune"):
        config(None, tmp_path)
    with pytest.raises(ConfigError, match="sequences without a place in the alignment; leave --msa away"):
        train(config(folder, tmp_path / "run", init=masked, msa=intervals / "a.msa"))
    with pytest.raises(InputError, match="intervals, which need a genome"):
        train(config(intervals / "labelled", tmp_path / "run"))
    for values in ({"sparsity": -1}, {"validate_examples": 0}):
        with pytest.raises(ConfigError, match="data."):
            ExamplesConfig(**values)


def test_the_command(folder, tmp_path):
    words = ["train", "msa", "--finetune", folder, "--out", tmp_path / "run", "--length", 32, "--bases", 128]
    words += ["--steps", 2, "--set", f"model.body={json.dumps(BODY)}", "--threads", 1, "--device", "cpu"]
    status, _, log = run_cli(*words)
    assert status == 0 and "held-out examples: loss" in log and "80 examples of no, yes" in log
    with pytest.raises(InputError, match="classifies sequences"):
        load_model(tmp_path / "run")
    nowhere = ["train", "msa", "--finetune", tmp_path, "--out", tmp_path / "no", "--device", "cpu"]
    expect_refusal(tmp_path, nowhere, "no such folder")
