"""Conservation of columns, in the manner of phyloP: do the species change less, or more, than they do elsewhere?

Each species hangs from the reference by a branch of its own, whose length is told from how often its bases differ from
the reference's over the whole alignment; a column scales all branches by one rate. Sources: Pollard et al. 2010, Genome
Research 20:110, the likelihood-ratio test of phyloP (``--method LRT --mode CONACC``); Jukes & Cantor 1969, the
substitution model. phyloP itself has the species' tree: here what several species inherited together counts as often as
there are species.

Axes: n places, s species besides the reference, r rates.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from .alphabet import GAP
from .store import CHUNK, Alignment

PHYLOP = "phylop-style"
# Rates that are tried, in those of the whole alignment; fine where few changes make a difference. One of them is 1.
RATES = np.concatenate([np.arange(0, 1, 0.02), np.arange(1, 5.01, 0.1)])
# Chunks of columns, spread evenly, that branches are measured on: a million columns.
CHUNKS = 256
# Jukes and Cantor's distance has no value from 3/4 on, and none of 0 can have changed.
_LEAST, _MOST = 0.005, 0.7


class Conservation:
    """See ``score.Scorer``, though it reads the reference: the score of its base, 0 for the three others, so that -llr
    of every alternative is the place's score. That is 2 (ln L(best rate) - ln L(1)), below 0 where the best is above 1;
    0 where no other species is aligned."""

    def __init__(self, alignment: Alignment):
        if len(alignment.species) < 2:
            raise ConfigError(f"--model {PHYLOP}: {alignment.path} has no species besides the reference")
        self._alignment = alignment
        distance = -0.75 * np.log(1 - 4 / 3 * differing(alignment).clip(_LEAST, _MOST))
        change = 0.75 * (1 - np.exp(-4 / 3 * distance[:, None] * RATES))
        with np.errstate(divide="ignore"):
            # At rate 0 a change is impossible: as good as, so that 0 times it is 0.
            self._changed, self._same = np.log(change / 3).clip(min=-1e3), np.log1p(-change)

    def log_p(self, contig: str, places: np.ndarray) -> np.ndarray:
        columns = np.stack([self._alignment.window(contig, at, at + 1)[:, 0] for at in places.tolist()])
        reference, others = columns[:, :1], columns[:, 1:]
        known = (others < GAP) & (reference < GAP)
        same = known & (others == reference)
        likelihood = same.astype(float) @ self._same + (known & ~same).astype(float) @ self._changed
        best = likelihood.argmax(1)
        neutral = likelihood[:, np.flatnonzero(RATES == 1)[0]]
        out = np.zeros((len(places), 4))
        known_base = np.flatnonzero(reference[:, 0] < GAP)
        value = 2 * (likelihood.max(1) - neutral) * np.where(RATES[best] > 1, -1, 1)
        out[known_base, reference[known_base, 0]] = value[known_base]
        return out


def differing(alignment: Alignment) -> np.ndarray:
    """(s,) share of each species' aligned bases that are not the reference's, of up to ``CHUNKS`` chunks; of one that
    is not aligned there, that of all species."""
    chunks = [
        (contig, start, min(start + CHUNK, high))
        for contig, (low, high) in alignment.contigs.items()
        for start in range(low, high, CHUNK)
    ]
    if len(chunks) > CHUNKS:
        chunks = [chunks[i] for i in np.linspace(0, len(chunks) - 1, CHUNKS).round().astype(int)]
    aligned = np.zeros((2, len(alignment.species) - 1))
    for contig, start, end in chunks:
        columns = alignment.window(contig, start, end)
        known = (columns[1:] < GAP) & (columns[0] < GAP)
        aligned += known.sum(1), (known & (columns[1:] != columns[0])).sum(1)
    bases, changes = aligned
    return np.where(bases > 0, changes, changes.sum()) / np.where(bases > 0, bases, max(1, bases.sum()))
