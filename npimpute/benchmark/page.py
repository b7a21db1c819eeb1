"""Benchmark results as one HTML page that needs nothing else: tables, embedded figures, commands and a glossary."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..outputs import file_errors, temporary

TITLES = {"imputation": "Imputation compared", "scaling": "Time and memory by size", "ablation": "Ablations"}
# Of the summary: what has intervals, then what was used.
MEASURES = {
    "r2_mean": "r² mean",
    "iqs": "IQS",
    "concordance": "concordance",
    "nrd": "NRD",
    "cross_entropy": "cross-entropy",
}
COSTS = {
    "seconds": "time, s",
    "cpu_seconds": "CPU time, s",
    "peak_mb": "peak memory, MB",
    "prepare_seconds": "preparing, s",
    "warm_up_seconds": "warm-up, s",
}
AXES = {"panel": "Haplotypes of the panel", "targets": "People imputed", "context": "Panel haplotypes read, k"}
CAPTIONS = {
    "r2_by_maf": "Pooled r² by minor allele frequency in the panel, and its difference from the reference program's, "
    "with 95 % intervals. Programs stand a little apart where their frequencies are the same.",
    "calibration": "What programs say of themselves against the truth: on the diagonal they are right.",
    "time_accuracy": "Pooled r² of all alleles against wall time and against the memory of the largest process. "
    "Filled: npimpute; hollow: peers.",
    "scaling_panel": "By haplotypes of the panel; an exponent of 1 is proportional growth.",
    "scaling_targets": "By people imputed; an exponent of 1 is proportional growth.",
    "scaling_context": "By how many panel haplotypes the engine reads.",
    "ablation": "Pooled r² of all alleles. Published values are of other data: compare their order, not their height.",
}
GLOSSARY = {
    "pooled r²": "squared Pearson correlation of dosages and true copies of the panel's minor allele, over all "
    "genotypes of a frequency bin at once ('aggregate' r²). Higher is better.",
    "r² mean": "mean over alleles of each one's squared correlation over people; 0 where the dosage does not vary. "
    "Higher is better.",
    "IQS": "imputation quality score: agreement of probabilities with true genotypes beyond what chance gives, mean "
    "over alleles (Lin et al. 2010). Higher is better.",
    "concordance": "share of genotypes that are called right; high for rare alleles whatever a program does.",
    "NRD": "non-reference discordance: wrong calls among those that are not a matching REF/REF. Lower is better.",
    "cross-entropy": "mean of -ln of the probability that was given to the true genotype. Lower is better.",
    "[ ]": "95 % interval by bootstrap over people; that of a difference is of the same bootstrap samples.",
    "difference": "of a program from the reference program, in pooled r²; above 0 is better than the reference.",
    "minor allele frequency": "in the panel; bin 0.002-0.005 is above 0.002, up to 0.005; 0 is of one allele only.",
    "time": "wall time of imputation; the median of repetitions, summed over data sets. Memory: the largest.",
    "preparing": "converting the panel into a program's own format, counted apart, since it is done once a panel.",
    "warm-up": "a run that is not counted, in which a program compiles what it compiles once an installation.",
    "exponent": "slope on logarithmic axes, of the larger sizes: 1 where doubling the size doubles the cost, 0 where "
    "it costs nothing.",
    "pooled r² (ALT)": "squared Pearson correlation of dosages and true copies of ALT, over all genotypes at once, as "
    "in training. Higher is better.",
    "published": "as the cited publication has it, on other data.",
}
WORDS = {
    "imputation": tuple(name for name in GLOSSARY if name not in ("exponent", "published", "pooled r² (ALT)")),
    "scaling": ("time", "exponent", "pooled r²"),
    "ablation": ("pooled r² (ALT)", "r² mean", "published"),
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: bottom; }
th:first-child, td:first-child, .facts td { text-align: left; }
td { white-space: nowrap; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
small { color: #555; display: block; font-weight: normal; }
b { color: #00507d; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.88rem; }
pre { background: #f5f5f5; padding: 0.6rem 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8rem; }
dt { font-weight: bold; }
dd { margin: 0 0 0.5rem 1.5rem; }
"""
NONE = "–"


def write_page(results: dict[str, Any], plots: list[Path], path: Path) -> None:
    """Writes the page of results of any kind, under a temporary name until complete. Raises InputError where it cannot
    be written, or a plot cannot be read."""
    text = page(results, plots)
    with file_errors(path):
        temporary(path).write_text(text, encoding="utf-8")
        temporary(path).replace(path)


def page(results: dict[str, Any], plots: list[Path]) -> str:
    """The HTML text; see ``write_page``."""
    kind = results["kind"]
    title = f"npimpute benchmark: {TITLES.get(kind, kind)}"
    tables = {"imputation": _imputation, "scaling": _scaling, "ablation": _ablation}[kind]
    made = f"<p>{_cell(results.get('date'))}, npimpute {_cell(results.get('npimpute'))}</p>"
    settings = _section("Settings", _facts(results["settings"])) if results.get("settings") else []
    glossary = _section("Glossary", _list((word, GLOSSARY[word]) for word in WORDS[kind]))
    parts = [
        f"<h1>{escape(title)}</h1>",
        made,
        *_compared(results),
        *tables(results),
        *_missing(results),
        *_figures(plots),
    ]
    parts += [*settings, *_commands(results), *glossary]
    head = f'<meta charset="utf-8">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _imputation(results: dict[str, Any]) -> list[str]:
    done = [program for program in results["programs"] if program["status"] == "done"]
    names = {program["name"]: program["label"] for program in done}
    reference = names.get(results["reference"], results["reference"])
    compared = f"{results['compared']:,} of {results['alleles']:,} alleles are compared: those that all programs wrote."
    return [
        *_section("Summary", f"<p>{compared} Reference program: {_cell(reference)}.</p>", _summary(done)),
        *_section("Pooled r² by minor allele frequency", _by_bin(done), "<p><b>Bold</b>: the best of a column.</p>"),
        *_populations(done),
    ]


def _summary(done: list[dict[str, Any]]) -> str:
    head = ["program", "version", "pooled r²", "difference", *MEASURES.values(), *COSTS.values()]
    rows = []
    for program in done:
        whole = next((b for b in program["bins"] if b["bin"] == "all"), {})
        measures, difference = whole.get("measures", {}), whole.get("difference", {})
        values = [_interval(measures.get("r2_pooled")), _interval(difference.get("r2_pooled"), "+")]
        values += [_number(measures[name][0] if name in measures else None) for name in MEASURES]
        values += [_amount(program.get(name)) for name in COSTS]
        rows.append([_cell(program["label"]), _cell(program.get("version")), *values])
    return _table(head, rows)


def _by_bin(done: list[dict[str, Any]]) -> str:
    alleles = {b["bin"]: b["alleles"] for program in done for b in program["bins"]}
    columns = []
    for name in alleles:
        found = [next((b for b in program["bins"] if b["bin"] == name), None) for program in done]
        columns.append(_best([b and b["measures"]["r2_pooled"][0] for b in found]))
    rows = [[_cell(p["label"]), *values] for p, values in zip(done, zip(*columns, strict=True), strict=False)]
    head = [f"{escape(name)}<small>{count:,} alleles</small>" for name, count in alleles.items()]
    return _table(["program", *head], rows)


def _best(values: list[float | None]) -> list[str]:
    """As text, the largest bold unless all are the same to the digits that are shown."""
    texts = [_number(value) for value in values]
    best = _number(max((value for value in values if value is not None), default=None))
    return [f"<b>{text}</b>" if text == best and len(set(texts)) > 1 else text for text in texts]


def _populations(done: list[dict[str, Any]]) -> list[str]:
    """Pooled r2 of all alleles in each, where people's populations are known."""
    names = {name: None for program in done for name in program.get("populations", {})}
    if not names:
        return []
    rows = []
    for program in done:
        whole = [next((b for b in program["populations"][name] if b["bin"] == "all"), None) for name in names]
        rows.append([_cell(program["label"]), *(_interval(b and b["measures"]["r2_pooled"]) for b in whole)])
    people = {name: part[0]["people"] for name, part in done[0]["populations"].items() if part}
    head = [f"{escape(name)}<small>{people.get(name, 0):,} people</small>" for name in names]
    return _section("Pooled r² by population, all alleles", _table(["program", *head], rows))


def _missing(results: dict[str, Any]) -> list[str]:
    """Programs and rows of tables that did not come to results, and alleles that programs did not write."""
    programs, alleles = results.get("programs", []), results.get("alleles", 0)
    lost = [program for program in programs if program["status"] != "done"] + results.get("failures", [])
    facts = [(program["label"], f"{program['status']}: {program['reason']}") for program in lost]
    for program in programs:
        if (lacking := alleles - program.get("alleles_written", alleles)) > 0:
            facts.append((program["label"], f"did not write {lacking:,} of {alleles:,} alleles"))
    for table in results.get("tables", []):
        facts += [(f"{table['title']}: {row['label']}", row["reason"]) for row in table["rows"] if row.get("reason")]
    return _section("Missing", _list(facts)) if facts else []


def _scaling(results: dict[str, Any]) -> list[str]:
    out = []
    for axis, entries in results["axes"].items():
        if not entries:
            continue
        title = AXES.get(axis, axis)
        points = [(entry, point) for entry in entries for point in entry["points"]]
        costs = ("seconds", "cpu_seconds", "peak_mb")
        rows = [
            [_cell(e["label"]), f"{p['x']:,g}", *(_amount(p.get(c)) for c in costs), _number(p.get("r2_pooled"))]
            for e, p in points
        ]
        powers = [[_cell(e["label"]), *(_number(e["exponents"].get(c), digits=2) for c in costs)] for e in entries]
        names = [COSTS[cost] for cost in costs]
        tables = [_table(["program", escape(title).lower(), *names, "pooled r²"], rows), "<h3>Exponents</h3>"]
        out += _section(title, *tables, _table(["program", *(name.partition(",")[0] for name in names)], powers))
    return out


def _ablation(results: dict[str, Any]) -> list[str]:
    out = []
    for table in results["tables"]:
        rows = [
            [
                _cell(row["label"]),
                value,
                _number(row.get("r2_mean")),
                _amount(row.get("steps")),
                _cell(row.get("published")),
            ]
            for row, value in zip(table["rows"], _best([row["r2_pooled"] for row in table["rows"]]), strict=True)
        ]
        head = ["", "pooled r² (ALT)", "r² mean", "training steps", "published, other data"]
        out += _section(table["title"], _table(head, rows))
    return out


def _compared(results: dict[str, Any]) -> list[str]:
    parts = []
    for name, title in (("data", "Data"), ("plan", "Plan"), ("machine", "Machine")):
        if value := results.get(name):
            parts += [f"<h3>{title}</h3>", _facts(value)]
    return _section("What was compared", *parts) if parts else []


def _facts(value: Any) -> str:
    """A table of names and values without those that are None, or of a list of these with a column for each name."""
    if isinstance(value, dict):
        rows = [[_cell(name), _cell(fact)] for name, fact in value.items() if fact is not None]
        return _table(None, rows, "facts")
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        names = list(dict.fromkeys(name for part in value for name in part))
        return _table([escape(str(name)) for name in names], [[_cell(part.get(n)) for n in names] for part in value])
    return f"<p>{_cell(value)}</p>"


def _figures(plots: Iterable[Path]) -> list[str]:
    parts = []
    for path in plots:
        try:
            data = base64.b64encode(path.read_bytes()).decode("ascii")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        caption = escape(CAPTIONS.get(path.stem, path.stem))
        image = f'<img src="data:image/png;base64,{data}" alt="{escape(path.stem)}">'
        parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return _section("Figures", *parts) if parts else []


def _commands(results: dict[str, Any]) -> list[str]:
    entries = [*results.get("programs", []), *(e for part in results.get("axes", {}).values() for e in part)]
    parts = [
        f"<h3>{_cell(entry['label'])}</h3>\n<pre>{escape(entry['command'])}</pre>"
        for entry in entries
        if entry.get("command")
    ]
    return _section("Commands", *parts) if parts else []


def _section(title: str, *parts: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", *parts]


def _table(head: list[str] | None, rows: Iterable[Iterable[str]], style: str = "") -> str:
    """head, rows: HTML."""
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    top = "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>\n" if head else ""
    body = "\n".join(lines)
    kind = f' class="{style}"' if style else ""
    return f'<div class="wide"><table{kind}>\n{top}{body}\n</table></div>'


def _list(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(str(a))}</dt><dd>{escape(str(b))}</dd>" for a, b in facts) + "</dl>"


def _cell(value: Any) -> str:
    return NONE if value in (None, "") else escape(f"{value:,}" if type(value) is int else str(value))


def _number(value: float | None, sign: str = "", digits: int = 4) -> str:
    return NONE if value is None else f"{value:{sign}.{digits}f}"


def _interval(values: list[float | None] | None, sign: str = "") -> str:
    """Of value, low and high."""
    if values is None or values[0] is None:
        return NONE
    value, low, high = (_number(part, sign) for part in values)
    return value if values[1] is None or values[2] is None else f"{value}<small>[{low}, {high}]</small>"


def _amount(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"
