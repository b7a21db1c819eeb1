"""Networks over alignments: against torch's attention and plain loops, what may not matter, models on disk."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from npimpute.engine.checkpoint import CONFIG, WEIGHTS, save_model
from npimpute.errors import ConfigError, InputError
from npimpute.layers import BiMamba, Mamba
from npimpute.msa.alphabet import GAP, MASK
from npimpute.msa.axial import AttentionRows, rotated
from npimpute.msa.classifier import Classifier, probabilities
from npimpute.msa.config import AxialConfig, MSAMambaConfig, MSAModelConfig
from npimpute.msa.model_files import load_classifier, load_config, load_model, new_network
from npimpute.msa.msamamba import ColumnAttention, MambaRows

SPECIES = ("hg38", "panTro5", "mm10", "canFam3", "galGal4")
SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4}
BODIES = {"msamamba": SIZES | {"d_state": 4}, "axial": SIZES}
CONFIGS = {name: MSAModelConfig(name, body, SPECIES, 32) for name, body in BODIES.items()}
CONFIGS["rightward"] = MSAModelConfig("msamamba", BODIES["msamamba"] | {"bidirectional": False}, SPECIES, 32)
each_network = pytest.mark.parametrize("name", CONFIGS)


def network(name, seed=0):
    torch.manual_seed(seed)
    made = new_network(CONFIGS[name]).double().eval()
    with torch.no_grad():
        for block in made.blocks:  # so that species matter from the start
            block.columns.species.normal_()
    return made


def alignments(b=3, length=24, seed=0):
    return torch.randint(0, 5, (b, len(SPECIES), length), generator=torch.Generator().manual_seed(seed))


# Against other implementations.


@pytest.mark.parametrize("absent", [(), (2,), (1, 4)])
def test_column_attention_is_torch_s(absent):
    torch.manual_seed(1)
    ours = ColumnAttention(16, 4, 5).double()
    nn.init.normal_(ours.species)
    nn.init.normal_(ours.qkv.bias)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    theirs.out_proj = ours.out
    x = torch.randn(3, 5, 7, 16, dtype=torch.float64)
    present = torch.ones(3, 5, dtype=torch.bool)
    present[1, list(absent)] = False
    got = ours(x, present if absent else None)
    for i in range(3):
        for column in range(7):
            y = (ours.norm(x[i, :, column]) + ours.species)[None]
            wanted, _ = theirs(y, y, y, key_padding_mask=~present[i : i + 1])
            torch.testing.assert_close(got[i, :, column], wanted[0])
    torch.testing.assert_close(ours(x, present, reference_only=True), ours(x, present)[:, :1])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_rows_are_mamba_s_one_by_one(bidirectional):
    torch.manual_seed(2)
    config = MSAMambaConfig(d_model=16, d_state=4, n_heads=4, bidirectional=bidirectional)
    rows = MambaRows(config).double()
    assert isinstance(rows.mamba, BiMamba if bidirectional else Mamba)
    x = torch.randn(6, 20, 16, dtype=torch.float64)
    got = rows(x)
    for i in range(6):
        scaled = x[i] * (x[i].square().mean(-1, keepdim=True) + 1e-5).rsqrt() * rows.norm.weight
        torch.testing.assert_close(got[i], rows.mamba(scaled[None])[0][0])


def test_row_attention_is_torch_s_but_for_positions(monkeypatch):
    torch.manual_seed(3)
    fused = AttentionRows(AxialConfig(16, 1, 4)).double()
    plain = AttentionRows(AxialConfig(16, 1, 4, fused=False)).double()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(3, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(fused(x), plain(x))
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    theirs.in_proj_weight, theirs.in_proj_bias, theirs.out_proj = fused.qkv.weight, fused.qkv.bias, fused.out
    y = fused.norm(x)
    assert not torch.allclose(fused(x), theirs(y, y, y)[0])
    monkeypatch.setattr("npimpute.msa.axial.rotated", lambda x: x)
    torch.testing.assert_close(fused(x), theirs(y, y, y)[0])
    torch.testing.assert_close(plain(x), theirs(y, y, y)[0])


def test_row_attention_knows_how_far_apart_columns_are():
    """Head by head and pair by pair: a query meets a key turned by the angle of their distance."""
    torch.manual_seed(3)
    rows = AttentionRows(AxialConfig(8, 1, 2)).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    q, k, v = (t[0].unflatten(-1, (2, 4)) for t in rows.qkv(rows.norm(x)).chunk(3, -1))
    read = torch.empty(6, 2, 4, dtype=torch.float64)
    for head in range(2):
        for i in range(6):
            logits = []
            for j in range(6):
                angle = (j - i) * torch.tensor([1.0, 1e4**-0.5], dtype=torch.float64)
                one, other = k[j, head].chunk(2)
                turned = torch.cat([one * angle.cos() - other * angle.sin(), one * angle.sin() + other * angle.cos()])
                logits.append(q[i, head] @ turned / 2)
            read[i, head] = torch.stack(logits).softmax(0) @ v[:, head]
    torch.testing.assert_close(rows(x)[0], rows.out(read.flatten(1)))


def test_rotation_knows_distances_only():
    torch.manual_seed(4)
    q, k = torch.randn(2, 8, dtype=torch.float64)
    turned_q, turned_k = rotated(q.expand(30, 8)), rotated(k.expand(30, 8))
    products = turned_q @ turned_k.T
    for offset in (-7, 0, 3):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert abs(products[0, 0] - products[0, 3]) > 1e-3
    torch.testing.assert_close(turned_q[0], q)
    angle = torch.tensor(5.0 * 1e4 ** (-1 / 4), dtype=torch.float64)  # of channels 1 and 5, in column 5
    torch.testing.assert_close(turned_q[5, 1], q[1] * angle.cos() - q[5] * angle.sin())


@each_network
def test_a_network_is_its_blocks_in_full(name):
    """The reference's output by blocks that compute every row, and every row's scan."""
    model, tokens = network(name), alignments()
    x = model.token(tokens)
    for block in model.blocks:
        x = x + torch.stack([block.rows(x[:, i]) for i in range(len(SPECIES))], 1)
        x = x + block.columns(x, None)
        x = x + block.mlp(x)
    torch.testing.assert_close(model(tokens), model.head(model.norm(x[:, 0])).float())


def test_a_block_s_mlp_is_four_times_as_wide():
    torch.manual_seed(5)
    mlp = network("msamamba").blocks[0].mlp
    x = torch.randn(3, 16, dtype=torch.float64)
    y = nn.functional.gelu(mlp.norm(x) @ mlp.wide.weight.T + mlp.wide.bias)
    assert y.shape == (3, 64)
    torch.testing.assert_close(mlp(x), y @ mlp.out.weight.T + mlp.out.bias)


def test_published_sizes():
    config = MSAModelConfig(species=tuple(map(str, range(100))))
    assert config.body == asdict(MSAMambaConfig())
    block = new_network(config).blocks[0]
    assert (config.body["n_layers"], config.body["d_model"]) == (3, 128)
    assert block.rows.mamba.rightward.conv1d.in_channels == 256


# Row-sparse training.


@each_network
def test_no_row_skipped_is_dense(name):
    model, tokens = network(name), alignments()
    none = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    assert torch.equal(model(tokens, none), model(tokens))


@each_network
def test_skipped_rows_pass_the_row_mixer_as_they_are(name, monkeypatch):
    model, tokens = network(name), alignments()
    skip = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    skip[0, [1, 3]] = skip[2, 4] = skip[1, :] = True  # row 0 cannot: it is mixed all the same
    mixed = ~skip
    mixed[:, 0] = True
    x = model.token(tokens)
    counts = []
    for block in model.blocks:
        added = torch.stack([block.rows(x[:, i]) for i in range(len(SPECIES))], 1)
        x = x + added * mixed[..., None, None]
        x = x + block.columns(x, None)
        x = x + block.mlp(x)
        plain = block.rows.forward
        monkeypatch.setattr(block.rows, "forward", lambda y, plain=plain: counts.append(len(y)) or plain(y))
    torch.testing.assert_close(model(tokens, skip), model.head(model.norm(x[:, 0])).float())
    assert counts == [int(mixed.sum())] * 2, "rows that skip cost nothing"
    assert not torch.allclose(model(tokens, skip), model(tokens))


# What may not matter.


@each_network
@pytest.mark.parametrize("where", [2, 4])
def test_a_row_of_gaps_is_no_row(name, where):
    """An alignment whose row is all gaps gives what a network without that species gives without the row."""
    model, tokens = network(name), alignments()
    tokens[1, where] = GAP
    others = [i for i in range(len(SPECIES)) if i != where]
    without = new_network(replace(CONFIGS[name], species=tuple(SPECIES[i] for i in others))).double().eval()
    weights = model.state_dict()
    without.load_state_dict(
        {key: value[others] if key.endswith("species") else value for key, value in weights.items()}
    )
    torch.testing.assert_close(model(tokens)[1], without(tokens[1:2, others])[0])
    assert not torch.allclose(model(tokens)[0], without(tokens[:1, others])[0]), "other rows are read"


@each_network
def test_alignments_of_a_batch_do_not_meet(name):
    model, tokens = network(name), alignments(b=5)
    tokens[3, 2] = tokens[1, 1:] = GAP
    whole = model(tokens)
    for i in range(5):
        torch.testing.assert_close(model(tokens[i : i + 1])[0], whole[i])
    torch.testing.assert_close(model(tokens.flip(0)), whole.flip(0))


@each_network
def test_species_are_told_apart_by_their_place_alone(name):
    model, tokens = network(name), alignments()
    order = [0, 3, 1, 4, 2]
    assert not torch.allclose(model(tokens[:, order]), model(tokens))
    with torch.no_grad():
        for block in model.blocks:
            block.columns.species.copy_(block.columns.species[order])
    torch.testing.assert_close(model(tokens[:, order]), network(name)(tokens))


def test_a_row_of_masks_or_of_a_single_base_is_a_row():
    model, tokens = network("msamamba"), alignments()
    tokens[:, 1] = GAP
    gone = model(tokens)
    for code in (MASK, 0):
        tokens[:, 1, 5] = code
        assert not torch.allclose(model(tokens), gone)


@each_network
def test_a_reference_of_gaps_is_a_row(name):
    model, tokens = network(name), alignments()
    tokens[:, 0] = GAP
    x = model.token(tokens)
    for block in model.blocks:
        x = x + torch.stack([block.rows(x[:, i]) for i in range(len(SPECIES))], 1)
        x = x + block.columns(x, None)
        x = x + block.mlp(x)
    torch.testing.assert_close(model(tokens), model.head(model.norm(x[:, 0])).float())
    none = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    assert torch.equal(model(tokens, none), model(tokens))
    tokens[0] = GAP
    assert torch.isfinite(model(tokens)).all()


def test_directions():
    tokens = alignments(b=1)
    changed = tokens.clone()
    changed[0, :, 12] = (changed[0, :, 12] + 1) % 4
    for name, reads_on in (("msamamba", True), ("axial", True), ("rightward", False)):
        model = network(name)
        moved = (model(tokens) - model(changed)).abs().sum(-1)[0] > 1e-6
        assert moved[12:].all()
        assert moved[:12].any() == reads_on


@each_network
def test_autocast_is_close(name):
    model, tokens = network(name).float(), alignments()
    tokens[1, 3] = GAP
    skip = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    skip[:, 2] = True
    wanted = model(tokens, skip)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(tokens, skip)
    assert got.dtype == torch.float32 and not torch.equal(got, wanted)
    torch.testing.assert_close(got, wanted, rtol=0.1, atol=0.1)


# Classifiers.


def classifier(labels, seed=0):
    torch.manual_seed(seed)
    return new_network(replace(CONFIGS["msamamba"], labels=labels)).double().eval()


def test_a_classifier_reads_the_mean_of_the_reference_s_bases():
    model, tokens = classifier(("no", "yes")), alignments()
    assert isinstance(model, Classifier)
    tokens[:, 0] = torch.randint(0, 4, tokens[:, 0].shape)
    tokens[0, 0, 10:] = GAP
    hidden = model.network.hidden(tokens)
    means = torch.stack([hidden[0, :10].mean(0), hidden[1].mean(0), hidden[2].mean(0)])
    torch.testing.assert_close(model(tokens), model.output(means).float())
    found = probabilities(model(tokens))
    torch.testing.assert_close(found[:, 1], torch.sigmoid(model(tokens)[:, 0]))
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_three_classes_have_an_output_each():
    model = classifier(("a", "b", "c"))
    logits = model(alignments())
    assert logits.shape == (3, 3)
    torch.testing.assert_close(probabilities(logits), logits.softmax(-1))


def test_a_sequence_without_bases_has_a_probability():
    tokens = torch.full((1, len(SPECIES), 8), GAP)
    assert torch.isfinite(classifier(("no", "yes"))(tokens)).all()


# On disk.


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_comes_back_from_disk(name, tmp_path):
    model = network(name).float()
    save_model(tmp_path, model, CONFIGS[name])
    again, config = load_model(tmp_path)
    assert config == CONFIGS[name] and config.species == SPECIES and not again.training
    tokens = alignments()
    assert torch.equal(again(tokens), model(tokens))
    with pytest.raises(InputError, match="predicts bases and no classes") as refusal:
        load_classifier(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_classifier_comes_back_from_disk(tmp_path):
    model = classifier(("no", "yes")).float()
    save_model(tmp_path, model, replace(CONFIGS["msamamba"], labels=("no", "yes")))
    again, config = load_classifier(tmp_path)
    assert config.labels == ("no", "yes") and torch.equal(again(alignments()), model(alignments()))
    with pytest.raises(InputError, match="classifies sequences and predicts no bases"):
        load_model(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    from npimpute.engine.model_files import default_model

    with pytest.raises(InputError, match="a model of npssm; name one that 'npimpute train msa' made"):
        load_config(default_model())
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body": {"width": 3}}, "no setting width"),
        ({"body": {"n_heads": 3}}, "n_heads 3: the heads share d_model 128 equally"),
        ({"length": 0}, "length 0: a whole number, 1 or more"),
        ({"species": []}, "species: different names are needed"),
        ({"species": ["a", "a"]}, "species: different names are needed"),
        ({"labels": ["a"]}, "labels a: two or more that differ"),
        ({"rows": 3}, "no setting rows"),
    ],
    ids=str,
)
def test_bad_settings_of_a_model_on_disk(change, message, tmp_path):
    save_model(tmp_path, network("msamamba").float(), CONFIGS["msamamba"])
    found = json.loads((tmp_path / CONFIG).read_text()) | change
    (tmp_path / CONFIG).write_text(json.dumps(found))
    with pytest.raises(ConfigError, match=message) as refusal:
        load_model(tmp_path)
    assert "\n" not in str(refusal.value) and CONFIG in str(refusal.value)


def test_weights_of_other_species_are_refused(tmp_path):
    save_model(tmp_path, network("msamamba").float(), CONFIGS["msamamba"])
    found = json.loads((tmp_path / CONFIG).read_text()) | {"species": ["hg38"]}
    (tmp_path / CONFIG).write_text(json.dumps(found))
    with pytest.raises(InputError, match="weights of another model: blocks.0.columns.species") as refusal:
        load_model(tmp_path)
    assert WEIGHTS in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MSAMambaConfig, {"d_model": 0}, "d_model 0"),
        (MSAMambaConfig, {"d_state": 1.5}, "d_state 1.5"),
        (MSAMambaConfig, {"n_heads": 5}, "n_heads 5"),
        (AxialConfig, {"n_layers": -1}, "n_layers -1"),
        (AxialConfig, {"d_model": 12, "n_heads": 4}, "rotary positions"),
        (MSAModelConfig, {"architecture": "gpn", "species": ("a",)}, "architecture gpn: choose from msamamba, axial"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_codes_are_what_the_networks_take():
    model = network("msamamba")
    tokens = torch.from_numpy(np.array([[[0, 1, 2, 3, GAP, MASK]] * len(SPECIES)], np.int64))
    assert model(tokens).shape == (1, 6, 6)
