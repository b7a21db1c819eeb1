"""Tables of saturation mutagenesis carry their own reference: every position has its base in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..msa.alphabet import GAP, encode
from ..msa.store import write_alignment
from ..msa.variants import open_variants


def table_reference(path: Path, sheet: str | None = None, header_row: int = 1) -> dict[str, tuple[int, np.ndarray]]:
    """Contig -> (0-based start, codes (l,)) of the reference as the rows of a table of variants have it.

    Positions between them without a row are gaps. Raises InputError where two rows disagree, or none has a base.
    """
    bases: dict[str, dict[int, int]] = {}
    for row in open_variants(path, sheet, header_row).rows:
        if not row.pos:
            continue
        for i, code in enumerate(encode(row.ref).tolist()):
            if code == GAP:
                continue
            if bases.setdefault(row.contig, {}).setdefault(row.pos - 1 + i, code) != code:
                raise InputError(f"{path}: two rows have other reference bases at {row.contig}:{row.pos + i}")
    if not bases:
        raise InputError(f"{path}: no row has a position and a reference base")
    found = {}
    for contig, known in bases.items():
        start = min(known)
        codes = np.full(max(known) + 1 - start, GAP, np.uint8)
        codes[np.array(list(known)) - start] = list(known.values())
        found[contig] = start, codes
    return found


def write_table_reference(
    table: Path, out: Path, reference: str = "reference", sheet: str | None = None, header_row: int = 1
) -> None:
    """A store that has the reference alone, of ``table_reference``. Raises InputError."""
    contigs = table_reference(table, sheet, header_row)
    write_alignment(out, (reference,), {name: (start, codes[None]) for name, (start, codes) in contigs.items()})
