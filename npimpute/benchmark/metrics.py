"""How good imputed genotypes are where the truth is known: the published measures, from sums that add up.

Axes: r rows (one per ALT allele), N people, b+1 weightings of the people: the first counts everybody once, the others
are bootstrap samples. A genotype is a number of copies of the row's ALT allele, 0 to 2; it counts where the truth, the
dosage and the call are known.

Sources. Pooled ("aggregate") r2: squared Pearson correlation of dosages and true copies of the panel's minor allele
over all genotypes of a bin (Browning et al. 2018, AJHG 103:338; Rubinacci et al. 2021, Nature Genetics 53:120);
r2_pooled_alt is that of ALT alleles, in which a row stands out where REF is rare. IQS: Lin et al. 2010, PLoS ONE
5:e9697, eq. 1-3. Non-reference discordance: as in GATK and bcftools, wrong calls among those that are not a matching
REF/REF.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..dosage.accuracy import MAF_BINS
from ..errors import ConfigError

MEASURES = ("r2_pooled", "r2_pooled_alt", "r2_mean", "iqs", "concordance", "nrd", "cross_entropy")
# Probabilities are printed with as little as two digits: none counts as less than half of the last.
LEAST_PROBABILITY = 0.005
# The centred sum of squares below which a value does not vary; dosages come in steps of .001 or more.
LEAST_VARIANCE = 1e-9
CALIBRATION_BINS = 10
GLIMPSE_BINS = 100

# Sums over genotypes: of dosage x and truth y; calls by truth; -log of the truth's probability, and how many have one.
_N, _X, _Y, _XX, _YY, _XY = range(6)
_CALLS = slice(6, 15)
_ENTROPY, _ENTROPY_N = 15, 16
SUMS = 17


@dataclass(frozen=True)
class Rows:
    """Imputed rows and their truth.

    dosage: (r, N) float32, NaN missing. truth, call: (r, N) int8, -1 missing. gp: (r, N, 3) float32, NaN missing.
    maf: (r,) float64, and alt_major: (r,) bool, ALT is the more frequent, both in the panel. snp: (r,) bool.
    quality: (r,) float32, what the program says of itself (EXPR2, DR2, R2, INFO), NaN where nothing.
    """

    dosage: np.ndarray
    truth: np.ndarray
    call: np.ndarray
    gp: np.ndarray
    maf: np.ndarray
    alt_major: np.ndarray
    snp: np.ndarray
    quality: np.ndarray


def bootstrap_weights(people: int, replicates: int, seed: int) -> np.ndarray:
    """(replicates+1, people) float64: everybody once, then how often each is drawn with replacement."""
    draws = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=replicates)
    return np.concatenate([np.ones((1, people)), draws])


class Tally:
    """Adds up rows of one program's output, in any number of parts.

    edges: of bins of minor allele frequency, increasing; a bin has its upper edge. Frequency groups are 0, up to the
    first edge (where that is 0: monomorphic in the panel), one for each bin, and what is above the last edge.
    cells: (2 SNP or other, groups, 2 ALT is minor or major, SUMS, N) float64. maf_sums: (2 SNP or other, groups), over
    the genotypes that count. dosage_bins, gp_bins: (10, 3), over ten equal bins of predicted dosage (0-2) and genotype
    probability (0-1): how many, sum predicted, sum true. glimpse_bins: (2 SNP or other, 2 ALT is minor or major, 100, 3
    truth, 2 right or wrong) int64, by the called genotype's probability.
    """

    def __init__(self, weights: np.ndarray, edges: Sequence[float] = MAF_BINS):
        self.weights, self.edges = weights, tuple(edges)
        self.cells = np.zeros((2, len(edges) + 1, 2, SUMS, weights.shape[1]))
        self.dosage_bins, self.gp_bins = np.zeros((CALIBRATION_BINS, 3)), np.zeros((CALIBRATION_BINS, 3))
        self.glimpse_bins = np.zeros((2, 2, GLIMPSE_BINS, 3, 2), np.int64)
        self.maf_sums = np.zeros((2, len(edges) + 1))
        self.means = {name: np.zeros((2, len(edges) + 1, len(weights))) for name in ("r2_mean", "iqs")}
        self._rows: list[dict[str, np.ndarray]] = []

    def add(self, rows: Rows) -> None:
        counts = (rows.truth >= 0) & (rows.call >= 0) & ~np.isnan(rows.dosage)
        # A frequency that is an edge but for rounding, as 1 - .995 or single precision give, is that edge.
        group = np.searchsorted(np.array(self.edges) * (1 + 1e-6), rows.maf, side="left")
        x, y = np.where(counts, rows.dosage, 0).astype(np.float64), np.where(counts, rows.truth, 0).astype(np.float64)
        parts = [counts.astype(np.float64), x, y, x * x, y * y, x * y]
        code = np.where(counts, rows.truth * 3 + rows.call, -1)
        calls = [(code == c).astype(np.float64) for c in range(9)]
        known = counts & ~np.isnan(rows.gp).any(axis=2)
        of_truth = np.take_along_axis(rows.gp, np.maximum(rows.truth, 0)[..., None], axis=2)[..., 0]
        entropy = np.zeros_like(x)
        entropy[known] = -np.log(np.maximum(of_truth[known], LEAST_PROBABILITY))
        self._add_cells(rows, group, [*parts, *calls, entropy, known.astype(np.float64)])
        self._add_probabilities(rows, group, known)
        np.add.at(self.maf_sums, ((~rows.snp).astype(np.int64), group), rows.maf * counts.sum(axis=1))
        self._add_dosages(rows, counts)
        self._add_rows(rows, group, parts, known)

    def _add_cells(self, rows: Rows, group: np.ndarray, values: list[np.ndarray]) -> None:
        at = ((~rows.snp).astype(np.int64), group, rows.alt_major.astype(np.int64))
        cell = np.ravel_multi_index(at, self.cells.shape[:3])
        order = np.argsort(cell, kind="stable")
        starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
        flat = self.cells.reshape(-1, SUMS, self.cells.shape[-1])
        for i, value in enumerate(values):
            if len(starts):
                flat[cell[order][starts], i] += np.add.reduceat(value[order], starts, axis=0)

    def _add_dosages(self, rows: Rows, counts: np.ndarray) -> None:
        x, y = rows.dosage[counts], rows.truth[counts]
        self.dosage_bins += _by_bin(x / 2, x, y)

    def _add_probabilities(self, rows: Rows, group: np.ndarray, known: np.ndarray) -> None:
        gp, truth = rows.gp[known], rows.truth[known]
        for genotype in range(3):
            self.gp_bins += _by_bin(gp[:, genotype], gp[:, genotype], truth == genotype)
        # As GLIMPSE2_concordance has it: rows of a bin, copies of the minor allele, by the largest probability.
        inside = known & ((group > 0) & (group < len(self.edges)))[:, None]
        gp, truth = rows.gp[inside], rows.truth[inside].astype(np.int64)
        flip, other = (
            np.broadcast_to(v[:, None], known.shape)[inside].astype(int) for v in (rows.alt_major, ~rows.snp)
        )
        at = np.minimum((gp.max(axis=1) * (GLIMPSE_BINS - 1)).astype(np.int64), GLIMPSE_BINS - 1)
        minor = np.where(flip, 2 - truth, truth)
        wrong = (gp.argmax(axis=1) != truth).astype(np.int64)
        index = np.ravel_multi_index((other, flip, at, minor, wrong), self.glimpse_bins.shape)
        self.glimpse_bins += np.bincount(index, minlength=self.glimpse_bins.size).reshape(self.glimpse_bins.shape)

    def _add_rows(self, rows: Rows, group: np.ndarray, parts: list[np.ndarray], known: np.ndarray) -> None:
        """Measures of each row on its own, and their sums over rows, for every weighting of the people."""
        n, x, y, xx, yy, xy = (part @ self.weights.T for part in parts)
        r2 = squared_correlation(n, x, y, xx, yy, xy)
        iqs = np.where(np.isnan(r2), np.nan, self._iqs(rows, known))
        for name, value in (("r2_mean", r2), ("iqs", iqs)):
            for what, part in enumerate((np.where(np.isnan(value), 0, value), ~np.isnan(value))):
                np.add.at(self.means[name][what], group, part)
        column = {"group": group, "maf": rows.maf, "quality": rows.quality, "r2": r2[:, 0], "iqs": iqs[:, 0]}
        self._rows.append({name: np.asarray(value, np.float32) for name, value in column.items()})

    def _iqs(self, rows: Rows, known: np.ndarray) -> np.ndarray:
        """(r, b+1): (Po - Pc) / (1 - Pc) of the table of true genotypes and probabilities; NaN where chance is sure."""
        gp = np.where(known[..., None], rows.gp, 0).astype(np.float64)
        total = known @ self.weights.T
        by_truth = [[np.where(rows.truth == t, gp[..., g], 0) @ self.weights.T for g in range(3)] for t in range(3)]
        observed = sum(by_truth[g][g] for g in range(3))
        truths = [(known & (rows.truth == t)) @ self.weights.T for t in range(3)]
        chance = sum(truths[g] * sum(by_truth[t][g] for t in range(3)) for g in range(3))
        with np.errstate(invalid="ignore", divide="ignore"):
            observed, chance = observed / total, chance / total**2
            return np.where(chance < 1 - LEAST_VARIANCE, (observed - chance) / (1 - chance), np.nan)

    @staticmethod
    def joined(parts: list[Tally]) -> Tally:
        """One of several that have other people, as many weightings and the same edges."""
        whole = Tally(np.concatenate([part.weights for part in parts], axis=1), parts[0].edges)
        whole.cells = np.concatenate([part.cells for part in parts], axis=-1)
        for name in ("dosage_bins", "gp_bins", "glimpse_bins", "maf_sums"):
            setattr(whole, name, sum(getattr(part, name) for part in parts))
        whole.means = {name: sum(part.means[name] for part in parts) for name in whole.means}
        whole._rows = [row for part in parts for row in part._rows]
        return whole

    def rows(self) -> dict[str, np.ndarray]:
        """Per row, in the order added: group, maf, quality, r2 and iqs (NaN where the truth does not vary)."""
        names = ("group", "maf", "quality", "r2", "iqs")
        return {name: np.concatenate([part[name] for part in self._rows]) for name in names} if self._rows else {}

    def by_bin(self, people: np.ndarray | None = None) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """("all", measures), then those of "0", what is monomorphic in the panel, and of each bin ("0.002-0.005": above
        .002, up to .005) that has rows. Each measure is (b+1,), NaN where undefined; "genotypes",
        (b+1,), is how many count.

        people: (N,) bool, of these alone; then without the means over rows, which are of everybody.
        """
        weights = self.weights if people is None else self.weights * people
        for name, groups in bins(self.edges):
            sums = self.cells[:, groups].sum(axis=(0, 1)) @ weights.T  # (2, SUMS, b+1)
            if not sums[:, _N, 0].any():
                continue
            measured = pooled_measures(sums)
            if people is None:
                measured |= {measure: self._mean(measure, groups) for measure in self.means}
            yield name, measured

    def _mean(self, measure: str, groups: list[int]) -> np.ndarray:
        total, count = self.means[measure][:, groups].sum(axis=1)
        with np.errstate(invalid="ignore"):
            return total / count

    def by_sample(self) -> dict[str, np.ndarray]:
        """The pooled measures of everybody on their own, (N,) each."""
        return pooled_measures(self.cells.sum(axis=(0, 1)))


def check_edges(edges: Sequence[float]) -> None:
    """Raises ConfigError unless they increase from 0 or more to .5 or less and make a bin."""
    fine = len(edges) > 1 and all(low < high for low, high in itertools.pairwise(edges))
    if not fine or edges[0] < 0 or edges[-1] > 0.5:
        raise ConfigError(f"--maf-bins {','.join(f'{e:g}' for e in edges)}: increasing edges, 0 to 0.5, two or more")


def bins(edges: Sequence[float]) -> list[tuple[str, list[int]]]:
    """Name and frequency groups of "all", "0" (where the first edge is not 0: what is not above it), and every bin."""
    named = [(f"{low:g}-{high:g}", [i]) for i, (low, high) in enumerate(itertools.pairwise(edges), 1)]
    lowest = f"0-{edges[0]:g}" if edges[0] else "0"
    return [("all", list(range(len(edges) + 1))), (lowest, [0]), *named]


def _by_bin(share: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(10, 3): how many, sum predicted and sum true in ten equal bins of ``share``."""
    at = np.clip((share * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
    columns = (np.bincount(at, weights, minlength=CALIBRATION_BINS) for weights in (None, predicted, true))
    return np.stack(list(columns), axis=1)


def squared_correlation(n, x, y, xx, yy, xy) -> np.ndarray:
    """Squared Pearson correlation from sums; NaN where y does not vary, 0 where only x does not."""
    cov, var_x, var_y = n * xy - x * y, n * xx - x * x, n * yy - y * y
    least = LEAST_VARIANCE * np.maximum(n, 1)
    r2 = np.where(var_x > least, cov * cov / np.maximum(var_x * var_y, least * least), 0.0)
    return np.where(var_y > least, r2, np.nan)


def pooled_measures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The measures that are pooled over genotypes. sums: (2 ALT is minor or major, SUMS, ...)."""
    total = sums.sum(axis=0)
    calls = total[_CALLS].reshape(3, 3, *total.shape[1:])
    right = calls[0, 0] + calls[1, 1] + calls[2, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "genotypes": total[_N],
            "r2_pooled": squared_correlation(*moments_of_minor(sums)),
            "r2_pooled_alt": squared_correlation(*total[:6]),
            "concordance": right / total[_N],
            "nrd": (total[_N] - right) / (total[_N] - calls[0, 0]),
            "cross_entropy": np.where(total[_ENTROPY_N] > 0, total[_ENTROPY] / total[_ENTROPY_N], np.nan),
        }


def moments_of_minor(sums: np.ndarray) -> np.ndarray:
    """(6, ...) count and moments of dosages and truth as copies of the minor allele: 2 - x for x where ALT is major.

    sums: (2 ALT is minor or major, SUMS, ...).
    """
    n, x, y, xx, yy, xy = sums[1, :6]
    other = [n, 2 * n - x, 2 * n - y, 4 * n - 4 * x + xx, 4 * n - 4 * y + yy, 4 * n - 2 * x - 2 * y + xy]
    return sums[0, :6] + np.stack(other)


def calls_by_truth(cells: np.ndarray) -> np.ndarray:
    """(3 truth, 3 call, ...) int64, copies of the panel's minor allele. cells: (2 ALT is minor or major, SUMS, ...)."""
    calls = cells[:, _CALLS].reshape(2, 3, 3, *cells.shape[2:])
    return (calls[0] + calls[1, ::-1, ::-1]).astype(np.int64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """values[0] and 1.96 standard errors on either side, from the bootstrap samples values[1:]; NaN if these are fewer
    than two or it is undefined in one.

    Not their percentiles: a mean over rows is one over other rows in every sample, since rare alleles come and go with
    their carriers, so that the samples lie off the value.
    """
    if len(values) < 3 or np.isnan(values).any():
        return float("nan"), float("nan")
    half = 1.96 * float(values[1:].std(ddof=1))
    return float(values[0]) - half, float(values[0]) + half
