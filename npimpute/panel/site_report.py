"""A table of the target sites that were not used, or not as they are written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Self

import numpy as np

from ..outputs import check_place, file_errors, temporary
from ..types import Sites
from .align import Match


class SiteReport:
    """A tab-separated table with a header, a line for each target site that was excluded or changed.

    Use in a ``with`` block, which brings the file to its name if it ends well; ``complete`` comes last in it. All is
    done within that can fail for want of space, so that other outputs can still be held back.

    Raises InputError where the file exists (and not ``overwrite``) or cannot be written.
    """

    HEADER = ("contig", "pos", "id", "ref", "alt", "done", "reason", "panel")

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        check_place(path, overwrite)
        self._path, self._overwrite = path, overwrite

    def __enter__(self) -> Self:
        with file_errors(self._path):
            self._out = open(temporary(self._path), "w", encoding="utf-8")
        self._put(self.HEADER)
        return self

    def add(self, sites: Sites, kind: np.ndarray, panel: Sites) -> None:
        """The next target sites of a contig.

        kind: (s,) uint8, a ``Match`` each. panel: among others all panel records at their positions.
        """
        index = np.flatnonzero(kind != Match.MATCHED)
        first = np.searchsorted(panel.pos, sites.pos[index], side="left")
        end = np.searchsorted(panel.pos, sites.pos[index], side="right")
        for i, a, b in zip(index.tolist(), first.tolist(), end.tolist(), strict=True):
            match = Match(kind[i])
            there = ";".join(f"{panel.ref[p]}>{panel.alt[p]}" for p in range(a, b)) or "."
            self._put((*_names(sites, i), match.done, match.label, there))

    def add_contig(self, sites: Sites) -> None:
        """All target sites of a contig that the panel lacks."""
        for i in range(len(sites)):
            self._put((*_names(sites, i), "excluded", "contig not in the panel", "."))

    def complete(self) -> None:
        """Nothing is added any more."""
        with file_errors(self._path):
            self._out.close()
        check_place(self._path, self._overwrite)  # once more: another run may have finished meanwhile

    def __exit__(self, kind, value, trace) -> None:
        try:
            if kind is None:
                with file_errors(self._path):
                    temporary(self._path).replace(self._path)
        finally:
            with contextlib.suppress(OSError):  # what could not be written is not wanted any more
                self._out.close()
            temporary(self._path).unlink(missing_ok=True)

    def _put(self, words: tuple[str, ...]) -> None:
        with file_errors(self._path):
            self._out.write("\t".join(words) + "\n")


def _names(sites: Sites, index: int) -> tuple[str, ...]:
    return sites.contig, str(sites.pos[index]), sites.ids[index], sites.ref[index], sites.alt[index]
