"""Ablations: rows that say what they change, trained once, resumed as if never interrupted, within a budget."""

import itertools
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import contents, simulate

from npimpute.benchmark import ablation as room
from npimpute.benchmark.ablation import AblationConfig, ablation, assign_runs
from npimpute.benchmark.ablation_tables import TABLES, merged, rows_of
from npimpute.engine.checkpoint import WEIGHTS, load_config
from npimpute.errors import ConfigError, InputError
from npimpute.train.state import METRICS

TINY = {
    "model": {
        "context": 4,
        "block": {"untyped": 10, "typed": 10},
        "body": {"d_model": 8, "n_layers": 1, "d_state": 2, "expand": 1},
    },
    "data": {"min_maf": 0.0, "pool": [10, 20], "spacing_kb": [8, 20], "min_typed_maf": [0.01, 0.1]},
    "loop": {"batch": 2, "log_every": 1, "save_every": 2},
}
AUX = {"objective.mask_rate": 0, "objective.lambda_end": 1, "objective.anneal": "constant"}
# Table -> row -> what it changes of the published settings.
CHANGES = {
    "order": {
        "attr-data": {},
        "data-attr": {"model.body.order": "data-attr"},
        "flat": {"model.body.order": "flat"},
        "attr": {"model.body.order": "attr"},
        "data": {"model.body.order": "data"},
    },
    "mask": {"tokens": {"objective.mask": "tokens"}, "rows": {}, "columns": {"objective.mask": "columns"}},
    "rate": {"0": AUX, "0.1": {}} | {f"{rate}": {"objective.mask_rate": rate} for rate in (0.05, 0.2, 0.4)},
    "objective": {
        "aux": AUX,
        "constant": {"objective.lambda_start": 0.5, "objective.anneal": "constant"},
        "linear": {},
        "cosine": {"objective.lambda_end": 0.01, "objective.anneal": "cosine"},
    },
    "auxiliary": {
        "plain": {"objective.auxiliary": "plain"},
        "maf": {"objective.auxiliary": "maf"},
        "annealed": {},
    },
    "context": {str(k): {"model.context": k} if k != 8 else {} for k in (4, 8, 16, 32, 64)},
}
RUNS = {
    "base", "order-data-attr", "order-flat", "order-attr", "order-data", "mask-tokens", "mask-columns", "rate-0",
    "rate-0.05", "rate-0.2", "rate-0.4", "objective-constant", "objective-cosine", "auxiliary-plain", "auxiliary-maf",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def panel(tmp_path_factory) -> Path:
    made = simulate(n_sites=120, n_panel=16, n_target=1, seed=3).panel
    return made.save(tmp_path_factory.mktemp("ablation") / "panel.vcf")


def settings(panel: Path, out: Path, **others) -> AblationConfig:
    options = {"panels": (panel,), "out": out, "base": TINY, "steps": 4, "hold_out": 3, "hold_out_rows": 40}
    return AblationConfig(**(options | {"device": "cpu"} | others))


class Watched:
    """``train`` with a count of the steps of every run; stop: raises at this step of them all; diverge: name -> the
    step after which its loss is not a number."""

    def __init__(self, stop: int | None = None, diverge: dict[str, int] | None = None):
        self.steps, self._plain, self._stop, self._diverge = Counter(), room.train, stop, diverge or {}

    def __call__(self, config, *args, progress, **options):
        name = config.out.name

        def watch(step, metrics):
            progress(step, metrics)
            self.steps[name] += 1
            if self.steps.total() == self._stop:
                raise KeyboardInterrupt
            if step == self._diverge.get(name):
                raise ConfigError(f"step {step + 1}: the loss is not a number")

        return self._plain(config, *args, progress=watch, **options)


def watch(monkeypatch, **options) -> Watched:
    watched = Watched(**options)
    monkeypatch.setattr(room, "train", watched)
    return watched


@pytest.fixture(scope="module")
def whole(panel, tmp_path_factory):
    """All tables in one go: results, directory, steps of each run, contexts that were imputed with outside training."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        watched, contexts, predictor = watch(patch), [], room.NetworkPredictor
        patch.setattr(room, "NetworkPredictor", lambda net, k, *rest: contexts.append(k) or predictor(net, k, *rest))
        results = ablation(settings(panel, out))
    return results, out, watched.steps, contexts


def rows(results: dict) -> dict[tuple[str, str], dict]:
    return {(table["name"], row["name"]): row for table in results["tables"] for row in table["rows"]}


def measured(results: dict) -> dict:
    """All that does not depend on the time of day."""
    return {
        key: {name: value for name, value in row.items() if name != "seconds"} for key, row in rows(results).items()
    }


def flat(values: dict, before: str = "") -> dict:
    out = {}
    for name, value in values.items():
        out |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return out


# What the rows are.


def test_a_row_differs_from_the_base_in_what_its_table_says():
    config = AblationConfig((Path("p.vcf"),), Path("out"))
    base = flat(config.run_config({}, 100, Path("run")).settings())
    for table, changes in CHANGES.items():
        assert [row.name for row in rows_of(table, 8)] == sorted(changes, key=[r.name for r in rows_of(table, 8)].index)
        assert len(rows_of(table, 8)) == len(changes)
        for row in rows_of(table, 8):
            own = flat(config.run_config(row.settings, 100, Path("run")).settings())
            differ = {name: own[name] for name in own if own[name] != base[name]}
            if (table, row.name) == ("objective", "constant"):
                assert differ.pop("objective.lambda_end", 0.5) == 0.5
            assert own.keys() == base.keys() and differ == changes[row.name], (table, row.name)


def test_rows_hold_whatever_the_base_is():
    """A base of other settings does not change what a row stands for."""
    base = {
        "model": {"body": {"order": "flat"}},
        "objective": {"lambda_end": 0.3, "anneal": "cosine", "mask": "tokens"},
    }
    config = AblationConfig((Path("p.vcf"),), Path("out"), base=base)
    runs, of_row = assign_runs(config, 100)
    assert runs[of_row["order", "attr-data"]].model.body["order"] == "attr-data"
    assert runs[of_row["mask", "rows"]].objective.mask == "rows"
    linear, constant = (runs[of_row["objective", name]].objective for name in ("linear", "constant"))
    assert (linear.lambda_start, linear.lambda_end, linear.anneal) == (1, 0.5, "linear")
    assert (constant.lambda_start, constant.lambda_end, constant.anneal) == (0.5, 0.5, "constant")
    assert of_row["order", "flat"] == of_row["mask", "tokens"] == "base"
    assert of_row["objective", "linear"] == "objective-linear"


def test_the_base_is_the_first_stage_of_the_small_model():
    run = AblationConfig((Path("p.vcf"),), Path("out")).run_config({}, 3000, Path("run"))
    values = flat(run.settings())
    expected = {"model.context": 8, "model.block.untyped": 8, "model.block.typed": 16, "model.body.d_model": 32}
    expected |= {"model.body.n_layers": 2, "model.body.d_state": 4, "model.body.expand": 1}
    expected |= {"model.body.order": "attr-data", "data.min_maf": 0.05, "data.pool": (10, 60)}
    expected |= {"data.spacing_kb": (2.0, 7.0), "loop.batch": 64, "loop.accumulate": 1, "loop.lr": 3e-3}
    expected |= {"loop.warmup": 200, "objective.mask": "rows", "objective.mask_rate": 0.1, "hold_out": 30}
    assert {name: values[name] for name in expected} == expected


def test_published_numbers_are_of_the_order_alone():
    found = {row.name: row.published for row in rows_of("order", 8)}
    assert found == {"attr-data": 0.9406, "data-attr": 0.9308, "flat": 0.824, "attr": 0.821, "data": 0.778}
    assert not [row for table in TABLES if table != "order" for row in rows_of(table, 8) if row.published is not None]


@pytest.mark.parametrize(("steps", "warmup"), [(50, 5), (1999, 199), (5000, 200)])
def test_the_warm_up_is_a_tenth_of_the_steps_at_most(steps, warmup):
    config = AblationConfig((Path("p.vcf"),), Path("out"))
    loop = config.run_config({}, steps, Path("run")).loop
    assert (loop.steps, loop.warmup, loop.validate_every) == (steps, warmup, steps)


def test_the_seed_is_of_all_runs():
    runs, _ = assign_runs(AblationConfig((Path("p.vcf"),), Path("out"), seed=7), 100)
    assert len(runs) == 15 and {run.loop.seed for run in runs.values()} == {7}


def test_contexts_are_multiples_of_the_base_s():
    assert [row.name for row in rows_of("context", 5)] == ["2", "5", "10", "20", "40"]
    assert [row.name for row in rows_of("context", 1)] == ["1", "2", "4", "8"]


def test_settings_are_merged_by_table():
    values = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    assert merged(values, {"a": {"b": {"c": 5}}, "g": {"h": 6}}) == {
        "a": {"b": {"c": 5, "d": 2}, "e": 3}, "f": 4, "g": {"h": 6},
    }  # fmt: skip
    assert values == {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    assert merged(values, {"a": 1})["a"] == 1


# What comes of them.


def test_rows_of_equal_settings_share_a_run(whole):
    results, out, steps, _ = whole
    assert {path.name for path in (out / "runs").iterdir()} == RUNS
    assert steps == dict.fromkeys(RUNS, 4), "each is trained once, to the end"
    found = rows(results)
    shared = [("order", "attr-data"), ("mask", "rows"), ("rate", "0.1"), ("objective", "linear")]
    for key in [*shared, ("auxiliary", "annealed"), ("context", "4")]:
        assert found[key]["run"] == "base" and found[key]["by_maf"] == found["order", "attr-data"]["by_maf"]
    assert found["rate", "0"]["run"] == found["objective", "aux"]["run"] == "rate-0"
    assert found["rate", "0"]["by_maf"] == found["objective", "aux"]["by_maf"]


def test_runs_have_the_settings_of_their_rows(whole):
    results, out, _, _ = whole
    for (table, name), row in rows(results).items():
        body = load_config(out / "runs" / row["run"]).body
        assert body["order"] == (name if table == "order" else "attr-data")
    r2 = [rows(results)[key]["r2_pooled"] for key in (("order", "flat"), ("mask", "tokens"), ("rate", "0.4"))]
    assert len({*r2, rows(results)["order", "attr-data"]["r2_pooled"]}) == 4


def test_results_are_those_of_the_last_step(whole):
    results, out, _, _ = whole
    for row in rows(results).values():
        if "context" in row["settings"].get("model", {}):
            continue
        last = json.loads((out / "runs" / row["run"] / METRICS).read_text().splitlines()[-1])
        assert last["step"] == row["steps"] == 4
        found = dict(last["validation"])
        assert found.pop("all") | {} == {"alleles": sum(part["alleles"] for part in found.values())} | {
            "pooled": row["r2_pooled"], "mean": row["r2_mean"],
        }  # fmt: skip
        assert row["by_maf"] == found


def test_all_rows_are_of_the_same_alleles(whole):
    results, _, _, _ = whole
    known = [row for row in rows(results).values() if row["by_maf"]]
    counts = {tuple((name, part["alleles"]) for name, part in row["by_maf"].items()) for row in known}
    assert len(counts) == 1 and len(known) == 25 - 1


def test_contexts_are_of_the_trained_base(whole, panel):
    results, out, steps, contexts = whole
    found = {name: row for (table, name), row in rows(results).items() if table == "context"}
    assert list(found) == ["2", "4", "8", "16", "32"] and contexts == [2, 8, 16]
    assert steps["base"] == 4, "no training"
    assert len({row["r2_pooled"] for row in found.values()}) == 5
    assert found["32"]["r2_pooled"] is None and found["32"]["by_maf"] == {}
    assert found["32"]["reason"] == "a panel has 26 haplotypes beside those held out"
    assert {row["reason"] for name, row in found.items() if name != "32"} == {None}
    assert {(row["steps"], row["seconds"]) for row in found.values()} == {(4, found["4"]["seconds"])}


def test_contexts_are_judged_as_in_training(whole, panel, tmp_path):
    results, out, _, _ = whole
    config = settings(panel, out)
    copy = shutil.copytree(out / "runs" / "base", tmp_path / "base")
    run = replace(assign_runs(config, 4)[0]["base"], out=copy)
    row = rows(results)["context", "4"]
    found = room._Contexts(config, run).result(4)["validation"]
    assert found.pop("all")["pooled"] == row["r2_pooled"] and found == row["by_maf"]


def test_contexts_are_judged_on_the_panels_of_validate(panel, tmp_path, monkeypatch):
    other = simulate(n_sites=80, n_panel=16, n_target=1, seed=9).panel.save(tmp_path / "other.vcf")
    config = settings(panel, tmp_path / "out", validate=(other,), tables=("context",), steps=1, threads=2)
    devices = []
    monkeypatch.setattr(room, "choose_device", lambda *asked: devices.append(asked) or "cpu")
    row = rows(ablation(config))["context", "4"]
    found = room._Contexts(config, assign_runs(config, 1)[0]["base"]).result(4)["validation"]
    assert found.pop("all")["pooled"] == row["r2_pooled"] and found == row["by_maf"]
    assert set(devices) == {("cpu", 2)}


def test_runs_are_on_the_panels_and_the_map(panel, tmp_path):
    config = settings(panel, tmp_path, map=Path("map.txt"), validate=(Path("v.vcf"),))
    for run in assign_runs(config, 4)[0].values():
        assert (run.panels, run.map, run.validate) == ((panel,), Path("map.txt"), (Path("v.vcf"),))
        assert (run.hold_out, run.hold_out_rows) == (3, 40)


def test_results_are_plain_values(whole, panel):
    results, out, _, _ = whole
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert list(results) == ["kind", "npimpute", "date", "machine", "settings", "base", "plan", "tables"]
    assert results["kind"] == "ablation" and results["machine"]["threads"] == 1
    assert {type(value) for value in results["settings"].values()} == {str, type(None)}
    assert results["settings"]["panels"] == str(panel) and results["settings"]["validate"] is None
    assert json.loads(results["settings"]["base"]) == TINY
    assert results["plan"] == {"runs": 15, "steps": 4} == json.loads((out / "plan.json").read_text())
    assert results["base"]["model"]["body"]["d_model"] == 8 and results["base"]["loop"]["steps"] == 4
    assert [table["name"] for table in results["tables"]] == list(TABLES)
    for table in results["tables"]:
        assert set(table) == {"name", "title", "rows"} and len(table["rows"]) == len(rows_of(table["name"], 4))
    names = ["name", "label", "settings", "reason", "r2_pooled", "r2_mean", "by_maf", "published", "run", "steps"]
    for row in rows(results).values():
        assert list(row) == [*names, "seconds"] and row["seconds"] > 0
        for part in row["by_maf"].values():
            assert set(part) == {"alleles", "pooled", "mean"}


# Interrupted, resumed, and others' directories.


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 12], ids=lambda stop: f"step{stop}")
def test_interrupted_and_resumed_is_uninterrupted(whole, panel, tmp_path, monkeypatch, stop):
    """Of runs of four steps with a state every other."""
    config = settings(panel, tmp_path / "out", tables=("mask", "context"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        watch(patch, stop=stop)
        ablation(config)
    watched = watch(monkeypatch)
    found = measured(ablation(config))
    lost = {1: 1, 3: 1, 4: 2, 7: 1, 12: 2}[stop]
    assert watched.steps.total() == 12 - stop + lost, "what is done is not done again"
    straight = measured(whole[0])
    assert found == {key: straight[key] for key in found} and len(found) == 8


def test_seconds_are_of_all_calls(panel, tmp_path, monkeypatch):
    """By a clock that goes on a second whenever it is read: three steps, and the last two after the state at two."""
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    config = settings(panel, tmp_path / "out", tables=("context",))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        watch(patch, stop=3)
        ablation(config)
    assert {row["seconds"] for row in rows(ablation(config)).values()} == {3 + 2}


def test_a_finished_ablation_is_read(whole, panel, monkeypatch):
    results, out, _, _ = whole
    before = contents(out)
    monkeypatch.setattr(room, "train", None)
    monkeypatch.setattr(room, "load_model", None)
    assert ablation(settings(panel, out, budget=1.0))["tables"] == results["tables"], "with --steps, none is used"
    assert contents(out) == before


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"steps": 5}, "steps"),
        ({"steps": None}, "budget"),
        ({"seed": 2}, "seed"),
        ({"hold_out": 4}, "hold-out"),
        ({"hold_out_rows": 41}, "hold-out-rows"),
        ({"threads": 2}, "threads"),
        ({"device": None}, "device"),
        ({"tables": ("mask",)}, "tables"),
        ({"base": merged(TINY, {"loop": {"lr": 0.1}})}, "config"),
    ],
    ids=str,
)
def test_other_options_are_refused(whole, panel, changes, option):
    _, out, _, _ = whole
    before = contents(out)
    with pytest.raises(ConfigError, match=f"another --{option}; repeat its options") as refusal:
        ablation(settings(panel, out, **changes))
    assert "\n" not in str(refusal.value) and contents(out) == before


def test_another_panel_is_refused(whole, panel, tmp_path):
    _, out, _, _ = whole
    other = Path(shutil.copy(panel, tmp_path / "panel.vcf"))
    for changes in ({"panels": (other,)}, {"validate": (other,)}):
        with pytest.raises(ConfigError, match="another --(panel|validate);"):
            ablation(settings(panel, out, **changes))
    mine = settings(other, tmp_path / "out", tables=("mask",), steps=1)
    ablation(mine)
    os.utime(other, (1, 1))
    with pytest.raises(ConfigError, match="another --panel;"):
        ablation(mine)


def test_others_directories_are_left_alone(panel, tmp_path):
    (tmp_path / "thesis.doc").write_text("")
    with pytest.raises(ConfigError, match="has files of something else"):
        ablation(settings(panel, tmp_path))
    with pytest.raises(InputError, match="nowhere.vcf: cannot be read"):
        ablation(settings(Path("nowhere.vcf"), tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_damaged_files_are_named(panel, tmp_path):
    config = settings(panel, tmp_path / "out", tables=("auxiliary",), steps=1)
    ablation(config)
    for path in (config.out / "runs" / "base" / "result.json", config.out / "plan.json"):
        path.write_text("{")
        with pytest.raises(InputError, match=f"{path.name}: damaged"):
            ablation(config)


# The budget.


def probed(monkeypatch, *seconds: float) -> list:
    calls = []
    monkeypatch.setattr(room, "_probe", lambda config: calls.append(config) or seconds)
    return calls


@pytest.mark.parametrize(
    ("tables", "steps"),
    [(("mask",), (600 - 3 * 5) / 0.3), (("rate", "objective"), (600 - 7 * 5) / 0.7)]
    + [(("context",), (600 - 5 - 14.5 * 2) / 0.1), (("mask", "context"), (600 - 15 - 14.5 * 2) / 0.3)],
    ids=str,
)
def test_steps_fill_the_budget(panel, tmp_path, monkeypatch, tables, steps):
    """A tenth of a second a step, five seconds besides, two of which validate with 4 haplotypes."""
    probed(monkeypatch, 0.1, 5.0, 2.0)
    plan = room._steps_in_budget(settings(panel, tmp_path, steps=None, budget=10, tables=tables))
    assert steps - 2 < plan["steps"] <= steps
    assert plan["minutes"] == pytest.approx(10, abs=0.02)
    assert (plan["seconds_per_step"], plan["seconds_besides"]) == (0.1, 5.0)


def test_a_plan_is_kept(panel, tmp_path, monkeypatch):
    calls = probed(monkeypatch, 1.0, 0.0, 0.0)
    monkeypatch.setattr(room, "LEAST_STEPS", 2)
    config = settings(panel, tmp_path / "out", steps=None, budget=0.16, tables=("mask",))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        watch(patch, stop=2)
        ablation(config)
    found = ablation(config)
    with pytest.raises(ConfigError, match="another --budget; repeat its options"):
        ablation(replace(config, budget=0.2))
    assert len(calls) == 1 and found["plan"]["steps"] == 3
    assert {row["steps"] for row in rows(found).values()} == {3}


def test_too_small_a_budget_is_refused(panel, tmp_path, monkeypatch):
    probed(monkeypatch, 0.3, 5.0, 2.0)
    config = settings(panel, tmp_path / "out", steps=None, budget=0.5, tables=("mask",))
    message = "--budget 0.5: 3 runs of 50 steps with their validation need 1.1 minutes here; raise it"
    with pytest.raises(ConfigError, match=message) as refusal:
        ablation(config)
    assert "\n" not in str(refusal.value)
    assert not config.out.exists(), "another budget may go there"
    room._steps_in_budget(replace(config, budget=1.1))


def test_the_probe_times_the_base(panel, tmp_path, monkeypatch):
    """By a clock that goes on a second whenever it is read."""
    watched = watch(monkeypatch)
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    per_step, besides, validation = room._probe(settings(panel, tmp_path / "out", steps=None))
    assert watched.steps == {"base": 40} and not list(tmp_path.iterdir())
    assert (per_step, besides, validation) == (1, 41 - 40, 1)


# What goes wrong.


def test_a_run_that_diverges_is_told_of_and_left(panel, tmp_path, monkeypatch, caplog):
    config = settings(panel, tmp_path / "out", tables=("mask", "context"))
    watch(monkeypatch, diverge={"mask-tokens": 2, "base": 3})
    found = rows(ablation(config))
    assert "mask-tokens (run 1 of 3): step 3: the loss is not a number" in caplog.text
    assert found["mask", "tokens"]["reason"] == "step 3: the loss is not a number"
    assert found["mask", "tokens"]["r2_pooled"] is None and found["mask", "tokens"]["by_maf"] == {}
    assert found["mask", "columns"]["reason"] is None and found["mask", "columns"]["r2_pooled"] is not None
    assert {found["context", k]["reason"] for k in ("2", "4", "32")} == {"step 4: the loss is not a number"}
    monkeypatch.setattr(room, "train", None)
    assert rows(ablation(config)) == found


def test_no_run_at_all_is_an_error(panel, tmp_path, monkeypatch):
    watch(monkeypatch, diverge=dict.fromkeys(("base", "mask-tokens", "mask-columns"), 1))
    with pytest.raises(ConfigError, match=r"no run came to its end \(step 2: the loss is not a number\)"):
        ablation(settings(panel, tmp_path / "out", tables=("mask",)))


def test_what_fails_after_the_last_step_is_no_divergence(panel, tmp_path, monkeypatch):
    config = settings(panel, tmp_path / "out", tables=("auxiliary",))
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="^step 5: "):
        watch(patch, diverge={"base": 4})
        ablation(config)
    assert {row["reason"] for row in rows(ablation(config)).values()} == {None}


def test_settings_that_do_not_fit_the_panel_end_it(panel, tmp_path):
    base = merged(TINY, {"model": {"context": 25}, "data": {"pool": [30, 40]}})
    with pytest.raises(ConfigError, match="^context of 25 haplotypes: .*panel.vcf:20 has 26"):
        ablation(settings(panel, tmp_path / "out", base=base))
    assert not list((tmp_path / "out").rglob(WEIGHTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"panels": ()}, "nothing to train on: give --panel"),
        ({"tables": ()}, "--tables: name at least one"),
        ({"tables": ("mask", "mask")}, "--tables: name at least one, and each once"),
        ({"tables": ("mask", "masks")}, "--tables masks: choose from order, mask, rate, objective, auxiliary, context"),
        ({"budget": 0.0}, "--budget 0.0: minutes"),
        ({"budget": float("nan")}, "--budget nan: minutes"),
        ({"steps": 0}, "--steps 0: 1 or more"),
        ({"hold_out": 0}, "--hold-out 0: 1 or more"),
        ({"hold_out_rows": 0}, "--hold-out-rows 0: 1 or more"),
        ({"threads": 0}, "--threads 0: 1 or more"),
        ({"seed": -1}, "loop.seed -1: at least 0"),
        ({"device": "tpu"}, "--device tpu"),
        ({"validate": (Path("p.vcf"),)}, "p.vcf: is trained on"),
        ({"base": {"loop": {"steps": 5}}}, "loop.steps: is the same for all runs"),
        ({"base": {"loop": {"seed": 5}}}, "loop.seed: is the same for all runs"),
        ({"base": {"loop": {"validate_every": 5}}}, "loop.validate_every: is the same for all runs"),
        ({"base": {"loop": 3}}, "loop: a table of settings, not 3"),
        ({"base": {"simulation": {}}}, "no table of settings simulation; there are model, objective, data, loop"),
        ({"base": {"model": {"body": {"heads": 2}}}}, "no setting heads"),
        (
            {"base": {"objective": {"mask_rate": 0, "lambda_start": 1, "lambda_end": 1}}},
            "objective constant: .*_rate 0",
        ),
    ],
    ids=str,
)
def test_a_contradictory_ablation_is_refused(options, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        AblationConfig(**({"panels": (Path("p.vcf"),), "out": Path("out")} | options))
    assert "\n" not in str(refusal.value)
