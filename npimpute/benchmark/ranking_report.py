"""Results of ``vep`` and ``constraint`` as people and programs read them."""

from __future__ import annotations

import datetime
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..outputs import file_errors, temporary
from .page import STYLE
from .plots import COLOURS, DPI, check_installed
from .report import write_tsv
from .trials import write_json

_TITLES = {"vep": "Variant effects", "constraint": "Constrained positions"}
_HEAD = ["score", "group", "positives", "negatives"]
_MEASURES = {"auroc": "AUROC", "auprc": "AUPRC"}


def check_out(out: Path) -> None:
    """Makes the directory; raises ConfigError where it has results already, or plots cannot be drawn."""
    check_installed()
    if (out / "results.json").exists():
        raise ConfigError(f"--out {out}: has results.json already; name another directory")
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)


def write_report(results: dict[str, Any], out: Path) -> list[Path]:
    """results.json, results.tsv, curves.png and report.html in the directory ``out``. Raises InputError."""
    paths = [out / name for name in ("results.json", "results.tsv", "curves.png", "report.html")]
    write_json(paths[0], results)
    write_tsv(paths[1], _rows(results))
    _draw(results, paths[2])
    with file_errors(paths[3]):
        temporary(paths[3]).write_text(_page(results), encoding="utf-8")
        temporary(paths[3]).replace(paths[3])
    return paths


def report_text(results: dict[str, Any]) -> str:
    """For the terminal: each score on what all of them have, by group, then what was not scored."""
    head = ["", "positives", "negatives", *_MEASURES.values()]
    lines = []
    for entry in results["scores"]:
        lines.append([entry["name"], *[""] * (len(head) - 1)])
        for part in _parts(entry):
            counts = [str(part["positives"]), str(part["negatives"])]
            lines.append([f"  {part['group']}", *counts, *(_interval(part[name]) for name in _MEASURES)])
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in [head, *lines]]
    return "\n".join([_what(results), "", *table, *_unscored(results)])


def _what(results: dict[str, Any]) -> str:
    if results["kind"] == "vep":
        return f"{results['compared']} of {results['rows']} labelled rows have every score"
    return f"{results['positive_elements']} elements against {results['negative_elements']}"


def _parts(entry: dict[str, Any]) -> list[dict[str, Any]]:
    own = entry.get("own_rows")
    return [*entry["groups"], *([{"group": "all that it scores"} | own] if own else [])]


def _unscored(results: dict[str, Any]) -> list[str]:
    lines = []
    for entry in results["scores"]:
        if entry.get("statuses"):
            counts = ", ".join(f"{status} {n}" for status, n in entry["statuses"].items())
            lines.append(f"{entry['name']}: {counts}")
    return ["", *lines] if lines else []


def _rows(results: dict[str, Any]) -> list[list[Any]]:
    rows: list[list[Any]] = [[*_HEAD, "measure", "value", "low", "high"]]
    for entry in results["scores"]:
        for part in _parts(entry):
            where = [entry["name"], part["group"], part["positives"], part["negatives"]]
            rows += [[*where, name, *part[name]] for name in _MEASURES]
    return rows


def _interval(values: list[float | None]) -> str:
    value, low, high = values
    if value is None:
        return "-"
    return f"{value:.4f}" if low is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _draw(results: dict[str, Any], path: Path) -> None:
    """Receiver operating characteristic, and precision against recall."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for i, entry in enumerate(results["scores"]):
        colour, points = COLOURS[i % len(COLOURS)], entry["curve"]
        label = entry["name"] if len(entry["name"]) <= 40 else f"…{entry['name'][-39:]}"
        area, precision = (_interval(entry["groups"][0][name]) for name in _MEASURES)
        left.plot([0, *points["fpr"]], [0, *points["recall"]], color=colour, label=f"{label}: {area}")
        right.plot(points["recall"], points["precision"], color=colour, label=f"{label}: {precision}")
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    left.set(xlabel="share of negatives above the threshold", ylabel="share of positives above it", title="AUROC")
    right.set(xlabel="recall", ylabel="precision", title="AUPRC")
    for ax in (left, right):
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.grid(color="0.9", linewidth=0.8)
        ax.legend(frameon=False, loc="lower right" if ax is left else "lower left")
    with file_errors(path):
        figure.savefig(temporary(path), format="png", facecolor="white")
        temporary(path).replace(path)


def _page(results: dict[str, Any]) -> str:
    title = f"npimpute benchmark: {_TITLES[results['kind']]}"
    body = []
    for entry in results["scores"]:
        for part in _parts(entry):
            cells = [entry["name"], part["group"], part["positives"], part["negatives"]]
            cells += [_interval(part[name]) for name in _MEASURES]
            body.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th>{name}</th>" for name in (*_HEAD, *_MEASURES.values()))
    settings = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in results["settings"].items())
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{datetime.date.fromisoformat(results['date'])}, npimpute {escape(results['npimpute'])}</p>",
        f"<p>{escape(_what(results))}. In brackets: 95 % intervals by bootstrap.</p>",
        f'<div class="wide"><table><tr>{top}</tr>{"".join(body)}</table></div>',
        *(f"<p>{escape(line)}</p>" for line in _unscored(results) if line),
        '<img src="curves.png" alt="curves" style="max-width:100%">',
        f"<h2>Settings</h2><dl>{settings}</dl>",
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"
