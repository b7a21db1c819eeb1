"""Training runs: resumed as if never interrupted, over processes as in one, and refused in one line."""

import json
import multiprocessing
import os
import resource
import signal
import socket
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import expect_refusal, run_forked, simulate
from safetensors.torch import load_file
from torch import nn

from npimpute.cli.train import command
from npimpute.context.blocks import BlockSize
from npimpute.engine.checkpoint import CONFIG, WEIGHTS, load_config, load_model, save_model
from npimpute.engine.network import NetworkConfig, TableNetwork
from npimpute.errors import ConfigError, InputError
from npimpute.train import loop as loop_module
from npimpute.train.data import DataConfig
from npimpute.train.loop import LoopConfig, Processes, Trainer
from npimpute.train.objective import ObjectiveConfig
from npimpute.train.run import TrainConfig, train
from npimpute.train.simulate import SimulationConfig
from npimpute.train.state import METRICS, STATE
from npimpute.train.table_task import TableTask

BODY = {"d_model": 8, "n_layers": 1, "d_state": 2, "expand": 1}
TINY = NetworkConfig("npssm-paper", BODY, BlockSize(20, 20), 6)
LOOP = LoopConfig(
    steps=6, batch=2, accumulate=2, lr=1e-2, warmup=2, validate_every=3, save_every=2, log_every=1, weight_decay=0.01
)


pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def panel(tmp_path_factory) -> Path:
    made = simulate(n_sites=120, n_panel=16, n_target=1, seed=3).panel
    return made.save(tmp_path_factory.mktemp("train") / "panel.vcf")


def settings(panel: Path, out: Path, loop: LoopConfig = LOOP, **others) -> TrainConfig:
    options = {"panels": (panel,), "hold_out": 3, "hold_out_rows": 40, "model": TINY, "loop": loop}
    options |= {"data": DataConfig((8, 20), (0.01, 0.1))}
    return TrainConfig(out=out, **(options | others))


@pytest.fixture(scope="module")
def straight(panel, tmp_path_factory) -> Path:
    """A run of six steps in one go."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert train(settings(panel, out)) is True
    return out


def weights(out: Path) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_file(out / WEIGHTS).items()}


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def not_json(word):
    raise AssertionError(f"{word} is not JSON")


# What a run leaves behind.


def test_a_run_leaves_its_model_its_state_and_its_metrics(straight):
    assert sorted(p.name for p in straight.iterdir()) == sorted([CONFIG, WEIGHTS, STATE, METRICS])
    network, config = load_model(straight)
    assert config == TINY and isinstance(network, TableNetwork)
    state = load_file(straight / STATE)
    for name, value in weights(straight).items():
        np.testing.assert_array_equal(state[f"network.{name}"].numpy(), value)


def test_metrics_are_steps_and_validations(straight):
    found = lines(straight)
    assert [line["step"] for line in found] == [1, 2, 3, 3, 4, 5, 6, 6]
    steps = [line for line in found if "validation" not in line]
    for line in steps:
        assert set(line) == {"step", "loss", "mlm", "aux", "lambda", "lr", "gradient"}
        assert line["loss"] > 0 and line["mlm"] > 0 and line["aux"] > 0 and line["gradient"] > 0
        assert line["loss"] == pytest.approx((1 - line["lambda"]) * line["mlm"] + line["lambda"] * line["aux"])
    np.testing.assert_allclose([line["lambda"] for line in steps], 1 - 0.5 * np.arange(6) / 6)
    np.testing.assert_allclose([line["lr"] for line in steps], [LOOP.lr_at(i) for i in range(6)])
    first, last = (line["validation"] for line in found if "validation" in line)
    assert first.keys() == last.keys() and "all" in first and "0.2-0.5" in first
    for values in last.values():
        assert set(values) == {"alleles", "pooled", "mean"}
    bins = [values["alleles"] for name, values in last.items() if name != "all"]
    assert sum(bins) == last["all"]["alleles"] > 10
    assert first["all"]["pooled"] != last["all"]["pooled"]


def test_metrics_are_json_to_the_letter(panel, tmp_path):
    """Over one person no allele's dosage has a correlation: its mean is not defined."""
    train(settings(panel, tmp_path / "run", replace(LOOP, steps=1), hold_out=1))
    for line in (tmp_path / "run" / METRICS).read_text().splitlines():
        json.loads(line, parse_constant=not_json)


def test_the_learning_rate_warms_up_and_falls():
    config = LoopConfig(steps=100, lr=1.0, warmup=10)
    assert [config.lr_at(i) for i in (0, 4)] == pytest.approx([0.1, 0.5], rel=0.01)
    assert config.lr_at(50) == pytest.approx(0.505) and config.lr_at(100) == pytest.approx(0.01)
    rates = [config.lr_at(i) for i in range(100)]
    assert max(rates) == rates[9] < 1 and sorted(rates[9:], reverse=True) == rates[9:]
    flat = replace(config, schedule="constant")
    assert [flat.lr_at(i) for i in (0, 9, 50, 99)] == pytest.approx([0.1, 1, 1, 1])
    assert replace(config, warmup=0).lr_at(0) == 1


def test_without_people_held_out_nothing_is_validated(panel, tmp_path):
    train(settings(panel, tmp_path, replace(LOOP, steps=1), hold_out=0))
    assert [set(line) & {"loss", "validation"} for line in lines(tmp_path)] == [{"loss"}]


def test_a_seed_is_a_run(panel, straight, tmp_path):
    train(settings(panel, tmp_path / "again"))
    train(settings(panel, tmp_path / "other", replace(LOOP, seed=2)))
    assert same_weights(straight, tmp_path / "again") and lines(straight) == lines(tmp_path / "again")
    assert not same_weights(straight, tmp_path / "other")


def test_held_out_people_are_not_trained_on(panel, tmp_path, monkeypatch):
    seen = []
    plain = loop_module.Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, task, *args: seen.append(task) or plain(self, task, *args))
    train(settings(panel, tmp_path, replace(LOOP, steps=1)))
    (region,) = seen[0]._source._regions
    (held,) = seen[0]._held_out
    assert (region.k, held.window.panel.k, held.truth.shape[1]) == (26, 26, 6)
    assert np.bitwise_count(held.window.panel.bits).sum() == region.count.sum() + 26 * (
        (np.bitwise_count(held.window.panel.bits).sum(1) == 26).sum()
    ), "the same people"


def test_a_panel_of_its_own_is_validated_on(panel, tmp_path):
    other = simulate(n_sites=80, n_panel=10, n_target=1, seed=9).panel
    other = replace(other, samples=[f"V{i}" for i in range(10)]).save(tmp_path / "other.vcf")
    config = settings(panel, tmp_path / "run", replace(LOOP, steps=1), validate=(other,), hold_out_rows=10)
    train(config)
    assert 0 < lines(tmp_path / "run")[-1]["validation"]["all"]["alleles"] <= 12


def test_an_easy_panel_is_learnt(panel, tmp_path):
    """The nearest haplotype, of twelve founders, is nearly always right: it is the last row before the query."""
    config = LoopConfig(steps=150, batch=8, accumulate=1, lr=3e-2, warmup=10, validate_every=150, log_every=1)
    model = replace(TINY, body=BODY | {"order": "data"}, context=4)
    objective = ObjectiveConfig(lambda_end=1.0, auxiliary="plain")
    train(settings(panel, tmp_path, config, objective=objective, model=model))
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])
    assert lines(tmp_path)[-1]["validation"]["all"]["pooled"] > 0.6


def test_mixed_precision_is_close_to_single(panel, straight, tmp_path):
    train(settings(panel, tmp_path, replace(LOOP, steps=6, precision="bfloat16")))
    ours, theirs = lines(straight)[0]["loss"], lines(tmp_path)[0]["loss"]
    assert ours != theirs and ours == pytest.approx(theirs, rel=0.05)
    assert {value.dtype for value in weights(tmp_path).values()} == {np.dtype(np.float32)}


def test_simulated_panels_are_trained_on(tmp_path):
    pytest.importorskip("msprime")
    simulation = SimulationConfig(samples=12, length_mb=0.2, mutation_rate=1e-7)
    options = {"panels": (), "simulate": 2, "hold_out": 0, "simulation": simulation}
    config = replace(settings(tmp_path, tmp_path / "run", replace(LOOP, steps=1)), **options)
    assert train(config) and lines(tmp_path / "run")[0]["loss"] > 0


# Interrupted and resumed.


def test_stopped_after_every_step_is_uninterrupted(panel, straight, tmp_path):
    done = [train(settings(panel, tmp_path), minutes=0)]
    while not done[-1]:
        before = lines(tmp_path)[-1]["step"]
        done.append(train(settings(panel, tmp_path), minutes=0, resume=True))
        assert lines(tmp_path)[-1]["step"] == before + 1
    assert done == [False] * 5 + [True]
    assert same_weights(straight, tmp_path)
    assert (tmp_path / METRICS).read_bytes() == (straight / METRICS).read_bytes()
    ours, theirs = load_file(tmp_path / STATE), load_file(straight / STATE)
    assert ours.keys() == theirs.keys() and any("exp_avg" in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "the optimiser's too"


class Killed(Exception):
    pass


def killed_after(steps: int):
    def progress(step, metrics):
        if step == steps:
            raise Killed

    return progress


def test_what_was_done_since_the_last_state_is_done_again(panel, straight, tmp_path):
    """Killed in step 6: saved after 4, metrics up to 5."""
    with pytest.raises(Killed):
        train(settings(panel, tmp_path), progress=killed_after(6))
    assert lines(tmp_path)[-1]["step"] == 5
    steps = []
    assert train(settings(panel, tmp_path), resume=True, progress=lambda step, metrics: steps.append(step))
    assert steps == [5, 6]
    assert same_weights(straight, tmp_path) and lines(straight) == lines(tmp_path)


def test_a_torn_line_of_metrics_is_cut_off(panel, straight, tmp_path):
    with pytest.raises(Killed):
        train(settings(panel, tmp_path), progress=killed_after(6))
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"step": 6, "lo')
    train(settings(panel, tmp_path), resume=True)
    assert same_weights(straight, tmp_path) and lines(straight) == lines(tmp_path)


def test_a_finished_run_stays_as_it_is(panel, straight):
    before = {path: path.read_bytes() for path in straight.iterdir()}
    assert train(settings(panel, straight), resume=True) is True
    assert before == {path: path.read_bytes() for path in straight.iterdir()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loop": replace(LOOP, lr=0.02)}, "loop.lr 0.01, not 0.02"),
        ({"loop": replace(LOOP, steps=7)}, "loop.steps 6, not 7"),
        ({"objective": ObjectiveConfig(span=3)}, "objective.span 10, not 3"),
        ({"data": DataConfig((8, 21), (0.01, 0.1))}, r"data.spacing_kb \[8, 20\], not \[8, 21\]"),
        ({"hold_out": 2}, "hold_out 3, not 2"),
        ({"model": replace(TINY, body=BODY | {"d_model": 16})}, "model.body.d_model 8, not 16"),
        ({"model": replace(TINY, context=7)}, "model.context 6, not 7"),
    ],
    ids=str,
)
def test_a_run_is_resumed_with_its_own_settings_only(panel, straight, changes, message):
    before = {path: path.read_bytes() for path in straight.iterdir()}
    with pytest.raises(ConfigError, match=message) as refusal:
        train(settings(panel, straight, **changes), resume=True)
    assert "\n" not in str(refusal.value) and STATE in str(refusal.value)
    assert before == {path: path.read_bytes() for path in straight.iterdir()}


def test_there_must_be_something_to_resume(panel, straight, tmp_path):
    with pytest.raises(InputError, match=f"{STATE}: cannot be resumed from"):
        train(settings(panel, tmp_path), resume=True)
    whole = (straight / STATE).read_bytes()
    for spoilt in (b"", whole[:100], whole[:-1]):
        (tmp_path / STATE).write_bytes(spoilt)
        with pytest.raises(InputError, match=f"{STATE}: cannot be resumed from"):
            train(settings(panel, tmp_path), resume=True)


def test_a_run_is_not_overwritten(panel, straight):
    before = {path: path.read_bytes() for path in straight.iterdir()}
    with pytest.raises(InputError, match="holds a training run; add --resume"):
        train(settings(panel, straight))
    assert before == {path: path.read_bytes() for path in straight.iterdir()}


def test_a_run_that_died_before_its_first_state_can_be_started_anew(panel, tmp_path):
    with pytest.raises(Killed):
        train(settings(panel, tmp_path, replace(LOOP, save_every=10)), progress=killed_after(2))
    with pytest.raises(InputError, match="leave --resume away to start anew"):
        train(settings(panel, tmp_path, replace(LOOP, save_every=10)), resume=True)
    assert train(settings(panel, tmp_path, replace(LOOP, save_every=10)))


# Where it starts from.


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(99)
    save_model(path, TableNetwork(TINY), TINY)
    return path


def test_init_starts_from_a_model_s_weights_and_settings(panel, model, tmp_path):
    tiny_steps = replace(LOOP, steps=1, lr=1e-9, weight_decay=0.0)
    train(settings(panel, tmp_path / "from", tiny_steps, init=model, hold_out=0))
    train(settings(panel, tmp_path / "anew", tiny_steps))
    given, ours, others = weights(model), weights(tmp_path / "from"), weights(tmp_path / "anew")
    for name in given:
        np.testing.assert_allclose(ours[name], given[name], atol=1e-8)
    assert max(np.abs(others[name] - given[name]).max() for name in given) > 0.1
    assert load_model(tmp_path / "from")[1] == TINY


def test_init_takes_other_tables(panel, model, tmp_path):
    given = ["train", "npssm-paper", "--panel", panel, "--out", tmp_path / "run", "--init", model, "--context", 7]
    _, printed, _ = run_forked(*given, "--set", 'model.block={"untyped": 5, "typed": 9}', "--show-settings")
    values = json.loads(printed)["model"]
    assert (values["context"], values["block"]) == (7, {"untyped": 5, "typed": 9})
    assert values["body"] == TINY.body


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_is_the_weights_too(panel, tmp_path, seed):
    train(settings(panel, tmp_path, replace(LOOP, steps=1, lr=1e-9, weight_decay=0.0, seed=seed)))
    for name, value in initial(seed).items():
        np.testing.assert_allclose(weights(tmp_path)[name], value, atol=1e-8)


def test_a_run_from_a_model_is_resumed(panel, model, tmp_path):
    config = settings(panel, tmp_path / "a", init=model)
    train(config)
    assert not train(replace(config, out=tmp_path / "b"), minutes=0)
    assert train(replace(config, out=tmp_path / "b"), resume=True)
    assert same_weights(tmp_path / "a", tmp_path / "b")


def test_weights_of_another_shape_are_refused(panel, model, tmp_path):
    found = json.loads((model / CONFIG).read_text())
    found["body"]["d_model"] = 16
    (tmp_path / CONFIG).write_text(json.dumps(found))
    (tmp_path / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="weights of another model: .* is .*, the settings say") as refusal:
        train(settings(panel, tmp_path / "run", init=tmp_path, model=load_config(tmp_path)))
    assert "\n" not in str(refusal.value) and not (tmp_path / "run").exists()


# What cannot be trained.


def test_a_context_larger_than_the_panel_is_refused(panel, tmp_path):
    """Sixteen people less three, less the query's own: 24 haplotypes."""
    train(settings(panel, tmp_path / "most", replace(LOOP, steps=1), model=replace(TINY, context=24)))
    with pytest.raises(ConfigError, match="context of 25 haplotypes: .*panel.vcf:20 has 26"):
        train(settings(panel, tmp_path / "run", model=replace(TINY, context=25)))


def test_no_more_people_are_held_out_than_there_are(panel, tmp_path):
    with pytest.raises(ConfigError, match="--hold-out 16: the panels have 16 samples"):
        train(settings(panel, tmp_path / "run", hold_out=16))


def test_too_large_a_learning_rate_ends_in_one_line(panel, tmp_path):
    config = replace(LOOP, lr=1e30, warmup=0, schedule="constant", save_every=100, validate_every=100)
    with pytest.raises(ConfigError, match=r"step [2-5]: the loss is not a number; .*--lr") as refusal:
        train(settings(panel, tmp_path, config))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"panels": ()}, "nothing to train on: give --panel, or --simulate"),
        ({"validate": (Path("v.vcf"),), "hold_out": 0}, "--validate needs people who are not trained on"),
        ({"hold_out": -1}, "--hold-out and --simulate are 0 or more"),
        ({"hold_out_rows": 0}, "--hold-out-rows 1 or more"),
        ({"simulate": -1}, "--simulate are 0 or more"),
        ({"panels": (), "simulate": 1}, "simulated people cannot be held out"),
        ({"validate": (Path("./p.vcf"),)}, "p.vcf: is trained on"),
    ],
    ids=str,
)
def test_a_contradictory_run_is_refused(options, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        settings(Path("p.vcf"), Path("out"), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [(n, (0, -1)) for n in ("steps", "batch", "accumulate", "validate_every", "save_every", "log_every")]
    + [(n, (-1,)) for n in ("warmup", "weight_decay", "clip", "seed")]
    + [("lr", (0, -1, float("nan"), float("inf"))), ("precision", ("float16",)), ("schedule", ("step",))],
)
def test_a_bad_loop_is_refused(name, values):
    for value in values:
        with pytest.raises(ConfigError, match=f"loop.{name} {value}: ") as refusal:
            LoopConfig(**{name: value})
        assert "\n" not in str(refusal.value)


# The loop, with a task that is easy to follow.


class Lines:
    """Learns y = 2 x by one weight and a bias; a draw is ``count`` values of x."""

    def __init__(self, at_step=None, loss=None):
        self.network = nn.Linear(1, 1).double()
        nn.init.zeros_(self.network.weight)
        nn.init.zeros_(self.network.bias)
        self.draws, self.shares, self._validations = [], [], 0
        self._at_step, self._loss, self._count = at_step, loss, 0

    def draw(self, rng, count):
        self.draws.append(rng.normal(size=count))
        return torch.from_numpy(self.draws[-1])

    def loss(self, network, batch, share):
        self.shares.append(share)
        loss = ((network(batch[:, None])[:, 0] - 2 * batch) ** 2).mean()
        self._count += 1
        if self._count == self._at_step:
            loss = self._loss(loss)
        return loss, {"loss": loss.item()}

    def validate(self):
        self._validations += 1
        return {"all": {"n": self._validations}}

    def save(self, path):
        (path / "model").write_text(json.dumps({k: v.tolist() for k, v in self.network.state_dict().items()}))


def plain_loop(**options) -> LoopConfig:
    return LoopConfig(**({"steps": 1, "batch": 3, "accumulate": 2, "warmup": 0, "log_every": 1} | options))


def gradient(x: np.ndarray) -> np.ndarray:
    """Of the loss over x, at weight and bias 0."""
    return np.array([(2 * x * -2 * x).mean(), (2 * -2 * x).mean()])


def test_a_step_follows_the_mean_gradient_of_its_draws(tmp_path):
    """Adam's first step is lr times the gradient's sign, so one without Adam is taken."""
    task, config = Lines(), plain_loop(lr=0.1, clip=0.0, accumulate=3)
    trainer = Trainer(task, config, tmp_path, {})
    trainer._optimizer = torch.optim.SGD(task.network.parameters(), lr=0.1)
    assert trainer.run()
    draws = [np.random.default_rng([1, 0, i]).normal(size=3) for i in range(3)]
    np.testing.assert_array_equal(task.draws, draws)
    mean = np.mean([gradient(x) for x in draws], axis=0)
    made = np.array([task.network.weight.item(), task.network.bias.item()])
    np.testing.assert_allclose(made, -0.1 * mean)
    (line,) = [line for line in lines(tmp_path) if "loss" in line]
    assert line["gradient"] == pytest.approx(np.linalg.norm(mean))
    assert line["loss"] == pytest.approx(np.mean([4 * x**2 for x in draws]))


def test_the_gradient_is_clipped(tmp_path):
    found = {}
    for clip in (0.0, 0.5):
        task = Lines()
        trainer = Trainer(task, plain_loop(lr=0.1, clip=clip), tmp_path, {})
        trainer._optimizer = torch.optim.SGD(task.network.parameters(), lr=0.1)
        trainer.run()
        found[clip] = np.array([task.network.weight.item(), task.network.bias.item()])
    assert np.linalg.norm(found[0.5]) == pytest.approx(0.05, rel=1e-4)
    assert np.linalg.norm(found[0.0]) > 0.1
    np.testing.assert_allclose(found[0.5] / 0.05, found[0.0] / np.linalg.norm(found[0.0]), rtol=1e-4)


def test_every_draw_of_a_run_is_its_own(tmp_path):
    task = Lines()
    steps = []
    Trainer(task, plain_loop(steps=5, seed=7), tmp_path, {}).run(lambda step, metrics: steps.append(step))
    wanted = [np.random.default_rng([7, step, i]).normal(size=3) for step in range(5) for i in range(2)]
    np.testing.assert_array_equal(task.draws, wanted)
    assert len(np.unique(np.concatenate(wanted))) == 30
    assert steps == [1, 2, 3, 4, 5]
    assert task.shares == [step / 5 for step in range(5) for _ in range(2)]


def test_things_are_done_every_so_many_steps_and_at_the_end(tmp_path):
    task = Lines()
    Trainer(task, plain_loop(steps=7, log_every=3, validate_every=2), tmp_path, {}).run()
    kinds = [(line["step"], "validation" in line) for line in lines(tmp_path)]
    assert kinds == [(2, True), (3, False), (4, True), (6, False), (6, True), (7, False), (7, True)]


@pytest.mark.parametrize("spoil", [lambda x: x * float("nan"), lambda x: x * float("inf")], ids=["nan", "inf"])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(spoil, tmp_path):
    task = Lines(at_step=6, loss=spoil)  # the second draw of step 3
    with pytest.raises(ConfigError, match=r"step 3: the loss is not a number; .*--init.*--lr") as refusal:
        Trainer(task, plain_loop(steps=9, save_every=1), tmp_path, {}).run()
    assert "\n" not in str(refusal.value)
    assert np.isfinite(json.loads((tmp_path / "model").read_text())["weight"]).all(), "what is saved is sound"
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    resumed = Lines()
    trainer = Trainer(resumed, plain_loop(steps=9, save_every=1), tmp_path, {})
    assert trainer.resume() == 2
    assert trainer.run() and lines(tmp_path)[-1]["step"] == 9


def test_a_gradient_that_is_no_number_is_not_saved(tmp_path):
    # The loss is a number, its gradient is not: the square root at 0.
    task = Lines(at_step=6, loss=lambda x: x + torch.sqrt(x - x.detach()))
    with pytest.raises(ConfigError):
        Trainer(task, plain_loop(steps=3, save_every=1), tmp_path, {}).run()
    assert np.isfinite(json.loads((tmp_path / "model").read_text())["weight"]).all()


def test_an_error_in_a_draw_ends_the_run(tmp_path):
    task = Lines()

    def draw(rng, count):
        raise ConfigError("no such table")

    task.draw = draw
    with pytest.raises(ConfigError, match="no such table"):
        Trainer(task, plain_loop(), tmp_path, {}).run()


# Over several processes.


def test_one_process_is_alone(monkeypatch):
    assert Processes.joined("cpu") == Processes(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Processes.joined("cpu") == Processes(0, 1)
    assert Processes().mean({"a": 3.0}, "cpu") == {"a": 3.0} and not Processes().any(False, "cpu")


def words(panel: Path, out: Path, *more, model=TINY) -> list[str]:
    given = {"model.body": BODY, "model.block": {"untyped": 20, "typed": 20}, "model.context": 6}
    given |= {"data.spacing_kb": [8, 20], "data.min_typed_maf": [0.01, 0.1], "loop.weight_decay": 0.01}
    given |= {"loop.warmup": 2, "loop.validate_every": 3, "loop.save_every": 2, "loop.log_every": 1}
    found = ["train", "npssm-paper", "--panel", panel, "--out", out, "--device", "cpu", "--threads", 1]
    found += ["--hold-out", 3, "--hold-out-rows", 40, "--steps", 6, "--batch", 2, "--accumulate", 2, "--lr", 0.01]
    for name, value in given.items():
        found += ["--set", f"{name}={json.dumps(value)}"]
    return [str(word) for word in [*found, *more]]


def _as_rank(rank: int, count: int, port: int, words: list[str]) -> None:
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command.main(words[1:], standalone_mode=False)


def together(words: list[str], count: int = 2) -> list[int | None]:
    """Exit statuses of processes such as torchrun starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # of this process, which has loaded what takes long to load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12, that other threads are running: they do nothing
        processes = [fork.Process(target=_as_rank, args=(rank, count, port, words)) for rank in range(count)]
        for process in processes:
            process.start()
    deadline = time.monotonic() + 90
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def test_two_processes_are_one(panel, straight, tmp_path):
    assert together(words(panel, tmp_path)) == [0, 0]
    ours, theirs = weights(tmp_path), weights(straight)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
    assert any(np.abs(theirs[name] - value).max() > 1e-3 for name, value in initial().items()), "it has learnt"
    a, b = lines(tmp_path), lines(straight)
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        if "loss" in one:
            assert one == pytest.approx(other, rel=1e-4)


def initial(seed: int = LOOP.seed) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    return {name: value.numpy() for name, value in TableNetwork(TINY).state_dict().items()}


# The command.


def test_draws_must_be_shared_out_evenly(panel, tmp_path, capfd):
    assert together(words(panel, tmp_path, "--accumulate", "3")) == [1, 1]
    assert "loop.accumulate 3: must divide by the 2 processes" in capfd.readouterr().err


def test_the_command_is_the_run(panel, straight, tmp_path):
    status, printed, log = run_forked(*words(panel, tmp_path / "run"))
    assert (status, printed) == (0, ""), log
    assert "panel.vcf:20: 26 haplotypes, 127 sites" in log and "run: trained" in log
    assert all(line.startswith("I ") for line in log.splitlines())
    assert same_weights(tmp_path / "run", straight) and lines(tmp_path / "run") == lines(straight)


def shown(*words) -> dict:
    status, printed, log = run_forked(*words)
    assert (status, log) == (0, "")
    return json.loads(printed)


def test_settings_are_shown_and_nothing_is_made(panel, tmp_path):
    found = shown(*words(panel, tmp_path / "run", "--set", "objective.mask=columns", "--show-settings"))
    assert found == json.loads(
        json.dumps(settings(panel, tmp_path, objective=ObjectiveConfig(mask="columns")).settings())
    )
    assert found["objective"]["mask"] == "columns" and found["panels"] == [str(panel)] and "out" not in found
    assert not (tmp_path / "run").exists()


def test_options_override_set_which_overrides_the_file(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(
        "[loop]\nlr = 0.5\nsteps = 50\nbatch = 3\n[model]\ncontext = 9\n[model.body]\nd_model = 24\n"
        '[objective]\nmask = "tokens"\n[data]\nspacing_kb = [1, 2]\n'
    )
    given = ["train", "npssm-paper", "--panel", "p.vcf", "--out", tmp_path / "run", "--show-settings", "--config", file]
    found = shown(*given, "--set", "loop.steps=60", "--set", "loop.batch=4", "--batch", "5", "--context", "10")
    assert {name: found["loop"][name] for name in ("lr", "steps", "batch")} == {"lr": 0.5, "steps": 60, "batch": 5}
    assert (found["model"]["context"], found["model"]["body"]["d_model"]) == (10, 24)
    assert (found["objective"]["mask"], found["data"]["spacing_kb"]) == ("tokens", [1, 2])
    plain = shown(*given[:-2])
    assert plain["loop"]["steps"] == LoopConfig().steps and plain["model"]["context"] == NetworkConfig().context


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--set", "objective.colour=red"], ["objective: no setting colour; there are", "mask_rate"]),
        (["--set", "colours.red=1"], ["no table of settings colours; there are model, objective"]),
        (["--set", "model.body.colour=1"], ["model", "no setting colour"]),
        (["--set", "model.colour=1"], ["model: no setting colour"]),
        (["--set", "model.block.colour=1"], ["model", "block: no setting colour"]),
        (["--set", "objective.mask"], ["--set objective.mask: write NAME=VALUE"]),
        (["--set", "loop=5"], ["loop"]),
        (["--set", "objective=5"], ["objective: a table of settings, not 5"]),
        (["--set", "objective.mask.size=5", "--set", "objective.mask.size.big=5"], ["is a setting, not a table"]),
        (["--set", "data.min_maf=little"], ["data"]),
        (["--set", "model.body=5"], ["model"]),
        (["--set", "data.spacing_kb=5"], ["data"]),
        (["--set", "model.architecture=spin"], ["model"]),
        (["--steps", "0"], ["loop.steps 0: at least 1"]),
        (["--lr", "nan"], ["loop.lr nan"]),
        (["--context", "0"], ["context 0: at least 1 haplotype"]),
        (["--context", "25"], ["context of 25 haplotypes"]),
        (["--threads", "0"], ["--threads 0"]),
        (["--hold-out", "16"], ["--hold-out 16"]),
        (["--resume"], [STATE, "cannot be resumed from"]),
        (["--init", "nowhere"], ["nowhere", "cannot be read"]),
        (["--map", "nowhere.map"], ["nowhere.map"]),
        (["--panel", "nowhere.vcf"], ["nowhere.vcf"]),
        (["--config", "nowhere.toml"], ["nowhere.toml: cannot be read"]),
        (["--precision", "float8"], ["--precision"]),
        (["--steps", "many"], ["--steps"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_status_2(panel, tmp_path, more, expected):
    (tmp_path / "out").mkdir()
    expect_refusal(tmp_path, words(panel, tmp_path / "out", *more), *expected)


def test_a_file_of_settings_must_be_toml(panel, tmp_path):
    for content, expected in (
        (b"[loop\nsteps = 3", "not TOML"),
        (b"\xff\xfe", "cannot be read"),
        (b"loop = 3\n", "--set loop.weight_decay: loop is a setting"),
        (b"[colours]\nred = 1\n", "no table of settings colours"),
        (b"[objective]\nspan = 0\n", "objective.span 0"),
    ):
        (tmp_path / "settings.toml").write_bytes(content)
        expect_refusal(tmp_path, words(panel, tmp_path / "run", "--config", tmp_path / "settings.toml"), expected)


def test_nothing_to_train_on_is_a_mistake(tmp_path):
    bare = ["train", "npssm-paper", "--out", tmp_path / "run"]
    expect_refusal(tmp_path, bare, "nothing to train on: give --panel, or --simulate")
    expect_refusal(tmp_path, [*bare, "--simulate", 1], "simulated people cannot be held out")
    expect_refusal(tmp_path, ["train", "npssm-paper", "--panel", "p"], "--out")
    expect_refusal(tmp_path, ["train", "knn", "--panel", "p", "--out", tmp_path / "run"], "knn")


def test_a_run_is_not_overwritten_by_the_command(panel, straight, tmp_path):
    expect_refusal(straight, words(panel, straight), "holds a training run; add --resume")
    expect_refusal(straight, words(panel, straight, "--resume", "--lr", 0.5), "loop.lr 0.01, not 0.5")


def test_init_of_another_architecture_is_refused(panel, model, tmp_path):
    given = ["train", "spin", "--panel", panel, "--out", tmp_path / "run", "--init", model]
    expect_refusal(tmp_path, given, "its architecture is npssm-paper; train npssm-paper")
    given[1] = "npssm-paper"
    expect_refusal(tmp_path, [*given, "--set", "model.body.d_model=3"], "brings its body's settings")
    expect_refusal(tmp_path, [*given[:-1], tmp_path], str(tmp_path / CONFIG), "cannot be read")


@pytest.mark.parametrize(
    "pair",
    ["model.block=5", "model.context=2.5", "model.body.d_model=8.5", "model.block.untyped=2.5", "objective.span=2.5"]
    + ["loop.seed=1.5", "loop.batch=2.5", "loop.steps=2.5"]
    + [pair for pair in ("model=5", "loop.weight_decay=NaN")],
)
def test_a_value_of_the_wrong_kind_is_one_line_and_status_2(panel, tmp_path, pair):
    given = words(panel, tmp_path / "run", "--set", pair)
    for short in ("--batch", "--steps"):  # which would override the setting
        at = given.index(short)
        del given[at : at + 2]
    stopped_in_one_line(*given, "--minutes", 0)


def stopped_in_one_line(*given, **options) -> None:
    status, _, log = run_forked(*given, **options)
    errors = [line for line in log.splitlines() if line and not line.startswith("I ")]
    assert status == 2 and len(errors) == 1 and errors[0].startswith("npimpute: error: "), log[-500:]


def test_a_device_that_does_not_exist_is_one_line_and_status_2(panel, tmp_path):
    stopped_in_one_line(*words(panel, tmp_path / "run", "--device", "gpu"))


def test_a_gpu_that_is_not_there_is_one_line(panel, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    expect_refusal(tmp_path, words(panel, tmp_path / "run", "--device", "cuda"), "--device cuda: torch finds no GPU")


@pytest.mark.parametrize(
    "most",
    [
        100,  # metrics.jsonl does not fit
        2500,
    ],
)
def test_files_that_do_not_fit_are_one_line_and_status_2(panel, tmp_path, most):
    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    stopped_in_one_line(*words(panel, tmp_path / "run"), before=before)


def test_a_file_of_weights_is_no_state(panel, straight, tmp_path):
    (tmp_path / STATE).write_bytes((straight / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=STATE):
        train(settings(panel, tmp_path), resume=True)


def test_a_run_from_a_model_that_was_replaced_is_refused(panel, model, tmp_path):
    torch.manual_seed(1)
    save_model(tmp_path / "model", TableNetwork(TINY), TINY)
    config = settings(panel, tmp_path / "run", init=tmp_path / "model")
    train(config, minutes=0)
    large = replace(TINY, body=BODY | {"d_model": 16})
    save_model(tmp_path / "model", TableNetwork(large), large)
    with pytest.raises((ConfigError, InputError)):
        train(config, resume=True)


def test_an_interrupted_run_does_not_deny_what_it_wrote(panel, tmp_path):
    def before():
        plain = Trainer._save

        def save(self):
            plain(self)
            raise KeyboardInterrupt

        Trainer._save = save

    status, _, log = run_forked(*words(panel, tmp_path / "run"), before=before)
    assert status == 130 and (tmp_path / "run" / STATE).exists()
    assert "nothing was written" not in log


def test_the_table_task_draws_by_the_generator_alone(panel, tmp_path, monkeypatch):
    seen = []
    plain = TableTask.draw
    monkeypatch.setattr(TableTask, "draw", lambda self, rng, n: seen.append((self, plain(self, rng, n))) or seen[-1][1])
    train(settings(panel, tmp_path, replace(LOOP, steps=1)))
    task = seen[0][0]
    a, b, c = (plain(task, np.random.default_rng(seed), 2) for seed in (5, 5, 6))
    for name in ("tokens", "mask", "wanted", "frequency"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.mask.shape != c.mask.shape or not torch.equal(a.mask, c.mask)
    assert a.mask.shape == a.tokens.shape == (2, 7, len(a.wanted))
