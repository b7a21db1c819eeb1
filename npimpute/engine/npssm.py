"""The default engine: a copying model, and a network over typed sites that corrects it where it is not sure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from ..context.windows import Window
from .base import share_out
from .copying import Copying, CopyingConfig, Places, Sequences, sequences
from .li_stephens import LiStephens
from .read_out import OutWeights, ReadWeights, Untyped, read, read_out, unsure
from .self_imputed import SelfImputing, in_turn

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


class NPSSMEngine:
    """See ``base.Engine``. tensors: the network's weights by name; reader: the part before the read-out; copying: the
    model that is corrected.

    calibrate: panel haplotypes to hide and impute, 0 for none. threads, seed: as for ``LiStephens``; seed also chooses
    whom to hide.
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
    ):
        self._config, self._out, self._reader = config, OutWeights.of(tensors), reader
        self._copying, self._calibrate, self._threads = copying, calibrate, threads
        self._self_impute = SelfImputing(calibrate, seed)

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
        ready = self.ready(window, lambda share: progress(0.8 * share))
        p = self.correct(ready, ready.copying.p)
        progress(1.0)
        return p

    def ready(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> Ready:
        """What needs no weights. The window has a typed site."""
        self.settle(window)
        # The panel first: what is imputed of it need not be held together with what is of the targets.
        first, later = in_turn(progress, self._calibrate, window.alleles.shape[1])
        known = self._self_impute(self._copying.impute, window, first).features()
        copying = self._copying.copying(window, self._config.size, self._config.haplotypes, later)
        fraction = copying.prepared.queries.fraction
        untyped, bits = ~window.typed_rows(), window.panel.bits
        rows = Untyped(bits, *Places.of(copying), fraction, untyped, known)
        starts = window.panel.row_start()
        sites = np.delete(np.stack([starts[:-1], starts[1:]], axis=1), window.typed, axis=0)
        return Ready(copying, rows, sites)

    def correct(self, ready: Ready, p: np.ndarray) -> np.ndarray:
        """(n, r) float32, see ``Engine.impute``. p: that of the copying model, which is replaced."""
        n, w, _ = ready.copying.ranking.haplotypes.shape
        step = max(1, BATCH // w)
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(lambda first: self._correct(ready, p, first, min(first + step, n)), range(0, n, step)))
        # Rows of one site were corrected apart.
        share_out(p, ready.sites)
        return p

    def _correct(self, ready: Ready, p: np.ndarray, first: int, last: int) -> None:
        wanted = unsure(p[first:last], ready.rows, ready.copying.ranking.haplotypes.shape[1])
        whole = sequences(ready.copying, first, wanted, self._reader.flank)
        after, before = self._reader(whole)
        core = slice(self._reader.flank, self._reader.flank + after.shape[2])
        parts = whole._replace(
            haplotype=whole.haplotype[:, :, core], site=whole.site[:, core], posterior=whole.posterior[:, :, core]
        )
        read_out(p[first:last], parts, after, before, ready.rows, self._out)
