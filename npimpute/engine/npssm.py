"""The default engine: a copying model, and a network over typed sites that corrects it where it is not sure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from ..context.hidden import hide, middle
from ..context.windows import Window
from . import stacking
from .base import share_out
from .copying import Copying, CopyingConfig, Places, Sequences, sequences
from .learnt import Learnt
from .li_stephens import LiStephens
from .read_out import OutWeights, ReadWeights, Untyped, read, read_out, unsure
from .self_imputed import FOLDS, in_random_order, in_turn, self_impute

log = logging.getLogger(__name__)

# Sequences of one batch; results do not depend on it.
BATCH = 4096


class Reader(Protocol):
    """What makes shares of tokens of sequences. flank: columns that it wants on either side of the core."""

    flank: int

    def __call__(self, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        """(q, m, c, s) float32 twice: what core columns add to the tokens of rows after them, and before them."""
        ...


class WithoutLayers:
    """A network that is its read-out alone."""

    flank = 0

    def __init__(self, tensors: dict[str, np.ndarray]):
        self._weights = ReadWeights.of(tensors)

    def __call__(self, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        return read(sequences, self._weights)


class Ready(NamedTuple):
    """A window as the copying model leaves it, and its rows. sites: (x, 2) int64, first row and the one after the last
    of every untyped site."""

    copying: Copying
    rows: Untyped
    sites: np.ndarray


class Judges(NamedTuple):
    """People of the panel who are hidden to tell how far the network is right. truth: (r, n) uint8, their alleles."""

    ready: Ready
    truth: np.ndarray


class NPSSMEngine:
    """See ``base.Engine``. tensors: the network's weights by name; reader: the part before the read-out; copying: the
    model that is corrected.

    calibrate: panel haplotypes to hide and impute, to learn of rows; 0 for none, and for no judges. threads, seed: as
    for ``LiStephens``; seed also chooses whom to hide. learnt: where what is learnt
    is kept.
    """

    name = "npssm"

    def __init__(
        self,
        config: CopyingConfig,
        tensors: dict[str, np.ndarray],
        reader: Reader,
        copying: LiStephens,
        calibrate: int,
        threads: int = 1,
        seed: int = 1,
        learnt: Learnt | None = None,
    ):
        self._config, self._out, self._reader = config, OutWeights.of(tensors), reader
        self._copying, self._calibrate, self._threads = copying, calibrate, threads
        self._seed, self._learnt = seed, learnt or Learnt()

    @property
    def error_rate(self) -> float:
        return self._copying.error_rate

    @property
    def estimates(self) -> dict[str, float]:
        """See ``Engine``."""
        return self._copying.estimates

    def settle(self, window: Window) -> None:
        """See ``Engine``."""
        self._copying.settle(window)

    def impute(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """See ``Engine.impute``."""
        if len(window.typed) == 0:
            return self._copying.impute(window, progress)
        # The panel first: what is imputed of it need not be held together with what is of the targets.
        first, later = in_turn(lambda share: progress(0.8 * share), self._calibrate, window.alleles.shape[1])
        self._known(window, first)
        taken = self._learnt.of("shares", window, self.estimates, lambda: self.taken(self.judges(window)))
        ready = self.ready(window, later)
        p = self.correct(ready, ready.copying.p, taken)
        progress(1.0)
        return p

    def judges(self, window: Window) -> Judges | None:
        """None where there are too few. Needs no weights. The window has a typed site."""
        number = self._apart(window)
        if not number:
            return None
        known = self._known(window)
        part, rows = middle(window, stacking.TYPED, stacking.SITES)
        people = np.sort(in_random_order(window.panel.people, self._seed)[:number])
        hidden, columns = hide(part, people)
        copying = self._copying.copying(hidden, self._config.size, self._config.haplotypes)
        return Judges(self._with_rows(hidden, copying, known[rows]), part.panel.alleles(slice(None), columns))

    def taken(self, judges: Judges | None) -> np.ndarray:
        """See ``stacking.shares``; without judges all is."""
        if judges is None:
            return stacking.ALL
        copied, group = judges.ready.copying.p, judges.ready.rows.classes
        found = stacking.shares(copied, self.correct(judges.ready, copied.copy()), judges.truth, group)
        log.info(
            "npssm: %.2f, %.2f, %.2f and %.2f of the network's corrections are taken where 1, 2-3, 4-15 and more panel "
            "haplotypes carry the rarer allele", *found
        )  # fmt: skip
        return found

    def ready(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> Ready:
        """Needs no weights. The window has a typed site."""
        known = self._known(window)
        copying = self._copying.copying(window, self._config.size, self._config.haplotypes, progress)
        return self._with_rows(window, copying, known)

    def _apart(self, window: Window) -> int:
        """How many people of the panel are judges. What is known of rows comes from others."""
        people, k = window.panel.people, window.panel.k
        judges = min(self._calibrate * people // k // stacking.PEOPLE_A_JUDGE, people // FOLDS)
        return judges if judges >= stacking.LEAST else 0

    def _known(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """(r, 6) float32, see ``SelfImputed.features``."""
        self.settle(window)  # by the targets, before people of the panel take their place
        hidden = (self._copying.impute, window, self._calibrate, self._seed, progress, self._apart(window))
        return self._learnt.of("rows", window, self.estimates, lambda: self_impute(*hidden).features())

    def _with_rows(self, window: Window, copying: Copying, known: np.ndarray) -> Ready:
        panel, starts = window.panel, window.panel.row_start()
        fraction, untyped = copying.prepared.queries.fraction, ~window.typed_rows()
        classes = stacking.classes(panel.counts(), panel.k)
        rows = Untyped(panel.bits, *Places.of(copying), fraction, untyped, known, classes)
        sites = np.delete(np.stack([starts[:-1], starts[1:]], axis=1), window.typed, axis=0)
        return Ready(copying, rows, sites)

    def correct(self, ready: Ready, p: np.ndarray, taken: np.ndarray = stacking.ALL) -> np.ndarray:
        """(n, r) float32, see ``Engine.impute``. p: that of the copying model, which is replaced. taken: see there."""
        n, w, _ = ready.copying.ranking.haplotypes.shape
        step = max(1, BATCH // w)
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(lambda first: self._correct(ready, p, taken, first, min(first + step, n)), range(0, n, step)))
        # Rows of one site were corrected apart.
        share_out(p, ready.sites)
        return p

    def _correct(self, ready: Ready, p: np.ndarray, taken: np.ndarray, first: int, last: int) -> None:
        wanted = unsure(p[first:last], ready.rows, ready.copying.ranking.haplotypes.shape[1])
        whole = sequences(ready.copying, first, wanted, self._reader.flank)
        after, before = self._reader(whole)
        core = slice(self._reader.flank, self._reader.flank + after.shape[2])
        parts = whole._replace(
            haplotype=whole.haplotype[:, :, core], site=whole.site[:, core], posterior=whole.posterior[:, :, core]
        )
        read_out(p[first:last], parts, after, before, ready.rows, taken, self._out)
