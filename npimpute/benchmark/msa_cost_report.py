"""What measurements of networks over alignments tell: where they cross, and how long a window the same memory holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .report import write_tsv
from .trials import write_json

WORK = ("forward", "step")
COSTS = {"seconds": "time", "added_mb": "memory"}
AGAIN = "_recompute"  # ends the names of networks that keep less for the backward pass and compute it again
_AXIAL = ("axial", "axial_maps")
_COLUMNS = ("axis", "network", "work", "rows", "length", "status", "seconds", "cpu_seconds", "peak_mb", "added_mb")


def line(points: list[dict[str, Any]], network: str, work: str, cost: str, axis: str = "length") -> list[tuple]:
    """(x, cost) of a network's points along an axis, where they were measured and are above 0."""
    mine = [p for p in points if (p["network"], p["work"], p["axis"], p["status"]) == (network, work, axis, "done")]
    return sorted((p[axis], p[cost]) for p in mine if p[cost] > 0)


def crossings(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The length from which MSAMamba is cheaper than each kind of axial attention, between measured lengths on
    logarithmic axes. "from": None where it never is, and 0 where it is at every measured length."""
    found = []
    for name, axial in _pairs(("msamamba",)):
        for work in WORK:
            for cost in COSTS:
                ours, theirs = dict(line(points, name, work, cost)), dict(line(points, axial, work, cost))
                if both := sorted(ours.keys() & theirs.keys()):
                    gaps = [(x, math.log(ours[x] / theirs[x])) for x in both]
                    entry = {"network": name, "against": axial, "work": work, "cost": cost}
                    found.append(entry | {"from": _crossing(gaps)})
    return found


def _pairs(names: tuple[str, ...], mixed: bool = False) -> list[tuple[str, str]]:
    """Each network with each kind of axial attention, both plain or both recomputed. mixed: and the former recomputed
    against the latter plain."""
    kinds = [("", ""), (AGAIN, AGAIN)] + ([(AGAIN, "")] if mixed else [])
    return [(name + ours, axial + theirs) for ours, theirs in kinds for name in names for axial in _AXIAL]


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
    for name, axial in _pairs(("msamamba", "msamamba_sparse"), mixed=True):
        ours = line(points, name, "step", "added_mb")
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
    """How many times as fast training steps are where rows skip the scan, by the clock and by the CPU's time."""
    found = []
    for again in ("", AGAIN):
        for axis in ("length", "rows"):
            skipping, all_rows = (
                {cost: dict(line(points, name + again, "step", cost, axis)) for cost in ("seconds", "cpu_seconds")}
                for name in ("msamamba_sparse", "msamamba")
            )
            for x in sorted(skipping["seconds"].keys() & all_rows["seconds"].keys()):
                times, cpu_times = (all_rows[cost][x] / skipping[cost][x] for cost in skipping)
                entry = {"network": f"msamamba_sparse{again}", "axis": axis, "x": x}
                found.append(entry | {"times": times, "cpu_times": cpu_times})
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
            f"{labels[c['network']]} takes less {COSTS[c['cost']]} ({c['work']}) than {labels[c['against']]} {where}"
        )
    for ours, theirs in dict.fromkeys((s["network"], s["against"]) for s in results["same_memory"]):
        those = [s for s in results["same_memory"] if (s["network"], s["against"]) == (ours, theirs)]
        times = ", ".join(f"{'' if s['measured'] else '~'}{s['times']:.1f} x {s['length']:,}" for s in those)
        said.append(f"{labels[ours]} trains, in the memory of {labels[theirs]}, columns: {times} (~ extrapolated)")
    for s in results["sparse_gain"]:
        cpu = f" ({s['cpu_times']:.2f} by the CPU's time)" if results["settings"]["device"] == "cpu" else ""
        x = f"{s['x']:,} {_unit(s['axis'])}"
        said.append(f"{labels[s['network']]}: steps are {s['times']:.2f} times as fast at {x}{cpu}")
    return "\n\n".join([*parts, "\n".join(said)]).strip()


def _table(results: dict[str, Any], axis: str, work: str) -> list[str]:
    points = [p for p in results["points"] if (p["axis"], p["work"]) == (axis, work)]
    if not points:
        return []
    names = list(dict.fromkeys(p["network"] for p in points))
    sizes = list(dict.fromkeys(p[axis] for p in points))
    other = "rows" if axis == "length" else "length"
    lines = [f"{work}, {points[0][other]} {_unit(other)}: seconds, and MB beyond the start"]
    lines.append(f"{_unit(axis):>46}" + "".join(f"{size:>18,}" for size in sizes) + f"{'exponents':>16}")
    powers = {(e["axis"], e["network"], e["work"]): e for e in results["exponents"]}
    for name in names:
        found = {p[axis]: p for p in points if p["network"] == name}
        power = powers[axis, name, work]
        said = " ".join("-" if power[cost] is None else f"{power[cost]:.2f}" for cost in COSTS)
        lines.append(f"{results['labels'][name]:>46}" + "".join(_cell(found[s]) for s in sizes) + f"{said:>16}")
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
