"""The kernels of VCF reading: text or allele codes in, one bit per haplotype out.

Every kernel releases the GIL and keeps no state, so that several threads can work on different slabs.
A slab is a uint8 array; all offsets are into it. Genotype kernels return (item, fault, sample): the number of
items done and a FAULT code, OK when all were; on a fault ``item`` is the item and ``sample`` the file's sample.
CHANGED is no fault: haploid are others than in the item before, and the stretch of equal ploidy ends there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

OK, MISSING, PLOIDY, UNPHASED, RANGE, MALFORMED, TOO_FEW, TOO_MANY, NO_GT, FIXED, POSITION, ALTS, CHANGED = range(13)

# Columns of the line index: where each of the nine fixed fields starts, where the genotypes do, where the line ends.
# A field ends one byte (its tab) before the next one starts.
POS, ID, REF, ALT, FORMAT, GENOTYPES, END = 1, 2, 3, 4, 8, 9, 10
INDEX_WIDTH = 11

_TAB, _NEWLINE, _RETURN, _HASH, _BAR, _SLASH = 9, 10, 13, 35, 124, 47
_ZERO, _COMMA, _DOT, _COLON = 48, 44, 46, 58

# Two samples "a|b<tab>c|d<tab>" as one little-endian word: all that is fixed when a..d are 0 or 1.
_FIXED_BITS = np.uint64(0xFFFEFFFEFFFEFFFE)
_TEMPLATE = np.uint64(0x09307C3009307C30)
_ALLELE_BITS = np.uint64(0x0001000100010001)


@njit(cache=True, nogil=True)
def find(buf, start, stop, byte):
    """Offset of the first ``byte`` in buf[start:stop], or stop; 64 bytes a step, which the compiler vectorises."""
    at = start
    while at + 64 <= stop:
        block = buf[at : at + 64]
        hits = np.uint8(0)
        for j in range(64):
            hits |= np.uint8(block[j] == byte)
        if hits:
            break
        at += 64
    while at < stop and buf[at] != byte:
        at += 1
    return at


@njit(cache=True, nogil=True)
def last_newline(buf, start, stop):
    """Offset of the last newline in buf[start:stop], or -1."""
    for at in range(stop - 1, start - 1, -1):
        if buf[at] == _NEWLINE:
            return at
    return -1


@njit(cache=True, nogil=True)
def _same_text(buf, a, b, length):
    for j in range(length):
        if buf[a + j] != buf[b + j]:
            return False
    return True


@njit(cache=True, nogil=True)
def _index_fixed(buf, at, end, cols):
    """Fill one row of the line index; False when the line has fewer than ten fields or an empty one."""
    cols[0] = at
    for c in range(1, 10):
        start = cols[c - 1]
        tab = start
        while tab < end and buf[tab] != _TAB:
            tab += 1
        if tab == end or tab == start:
            return False
        cols[c] = tab + 1
    cols[END] = end
    return True


@njit(cache=True, nogil=True)
def _position(buf, start, stop):
    """The decimal number in buf[start:stop], or -1."""
    if stop - start > 15:
        return -1
    value = 0
    for at in range(start, stop):
        digit = np.int64(buf[at]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@njit(cache=True, nogil=True)
def _count_alt(buf, start, stop):
    if stop - start == 1 and buf[start] == _DOT:
        return 0
    count = 1
    for at in range(start, stop):
        count += buf[at] == _COMMA
    return count


@njit(cache=True, nogil=True)
def index_lines(buf, start, stop, cols, pos, n_alt, new_contig):
    """Find the lines of buf[start:stop] (it ends in a newline) and parse their fixed fields.

    cols: (capacity, INDEX_WIDTH) int64; pos, n_alt: (capacity,) int64; new_contig: (capacity,) bool, the line's
    CHROM differs from the line before (always set for the first). Empty lines and header lines are passed over.
    Returns (lines, fault, at): the lines indexed before the fault, which is in the line that starts at ``at``.
    """
    n = 0
    at = start
    while at < stop:
        newline = find(buf, at, stop, _NEWLINE)
        end = newline - 1 if newline > at and buf[newline - 1] == _RETURN else newline
        if end == at or buf[at] == _HASH:
            at = newline + 1
            continue
        if n == len(cols):  # more lines than could hold the genotypes of all samples
            return n, TOO_FEW, at
        row = cols[n]
        if not _index_fixed(buf, at, end, row):
            return n, FIXED, at
        pos[n] = _position(buf, row[POS], row[ID] - 1)
        if pos[n] < 0:
            return n, POSITION, at
        n_alt[n] = _count_alt(buf, row[ALT], row[ALT + 1] - 1)
        length = row[POS] - at  # with its tab, so that a longer name never equals a shorter one
        new_contig[n] = n == 0 or not _same_text(buf, cols[n - 1, 0], at, length)
        n += 1
        at = newline + 1
    return n, OK, at


@njit(cache=True, nogil=True)
def join_field(buf, cols, lines, field, out):
    """Write the field of each of ``lines``, parted by newlines, to ``out``; with an empty ``out`` only measure.

    Returns the number of bytes.
    """
    size = 0
    for line in lines:
        start, stop = cols[line, field], cols[line, field + 1] - 1
        if len(out):
            for j in range(stop - start):
                out[size + j] = buf[start + j]
            out[size + stop - start] = _NEWLINE
        size += stop - start + 1
    return size


@njit(cache=True, nogil=True)
def _set(rows, allele, haplotype):
    """Mark that ``haplotype`` carries ``allele``, which is one of the rows' unless it is REF."""
    if allele > 0:
        rows[allele - 1, haplotype >> 3] |= np.uint8(1 << (haplotype & 7))


@njit(cache=True, nogil=True)
def _pack_plain(buf, at, n_samples, row):
    """Pack one biallelic line of the form ``d|d<tab>d|d...`` with d in 0, 1; False when it is not of that form.

    ``row`` (at least ceil(2 n_samples / 8) uint8) is overwritten.
    """
    quads = (n_samples - 1) // 4  # the last sample has no tab after it, so it is never part of a whole quad
    words = buf[at : at + 16 * quads].view(np.uint64)
    wrong = np.uint64(0)
    for q in range(quads):
        a, b = words[2 * q], words[2 * q + 1]
        wrong |= ((a & _FIXED_BITS) ^ _TEMPLATE) | ((b & _FIXED_BITS) ^ _TEMPLATE)
        # Alleles sit at bits 0, 16, 32 and 48 of a word: fold them to bits 0..3.
        a &= _ALLELE_BITS
        b &= _ALLELE_BITS
        a |= a >> np.uint64(15)
        b |= b >> np.uint64(15)
        a = (a | (a >> np.uint64(30))) & np.uint64(15)
        b = (b | (b >> np.uint64(30))) & np.uint64(15)
        row[q] = np.uint8(a | (b << np.uint64(4)))
    if wrong:
        return False
    row[quads:] = 0
    for i in range(4 * quads, n_samples):
        p = at + 4 * i
        first, second = np.int64(buf[p]) - _ZERO, np.int64(buf[p + 2]) - _ZERO
        tabbed = i == n_samples - 1 or buf[p + 3] == _TAB
        if (first | 1) != 1 or (second | 1) != 1 or buf[p + 1] != _BAR or not tabbed:
            return False
        row[i >> 2] |= np.uint8((first | (second << 1)) << (2 * (i & 3)))
    return True


@njit(cache=True, nogil=True)
def _select(row, chosen, out):
    """Copy the two bits of each of the ``chosen`` samples of ``row``, in that order, to ``out``."""
    out[:] = 0
    for i in range(len(chosen)):
        sample = chosen[i]
        pair = (row[sample >> 2] >> np.uint8(2 * (sample & 3))) & np.uint8(3)
        out[i >> 2] |= np.uint8(pair << np.uint8(2 * (i & 3)))


@njit(cache=True, nogil=True)
def genotype(buf, at, end, n_alleles):
    """Parse one genotype at ``at`` of a line that ends at ``end``.

    Returns (fault, first allele, second allele, ploidy); an allele that is missing or not there is -1.
    """
    first, second = np.int64(-1), np.int64(-1)
    allele, digits, ploidy = np.int64(0), 0, 1
    missing, unphased, outside = False, False, False
    while True:
        byte = np.int64(buf[at]) if at < end else _TAB
        if _ZERO <= byte <= _ZERO + 9:
            allele = min(allele * 10 + byte - _ZERO, 1 << 30)
            digits += 1
        elif byte == _DOT and digits == 0 and (at + 1 == end or buf[at + 1] in (_TAB, _COLON, _BAR, _SLASH)):
            missing = True
            allele, digits = np.int64(-1), 1
        elif digits == 0 or byte not in (_TAB, _COLON, _BAR, _SLASH):
            return MALFORMED, first, second, ploidy
        else:
            outside |= allele >= n_alleles
            if ploidy == 1:
                first = allele
            elif ploidy == 2:
                second = allele
            if byte == _TAB or byte == _COLON:
                break
            unphased |= byte == _SLASH
            allele, digits = np.int64(0), 0
            ploidy += 1
        at += 1
    if missing:
        return MISSING, first, second, ploidy
    if ploidy > 2:
        return PLOIDY, first, second, ploidy
    if unphased:
        return UNPHASED, first, second, ploidy
    return RANGE if outside else OK, first, second, ploidy


@njit(cache=True, nogil=True)
def _is_new(ploidy, slot, found):
    """Whether a sample has another ploidy than so far; notes it where none is known (0)."""
    if ploidy[slot] == 0:
        ploidy[slot] = found
    return ploidy[slot] != found


@njit(cache=True, nogil=True)
def _pack_any(buf, at, end, n_alleles, slots, ploidy, rows):
    """Pack one line of any form into its ``rows``; returns (fault, sample, where its genotype starts)."""
    rows[:] = 0
    n_samples = len(slots)
    changed = False
    for i in range(n_samples):
        if at > end:
            return TOO_FEW, i, end
        slot = slots[i]
        if slot >= 0:
            fault, first, second, found = genotype(buf, at, end, n_alleles)
            if fault != OK:
                return fault, i, at
            changed |= _is_new(ploidy, slot, found)
            _set(rows, first, 2 * slot)
            _set(rows, second, 2 * slot + 1)
        at = find(buf, at, end, _TAB) + 1
    if at <= end:
        return TOO_MANY, n_samples, at
    return (CHANGED if changed else OK), n_samples, at


@njit(cache=True, nogil=True)
def _are_diploid(ploidy):
    """Whether all samples are; notes it where nothing is known of them."""
    for i in range(len(ploidy)):
        if _is_new(ploidy, i, 2):
            return False
    return True


@njit(cache=True, nogil=True)
def starts_with_gt(buf, form):
    return buf[form] == 71 and buf[form + 1] == 84 and (buf[form + 2] == _TAB or buf[form + 2] == _COLON)


@njit(cache=True, nogil=True)
def pack_lines(buf, cols, lines, n_alt, slots, chosen, ploidy, bits):
    """Pack the genotypes of ``lines`` (indices into cols and n_alt) into consecutive rows of ``bits``.

    slots: (file's samples,) int64, the sample's place among the chosen or -1; chosen: (samples,) int64, the
    inverse. ploidy: (samples,) int8, those of the chosen; zeros, which the first line fills in. bits: (sum of n_alt
    over lines, bytes) uint8, two columns a sample, overwritten; of a haploid sample the second stays 0.
    Returns (done, fault, sample, at): ``at`` is where the faulty genotype starts.
    """
    n_samples = len(slots)
    scratch = np.empty((2 * n_samples + 7) // 8, np.uint8)
    every = len(chosen) == n_samples
    diploid = False  # whether it is known that all are
    r = 0
    for done in range(len(lines)):
        line = lines[done]
        form, at, end = cols[line, FORMAT], cols[line, GENOTYPES], cols[line, END]
        if not starts_with_gt(buf, form):
            return done, NO_GT, 0, at
        a = n_alt[line]
        plain = a == 1 and buf[form + 2] == _TAB and end - at == 4 * n_samples - 1
        if plain and _pack_plain(buf, at, n_samples, bits[r] if every else scratch):
            if not diploid and not _are_diploid(ploidy):
                return done, CHANGED, 0, at
            diploid = True
            if not every:
                _select(scratch, chosen, bits[r])
        else:
            fault, sample, where = _pack_any(buf, at, end, a + 1, slots, ploidy, bits[r : r + a])
            if fault != OK:
                return done, fault, sample, where
        r += a
    return len(lines), OK, 0, 0


@njit(cache=True, nogil=True)
def pack_codes(codes, n_alleles, slots, ploidy, rows):
    """Pack one record's allele codes into its ``rows``.

    codes: (file's samples, width + 1) int16 as cyvcf2 gives them: alleles, -1 missing, -2 past a sample's
    ploidy, then whether it is phased. ploidy: as of ``pack_lines``. Returns (fault, sample).
    """
    rows[:] = 0
    width = codes.shape[1] - 1
    changed = False
    for i in range(len(slots)):
        slot = slots[i]
        if slot < 0:
            continue
        called = 0
        for h in range(width):
            if codes[i, h] == -1:
                return MISSING, i
            called += codes[i, h] >= 0
        if not 1 <= called <= 2:
            return PLOIDY, i
        first, second = np.int64(codes[i, 0]), np.int64(codes[i, 1]) if called == 2 else np.int64(-1)
        if called == 2 and codes[i, width] == 0:
            return UNPHASED, i
        if first >= n_alleles or second >= n_alleles:
            return RANGE, i
        changed |= _is_new(ploidy, slot, called)
        _set(rows, first, 2 * slot)
        _set(rows, second, 2 * slot + 1)
    return (CHANGED if changed else OK), 0
