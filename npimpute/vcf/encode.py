"""Kernels that render the per-sample columns of VCF text and of BCF.

Both formats are rendered from the same integer codes, thousandths of a probability or dosage, so that they
cannot disagree. Axes as in `npimpute.types`; ``first`` (samples+1,) int64 is of `types.first_haplotypes`. Fields have
room for two haplotypes a sample; of a haploid one what is left over is ABSENT. All buffers are uint8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

GT, DS, HDS, GP, AP1, AP2 = range(6)

# Codes are 0..2000 (a dosage of 2); the entry after them is the missing value, then that of a value that is not there.
MISSING, ABSENT = 2001, 2002
TEXT_WIDTH = 5
BCF_MISSING_FLOAT, BCF_END_FLOAT = 0x7F800001, 0x7F800002

_TAB, _NEWLINE, _COLON, _COMMA, _BAR, _DOT, _ZERO = (ord(c) for c in "\t\n:,|.0")
_INT8, _INT16, _INT32, _FLOAT = 1, 2, 3, 5


def text_table() -> np.ndarray:
    """(2002,) uint64: text of every code, "0.5" for 500, first character lowest, and its length in the top byte."""
    words = [f"{code / 1000:.3f}".rstrip("0").rstrip(".") for code in range(MISSING)] + ["."]
    data = b"".join(word.ljust(7, "\0").encode() + bytes([len(word)]) for word in words)
    return np.frombuffer(bytearray(data), "<u8")


def plain_text(fields: np.ndarray) -> np.ndarray:
    """(b,) uint8: what is written, after a tab, of two certain REF alleles at a site with one ALT allele; most
    genotypes are that."""
    text = {GT: "0|0", DS: "0", HDS: "0,0", GP: "1,0,0", AP1: "0", AP2: "0"}
    return np.frombuffer(bytearray("\t" + ":".join(text[field] for field in fields.tolist()), "ascii"), np.uint8)


def float_table() -> np.ndarray:
    """(2003, 4) uint8: the little-endian float32 of every code."""
    values = (np.arange(ABSENT + 1) / 1000).astype("<f4")
    values.view("<u4")[MISSING:] = BCF_MISSING_FLOAT, BCF_END_FLOAT
    return values.view(np.uint8).reshape(-1, 4)


@njit(cache=True, nogil=True)
def width(field, n_alt):
    """How many values a field has per sample (GT: alleles). A site without ALT still has one, missing."""
    if field == GT:
        return 2
    if field == GP:
        return (n_alt + 1) * (n_alt + 2) // 2
    if field == HDS:
        return max(1, 2 * n_alt)
    return max(1, n_alt)


@njit(cache=True, nogil=True)
def _code(x):
    """Thousandths of x, halves rounded up. A float32 times 1000 is exact in float64, so halves are real halves."""
    if np.isnan(x):
        return MISSING
    return min(max(int(np.floor(x * 1000.0 + 0.5)), 0), MISSING - 1)


@njit(cache=True, nogil=True)
def _best_allele(p, row, n_alt, j):
    """The most probable allele of haplotype j; -1 missing. Ties go to ALT, and to the first of several."""
    best, best_p, ref_p = 0, -1.0, 1.0
    for a in range(n_alt):
        x = np.float64(p[row + a, j])
        if np.isnan(x):
            return -1
        ref_p -= x
        if x > best_p:
            best, best_p = a + 1, x
    return 0 if ref_p > best_p else best


@njit(cache=True, nogil=True)
def _genotype_codes(p, row, n_alt, start, ploidy, both, codes, at):
    """Codes of GP of a sample whose haplotypes begin at ``start``, in VCF's order (0/0 0/1 1/1 0/2 ...; 0 1 2 ... of a
    haploid one). both: (2, n_alt + 1 or more) scratch."""
    missing = False
    for h in range(ploidy):
        ref_p = 1.0
        for a in range(n_alt):
            both[h, a + 1] = p[row + a, start + h]
            ref_p -= both[h, a + 1]
        missing = missing or np.isnan(ref_p)
        # Rounding may leave the ALT alleles slightly more than 1.
        both[h, 0] = max(ref_p, 0.0)
    if ploidy == 1:
        for a in range((n_alt + 1) * (n_alt + 2) // 2):
            codes[at + a] = ABSENT if a > n_alt else MISSING if missing else _code(both[0, a])
        return
    for b in range(n_alt + 1):
        for a in range(b + 1):
            x = both[0, a] * both[1, b]
            if a != b:
                x += both[0, b] * both[1, a]
            codes[at] = MISSING if missing else _code(x)
            at += 1


@njit(cache=True, nogil=True)
def _fill(p, row, n_alt, field, first, both, codes, at):
    """Put one field's codes of all samples, sample after sample, into codes[at:]."""
    size = width(field, n_alt)
    for i in range(len(first) - 1):
        base, start, ploidy = at + i * size, first[i], first[i + 1] - first[i]
        if field == GT:
            codes[base] = _best_allele(p, row, n_alt, start)
            codes[base + 1] = _best_allele(p, row, n_alt, start + 1) if ploidy == 2 else ABSENT
        elif field == GP:
            _genotype_codes(p, row, n_alt, start, ploidy, both, codes, base)
        elif n_alt == 0:
            codes[base] = MISSING
        elif field == DS:
            for a in range(n_alt):
                dosage = np.float64(p[row + a, start])
                codes[base + a] = _code(dosage + np.float64(p[row + a, start + 1]) if ploidy == 2 else dosage)
        else:
            for v in range(size):
                h = 1 if field == AP2 else v // n_alt
                if h < ploidy:
                    codes[base + v] = _code(np.float64(p[row + v % n_alt, start + h]))
                else:
                    codes[base + v] = MISSING if field == AP2 else ABSENT


@njit(cache=True, nogil=True)
def _put_word(out, at, mark, word):
    """Store a separator and TEXT_WIDTH characters of a uint64, of which the surplus is overwritten by what follows.

    The unsigned index lets the compiler join the bytes into one or two stores.
    """
    word = word << np.uint64(8) | np.uint64(mark)
    start = np.uint64(at)
    for c in range(start, start + np.uint64(TEXT_WIDTH + 1)):
        out[c] = word & np.uint64(255)
        word >>= np.uint64(8)


@njit(cache=True, nogil=True)
def _put_digits(out, at, allele):
    scale = 1
    while allele // scale >= 10:
        scale *= 10
    while scale > 0:
        out[at] = _ZERO + allele // scale % 10
        scale //= 10
        at += 1
    return at


@njit(cache=True, nogil=True)
def _put_genotype(out, at, mark, first, second):
    """A separator and "a|b", or "a" where the second is ABSENT."""
    if second == ABSENT:
        out[at] = mark
        if first >= 0:
            return _put_digits(out, at + 1, first)
        out[at + 1] = _DOT
        return at + 2
    if max(first, second) < 10:
        a = np.uint64(_DOT if first < 0 else _ZERO + first)
        b = np.uint64(_DOT if second < 0 else _ZERO + second)
        _put_word(out, at, mark, a | np.uint64(_BAR << 8) | b << np.uint64(16))
        return at + 4
    out[at] = mark
    for h, allele in enumerate((first, second)):
        if h > 0:
            out[at] = _BAR
        if allele < 0:
            out[at + 1] = _DOT
            at += 2
        else:
            at = _put_digits(out, at + 1, allele)
    return at


@njit(cache=True, nogil=True)
def _put_samples(out, at, codes, offset, fields, sizes, n_samples, words):
    """The columns of all samples of one record: fields colon-joined, their values comma-joined."""
    for i in range(n_samples):
        mark = _TAB
        for f in range(len(fields)):
            base = offset[f] + i * sizes[f]
            if fields[f] == GT:
                at = _put_genotype(out, at, mark, codes[base], codes[base + 1])
                mark = _COLON
                continue
            for v in range(base, base + sizes[f]):
                if codes[v] == ABSENT:
                    break
                word = words[codes[v]]
                _put_word(out, at, mark, word)
                at += 1 + np.int64(word >> np.uint64(56))
                mark = _COMMA
            mark = _COLON
    return at


@njit(cache=True, nogil=True)
def _layout(n_alt, n_samples, fields, sizes, offset):
    """Values per sample of each field, and where each field's codes start."""
    at = 0
    for f in range(len(fields)):
        sizes[f] = width(fields[f], n_alt)
        offset[f] = at
        at += sizes[f] * n_samples


@njit(cache=True, nogil=True)
def _carries(p, row, first, i):
    """Whether sample i, of a site with one ALT allele, is written as anything but two certain REF alleles: then both
    probabilities add up to less than half of a thousandth, so that every value of any field rounds to that."""
    start = first[i]
    return first[i + 1] != start + 2 or not np.float64(p[row, start]) + np.float64(p[row, start + 1]) < 0.0005


@njit(cache=True, nogil=True)
def text_records(p, first, n_alt, fields, lead, lead_end, words, plain, codes, out):
    """Render whole VCF lines and return the number of bytes.

    p: (r, n) float32. first: see above. n_alt: (s,) int64. fields: int64 field numbers in order. lead: the fixed
    columns of the s lines, one after the other without the tab that follows; lead_end: (s,) int64 where each ends.
    codes: int16 scratch for the largest record. words: `text_table`. plain: `plain_text`. out: room for all leads and
    `record_bounds`.
    """
    n_samples = len(first) - 1
    sizes, offset = np.empty(len(fields), np.int64), np.empty(len(fields), np.int64)
    both = np.empty((2, n_alt.max() + 1))
    at, row, begin = np.int64(0), np.int64(0), np.int64(0)
    for s in range(len(n_alt)):
        for b in range(begin, lead_end[s]):
            out[at] = lead[b]
            at += 1
        begin = lead_end[s]
        i = 0
        while i < n_samples:
            if n_alt[s] == 1 and not _carries(p, row, first, i):
                for b in range(len(plain)):
                    out[at + b] = plain[b]
                at += len(plain)
                i += 1
                continue
            end = i + 1
            while end < n_samples and (n_alt[s] != 1 or _carries(p, row, first, end)):
                end += 1
            _layout(n_alt[s], end - i, fields, sizes, offset)
            for f in range(len(fields)):
                _fill(p, row, n_alt[s], fields[f], first[i : end + 1], both, codes, offset[f])
            at = _put_samples(out, at, codes, offset, fields, sizes, end - i, words)
            i = end
        out[at] = _NEWLINE
        at += 1
        row += n_alt[s]
    return at


@njit(cache=True, nogil=True)
def _put_int(out, at, value, n_bytes):
    for b in range(n_bytes):
        out[at + b] = (value >> (8 * b)) & 255
    return at + n_bytes


@njit(cache=True, nogil=True)
def _put_type(out, at, kind, size):
    """BCF type descriptor of a vector: sizes of 15 and more follow as an int32 of their own."""
    if size < 15:
        out[at] = size << 4 | kind
        return at + 1
    out[at] = 15 << 4 | kind
    out[at + 1] = 1 << 4 | _INT32
    return _put_int(out, at + 2, size, 4)


@njit(cache=True, nogil=True)
def _put_genotypes(out, at, codes, base, n_samples, n_alt):
    """GT column: (allele + 1) << 1, the second one with the phased bit; int8 while the codes fit in one. In place of a
    second one that is not there BCF has the least value but one."""
    n_bytes = 1 if n_alt < 63 else 2
    at = _put_type(out, at, _INT8 if n_bytes == 1 else _INT16, 2)
    for i in range(n_samples):
        at = _put_int(out, at, (codes[base + 2 * i] + 1) << 1, n_bytes)
        second = codes[base + 2 * i + 1]
        value = (1 << (8 * n_bytes - 1)) + 1 if second == ABSENT else (second + 1) << 1 | 1
        at = _put_int(out, at, value, n_bytes)
    return at


@njit(cache=True, nogil=True)
def _put_floats(out, at, codes, base, size, n_samples, floats):
    at = _put_type(out, at, _FLOAT, size)
    for v in range(size * n_samples):
        code = codes[base + v]
        for b in range(4):
            out[at + b] = floats[code, b]
        at += 4
    return at


@njit(cache=True, nogil=True)
def bcf_records(p, first, n_alt, fields, keys, lead, lead_end, floats, codes, out):
    """Render whole BCF records and return the number of bytes.

    As `text_records`; lead holds the records' shared parts (without the two lengths before them), keys (int64)
    the dictionary number of each field, below 128. out: room for all leads and `record_bounds`.
    """
    n_samples = len(first) - 1
    sizes, offset = np.empty(len(fields), np.int64), np.empty(len(fields), np.int64)
    both = np.empty((2, n_alt.max() + 1))
    at, row, begin = np.int64(0), np.int64(0), np.int64(0)
    for s in range(len(n_alt)):
        start = at
        at = _put_int(out, at, lead_end[s] - begin, 4) + 4
        for b in range(begin, lead_end[s]):
            out[at] = lead[b]
            at += 1
        samples_start = at
        _layout(n_alt[s], n_samples, fields, sizes, offset)
        for f in range(len(fields)):
            _fill(p, row, n_alt[s], fields[f], first, both, codes, offset[f])
            out[at] = 1 << 4 | _INT8
            out[at + 1] = keys[f]
            if fields[f] == GT:
                at = _put_genotypes(out, at + 2, codes, offset[f], n_samples, n_alt[s])
            else:
                at = _put_floats(out, at + 2, codes, offset[f], sizes[f], n_samples, floats)
        _put_int(out, start + 4, at - samples_start, 4)
        begin = lead_end[s]
        row += n_alt[s]
    return at


def sample_values(fields: np.ndarray, n_alt: np.ndarray) -> np.ndarray:
    """(s,) int64: how many values one sample has at each site, over all fields."""
    one = {GT: 2, GP: (n_alt + 1) * (n_alt + 2) // 2, HDS: np.maximum(1, 2 * n_alt)}
    return sum((one.get(int(f), np.maximum(1, n_alt)) for f in fields), np.zeros(len(n_alt), np.int64))


def record_bounds(fields: np.ndarray, n_alt: np.ndarray, n_samples: int) -> np.ndarray:
    """(s,) int64: no record needs more bytes than this beyond its lead, as text or as BCF.

    A value takes at most TEXT_WIDTH characters (alleles fewer, below 100,000 ALT alleles) and a separator,
    in BCF 4 bytes; 16 per field cover BCF's descriptors and the line end.
    """
    return sample_values(fields, n_alt) * n_samples * (TEXT_WIDTH + 1) + 16 * (len(fields) + 1)
