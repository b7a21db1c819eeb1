"""The pass of a copying model with clades, over the targets of a window.

In most panels all haplotypes take part everywhere (``lane_passes``). In a very large one only those do, stretch by
stretch, that exact Li-Stephens finds likeliest there (``clade_few``), which costs less and loses nothing (figures:
docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import tables
from .clade_few import FewScratch, impute_few
from .clades import Clades
from .lane_passes import LanePasses
from .lanes import LANES
from .likeliest import find_likeliest, stretches
from .passes import Prepared, in_parts
from .ranking import Ranking
from .tables import CladeModel, Model

# In a panel of more haplotypes so many take part at a site at most, unless they have less than this share of the
# posterior somewhere: then all do.
MOST_HAPLOTYPES, LIKELIEST, LEAST_SHARE = 8_192, 1_024, 0.8


def run_clade_passes(
    prepared: Prepared,
    whole: Model,
    model: CladeModel,
    clades: Clades,
    threads: int,
    ranking: Ranking,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """(n, r) float32: ALT probabilities, at the rows of typed sites leave-one-out. whole: of Li-Stephens over all
    haplotypes of a panel so large that not all take part. ranking: of stretches of one typed site; is filled.

    progress: called with the share that is done. The result does not depend on ``threads``.
    """
    queries, codes, cells = prepared.queries, prepared.codes, prepared.cells
    (n, t), k, m = queries.observed.shape, codes.shape[1], ranking.haplotypes.shape[2]
    out = np.empty((n, len(queries.fraction)), np.float32)
    impute = LanePasses(queries, codes, cells, model, clades, ranking, out)

    if k <= MOST_HAPLOTYPES:
        in_parts(lambda first, last: impute(range(first, last)), n, LANES, threads, progress)
        return out
    stretch, need_all = stretches(prepared.blocks), []

    def few(first: int, last: int) -> None:
        work = FewScratch.of(t, k, int(stretch[-1]) + 1, LIKELIEST, m)
        reads = tuple(map(tuple, (queries, prepared.blocks, whole, tables.Scratch.of(prepared.blocks))))
        plain = tuple(map(tuple, (cells, model, clades, ranking, work)))
        for q in range(first, last):
            share = find_likeliest(q, *reads, ranking.scale[q], out[q], work.who, work.n_who)
            if share >= LEAST_SHARE:
                impute_few(q, reads[0], codes, plain[0], stretch, *plain[1:], out)
            else:
                need_all.append(q)

    in_parts(few, n, 1, threads, progress)
    in_parts(lambda first, last: impute(need_all[first:last]), len(need_all), LANES, threads, lambda share: None)
    return out
