"""What imputed values are worth: per site AF, DR2 and ER2, per sample the same leave-one-out agreement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..outputs import file_errors, temporary
from ..types import Dosages, first_haplotypes, present
from .accuracy import MAF_BINS


def dr2(n: np.ndarray, sum_p: np.ndarray, sum_pq: np.ndarray) -> np.ndarray:
    """(r,) float32 estimated squared correlation of dosage and truth, from sums over the haplotypes of a row.

    [sum p^2 - (sum p)^2/n] / [sum p - (sum p)^2/n], written as 1 - sum p(1-p) / [sum p - (sum p)^2/n], which loses
    no digits where nearly all carry ALT; 0 where the row is monomorphic, NaN where n is 0.
    Source: Browning & Browning 2009, AJHG 84:210, in the haploid form of Beagle 5. Where the two haplotypes of a
    sample are independent, as here, IMPUTE's INFO score, 1 - sum(f - e^2) / (2 N q (1-q)), is the same number:
    f - e^2 sums to sum p(1-p), and N is n/2.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = sum_p * (1 - sum_p / n)
        value = np.where(expected > 1e-9, 1 - sum_pq / expected, 0.0)
    return np.where(n > 0, np.clip(value, 0, 1), np.nan).astype(np.float32)


def row_sums(p: np.ndarray) -> tuple[np.ndarray, ...]:
    """(r,) each: over the haplotypes of a row whose p is not missing their number (int64), and with q = 1 - p the sums
    of p, pq, ppq and pppq (float64). p: (r, n) float32."""
    known = ~np.isnan(p)
    filled = np.where(known, p, 0)
    pq = filled * (1 - filled)
    ppq = pq * filled
    pppq = np.einsum("ij,ij->i", ppq, filled, dtype=np.float64)
    return known.sum(axis=1), *(values.sum(axis=1, dtype=np.float64) for values in (filled, pq, ppq)), pppq


# The chance that a haplotype carries an allele though no copy says so: genotyping errors and mutations. Fitted on the
# regions that the network is trained on; from half to twice of it makes no difference.
UNFORESEEN = 1e-4


def expected_r2(
    n: np.ndarray, sum_p: np.ndarray, sum_pq: np.ndarray, sum_ppq: np.ndarray, sum_pppq: np.ndarray
) -> np.ndarray:
    """(r,) float32 expected squared correlation of the p of a row and the alleles g that haplotypes carry, if the
    allele varies among them: of E[cov(p, g)^2] to var(p) E[var(g)] with g drawn from p. Arguments as of ``row_sums``.

    The chance that the allele does not vary is in both and cancels, which is why a haplotype with p = .3 beside others
    with 0 gives about 1, not .3 as in ``dr2``, the same ratio with E[cov]^2. 0 where p does not vary, NaN where n is 0.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sum_p / n
        spread = sum_p * (1 - mean) - sum_pq
        doubt = sum_pppq - 2 * mean * sum_ppq + mean**2 * sum_pq
        of_alleles = spread + sum_pq * (1 - 1 / n) + n * UNFORESEEN
        value = (spread**2 + doubt + UNFORESEEN * spread) / (spread * of_alleles)
        value = np.where((spread > 1e-9) & (np.minimum(sum_p, n - sum_p) > 1e-6), value, 0.0)
    return np.where(n > 0, np.clip(value, 0, 1), np.nan).astype(np.float32)


def er2(predicted: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """(r,) float32 squared Pearson correlation of leave-one-out predictions and observed alleles.

    predicted: (r, n) float32 probability of the row's ALT allele; carried: (r, n) float32 0 or 1, NaN missing. 0
    where either does not vary, NaN where nothing was observed. Source: Minimac's EmpRsq (Howie et al. 2012, Nature
    Genetics 44:955, supplementary note).
    """
    known = ~np.isnan(carried)
    n = known.sum(axis=1)
    x, y = np.where(known, predicted, 0).astype(np.float64), np.where(known, carried, 0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cov = (x * y).sum(1) - x.sum(1) * y.sum(1) / n
        var_x, var_y = ((v * v).sum(1) - v.sum(1) ** 2 / n for v in (x, y))
        value = np.where((var_x > 1e-9) & (var_y > 1e-9), cov**2 / (var_x * var_y), 0.0)
    return np.where(n > 0, np.clip(value, 0, 1), np.nan).astype(np.float32)


class SampleQuality:
    """Adds up, over windows, how well each sample's typed genotypes are predicted when they are left out."""

    HEADER = ("sample", "typed", "filled", "concordance", "r2", "confidence")

    def __init__(self, samples: Sequence[str]):
        self._samples = samples
        # Per sample: typed genotypes, missing ones filled, agreeing hard calls; n, sums of x, y, xx, yy, xy; and
        # imputed genotypes with the sum of their most probable genotype's probability.
        self._sums = np.zeros((11, len(samples)))

    def add_typed(self, predicted: np.ndarray, carried: np.ndarray, ploidy: np.ndarray | None = None) -> None:
        """predicted, carried: as for ``er2``, rows of the typed sites written. ploidy: of the samples."""
        first = first_haplotypes(ploidy, predicted.shape[1])[:-1]
        x, y = (np.add.reduceat(values, first, axis=1, dtype=np.float64) for values in (predicted, carried))
        known = ~np.isnan(y)
        x, y = np.where(known, x, 0), np.where(known, y, 0)
        agree = known & (np.rint(x) == y)
        parts = (known, ~known, agree, known, x, y, x * x, y * y, x * y)
        self._sums[:9] += [part.sum(axis=0) for part in parts]

    def add_imputed(self, p: np.ndarray, ploidy: np.ndarray | None = None) -> None:
        """p: (r, n) float32, rows of the untyped sites written. ploidy: of the samples."""
        if ploidy is None:
            a, b = p[:, 0::2], p[:, 1::2]
        else:  # of a haploid sample as if the other haplotype were known not to carry ALT
            pair = np.zeros((len(p), 2 * len(ploidy)), p.dtype)
            pair[:, present(ploidy)] = p
            a, b = pair[:, 0::2], pair[:, 1::2]
        likeliest = np.maximum(np.maximum((1 - a) * (1 - b), a * b), a * (1 - b) + b * (1 - a))
        self._sums[9] += len(p)
        self._sums[10] += likeliest.sum(axis=0, dtype=np.float64)

    @property
    def sums(self) -> list[list[float]]:
        """All that was added up, as plain values."""
        return self._sums.tolist()

    @sums.setter
    def sums(self, values: list[list[float]]) -> None:
        self._sums = np.array(values)

    def write(self, path: Path) -> None:
        """A tab-separated table with a header, one line a sample; "nan" where there is nothing to tell from.

        typed, filled: typed rows (one per ALT allele) observed, and missing ones that were imputed. concordance: share
        of observed ones that their leave-one-out prediction rounds to; r2: squared correlation of the two.
        confidence: mean probability of the most probable genotype at untyped rows.
        """
        typed, filled, agree, n, x, y, xx, yy, xy, imputed, confidence = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = (n * xy - x * y) ** 2 / ((n * xx - x * x) * (n * yy - y * y))
            columns = (agree / typed, r2, confidence / imputed)
        lines = ["\t".join(self.HEADER)]
        for i, sample in enumerate(self._samples):
            shares = (f"{column[i]:.4f}" for column in columns)
            lines.append("\t".join((sample, f"{typed[i]:.0f}", f"{filled[i]:.0f}", *shares)))
        with file_errors(path):
            temporary(path).write_text("\n".join(lines) + "\n")
            temporary(path).replace(path)


class R2Table:
    """Mean DR2 of the imputed rows written, by minor allele frequency; of typed ones ER2 beside what was expected."""

    def __init__(self) -> None:
        self._typed = np.zeros(3)
        self._count = np.zeros(len(MAF_BINS) - 1, np.int64)
        self._sum = np.zeros(len(MAF_BINS) - 1)

    def add(self, dosages: Dosages) -> None:
        rows = np.repeat(dosages.imputed & ~dosages.typed, dosages.sites.n_alt())
        maf = np.minimum(dosages.af, 1 - dosages.af)[rows]
        at = np.clip(np.searchsorted(MAF_BINS, maf, side="left") - 1, 0, len(self._count) - 1)
        self._count += np.bincount(at, minlength=len(self._count))
        self._sum += np.bincount(at, weights=dosages.dr2[rows], minlength=len(self._count))
        known = ~np.isnan(dosages.er2) & ~np.isnan(dosages.expected_r2) & (dosages.sum_pq <= 0)
        known &= (dosages.af > 0) & (dosages.af < 1)
        self._typed += (known.sum(), dosages.er2[known].sum(), dosages.expected_r2[known].sum())

    @property
    def sums(self) -> list[list[float]]:
        """All that was added up, as plain values."""
        return [self._count.tolist(), self._sum.tolist(), self._typed.tolist()]

    @sums.setter
    def sums(self, values: list[list[float]]) -> None:
        self._count, self._sum, self._typed = (np.array(part) for part in values)

    @property
    def typed(self) -> tuple[int, float, float]:
        """How many typed rows, their mean ER2, and the mean that was expected."""
        n, found, expected = self._typed.tolist()
        return int(n), found / max(n, 1), expected / max(n, 1)

    def lines(self) -> list[str]:
        """One line a bin that has rows: the bin, how many, and their mean."""
        bins = zip(MAF_BINS, MAF_BINS[1:], self._count, self._sum, strict=False)
        return [f"MAF {lo:>6.1%} - {hi:>5.1%}: {n:>8} alleles, mean DR2 {s / n:.3f}" for lo, hi, n, s in bins if n]
