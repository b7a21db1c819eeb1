"""More targets than fit in memory: imputed by turns, window by window, and what is imputed waits on disk until all are.

So that each record has all samples, and its R2 is that of all, whatever their number.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from ..context.windows import Window
from ..engine.base import Engine
from ..outputs import file_errors

# Rows written at a time.
STEP = 1_024


class Waiting:
    """(n, r) float32 like those of an engine, of the rows that a window writes, on disk: to be sliced as p[:, a:b].

    place: of the output; the file lies beside it, without a name, so that nothing is left of it whatever happens.
    first, last: the rows of the window that it has. Raises InputError where the disk refuses.
    """

    def __init__(self, place: Path, first: int, last: int):
        self._place, self._first, self._last = place, first, last
        self._widths: list[int] = []

    def __enter__(self) -> Self:
        with file_errors(self._place):
            self._file = tempfile.TemporaryFile(dir=self._place.parent, buffering=0)
        return self

    def __exit__(self, kind, value, trace) -> None:
        with contextlib.suppress(OSError):  # what it holds is not wanted any more
            self._file.close()

    @property
    def shape(self) -> tuple[int, int]:
        """Targets so far, rows."""
        return sum(self._widths), self._last - self._first

    def add(self, p: np.ndarray) -> None:
        """The next targets' p, (n, rows of the window)."""
        with file_errors(self._place):
            for start in range(self._first, self._last, STEP):
                data = memoryview(np.ascontiguousarray(p[:, start : min(start + STEP, self._last)].T)).cast("B")
                while data:
                    data = data[self._file.write(data) :]
        self._widths.append(len(p))

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """index: all targets, and rows of the window."""
        start, stop = (row - self._first for row in (index[1].start, index[1].stop))
        out = np.empty((stop - start, sum(self._widths)), np.float32)
        done, rows = 0, self._last - self._first
        for width in self._widths:
            with file_errors(self._place):
                self._file.seek(4 * (done * rows + start * width))
                part = np.fromfile(self._file, np.float32, (stop - start) * width)
            out[:, done : done + width] = part.reshape(-1, width)
            done += width
        return out.T


@contextlib.contextmanager
def imputed(
    engine: Engine, window: Window, place: Path, progress: Callable[[float], None] = lambda share: None
) -> Iterator[np.ndarray | Waiting]:
    """What ``engine`` imputes of the window, to be sliced as p[:, a:b] by the rows that it writes. place: see
    ``Waiting``."""
    turns = window.turns()
    if len(turns) == 1:
        yield engine.impute(window, progress)
        return
    if len(window.typed):
        engine.settle(window)
    rows = window.panel.row_start()
    with Waiting(place, int(rows[window.start]), int(rows[window.stop])) as waiting:
        for number, turn in enumerate(turns):
            tell = lambda share, number=number: progress((number + share) / len(turns))  # noqa: E731
            waiting.add(engine.impute(turn, tell))
        yield waiting
