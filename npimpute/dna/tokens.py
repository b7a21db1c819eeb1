"""Sequence as tokens: single bases, and non-overlapping 6-mers.

Axes: l bases, t tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError

# Base tokens. N is an unknown base, or one past the end of the contig.
A, C, G, T, N, MASK = range(6)
BASES_VOCABULARY = 6
COMPLEMENT = np.array([T, G, C, A, N, MASK])
# 6-mer tokens: the 4^6 words, in the order of their letters, then single bases and MASK.
SIX_MERS = 4**6
SIX_MER_BASES = SIX_MERS + np.arange(5)
SIX_MER_N, SIX_MER_MASK = SIX_MERS + N, SIX_MERS + MASK
SIX_MER_VOCABULARY = SIX_MERS + BASES_VOCABULARY
K = 6

_BASE_OF = np.full(256, N, np.int64)
for _token, _letters in enumerate(("Aa", "Cc", "Gg", "Tt")):
    _BASE_OF[[ord(letter) for letter in _letters]] = _token
_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_ASCII_COMPLEMENT = np.frombuffer(
    bytes(range(256)).translate(bytes.maketrans(b"ACGTURYKMBVDHacgturykmbvdh", b"TGCAAYRMKVBHDtgcaayrmkvbhd")), np.uint8
)
_POWERS = 4 ** np.arange(K - 1, -1, -1)


def bases(ascii: np.ndarray, dtype: type = np.int64) -> np.ndarray:
    """Base tokens of a sequence: (l,) uint8 -> (l,) int64, or ``dtype``. Any case; all but A, C, G and T is N."""
    return _BASE_OF.astype(dtype)[ascii]


def letters(tokens: np.ndarray) -> np.ndarray:
    """The sequence of base tokens 0 to 4: (l,) -> (l,) uint8."""
    return _LETTERS[tokens]


def reverse_complement(ascii: np.ndarray) -> np.ndarray:
    """(..., l) uint8, the other strand; letters of several bases (IUPAC) become their complements."""
    return _ASCII_COMPLEMENT[ascii][..., ::-1]


def reverse_complement_bases(tokens: np.ndarray) -> np.ndarray:
    """(..., l) base tokens, the other strand."""
    return COMPLEMENT[tokens][..., ::-1]


def six_mers(ascii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a sequence (l,) uint8, and the bases that each spans: (t,) int64 and (t, 2), first and end, from 0.

    Words of 6 are read from the left. At an N six letters do not make a word, so what is left of its stretch of known
    bases is told base by base, as is the N; the next word starts after it. So with the last bases, where they are fewer
    than 6. Source: Dalla-Torre et al. 2023, doi 10.1101/2023.01.11.523679, Methods, "Tokenization"; and the released
    tokeniser of the Nucleotide Transformer, which so reads a sequence with N in it.
    """
    base = bases(ascii)
    if not len(base):
        return np.empty(0, np.int64), np.empty((0, 2), np.int64)
    # Stretches of known bases, and between them the unknown, each of them a stretch of its own.
    unknown = base == N
    change = np.flatnonzero(unknown[1:] | unknown[:-1]) + 1
    starts, ends = np.append(0, change), np.append(change, len(base))
    words = np.where(unknown[starts], 0, (ends - starts) // K)
    singles = ends - starts - words * K
    counts = words + singles
    stretch = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    is_word = within < words[stretch]
    first = starts[stretch] + np.where(is_word, K * within, within + (K - 1) * words[stretch])
    spans = np.stack([first, first + np.where(is_word, K, 1)], 1)
    tokens = SIX_MER_BASES[base[first]]
    tokens[is_word] = base[first[is_word, None] + np.arange(K)] @ _POWERS
    return tokens, spans


@dataclass(frozen=True)
class Tokeniser:
    """How a network reads sequence. width: bases of a word. words: tokens 0 to words - 1 are whole words; those up to
    ``unknown`` are single bases. encode: letters (l,) uint8 -> tokens (t,) int64 and spans (t, 2), see ``six_mers``."""

    width: int
    vocabulary: int
    words: int
    unknown: int
    mask: int
    encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

    def fixed(self, ascii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``encode``, but exactly l // width tokens of a window of l bases, at least one: where N has made more,
        those around the window's middle."""
        tokens, spans = self.encode(ascii)
        count = max(1, len(ascii) // self.width)
        middle = int(np.searchsorted(spans[:, 1], len(ascii) // 2, side="right"))
        first = min(max(middle - count // 2, 0), len(tokens) - count)
        return tokens[first : first + count], spans[first : first + count]


def _single(ascii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = np.arange(len(ascii), dtype=np.int32)  # windows may be as long as chromosomes
    return bases(ascii), np.stack([first, first + 1], 1)


BASES = Tokeniser(1, BASES_VOCABULARY, 4, N, MASK, _single)
SIX_MER = Tokeniser(K, SIX_MER_VOCABULARY, SIX_MERS, SIX_MER_N, SIX_MER_MASK, six_mers)


def tokeniser(vocabulary: int) -> Tokeniser:
    """That of a network with so many tokens. Raises ConfigError."""
    for known in (BASES, SIX_MER):
        if known.vocabulary == vocabulary:
            return known
    raise ConfigError(f"model.vocabulary {vocabulary}: {BASES_VOCABULARY} (bases) or {SIX_MER_VOCABULARY} (6-mers)")
