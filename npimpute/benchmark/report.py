"""Results as people and programs read them: a table for the terminal, JSON, tab-separated tables, plots, a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..outputs import file_errors, temporary
from .trials import write_json

# Columns of the table of all alleles: measure, heading, decimals.
SHOWN = (
    ("r2_pooled", "r2", 4),
    ("r2_mean", "mean r2", 4),
    ("iqs", "IQS", 4),
    ("concordance", "concord.", 4),
    ("nrd", "NRD", 4),
    ("cross_entropy", "entropy", 4),
)


def write_report(results: dict[str, Any], out: Path) -> list[Path]:
    """Writes results.json, the tables, the plots and report.html to the directory ``out``; returns what was written.

    Raises InputError where it cannot be written, ConfigError where matplotlib is missing.
    """
    paths = [out / "results.json"]
    write_json(paths[0], results)
    paths += [write_tsv(out / f"{name}.tsv", rows) for name, rows in _tables(results).items()]
    from . import page, plots  # matplotlib takes a second to load

    draw = {"imputation": plots.imputation_plots, "scaling": plots.scaling_plots, "ablation": plots.ablation_plots}
    pictures = draw[results["kind"]](results, out)
    page.write_page(results, pictures, out / "report.html")
    return [*paths, *pictures, out / "report.html"]


def _tables(results: dict[str, Any]) -> dict[str, list[list[Any]]]:
    if results["kind"] == "imputation":
        return imputation_tables(results)
    return {"results": _scaling_rows(results) if results["kind"] == "scaling" else _ablation_rows(results)}


def imputation_tables(results: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """Name -> rows, the first the header: results (by program, population, bin and measure), samples, programs."""
    measures = [["program", "population", "bin", "alleles", "maf", "measure", "value", "low", "high"]]
    samples = [["program", "sample"]]
    usage = ("status", "reason", "version", "seconds", "cpu_seconds", "peak_mb", "prepare_seconds", "warm_up_seconds")
    programs = [["program", *usage, "alleles_written", "command"]]
    for entry in results["programs"]:
        programs.append([entry["name"], *(entry.get(name) for name in (*usage, "alleles_written", "command"))])
        if entry["status"] != "done":
            continue
        for population, table in {"all": entry["bins"], **entry.get("populations", {})}.items():
            for part in table:
                where = [entry["name"], population, part["bin"], part.get("alleles"), part.get("maf")]
                measures += [[*where, name, *values] for name, values in part["measures"].items()]
        names = [name for name in entry["samples"][0] if name != "sample"]
        samples[0] = ["program", "sample", *names]
        samples += [[entry["name"], row["sample"], *(row[name] for name in names)] for row in entry["samples"]]
    return {"results": measures, "samples": samples, "programs": programs}


def _scaling_rows(results: dict[str, Any]) -> list[list[Any]]:
    columns = ("x", "seconds", "cpu_seconds", "peak_mb", "r2_pooled")
    rows: list[list[Any]] = [["axis", "program", *columns]]
    for axis, entries in results["axes"].items():
        rows += [[axis, e["name"], *(point[c] for c in columns)] for e in entries for point in e["points"]]
    return rows


def _ablation_rows(results: dict[str, Any]) -> list[list[Any]]:
    columns = ("name", "r2_pooled", "r2_mean", "published", "steps", "seconds")
    rows: list[list[Any]] = [["table", *columns]]
    for table in results["tables"]:
        rows += [[table["name"], *(row[c] for c in columns)] for row in table["rows"]]
    return rows


def write_tsv(path: Path, rows: list[list[Any]]) -> Path:
    """Writes the rows, "nan" for None. Raises InputError where it cannot be written."""
    text = "".join("\t".join(_cell(value) for value in row) + "\n" for row in rows)
    with file_errors(path):
        temporary(path).write_text(text)
        temporary(path).replace(path)
    return path


def _cell(value: Any) -> str:
    if value is None:
        return "nan"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def imputation_text(results: dict[str, Any]) -> str:
    """For the terminal: all alleles, then r2 by minor allele frequency, then what did not run."""
    done = [entry for entry in results["programs"] if entry["status"] == "done"]
    reference = next((e["label"] for e in done if e["name"] == results.get("reference")), None)
    timed = "seconds" in done[0]
    head = ["all alleles", *(heading for _, heading, _ in SHOWN)]
    head += [f"r2 - {reference}'s"] if reference and len(done) > 1 else []
    lines = [[*head, *(["wall", "CPU", "memory"] if timed else [])]]
    for entry in done:
        whole = entry["bins"][0]
        line = [entry["label"], *(_number(whole["measures"][name][0], digits) for name, _, digits in SHOWN)]
        if reference and len(done) > 1:
            line.append(_difference(whole.get("difference", {}).get("r2_pooled")))
        if timed:
            line += [f"{entry['seconds']:.1f} s", f"{entry['cpu_seconds']:.1f} s", f"{entry['peak_mb']:.0f} MB"]
        lines.append(line)
    bins = [part["bin"] for part in done[0]["bins"]]
    by_maf = [["r2 by MAF", *bins], ["alleles", *(str(part["alleles"]) for part in done[0]["bins"])]]
    for entry in done:
        found = {part["bin"]: part["measures"]["r2_pooled"][0] for part in entry["bins"]}
        by_maf.append([entry["label"], *(_number(found.get(name), 4) for name in bins)])
    out = [_what(results), _aligned(lines), _aligned(by_maf)]
    if (phase := results.get("phase")) and phase["pairs"]:
        share = phase["switches"] / phase["pairs"]
        out.append(f"switch errors: {phase['switches']} of {phase['pairs']} neighbouring heterozygotes ({share:.2%})")
    failed = (e for e in results["programs"] if e["status"] != "done")
    out += ["\n".join(lines)] if (lines := [f"{e['label']}: {e['status']}: {e['reason']}" for e in failed]) else []
    return "\n\n".join(out)


def _what(results: dict[str, Any]) -> str:
    """One line: what was compared."""
    if "data" not in results:
        return f"{results['compared']} alleles compared"
    data = results["data"]
    people, typed, k = (", ".join(str(part[name]) for part in data) for name in ("targets", "typed", "haplotypes"))
    wrote = (
        "" if results["compared"] == results["alleles"] else f" of {results['alleles']}, those that every program wrote"
    )
    return f"{people} targets at {typed} sites, {k} panel haplotypes; {results['compared']} alleles compared{wrote}"


def scaling_text(results: dict[str, Any]) -> str:
    """For the terminal: a table for each axis, with the exponents of time and memory."""
    parts = []
    for axis, entries in results["axes"].items():
        lines = [[axis, "wall", "CPU", "memory", "r2"]]
        for entry in entries:
            powers = ", ".join(
                f"{what} ~ x^{entry['exponents'][name]:.2f}"
                for name, what in (("cpu_seconds", "CPU"), ("seconds", "wall"), ("peak_mb", "memory"))
                if entry["exponents"].get(name) is not None
            )
            lines.append([f"{entry['label']}: {powers}" if powers else entry["label"], "", "", "", ""])
            for p in entry["points"]:
                used = [f"{p['seconds']:.1f} s", f"{p['cpu_seconds']:.1f} s", f"{p['peak_mb']:.0f} MB"]
                lines.append([f"  {p['x']}", *used, _number(p["r2_pooled"], 4)])
        parts.append(_aligned(lines))
    parts += [f"{e['label']}: {e['status']}: {e['reason']}" for e in results["failures"]]
    return "\n\n".join(parts)


def ablation_text(results: dict[str, Any]) -> str:
    """For the terminal: a table for each question."""
    parts = []
    for table in results["tables"]:
        lines = [[table["title"], "r2", "mean r2", "published"]]
        for row in table["rows"]:
            label = f"{row['label']} ({row['reason']})" if row["reason"] else row["label"]
            lines.append([label, *(_number(row[name], 4) for name in ("r2_pooled", "r2_mean", "published"))])
        parts.append(_aligned(lines))
    return "\n\n".join(parts)


def _difference(values: list[float | None] | None) -> str:
    if values is None or values[0] is None:
        return "-"
    half = "" if values[2] is None else f" ± {values[2] - values[0]:.4f}"
    return f"{values[0]:+.4f}{half}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(lines: Iterable[list[str]]) -> str:
    """Columns side by side, the first to the left, the others to the right."""
    lines = list(lines)
    # A line that has nothing but its first cell does not widen the first column.
    widths = [max(len(line[i]) for line in lines if i or any(line[1:])) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )
