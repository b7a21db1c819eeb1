"""The kernels that read the genotypes of target files: as those of ``parse``, but calls may be missing or unphased."""

from __future__ import annotations

import numpy as np
from numba import njit

from npimpute.types import ABSENT
from npimpute.vcf.parse import (
    ALTS,
    END,
    FORMAT,
    GENOTYPES,
    MALFORMED,
    NO_GT,
    OK,
    PLOIDY,
    RANGE,
    TOO_FEW,
    TOO_MANY,
    UNPHASED,
    find,
    genotype,
    starts_with_gt,
)  # fmt: skip

MOST_ALT = 126  # what int8 target alleles can tell apart

_TAB = 9


@njit(cache=True, nogil=True)
def _target_fault(first, second, ploidy, unphased, n_alleles):
    """What makes one target genotype unfit. Of a called heterozygote the phase must be known, of others not."""
    if ploidy > 2:
        return PLOIDY
    if first >= n_alleles or second >= n_alleles:
        return RANGE
    return UNPHASED if unphased and first >= 0 and second >= 0 and first != second else OK


@njit(cache=True, nogil=True)
def target_lines(buf, cols, lines, n_alt, out, unphased):
    """Read the genotypes of ``lines`` of a target file to ``out`` ((lines, 2 samples) int8), -1 where missing, the
    second ABSENT in a haploid call that is not missing.

    unphased: (lines, samples) bool, set for heterozygotes without phase; of no samples where these are refused. The
    other arguments and what is returned are as of ``parse.pack_lines``.
    """
    n_samples = out.shape[1] // 2
    for done in range(len(lines)):
        line = lines[done]
        at, end, n_alleles = cols[line, GENOTYPES], cols[line, END], n_alt[line] + 1
        if not starts_with_gt(buf, cols[line, FORMAT]):
            return done, NO_GT, 0, at
        if n_alt[line] > MOST_ALT:
            return done, ALTS, 0, at
        for i in range(n_samples):
            if at > end:
                return done, TOO_FEW, i, end
            fault, first, second, ploidy = genotype(buf, at, end, n_alleles)
            if fault != MALFORMED:
                fault = _target_fault(first, second, ploidy, fault == UNPHASED, n_alleles)
            if fault == UNPHASED and unphased.shape[1]:
                unphased[done, i] = True
            elif fault != OK:
                return done, fault, i, at
            out[done, 2 * i] = first
            out[done, 2 * i + 1] = ABSENT if ploidy == 1 and first >= 0 else second
            at = find(buf, at, end, _TAB) + 1
        if at <= end:
            return done, TOO_MANY, n_samples, at
    return len(lines), OK, 0, 0


@njit(cache=True, nogil=True)
def target_codes(codes, n_alleles, out, unphased):
    """Copy one target record's allele codes to ``out`` ((2 samples,) int8), as of ``target_lines``.

    unphased: (samples,) bool, as a row of that of ``target_lines``. codes: as in ``parse.pack_codes``. Returns (fault,
    sample).
    """
    ploidy = codes.shape[1] - 1
    for i in range(codes.shape[0]):
        length = 0
        for h in range(ploidy):
            length += codes[i, h] != -2
        first = np.int64(codes[i, 0])
        second = np.int64(codes[i, 1]) if length > 1 else np.int64(-1)
        fault = _target_fault(first, second, length, codes[i, ploidy] == 0, n_alleles)
        if fault == UNPHASED and len(unphased):
            unphased[i] = True
        elif fault != OK:
            return fault, i
        out[2 * i] = first
        out[2 * i + 1] = ABSENT if length == 1 and first >= 0 else second
    return OK, 0
