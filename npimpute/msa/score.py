"""What a model, or the columns alone, say of the bases at a place of the reference.

Axes: n places, b windows, m rows, l columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import ConfigError
from .alphabet import MASK, complement
from .conservation import PHYLOP, Conservation
from .store import Alignment

if TYPE_CHECKING:
    from torch import nn

COLUMN_FREQUENCY = "column-frequency"
# Added to the count of each base: as much as one more species, spread evenly.
PSEUDO = 0.25
_COMPLEMENTS = [3, 2, 1, 0]


class Scorer(Protocol):
    """Tells the four bases apart at places of the reference whose base it does not see."""

    def log_p(self, contig: str, places: np.ndarray) -> np.ndarray:
        """places: (n,) int64, 0-based. (n, 4) float64, natural log of the probabilities of A, C, G and T."""
        ...


class ColumnFrequency:
    """The bases of the other species in the column: log((count + PSEUDO) / (species with a base + 4 PSEUDO))."""

    def __init__(self, alignment: Alignment):
        if len(alignment.species) < 2:
            raise ConfigError(f"--model {COLUMN_FREQUENCY}: {alignment.path} has no species besides the reference")
        self._alignment = alignment

    def log_p(self, contig: str, places: np.ndarray) -> np.ndarray:
        counts = np.empty((len(places), 4))
        for i, place in enumerate(places.tolist()):
            column = self._alignment.window(contig, place, place + 1)[1:, 0]
            counts[i] = np.bincount(column, minlength=6)[:4]
        return np.log((counts + PSEUDO) / (counts.sum(axis=1, keepdims=True) + 4 * PSEUDO))


class ModelScorer:
    """A masked-language model: the place in the middle of a window of its length, masked in the reference row.

    The logits of the window and of its reverse complement are averaged, unless not ``both_strands``.
    """

    def __init__(
        self,
        network: nn.Module,
        species: tuple[str, ...],
        length: int,
        alignment: Alignment,
        batch: int,
        device: str,
        both_strands: bool = True,
    ):
        from .windows import Rows

        self._rows, self._length, self._batch = Rows(alignment, species), length, batch
        self._network, self._device, self._both = network.to(device).eval(), device, both_strands

    def log_p(self, contig: str, places: np.ndarray) -> np.ndarray:
        found = [self._forward(windows) for windows in self._windows(contig, places)]
        return np.concatenate(found) if found else np.empty((0, 4))

    def _windows(self, contig: str, places: np.ndarray) -> Iterator[np.ndarray]:
        """(b, m, l) uint8 of each batch, read while the network works on the one before."""

        def read(part: tuple[int, ...]) -> np.ndarray:
            starts = [place - self._length // 2 for place in part]
            return np.stack([self._rows.window(contig, start, start + self._length) for start in starts])

        with ThreadPoolExecutor(1) as pool:
            waiting = None
            for part in batched_places(places, self._batch):
                ahead = pool.submit(read, part)
                if waiting is not None:
                    yield waiting.result()
                waiting = ahead
            if waiting is not None:
                yield waiting.result()

    def _forward(self, codes: np.ndarray) -> np.ndarray:
        """(b, 4) log probabilities of the middle base of windows (b, m, l)."""
        middle = self._length // 2
        codes[:, 0, middle] = MASK
        logits = self._logits(codes, middle)
        if self._both:
            other = np.ascontiguousarray(complement(codes[:, :, ::-1]))
            logits = (logits + self._logits(other, self._length - 1 - middle)[:, _COMPLEMENTS]) / 2
        top = logits.max(axis=1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))

    def _logits(self, codes: np.ndarray, at: int) -> np.ndarray:
        import torch

        with torch.inference_mode():
            tokens = torch.from_numpy(codes).to(self._device).long()
            return self._network(tokens)[:, at, :4].double().cpu().numpy()


def batched_places(places: np.ndarray, batch: int) -> Iterator[tuple[int, ...]]:
    """The places, ``batch`` at a time."""
    ends = range(0, len(places), batch)
    return (tuple(places[start : start + batch].tolist()) for start in ends)


def make_scorer(
    model: str, alignment: Alignment, batch: int, device: str | None, threads: int, both_strands: bool
) -> Scorer:
    """The scorer of a name: ``COLUMN_FREQUENCY``, ``PHYLOP``, or a directory that 'npimpute train msa' made.

    Raises ConfigError, and InputError for a directory that is no such model.
    """
    if model == COLUMN_FREQUENCY:
        return ColumnFrequency(alignment)
    if model == PHYLOP:
        return Conservation(alignment)
    from ..engine.device import choose_device
    from .model_files import load_model

    place = choose_device(device, threads)
    network, config = load_model(Path(model))
    return ModelScorer(network, config.species, config.length, alignment, batch, place, both_strands)


def constraint(log_p: np.ndarray, bases: np.ndarray) -> np.ndarray:
    """How much more likely the reference's base is than the other three, on average: the mean of -llr over them.

    log_p: (n, 4). bases: (n,) codes of the reference, of 0 to 3. Returns (n,) float64.
    """
    own = log_p[np.arange(len(bases)), bases]
    return own - (log_p.sum(axis=1) - own) / 3
