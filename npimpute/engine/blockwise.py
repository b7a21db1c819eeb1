"""Engines that impute block by block: nearest haplotypes, regressions, networks that read tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..context.blocks import Block, BlockSize, cut_blocks
from ..context.windows import Window
from .base import check_error_rate, panel_frequencies, share_out

ERROR_RATE = 1e-3  # of an observed allele, as Li-Stephens starts from


class Predictor(Protocol):
    """What fills in a block."""

    def predict(self, block: Block) -> np.ndarray:
        """(n, wanted columns) float32: probability of the ALT allele at the block's wanted columns."""
        ...


class BlockEngine:
    """An ``Engine`` that imputes each block of a window by itself. Typed sites are left out one in ten at a time.

    error_rate: probability that an observed allele is wrong. Raises ConfigError.
    """

    def __init__(self, name: str, predictor: Predictor, size: BlockSize, error_rate: float | None = None):
        check_error_rate(error_rate)
        self.name = name
        self.error_rate = ERROR_RATE if error_rate is None else error_rate
        self._predictor, self._size = predictor, size

    @property
    def estimates(self) -> dict[str, float]:
        """See ``Engine``."""
        return {"err": self.error_rate}

    def settle(self, window: Window) -> None:
        """Nothing is estimated."""

    def impute(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """See ``Engine.impute``; rows of the flanks, and all where no site is typed, get the panel's frequencies."""
        p = panel_frequencies(window)
        if len(window.typed) == 0:
            return p
        starts = window.panel.row_start()
        total, done = int(starts[window.stop] - starts[window.start]), 0
        for block in cut_blocks(window, self._size):
            p[:, block.rows[block.wanted]] = self._predictor.predict(block)
            done += int(block.wanted.sum())
            progress(done / total)
        # Rows of one site were imputed apart.
        share_out(p, np.stack([starts[:-1], starts[1:]], axis=1))
        return p


def batches(n: int, most: float) -> list[slice]:
    """n queries in as few batches of at most ``most`` (at least one) as will do, about equal in size."""
    count = math.ceil(n / max(1, most))
    ends = np.linspace(0, n, count + 1).astype(int)
    return [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
