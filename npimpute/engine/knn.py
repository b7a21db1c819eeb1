"""k nearest neighbours: the mean allele of the panel haplotypes nearest to the target's."""

from __future__ import annotations

import numpy as np

from ..context.blocks import Block
from ..context.neighbours import mismatches, nearest
from ..errors import ConfigError

DEFAULT_NEIGHBOURS = 10
REACH = 8.0  # typed columns: see ``column_weights``


class KNN:
    """See ``blockwise.Predictor``. neighbours: all count alike; distance is L1 over the block's typed sites, where a
    mismatch counts less the further off it is (``column_weights``), or with a reach of 0 the same.

    Raises ConfigError, when a block comes, if the panel has fewer haplotypes.
    """

    def __init__(self, neighbours: int = DEFAULT_NEIGHBOURS, reach: float = REACH):
        self._neighbours, self._reach = neighbours, reach

    def predict(self, block: Block) -> np.ndarray:
        k = block.panel.shape[1]
        if k < self._neighbours:
            raise ConfigError(f"{self._neighbours} neighbours: the panel has {k} haplotypes; give a smaller --context")
        chosen = nearest(mismatches(block.queries, block.panel, block.wanted, self._reach), self._neighbours)
        return block.panel[block.wanted][:, chosen].mean(axis=2, dtype=np.float32).T
