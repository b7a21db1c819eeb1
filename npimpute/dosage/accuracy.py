"""How good imputed dosages are where the truth is known, by minor allele frequency."""

from __future__ import annotations

import itertools

import numpy as np

MAF_BINS = (0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# A dosage that varies less than this does not vary: its correlation is taken as 0.
LEAST_VARIANCE = 1e-12


def r2_by_maf(dosage: np.ndarray, truth: np.ndarray, maf: np.ndarray) -> dict[str, dict[str, float]]:
    """For "all" and each bin of ``MAF_BINS`` that has alleles ("0.002-0.005": above .002, up to .005; the first from
    0): "alleles", how many; "pooled", squared correlation over all alleles and people at once; "mean", the mean over
    alleles of each one's squared correlation over people, for those that vary in the truth, 0 where the dosage does
    not vary. NaN where undefined.

    dosage, truth: (r, N) ALT copies of N people, NaN in both where a person does not count. maf: (r,) in the panel.
    """
    dosage, truth = dosage.astype(np.float64), truth.astype(np.float64)
    by_allele = _squared_correlation(dosage, truth)
    bins = {"all": np.ones(len(maf), bool)}
    for low, high in itertools.pairwise(MAF_BINS):
        bins[f"{low:g}-{high:g}"] = (maf > low if low else maf >= 0) & (maf <= high)
    return {
        name: {
            "alleles": int(chosen.sum()),
            "pooled": float(_squared_correlation(dosage[chosen].reshape(1, -1), truth[chosen].reshape(1, -1))[0]),
            "mean": _mean(by_allele[chosen]),
        }
        for name, chosen in bins.items()
        if chosen.any()
    }


def _squared_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(r,) float64 over the last axis, without NaN; NaN where y does not vary, 0 where only x does not."""
    x, y = x - np.nanmean(x, axis=1, keepdims=True), y - np.nanmean(y, axis=1, keepdims=True)
    cov, var_x, var_y = np.nansum(x * y, axis=1), np.nansum(x * x, axis=1), np.nansum(y * y, axis=1)
    r2 = np.where(var_x > LEAST_VARIANCE, cov**2 / np.maximum(var_x * var_y, LEAST_VARIANCE**2), 0.0)
    return np.where(var_y > LEAST_VARIANCE, r2, np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
