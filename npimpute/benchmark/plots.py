"""Figures of benchmark results as PNG files. They need matplotlib, of npimpute[plot].

One function makes each figure, from results as in results.json; what is None there is left out of the drawing. Figures
are made without pyplot, which keeps them for the life of the process. Lines of npimpute are solid, peers' are dashed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..outputs import file_errors, temporary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

# Okabe & Ito's, told apart by the colour-blind, without the yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# As many colours as are prime to the markers: pairs come again after 56.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DPI = 120
LONGEST_LABEL = 44
# A difference beyond this makes small ones illegible on a linear axis; those below LINEAR keep one.
WIDE, LINEAR = 0.1, 0.01
# Programs at the same frequency share a stretch of this factor, so that their intervals can be seen.
SPREAD = 1.1
MOST_TICKS, MOST_POWERS = 8, 4
LABEL_SIZE = 10
# Where a label may start or end, in points from its marker.
OFFSETS = ((9, 0), (-9, 0), *((dx, dy) for r in (14, 28, 42, 56) for dx in (9, -9) for dy in (-r, r)))
# Axes span no less, so that noise does not look like growth: a factor, and a difference in r2.
LEAST_FACTOR, LEAST_SPAN = 2, 0.01
AXES = {
    "panel": "haplotypes of the panel",
    "targets": "people imputed",
    "context": "panel haplotypes that the engine reads, k",
    "columns_forward": "columns of the window; a forward pass, memory beyond that before it",
    "columns_step": "columns of the window; a training step, memory beyond that before it",
    "rows_forward": "rows of the window; a forward pass, memory beyond that before it",
    "rows_step": "rows of the window; a training step, memory beyond that before it",
}
R2 = "pooled r² of dosages"


def check_installed() -> None:
    """Raises ConfigError where matplotlib is not: before hours of runs, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plots need matplotlib: pip install 'npimpute[plot]'")


def imputation_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """r2_by_maf.png, calibration.png and time_accuracy.png, of the programs that finished."""
    makers = {"r2_by_maf": maf_figure, "calibration": calibration_figure, "time_accuracy": cost_figure}
    return [_saved(make(results), folder / f"{name}.png") for name, make in makers.items()]


def scaling_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """scaling_AXIS.png for each axis that was measured."""
    axes = [axis for axis, entries in results["axes"].items() if entries]
    return [_saved(scaling_figure(results, axis), folder / f"scaling_{axis}.png") for axis in axes]


def ablation_plots(results: dict[str, Any], folder: Path) -> list[Path]:
    """ablation.png, if there is a table."""
    return [_saved(ablation_figure(results), folder / "ablation.png")] if results["tables"] else []


def maf_figure(results: dict[str, Any]) -> Figure:
    """Pooled r2 by minor allele frequency, and its difference from the reference program's."""
    figure, (left, right) = _figure(1, 2, 13, 6)
    programs, styles = _done(results), _styles(results["programs"])
    for i, program in enumerate(programs):
        shift = SPREAD ** ((i + 0.5) / len(programs) - 0.5)
        for ax, field in ((left, "measures"), (right, "difference")):
            bins = [b for b in program["bins"] if b["bin"] not in ("all", "0") and field in b]
            points = [(b["maf"] * shift, *b[field]["r2_pooled"]) for b in bins]
            _intervals(ax, points, program, styles)
    names = {program["name"]: _label(program) for program in programs}
    reference = names.get(results["reference"], "the reference")
    right.axhline(0, color="0.3", linewidth=1)
    left.set(ylabel=R2, title="Accuracy by frequency")
    right.set(ylabel=f"difference in {R2}", title=f"Difference from {reference}")
    _difference_scale(right)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xlabel("minor allele frequency in the panel, mean of the bin")
        _round_ticks(ax.xaxis)
    _legend_below(figure, left)
    return figure


def calibration_figure(results: dict[str, Any]) -> Figure:
    """What programs say of their dosages, probabilities and r2, against the truth."""
    figure, axes = _figure(1, 3, 16, 6.2)
    styles = _styles(results["programs"])
    panels = {
        "dosage": ("Dosages", "dosage, mean of a bin", "true copies, mean", 2),
        "probability": ("Genotype probabilities", "probability, mean of a bin", "share that is true", 1),
        "quality": (
            "Quality (EXPR2, DR2, R2 or INFO)",
            "r² that the program expects, mean of a bin",
            "true r², mean",
            1,
        ),
    }
    for ax, (name, (title, x, y, top)) in zip(axes, panels.items(), strict=True):
        ax.plot([0, top], [0, top], color="0.5", linewidth=1)
        ax.set(
            title=title,
            xlabel=x,
            ylabel=y,
            aspect="equal",
            xlim=(-0.03 * top, 1.03 * top),
            ylim=(-0.03 * top, 1.03 * top),
        )
        for program in _done(results):
            table = program["calibration"][name]
            bins = table.get("bins", []) if name == "quality" else table
            _line(ax, [(b["predicted"], b["true"]) for b in bins], program, styles, _label(program))
    _legend_below(figure, *axes)
    return figure


def cost_figure(results: dict[str, Any]) -> Figure:
    """Pooled r2 of all alleles against wall time and against peak memory."""
    figure, axes = _figure(1, 2, 13, 6, sharey=True)
    styles = _styles(results["programs"])
    axes[0].set(ylabel=f"{R2}, all alleles", xlabel="wall time, seconds", title="Accuracy and time")
    axes[1].set(xlabel="peak memory, MB", title="Accuracy and memory")
    for ax, cost in zip(axes, ("seconds", "peak_mb"), strict=True):
        ax.set_xscale("log")
        ax.margins(0.2, 0.1)
        for program in _done(results):
            r2 = next((b["measures"]["r2_pooled"][0] for b in program["bins"] if b["bin"] == "all"), None)
            if known := _known([(program[cost], r2)], positive=(0,)):
                style = _style(program, styles) | {"linestyle": "none", "markersize": 9}
                ax.plot(*known[0], label=_label(program), **style)
    for ax in axes:
        _round_ticks(ax.xaxis)
        _name_markers(ax)
    return figure


def scaling_figure(results: dict[str, Any], axis: str) -> Figure:
    """Time and memory against the size that grows, and for "context" pooled r2 as well."""
    panels = {"seconds": "wall time, seconds", "peak_mb": "peak memory, MB"}
    panels |= {"r2_pooled": R2} if axis == "context" else {}
    figure, axes = _figure(1, len(panels), 6.5 * len(panels), 6.5)
    styles = _styles(entry for entries in results["axes"].values() for entry in entries)
    entries = results["axes"][axis]
    for ax, (name, title) in zip(axes, panels.items(), strict=True):
        is_log = name != "r2_pooled"
        for entry in entries:
            points = [(point["x"], point[name]) for point in entry["points"]]
            points = _known(points, positive=(0, 1) if is_log else (0,))
            exponent = entry["exponents"].get(name)
            said = "" if exponent is None else f": exponent {exponent:.2f}"
            _line(ax, sorted(points), entry, styles, _label(entry) + said)
        ax.set(xscale="log", yscale="log" if is_log else "linear", xlabel=AXES.get(axis, axis), title=title)
        _widen(ax, is_log)
        sizes = sorted({x for line in ax.lines for x in line.get_xdata()})
        _ticks(ax.xaxis, sizes[:: -(-len(sizes) // MOST_TICKS) or 1])
        _legend(ax)
    return figure


def ablation_figure(results: dict[str, Any]) -> Figure:
    """Pooled r2 of every row, a panel a table."""
    tables = results["tables"]
    columns = min(2, len(tables))
    lines = [tables[i : i + columns] for i in range(0, len(tables), columns)]
    # Rows of the grid are as high as their longest tables, so that bars are as thick everywhere.
    longest = [max(2, *(len(table["rows"]) for table in line)) for line in lines]
    height = sum(1.3 + 0.62 * rows for rows in longest)
    figure, axes = _figure(len(lines), columns, 8 * columns, height, height_ratios=longest)
    for i, ax in enumerate(axes):
        if i < len(tables):
            _bars(ax, tables[i], longest[i // columns])
        else:
            ax.set_axis_off()
    return figure


def _bars(ax: Axes, table: dict[str, Any], places: int) -> None:
    rows = table["rows"]
    values = [row["r2_pooled"] for row in rows]
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    # Bars that all but end together are cut off at a round number, and the axis says so.
    start = math.floor((low - (high - low) / 2) * 100) / 100 if low > high / 2 > 0 else min(low, 0.0)
    room = max(high - start, 0.01)
    for i, value in enumerate(values):
        if value is not None:
            ax.barh(i, value - start, left=start, height=0.6, color=COLOURS[0])
        ax.text(value or start, i, "  no value" if value is None else f"  {value:.4f}", va="center")
    ax.set_yticks(range(len(rows)), [_row_label(row) for row in rows])
    ax.set_xlim(start, start + room * 1.25)
    ax.set_ylim(places - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=5)
    ax.set(title=_text(table["title"]), xlabel=R2 + (f" (axis from {start:g}, not 0)" if start > 0 else ""))
    ax.grid(axis="y", visible=False)


def _row_label(row: dict[str, Any]) -> str:
    """With a second line of the training steps and of what was published, which is no comparison."""
    facts = [f"{row['steps']:,} steps"] if row.get("steps") else []
    if row.get("published") is not None:
        facts.append(f"published, other data: {row['published']:g}")
    return "\n".join([_label(row), *(["; ".join(facts)] if facts else [])])


def _figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    check_installed()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for ax in axes:
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _saved(figure: Figure, path: Path) -> Path:
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary(path), format="png", dpi="figure", facecolor="white")
        temporary(path).replace(path)
    return path


def _done(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [program for program in results["programs"] if program["status"] == "done"]


def _styles(entries: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Colour and marker by name, the same in every figure of the results."""
    names = dict.fromkeys(entry["name"] for entry in entries)
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(names)
    }


def _style(entry: dict[str, Any], styles: dict[str, dict[str, str]]) -> dict[str, Any]:
    ours = entry.get("ours", True)
    return styles[entry["name"]] | {
        "linestyle": "-" if ours else "--",
        "markerfacecolor": styles[entry["name"]]["color"] if ours else "white",
        "markersize": 6,
        "linewidth": 1.6,
    }


def _label(entry: dict[str, Any]) -> str:
    label = entry["label"]
    return _text(label if len(label) <= LONGEST_LABEL else f"…{label[1 - LONGEST_LABEL :]}")


def _text(text: str) -> str:
    """As matplotlib shows it: else a pair of $ starts a formula, and a legend leaves out what starts with _."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _known(points: Iterable[tuple[float | None, ...]], positive: tuple[int, ...] = ()) -> list[tuple[float, ...]]:
    """Those without None; of these with more than 0 in the columns ``positive``, as a log axis needs it."""
    kept = [point for point in points if all(value is not None and math.isfinite(value) for value in point)]
    return [point for point in kept if all(point[column] > 0 for column in positive)]


def _line(ax: Axes, points: Iterable[tuple], entry: dict[str, Any], styles: dict, label: str) -> None:
    if known := _known(points):
        ax.plot(*zip(*known, strict=True), label=label, **_style(entry, styles))


def _intervals(ax: Axes, points: list[tuple], program: dict[str, Any], styles: dict) -> None:
    """points: x, value, low, high; a value without an interval is drawn without one."""
    points = [point for point in points if point[1] is not None]
    if not points:
        return
    x, y, low, high = zip(*points, strict=True)
    below = [math.nan if b is None else max(v - b, 0) for v, b in zip(y, low, strict=True)]
    above = [math.nan if b is None else max(b - v, 0) for v, b in zip(y, high, strict=True)]
    style = _style(program, styles)
    ax.errorbar(x, y, [below, above], label=_label(program), capsize=2.5, elinewidth=1, **style)


def _difference_scale(ax: Axes) -> None:
    """Linear, or where programs are far apart, logarithmic away from 0."""
    from matplotlib.ticker import FuncFormatter

    drawn = [abs(float(y)) for container in ax.containers for y in container[0].get_ydata()]
    if max(drawn, default=0) > WIDE:
        ax.set_yscale("symlog", linthresh=LINEAR)
        ax.set_ylabel(f"{ax.get_ylabel()} (log scale beyond ±{LINEAR:g})")
        sizes = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
        _ticks(ax.yaxis, [*(-size for size in sizes), 0, *sizes])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.3g}" if value else "0"))


def _ticks(axis: Axis, values: Iterable[float]) -> None:
    """Marks the axis at ``values`` that are in view, and nowhere else."""
    low, high = sorted(axis.get_view_interval())
    shown = [value for value in values if low <= value <= high]
    axis.set_ticks(shown, [f"{value:,g}" for value in shown])
    axis.set_ticks([], minor=True)


def _widen(ax: Axes, is_log: bool) -> None:
    low, high = ax.get_ylim()
    if is_log:
        room = max(math.sqrt(LEAST_FACTOR * low / high), 1)
        ax.set_ylim(low / room, high * room)
        _round_ticks(ax.yaxis)
    else:
        room = max((LEAST_SPAN - (high - low)) / 2, 0)
        ax.set_ylim(low - room, high + room)


def _round_ticks(axis: Axis) -> None:
    """Marks a log axis at powers of ten, or twice and five times these as well, or evenly, as it spans many or few."""
    from matplotlib.ticker import MaxNLocator

    low, high = axis.get_view_interval()
    powers = [10.0**i for i in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    if len(powers) <= MOST_POWERS:
        powers = [power * unit for power in powers for unit in (1, 2, 5)]
    few = sum(low <= value <= high for value in powers) < 3
    _ticks(axis, MaxNLocator(5).tick_values(low, high) if few else powers)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


def _legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend of what is drawn in any of ``axes``."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if handles:
        columns = min(len(handles), 4)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)


def _name_markers(ax: Axes) -> None:
    """Writes each line's label beside its one point, where it meets neither a marker nor another label if it can."""
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()
    renderer, unit = ax.figure.canvas.get_renderer(), ax.figure.dpi / 72
    frame = ax.get_window_extent().padded(-4 * unit)
    lines = [line for line in ax.lines if line.get_linestyle() == "None"]
    places = [ax.transData.transform(line.get_xydata()[0]) for line in lines]
    labels: list[Bbox] = []
    for line, (x, y) in zip(lines, places, strict=True):
        # Room around the other markers, or the label would seem to be one of theirs.
        corners = [(x0 - 16 * unit, y0 - 16 * unit, x0 + 16 * unit, y0 + 16 * unit) for x0, y0 in places]
        others = [Bbox.from_extents(*box) for box, other in zip(corners, lines, strict=True) if other is not line]
        text = ax.text(0, 0, line.get_label(), fontsize=LABEL_SIZE)
        size = text.get_window_extent(renderer)
        text.remove()
        w, h = size.width, size.height
        boxes = {
            (dx, dy): Bbox.from_bounds(x + dx * unit - (w if dx < 0 else 0), y + dy * unit - h / 2, w, h)
            for dx, dy in OFFSETS
        }
        offset = min(boxes, key=lambda place: _misplaced(boxes[place], frame, others + labels))
        labels.append(boxes[offset])
        _write(ax, line, offset)


def _misplaced(box: Bbox, frame: Bbox, taken: list[Bbox]) -> int:
    """How many boxes it meets, and one more each for standing out of the frame at a side."""
    outside = (box.x0 < frame.x0) + (box.x1 > frame.x1) + (box.y0 < frame.y0) + (box.y1 > frame.y1)
    return int(outside) + sum(box.overlaps(other) for other in taken)


def _write(ax: Axes, line: Line2D, offset: tuple[int, int]) -> None:
    dx, dy = offset
    far = {"arrowstyle": "-", "color": "0.5", "shrinkA": 0, "shrinkB": 5, "linewidth": 0.8} if dy else None
    note = ax.annotate(
        line.get_label(), line.get_xydata()[0], offset, textcoords="offset points", va="center", arrowprops=far,
        ha="right" if dx < 0 else "left", fontsize=LABEL_SIZE, color="0.15",
    )  # fmt: skip
    note.set_in_layout(False)
