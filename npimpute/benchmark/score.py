"""From imputed files to measures: which rows are compared, and plain values of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Truth
from .genotypes import GenotypeFile, keys_of
from .metrics import CALIBRATION_BINS, MEASURES, Rows, Tally, bins, interval

LOWER_IS_BETTER = ("nrd", "cross_entropy")


def rows_written(path: Path, truth: Truth, threads: int) -> np.ndarray:
    """(r,) bool: which of the truth's rows the file has."""
    there = np.zeros(len(truth.copies), bool)
    for key in keys_of(path, threads):
        if (row := truth.wanted.get(key)) is not None:
            there[row] = True
    return there


def score(
    path: Path, truth: Truth, chosen: np.ndarray, weights: np.ndarray, edges: Sequence[float], threads: int
) -> Tally:
    """The file's genotypes at the rows ``chosen`` ((r,) bool) against the truth. weights, edges: see ``Tally``.

    Raises InputError where the file cannot be read or lacks a sample.
    """
    tally = Tally(weights, edges)
    wanted = {key: row for key, row in truth.wanted.items() if chosen[row]}
    for part in GenotypeFile(path, threads).imputed(truth.samples, wanted):
        at = part.rows
        facts = (truth.maf[at], truth.alt_major[at], truth.snp[at])
        tally.add(Rows(part.dosage, truth.copies[at], part.call, part.gp, *facts, part.quality))
    return tally


def bin_table(tally: Tally, reference: Tally | None = None) -> list[dict[str, Any]]:
    """A dict for "all" and each bin that has rows: "bin", "alleles", "maf" (mean), "genotypes", and "measures": name ->
    [value, low, high], the latter a 95 % bootstrap interval over people; with ``reference``, "difference" from it
    likewise, in the same bootstrap samples. None where undefined."""
    rows, groups = tally.rows(), dict(bins(tally.edges))
    others = dict(reference.by_bin()) if reference is not None else {}
    out = []
    for name, measured in tally.by_bin():
        at = np.isin(rows["group"], groups[name])
        entry = {"bin": name, "alleles": int(at.sum()), "maf": float(rows["maf"][at].mean())}
        entry["genotypes"] = int(measured["genotypes"][0])
        entry["measures"] = {m: _with_interval(measured[m]) for m in MEASURES}
        if name in others:
            entry["difference"] = {m: _with_interval(measured[m] - others[name][m]) for m in MEASURES}
        out.append(entry)
    return out


def _with_interval(values: np.ndarray) -> list[float | None]:
    return [plain(values[0]), *map(plain, interval(values))]


def plain(value: float) -> float | None:
    """As JSON has it: None for what is undefined."""
    return None if np.isnan(value) else float(value)


def calibration(tally: Tally) -> dict[str, Any]:
    """ "dosage" and "probability": ten bins with "low", "high", "n", mean "predicted", mean "true"; "quality": how a
    program's own r2 goes with the true one over rows that vary in the truth, see ``quality_table``."""
    out: dict[str, Any] = {"quality": quality_table(tally)}
    for name, table, top in (("dosage", tally.dosage_bins, 2), ("probability", tally.gp_bins, 1)):
        edges = np.arange(CALIBRATION_BINS + 1) * top / CALIBRATION_BINS
        out[name] = [
            {"low": float(edges[i]), "high": float(edges[i + 1]), "n": int(n), "predicted": p / n, "true": t / n}
            for i, (n, p, t) in enumerate(table.tolist())
            if n
        ]
    return out


def quality_table(tally: Tally) -> dict[str, Any]:
    """ "bins": ten bins of the program's quality with "low", "high", "alleles", mean "predicted" and mean "true" r2;
    "correlation": Pearson's, and "bias", mean predicted - true, by frequency bin. Empty where the file has no quality.
    """
    rows = tally.rows()
    known = ~np.isnan(rows["quality"]) & ~np.isnan(rows["r2"])
    if not known.any():
        return {}
    said, true, group = rows["quality"][known], rows["r2"][known], rows["group"][known]
    at = np.clip((said * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
    table = []
    for i in range(CALIBRATION_BINS):
        here = at == i
        if here.any():
            edges = {"low": i / CALIBRATION_BINS, "high": (i + 1) / CALIBRATION_BINS, "alleles": int(here.sum())}
            table.append(edges | {"predicted": float(said[here].mean()), "true": float(true[here].mean())})
    by_bin = {}
    for name, groups in bins(tally.edges):
        here = np.isin(group, groups)
        if here.any():
            by_bin[name] = {"alleles": int(here.sum()), "bias": float((said[here] - true[here]).mean())}
            varies = here.sum() > 2 and said[here].std() > 0 and true[here].std() > 0
            by_bin[name]["correlation"] = float(np.corrcoef(said[here], true[here])[0, 1]) if varies else None
    return {"bins": table, "by_maf": by_bin}


def population_table(tally: Tally, populations: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Population -> "people" and the pooled measures by bin. populations: (N,) the name of everybody's."""
    names = np.array(populations)
    out = {}
    for name in sorted(set(populations)):
        people = names == name
        table = []
        for bin_name, measured in tally.by_bin(people):
            values = {m: _with_interval(measured[m]) for m in MEASURES if m in measured}
            table.append({"bin": bin_name, "people": int(people.sum()), "measures": values})
        out[name] = table
    return out


def sample_table(tally: Tally, samples: list[str]) -> list[dict[str, Any]]:
    """ "sample" and the pooled measures over all rows, of everybody."""
    measured = tally.by_sample()
    return [
        {"sample": name} | {m: plain(measured[m][i]) for m in ("genotypes", *MEASURES) if m in measured}
        for i, name in enumerate(samples)
    ]
