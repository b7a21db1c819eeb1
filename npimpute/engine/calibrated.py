"""Any engine's probabilities corrected by what the panel's own people tell of every row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..context.windows import Window
from .base import Engine
from .learnt import Learnt
from .self_imputed import in_turn, self_impute


class Calibrated:
    """See ``base.Engine``. haplotypes: how many of the panel are hidden, by turns; all, if it has no more. seed:
    chooses them. learnt: where what is learnt is kept. What a target gets does not depend on who else is imputed."""

    def __init__(self, engine: Engine, haplotypes: int, seed: int, learnt: Learnt | None = None):
        self.name = engine.name
        self._engine, self._haplotypes, self._seed, self._learnt = engine, haplotypes, seed, learnt or Learnt()

    @property
    def error_rate(self) -> float:
        return self._engine.error_rate

    @property
    def estimates(self) -> dict[str, float]:
        """See ``Engine``."""
        return self._engine.estimates

    def settle(self, window: Window) -> None:
        """See ``Engine``."""
        self._engine.settle(window)

    def impute(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """See ``Engine.impute``. Typed rows are the engine's, and all where nobody can be hidden."""
        first, later = in_turn(progress, window.alleles.shape[1], self._haplotypes)
        p = self._engine.impute(window, first)
        slope, offset = self._learnt.of("lines", window, self._engine.estimates, lambda: self._line(window, later))
        for row in p:
            np.clip(slope * row + offset, 0, 1, out=row, casting="same_kind")
        return p

    def _line(self, window: Window, progress: Callable[[float], None]) -> np.ndarray:
        """(2, r) float64: slope and offset of every row."""
        sums = self_impute(self._engine.impute, window, self._haplotypes, self._seed, progress)
        line = np.zeros((2, len(sums.x)))
        line[0] = 1
        if sums.n:
            untyped = ~window.typed_rows()
            line[0, untyped] = sums.slope()[untyped]
            line[1, untyped] = (sums.y - line[0] * sums.x)[untyped] / sums.n
        return line
