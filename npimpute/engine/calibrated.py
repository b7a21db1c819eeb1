"""Any engine's probabilities corrected by what the panel's own people tell of every row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..context.windows import Window
from .base import Engine
from .self_imputed import Remembered, in_turn, self_impute


class Calibrated:
    """See ``base.Engine``. haplotypes: how many of the panel are hidden, by turns; all, if it has no more. seed:
    chooses them. What a target gets does not depend on who else is imputed."""

    def __init__(self, engine: Engine, haplotypes: int, seed: int):
        self.name = engine.name
        self._engine, self._haplotypes, self._seed, self._sums = engine, haplotypes, seed, Remembered()

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
        sums = self._sums.of(
            window, lambda: self_impute(self._engine.impute, window, self._haplotypes, self._seed, later)
        )
        if sums.n:
            untyped = ~window.typed_rows()
            slope = np.where(untyped, sums.slope(), 1)
            offset = np.where(untyped, sums.y - slope * sums.x, 0) / sums.n
            for row in p:
                np.clip(slope * row + offset, 0, 1, out=row, casting="same_kind")
        return p
