"""An engine's probabilities corrected by what the panel's own people tell of every row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..context.windows import Window
from ..engine.base import Engine
from ..engine.self_imputed import self_impute


def calibrate(
    engine: Engine,
    window: Window,
    p: np.ndarray,
    haplotypes: int,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Corrects the untyped rows of ``p`` (n, r) float32, the engine's of this window, in place.

    haplotypes: how many of the panel are hidden, by turns; all, if it has no more. seed: chooses them. What a target
    gets does not depend on who else is imputed. Without a typed site, or with one person in the panel, nothing is done.
    """
    sums = self_impute(engine.impute, window, haplotypes, seed, progress)
    if not sums.n:
        return
    untyped = ~window.typed_rows()
    slope = np.where(untyped, sums.slope(), 1)
    offset = np.where(untyped, sums.y - slope * sums.x, 0) / sums.n
    for row in p:
        np.clip(slope * row + offset, 0, 1, out=row, casting="same_kind")
