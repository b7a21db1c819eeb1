"""npssm: Li-Stephens where the network says nothing, numba against torch, what it may not depend on, models on disk."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from test_blocks import dense
from test_engine import make_window

from npimpute.config import RunConfig
from npimpute.engine import npssm, stacking
from npimpute.engine.base import share_out
from npimpute.engine.checkpoint import load_model, save_model
from npimpute.engine.copying import CERTAIN, CopyingConfig, Places
from npimpute.engine.copying_network import CopyingNetwork, WithLayers
from npimpute.engine.li_stephens import CladeCopying, LiStephens, copying_model
from npimpute.engine.model_files import load_config, read_weights, write_config
from npimpute.engine.network import NetworkConfig
from npimpute.engine.npssm import NPSSMEngine, WithoutLayers
from npimpute.engine.select import make_engine
from npimpute.engine.self_imputed import SelfImputed, self_impute
from npimpute.errors import ConfigError, InputError
from npimpute.train.copying_task import make_batch

NE, ERR = 5e4, 1e-3
SIZES = {"clades": False, "size": 6, "haplotypes": 5, "width": 8, "token": 3, "readout": 7, "calibrate": 14}
LAYERS = {"layers": 1, "flank": 2}
CLADES = {"clades": True, "size": 1}
each_kind = pytest.mark.parametrize("kind", [{}, LAYERS], ids=["without layers", "with layers"])


def make_network(noise=0.3, seed=0, **settings):
    """A small network whose weights are all drawn, those that begin at zero as well; with no ``noise`` a fresh one."""
    torch.manual_seed(seed)
    made = CopyingNetwork(CopyingConfig(**SIZES | settings)).eval()
    for parameter in made.parameters():
        parameter.data.add_(noise * torch.randn_like(parameter))
    return made


def tensors_of(made):
    return {name: value.numpy().copy() for name, value in made.state_dict().items()}


def engine(made, calibrate=0, threads=1, seed=1, ne=NE, err=ERR, **settings):
    """settings: other than those that the network was made with."""
    config, tensors = replace(made.config, **settings), tensors_of(made)
    reader = WithLayers(made, "cpu") if config.layers else WithoutLayers(tensors)
    return NPSSMEngine(config, tensors, reader, copying_model(config, ne, err, threads, seed), calibrate, threads, seed)


def window_of(seed=0, **options):
    """With rows before the first typed site and after the last."""
    window, _ = make_window(np.random.default_rng(seed), **options)
    return replace(window, typed=window.typed[4:-5], alleles=window.alleles[4:-5])


def batch_of(made, ready, window):
    """All rows where the network has a say, as torch takes them; of each of its sequences the target and the rows."""
    unsure = ready.rows.untyped & (ready.copying.p > CERTAIN) & (ready.copying.p < 1 - np.float32(CERTAIN))
    _, w, _ = ready.copying.ranking.haplotypes.shape
    targets, rows = np.nonzero(unsure)
    sequence = targets * w + ready.rows.stretch[rows]
    chosen = np.unique(sequence)
    picked = [rows[sequence == s] for s in chosen]
    truth = np.zeros(unsure.T.shape, np.uint8)
    batch = make_batch(ready.copying, made.config, chosen, picked, window, ready.rows.known, truth)
    return batch, list(zip(chosen // w, picked, strict=True))


def by_torch(made, batch):
    """(q, r) probabilities."""
    with torch.no_grad():
        return torch.sigmoid(made(batch.haplotype, batch.site, batch.posterior, batch.rows)).numpy()


# What it computes


@pytest.mark.parametrize("calibrate", [0, 20])
@pytest.mark.parametrize("kind", [{}, {"size": 1, "haplotypes": 40}, LAYERS, CLADES | {"haplotypes": 40}], ids=str)
@pytest.mark.parametrize("given", [(NE, ERR), (None, None)], ids=["given", "estimated"])
def test_with_heads_of_zero_it_is_what_it_corrects_and_progress_rises_to_one(given, kind, calibrate):
    window, made = window_of(n=30), make_network(noise=0, **kind)
    plain = (CladeCopying if kind.get("clades") else LiStephens)(*given, share=made.config.ne_share)
    tested = engine(made, calibrate, ne=given[0], err=given[1])
    shares = []
    kept = plain.copying(window, made.config.size, made.config.haplotypes)
    np.testing.assert_allclose(tested.impute(window, shares.append), kept.p, atol=2e-5)
    assert tested.error_rate == plain.error_rate
    assert len(shares) > 2 and shares[0] > 0 and shares[-1] == 1 and (np.diff(shares) > 0).all()


KINDS = [{"size": 1, "haplotypes": 8}, {"flank": 3}, {"haplotypes": 60}, LAYERS, CLADES, CLADES | {"layers": 1}]


@pytest.mark.parametrize("k", [40, 17, 300])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_the_torch_network_where_the_copying_model_is_not_sure_and_that_elsewhere(kind, k):
    window, made = window_of(k, k=k), make_network(**kind)
    tested = engine(made, calibrate=20)
    ready = tested.ready(window)
    batch, where = batch_of(made, ready, window)
    before = copying_model(made.config, NE, ERR).copying(window, made.config.size, made.config.haplotypes).p
    expected, unsure = before.copy(), np.zeros(before.shape, bool)
    for p, (target, rows) in zip(by_torch(made, batch), where, strict=True):
        expected[target, rows], unsure[target, rows] = p[: len(rows)], True
    starts = window.panel.row_start()
    share_out(expected, np.stack([starts[:-1], starts[1:]], axis=1))
    typed, starts = window.typed, window.panel.row_start()
    for part in (slice(starts[typed[0]]), slice(starts[typed[-1] + 1], None)):
        assert np.abs(expected - before)[:, part].max() > 0.01
    assert unsure.sum() > 100 and np.abs(expected - before).max() > 0.05 and not unsure[:, window.typed_rows()].any()
    got = tested.correct(ready, ready.copying.p.copy())
    assert got.dtype == np.float32
    alone = ~unsure & (expected == before)  # not of a site that shares out
    np.testing.assert_array_equal(got[alone], before[alone])
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("size", [1, 6, 99])
def test_rows_lie_between_the_typed_sites_around_them(size):
    window = window_of(4, every=9)
    at = Places.of(LiStephens(NE, ERR).copying(window, size, 3))
    starts = window.panel.row_start()
    for site, (first, stop) in enumerate(zip(starts, starts[1:], strict=False)):
        before = sum(typed <= site for typed in window.typed.tolist()) - 1
        for row in range(first, stop):
            assert 0 <= at.left[row] < size and at.stretch[row] * size + at.left[row] == max(before, 0)
            assert at.stretch[row] * size + at.right[row] == min(before + 1, len(window.typed) - 1)


def test_gradients_reach_every_weight():
    window, made = window_of(), make_network(**LAYERS, token=12)
    batch, _ = batch_of(made, engine(made, calibrate=20).ready(window), window)
    made(batch.haplotype, batch.site, batch.posterior, batch.rows).square().sum().backward()
    for name, weight in made.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        reached = weight.grad.reshape(len(weight), -1).any(1)
        cut_off = name.split(".")[0] in ("left", "right", "row", "token")  # some, where they are below 0 everywhere
        assert reached.any() if cut_off else reached.all(), name


def test_without_typed_sites_the_panel_frequencies():
    window = window_of(7)
    bare = replace(window, typed=np.empty(0, np.int64), alleles=window.alleles[:0])
    p = engine(make_network(), calibrate=20).impute(bare)
    np.testing.assert_allclose(p, np.tile(dense(window).mean(axis=1), (6, 1)), rtol=1e-6)
    assert p.dtype == np.float32


# What it may not depend on


@pytest.mark.parametrize("kind", [{}, CLADES], ids=["plain", "clades"])
@pytest.mark.parametrize("hidden", [20, 6], ids=["judged", "all taken"])
def test_the_same_bytes_for_any_threads_batch_order_and_company_of_targets(hidden, kind, monkeypatch):
    made = make_network(noise=0.1 if hidden == 20 else 0.3, **kind)  # of what is worse judges take nothing
    monkeypatch.setattr(stacking, "LEAST", 1)
    window = replace(window_of(1, n=14), ploidy=np.ones(14, np.int8))
    whole = engine(made, hidden).impute(window)
    moved = np.abs(whole - copying_model(made.config, NE, ERR).impute(window)).max()
    assert moved > (0.05 if hidden == 6 else 0.01)
    assert engine(made, hidden, threads=3).impute(window).tobytes() == whole.tobytes()
    for some in (np.arange(14)[::-1], np.array([5]), np.array([13, 2, 7])):
        part = engine(made, hidden).impute(replace(window, alleles=window.alleles[:, some], ploidy=window.ploidy[some]))
        assert part.tobytes() == whole[some].tobytes()
    for batch, threads in ((1, 1), (1, 3), (16, 3), (10_000, 1)):
        monkeypatch.setattr(npssm, "BATCH", batch)
        assert engine(made, hidden, threads).impute(window).tobytes() == whole.tobytes()


def test_nor_does_a_network_with_layers(monkeypatch):
    window, made = window_of(1, n=14), make_network(**LAYERS)
    whole, seen = engine(made, 20).impute(window), []
    assert np.abs(whole - copying_model(made.config, NE, ERR).impute(window)).max() > 0.05
    monkeypatch.setattr(npssm, "BATCH", 16)  # two targets of six sequences
    made.haplotype.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    np.testing.assert_allclose(engine(made, 20, threads=3).impute(window), whole, atol=1e-5)
    assert seen[-7:] == [12] * 7
    part = engine(made, 20).impute(replace(window, alleles=window.alleles[:, [13, 2, 7]]))
    np.testing.assert_allclose(part, whole[[13, 2, 7]], atol=1e-5)


# What the panel tells of its rows


def test_what_is_told_of_rows_is_what_hidden_people_tell_and_matters():
    window, made = window_of(3), make_network()
    for seed in (1, 2):
        known = self_impute(copying_model(made.config, NE, ERR).impute, window, 20, seed).features()
        np.testing.assert_array_equal(engine(made, 20, seed=seed).ready(window).rows.known, known)
    one, other, none = (engine(made, hidden, 1, seed).impute(window) for hidden, seed in ((20, 1), (20, 2), (0, 1)))
    np.testing.assert_array_equal(engine(made, 0, seed=2).impute(window), none)
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - none).max() > 0.02


def test_features_of_rows_are_plain_figures():
    rng = np.random.default_rng(0)
    n, carried = 6000, np.array([0, 1, 1e-3, 0.2, 0.7, 0.5, 0.5, 0.3])[:, None]
    y = (rng.random((8, n)) < carried).astype(np.uint8)
    x = np.clip(0.6 * y + rng.uniform(0, 0.4, y.shape), 0, 1).astype(np.float32)
    x[0], x[1], x[6], x[7] = 0, 1, 1 - x[6], 0.25  # as all, as all, the wrong way round, and the same of all
    sums, bits = SelfImputed(8), np.packbits(y, axis=1, bitorder="little")
    for some in np.split(rng.permutation(n), [1000]):
        sums.add(x[:, some].T.copy(), bits, some)
    logit = lambda p: np.log(p / (1 - p))  # noqa: E731
    for of_row, a, b in zip(sums.features(), x.astype(float), y.astype(bool), strict=True):
        (var_x, cov), (_, var_y) = n * np.cov(a, b, ddof=0)
        expected = [
            (cov + 4) / (var_x + 4) - 1,
            max(cov, 0) ** 2 / (var_x + 1) / (var_y + 1),
            logit(np.clip((a[b].sum() + 0.5) / (b.sum() + 1), 1e-4, 1 - 1e-4)),
            logit(np.clip((a[~b].sum() + 0.5) / ((~b).sum() + 1), 1e-4, 1 - 1e-4)),
            np.log(1 + min(b.sum(), (~b).sum())),
            1,
        ]
        np.testing.assert_allclose(of_row, expected, rtol=1e-4, atol=1e-5)


def test_where_nobody_is_hidden_nothing_is_told():
    def impute(window):
        raise AssertionError("somebody was hidden")

    window = window_of()
    untyped = replace(window, typed=np.empty(0, np.int64), alleles=window.alleles[:0])
    for part, haplotypes in ((window_of(k=3), 20), (window_of(k=2), 20), (untyped, 20), (window, 0)):
        features = self_impute(impute, part, haplotypes, seed=1).features()
        assert features.shape == (len(part.panel.bits), 6) and not features.any()
    p = engine(make_network(), calibrate=20).impute(window_of(k=2))
    assert np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1 + 1e-6


def test_that_nothing_could_be_estimated_is_told_once(caplog):
    window = window_of()
    few = replace(window, typed=window.typed[:1], alleles=window.alleles[:1])
    caplog.set_level("INFO")
    engine(make_network(), calibrate=20, ne=None, err=None).impute(few)
    assert [m for m in caplog.messages if "too few typed alleles" in m] == [
        "Ne 1e+05, error rate 0.001 (too few typed alleles to estimate from)"
    ]


# Models on disk, and options


def run_config(folder, **options):
    options = {"engine": "npssm", "device": "cpu", "ne": NE, "err": ERR} | options
    return RunConfig(folder / "ref.vcf", folder / "target.vcf", folder / "out.vcf", **options)


@each_kind
def test_a_model_comes_back_as_it_was(tmp_path, kind):
    made = make_network(**kind, d_state=3, expand=2)
    save_model(tmp_path / "model", made, made.config)
    assert load_config(tmp_path / "model") == made.config
    other, settings = load_model(tmp_path / "model")
    assert settings == other.config == made.config
    for found in (read_weights(tmp_path / "model"), tensors_of(other)):
        assert found.keys() == made.state_dict().keys()
        for name, value in tensors_of(made).items():
            np.testing.assert_array_equal(found[name], value, strict=True)


@each_kind
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"calibrate": 14}),
        ({"calibrate": 6, "seed": 3, "threads": 2}, {"calibrate": 6, "seed": 3}),
        ({"calibrate": 0, "context": 2, "err": 0.02}, {"haplotypes": 2, "err": 0.02}),
        ({"calibrate": 0, "context": 90}, {"haplotypes": 90}),
    ],
)
def test_the_engine_is_the_one_that_was_asked_for(tmp_path, kind, options, expected):
    window, made = window_of(5), make_network(**kind)
    save_model(tmp_path / "model", made, made.config)
    tested = make_engine(run_config(tmp_path, model=tmp_path / "model", **options))
    p = tested.impute(window)
    assert (tested.name, tested.error_rate) == ("npssm", options.get("err", ERR))
    np.testing.assert_allclose(p, engine(made, **expected).impute(window), atol=1e-6 if kind else 0)
    for other in ({"calibrate": 10}, {"calibrate": 0, "haplotypes": 3}):
        assert np.abs(p - engine(made, **other).impute(window)).max() > 1e-4


def test_a_network_without_layers_needs_no_torch(tmp_path):
    window, made = window_of(6), make_network()
    save_model(tmp_path / "model", made, made.config)
    config = run_config(tmp_path, model=tmp_path / "model", device=None, calibrate=8)
    (tmp_path / "given").write_bytes(pickle.dumps((config, window)))
    script = """if True:
        import pickle, sys
        from npimpute.engine.select import make_engine
        config, window = pickle.load(sys.stdin.buffer)
        p = make_engine(config).impute(window)
        assert "torch" not in sys.modules
        sys.stdout.buffer.write(p.tobytes())
    """
    with open(tmp_path / "given", "rb") as given:
        done = subprocess.run([sys.executable, "-c", script], stdin=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == engine(made, 8).impute(window).tobytes()


@each_kind
@pytest.mark.parametrize(
    ("settings", "shape", "name"),
    [
        ({"readout": 9}, (7,), "readout.0.bias"),
        ({"token": 4}, (1, 3), "correction.weight"),
        ({}, None, "left.bias"),
        ({}, (3, 1), "right.weight"),
        ({}, (2,), "colour"),
    ],
)
def test_weights_that_do_not_fit_name_the_weight_and_the_model(tmp_path, kind, settings, shape, name):
    made, model = make_network(**kind), tmp_path / "model"
    save_model(model, made, made.config)
    make_engine(run_config(tmp_path, model=model))
    tensors = {key: value for key, value in tensors_of(made).items() if key != name}
    if shape:
        tensors[name] = np.zeros(shape, np.float32)
    save_file(tensors, model / "weights.safetensors")
    write_config(model, replace(made.config, **settings))
    with pytest.raises(InputError, match=f"^{model}.*: weights of another model: {name} is .*[^\n]$"):
        make_engine(run_config(tmp_path, model=model))


def test_a_model_of_another_engine_or_for_another_device_is_refused(tmp_path):
    (tmp_path / "table").mkdir()
    write_config(tmp_path / "table", NetworkConfig("npssm-paper"))
    save_model(tmp_path / "sites", made := make_network(), made.config)
    for name, options, said in [
        ("table", {}, "use --engine npssm-paper"),
        ("sites", {"engine": "spin", "ne": None}, "use --engine npssm"),
        ("sites", {"device": "cuda"}, "runs on the CPU"),
    ]:
        with pytest.raises(ConfigError, match=f"^--.*{tmp_path / name}.* {said}$"):
            make_engine(run_config(tmp_path, model=tmp_path / name, **options))
