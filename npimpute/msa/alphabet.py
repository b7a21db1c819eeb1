"""The letters of an alignment as numbers: A 0, C 1, G 2, T 3, gap 4, mask 5.

A gap is whatever is none of the four bases: an alignment's gap, N, another ambiguous letter, a place that the row does
not cover.
"""

from __future__ import annotations

import numpy as np

A, C, G, T, GAP, MASK = range(6)
VOCABULARY = 6
NAMES = ("A", "C", "G", "T", "gap", "mask")
BASES = b"ACGT"

_CODES = np.full(256, GAP, np.uint8)
for _code, _letter in enumerate(BASES):
    _CODES[_letter] = _CODES[_letter + 32] = _code
_COMPLEMENT = np.array([T, G, C, A, GAP, MASK], np.uint8)
_LETTERS = np.frombuffer(BASES + b"-?", np.uint8)


def encode(letters: np.ndarray | bytes | str) -> np.ndarray:
    """Codes, uint8, of ASCII letters of either case: a uint8 array of any shape, or bytes or text."""
    if isinstance(letters, str):
        letters = letters.encode("ascii", "replace")
    if isinstance(letters, bytes):
        letters = np.frombuffer(letters, np.uint8)
    return _CODES[letters]


def decode(codes: np.ndarray) -> bytes:
    """ASCII letters of codes (l,): - is a gap, ? a mask."""
    return _LETTERS[codes].tobytes()


def complement(codes: np.ndarray) -> np.ndarray:
    """The other strand's codes, uint8, in the same order: reverse the length axis too. Gaps and masks stay."""
    return _COMPLEMENT[codes]
