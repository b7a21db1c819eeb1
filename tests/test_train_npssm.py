"""Training of the network over typed sites: what it learns from, and that a model is replaced by a better one only."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, alt_counts, expect_refusal, matrix, mosaic, r2, read_rows, run_forked, simulate
from test_train import Killed, Lines, killed_after, lines, same_weights, weights

from npimpute.config import RunConfig
from npimpute.engine.checkpoint import WEIGHTS, load_config, save_model
from npimpute.engine.copying import CERTAIN, CopyingConfig
from npimpute.engine.model_files import default_model
from npimpute.engine.select import make_engine
from npimpute.errors import ConfigError
from npimpute.train import copying_task as module
from npimpute.train.copying_task import CopyingDataConfig, CopyingSource, CopyingTask
from npimpute.train.data import region_of
from npimpute.train.loop import LoopConfig, Trainer
from npimpute.train.run import TrainConfig, train
from npimpute.train.state import METRICS, STATE
from npimpute.train.validate import hold_out, validate

pytestmark = pytest.mark.usefixtures("torch_alone")
MODEL = CopyingConfig(clades=False, size=8, flank=2, haplotypes=6, width=8, calibrate=30)
LAYERED = replace(MODEL, layers=1)
NAN = float("nan")
SCRIPTS = (0.5, 0.5, 0.4, 0.49, 0.5), (0.5, 0.6, 0.55, 0.6, 0.61), (NAN, NAN, 0.2, NAN, 0.1), (0.3, NAN, 0.2, 0.31, 0)
BOTH = pytest.mark.parametrize("config", [MODEL, LAYERED], ids=["read-out", "layers"])
DATA = CopyingDataConfig((4, 8), (0.05, 0.1), people=(20, 30), alike=0.0, hidden=5, typed=40, rows=300)
DATA = replace(DATA, ne=(0.5, 2), calibrate=(10, 20), uncalibrated=0.0, per_sequence=30)
LOOP = LoopConfig(steps=4, batch=16, accumulate=2, lr=1e-2, warmup=1, validate_every=1, save_every=2, log_every=1)


def region(alleles=None, people=40, name="toy"):
    """Mosaics of ten founders; every other row is wrong in a tenth of the haplotypes, which the panel can tell."""
    rng = np.random.default_rng(0)
    if alleles is None:
        founders = rng.random((400, 10)) < rng.uniform(0.1, 0.6, (400, 1))
        alleles = np.take_along_axis(founders, mosaic(10, 2 * people, 400, rng, 80), 1)
        alleles[::2] ^= rng.random(alleles[::2].shape) < 0.1
    alleles = alleles[alleles.any(1) & ~alleles.all(1)]
    pos, bits = 1000 * np.arange(1, len(alleles) + 1), np.packbits(alleles, axis=1, bitorder="little")
    return replace(region_of(name, pos, bits, alleles.shape[1]), cm=1e-5 * pos)


TOY = region()


@pytest.fixture
def draw(monkeypatch):
    """Draws, and returns the batch and what it was made of."""
    calls, plain = [], module.make_batch
    names = ("copying", "model", "chosen", "picked", "window", "known", "truth")
    monkeypatch.setattr(module, "make_batch", lambda *args: calls.append(args) or plain(*args))

    def one(seed, count=1000, of=TOY, **options):
        batch = CopyingSource([of], replace(DATA, **options), MODEL).draw(np.random.default_rng(seed), count)
        call = SimpleNamespace(**dict(zip(names, calls.pop(), strict=True)))
        call.panel = call.window.panel.alleles(slice(None))
        call.rows = np.searchsorted(of.pos, call.window.panel.sites.pos)
        same = (of.alleles(call.rows)[:, :, None] == np.hstack([call.truth, call.panel])[:, None]).all(0)
        assert (same.sum(0) == 1).all(), "every haplotype is one of the region's"
        call.hidden, call.others = np.split(same.argmax(0), [call.truth.shape[1]])
        return batch, call

    return one


def test_hidden_people_are_the_targets_and_nobody_of_the_panel(draw, monkeypatch):
    arrays, plain, sizes, targets = [], module.random_array, set(), set()
    monkeypatch.setattr(module, "random_array", lambda *args: arrays.append(plain(*args)) or arrays[-1])
    for seed in range(25):
        _, call = draw(seed)
        everybody = np.append(call.hidden, call.others)
        assert len(call.hidden) == 10 and not set(call.hidden) & set(call.others)
        np.testing.assert_array_equal(everybody[::2] ^ 1, everybody[1::2], "both haplotypes of a person")
        np.testing.assert_array_equal(call.window.alleles, call.truth[call.window.typed])
        assert set(np.ptp(TOY.alleles(call.rows)[:, everybody], axis=1)) == {1}, "rows vary"
        np.testing.assert_array_equal(call.window.typed, np.flatnonzero(np.isin(call.rows, arrays[-1])))
        np.testing.assert_array_equal(call.window.cm, TOY.cm[call.rows])
        assert call.known[:, :4].any() and (call.known[:, 5] == 1).all() and np.expm1(call.known[:, 4]).max() < 11
        sizes.add(len(everybody) // 2)
        targets |= set(call.hidden)
    assert min(sizes) < 23 and max(sizes) > 27 and sizes <= set(range(20, 31)) and len(targets) > 60


@pytest.mark.parametrize("seed", range(4))
def test_what_is_learnt_are_untyped_rows_where_li_stephens_is_not_sure(draw, seed):
    batch, call = draw(seed)
    p, typed, ranked, cm = call.copying.p, call.window.typed, call.copying.ranking.haplotypes, call.window.cm
    unsure = (p > CERTAIN) & (p < 1 - CERTAIN)
    unsure[:, typed] = False
    q, row = np.nonzero(unsure)
    sequence = q * ranked.shape[1] + np.maximum(np.searchsorted(typed, row) - 1, 0) // 8
    assert sorted(call.chosen) == np.unique(sequence).tolist() and len(call.chosen) > 20
    every = module.sequences(call.copying, 0, np.ones(ranked.shape[:2], bool), 2)
    for i, (s, rows) in enumerate(zip(call.chosen, call.picked, strict=True)):
        (q, stretch), offered = divmod(s, ranked.shape[1]), row[sequence == s]
        assert len(set(rows)) == len(rows) == min(30, len(offered)) and set(rows) <= set(offered)
        np.testing.assert_array_equal(batch.counts[i], np.arange(batch.counts.shape[1]) < len(rows))
        before = np.searchsorted(typed, rows) - 1
        left, right = np.maximum(before, 0), np.minimum(before + 1, len(typed) - 1)
        gap = cm[typed[right]] - cm[typed[left]]
        fraction = np.where(gap > 0, (cm[rows] - cm[typed[left]]) / np.maximum(gap, 1e-9), before < 0)
        direct = [left - 8 * stretch, right - 8 * stretch, fraction, call.panel[rows][:, ranked[q, stretch]]]
        direct += [p[q, rows], call.known[rows], call.truth[rows, q]]
        for ours, theirs in zip([*batch.rows, batch.truth], direct, strict=True):
            np.testing.assert_allclose(ours[i, : len(rows)], theirs, rtol=0, atol=1e-5)
        for name in ("haplotype", "site", "posterior"):
            np.testing.assert_array_equal(getattr(batch, name)[i], getattr(every, name)[s])


def test_a_draw_is_its_seed_s_and_no_larger_than_asked_for(draw):
    few, call = draw(1, count=3, per_sequence=5)
    assert few.truth.shape == (3, 5) and len(set(call.chosen)) == 3 and few.counts.sum(1).max() == 5
    assert 12 <= len(draw(1, typed=14)[1].window.typed) <= 14
    assert 50 < len(draw(1, rows=100)[1].rows) <= 140
    known = [[draw(seed, uncalibrated=share)[1].known.any() for seed in range(12)] for share in (0.5, 1.0)]
    assert 1 < sum(known[0]) < 11 and not any(known[1])
    drawn = (draw(seed, count=20)[0] for seed in (1, 1, 2))
    parts = [(b.haplotype, b.site, b.posterior, *b.rows, b.truth, b.counts) for b in drawn]
    first, again, other = ([tensor.numpy().tobytes() for tensor in part] for part in parts)
    assert first == again and not set(first[:-1]) & set(other)


def test_windows_that_are_kept_are_learnt_from_again_and_depend_on_the_seed_alone():
    def batches(source, seeds):
        return [source.draw(np.random.default_rng(seed), 7) for seed in seeds]

    model, data = replace(MODEL, clades=True, size=1, flank=0), replace(DATA, windows=3)
    source = CopyingSource([TOY], data, model, seed=5, threads=2)
    first = batches(source, range(20))
    assert len(source._kept) == 3 and all(len(batch.site) == 7 for batch in first)
    # In another order, and after others.
    again = batches(CopyingSource([TOY], data, model, seed=5), range(19, -1, -1))[::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.haplotype, other.haplotype) and torch.equal(one.rows.known, other.rows.known)
        assert torch.equal(one.truth, other.truth)
    others = batches(CopyingSource([TOY], data, model, seed=6), range(20))
    for one, other in zip(first, others, strict=True):
        assert one.site.shape != other.site.shape or not torch.equal(one.site, other.site)


def test_other_regions_of_the_same_people_tell_of_their_ancestry(monkeypatch):
    windows, plain = [], module.hide
    monkeypatch.setattr(module, "hide", lambda *args: windows.append(plain(*args)[0]) or plain(*args))
    # Two regions with the same rows, of the same people in another order, and two of others.
    order = np.random.default_rng(3).permutation(40)
    pairs = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
    toy = replace(TOY, samples=tuple(f"p{i}" for i in range(40)))
    same = region(TOY.alleles(slice(None))[:, pairs].astype(bool), name="same")
    same = replace(same, samples=tuple(f"p{i}" for i in order))
    others = [replace(TOY, samples=tuple(f"q{i}" for i in range(40))), TOY]
    data = replace(DATA, people=(40, 40), typed=1000, rows=1000)
    for seed in range(12):
        CopyingSource([toy, same, *others], data, MODEL).draw(np.random.default_rng(seed), 4)
    found = [window for window in windows if window.elsewhere is not None]
    assert 2 <= len(found) < len(windows)
    for window in found:
        rows = {row.tobytes() for row in window.panel.alleles(slice(None))}
        assert len(window.elsewhere.codes) and all(row.tobytes() in rows for row in window.elsewhere.codes)


def test_people_may_be_alike(draw):
    rng, shares = np.random.default_rng(0), {}
    frequency = np.repeat(rng.permuted([[0.2, 0.8]] * 400, axis=1), 60, axis=1)
    mixed = region(rng.random((400, 120)) < frequency)
    for alike in (0.0, 1.0):
        calls = [draw(seed, of=mixed, alike=alike)[1] for seed in range(10)]
        shares[alike] = {(np.append(call.hidden, call.others) < 60).mean() for call in calls}
    assert shares[1.0] == {0.0, 1.0} and 0.1 < min(shares[0.0]) <= max(shares[0.0]) < 0.9


def test_simulated_panels_are_drawn_as_often_as_they_should_be(monkeypatch):
    monkeypatch.setattr(CopyingSource, "_window", lambda self, region, rng: (region,))
    monkeypatch.setattr(CopyingSource, "_imputed", lambda self, region, rng: region)
    regions = [TOY, region(name="b", people=30), *(replace(TOY, name=f"simulated-{i}") for i in range(2))]
    for of, simulated, expected in ((regions, 2, 0.3), (regions, 0, 0.5), (regions[2:], 2, 1.0), (regions[:2], 0, 0.0)):
        source = CopyingSource(of, replace(DATA, simulated=0.3), MODEL, simulated=simulated)
        drawn = [source._draw(np.random.default_rng(seed)).name for seed in range(1000)]
        assert np.mean([name.startswith("simulated") for name in drawn]) == pytest.approx(expected, abs=0.05)


def test_what_cannot_be_drawn_from_is_refused_in_one_line():
    wrong = dict.fromkeys(("simulated", "alike", "uncalibrated"), (-0.1, 1.1, NAN)) | {"typed": (11,), "rows": (0, -1)}
    wrong |= {
        "people": ((19, 50), (50, 20), (20,), (20, 2e9), ("a", "b")),
        "hidden": (0, 126),
        "calibrate": ((1, 5), (5, 4)),
    }
    wrong |= {
        "ne": ((0, 5), (5, 4), (1, 2e9)),
        "err": ((0, 0.1), (0.1, 0.5)),
        "per_sequence": (0,),
        "spacing_kb": ((5, 4),),
    }
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(ConfigError, match=rf"^data\.{name} [^\n]+\Z"):
            CopyingDataConfig(**{name: value})
    half = replace(DATA, hidden=10)
    CopyingSource([region(people=20)], half, MODEL)
    with pytest.raises(ConfigError, match="^small: 19 people; data.hidden takes 10 of them$"):
        CopyingSource([TOY, region(people=19, name="small")], half, MODEL)
    with pytest.raises(ConfigError, match="no window of 12 typed sites with .*; lower data.spacing_kb$"):
        CopyingSource([TOY], replace(DATA, spacing_kb=(60, 60)), MODEL).draw(np.random.default_rng(0), 5)


def network(config: CopyingConfig, spread: float = 0.0) -> module.CopyingNetwork:
    """Its heads, which start at 0, drawn with this standard deviation."""
    torch.manual_seed(LOOP.seed)
    made = module.CopyingNetwork(config)
    for head in (made.correction, made.readout[-1]) if spread else ():
        torch.nn.init.normal_(head.weight, std=spread)
    return made


def test_what_fills_up_a_batch_does_not_count(draw):
    batch, _ = draw(3, per_sequence=100)
    task = CopyingTask(network(MODEL, 3.0), MODEL, None, [])
    values = task.loss(task.network, batch, 0.0)[1]
    counts, p, truth = (x.numpy().astype(float) for x in (batch.counts, batch.rows.p, batch.truth))
    surprise = -np.log(np.where(truth == 1, p, 1 - p))[counts == 1].mean()
    assert values["copied"] == pytest.approx(surprise, rel=1e-5) and abs(values["loss"] - surprise) > 0.01
    empty, spoilt = batch.counts == 0, []
    for value, old in zip((1, 3, 0.7, 1.0, 0.9, 5.0), batch.rows, strict=True):
        spoilt.append(torch.where(empty[..., None] if old.ndim == 3 else empty, value, old))
    other = replace(batch, rows=module.Rows(*spoilt), truth=torch.where(empty, 1.0, batch.truth))
    assert empty.sum() > 50 and task.loss(task.network, other, 0.0)[1] == pytest.approx(values, rel=1e-6)


@BOTH
def test_a_network_starts_as_what_it_corrects_and_learns_to_be_better(config, tmp_path):
    source = CopyingSource([TOY], DATA, config)
    task = CopyingTask(network(config), config, source, [])
    loop = replace(LOOP, steps=40, batch=64, accumulate=1, schedule="constant", save_every=40)
    assert Trainer(task, loop, tmp_path, {}).run() and task.validate() == {}
    fixed, means = [source.draw(np.random.default_rng([99, i]), 64) for i in range(10)], {}
    for name, reader in (("fresh", network(config)), ("trained", task.network)):
        found = [task.loss(reader, batch, 0.0)[1] for batch in fixed]
        means[name], copied = (np.mean([values[key] for values in found]) for key in ("loss", "copied"))
    assert means["fresh"] == pytest.approx(copied, abs=1e-4) and means["trained"] < 0.95 * copied


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    return simulate(n_sites=200, n_panel=40, n_target=1, seed=3).panel.save(tmp_path_factory.mktemp("p") / "panel.vcf")


def settings(panel, out, **others) -> TrainConfig:
    options = {"hold_out": 4, "hold_out_rows": 150, "model": LAYERED, "objective": None, "loop": LOOP, "data": DATA}
    return TrainConfig(out=out, panels=(panel,), **(options | others))


def validations(out) -> dict[int, float]:
    return {line["step"]: line["validation"]["all"]["pooled"] for line in lines(out) if "validation" in line}


@BOTH
def test_validation_is_what_the_engine_with_the_saved_weights_gives(config, panel, tmp_path):
    held, seen = [hold_out(panel, {"P3", "P8", "P30"}, DATA, 150, seed=1)], []
    task = CopyingTask(network(config), config, None, held)
    for spread in (0.0, 3.0, 6.0):
        task.network.load_state_dict(network(config, spread).state_dict())
        found = task.validate()
        task.save(tmp_path)
        run = RunConfig(panel, panel, tmp_path / "out.vcf", engine="npssm", model=tmp_path, device="cpu", threads=1)
        np.testing.assert_equal(found, validate(make_engine(run), held))
        seen.append(found["all"]["pooled"])
    assert len(set(seen)) == 3 and "0.2-0.5" in found


def test_a_run_resumed_after_every_step_is_the_run_in_one_go(panel, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    assert train(settings(panel, a))
    done = [train(settings(panel, b), minutes=0, resume=step > 0) for step in range(4)]
    assert done == [False] * 3 + [True] and same_weights(a, b)
    assert (a / METRICS).read_bytes() == (b / METRICS).read_bytes() and list(validations(a)) == [1, 2, 3, 4]
    assert np.abs(weights(a)["correction.weight"]).max() > 1e-3


def test_steps_that_do_harm_leave_no_model(panel, tmp_path):
    save_model(start := tmp_path / "start", network(LAYERED), LAYERED)
    loop, out = replace(LOOP, lr=3.0, warmup=0, schedule="constant", steps=2), tmp_path / "run"
    config = settings(panel, out, init=start, loop=loop)
    for resume in (False, True):
        with pytest.raises(
            ConfigError, match=f"^{out}: no step validated better than the start, so no model was saved"
        ):
            train(config, resume=resume)
        assert sorted(path.name for path in out.iterdir()) == sorted([METRICS, STATE])
        found = validations(out)
        assert list(found) == [0, 1, 2] and max(found[1], found[2]) < found[0]
    for name, usual in (("anew", {"init": None}), ("unjudged", {"hold_out": 0})):
        assert train(replace(config, out=tmp_path / name, **usual)) and weights(tmp_path / name)


def judged(out, *r2, improve=True):
    """A task whose validations find ``r2``, and its trainer."""
    task, left, saved = Lines(), list(r2), []
    task.validate = lambda: {"all": {"pooled": left.pop(0)}}
    task.save = lambda path: saved.append(task.network.weight.item()) or (path / WEIGHTS).touch()
    return task, saved, Trainer(task, replace(LOOP, batch=3, save_every=1), out, {}, improve=improve)


@pytest.mark.parametrize(("found", "saves"), list(zip(SCRIPTS, ([], [1, 4], [2], [3]), strict=True)))
def test_a_model_is_saved_where_it_validates_better_only(found, saves, tmp_path):
    (task, saved, trainer), seen = judged(tmp_path, *found), {}
    assert trainer.run(lambda step, metrics: seen.update({step: task.network.weight.item()}))
    assert saved == [seen[step] for step in saves] and trainer.saved == bool(saves)
    _, usual, trainer = judged(tmp_path, *found[1:], improve=False)
    assert trainer.run() and usual == list(seen.values()) and len(set(usual)) == 4


@pytest.mark.parametrize(("found", "saves"), [((0.79, 0.8), 0), ((0.85, 0.81), 1)])
def test_the_best_so_far_is_remembered(found, saves, tmp_path):
    """Killed after step 3, whose state was not saved."""
    with pytest.raises(Killed):
        judged(tmp_path, 0.5, NAN, 0.8, 0.9)[-1].run(killed_after(3))
    _, saved, again = judged(tmp_path, *found)
    assert again.resume() == 2 and list(validations(tmp_path)) == [0, 1, 2]
    assert again.run() and len(saved) == saves and again.saved


def words(panel, out, *more) -> list:
    values = {f"model.{name}": getattr(LAYERED, name) for name in ("size", "flank", "haplotypes", "layers", "width")}
    values |= {"model.clades": "false", "data.spacing_kb": [4, 8], "data.people": [20, 36], "data.hidden": 5}
    values |= {"data.calibrate": [10, 20]}
    found = ["train", "npssm", "--panel", panel, "--out", out, "--device", "cpu", "--threads", 1, "--hold-out", 4]
    found += ["--steps", 2, "--batch", 16, "--accumulate", 1, "--lr", 0.005, "--set", "loop.warmup=0"]
    return [*found, *(word for name, value in values.items() for word in ("--set", f"{name}={value}")), *more]


def test_what_the_command_trains_can_be_run(panel, tmp_path):
    status, printed, log = run_forked(*words(panel, tmp_path / "model"))
    assert (status, printed, list(validations(tmp_path / "model"))) == (0, "", [2]) and "model: trained" in log
    assert load_config(tmp_path / "model") == replace(LAYERED, calibrate=CopyingConfig.calibrate)
    made = simulate(n_sites=200, n_panel=40, n_target=1, seed=3)
    given = ["run", "--ref", panel, "--target", made.target.save(tmp_path / "chip.vcf"), "--threads", 1]
    given += ["--engine", "npssm", "--model", tmp_path / "model", "--ne", 1500, "--out", tmp_path / "out.vcf"]
    assert run_forked(*given)[0] == 0
    rows = [row for row in read_rows(tmp_path / "out.vcf") if not row.name.startswith("own")]
    assert r2(matrix(rows), alt_counts(made.truth.records)) > 0.7


def test_its_tables_of_settings_are_shown_and_others_refused(panel, tmp_path):
    found = json.loads(run_forked(*words(panel, tmp_path / "run", "--show-settings"))[1])
    assert {name for name, value in found.items() if isinstance(value, dict)} == {"model", "data", "loop", "simulation"}
    assert found["objective"] is None and (found["data"]["people"], found["data"]["alike"]) == ([20, 36], 0.3)
    assert (
        found["model"] == vars(replace(LAYERED, calibrate=CopyingConfig.calibrate))
        and found["data"].keys() == vars(DATA).keys()
    )
    assert found["loop"]["weight_decay"] > 0 == LoopConfig.weight_decay  # the loop has defaults of its own
    more = ["--init", "default", "--show-settings"]
    model = json.loads(run_forked("train", "npssm", "--panel", panel, "--out", tmp_path / "run", *more)[1])["model"]
    assert model == vars(load_config(default_model()))
    save_model(start := tmp_path / "start", network(LAYERED), LAYERED)
    for more, expected in (
        (["--set", "objective.mask=rows"], "no table of settings objective; there are model, data, loop, simulation"),
        (["--init", EXAMPLES.parent / "models/npssm-paper-small"], "small: its architecture is npssm-paper; train"),
        (["--init", start, "--set", "model.readout=8"], f"{start / WEIGHTS}: weights of another model: readout.0"),
    ):
        expect_refusal(tmp_path, words(panel, tmp_path / "run", *more), expected)
