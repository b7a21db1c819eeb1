"""Windows of a contig: what one engine call sees, so that memory does not grow with the chromosome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..panel.align import AS_WRITTEN, Mending
from ..panel.genetic_map import GeneticMap
from ..panel.strand import aligned
from ..types import Haplotypes, Targets, first_haplotypes

# Bytes that one window may need for panel bits, dosages and the engine's tables, roughly.
WINDOW_BYTES = 1 << 30
MIN_WINDOW_SITES = 2_000
# More target haplotypes than TOGETHER are imputed by turns. If windows were cut shorter for them instead, their flanks
# would soon be most of the work. What is imputed of a window waits on disk for the others and takes so much there.
TOGETHER, WAITING_BYTES = 2_000, 8 << 30


class Elsewhere(NamedTuple):
    """Typed sites outside of a window, for what they tell of ancestry. codes: (x, k) uint8, alleles of its panel's
    haplotypes; alleles: (x, n) int8, those of its targets, -1 missing."""

    codes: np.ndarray
    alleles: np.ndarray


@dataclass(frozen=True)
class Window:
    """Consecutive panel sites of one contig and the targets' typed alleles there.

    panel: the sites with a flank on either side. cm: (s,) float64. typed: (t,) int64, increasing, the panel sites
    that the targets were typed at. alleles: (t, n) int8, the targets' alleles as codes of the panel's record, -1
    missing. start, stop: sites start..stop-1 of the panel are this window's to write; the rest is flank.
    span, kind: the target sites span[0]..span[1]-1 lie where this window writes, with a ``Match`` (uint8) each.
    ploidy: of the targets' samples, as in ``Targets``. elsewhere: what else is known of the same people, if anything.
    hidden: whether the targets are people who were taken out of the panel.
    """

    panel: Haplotypes
    cm: np.ndarray
    typed: np.ndarray
    alleles: np.ndarray
    start: int
    stop: int
    span: tuple[int, int]
    kind: np.ndarray
    ploidy: np.ndarray | None = None
    elsewhere: Elsewhere | None = None
    hidden: bool = False

    def typed_rows(self) -> np.ndarray:
        """(r,) bool: the panel's rows that belong to typed sites."""
        return np.repeat(np.isin(np.arange(len(self.panel.sites)), self.typed), np.diff(self.panel.row_start()))

    def turns(self) -> list[Window]:
        """The window of about TOGETHER targets each, as few as hold all, equally many but that samples are whole."""
        n = self.alleles.shape[1]
        first = first_haplotypes(self.ploidy, n)
        ends = np.unique(np.linspace(0, len(first) - 1, -(-n // TOGETHER) + 1).astype(int))
        return [self._of_samples(slice(a, b), slice(first[a], first[b])) for a, b in pairwise(ends)]

    def _of_samples(self, samples: slice, haplotypes: slice) -> Window:
        ploidy, out = self.ploidy, self.elsewhere
        return replace(
            self,
            alleles=self.alleles[:, haplotypes],
            ploidy=None if ploidy is None else ploidy[samples],
            elsewhere=None if out is None else out._replace(alleles=out.alleles[:, haplotypes]),
        )


@dataclass(frozen=True)
class WindowSize:
    """How a contig is cut: cores of ``core_cm``, each with ``flank_cm`` more on either side."""

    core_cm: float
    flank_cm: float


def _most_sites(k: int, n: int) -> int:
    """That a window may write, of k panel and n target haplotypes. A site costs a bit and, with classes over ~32 sites,
    two more bits a panel haplotype; dosages twice."""
    in_memory = WINDOW_BYTES / (k / 8 + k / 16 + 8 * min(n, TOGETHER))
    return max(MIN_WINDOW_SITES, int(min(in_memory, WAITING_BYTES / (4 * n))))


class _Buffer:
    """Consecutive chunks of one contig, joined when they are asked for; the first ``written`` sites are a flank."""

    def __init__(self, genetic_map: GeneticMap):
        self._map = genetic_map
        self._chunks: list[Haplotypes] = []
        self._cm: list[np.ndarray] = []
        self.written = 0

    def add(self, chunk: Haplotypes) -> None:
        self._chunks.append(chunk)
        self._cm.append(self._map.to_cm(chunk.sites.contig, chunk.sites.pos))

    def joined(self) -> tuple[Haplotypes, np.ndarray]:
        if len(self._chunks) > 1:
            self._chunks = [Haplotypes.concat(self._chunks)]
            self._cm = [np.concatenate(self._cm)]
        return self._chunks[0], self._cm[0]

    def unwritten(self) -> int:
        return sum(len(cm) for cm in self._cm) - self.written

    def core_stop(self, most: int, size: WindowSize) -> int | None:
        """Where the core that begins at the first unwritten site ends; None while its right flank is not complete."""
        reach = self._cm[0][self.written] + size.core_cm
        if self.unwritten() <= most and self._cm[-1][-1] <= reach + size.flank_cm:
            return None
        panel, cm = self.joined()
        stop = min(int(np.searchsorted(cm, reach, side="right")), self.written + most)
        # Records at one position stay together: the target records there are aligned with all of them.
        stop = int(np.searchsorted(panel.sites.pos, panel.sites.pos[stop - 1], side="right"))
        if cm[-1] <= cm[stop - 1] + size.flank_cm:
            return None
        return stop

    def forget(self, stop: int, size: WindowSize) -> None:
        """Drops what no later window needs, now that the sites before ``stop`` are written."""
        panel, cm = self.joined()
        flank = int(np.searchsorted(cm, cm[stop] - size.flank_cm, side="left"))
        self._chunks, self._cm = [panel.slice(flank, len(cm))], [cm[flank:].copy()]
        self.written = stop - flank


def cut_windows(
    chunks: Iterable[Haplotypes],
    targets: Targets,
    genetic_map: GeneticMap,
    size: WindowSize,
    mending: Mending = AS_WRITTEN,
) -> Iterator[Window]:
    """Cuts the panel chunks of a contig, or of a stretch where nobody's ploidy changes, into windows. Where windows end
    depends on the panel's sites, the genetic map and the numbers of haplotypes alone, never on how the chunks were cut.

    mending: which targets are used that are not spelled as in the panel. What their strand is when alleles do not tell
    is decided in each window, flanks and all, by itself.
    """
    buffer = _Buffer(genetic_map)
    span_start = 0
    for chunk in chunks:
        buffer.add(chunk)
        most = _most_sites(chunk.k, targets.alleles.shape[1])
        while (stop := buffer.core_stop(most, size)) is not None:
            last_pos = buffer.joined()[0].sites.pos[stop - 1]
            span = (span_start, int(np.searchsorted(targets.sites.pos, last_pos, side="right")))
            yield _window(buffer, stop, span, size, targets, mending)
            buffer.forget(stop, size)
            span_start = span[1]
    if buffer.unwritten():
        stop = buffer.written + buffer.unwritten()
        yield _window(buffer, stop, (span_start, len(targets.sites)), size, targets, mending)


def _window(
    buffer: _Buffer, stop: int, span: tuple[int, int], size: WindowSize, targets: Targets, mending: Mending
) -> Window:
    panel, cm = buffer.joined()
    last = int(np.searchsorted(cm, cm[stop - 1] + size.flank_cm, side="right"))
    panel, cm = panel.slice(0, last), cm[:last]
    first, end = np.searchsorted(targets.sites.pos, [panel.sites.pos[0], panel.sites.pos[-1] + 1])
    first, end = min(first, span[0]), max(end, span[1])
    near = targets.slice(first, end)
    alignment = aligned(panel, near, mending)
    return Window(
        panel=panel,
        cm=cm,
        typed=alignment.panel_index,
        alleles=alignment.translated(near.alleles),
        start=buffer.written,
        stop=stop,
        span=span,
        kind=alignment.kind[span[0] - first : span[1] - first],
        ploidy=targets.ploidy,
    )
