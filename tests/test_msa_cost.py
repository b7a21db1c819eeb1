"""The cost of networks over alignments: what follows from measurements, and one small measurement."""

import json
from dataclasses import replace

import pytest
from conftest import run_forked

from npimpute.benchmark.msa_cost import NETWORKS, OUT_OF_MEMORY, CostConfig, benchmark, exponents
from npimpute.benchmark.msa_cost_report import AGAIN, cost_text, crossings, same_memory, sparse_gain, write_report
from npimpute.benchmark.msa_cost_step import OUT_OF_MEMORY as STEP_OUT_OF_MEMORY
from npimpute.benchmark.msa_cost_step import run
from npimpute.cli.benchmark_msa_cost import command
from npimpute.errors import ConfigError
from npimpute.msa import msamamba

TINY = {"body": (("d_model", 16), ("n_layers", 1)), "repeat": 1}


def point(network, length, seconds, memory, work="step", axis="length", rows=10):
    found = {"network": network, "work": work, "axis": axis, "rows": rows, "length": length, "status": "done"}
    return found | {"seconds": seconds, "cpu_seconds": seconds / 2, "peak_mb": memory + 400, "added_mb": memory}


def made():
    """MSAMamba takes x/100 s and x MB, less by half where rows skip; axial (x/100)^2 / 4 s and x^2 / 1000 MB."""
    points = []
    for x in (100, 200, 800):
        points += [point("msamamba", x, x / 100, x), point("msamamba_sparse", x, x / 180, x / 2)]
        points += [
            point("axial", x, (x / 100) ** 2 / 4, x / 2),
            point("axial_maps", x, (x / 100) ** 2 / 4, x**2 / 1000),
        ]
    return points


def test_where_costs_cross():
    found = {(c["against"], c["work"], c["cost"]): c["from"] for c in crossings(made())}
    assert found["axial", "step", "seconds"] == pytest.approx(400)
    assert found["axial", "step", "added_mb"] is None
    # At 800 columns axial takes 640 MB, less than MSAMamba: they cross at 1,000, beyond what was measured.
    assert found["axial_maps", "step", "added_mb"] is None
    assert ("axial", "forward", "seconds") not in found
    farther = [*made(), point("msamamba", 1600, 16, 1600), point("axial_maps", 1600, 64, 2560)]
    found = {(c["against"], c["cost"]): c["from"] for c in crossings(farther)}
    assert found["axial_maps", "added_mb"] == pytest.approx(1000)
    lost = [p | {"status": "out of memory"} if p["network"] == "axial" and p["length"] == 800 else p for p in made()]
    assert {c["from"] for c in crossings(lost) if c["against"] == "axial" and c["cost"] == "seconds"} == {None}
    cheap = [p | {"seconds": 0.01} if p["network"] == "msamamba" else p for p in made()]
    assert {c["from"] for c in crossings(cheap) if c["cost"] == "seconds"} == {0.0}


def test_columns_in_the_same_memory():
    found = {(s["network"], s["against"], s["length"]): s for s in same_memory(made())}
    one = found["msamamba", "axial_maps", 800]
    assert (one["same"], one["times"], one["measured"]) == (pytest.approx(640), pytest.approx(0.8), True)
    sparse = found["msamamba_sparse", "axial_maps", 800]
    assert (sparse["times"], sparse["measured"]) == (pytest.approx(1.6), False)
    assert found["msamamba", "axial_maps", 100]["same"] == pytest.approx(10)
    assert not found["msamamba", "axial_maps", 100]["measured"]
    less = [p | {"network": f"{p['network']}_recompute", "added_mb": p["added_mb"] / 10} for p in made()]
    found = {(s["network"], s["against"], s["length"]): s["times"] for s in same_memory([*made(), *less])}
    assert found["msamamba_recompute", "axial_maps_recompute", 800] == pytest.approx(0.8), "at equal terms"
    assert found["msamamba_recompute", "axial_maps", 800] == pytest.approx(8)
    assert ("msamamba", "axial_maps_recompute", 800) not in found


def test_what_sparsity_gains():
    assert [s["times"] for s in sparse_gain(made())] == pytest.approx([1.8] * 3)
    assert [(s["axis"], s["x"]) for s in sparse_gain(made())] == [("length", x) for x in (100, 200, 800)]
    busy = [p | {"cpu_seconds": 3 * p["cpu_seconds"]} if p["network"] == "msamamba" else p for p in made()]
    assert [s["cpu_times"] for s in sparse_gain(busy)] == pytest.approx([5.4] * 3)


def test_the_two_files_agree_on_a_status():
    assert OUT_OF_MEMORY == STEP_OUT_OF_MEMORY


def spec(**changes):
    base = {"architecture": "msamamba", "body": dict(TINY["body"]), "rows": 3, "length": 32, "training": True}
    base |= {"sparsity": 0.5, "repeat": 2, "threads": 1, "device": "cpu", "precision": "float32", "seed": 1}
    base |= {"limit_gb": None, "recompute": False}
    return base | changes


@pytest.mark.parametrize(
    "changes", [{}, {"recompute": True}, {"training": False, "sparsity": 0.0, "architecture": "axial"}], ids=str
)
def test_a_step_is_timed(changes, monkeypatch):
    calls = []
    plain = msamamba.in_pieces
    monkeypatch.setattr(msamamba, "in_pieces", lambda *words: calls.append(1) or plain(*words))
    found = run(spec(**changes))
    assert set(found) == {"seconds", "cpu_seconds", "base_mb"} and found["base_mb"] > 100
    assert min(found["seconds"], found["cpu_seconds"]) > 0
    assert bool(calls) == ("recompute" in changes)


def test_every_network_has_its_twin_that_recomputes():
    assert list(NETWORKS) == [*list(NETWORKS)[:4], *(f"{name}{AGAIN}" for name in list(NETWORKS)[:4])]
    assert [n.recompute for n in NETWORKS.values()] == 4 * [False] + 4 * [True]
    (option,) = (o for o in command.params if o.name == "networks")
    assert option.default.split(",") == list(NETWORKS)


def test_measurements_are_kept(tmp_path):
    networks = ("msamamba_sparse", "msamamba_recompute")  # steps alone
    config = CostConfig(tmp_path / "out", (16,), (), at_rows=3, networks=networks, **TINY)
    results = benchmark(config)
    assert [(p["network"], p["work"]) for p in results["points"]] == [(name, "step") for name in networks]
    p = results["points"][0]
    assert (p["rows"], p["length"], p["status"]) == (3, 16, "done")
    assert 0 < p["seconds"] < 10 and p["peak_mb"] > p["added_mb"] >= 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()}
    assert benchmark(config)["points"] == results["points"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()}
    with pytest.raises(ConfigError, match="another --repeat"):
        benchmark(replace(config, repeat=2))


def test_what_was_measured_is_reported(tmp_path):
    points = made()
    points[-1] = points[-1] | {"status": "out of memory"}
    labels = {name: NETWORKS[name].label for name in NETWORKS}
    results = {
        "kind": "msa-cost",
        "settings": {"device": "cpu"},
        "labels": labels,
        "points": points,
        "exponents": exponents(points),
    }
    results |= {f.__name__: f(points) for f in (crossings, same_memory, sparse_gain)}
    power = {(e["network"], cost): e[cost] for e in results["exponents"] for cost in ("seconds", "added_mb")}
    assert power["msamamba", "seconds"] == pytest.approx(1) and power["axial", "seconds"] == pytest.approx(2)
    assert power["axial_maps", "added_mb"] == pytest.approx(2)
    text = cost_text(results)
    for words in (
        "MSAMamba takes less time (step) than axial attention, fused from 400 columns",
        "MSAMamba takes less memory (step) than axial attention, fused at no measured length",
        "half of the rows skip: steps are 1.80 times as fast at 800 columns (1.80 by the CPU's time)",
        "MSAMamba trains, in the memory of axial attention, maps kept, columns: ~0.1 x 100, ~0.2 x 200",
        "out of memory",
    ):
        assert words in text
    written = write_report(results, tmp_path)
    assert [path.name for path in written] == ["results.json", "results.tsv", "scaling_columns_step.png"]
    assert json.loads(written[0].read_text()) == results
    rows = [line.split("\t") for line in written[1].read_text().splitlines()]
    assert len(rows) == 1 + len(points) and rows[1][:6] == ["length", "msamamba", "step", "10", "100", "done"]


def test_too_little_memory_is_told_of(tmp_path):
    config = CostConfig(
        tmp_path / "out", (20_000,), (), at_rows=3, networks=("msamamba_sparse",), limit_gb=0.05, **TINY
    )
    results = benchmark(config)
    assert [p["status"] for p in results["points"]] == ["out of memory"]
    assert "out of memory" in cost_text(results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": (256, 128)}, "--lengths 256,128: growing numbers"),
        ({"rows": (1, 2)}, "--rows 1,2: growing numbers"),
        ({"networks": ("gpn",)}, "--networks gpn: choose from msamamba"),
        ({"lengths": (), "rows": ()}, "nothing to measure"),
        ({"repeat": 0}, "--repeat 0"),
        ({"limit_gb": 0}, "--limit-gb 0"),
        ({"body": (("d_model", 12),)}, "n_heads 8"),
        ({"device": "tpu"}, "--device tpu"),
    ],
    ids=str,
)
def test_what_cannot_be_measured(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        CostConfig(tmp_path, **options)


def test_the_command_has_help():
    status, printed, _ = run_forked("benchmark", "msa-cost", "--help")
    assert status == 0 and "--at-length" in printed
