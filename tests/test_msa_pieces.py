"""Training that keeps little and computes the rest again: the same loss and gradients, in less memory."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import run_forked
from torch.nn import functional as F

from npimpute.errors import ConfigError
from npimpute.msa import msamamba, pieces
from npimpute.msa.alphabet import GAP
from npimpute.msa.config import MSAModelConfig
from npimpute.msa.model_files import new_network
from npimpute.msa.store import write_alignment
from npimpute.msa.training import train, train_config

SPECIES = ("hg38", "panTro5", "mm10", "canFam3", "galGal4")
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4}
CONFIGS = {
    "msamamba": MSAModelConfig("msamamba", SIZES | {"d_state": 4}, SPECIES, 32),
    "rightward": MSAModelConfig("msamamba", SIZES | {"d_state": 4, "bidirectional": False}, SPECIES, 32),
    "axial": MSAModelConfig("axial", SIZES, SPECIES, 32),
    "maps": MSAModelConfig("axial", SIZES | {"fused": False}, SPECIES, 32),
}
each_network = pytest.mark.parametrize("name", CONFIGS)
pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture
def small(monkeypatch):
    """Pieces of 2 rows or 5 columns, the last ones smaller."""
    monkeypatch.setitem(pieces.PIECE_TOKENS, "cpu", 76)


def network(name):
    torch.manual_seed(3)
    return new_network(CONFIGS[name]).double()


def alignments(gaps=False, length=37):
    tokens = torch.randint(0, 5, (3, len(SPECIES), length), generator=torch.Generator().manual_seed(1))
    if gaps:
        tokens[1, 2] = GAP
    return tokens


def gradients(model, tokens, skip=None, recompute=False):
    model.recompute = recompute
    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(tokens, skip).flatten(0, 1).double(), tokens[:, 0].flatten())
    loss.backward()
    return loss.item(), {key: p.grad for key, p in model.named_parameters()}


@each_network
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_loss_and_gradients_are_the_same(name, gaps, sparse, small):
    model, tokens = network(name), alignments(gaps)
    skip = None
    if sparse:
        skip = torch.zeros(tokens.shape[:2], dtype=torch.bool)
        skip[0, [1, 3]] = skip[2, 4] = True
    loss, wanted = gradients(model, tokens, skip)
    again, found = gradients(model, tokens, skip, recompute=True)
    assert again == pytest.approx(loss, rel=1e-6)  # logits are float32
    assert found.keys() == wanted.keys() and all(g is not None and g.abs().sum() > 0 for g in found.values())
    for key, grad in wanted.items():
        torch.testing.assert_close(found[key], grad, rtol=1e-6, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


def test_rows_and_columns_come_in_pieces_twice(small, monkeypatch):
    model, tokens = network("msamamba"), alignments()
    shapes = Counter()
    block = model.blocks[0]
    for part in (block.rows, block.columns):
        monkeypatch.setattr(
            part, "forward", lambda x, *a, f=part.forward, **k: shapes.update([tuple(x.shape)]) or f(x, *a, **k)
        )
    gradients(model, tokens, recompute=True)
    assert shapes == {
        (2, 37, 16): 2 * 7, (1, 37, 16): 2 * 1,
        (3, 5, 5, 16): 2 * 7, (3, 5, 2, 16): 2 * 1,
    }  # fmt: skip
    shapes.clear()
    with torch.no_grad():
        model(tokens)
    assert shapes == {(15, 37, 16): 1, (3, 5, 37, 16): 1}, "nothing is kept there, so nothing is gained by pieces"


@each_network
def test_little_is_kept(name):
    """Two residual streams a block, and what is not of a block."""
    model, tokens = network(name), alignments(length=200)

    def kept(recompute):
        model.recompute = recompute
        found = {}
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(t):
            storage = t.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = t, storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = model(tokens)
        assert out.requires_grad
        return sum(size for _, size in found.values())

    streams = tokens.numel() * 16 * 8
    assert kept(True) < 2 * 2 * streams + 2 * streams
    assert kept(True) < kept(False) / 4


@each_network
def test_mixed_precision_is_kept_to(name, small):
    model, tokens = network(name).float(), alignments(gaps=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, wanted = gradients(model, tokens)
        again, found = gradients(model, tokens, recompute=True)
    assert again == pytest.approx(loss, rel=1e-3)
    whole = gradients(model, tokens)[1]
    for key, grad in wanted.items():
        assert found[key].dtype == grad.dtype
        # As far from full precision as without pieces, or nearer to what that gives.
        off = (grad - whole[key]).norm() + 1e-3 * whole[key].norm()
        assert (found[key] - grad).norm() < 2 * off


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(7)
    codes = np.repeat(rng.integers(4, size=(1, 2000), dtype=np.uint8), len(SPECIES), 0)
    codes[rng.random(codes.shape) < 0.2] = GAP
    path = tmp_path_factory.mktemp("store") / "made.msa"
    write_alignment(path, SPECIES, {"chr6": (0, codes)})
    return path


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_the_same(store, tmp_path, small):
    values = {"model": {"length": 64, "body": CONFIGS["msamamba"].body}, "loop": {"steps": 5, "log_every": 1}}
    plain = train_config(values, out=tmp_path / "plain", msa=store, bases=256)
    again = replace(plain, out=tmp_path / "again", recompute=True)
    assert train(plain) and train(again)
    assert losses(again.out) == pytest.approx(losses(plain.out), rel=1e-4)
    with pytest.raises(ConfigError, match="of a run with recompute True, not False"):
        train(replace(plain, out=again.out), resume=True)


def test_classifiers_too(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for label in ("no", "yes"):
            records = ["".join(rng.choice(list("ACGT"), 40)) for _ in range(4)]
            text = "".join(f">{i}\n{record}\n" for i, record in enumerate(records))
            (tmp_path / "set" / split / f"{label}.fa").write_text(text)
    calls = []
    plain = msamamba.in_pieces
    monkeypatch.setattr(msamamba, "in_pieces", lambda *words: calls.append(1) or plain(*words))
    values = {"model": {"length": 32, "body": CONFIGS["msamamba"].body}, "loop": {"steps": 2}}
    for recompute in (False, True):
        config = train_config(
            values, out=tmp_path / str(recompute), msa=None, bases=64, finetune=tmp_path / "set", recompute=recompute
        )
        assert train(config)
        assert bool(calls) == recompute


def test_the_command_has_it(store, tmp_path):
    words = ["train", "msa", "--msa", str(store), "--out", str(tmp_path / "out"), "--length", "64", "--show-settings"]
    assert '"recompute": false' in run_forked(*words)[1]
    assert '"recompute": true' in run_forked(*words, "--recompute")[1]
