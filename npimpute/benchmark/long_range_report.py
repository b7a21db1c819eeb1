"""What people read of the long-range benchmarks: tables and pictures. Pictures need matplotlib, of npimpute[plot]."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..outputs import file_errors, temporary
from .long_range import differences
from .plots import COLOURS, DPI, MARKERS
from .report import write_tsv
from .trials import write_json


def write_report(results: dict[str, Any], out: Path) -> list[Path]:
    """Writes results.json, a table and, where there is something to draw, a picture, and returns what was written.

    Raises InputError where it cannot be written.
    """
    write_json(out / "results.json", results)
    head, rows = _table(results)
    written = [out / "results.json", write_tsv(out / "results.tsv", [head, *rows])]
    if any(program["points"] for program in results.get("programs", [])):
        written.append(_picture(results, out / f"{results['kind'].replace('-', '_')}.png"))
    return written


def report_text(results: dict[str, Any]) -> str:
    """The table as text, and why a model went no further."""
    head, rows = _table(results)
    cells = [head, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    ends = [f"{p['label']}: ended: {p['ended']}" for p in results.get("programs", []) if p.get("ended")]
    return "\n".join([*lines, *ends])


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(results: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    if results["kind"] == "long-range-labels":
        names = list(results["measures"][0] | results["measures"][-1])
        return names, [[row.get(name) for name in names] for row in results["measures"]]
    if results["kind"] == "long-range-cost":
        names = ["seconds", "cpu_seconds", "peak_mb"]
        rows = [
            [p["label"], point["x"], *(point[n] for n in names)] for p in results["programs"] for point in p["points"]
        ]
        return ["model", "bases", *names], rows
    head = ["model", "context", "loss", "loss_per_base", "accuracy", "tokens", "change_per_base", "error", "seconds"]
    names = ("context", "loss", "loss_per_base", "accuracy", "tokens")
    rows = []
    for program in results["programs"]:
        for point, (_, apart, error) in zip(program["points"], differences(program), strict=True):
            rows.append([program["label"], *(point[name] for name in names), apart, error, point["seconds"]])
    return head, rows


def _picture(results: dict[str, Any], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    draw = _draw_costs if results["kind"] == "long-range-cost" else _draw_losses
    for i, program in enumerate(results["programs"]):
        if program["points"]:
            style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 6}
            draw(axes, program, style | {"label": program["label"]})
    _label(axes, results["kind"])
    with file_errors(path):
        figure.savefig(temporary(path), format="png", facecolor="white")
        temporary(path).replace(path)
    return path


def _draw_losses(axes: Any, program: dict[str, Any], style: dict[str, Any]) -> None:
    x = [point["context"] for point in program["points"]]
    axes[0].plot(x, [point["loss_per_base"] for point in program["points"]], **style)
    _, apart, errors = zip(*differences(program), strict=True)
    axes[1].errorbar(x, apart, None if any(map(math.isnan, errors)) else errors, capsize=2.5, **style)


def _draw_costs(axes: Any, program: dict[str, Any], style: dict[str, Any]) -> None:
    for ax, name in zip(axes, ("seconds", "peak_mb"), strict=True):
        slope = program["exponents"][name]
        said = "" if slope is None else f": exponent {slope:.2f}"
        points = [(point["x"], point[name]) for point in program["points"]]
        ax.plot(*zip(*points, strict=True), **(style | {"label": style["label"] + said}))


def _label(axes: Any, kind: str) -> None:
    if kind == "long-range-cost":
        titles, x = ("wall time, seconds", "peak memory, MB"), "bases of sequence"
    else:
        titles = ("loss, nats per hidden base", "change of the loss from the shortest context, nats per base")
        x = "bases of context"
        axes[1].axhline(0, color="0.5", linewidth=1)
    for ax, title in zip(axes, titles, strict=True):
        ax.set(xscale="log", title=title, xlabel=x)
        if kind == "long-range-cost":
            ax.set_yscale("log")
        ax.grid(color="0.9", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
