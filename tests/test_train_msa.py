"""Training over alignments: what is drawn and hidden, what is held out, and runs that learn and can be resumed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import expect_refusal, run_cli, run_forked
from safetensors.torch import load_file

from npimpute.engine.checkpoint import CONFIG, WEIGHTS, save_model
from npimpute.errors import ConfigError, InputError
from npimpute.msa.alphabet import GAP, MASK, complement
from npimpute.msa.config import MSAModelConfig
from npimpute.msa.model_files import load_model, new_network
from npimpute.msa.store import Alignment, write_alignment
from npimpute.msa.stretches import Stretch, held_out, remaining
from npimpute.msa.task import MaskedTask
from npimpute.msa.training import MSATrainConfig, train, train_config
from npimpute.msa.windows import MaskingConfig, Rows, WindowSource, held_out_windows, hide, skipped, tiles
from npimpute.train.loop import LoopConfig
from npimpute.train.state import METRICS, STATE

SPECIES = ("hg38", "panTro5", "mm10", "canFam3")
START, LENGTH = 500, 3000
BODY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_state": 4}
LOOP = {"steps": 6, "accumulate": 2, "lr": 5e-3, "validate_every": 3, "save_every": 2, "log_every": 1}
HELD = ("chr6:1001-1400", "6:2001-2300")


pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Three columns of four are conserved, one is random; 5 % of cells are gaps, and a row has none for a while."""
    rng = np.random.default_rng(7)
    codes = np.repeat(rng.integers(4, size=(1, LENGTH), dtype=np.uint8), len(SPECIES), 0)
    free = rng.random(LENGTH) < 0.25
    codes[:, free] = rng.integers(4, size=(len(SPECIES), int(free.sum())), dtype=np.uint8)
    codes[rng.random(codes.shape) < 0.05] = GAP
    codes[2, 1000:1500] = GAP
    path = tmp_path_factory.mktemp("store") / "made.msa"
    write_alignment(path, SPECIES, {"chr6": (START, codes)})
    return path


def config(store: Path, out: Path, hold_out=HELD, init=None, bases=512, **tables) -> MSATrainConfig:
    model = {} if init else {"body": BODY}
    values = {"model": {"length": 64} | model | tables.pop("model", {}), "loop": LOOP | tables.pop("loop", {})}
    return train_config(values | tables, out=out, msa=store, hold_out=hold_out, init=init, bases=bases)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def same_tensors(a: Path, b: Path) -> bool:
    ours, theirs = load_file(a), load_file(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# Stretches.


def test_held_out_stretches_are_merged_and_the_rest_remains(store, tmp_path):
    bed = tmp_path / "held.bed"
    bed.write_text("#contig\tstart\tend\nchr7\t0\t10\n6\t1400\t1450\n\nchr6\t3000\t99999\tname\n")
    alignment = Alignment.open(store)
    found = held_out(["chr6:2,001-2,300", "6:1001-1400", str(bed)], alignment)
    assert found == [("chr6", 1000, 1450), ("chr6", 2000, 2300), ("chr6", 3000, 3500)]
    left = [("chr6", 500, 1000), ("chr6", 1450, 2000), ("chr6", 2300, 3000)]
    assert remaining(alignment, found) == left
    assert str(found[0]) == "chr6:1001-1450"
    assert (
        held_out(["chr6"], alignment) == [("chr6", 500, 3500)]
        and remaining(alignment, held_out(["6"], alignment)) == []
    )
    assert remaining(alignment, []) == [("chr6", 500, 3500)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr9", "no contig chr9; there are chr6"),
        ("chr6:1-100", "--hold-out chr6:1-100: nothing of it is in .*made.msa, which covers chr6:501-3500"),
        ("nowhere.bed:x", "--hold-out nowhere.bed:x: no such file, and region"),
    ],
)
def test_a_region_that_is_not_there_is_refused(store, text, message):
    with pytest.raises((InputError, ConfigError), match=message):
        held_out([text], Alignment.open(store))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr6 5\n", "line 1: not a stretch in BED format"),
        ("chr6\t1000\t1100\nchr6\t30\tx\n", "line 2: not a stretch"),
        ("chr6\t20\t10\n", "line 1"),
        ("chr7\t20\t30\n", "nothing of it is in"),
    ],
)
def test_a_bad_bed_file_is_refused(store, tmp_path, text, message):
    (tmp_path / "x.bed").write_text(text)
    with pytest.raises(InputError, match=message):
        held_out([str(tmp_path / "x.bed")], Alignment.open(store))


# Windows.


def test_windows_come_from_everywhere_in_the_stretches_and_from_nowhere_else(store):
    alignment = Alignment.open(store)
    stretches = [Stretch("chr6", 500, 520), Stretch("chr6", 700, 716), Stretch("chr6", 900, 912)]
    source = WindowSource(Rows(alignment, SPECIES), stretches, 16, reverse_complement=False)
    assert source.places == 5 + 1
    places = [*range(500, 505), 700]
    wanted = {alignment.window("chr6", s, s + 16).tobytes(): s for s in places}
    drawn = source.draw(np.random.default_rng(1), 600)
    counts = np.bincount([wanted[window.tobytes()] for window in drawn], minlength=701)[places]
    assert counts.min() > 60, "all alike"
    both = WindowSource(Rows(alignment, SPECIES), stretches, 16, reverse_complement=True)
    strands = [window.tobytes() in wanted for window in both.draw(np.random.default_rng(2), 200)]
    assert 60 < sum(strands) < 140
    for window in both.draw(np.random.default_rng(2), 50):
        forward = window if window.tobytes() in wanted else complement(window[:, ::-1])
        assert forward.tobytes() in wanted


def test_no_window_of_a_run_touches_what_is_held_out(store, tmp_path, monkeypatch):
    alignment, seen = Alignment.open(store), []
    plain = Rows.window
    monkeypatch.setattr(Rows, "window", lambda self, *place: seen.append(place) or plain(self, *place))
    held = held_out(HELD, alignment)
    rows = Rows(alignment, SPECIES)
    source = WindowSource(rows, remaining(alignment, held), 64, True)
    source.draw(np.random.default_rng(1), 500)
    starts = np.array([start for _, start, _ in seen])
    assert all(start + 64 <= s.start or start >= s.end for start in starts for s in held)
    assert starts.min() < 600 and starts.max() > 3300


def test_windows_are_in_the_model_s_order(store):
    alignment = Alignment.open(store)
    rows = Rows(alignment, ("hg38", "canFam3", "galGal4", "panTro5"))
    whole, found = alignment.window("chr6", 600, 640), rows.window("chr6", 600, 640)
    np.testing.assert_array_equal(found[[0, 1, 3]], whole[[0, 3, 1]])
    assert (found[2] == GAP).all()
    with pytest.raises(InputError, match="its reference is hg38, the model's mm10"):
        Rows(alignment, ("mm10", "hg38"))


def test_stretches_without_a_base_are_told_of(tmp_path):
    codes = np.full((2, 100), GAP, np.uint8)
    write_alignment(tmp_path / "n.msa", SPECIES[:2], {"1": (0, codes)})
    rows = Rows(Alignment.open(tmp_path / "n.msa"), SPECIES[:2])
    with pytest.raises(InputError, match="no base in the reference"):
        WindowSource(rows, [Stretch("1", 0, 100)], 10, False).draw(np.random.default_rng(1), 1)


# What is hidden.


def test_a_share_of_the_reference_s_bases_is_hidden_as_published():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 5, (40, 3, 1000), dtype=np.uint8)
    shown, asked = hide(codes, MaskingConfig(), rng)
    known = codes[:, 0] != GAP
    assert not (asked & ~known).any() and asked[known].mean() == pytest.approx(0.15, abs=0.01)
    np.testing.assert_array_equal(shown[:, 1:], codes[:, 1:])
    np.testing.assert_array_equal(shown[:, 0][~asked], codes[:, 0][~asked])
    now, was = shown[:, 0][asked], codes[:, 0][asked]
    assert (now == MASK).mean() == pytest.approx(0.8, abs=0.02)
    # A random base is the own one in a quarter of cases.
    assert (now == was).mean() == pytest.approx(0.1 + 0.1 / 4, abs=0.015)
    assert set(np.unique(now)) == {0, 1, 2, 3, MASK}
    for base in range(4):
        assert ((now == base) & (was != base)).mean() == pytest.approx(0.1 * 3 / 16, abs=0.01)


def test_something_is_always_asked():
    codes = np.full((2, 2, 5), GAP, np.uint8)
    codes[1, 0, 3] = 2
    for seed in range(20):
        _, asked = hide(codes, MaskingConfig(masked=0.01), np.random.default_rng(seed))
        np.testing.assert_array_equal(np.argwhere(asked), [[1, 3]])


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 1.0])
def test_a_share_of_auxiliary_rows_skips(sparsity):
    found = skipped((2000, 8), sparsity, np.random.default_rng(1))
    assert not found[:, 0].any()
    counts = found.sum(1)
    assert counts.mean() == pytest.approx(7 * sparsity, abs=0.05)
    assert set(counts) == {int(np.floor(7 * sparsity)), int(np.ceil(7 * sparsity))}
    assert np.ptp(found[:, 1:].mean(0)) < 0.08, "all rows alike"


def test_the_masked_base_cannot_be_read_off_what_is_shown(store):
    """What a network says of a masked base is the same whatever the base is."""
    codes = np.random.default_rng(3).integers(0, 4, (4, 4, 64), dtype=np.uint8)
    masking = MaskingConfig(masked=0.3, random=0, kept=0)
    _, asked = hide(codes, masking, np.random.default_rng(4))
    other = codes.copy()
    other[:, 0][asked] = (other[:, 0][asked] + 1) % 4
    shown, again = (hide(c, masking, np.random.default_rng(4))[0] for c in (codes, other))
    for architecture in ("msamamba", "axial"):
        body = {name: value for name, value in BODY.items() if architecture == "msamamba" or name != "d_state"}
        network = new_network(MSAModelConfig(architecture, body, SPECIES, 64)).eval()
        said = [network(torch.from_numpy(c).long()) for c in (shown, again, codes, other)]
        assert torch.equal(said[0], said[1]) and not torch.allclose(said[2], said[3])


# Validation.


@pytest.mark.parametrize("length", [16, 50, 64, 100, 130])
def test_tiles_judge_every_column_once(length):
    stretch = Stretch("chr6", 1000, 1100)
    found = tiles(stretch, (500, 3500), length)
    assert [p for _, first, last in found for p in range(first, last)] == list(range(1000, 1100))
    for start, first, last in found:
        assert start <= first < last <= start + length
        assert length > 100 or 1000 <= start <= 1100 - length
    near_the_end = tiles(Stretch("chr6", 500, 510), (500, 3500), 64)
    assert near_the_end == [(500, 500, 510)]


def test_the_same_bases_are_validated_on_whatever_the_length(store):
    alignment = Alignment.open(store)
    rows, held = Rows(alignment, SPECIES), held_out(HELD, alignment)

    def asked_at(length, **changes):
        masking = MaskingConfig(**changes)
        found = held_out_windows(rows, held, alignment.contigs, length, masking, seed=5)
        return found, sorted(codes[0, mask].tobytes() for codes, mask in found)

    whole = alignment.window("chr6", 0, 3500)[0]
    bases = {}
    for length in (32, 64, 256):
        found, _ = asked_at(length)
        counts = sum(int(mask.sum()) for _, mask in found)
        bases[length] = b"".join(codes[0][mask].tobytes() for codes, mask in found)
        assert 60 < counts < 150 and all((codes[0][mask] != GAP).all() for codes, mask in found)
    assert bases[32] == bases[64] == bases[256] and whole.size == 3500
    few, _ = asked_at(32, validate_bases=100)
    assert len(few) == 3


def test_validation_is_what_the_network_says_of_masks_alone(store):
    alignment = Alignment.open(store)
    rows, held = Rows(alignment, SPECIES), held_out(HELD, alignment)
    windows = held_out_windows(rows, held, alignment.contigs, 64, MaskingConfig(), seed=5)
    torch.manual_seed(0)
    model = MSAModelConfig("msamamba", BODY, SPECIES, 64)
    task = MaskedTask(new_network(model), model, None, MaskingConfig(), windows)
    found = task.validate()
    losses, right = [], []
    for codes, asked in windows:
        tokens = torch.from_numpy(codes).long()[None]
        tokens[0, 0, asked] = MASK
        p = task.network(tokens)[0].log_softmax(-1).detach().numpy()
        losses += [-p[i, codes[0, i]] for i in np.flatnonzero(asked)]
        right += [p[i].argmax() == codes[0, i] for i in np.flatnonzero(asked)]
    assert found == {
        "bases": len(losses),
        "loss": pytest.approx(np.mean(losses), rel=1e-5),
        "perplexity": pytest.approx(np.exp(np.mean(losses)), rel=1e-5),
        "accuracy": np.mean(right),
    }


# Runs.


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    assert train(config(store, out)) is True
    return out


def test_a_run_leaves_a_model_and_its_metrics(straight, store):
    assert sorted(p.name for p in straight.iterdir()) == sorted([CONFIG, WEIGHTS, STATE, METRICS])
    _, found = load_model(straight)
    assert found.species == SPECIES and found.length == 64
    metrics = lines(straight)
    assert [line["step"] for line in metrics] == [1, 2, 3, 3, 4, 5, 6, 6]
    assert set(metrics[0]) == {"step", "loss", "accuracy", "lr", "gradient"}
    assert set(metrics[3]["validation"]) == {"bases", "loss", "perplexity", "accuracy"}


def test_stopped_after_every_step_is_uninterrupted(store, straight, tmp_path):
    done = [train(config(store, tmp_path), minutes=0)]
    while not done[-1]:
        done.append(train(config(store, tmp_path), minutes=0, resume=True))
    assert done == [False] * 5 + [True]
    assert same_tensors(straight / STATE, tmp_path / STATE) and same_tensors(straight / WEIGHTS, tmp_path / WEIGHTS)
    assert lines(tmp_path) == lines(straight)


@pytest.mark.parametrize(
    "change", [{"data": {"sparsity": 0.6}}, {"hold_out": HELD[:1]}, {"loop": {"betas": [0.8, 0.95]}}]
)
def test_a_run_is_resumed_with_its_own_settings_only(store, straight, change):
    before = {path: path.read_bytes() for path in straight.iterdir()}
    with pytest.raises(ConfigError, match=f"{STATE}: of a run with"):
        train(config(store, straight, **change), resume=True)
    with pytest.raises(InputError, match="holds a training run"):
        train(config(store, straight))
    assert before == {path: path.read_bytes() for path in straight.iterdir()}


@pytest.mark.parametrize("architecture", ["msamamba", "axial"])
def test_conserved_columns_are_learnt(store, tmp_path, architecture):
    body = {"d_model": 32, "n_layers": 1, "n_heads": 2} | ({"d_state": 4} if architecture == "msamamba" else {})
    model = {"architecture": architecture, "body": body, "length": 32}
    loop = {"steps": 60, "accumulate": 1, "lr": 1e-2, "validate_every": 60}
    assert train(config(store, tmp_path, model=model, loop=loop, bases=1024))
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(losses[:3]) > 1.3 and np.mean(losses[-10:]) < 0.8
    # Three columns of four tell the base; of the others, and where all the rest are gaps, one guess in four is right.
    assert lines(tmp_path)[-1]["validation"]["accuracy"] > 0.68


def test_sparsity_is_drawn_with_the_batch_and_changes_the_run(store, tmp_path):
    task = None

    def drawn(seed):
        return task.draw(np.random.default_rng(seed), 4)

    alignment = Alignment.open(store)
    model = MSAModelConfig("msamamba", BODY, SPECIES, 64)
    source = WindowSource(Rows(alignment, SPECIES), remaining(alignment, []), 64, True)
    task = MaskedTask(new_network(model), model, source, MaskingConfig(), [])
    a, again, b = drawn(1), drawn(1), drawn(2)
    for name in ("tokens", "bases", "asked", "skip"):
        assert torch.equal(getattr(a, name), getattr(again, name))
    assert not torch.equal(a.skip, b.skip) and a.skip.any() and not a.skip[:, 0].any()
    sparse, _ = task.loss(task.network, a, 0.0)
    dense, _ = task.loss(task.network, replace(a, skip=torch.zeros_like(a.skip)), 0.0)
    assert sparse.item() != dense.item()
    without = MaskedTask(task.network, model, source, MaskingConfig(sparsity=0), [])
    assert without.loss(task.network, a, 0.0)[0].item() == dense.item(), "evaluation and sparsity 0 are dense"
    assert task.validate() == {}


def test_loss_is_of_the_bases_that_are_asked_for(store):
    alignment = Alignment.open(store)
    model = MSAModelConfig("msamamba", BODY, SPECIES, 64)
    source = WindowSource(Rows(alignment, SPECIES), remaining(alignment, []), 64, True)
    task = MaskedTask(new_network(model), model, source, MaskingConfig(), [])
    batch = task.draw(np.random.default_rng(1), 4)
    loss, metrics = task.loss(task.network, batch, 0.0)
    p = task.network(batch.tokens.long(), batch.skip).log_softmax(-1)
    picked = [p[i, j, int(batch.bases[i, j])] for i, j in batch.asked.nonzero().tolist()]
    assert metrics["loss"] == pytest.approx(-torch.stack(picked).mean().item(), rel=1e-5) == loss.item()


def test_init_starts_from_a_model(store, straight, tmp_path):
    found = config(
        store, tmp_path, init=straight, model={"length": 32}, loop={"steps": 1, "lr": 1e-9, "weight_decay": 0}
    )
    assert (found.model.length, found.model.body["d_model"]) == (32, 16)
    train(found)
    ours, theirs = load_file(tmp_path / WEIGHTS), load_file(straight / WEIGHTS)
    assert all((ours[name] - theirs[name]).abs().max() < 1e-8 for name in theirs)
    with pytest.raises(ConfigError, match="brings model.body; only model.length is free"):
        config(store, tmp_path, init=straight, model={"body": BODY})
    with pytest.raises(ConfigError, match="its architecture is msamamba"):
        config(store, tmp_path, init=straight, model={"architecture": "axial"})


def test_init_keeps_the_model_s_species(store, straight, tmp_path):
    codes = np.random.default_rng(1).integers(0, 4, (3, 300), dtype=np.uint8)
    write_alignment(tmp_path / "other.msa", ("hg38", "canFam3", "galGal4"), {"1": (0, codes)})
    found = config(tmp_path / "other.msa", tmp_path / "run", (), init=straight, loop={"steps": 1})
    assert found.model.species == SPECIES and train(found)
    write_alignment(tmp_path / "mouse.msa", ("mm10", "hg38"), {"1": (0, codes[:2])})
    with pytest.raises(InputError, match="its reference is mm10, the model's hg38"):
        train(config(tmp_path / "mouse.msa", tmp_path / "no", (), init=straight))


def test_windows_of_a_draw_follow_from_bases(store, tmp_path):
    def made(bases, length, **values):
        tables = {"model": {"length": length}, "loop": values}
        return train_config(tables, out=tmp_path, msa=store, hold_out=(), init=None, bases=bases).loop

    published = made(49_152, 128, steps=1000)
    assert (published.batch, published.accumulate, published.warmup) == (128, 3, 100)
    assert (published.lr, published.betas, published.weight_decay) == (3e-5, (0.9, 0.95), 1e-3)
    assert (published.schedule, made(49_152, 128, warmup=7).warmup) == ("cosine", 7)
    assert made(49_152, 1024, accumulate=1).batch == 48
    assert (made(700, 300).batch, made(700, 300).accumulate) == (2, 1)
    for bases, values, message in (
        (100, {}, "--bases 100: fewer than the 300 of one window"),
        (700, {"accumulate": 3}, "loop.accumulate 3: --bases 700 are 2 windows of 300"),
        (700, {"batch": 3}, "loop.batch: follows from --bases"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(bases, 300, **values)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 1.0), (-0.1, 0.9), (0.9, "a"), (True, 0.9)])
def test_betas_that_cannot_be(betas):
    with pytest.raises(ConfigError, match="loop.betas"):
        LoopConfig(betas=betas)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"masked": 0}, "data.masked 0"),
        ({"random": 0.6, "kept": 0.6}, "more than 1 together"),
        ({"sparsity": 1.5}, "data.sparsity 1.5"),
        ({"validate_bases": 0}, "data.validate_bases 0"),
    ],
)
def test_masking_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        MaskingConfig(**values)


def test_held_out_whole_leaves_nothing_to_train_on(store, tmp_path):
    with pytest.raises(ConfigError, match="length 64: the longest stretch to train on has 0 columns"):
        train(config(store, tmp_path / "run", hold_out=("chr6",)))
    assert not (tmp_path / "run").exists()


def test_mixed_precision_is_close(store, straight, tmp_path):
    train(config(store, tmp_path, loop={"precision": "bfloat16", "steps": 6}))
    ours, theirs = lines(straight)[0]["loss"], lines(tmp_path)[0]["loss"]
    assert ours != theirs and ours == pytest.approx(theirs, rel=0.05)


# The command.


def test_the_command_trains_and_shows_settings(store, tmp_path):
    words = ["train", "msa", "--msa", store, "--out", tmp_path / "run", "--length", 32, "--bases", 256, "--steps", 2]
    words += ["--hold-out", HELD[0], "--set", f"model.body={json.dumps(BODY)}", "--threads", 1, "--device", "cpu"]
    status, printed, _ = run_forked(*words, "--show-settings")
    values = json.loads(printed)
    assert status == 0 and (values["model"]["length"], values["loop"]["batch"], values["loop"]["steps"]) == (32, 8, 2)
    assert values["data"]["sparsity"] == 0.5 and values["hold_out"] == [HELD[0]] and not (tmp_path / "run").exists()
    status, _, log = run_cli(*words)
    assert status == 0 and "held-out stretches: loss" in log and load_model(tmp_path / "run")[1].length == 32
    assert run_cli(*words, "--resume")[0] == 0
    axial = json.loads(run_forked(*words[:-6], "--architecture", "axial", "--show-settings")[1])
    assert axial["data"]["sparsity"] == 0 and axial["model"]["body"]["fused"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hold-out", "chr9"], "no contig chr9"),
        (["--length", 5000], "length 5000: the longest stretch"),
        (["--sparsity", 2], "data.sparsity 2"),
        (["--set", "model.species=[1]"], "species [1]: names are words"),
        (["--set", 'model.labels=["a", "b"]'], "model.labels: those of --finetune"),
        (["--fasta", "x.fa"], "--fasta: the genome of --finetune's intervals"),
        (["--set", "objective.mask=rows"], "no table of settings objective; there are model, data, loop"),
        (["--init", "nowhere"], "nowhere/config.json: cannot be read"),
        (["--threads", 0], "--threads 0"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(store, tmp_path, words, message):
    given = ["train", "msa", "--msa", store, "--out", tmp_path / "run", "--bases", 8192, "--device", "cpu"]
    expect_refusal(tmp_path, [*given, *words], message)


def test_what_is_no_alignment_is_refused(straight, tmp_path):
    save_model(tmp_path, load_model(straight)[0], load_model(straight)[1])
    expect_refusal(tmp_path, ["train", "msa", "--msa", tmp_path, "--out", tmp_path / "run"], "alignment")
