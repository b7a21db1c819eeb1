"""Engines that impute block by block: what all have in common, each against plain arithmetic, models on disk, files."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import alt_counts, expect_refusal, impute, matrix, r2, read_rows, same_files
from test_blocks import dense, make_window

from npimpute.config import RunConfig
from npimpute.context.blocks import Block, BlockSize, cut_blocks
from npimpute.context.neighbours import column_weights
from npimpute.engine import network
from npimpute.engine.blockwise import ERROR_RATE, BlockEngine, batches
from npimpute.engine.checkpoint import load_model, save_model
from npimpute.engine.knn import KNN
from npimpute.engine.logistic import LogisticRegression
from npimpute.engine.network import NetworkConfig, NetworkPredictor, TableNetwork
from npimpute.engine.select import make_engine
from npimpute.errors import ConfigError, InputError

BODIES = {
    "npssm-paper": {"d_model": 8, "n_layers": 1, "d_state": 2},
    "msa-transformer": {"d_model": 8, "n_heads": 2, "n_layers": 1, "expand": 2},
    "spin": {"d_model": 8, "n_heads": 2, "n_layers": 1, "expand": 2, "inducing": 3, "attributes": 2},
}
SMALL = BlockSize(12, 16)
each_network = pytest.mark.parametrize("architecture", BODIES)


def make_network(architecture="npssm-paper", seed=0, **settings):
    """A small network with random weights, and its settings."""
    torch.manual_seed(seed)
    config = NetworkConfig(architecture, BODIES[architecture], **{"block": SMALL, "context": 5} | settings)
    made = TableNetwork(config).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return made, config


def distances(block, query, reach):
    """Of one query, to each haplotype."""
    weight = np.ones(len(block.rows), np.int64) if not reach else column_weights(block.wanted, reach)
    return [weight[(query >= 0) & (query != alleles)].sum() for alleles in block.panel.T]


def predictor(name, context=5):
    if name == "knn":
        return KNN(context)
    return LogisticRegression() if name == "logistic" else NetworkPredictor(make_network(name)[0], context)


def mixed_window(seed=0, **options):
    """60 sites, every third typed, some with two or three ALT alleles; 20 panel and 6 target haplotypes."""
    n_alt = np.random.default_rng(seed + 100).choice([1, 1, 1, 2, 3], 60)
    return make_window(n_alt, np.arange(0, 60, 3), **{"k": 20, "n": 6, "seed": seed} | options)


def make_block(seed=0, n=4, k=30, known=12, wanted=5, missing=0.2):
    """Columns that the queries know in part, then columns to impute that depend on them."""
    rng = np.random.default_rng(seed)
    features = (rng.random((known, k + n)) < rng.uniform(0.2, 0.8, (known, 1))).astype(np.uint8)
    score = rng.normal(size=(wanted, known)) @ (features - 0.5) + rng.normal(size=(wanted, k + n))
    panel = np.concatenate([features[:, :k], score[:, :k] > 0]).astype(np.uint8)
    queries = np.full((n, known + wanted), -1, np.int8)
    queries[:, :known] = np.where(rng.random((n, known)) < missing, -1, features[:, k:].T)
    return Block(np.arange(known + wanted), panel, queries, np.arange(known + wanted) >= known)


every_engine = pytest.mark.parametrize("name", ["knn", "logistic", *BODIES])


# What all have in common


@every_engine
def test_probabilities_of_every_row_that_is_written(name):
    window = mixed_window(core=(10, 50))
    starts, panel = window.panel.row_start(), dense(window)
    shares = []
    p = BlockEngine(name, predictor(name), BlockSize(24, 16)).impute(window, shares.append)
    assert p.shape == (6, len(panel)) and p.dtype == np.float32
    assert np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1
    sums = np.array([p[:, a:b].sum(axis=1) for a, b in pairwise(starts)])
    assert sums.max() <= 1 + 1e-5
    core = slice(starts[10], starts[50])
    flank = np.r_[0 : starts[10], starts[50] : len(panel)]
    np.testing.assert_allclose(p[:, flank], np.tile(panel[flank].mean(axis=1), (6, 1)), atol=1e-6)
    assert (np.abs(p[:, core] - panel[core].mean(axis=1)) > 1e-6).any(axis=0).mean() > 0.9
    assert shares[-1] == 1 and (np.diff([0, *shares]) > 0).all()


@every_engine
def test_an_allele_does_not_predict_itself_but_its_neighbours(name):
    window = mixed_window(missing=0)
    engine, starts = BlockEngine(name, predictor(name), BlockSize(100, 200)), window.panel.row_start()
    before = engine.impute(window)
    for i in (0, 7, 13):
        site = window.typed[i]
        n_alt = starts[site + 1] - starts[site]
        alleles = window.alleles.copy()
        alleles[i] = (alleles[i] + 1) % (n_alt + 1)
        after = engine.impute(replace(window, alleles=alleles))
        own = slice(starts[site], starts[site + 1])
        np.testing.assert_array_equal(after[:, own], before[:, own])
        assert np.abs(after - before).max() > 1e-3


@every_engine
def test_without_typed_sites_the_panel_s_frequencies(name):
    window = mixed_window()
    bare = replace(window, typed=np.empty(0, np.int64), alleles=window.alleles[:0])
    p = BlockEngine(name, predictor(name), SMALL).impute(bare)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, np.tile(dense(window).mean(axis=1), (6, 1)), atol=1e-6)


class Constant:
    """Says the same everywhere, and keeps the blocks that it was given."""

    def __init__(self, p):
        self.p, self.blocks = p, []

    def predict(self, block):
        self.blocks.append(block)
        return np.full((len(block.queries), block.wanted.sum()), self.p, np.float32)


def test_rows_of_a_site_that_add_up_to_more_than_one_are_scaled():
    window = make_window([1, 2, 3, 1], [0, 2])
    p = BlockEngine("constant", Constant(0.8), SMALL).impute(window)
    np.testing.assert_allclose(p, np.tile([0.8, 0.5, 0.5, 1 / 3, 1 / 3, 1 / 3, 0.8], (4, 1)), rtol=1e-6)
    p = BlockEngine("constant", Constant(0.25), SMALL).impute(window)
    np.testing.assert_allclose(p, 0.25)


def test_the_engine_passes_on_the_blocks_of_its_size():
    window, constant = mixed_window(), Constant(0.1)
    engine = BlockEngine("constant", constant, SMALL)
    engine.impute(window)
    expected = list(cut_blocks(window, SMALL))
    assert [b.rows.tolist() for b in constant.blocks] == [b.rows.tolist() for b in expected]
    assert len(expected) > len(list(cut_blocks(window, BlockSize(24, 16))))
    assert (engine.name, engine.error_rate) == ("constant", ERROR_RATE)
    assert BlockEngine("constant", constant, SMALL, 0.02).error_rate == 0.02


@pytest.mark.parametrize(("n", "most", "sizes"), [(10, 4, [3, 3, 4]), (10, 10, [10]), (3, 0.2, [1, 1, 1]), (0, 5, [])])
def test_batches_are_few_and_about_equal(n, most, sizes):
    found = batches(n, most)
    assert [part.stop - part.start for part in found] == sizes
    assert [i for part in found for i in range(n)[part]] == list(range(n))


# Nearest neighbours


def test_copies_of_panel_haplotypes_are_recovered_by_one_neighbour():
    window, source = make_window([1, 1, 2] * 60, np.arange(0, 180, 2), k=25, n=5), [3, 24, 0, 17, 3]
    panel, starts = dense(window), window.panel.row_start()
    codes = [(panel[a:b] * np.arange(1, b - a + 1)[:, None]).sum(axis=0) for a, b in pairwise(starts)]
    alleles = np.array(codes)[window.typed][:, source].astype(np.int8)
    p = BlockEngine("knn", KNN(1), BlockSize(40, 50)).impute(replace(window, alleles=alleles))
    np.testing.assert_array_equal(p, panel[:, source].T)


@pytest.mark.parametrize("neighbours", [1, 3, 30])
@pytest.mark.parametrize("reach", [0.0, 2.0, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_knn_is_the_mean_of_the_nearest_in_loops(neighbours, reach, seed):
    block = make_block(seed, missing=0.5)
    found = (KNN(neighbours) if reach == 8 else KNN(neighbours, reach)).predict(block)
    assert found.dtype == np.float32 and found.shape == (4, 5)
    for query, row in zip(block.queries, found, strict=True):
        distance = distances(block, query, reach)
        near = sorted(range(30), key=lambda j: (distance[j], j))[:neighbours]
        np.testing.assert_allclose(row, block.panel[block.wanted][:, near].mean(axis=1), rtol=1e-6)


# Logistic regression


def newton(features, label, ridge):
    """Weights and intercept that minimise cross-entropy + ridge / 2 |weights|^2, in float64."""
    x = np.column_stack([features, np.ones(len(features))])
    penalty = np.append(np.full(features.shape[1], ridge), 0.0)
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (p - label) + penalty * w
        w -= np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(penalty), gradient)
    assert np.abs(gradient).max() < 1e-9
    return w[:-1], w[-1]


@pytest.mark.parametrize("ridge", [1.0, 20.0])
@pytest.mark.parametrize(("k", "known"), [(30, 12), (200, 25), (20, 40)])
def test_logistic_regression_is_newton_s(k, known, ridge):
    block = make_block(k, n=6, k=k, known=known)
    block.queries[0] = -1  # nothing is known of it
    block.queries[:, 3] = -1  # and of this column nobody knows anything
    labels = block.panel[block.wanted]
    labels[:, :4] = [0, 1, 0, 1]  # none has one allele only
    block.panel[block.wanted] = labels
    features = block.panel[:known].T.astype(float)
    mean = features.mean(axis=0)
    queries = np.where(block.queries[:, :known] < 0, mean, block.queries[:, :known])
    found = LogisticRegression(ridge).predict(block)
    assert found.dtype == np.float32 and found.shape == (6, 5)
    for label, p in zip(labels, found.T, strict=True):
        weights, intercept = newton(features - mean, label.astype(float), ridge)
        expected = 1 / (1 + np.exp(-((queries - mean) @ weights + intercept)))
        np.testing.assert_allclose(p, expected, atol=1e-3)
        assert p[0] == pytest.approx(1 / (1 + np.exp(-intercept)), abs=1e-3)
        assert np.ptp(p) > 0.01


def test_logistic_regression_of_what_nobody_carries_is_near_zero():
    block = make_block()
    block.panel[-2:] = [[0], [1]]
    p = LogisticRegression().predict(block)
    assert np.isfinite(p).all() and p[:, -2].max() < 0.5 / 30 and p[:, -1].min() > 1 - 0.5 / 30


def test_logistic_regression_does_not_depend_on_who_is_imputed_together():
    block = make_block(missing=0.5)
    p = LogisticRegression().predict(block)
    for i in range(len(p)):
        alone = LogisticRegression().predict(replace(block, queries=block.queries[i : i + 1]))
        np.testing.assert_allclose(alone[0], p[i], atol=1e-6)


# Networks


@each_network
def test_logits_of_the_query_are_the_whole_table_s(architecture):
    model, _ = make_network(architecture)
    torch.manual_seed(1)
    tokens, wanted = torch.randint(0, 3, (3, 6, 9)), torch.arange(9) % 3 == 1
    with torch.no_grad():
        table, query = model(tokens, wanted), model.query_logits(tokens, wanted)
    assert table.shape == (3, 6, 9) and query.shape == (3, 3) and table.dtype == query.dtype == torch.float32
    torch.testing.assert_close(query, table[:, -1, wanted])
    torch.testing.assert_close(model.query_logits(tokens, wanted).detach(), query)
    with torch.no_grad():  # which row is the query and which columns are wanted is told to the network
        assert (model(tokens, ~wanted) - table).abs().max() > 1e-3
        model.row_kind.weight[1] = torch.randn(8)
        assert (model.query_logits(tokens, wanted) - query).abs().max() > 1e-3


@each_network
@pytest.mark.parametrize("context", [1, 5, 30])  # more than it was made for, too
@pytest.mark.parametrize("reach", [0.0, 2.0])
def test_a_network_reads_the_nearest_haplotypes_and_the_query(architecture, context, reach):
    model, config = make_network(architecture)
    block = make_block(missing=0.5)
    found = NetworkPredictor(model, context, reach).predict(block)
    assert config.context == 5 and found.shape == (4, 5) and found.dtype == np.float32
    for query, p in zip(block.queries, found, strict=True):
        distance = distances(block, query, reach)
        near = sorted(range(30), key=lambda j: (distance[j], j))[:context][::-1]
        rows = [*(block.panel[:, j].tolist() for j in near), [2 if q < 0 else int(q) for q in query]]
        with torch.no_grad():
            logits = model(torch.tensor([rows]), torch.from_numpy(block.wanted))[0, -1, block.wanted]
        np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits.numpy())), atol=1e-5)


@each_network
def test_batches_of_queries_do_not_matter(architecture, monkeypatch):
    model, _ = make_network(architecture)
    block = make_block(n=11)
    whole = NetworkPredictor(model, 5).predict(block)
    table_bytes = 4 * 8 * 6 * 17
    for tables, sizes in ((0, [1] * 11), (4.5, [3, 4, 4]), (11, [11])):
        seen = []
        hook = model.body.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        monkeypatch.setattr(network, "BATCH_BYTES", {"cpu": tables * table_bytes})
        np.testing.assert_allclose(NetworkPredictor(model, 5).predict(block), whole, atol=1e-5)
        hook.remove()
        assert sorted(seen) == sizes
    assert np.ptp(whole, axis=0).min() > 1e-4


@pytest.mark.parametrize("name", ["knn", *BODIES])
def test_a_panel_that_is_too_small_is_told_in_one_line(name):
    block = make_block(k=7)
    predictor(name, 7).predict(block)
    with pytest.raises(ConfigError, match="8 (neighbours|haplotypes): the panel has 7.*--context") as error:
        predictor(name, 8).predict(block)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"architecture": "gru"}, "architecture gru: choose from npssm-paper, msa-transformer, spin"),
        ({"context": 0}, "context 0"),
        ({"reach": -1.0}, "reach -1.0: a number of typed columns, or 0"),
        ({"reach": float("inf")}, "reach inf"),
        ({"body": {"width": 3, "d_model": 8}}, "npssm-paper: no setting width; there are d_conv, d_model"),
        ({"body": {"d_model": 0}}, "d_model 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        NetworkConfig(**wrong)


def test_an_engine_chooses_haplotypes_as_its_model_says(saved, tmp_path):
    window = mixed_window()

    def imputed(**settings):
        options = {"engine": "npssm-paper", "model": saved(**settings), "device": "cpu", "context": 3}
        return make_engine(config(tmp_path, **options)).impute(window)

    assert np.abs(imputed(reach=1) - imputed(reach=0)).max() > 1e-3
    np.testing.assert_allclose(imputed(reach=1e9), imputed(reach=0), atol=1e-6)


def test_settings_that_are_not_named_are_written_out():
    assert NetworkConfig(body={"d_model": 8}).body == {
        "d_model": 8, "n_layers": 2, "d_state": 8, "d_conv": 4, "expand": 2, "order": "attr-data"
    }  # fmt: skip


# Models on disk


@each_network
def test_a_model_comes_back_as_it_was(architecture, tmp_path):
    model, config = make_network(architecture)
    save_model(tmp_path / "some" / "model", model, config)
    assert sorted(path.name for path in (tmp_path / "some" / "model").iterdir()) == [
        "config.json",
        "weights.safetensors",
    ]
    other, settings = load_model(tmp_path / "some" / "model")
    assert settings == config
    block = make_block()
    np.testing.assert_array_equal(
        NetworkPredictor(other, 5).predict(block), NetworkPredictor(model, 5).predict(block), strict=True
    )
    save_model(tmp_path / "some" / "model", make_network(architecture, seed=9)[0], config)  # replaces
    other, _ = load_model(tmp_path / "some" / "model")
    assert not np.array_equal(NetworkPredictor(other, 5).predict(block), NetworkPredictor(model, 5).predict(block))


@pytest.fixture
def saved(tmp_path):
    """A model on disk; calling it with settings writes those over its own."""

    def change(**settings):
        path = tmp_path / "model" / "config.json"
        found = json.loads(path.read_text())
        body = settings.pop("body", {})
        path.write_text(json.dumps(found | settings | {"body": found["body"] | body}))
        return tmp_path / "model"

    save_model(tmp_path / "model", *make_network())
    return change


def refusal(path, kind, file, *words):
    with pytest.raises(kind) as error:
        load_model(path)
    said = str(error.value)
    assert type(error.value) is kind and said.startswith(str(path / file)) and "\n" not in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"colour": 1}, ConfigError, ["no setting colour", "architecture"]),
        ({"body": {"colour": 1}}, ConfigError, ["npssm-paper: no setting colour", "d_model"]),
        ({"block": {"typed": 16, "colour": 1}}, ConfigError, ["block: no setting colour", "untyped"]),
        ({"block": {"typed": 0}}, ConfigError, ["at least 1"]),
        ({"context": 0}, ConfigError, ["context 0"]),
        ({"context": "5"}, ConfigError, []),
        ({"reach": "5"}, ConfigError, ["model.reach '5': not a number"]),
        ({"reach": None}, ConfigError, ["model.reach None: not a number"]),
        ({"body": {"order": "rows"}}, ConfigError, ["order rows"]),
        ({"architecture": "gru"}, ConfigError, ["architecture gru"]),
        ({"version": 2}, InputError, ["format version 2, not 1"]),
        ({"version": None}, InputError, ["format version None"]),
        ({"format": "else"}, InputError, ["npimpute train"]),
    ],
)
def test_settings_that_do_not_fit_name_the_file(saved, change, kind, words):
    load_model(saved())
    refusal(saved(**change), kind, "config.json", *words)


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"3", b'{"format": ', b"\xff\xfe\x00"])
def test_settings_that_are_no_json_object_name_the_file(saved, text):
    model = saved()
    (model / "config.json").write_bytes(text)
    refusal(model, InputError, "config.json", "not")


def test_weights_that_do_not_fit_name_the_file_and_the_weight(saved, tmp_path):
    refusal(saved(body={"d_state": 3}), InputError, "weights.safetensors", "A_log", "(16, 2)", "(16, 3)")
    refusal(saved(body={"d_state": 2, "n_layers": 2}), InputError, "weights.safetensors", "none")


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.9, 0.999])
def test_weights_that_are_cut_short_name_the_file(saved, share):
    weights = saved() / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(share * len(whole))])
    refusal(saved(), InputError, "weights.safetensors", "cannot be read as weights")


def test_what_is_missing_is_named(saved, tmp_path):
    refusal(tmp_path / "nowhere", InputError, "config.json", "No such file", "a directory with a model")
    (tmp_path / "file").write_text("")
    refusal(tmp_path / "file", InputError, "config.json")
    (saved() / "weights.safetensors").unlink()
    refusal(tmp_path / "model", InputError, "weights.safetensors", "No such file")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match=f"^{tmp_path / 'file'}: cannot be written"):
        save_model(tmp_path / "file", *make_network())
    assert (tmp_path / "file").read_text() == "kept"


# Options


def config(tmp_path, **options):
    return RunConfig(tmp_path / "ref.vcf", tmp_path / "target.vcf", tmp_path / "out.vcf", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"engine": "gru"},
            "--engine gru: choose from npssm, clades, li-stephens, knn, logistic, npssm-paper, msa-transformer, spin",
        ),
        *(({"engine": name}, f"--engine {name}: needs --model") for name in BODIES),
        *(({"engine": n, "model": "m"}, f"--engine {n}: takes no --model") for n in ("li-stephens", "knn", "logistic")),
        ({"device": "gpu", "engine": "logistic"}, "--device gpu: choose cpu, cuda, or cuda:N"),
        ({"device": "cuda:", "engine": "logistic"}, "--device cuda:: choose"),
        ({"device": "cuda:x", "engine": "npssm-paper", "model": "m"}, "--device cuda:x: choose"),
        ({"device": "cpu\n", "engine": "logistic"}, "--device cpu\n: choose"),
        ({"device": "cuda", "engine": "li-stephens"}, "--device cuda: --engine li-stephens runs on the CPU"),
        ({"device": "cuda:1", "engine": "knn"}, "--device cuda:1: --engine knn runs on the CPU"),
        ({"context": 5, "engine": "li-stephens"}, "--context 5: --engine li-stephens takes no number"),
        ({"context": 5, "engine": "logistic"}, "--context 5: --engine logistic takes no number"),
        ({"context": 0, "engine": "knn"}, "--context 0: at least one"),
        ({"ne": 1e4, "engine": "knn"}, "--ne 10000.0: --engine knn has no population size"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path, options, said):
    with pytest.raises(ConfigError) as error:
        config(tmp_path, **options)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"engine": "npssm", "ne": 1e4, "model": "m", "context": 3, "calibrate": 0, "device": "cuda"},
        {"engine": "knn", "context": 3, "device": "cpu"},
        {"engine": "logistic", "device": "cuda:12"},
        {"engine": "npssm-paper", "model": "m", "context": 3, "device": "cuda"},
    ],
)
def test_options_that_go_together(tmp_path, options):
    made = config(tmp_path, **options)
    assert all(getattr(made, name) == value for name, value in options.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_told(tmp_path, device):
    with pytest.raises(ConfigError, match=f"^--device {device}: torch finds no GPU"):
        make_engine(config(tmp_path, engine="logistic", device=device))


def test_the_engine_is_the_one_that_was_asked_for(tmp_path, saved):
    window, cpu = mixed_window(), {"device": "cpu", "err": 0.02}
    for options, expected in [
        ({"engine": "knn"}, BlockEngine("knn", KNN(10), BlockSize())),
        ({"engine": "knn", "context": 3}, BlockEngine("knn", KNN(3), BlockSize())),
        ({"engine": "logistic"}, BlockEngine("logistic", LogisticRegression(1.0), BlockSize())),
        ({"engine": "npssm-paper", "model": saved()}, BlockEngine("npssm-paper", predictor("npssm-paper"), SMALL)),
        (
            {"engine": "npssm-paper", "model": saved(), "context": 9},
            BlockEngine("npssm-paper", predictor("npssm-paper", 9), SMALL),
        ),
    ]:
        made = make_engine(config(tmp_path, **cpu | options))
        assert (made.name, made.error_rate) == (options["engine"], 0.02)
        np.testing.assert_array_equal(made.impute(window), expected.impute(window), strict=True)


def test_a_model_of_another_architecture_is_named(tmp_path, saved):
    with pytest.raises(ConfigError, match=f"^--model {saved()}: is of another engine; use --engine npssm-paper"):
        make_engine(config(tmp_path, engine="spin", model=saved(), device="cpu"))


# From files to files


@pytest.mark.parametrize("name", ["knn", "logistic", "npssm-paper"])
def test_files_in_files_out(data, tmp_path, saved, name):
    options = {"engine": name, "ne": None, "err": None, "formats": ("GT", "DS", "HDS")}
    options |= {"knn": {}, "logistic": {"device": "cpu"}, "npssm-paper": {"device": "cpu", "model": saved()}}[name]
    first, second = (impute(data, tmp_path / f"{i}.vcf.gz", **options) for i in range(2))
    assert same_files(first, second)
    rows = read_rows(first)
    assert [row.key for row in rows] == [record.key for record in data.panel.records]
    chip = {record.key: record.alleles for record in data.target.records}
    typed = [row for row in rows if "TYPED" in row.info]
    assert len(typed) == len(chip) - 3
    for row in typed:
        written = np.array([int(a) for call in row.fields["GT"] for a in call.split("|")])
        known = chip[row.key] >= 0
        assert (written[known] == chip[row.key][known]).all()
    if name != "npssm-paper":  # whose weights are random
        untyped = np.repeat(["TYPED" not in row.info for row in rows], [row.alt.count(",") + 1 for row in rows])
        frequency, truth = alt_counts(data.panel.records).mean(axis=1) / 2, alt_counts(data.truth.records)
        common = untyped & (np.minimum(frequency, 1 - frequency) > 0.1)
        of_frequencies = r2(np.tile(frequency[:, None], 8)[common], truth[common])
        assert r2(matrix(rows)[common], truth[common]) > of_frequencies + 0.3


def test_more_neighbours_than_haplotypes_end_the_run_in_one_line(data, tmp_path):
    files = ["run", "--ref", data.ref, "--target", data.chip, "--out", tmp_path / "out.vcf.gz"]
    words = [*files, "--engine", "knn", "--context", 121, "--threads", 1]
    expect_refusal(tmp_path, words, "121 neighbours", "the panel has 120 haplotypes", "--context")


def test_a_model_that_is_not_there_ends_the_run_in_one_line(data, tmp_path):
    files = ["run", "--ref", data.ref, "--target", data.chip, "--out", tmp_path / "out.vcf.gz"]
    words = [*files, "--engine", "npssm-paper", "--model", tmp_path / "nowhere", "--device", "cpu", "--threads", 1]
    expect_refusal(tmp_path, words, str(tmp_path / "nowhere" / "config.json"), "a directory with a model")
