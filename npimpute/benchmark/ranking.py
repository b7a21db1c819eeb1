"""AUROC and average precision of several scores with bootstrap intervals, over rows or over groups of rows.

Axes: n rows, g groups (elements of a genome, say), r bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .ranking_metrics import auroc, average_precision

MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"auroc": auroc, "auprc": average_precision}
# Points of a curve that are kept for drawing.
CURVE_POINTS = 200


def ranked(
    labels: np.ndarray, scores: np.ndarray, replicates: int, seed: int, groups: np.ndarray | None = None
) -> dict:
    """How well scores rank positives above negatives.

    labels: (n,) bool. scores: (n,) without NaN. groups: (n,) int64, rows of one group are drawn together; None: each
    row alone. Returns "positives", "negatives" and, of each of ``MEASURES``, value, low and high: the 95 % percentile
    interval of ``replicates`` bootstrap samples, None where it is undefined.
    """
    out: dict[str, Any] = {"positives": int(labels.sum()), "negatives": int((~labels).sum())}
    if not out["positives"] or not out["negatives"]:
        return out | {name: [None, None, None] for name in MEASURES}
    drawn: dict[str, list[float]] = {name: [] for name in MEASURES}
    for rows in _samples(labels, groups, replicates, seed):
        for name, measure in MEASURES.items():
            drawn[name].append(measure(labels[rows], scores[rows]))
    for name, measure in MEASURES.items():
        known = [value for value in drawn[name] if not np.isnan(value)]
        low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) > 1 else (None, None)
        out[name] = [measure(labels, scores), low, high]
    return out


def _samples(labels: np.ndarray, groups: np.ndarray | None, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of each bootstrap sample: as many groups of each label as there are, with replacement."""
    rng = np.random.default_rng(seed)
    if groups is None:
        kinds = [np.flatnonzero(labels), np.flatnonzero(~labels)]
        for _ in range(replicates):
            yield np.concatenate([rng.choice(rows, len(rows)) for rows in kinds])
        return
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    members = np.split(order, starts[1:])
    positive = np.array([labels[rows[0]] for rows in members])
    kinds = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    for _ in range(replicates):
        chosen = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds if len(kind)])
        yield np.concatenate([members[i] for i in chosen])


def curve(labels: np.ndarray, scores: np.ndarray) -> dict[str, list[float]]:
    """ "fpr", "recall" and "precision" at up to ``CURVE_POINTS`` thresholds, from the strictest."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    last = last[np.unique(np.linspace(0, len(last) - 1, CURVE_POINTS).round().astype(int))]
    true = np.cumsum(labels[order])[last]
    false = last + 1 - true
    shares = {
        "fpr": false / max(1, (~labels).sum()),
        "recall": true / max(1, labels.sum()),
        "precision": true / (last + 1),
    }
    return {name: [round(float(v), 6) for v in values] for name, values in shares.items()}
