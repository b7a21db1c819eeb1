"""Scores of variants against labels: models run here, and columns that the table has already.

Axes: n rows of the table that have a label.
"""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..config import check_device
from ..errors import ConfigError, InputError
from ..msa.score import make_scorer
from ..msa.store import Alignment
from ..msa.variants import Row, VariantFile, column_place, open_table, open_variants
from ..msa.vep import score_rows
from .ranking import curve, ranked

log = logging.getLogger(__name__)
ALL = "all"
_CHUNK = 16_384


@dataclass(frozen=True)
class VepBenchmarkConfig:
    """One comparison. Paths are as given; see ``npimpute benchmark vep --help``. Raises ConfigError.

    scores, lower: columns of which high, or low, values are of positives. models: as --model of 'npimpute vep'.
    """

    table: Path
    label: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    out: Path
    scores: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    msa: Path | None = None
    by: str | None = None
    sheet: str | None = None
    header_row: int = 1
    batch: int = 64
    device: str | None = None
    threads: int = 1
    both_strands: bool = True
    bootstrap: int = 200
    seed: int = 1

    def __post_init__(self) -> None:
        check_device(self.device)
        if not self.positive or not self.negative or set(self.positive) & set(self.negative):
            raise ConfigError("--positive and --negative: each needs a value of --label, and they must differ")
        if not (self.scores or self.lower or self.models):
            raise ConfigError("nothing to compare: give --score COLUMN, --lower COLUMN or --model")
        names = (*self.scores, *self.lower, *self.models)
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise ConfigError(f"{twice[0]}: is named twice")
        if self.models and self.msa is None:
            raise ConfigError("--model: needs --msa, the alignment that it reads")
        for name in ("batch", "threads", "header_row"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: 1 or more is needed")
        if self.bootstrap < 0 or self.seed < 0:
            raise ConfigError("--bootstrap and --seed are 0 or more")


def benchmark(config: VepBenchmarkConfig, progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """The measures as plain values, ready for JSON. Raises InputError and ConfigError.

    Every score is judged on the rows that all scores have, and on all of its own.
    """
    rows, labels, groups, columns = _read(config)
    statuses: dict[str, dict[str, int]] = {}
    for i, model in enumerate(config.models):
        columns[model], statuses[model] = _run(model, rows, config)
        progress((i + 1) / (len(config.models) + 1))
    known = {name: ~np.isnan(values) for name, values in columns.items()}
    common = np.logical_and.reduce(list(known.values()))
    if not (labels[common].any() and (~labels[common]).any()):
        counts = ", ".join(f"{name} {int(mask.sum())}" for name, mask in known.items())
        raise InputError(f"{config.table}: no positives and negatives that all scores have (rows scored: {counts})")
    entries = [_entry(config, name, columns[name], known[name], common, labels, groups) for name in columns]
    for entry in entries:
        entry["statuses"] = statuses.get(entry["name"])
    return {
        "kind": "vep",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "settings": {name: _plain(value) for name, value in vars(config).items()},
        "rows": len(labels),
        "compared": int(common.sum()),
        "scores": entries,
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _entry(config, name, values, known, common, labels, groups) -> dict[str, Any]:
    masks = {ALL: common}
    if groups is not None:
        masks |= {group: common & (groups == group) for group in sorted(set(groups[common].tolist()))}
    parts = [{"group": g, **ranked(labels[m], values[m], config.bootstrap, config.seed)} for g, m in masks.items()]
    own = ranked(labels[known], values[known], config.bootstrap, config.seed)
    drawn = curve(labels[common], values[common])
    return {"name": name, "scored": int(known.sum()), "groups": parts, "own_rows": own, "curve": drawn}


def _read(config: VepBenchmarkConfig) -> tuple[list[Row], np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    """Rows that have a label, which are positive, their groups, and the score columns."""
    table = open_variants if config.models else open_table
    source = table(config.table, config.sheet, config.header_row)
    places = {name: column_place(config.table, source.columns, name) for name in (*config.scores, *config.lower)}
    label = column_place(config.table, source.columns, config.label)
    by = None if config.by is None else column_place(config.table, source.columns, config.by)
    rows, labels, groups = [], [], []
    found: Counter[str] = Counter()
    for row, cells in _cells(source, bool(config.models)):
        value = _text(cells[label]) if label < len(cells) else ""
        found[value] += 1
        if value in config.positive or value in config.negative:
            rows.append((row, cells))
            labels.append(value in config.positive)
            groups.append(_text(cells[by]) if by is not None and by < len(cells) else "")
    for name in (*config.positive, *config.negative):
        if not found[name]:
            some = ", ".join(f"{value or 'empty'} {n}" for value, n in found.most_common(8))
            raise InputError(f"{config.table}: no row has {config.label} {name}; there are {some}")
    columns = {name: np.array([_value(cells, place) for _, cells in rows]) for name, place in places.items()}
    for name in config.lower:
        columns[name] = -columns[name]
    for name, values in columns.items():
        if np.isnan(values).all():
            raise InputError(f"{config.table}: the column {name} has no number")
    return [row for row, _ in rows], np.array(labels), np.array(groups) if by is not None else None, columns


def _cells(source: VariantFile, variants: bool):
    """(row or None, its cells) of every row of the table."""
    for row in source.rows:
        yield (row, row.fields) if variants else (None, row[0])


def _value(cells: list[Any], place: int) -> float:
    """A cell as a number; NaN for anything else."""
    try:
        return float(cells[place])
    except (TypeError, ValueError, IndexError):
        return float("nan")


def _text(cell: Any) -> str:
    """A cell as a label; whole numbers of tables that have types are written without a point."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip()


def _run(model: str, rows: list[Row], config: VepBenchmarkConfig) -> tuple[np.ndarray, dict[str, int]]:
    """Scores of all rows, NaN where there is none, and how many rows have each status."""
    alignment = Alignment.open(config.msa)
    scorer = make_scorer(model, alignment, config.batch, config.device, config.threads, config.both_strands)
    scored = []
    for start in range(0, len(rows), _CHUNK):
        scored += score_rows(rows[start : start + _CHUNK], alignment, scorer)
    if not any(alleles[0].status == "ok" for alleles in scored):
        counts = Counter(alleles[0].status for alleles in scored)
        found = ", ".join(f"{status} {n}" for status, n in counts.most_common())
        raise InputError(f"{config.table}: {config.msa} has none of its variants ({found})")
    return -np.array([alleles[0].llr for alleles in scored]), dict(Counter(a[0].status for a in scored))
