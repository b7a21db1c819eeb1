"""What every engine is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..context.windows import Window
from ..errors import ConfigError


def check_error_rate(err: float | None) -> None:
    """Raises ConfigError unless ``err`` is None or a probability of error that leaves something to learn from."""
    if err is not None and not 0 < err < 0.5:
        raise ConfigError(f"--err {err}: the error rate must lie between 0 and 0.5")


def panel_frequencies(window: Window) -> np.ndarray:
    """(n, r) float32: the share of the panel's haplotypes that carry each row's ALT allele, for every target alike."""
    return np.tile((window.panel.counts() / window.panel.k).astype(np.float32), (window.alleles.shape[1], 1))


def share_out(p: np.ndarray, sites: np.ndarray) -> None:
    """Scales the probabilities of a site's rows to a sum of 1 where they add up to more, in place.

    p: (n, r) float32. sites: (x, 2) int64, a site's first row and the one after its last.
    """
    for first, last in sites[np.diff(sites)[:, 0] > 1]:
        p[:, first:last] /= np.maximum(p[:, first:last].sum(axis=1, keepdims=True), 1)


class Engine(Protocol):
    """Imputes one window at a time; windows of a contig come in order."""

    name: str

    @property
    def estimates(self) -> dict[str, float]:
        """Those of ``RunConfig``'s ne and err that it was given or has estimated, by their names."""
        ...

    def settle(self, window: Window) -> None:
        """Estimates what is still to be estimated, as ``impute`` would, so that the window's targets may be imputed in
        parts. It has a typed site."""
        ...

    def impute(self, window: Window, progress: Callable[[float], None] = lambda share: None) -> np.ndarray:
        """(n, r) float32: probability that each target haplotype carries each panel row's ALT allele.

        At the rows of a typed site, the probability given all the haplotype's other typed sites (leave-one-out),
        which for a missing genotype is what is known of it. progress: called with the share of the window done.
        """
        ...

    @property
    def error_rate(self) -> float:
        """Probability that an observed allele is not the one copied, as estimated or given."""
        ...
