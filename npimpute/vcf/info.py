"""The columns of a record that all samples share, as text and as BCF: CHROM to INFO, of Dosages.

Values are rounded once, to what is printed; BCF stores the float32 nearest to it.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import pairwise
from math import isnan

import numpy as np

from npimpute.types import Dosages
from npimpute.vcf import encode

INFO_LINES = {
    "AF": ("A", "Float", "Estimated ALT allele frequency in the target samples: mean ALT probability"),
    "DR2": ("A", "Float", "Dosage R-squared: estimated squared correlation of ALT probability and true allele"),
    "R2": ("A", "Float", "Same value as DR2"),
    "INFO": ("A", "Float", "IMPUTE info score; equal to DR2, as haplotypes are imputed independently"),
    "ER2": ("A", "Float", "Empirical R-squared at typed sites: leave-one-out ALT probability against the allele"),
    "EXPR2": (
        "A",
        "Float",
        "Expected squared correlation of ALT probability and true allele if the allele varies among the haplotypes; at "
        "typed sites of the leave-one-out probability, to compare with ER2",
    ),
    "NH": ("1", "Integer", "Number of haplotypes in SP, SPQ, SPPQ and SPPPQ"),
    "SP": ("A", "Float", "Sum of ALT probabilities p over haplotypes; adds up over batches of samples"),
    "SPQ": (
        "A",
        "Float",
        "Sum of p(1-p) over haplotypes; adds up over batches of samples, and DR2 = 1 - SPQ / (SP (1 - SP / NH))",
    ),
    "SPPQ": ("A", "Float", "Sum of p^2(1-p) over haplotypes; adds up over batches of samples"),
    "SPPPQ": ("A", "Float", "Sum of p^3(1-p) over haplotypes; adds up over batches of samples"),
    "TYPED": ("0", "Flag", "Site was genotyped in the target"),
    "IMP": ("0", "Flag", "Genotypes at this site were imputed"),
}

SUMS = ("SP", "SPQ", "SPPQ", "SPPPQ")
"""What adds up over batches of samples, with NH."""

# How INFO values are printed; None: six significant digits.
_DECIMALS = {"AF": 6, "DR2": 4, "R2": 4, "INFO": 4, "ER2": 4, "EXPR2": 4}
_DECIMALS |= {"SP": None, "SPQ": None, "SPPQ": None, "SPPPQ": None}

# BCF: CHROM, POS, length of REF, QUAL, counts of alleles and INFO keys, counts of fields and samples.
_SITE = struct.Struct("<iiiIII")
NUMBER = {key: number for number, key in enumerate(["PASS", *INFO_LINES])}
_INT8, _INT32, _FLOAT, _CHAR = 1, 3, 5, 7
_PASS = bytes([1 << 4 | _INT8, 0])
_FLAG_BYTES = {key: bytes([1 << 4 | _INT8, NUMBER[key], 0]) for key in ("TYPED", "IMP")}


def rounded_info(dosages: Dosages) -> dict[str, np.ndarray]:
    """Row values of the Float keys, float64, rounded to the decimals that are printed. DR2, R2 and INFO are one array;
    sums are as they are."""
    values = {"AF": dosages.af, "DR2": dosages.dr2, "ER2": dosages.er2, "EXPR2": dosages.expected_r2}
    af, dr2, *others = (_rounded(key, of_key) for key, of_key in values.items())
    sums = (dosages.sum_p, dosages.sum_pq, dosages.sum_ppq, dosages.sum_pppq)
    keys = ("AF", "DR2", "R2", "INFO", "ER2", "EXPR2", *SUMS)
    return dict(zip(keys, (af, dr2, dr2, dr2, *others, *sums), strict=True))


def _rounded(key: str, values: np.ndarray) -> np.ndarray:
    # Adding 0 turns -0 into 0.
    return np.round(values.astype(np.float64), _DECIMALS[key]) + 0.0


def info_words(key: str, values: np.ndarray) -> list[str]:
    """The text of row values of a Float key of INFO."""
    return _words(_rounded(key, values) if _DECIMALS[key] else values, _DECIMALS[key])


def _words(values: np.ndarray, decimals: int | None) -> list[str]:
    """Values as text without trailing zeros; decimals None: six significant digits."""
    if decimals is None:
        return [f"{x:.6g}" for x in values.tolist()]
    return ["." if isnan(x) else f"{x:.{decimals}f}".rstrip("0").rstrip(".") for x in values.tolist()]


def _known(part: Dosages, rows: np.ndarray) -> list[tuple[bool, bool]]:
    """By site, whether ER2 and EXPR2 of one of its ALT alleles are known, ER2 at a typed site."""

    def known(values: np.ndarray) -> np.ndarray:
        before = np.concatenate([[0], np.cumsum(~np.isnan(values))])
        return before[rows[1:]] > before[rows[:-1]]

    return list(zip((part.typed & known(part.er2)).tolist(), known(part.expected_r2).tolist(), strict=True))


def text_leads(part: Dosages, rows: np.ndarray, info: dict[str, np.ndarray], formats: str) -> list[bytes]:
    """The fixed columns of each line, up to FORMAT."""
    columns, made = [], {}
    for key, values in info.items():
        if id(values) not in made:
            words = _words(values, _DECIMALS[key])
            if len(words) != len(part.sites) or part.sites.alt.count("."):
                words = [",".join(words[a:b]) for a, b in pairwise(rows.tolist())]
            made[id(values)] = words
        columns.append(made[id(values)])
    sites, n_hap, known = part.sites, part.n_hap.tolist(), _known(part, rows)
    flags = [";TYPED" * bool(t) + ";IMP" * bool(i) for t, i in zip(part.typed, part.imputed, strict=True)]
    leads = []
    head, tail = f"{sites.contig}\t", f"\t{formats}" if formats else ""
    fixed = zip(
        sites.pos.tolist(), sites.ids, sites.ref, sites.alt, flags, rows.tolist(), known, *columns, strict=False
    )
    for pos, name, ref, alt, flag, row, (has_er2, has_expr2), af, dr2, r2, score, er2, expr2, *sums in fixed:
        if alt == ".":
            text = flag[1:] or "."
        else:
            some = (f";ER2={er2}" if has_er2 else "") + (f";EXPR2={expr2}" if has_expr2 else "")
            added = ";".join(f"{key}={value}" for key, value in zip(SUMS, sums, strict=True))
            text = f"AF={af};DR2={dr2};R2={r2};INFO={score}{some};NH={n_hap[row]};{added}{flag}"
        leads.append(f"{head}{pos}\t{name}\t{ref}\t{alt}\t.\tPASS\t{text}{tail}".encode())
    return leads


def bcf_leads(part: Dosages, rows: np.ndarray, info: dict[str, np.ndarray], contig: int, size: int) -> list[bytes]:
    """The part of each BCF record that all samples share, from CHROM to INFO. size: of fields and of samples."""
    floats = {key: _float_bytes(values if _DECIMALS[key] else _six_digits(values)) for key, values in info.items()}
    n_hap = part.n_hap.astype("<i4").tobytes()
    typed, imputed = _FLAG_BYTES["TYPED"], _FLAG_BYTES["IMP"]
    flags = [typed * bool(t) + imputed * bool(i) for t, i in zip(part.typed, part.imputed, strict=True)]
    sites = part.sites
    fixed = zip(sites.pos.tolist(), sites.ids, sites.ref, sites.alt, flags, pairwise(rows.tolist()), strict=True)
    leads = []
    for known, (pos, name, ref, alt, flag, (a, b)) in zip(_known(part, rows), fixed, strict=True):
        keys = _info_heads(b - a, *known)
        counts = (b - a + 1) << 16 | len(keys) + len(flag) // len(typed)
        site = _SITE.pack(contig, pos - 1, len(ref), encode.BCF_MISSING_FLOAT, counts, size)
        parts = [site, _typed_text("" if name == "." else name), _typed_text(ref)]
        parts.extend(_typed_text(allele) for allele in alt.split(",") if alt != ".")
        parts.append(_PASS)
        for key, head in keys.items():
            values = n_hap[4 * a : 4 * a + 4] if key == "NH" else floats[key][4 * a : 4 * b]
            parts += (head, values)
        parts.append(flag)
        leads.append(b"".join(parts))
    return leads


def _typed_size(size: int, kind: int) -> bytes:
    """BCF type descriptor of a vector; sizes of 15 and more follow as an int32 of their own."""
    if size < 15:
        return bytes([size << 4 | kind])
    return bytes([15 << 4 | kind, 1 << 4 | _INT32]) + struct.pack("<i", size)


@lru_cache(4096)
def _typed_text(text: str) -> bytes:
    data = text.encode()
    return _typed_size(len(data), _CHAR) + data


@lru_cache(4096)
def _info_heads(n_alt: int, er2: bool, expected_r2: bool) -> dict[str, bytes]:
    """What precedes the values of each INFO key but the flags, in order; a site without ALT has none."""
    heads, unknown = {}, {"ER2": not er2, "EXPR2": not expected_r2}
    for key in INFO_LINES:
        if n_alt and key not in _FLAG_BYTES and not unknown.get(key):
            kind = _typed_size(1, _INT32) if key == "NH" else _typed_size(n_alt, _FLOAT)
            heads[key] = bytes([1 << 4 | _INT8, NUMBER[key]]) + kind
    return heads


def _six_digits(values: np.ndarray) -> np.ndarray:
    """What htslib prints of a float, so that its rendering of the BCF equals the VCF's."""
    return np.array([float(f"{x:.6g}") for x in values.tolist()])


def _float_bytes(values: np.ndarray) -> bytes:
    """Little-endian float32, with BCF's pattern for the missing ones."""
    single = values.astype("<f4")
    single.view("<u4")[np.isnan(values)] = encode.BCF_MISSING_FLOAT
    return single.tobytes()
