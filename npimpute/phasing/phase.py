"""Unphased targets -> haplotypes, against the panel and the other targets.

Axes: t typed sites that the panel has, k panel haplotypes, N targets. First every target is phased on its own from the
panel (``kernels.search``), then, a few times over, improved given the panel and all other targets as they were
(``kernels.improve``), so that neither their order nor the number of threads matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ..contigs import contig_key
from ..panel.align import AS_WRITTEN, Alignment, Mending
from ..panel.genetic_map import GeneticMap
from ..panel.panel import Panel
from ..panel.ploidy import Stretch, by_stretch
from ..panel.strand import aligned
from ..types import Haplotypes, Sites, Targets, first_haplotypes, present
from . import kernels

# Few arrays err more often, and phases depend little on it, nor on Ne within a factor of two.
ERR, NE = 1e-3, 1e5
ITERATIONS = 5
# Typed sites that are phased at a time, and how many of them neighbours share.
WINDOW, OVERLAP = 1_000, 150
# Haplotypes that a target is compared with in a window, at most; else those most like it in stretches of so many sites.
MOST_STATES, STRETCH = 1_200, 64


@dataclass(frozen=True)
class Phased:
    """The typed sites of one stretch that the panel has. sites: t of the panel. target_index: (t,) int64, their places
    among the targets' sites. turned: (t, N) bool, the genotype's two alleles have changed places. filled: (N, 2, t)
    int8, the haplotypes' alleles as the panel codes them, the likeliest where one is missing."""

    sites: Sites
    target_index: np.ndarray
    turned: np.ndarray
    filled: np.ndarray


@dataclass(frozen=True)
class _Window:
    """ref: (t, k) int8 codes of the panel. distance: (t,) float64, 4 Ne times Morgans from the site before. pairs:
    (N, 2, t) int8, is_open: (N, t) bool, of each target as in ``kernels``. copies: int64, of the 2N haplotypes those
    that haploid targets have twice."""

    ref: np.ndarray
    distance: np.ndarray
    pairs: np.ndarray
    is_open: np.ndarray
    copies: np.ndarray

    def anchored(self) -> np.ndarray:
        """(N,) bool: has a heterozygote whose phase is known."""
        return np.array([_is_anchored(*target) for target in zip(self.pairs, self.is_open, strict=True)])

    def cut(self, start: int, stop: int) -> _Window:
        """Sites start..stop-1."""
        part = slice(start, stop)
        pairs, is_open = self.pairs[:, :, part].copy(), self.is_open[:, part].copy()
        return _Window(self.ref[part], self.distance[part], pairs, is_open, self.copies)


def phase_targets(
    panel: Panel,
    targets: dict[str, list[Stretch]],
    genetic_map: GeneticMap,
    threads: int,
    ne: float | None = None,
    mending: Mending = AS_WRITTEN,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, list[Stretch]]:
    """The targets, by ``contig_key``, with every heterozygote phased that lies at a site of the panel; at other sites
    they keep the order in which they are written. Phases that are known are kept.

    ne: 1e5 if not given. mending: see ``align``. progress: called with the share done. Raises InputError where the map
    lacks a contig.
    """
    asked = {key: [_if_unphased(part) for part in contig] for key, contig in targets.items()}
    phased = {(part.contig, part.start): done for part, done in
              phase_stretches(panel, asked, genetic_map, threads, ne, mending, progress)}  # fmt: skip
    return {
        key: [_with_phase(part, phased.get((part.contig, part.start))) for part in contig]
        for key, contig in targets.items()
    }


def _if_unphased(part: Stretch) -> Stretch:
    """The stretch, without its sites where nothing is to be phased."""
    return part if part.targets.unphased is not None else replace(part, targets=part.targets.slice(0, 0))


def _with_phase(part: Stretch, phased: Phased | None) -> Stretch:
    """The stretch with the genotypes turned that are to be."""
    targets = part.targets
    if phased is None:
        return replace(part, targets=replace(targets, unphased=None))
    alleles = targets.alleles.copy()
    first = first_haplotypes(targets.ploidy, alleles.shape[1])
    site, sample = np.nonzero(phased.turned)
    site, left = phased.target_index[site], first[sample]
    alleles[site, left], alleles[site, left + 1] = alleles[site, left + 1], alleles[site, left]
    return replace(part, targets=replace(targets, alleles=alleles, unphased=None))


def phase_stretches(
    panel: Panel,
    targets: dict[str, list[Stretch]],
    genetic_map: GeneticMap,
    threads: int,
    ne: float | None = None,
    mending: Mending = AS_WRITTEN,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[Stretch, Phased]]:
    """Each stretch that has sites in the panel, and its phased genotypes. Arguments and errors as of
    ``phase_targets``."""
    reference = _at_targets(panel, targets)
    for number, (part, there) in enumerate(reference):
        tell = lambda share, number=number: progress((number + share) / len(reference))  # noqa: E731
        alignment = aligned(there, part.targets, mending)
        if len(alignment.target_index):
            yield part, _phase_stretch(there, part.targets, alignment, genetic_map, threads, ne or NE, tell)


def _at_targets(panel: Panel, wanted: dict[str, list[Stretch]]) -> list[tuple[Stretch, Haplotypes]]:
    """The panel at the positions of the targets, by stretch."""
    found = []
    for name, chunks in groupby(panel, key=lambda chunk: chunk.sites.contig):
        parts: dict[int, list[Haplotypes]] = {}
        contig = wanted.get(contig_key(name), [])
        for i, piece in by_stretch(panel, chunks, contig):
            near = np.isin(piece.sites.pos, contig[i].targets.sites.pos)
            if near.any():
                bits = piece.bits[np.repeat(near, piece.sites.n_alt())]
                parts.setdefault(i, []).append(replace(piece, sites=piece.sites.take(np.flatnonzero(near)), bits=bits))
        found += [(contig[i], Haplotypes.concat(pieces)) for i, pieces in parts.items()]
    return found


def _phase_stretch(
    panel: Haplotypes,
    targets: Targets,
    alignment: Alignment,
    genetic_map: GeneticMap,
    threads: int,
    ne: float,
    progress: Callable[[float], None],
) -> Phased:
    at, sites = alignment.target_index, panel.sites.take(alignment.panel_index)
    pairs = _in_pairs(alignment.translated(targets.alleles), targets.ploidy)
    pairs = np.ascontiguousarray(pairs.reshape(len(at), -1, 2).transpose(1, 2, 0))
    is_open = np.zeros((len(pairs), len(at)), np.bool_)
    if targets.unphased is not None:
        is_open[:] = targets.unphased[at].T
        # Of a half-missing call the half that is known is on no known haplotype.
        pairs[np.broadcast_to((pairs < 0).any(axis=1, keepdims=True), pairs.shape)] = -1
    cm = genetic_map.to_cm(sites.contig, sites.pos)
    distance = 0.04 * ne * np.maximum(np.diff(cm, prepend=cm[:1]), 1e-7)
    copies = np.zeros(0, np.int64) if targets.ploidy is None else np.flatnonzero(~present(targets.ploidy))
    window = _Window(panel.codes(alignment.panel_index), distance, pairs, is_open, copies)
    phased, filled = _phase_windows(window, threads, progress)
    turned = phased[:, 0] != pairs[:, 0]
    return Phased(sites, at, turned.T, filled)


def _in_pairs(alleles: np.ndarray, ploidy: np.ndarray | None) -> np.ndarray:
    """(t, 2N) int8: two columns a target, of a haploid one twice the same. alleles: (t, n)."""
    return alleles if ploidy is None else np.repeat(alleles, np.repeat(3 - ploidy, ploidy), axis=1)


def _phase_windows(whole: _Window, threads: int, progress: Callable[[float], None]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2, t) int8, twice: pairs phased, and with missing alleles filled. Windows are joined where they overlap."""
    phased, filled = whole.pairs.copy(), whole.pairs.copy()
    n_sites, held = len(whole.ref), np.zeros(len(whole.pairs), np.bool_)
    starts = range(0, max(1, n_sites - OVERLAP), WINDOW - OVERLAP)
    with ThreadPoolExecutor(threads) as pool:
        for number, start in enumerate(starts):
            stop = min(start + WINDOW, n_sites)
            window = whole.cut(start, stop)
            anchored = window.anchored()
            parts = _phase_window(window, pool)
            shared = slice(start, min(start + OVERLAP, stop) if number else start)
            turned = _turned(parts[0], phased[:, :, shared], whole.is_open[:, shared])
            # Haplotypes that have their names keep them: then all that came before is turned.
            back, turned = turned & anchored & ~held, turned & ~anchored
            held |= anchored
            cut = (shared.stop - start) // 2
            for out, part in zip((phased, filled), parts, strict=True):
                part[turned] = part[turned][:, ::-1]
                out[back, :, : start + cut] = out[back, ::-1, : start + cut]
                out[:, :, start + cut : stop] = part[:, :, cut:]
            progress((number + 1) / len(starts))
    return phased, filled


def _turned(part: np.ndarray, before: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """(N,) bool: most open sites go the other way round ``before``, which are the first of ``part`` (N, 2, l)."""
    first = part[:, 0, : before.shape[2]]
    same = ((first == before[:, 0]) & is_open).sum(axis=1)
    return ((first == before[:, 1]) & is_open).sum(axis=1) > same


def _phase_window(window: _Window, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (N, 2, l) int8 phased, and with missing alleles filled."""
    pairs, (n_sites, k) = window.pairs, window.ref.shape
    list(pool.map(lambda i: _search(window, i), np.flatnonzero(window.is_open.any(axis=1))))
    filled = np.where(pairs < 0, _commonest(window.ref), pairs)
    busy = np.flatnonzero(window.is_open.any(axis=1) | (pairs < 0).any(axis=(1, 2)))
    jump = _jumps(window.distance, k + 2 * (len(pairs) - 1) - len(window.copies))
    for _ in range(ITERATIONS if len(busy) else 0):
        every = np.concatenate([window.ref, filled.transpose(2, 0, 1).reshape(n_sites, -1)], axis=1)
        order = _by_content(every)
        place = np.argsort(order)[k:]
        own, copies = place.reshape(-1, 2), place[window.copies]
        every, after = every[:, order], (replace(window, pairs=pairs.copy()), filled.copy())
        apart = [np.append(own[i], copies) for i in busy]
        work = lambda i, apart, a=after, e=every: _improve(*a, e, apart, jump, i)  # noqa: E731
        changes = sum(pool.map(work, busy, apart))
        pairs, filled = after[0].pairs, after[1]
        if not changes:
            break
    return pairs, filled


def _search(window: _Window, i: int) -> None:
    """Phases target i in place from the panel."""
    is_open, pair = window.is_open[i], window.pairs[i]
    ref = _most_alike(window.ref, np.where(is_open, np.int8(-1), pair), np.empty(0, np.int64))
    jump = _jumps(window.distance, window.ref.shape[1])
    kernels.search(ref, jump, ERR, pair, is_open, _is_anchored(pair, is_open))


def _improve(window: _Window, filled: np.ndarray, every: np.ndarray, own: np.ndarray, jump: np.ndarray, i: int) -> int:
    """Improves target i in place given ``every`` (l, k + 2N) without the columns ``own``: its own, and copies."""
    is_open, pair = window.is_open[i], window.pairs[i]
    ref = _most_alike(every, pair, own)
    return kernels.improve(ref, jump, ERR, pair, is_open, _is_anchored(pair, is_open), filled[i])


def _is_anchored(pair: np.ndarray, is_open: np.ndarray) -> bool:
    """Whether a heterozygote's phase is known."""
    return bool(((pair[0] != pair[1]) & (pair >= 0).all(axis=0) & ~is_open).any())


def _by_content(every: np.ndarray) -> np.ndarray:
    """(k,) int64: an order of the columns of ``every`` (l, k) that their content gives, so that of those equally like a
    target the same are chosen in whatever order the targets come."""
    mixed = np.zeros(every.shape[1], np.uint64)
    for alleles in every:
        mixed = mixed * np.uint64(6364136223846793005) + alleles.astype(np.uint64) + np.uint64(1442695040888963407)
    return np.argsort(mixed, kind="stable")


def _most_alike(every: np.ndarray, pair: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(l, c) int8: columns of ``every`` (l, k) but ``own``: all, or the ``MOST_STATES`` that differ least
    from one of its haplotypes ``pair`` (2, l) in one of the stretches of sites."""
    n_sites, k = every.shape
    marks = np.ones(k, np.bool_)
    if k - len(own) > MOST_STATES:
        starts = np.append(np.arange(0, max(1, n_sites - STRETCH // 2), STRETCH), n_sites)
        apart = np.empty((2, len(starts) - 1, k), np.int32)
        kernels.distances(every, pair, starts, apart)
        apart[:, :, own] = n_sites
        marks[:] = False
        for stretches in apart:
            beside = np.pad(stretches, ((1, 1), (0, 0)))
            for here in 2 * stretches + beside[:-2] + beside[2:]:
                kernels.mark_nearest(here, max(1, MOST_STATES // (2 * len(stretches))), marks)
    marks[own] = False
    columns = np.flatnonzero(marks)
    out = np.empty((n_sites, len(columns)), np.int8)
    kernels.columns_of(every, columns, out)
    return out


def _commonest(ref: np.ndarray) -> np.ndarray:
    """(l,) int8: the commonest allele of each site. ref: (l, k)."""
    counts = np.stack([(ref == allele).sum(axis=1) for allele in range(int(ref.max()) + 1)])
    return counts.argmax(axis=0).astype(np.int8)


def _jumps(distance: np.ndarray, k: int) -> np.ndarray:
    """(l,) float64: the probability of leaving the copied haplotype, one of k, before each site; 0 before the first."""
    jumps = -np.expm1(-distance / k)
    jumps[0] = 0.0
    return jumps
