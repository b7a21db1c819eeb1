"""Labelled tables, such as the tasks of the Genomics Long-Range Benchmark: a fine-tuned model judged on test rows.

Axes: n rows, o outputs. Source of the measures: Trop et al. 2024, the Genomics Long-Range Benchmark (AUROC or AUPRC of
variants and of annotations, R2 of expression); all of them are reported for every task that they exist for.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..dna.finetune import Rows, predictions, tell
from ..dna.genome import open_genome
from ..dna.heads import HeadConfig, load_headed
from ..dna.results import write_results
from ..dna.tables import Table, read_table
from ..dna.windows import Variant
from ..engine.device import choose_device
from ..errors import ConfigError, InputError
from .ranking_metrics import auroc, average_precision

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelsConfig:
    """model: a directory of 'npimpute train dna --finetune'. table: with the labels that it learnt. split: the rows to
    judge of a table with such a column; else all are. Raises ConfigError."""

    out: Path
    fasta: Path
    model: Path
    table: Path
    split: str = "test"
    device: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation", "test"):
            raise ConfigError(f"--split {self.split}: choose from train, validation, test")


def label_benchmark(config: LabelsConfig, progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Measures on the rows that can be used, and writes predictions.tsv. Raises InputError or ConfigError."""
    device = choose_device(config.device, config.threads)
    network, model = load_headed(config.model)
    head = model.head
    table = read_table(config.table, head.task == "variants", head.columns).split(config.split)
    if not len(table):
        raise InputError(f"{config.table}: no row of split {config.split}")
    rows = Rows(open_genome(config.fasta), table, head, model.body.vocabulary)
    told = tell(network.to(device), rows, not head.stranded, device, progress)
    found = predictions(head, told)
    config.out.mkdir(parents=True, exist_ok=True)
    write_results(config.out / "predictions.tsv", _columns(table, rows, head, found), {}, {})
    return {
        "kind": "long-range-labels",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "settings": {"model": str(config.model), "table": str(config.table), "split": config.split, "task": head.task},
        "rows": len(rows),
        "left_out": len(table) - len(rows),
        "measures": measures(head, rows.labels, found),
    }


def measures(head: HeadConfig, labels: np.ndarray, told: np.ndarray) -> list[dict[str, Any]]:
    """By output and their mean ("all"), None where a measure does not exist, as AUROC of one kind only.

    labels: as ``finetune.labels_of``; told: (n, o) as ``finetune.predictions``. Classes: of two, the measures of the
    second; of more, of each against the rest, and the accuracy of the likeliest.
    """
    if head.task == "regression":
        values = labels * np.array(head.scale) + np.array(head.mean)
        rows = [_numbers(name, values[:, j], told[:, j]) for j, name in enumerate(head.columns)]
    elif head.task == "multi-label":
        rows = [_ranked(name, labels[:, j], told[:, j]) for j, name in enumerate(head.columns)]
    else:
        chosen = range(1, 2) if len(head.classes) == 2 else range(len(head.classes))
        rows = [_ranked(head.classes[j], (labels == j).astype(float), told[:, j]) for j in chosen]
    whole: dict[str, Any] = {"output": "all", "rows": len(labels)}
    for name in [name for name in rows[0] if name not in ("output", "rows")]:
        known = [row[name] for row in rows if row[name] is not None]
        whole[name] = float(np.mean(known)) if known else None
    if head.has_classes:
        whole["accuracy"] = float((told.argmax(1) == labels).mean())
    return [whole, *rows]


def _ranked(name: str, labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    known = np.isfinite(labels)
    labels, scores = labels[known] > 0, scores[known]
    found = {"auroc": auroc(labels, scores), "auprc": average_precision(labels, scores)}
    found |= {"positives": float(labels.mean()) if len(labels) else float("nan")}
    return {"output": name, "rows": int(known.sum())} | _known(found)


def _numbers(name: str, values: np.ndarray, told: np.ndarray) -> dict[str, Any]:
    """r2: of a prediction as it is, 1 - residual / total sum of squares; pearson_r2: its squared correlation."""
    known = np.isfinite(values)
    values, told = values[known], told[known]
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    r2 = 1 - float(((values - told) ** 2).sum()) / total if total else float("nan")
    varied = total > 0 and told.std() > 0
    pearson = float(np.corrcoef(values, told)[0, 1] ** 2) if varied else float("nan")
    return {"output": name, "rows": int(known.sum())} | _known({"r2": r2, "pearson_r2": pearson})


def _known(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _columns(table: Table, rows: Rows, head: HeadConfig, found: np.ndarray) -> dict[str, np.ndarray]:
    """Every row of the table, those that cannot be used with their reason and no prediction."""
    starts = [place.pos if isinstance(place, Variant) else place.start for place in table.places]
    columns = {"contig": np.array([place.contig for place in table.places])}
    columns |= {"pos" if head.task == "variants" else "start": np.array(starts)}
    columns |= {"status": np.array(rows.status)}
    for j, name in enumerate(head.classes or head.columns):
        values = np.full(len(table), np.nan)
        values[rows.kept] = found[:, j]
        columns[f"predicted_{name}"] = values
    return columns
