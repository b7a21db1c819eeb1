"""Concordance in the files and columns of GLIMPSE2_concordance, for what reads its reports.

Five files, blank-separated: PREFIX.error.spl, error.grp, error.cal, rsquare.grp and rsquare.spl, .txt.gz. As there,
genotypes count copies of the minor allele, and sections are SNPs (S), indels (I; here all that is no SNP) and both (V).
Other than there, calls are FORMAT/GT, not the most probable genotype, and multi-allelic records count, allele by
allele. Source: Rubinacci et al. 2023, Nature Genetics 55:1088; names of columns as GLIMPSE 2.0 writes them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..outputs import file_errors, temporary
from .metrics import GLIMPSE_BINS, Tally, calls_by_truth, moments_of_minor, squared_correlation

FILES = ("error.spl", "error.grp", "error.cal", "rsquare.grp", "rsquare.spl")
SECTIONS = (("S", "SNPs", [0]), ("I", "indels", [1]), ("V", "Variants: SNPs + indels", [0, 1]))
_MATCHES = "RR_hom_matches RA_het_matches AA_hom_matches RR_hom_mismatches RA_het_mismatches AA_hom_mismatches"
_RATES = "RR_hom_mismatches_rate_percent RA_het_mismatches_rate_percent"
_VALID = "#val_gt_RR #val_gt_RA #val_gt_AA"
# Spelt as there.
_BY_SAMPLE = f"id sample_name {_VALID} #filtered_gp {_MATCHES} {_RATES} AA_hom_mimatches "
_BY_SAMPLE += "non_reference_discordanc_rate_percent best_gt_rsquared imputed_ds_rsquared"
_BY_GROUP = f"id n_genotypes mean_AF {_VALID} filtered_gp {_MATCHES} {_RATES} AA_hom_mimatches_rate_percent "
_BY_GROUP += "best_gt_rsquared imputed_ds_rsquared"
_BY_CALIBRATION = f"id start_bin end_bin avg_bin {_MATCHES} {_RATES} AA_hom_mimatches_rate_percent "
_BY_CALIBRATION += "all_mismatches_rate_percent"


def write_glimpse(prefix: Path, tally: Tally, samples: tuple[str, ...]) -> list[Path]:
    """Writes the five files. Raises InputError where they cannot be."""
    parts = (
        _error_by_sample(tally, samples),
        _error_by_group(tally),
        _error_by_calibration(tally),
        _r2_by_group(tally),
        _r2_by_sample(tally, samples),
    )
    paths = []
    for name, lines in zip(FILES, parts, strict=True):
        path = prefix.with_name(f"{prefix.name}.{name}.txt.gz")
        with file_errors(path):
            temporary(path).write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
            temporary(path).replace(path)
        paths.append(path)
    return paths


def _error_by_sample(tally: Tally, samples: tuple[str, ...]) -> Iterator[str]:
    for letter, title, kinds in SECTIONS:
        cells = _inside(tally)[kinds].sum(axis=(0, 1))  # (2, SUMS, N)
        yield f"#Genotype concordance by sample ({title})"
        yield f"#GCs{letter} {_BY_SAMPLE}"
        calls, r2 = calls_by_truth(cells), _r2(cells)
        for i, name in enumerate(samples):
            counts, right, wrong, rates = _split(calls[:, :, i])
            discordant = wrong.sum() / max(wrong.sum() + right[1:].sum(), 1)
            percent = " ".join(f"{100 * x:.3f}" for x in (*rates, discordant))
            yield f"GCs{letter} {i} {name} {_words(counts)} 0 {_words(right)} {_words(wrong)} {percent} {_fixed(r2, i)}"


def _error_by_group(tally: Tally) -> Iterator[str]:
    for letter, title, kinds in SECTIONS:
        yield f"#Genotype concordance by allele frequency bin ({title})"
        yield f"#GCs{letter}AF {_BY_GROUP}"
        cells = tally.cells[kinds].sum(axis=(0, -1)).transpose(1, 2, 0)  # (2, SUMS, groups)
        calls, r2, n = calls_by_truth(cells), _r2(cells), cells[:, 0].sum(axis=0)
        maf = tally.maf_sums[kinds].sum(axis=0) / np.maximum(n, 1)
        for bin_number, group in enumerate(range(1, len(tally.edges))):
            counts, right, wrong, rates = _split(calls[:, :, group])
            percent = " ".join(f"{100 * x:.3f}" for x in rates)
            yield (
                f"GCs{letter}AF {bin_number} {int(n[group])} {maf[group]:.6f} {_words(counts)} 0 {_words(right)} "
                f"{_words(wrong)} {percent} {_fixed(r2, group)}"
            )


def _error_by_calibration(tally: Tally) -> Iterator[str]:
    for letter, title, kinds in SECTIONS:
        # Spelt as there.
        yield f"#Genotype caoncordance by calibration bin ({title})"
        yield f"#GCs{letter}C {_BY_CALIBRATION}"
        table = tally.glimpse_bins[kinds].sum(axis=(0, 1))  # (100, 3 truth, right or wrong)
        for i, counts in enumerate(table):
            right, wrong = counts[:, 0], counts[:, 1]
            rates = 100 * wrong / np.maximum(right + wrong, 1)
            overall = 100 * wrong.sum() / max(counts.sum(), 1)
            low, high = i / GLIMPSE_BINS, (i + 1) / GLIMPSE_BINS
            span = f"{low:.2f} {high:.2f} {(low + high) / 2:.3f}"
            percent = f"{rates[0]:.6f} {rates[1]:.6f} {rates[2]:.4f} {overall:.6f}"
            yield f"GCs{letter}C {i} {span} {_words(right)} {_words(wrong)} {percent}"


def _r2_by_group(tally: Tally) -> Iterator[str]:
    cells = tally.cells.sum(axis=(0, -1)).transpose(1, 2, 0)
    r2, n = _r2(cells), cells[:, 0].sum(axis=0)
    maf = tally.maf_sums.sum(axis=0) / np.maximum(n, 1)
    for bin_number, group in enumerate(range(1, len(tally.edges))):
        yield f"{bin_number} {int(n[group])} {maf[group]:.6g} {r2[0][group]:.6g} {r2[1][group]:.6g}"


def _r2_by_sample(tally: Tally, samples: tuple[str, ...]) -> Iterator[str]:
    r2 = _r2(_inside(tally).sum(axis=(0, 1)))
    for i, name in enumerate(samples):
        yield f"{name} {r2[0][i]:.6g} {r2[1][i]:.6g}"


def _inside(tally: Tally) -> np.ndarray:
    """The cells of named bins: what is monomorphic in the panel, or above the last edge, does not count there."""
    return tally.cells[:, 1 : len(tally.edges)]


def _r2(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared correlation with the truth of calls and of dosages, 0 where undefined. cells: (2, SUMS, ...)."""
    calls = calls_by_truth(cells).astype(np.float64)
    truth, called = np.arange(3)[:, None], np.arange(3)[None, :]
    n, y, x, yy, xx, xy = (
        np.einsum("tc...,tc->...", calls, np.broadcast_to(weight, (3, 3)).astype(np.float64))
        for weight in (np.ones((3, 3)), truth, called, truth**2, called**2, truth * called)
    )
    by_call = squared_correlation(n, x, y, xx, yy, xy)
    by_dosage = squared_correlation(*moments_of_minor(cells))
    return np.nan_to_num(by_call), np.nan_to_num(by_dosage)


def _split(calls: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """By true genotype: how many, right, wrong, and the share that is wrong. calls: (3 truth, 3 call)."""
    counts, right = calls.sum(axis=1), calls.diagonal()
    wrong = counts - right
    return counts, right, wrong, wrong / np.maximum(counts, 1)


def _words(values: np.ndarray) -> str:
    return " ".join(str(int(v)) for v in values)


def _fixed(r2: tuple[np.ndarray, np.ndarray], i: int) -> str:
    return f"{r2[0][i]:.6f} {r2[1][i]:.6f}"
