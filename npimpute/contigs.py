"""When two contig names mean the same chromosome."""

from __future__ import annotations

# PLINK numbers the human sex chromosomes and the mitochondrion; 25 (its XY) has no counterpart in a VCF.
_ALIASES = {"23": "X", "24": "Y", "26": "MT", "M": "MT"}
_LETTERS = {"X", "Y", "M", "MT"}


def contig_key(name: str) -> str:
    """The spelling under which names of one chromosome are equal.

    A leading ``chr`` (any case) is dropped, ``x``, ``y``, ``m`` and ``mt`` become capitals, M becomes MT, and
    PLINK's human numbers 23, 24 and 26 become X, Y and MT: 20 == chr20, X == chrX == 23, M == chrM == MT == 26.
    Every other name is kept as it is, so that ``X_par1`` or ``HLA-A*01`` equal only themselves. The numbers
    are human: in a species with a chromosome 23 of its own, do not hold it together with X.
    """
    body = name[3:] if name[:3].lower() == "chr" and len(name) > 3 else name
    letters = body.upper() if body.upper() in _LETTERS else body
    return _ALIASES.get(letters, letters)
