"""How well scores rank positives above negatives."""

from __future__ import annotations

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a random positive scores above a random negative, a tie counting half.

    labels: (n,) bool or 0/1. scores: (n,) float, NaN nowhere. NaN unless there is one of either kind.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks = (ends - (count - 1) / 2)[place]  # 1-based, ties share their mean
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve as a step function: precision at every threshold, weighted by the recall
    that it adds; tied scores are one threshold. Arguments and NaN as of ``auroc``, but negatives need not be there."""
    labels, scores = np.asarray(labels, bool), np.asarray(scores, float)
    positives = int(labels.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of ties
    recall = found[last] / positives
    return float(np.sum(np.diff(recall, prepend=0.0) * found[last] / (last + 1)))
