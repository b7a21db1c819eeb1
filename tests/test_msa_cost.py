"""The cost of networks over alignments: what follows from measurements, and one small measurement."""

import json
from dataclasses import replace

import pytest
from conftest import run_forked

from npimpute.benchmark.msa_cost import NETWORKS, OUT_OF_MEMORY, CostConfig, benchmark, exponents
from npimpute.benchmark.msa_cost_report import cost_text, crossings, same_memory, sparse_gain, write_report
from npimpute.benchmark.msa_cost_step import OUT_OF_MEMORY as STEP_OUT_OF_MEMORY
from npimpute.benchmark.msa_cost_step import run
from npimpute.errors import ConfigError

TINY = {"body": (("d_model", 16), ("n_layers", 1)), "repeat": 1}


def point(network, length, seconds, memory, work="step", axis="length", rows=10):
    found = {"network": network, "work": work, "axis": axis, "rows": rows, "length": length, "status": "done"}
    return found | {"seconds": seconds, "peak_mb": memory + 400, "added_mb": memory}


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


def test_what_sparsity_gains():
    assert [s["times"] for s in sparse_gain(made())] == pytest.approx([1.8] * 3)
    assert [(s["axis"], s["x"]) for s in sparse_gain(made())] == [("length", x) for x in (100, 200, 800)]


def test_the_two_files_agree_on_a_status():
    assert OUT_OF_MEMORY == STEP_OUT_OF_MEMORY


def spec(**changes):
    base = {"architecture": "msamamba", "body": dict(TINY["body"]), "rows": 3, "length": 32, "training": True}
    base |= {"sparsity": 0.5, "repeat": 2, "threads": 1, "device": "cpu", "precision": "float32", "seed": 1}
    base |= {"limit_gb": None}
    return base | changes


@pytest.mark.parametrize("changes", [{}, {"training": False, "sparsity": 0.0, "architecture": "axial"}], ids=str)
def test_a_step_is_timed(changes):
    found = run(spec(**changes))
    assert set(found) == {"seconds", "base_mb"} and found["seconds"] > 0 and found["base_mb"] > 100


def test_measurements_are_kept(tmp_path):
    config = CostConfig(tmp_path / "out", (16,), (), at_rows=3, networks=("msamamba_sparse",), **TINY)
    results = benchmark(config)
    (p,) = results["points"]
    assert (p["work"], p["rows"], p["length"], p["status"]) == ("step", 3, 16, "done")
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
    results = {"kind": "msa-cost", "labels": labels, "points": points, "exponents": exponents(points)}
    results |= {f.__name__: f(points) for f in (crossings, same_memory, sparse_gain)}
    power = {(e["network"], cost): e[cost] for e in results["exponents"] for cost in ("seconds", "added_mb")}
    assert power["msamamba", "seconds"] == pytest.approx(1) and power["axial", "seconds"] == pytest.approx(2)
    assert power["axial_maps", "added_mb"] == pytest.approx(2)
    text = cost_text(results)
    for words in (
        "MSAMamba takes less time (step) than axial attention, fused from 400 columns",
        "MSAMamba takes less memory (step) than axial attention, fused at no measured length",
        "steps with skipping rows are 1.80 times as fast at 800 columns",
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
