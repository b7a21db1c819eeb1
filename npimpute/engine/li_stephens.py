"""The Li-Stephens engine: a haploid copying model over all panel haplotypes.

Between typed sites d cM apart the copied haplotype is drawn anew with probability 1 - exp(-0.04 Ne d / k); an
observed allele differs from the copied one with probability err. Source: Li & Stephens 2003, Genetics 165:2213,
appendix A; the parametrisation is Beagle's (Browning, Zhou & Browning 2018, AJHG 103:338).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np

from ..context.windows import Window
from ..errors import ConfigError
from .base import check_error_rate, panel_frequencies
from .copying import Copying, CopyingConfig
from .learnt import Learnt
from .parameters import MOST_PEOPLE, START_ERR, START_NE, estimate
from .passes import Prepared, prepare, run_passes
from .ranking import Ranking

log = logging.getLogger(__name__)


class LiStephens:
    """Exact Li-Stephens imputation.

    ne: effective population size, err: mismatch probability; None to estimate what is not given from the first window
    that tells. threads: how many targets at a time; results do not depend on it. seed: chooses the haplotypes that the
    estimates are made from. share: of Ne, what copying takes. learnt: where the
    estimates are kept.
    """

    name = "li-stephens"
    # Rows around a gap over which the haplotypes of a clade are equal; None for a model without clades and ancestry.
    beyond: int | None = None

    def __init__(
        self,
        ne: float | None = None,
        err: float | None = None,
        threads: int = 1,
        seed: int = 1,
        share: float = 1.0,
        learnt: Learnt | None = None,
    ):
        if ne is not None and not 0 < ne < math.inf:
            raise ConfigError(f"--ne {ne}: the effective population size must be a positive number")
        check_error_rate(err)
        self._ne, self._err, self._threads, self._seed, self._share = ne, err, threads, seed, share
        self._learnt, self._told = learnt or Learnt(), ""

    @property
    def error_rate(self) -> float:
        return self._err if self._err is not None else START_ERR

    @property
    def ne(self) -> float:
        return self._ne if self._ne is not None else START_NE

    @property
    def estimates(self) -> dict[str, float]:
        """See ``Engine``."""
        return {name: value for name, value in (("ne", self._ne), ("err", self._err)) if value is not None}

    def settle(self, window: Window) -> None:
        """See ``Engine``."""
        if (self._ne is None or self._err is None) and not window.hidden:
            given = {"ne": self._ne, "err": self._err}
            found = self._learnt.of("parameters", window, given, lambda: self._estimated(window))
            if found is not None:
                self._ne, self._err = found.tolist()
            how = "too few typed alleles to estimate from" if found is None else "estimated"
            # Without an estimate every window is asked anew.
            if (told := f"Ne {self.ne:.3g}, error rate {self.error_rate:.3g} ({how})") != self._told:
                log.info(told)
                self._told = told

    def _estimated(self, window: Window) -> np.ndarray | None:
        """(2,) float64, Ne and err; None where there is too little to tell."""
        found = self.estimate(window)
        return None if None in found else np.array(found)

    def estimate(self, window: Window, people: int = MOST_PEOPLE) -> tuple[float | None, float | None]:
        """Ne and err, see ``parameters.estimate``."""
        return estimate(window, self._ne, self._err, self._threads, self._seed, self.beyond, people)

    def impute(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """See ``Engine.impute``. Without a typed site, every haplotype gets the panel's allele frequencies."""
        if len(window.typed) == 0:
            return panel_frequencies(window)
        return self._run(window, 1, 0, progress)[0]

    def copying(
        self, window: Window, size: int, m: int, progress: Callable[[float], None] = lambda share: None
    ) -> Copying:
        """What ``impute`` gives, and each target's m likeliest haplotypes (all of a smaller panel) by stretches of
        ``size`` typed sites, where the window has an untyped row. It has a typed site."""
        p, prepared, ranking = self._run(window, size, m, progress)
        return Copying.of(p, prepared, prepared.model(self._share * self.ne, self.error_rate), ranking)

    def _run(
        self, window: Window, size: int, m: int, progress: Callable[[float], None]
    ) -> tuple[np.ndarray, Prepared, Ranking]:
        clades = self.beyond is not None
        if clades and size != 1:
            raise ConfigError(f"size {size}: with clades a stretch has one typed site")
        self.settle(window)
        prepared = prepare(window, self._threads, size, self.beyond)
        ranking = Ranking.of(*prepared.queries.observed.shape, size, min(m, window.panel.k), clades)
        model = prepared.model(self._share * self.ne, self.error_rate)
        return run_passes(prepared, model, self._threads, ranking, progress), prepared, ranking


class CladeCopying(LiStephens):
    """Li-Stephens with clades (``clades``), in which a target drifts as often as it switches to any haplotype; and with
    ancestry (``ancestry``): after a switch it goes on rather with people like itself. A stretch has one typed site.

    Its Ne is estimated with all of this, and is smaller than that of ``LiStephens``.
    """

    name = "clades"
    beyond = 30


def copying_model(
    config: CopyingConfig,
    ne: float | None = None,
    err: float | None = None,
    threads: int = 1,
    seed: int = 1,
    learnt: Learnt | None = None,
) -> LiStephens:
    """What a network corrects. The others: see ``LiStephens``."""
    return (CladeCopying if config.clades else LiStephens)(ne, err, threads, seed, config.ne_share, learnt)
