"""What measurements of networks over alignments tell: where they cross, and how long a window the same memory holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .report import write_tsv
from .trials import write_json

WORK = ("forward", "step")
COSTS = {"seconds": "time", "added_mb": "memory"}
_COLUMNS = ("axis", "network", "work", "rows", "length", "status", "seconds", "peak_mb", "added_mb")


def line(points: list[dict[str, Any]], network: str, work: str, cost: str, axis: str = "length") -> list[tuple]:
    """(x, cost) of a network's points along an axis, where they were measured and are above 0."""
    mine = [p for p in points if (p["network"], p["work"], p["axis"], p["status"]) == (network, work, axis, "done")]
    return sorted((p[axis], p[cost]) for p in mine if p[cost] > 0)


def crossings(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The length from which MSAMamba is cheaper than each kind of axial attention, between measured lengths on
    logarithmic axes. "from": None where it never is, and 0 where it is at every measured length."""
    found = []
    for axial in ("axial", "axial_maps"):
        for work in WORK:
            for cost in COSTS:
                ours, theirs = dict(line(points, "msamamba", work, cost)), dict(line(points, axial, work, cost))
                if both := sorted(ours.keys() & theirs.keys()):
                    gaps = [(x, math.log(ours[x] / theirs[x])) for x in both]
                    found.append({"against": axial, "work": work, "cost": cost, "from": _crossing(gaps)})
    return found


def _crossing(gaps: list[tuple[int, float]]) -> float | None:
    """gaps: lengths with the log ratio of costs. From where on it is below 0."""
    above = [i for i, (_, gap) in enumerate(gaps) if gap >= 0]
    if not above:
        return 0.0
    if above[-1] == len(gaps) - 1:
        return None
    (x, gap), (x_next, gap_next) = gaps[above[-1]], gaps[above[-1] + 1]
    return math.exp(math.log(x) + gap / (gap - gap_next) * math.log(x_next / x))


def same_memory(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every length of axial attention's training steps, the length of MSAMamba's that takes the same memory:
    between measured lengths, or beyond them ("measured" is then False) as the last two have it."""
    found = []
    for name in ("msamamba", "msamamba_sparse"):
        ours = line(points, name, "step", "added_mb")
        for axial in ("axial", "axial_maps"):
            for length, memory in line(points, axial, "step", "added_mb") if len(ours) > 1 else []:
                reached = _length_of(ours, memory)
                inside = ours[0][1] <= memory <= ours[-1][1]
                entry = {"network": name, "against": axial, "length": length, "same": reached, "measured": inside}
                found.append(entry | {"times": reached / length})
    return found


def _length_of(ours: list[tuple], memory: float) -> float:
    i = next((i for i, (_, held) in enumerate(ours[1:], 1) if held >= memory), len(ours) - 1)
    (x, low), (x_next, high) = ours[i - 1], ours[i]
    if high <= low:
        return float(x_next)
    return math.exp(math.log(x) + math.log(memory / low) / math.log(high / low) * math.log(x_next / x))


def sparse_gain(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast training steps are where rows skip the scan."""
    found = []
    for axis in ("length", "rows"):
        sparse = dict(line(points, "msamamba_sparse", "step", "seconds", axis))
        for x, seconds in line(points, "msamamba", "step", "seconds", axis):
            if x in sparse:
                found.append({"axis": axis, "x": x, "times": seconds / sparse[x]})
    return found


def cost_text(results: dict[str, Any]) -> str:
    """For the terminal: a table for each axis and kind of work, then what follows from them."""
    labels, parts = results["labels"], []
    for axis in ("length", "rows"):
        for work in WORK:
            parts += _table(results, axis, work)
    said = []
    for c in results["crossings"]:
        where = "at no measured length" if c["from"] is None else f"from {c['from']:,.0f} columns"
        where = "at every measured length" if c["from"] == 0 else where
        said.append(
            f"{labels['msamamba']} takes less {COSTS[c['cost']]} ({c['work']}) than {labels[c['against']]} {where}"
        )
    for s in results["same_memory"]:
        how = "" if s["measured"] else ", extrapolated"
        said.append(
            f"{labels[s['network']]} trains {s['same']:,.0f} columns in the memory of {s['length']:,} of "
            f"{labels[s['against']]}: {s['times']:.1f} times{how}"
        )
    for s in results["sparse_gain"]:
        said.append(f"steps with skipping rows are {s['times']:.2f} times as fast at {s['x']:,} {_unit(s['axis'])}")
    return "\n\n".join([*parts, "\n".join(said)]).strip()


def _table(results: dict[str, Any], axis: str, work: str) -> list[str]:
    points = [p for p in results["points"] if (p["axis"], p["work"]) == (axis, work)]
    if not points:
        return []
    names = list(dict.fromkeys(p["network"] for p in points))
    sizes = list(dict.fromkeys(p[axis] for p in points))
    other = "rows" if axis == "length" else "length"
    lines = [f"{work}, {points[0][other]} {_unit(other)}: seconds, and MB beyond the start"]
    lines.append(f"{_unit(axis):>34}" + "".join(f"{size:>18,}" for size in sizes) + f"{'exponents':>16}")
    powers = {(e["axis"], e["network"], e["work"]): e for e in results["exponents"]}
    for name in names:
        found = {p[axis]: p for p in points if p["network"] == name}
        power = powers[axis, name, work]
        said = " ".join("-" if power[cost] is None else f"{power[cost]:.2f}" for cost in COSTS)
        lines.append(f"{results['labels'][name]:>34}" + "".join(_cell(found[s]) for s in sizes) + f"{said:>16}")
    return ["\n".join(lines)]


def _cell(point: dict[str, Any]) -> str:
    if point["status"] != "done":
        return f"{point['status']:>18}"
    return f"{point['seconds']:>9.3f}{point['added_mb']:>9,.0f}"


def _unit(axis: str) -> str:
    return "columns" if axis == "length" else "rows"


def write_report(results: dict[str, Any], out: Path) -> list[Path]:
    """Writes results.json, results.tsv and the figures to the directory ``out``; returns what was written.

    Raises InputError where it cannot be written, ConfigError where matplotlib is missing.
    """
    from .plots import scaling_plots  # matplotlib takes a second to load

    write_json(out / "results.json", results)
    rows = [list(_COLUMNS), *([p.get(column) for column in _COLUMNS] for p in results["points"])]
    table = write_tsv(out / "results.tsv", rows)
    return [out / "results.json", table, *scaling_plots(_as_scaling(results), out)]


def _as_scaling(results: dict[str, Any]) -> dict[str, Any]:
    """The points as ``plots.scaling_figure`` has them; memory is what was added."""
    axes: dict[str, list[dict[str, Any]]] = {}
    for e in results["exponents"]:
        mine = [p for p in results["points"] if all(p[key] == e[key] for key in ("axis", "network", "work"))]
        points = [{"x": p[e["axis"]], "seconds": p.get("seconds"), "peak_mb": p.get("added_mb")} for p in mine]
        entry = {"name": e["network"], "label": results["labels"][e["network"]], "points": points}
        entry["exponents"] = {"seconds": e["seconds"], "peak_mb": e["added_mb"]}
        entry["ours"] = e["network"].startswith("msamamba")
        axes.setdefault(f"{_unit(e['axis'])}_{e['work']}", []).append(entry)
    return {"axes": axes}
