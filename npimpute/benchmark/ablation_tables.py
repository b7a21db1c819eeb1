"""The tables of the published NPSSM's ablations: named rows, each some settings that replace the base's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# The first stage of models/npssm-paper-small, half as wide and with the published objective: trained in minutes.
SMALL: dict[str, Any] = {
    "model": {
        "context": 8,
        "block": {"untyped": 8, "typed": 16},
        "body": {"d_model": 32, "n_layers": 2, "d_state": 4, "expand": 1},
    },
    "data": {"min_maf": 0.05, "pool": [10, 60], "spacing_kb": [2.0, 7.0]},
    "loop": {"batch": 64, "accumulate": 1, "lr": 3e-3, "warmup": 200, "save_every": 50},
}
# Of the base's context.
CONTEXT_FACTORS = (0.5, 1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """settings: what replaces the base's. published: pooled r2 at full size, of 1000 Genomes chr20, 4,388 haplotypes,
    OmniExpress."""

    name: str
    label: str
    settings: dict[str, Any]
    published: float | None = None


def _objective(name: str, label: str, **settings) -> Row:
    return Row(name, label, {"objective": settings})


def _order(name: str, label: str, published: float) -> Row:
    return Row(name, label, {"model": {"body": {"order": name}}}, published)


# L_aux alone: nothing is masked for L_MLM, which lambda 1 leaves out.
AUX_ALONE = {"mask_rate": 0.0, "lambda_start": 1.0, "lambda_end": 1.0, "anneal": "constant"}
# Table -> title and rows; those of "context" depend on the base: see ``rows_of``.
TABLES: dict[str, tuple[str, tuple[Row, ...]]] = {
    "order": (
        "Order of the layers",
        (
            _order("attr-data", "attr-data: columns, then rows", 0.9406),
            _order("data-attr", "data-attr: rows, then columns", 0.9308),
            _order("flat", "flat: all cells in one sequence", 0.824),
            _order("attr", "attr: columns only", 0.821),
            _order("data", "data: rows only", 0.778),
        ),
    ),
    "mask": (
        "What is masked for L_MLM",
        (
            _objective("tokens", "tokens: single cells", mask="tokens"),
            _objective("rows", "rows: spans along data points", mask="rows"),
            _objective("columns", "columns: spans along attributes", mask="columns"),
        ),
    ),
    "rate": (
        "How much is masked for L_MLM",
        (
            _objective("0", "0 (L_aux alone)", **AUX_ALONE),
            *(_objective(f"{rate:g}", f"{rate:g}", mask_rate=rate) for rate in (0.05, 0.1, 0.2, 0.4)),
        ),
    ),
    "objective": (
        "Weight lambda of L_aux over the steps",
        (
            _objective("aux", "1 throughout (L_aux alone)", **AUX_ALONE),
            _objective("constant", "0.5 throughout", lambda_start=0.5, lambda_end=0.5, anneal="constant"),
            _objective("linear", "1 to 0.5, linear", lambda_start=1.0, lambda_end=0.5, anneal="linear"),
            _objective("cosine", "1 to 0.01, cosine", lambda_start=1.0, lambda_end=0.01, anneal="cosine"),
        ),
    ),
    "auxiliary": (
        "Weight of sites in L_aux",
        (
            _objective("plain", "plain: all alike", auxiliary="plain"),
            _objective("maf", "maf: rare alleles more", auxiliary="maf"),
            _objective("annealed", "annealed: from maf to plain", auxiliary="annealed"),
        ),
    ),
    "context": ("Haplotypes read when imputing, by one model", ()),
}


def rows_of(table: str, context: int) -> tuple[Row, ...]:
    """The rows of a table. context: the base's."""
    if table != "context":
        return TABLES[table][1]
    counts = [int(context * factor) for factor in CONTEXT_FACTORS if context * factor >= 1]
    labels = (f"{count}, as trained" if count == context else str(count) for count in counts)
    return tuple(Row(str(n), label, {"model": {"context": n}}) for n, label in zip(counts, labels, strict=True))


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``, tables of settings within tables alike."""
    out = dict(values)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(out.get(name), dict)
        out[name] = merged(out[name], value) if both else value
    return out
