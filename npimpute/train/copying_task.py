"""Learning to correct what a copying model copies: the task of the network over typed sites.

People of a panel are hidden, both haplotypes of each, and imputed by the engine's own passes from others of the panel,
from a random array, at a random Ne. What they carry is what the network learns to say.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..context.hidden import hide
from ..context.windows import Elsewhere, Window
from ..engine.checkpoint import save_model
from ..engine.copying import CERTAIN, Copying, CopyingConfig, Places, sequences
from ..engine.copying_network import CopyingNetwork, Rows, WithLayers
from ..engine.li_stephens import copying_model
from ..engine.npssm import Judges, NPSSMEngine, Reader, Ready, WithoutLayers
from ..engine.parameters import START_NE
from ..engine.self_imputed import self_impute
from ..errors import ConfigError
from ..types import Haplotypes, Sites
from .data import ArrayConfig, Region, check_ranges, random_array
from .validate import HeldOut, compare

log = logging.getLogger(__name__)

# Windows with fewer typed sites teach little.
LEAST_TYPED = 12
TRIES = 100


@dataclass(frozen=True)
class CopyingDataConfig(ArrayConfig):
    """How windows are drawn, beside their arrays. Raises ConfigError.

    simulated: share of the draws that take a simulated panel, where there are others too. people: of the panel,
    log-uniformly between the two (a region with fewer gives all). alike: share of the draws whose people are those
    most like one of them, as in a panel of one ancestry. hidden: people who are imputed. typed: a window has so many
    typed sites at most; rows: and about so many rows. ne: Ne over what is estimated, log-uniformly between the two;
    err: error rate, likewise. calibrate: panel haplotypes that are hidden to learn of the rows, likewise, but none in a
    share ``uncalibrated`` of the draws. per_sequence: rows of a sequence that are learnt from, at most. windows: 0 to
    draw a new window for every batch; else so many are drawn once, kept in memory, and learnt from again and again,
    which is worth its while where drawing takes longer than learning: batches may then be small and many
    (loop.accumulate).
    """

    simulated: float = 0.1
    people: tuple[int, int] = (250, 800)
    alike: float = 0.3
    hidden: int = 24
    typed: int = 128
    rows: int = 2500
    ne: tuple[float, float] = (0.6, 1.6)
    err: tuple[float, float] = (1e-3, 2e-3)
    calibrate: tuple[int, int] = (200, 2000)
    uncalibrated: float = 0.2
    per_sequence: int = 192
    windows: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, ("people", 20, 1e9), ("ne", 1e-3, 1e3), ("err", 1e-6, 0.4), ("calibrate", 2, 1e9))
        for name in ("simulated", "alike", "uncalibrated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.{name} {getattr(self, name)}: between 0 and 1")
        for name, least in (("hidden", 1), ("typed", LEAST_TYPED), ("rows", 1), ("per_sequence", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"data.{name} {getattr(self, name)}: at least {least}")
        if self.windows < 0:
            raise ConfigError(f"data.windows {self.windows}: 0 or more")
        if self.hidden > self.people[0] // 2:
            raise ConfigError(f"data.hidden {self.hidden}: at most half of data.people {self.people[0]}")


@dataclass(frozen=True)
class Batch:
    """Sequences and untyped rows of each. truth: (q, r) float32, the target's allele; counts: (q, r) float32, 1 for a
    row, 0 for what fills up."""

    haplotype: Tensor
    site: Tensor
    posterior: Tensor
    rows: Rows
    truth: Tensor
    counts: Tensor

    def to(self, device: str) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = Rows(*(part.to(device) for part in values.pop("rows")))
        return Batch(rows=rows, **{name: value.to(device) for name, value in values.items()})


class Drawn(NamedTuple):
    """A window with hidden people as its targets, as far as it needs no weights.

    truth: (r, n) uint8, what they carry. known: see ``Untyped``. targets, rows: (x,) int64 each, where the copying
    model is not sure.
    """

    copying: Copying
    window: Window
    truth: np.ndarray
    known: np.ndarray
    targets: np.ndarray
    rows: np.ndarray


class CopyingSource:
    """Draws batches from regions (with cM), each in proportion to the root of its rows. Raises ConfigError.

    seed: of the windows that are kept, if any; threads: that draw those. simulated: so many regions, the last, are.
    """

    def __init__(
        self,
        regions: list[Region],
        config: CopyingDataConfig,
        model: CopyingConfig,
        seed: int = 1,
        threads: int = 1,
        simulated: int = 0,
    ):
        self._regions, self._config, self._model, self._seed, self._threads = regions, config, model, seed, threads
        self._kept: list[Drawn] = []
        for region in regions:
            if min(region.k // 2, config.people[0]) < 2 * config.hidden:
                raise ConfigError(f"{region.name}: {region.k // 2} people; data.hidden takes {config.hidden} of them")
        share = np.sqrt([len(region.pos) for region in regions])
        if 0 < simulated < len(regions):
            share[-simulated:] *= config.simulated / share[-simulated:].sum()
            share[:-simulated] *= (1 - config.simulated) / share[:-simulated].sum()
        self._share = share / share.sum()

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """At most ``count`` sequences of one window. Raises ConfigError where no array leaves anything to learn."""
        if not self._config.windows:
            return self._batch(self._draw(rng), rng, count)
        if not self._kept:
            log.info("drawing %d windows to learn from", self._config.windows)
            generators = [np.random.default_rng([self._seed, number]) for number in range(self._config.windows)]
            with ThreadPoolExecutor(self._threads) as pool:
                self._kept = list(pool.map(self._draw, generators))
        return self._batch(self._kept[rng.integers(self._config.windows)], rng, count)

    def _draw(self, rng: np.random.Generator) -> Drawn:
        for _ in range(TRIES):
            drawn = self._window(self._regions[rng.choice(len(self._regions), p=self._share)], rng)
            drawn = None if drawn is None else self._imputed(*drawn, rng)
            if drawn is not None:
                return drawn
        raise ConfigError(
            f"{TRIES} draws gave no window of {LEAST_TYPED} typed sites with a row where copying is not sure; "
            "lower data.spacing_kb"
        )

    def _window(self, region: Region, rng: np.random.Generator) -> tuple[Window, np.ndarray] | None:
        """A window with hidden people as its targets, and what they carry, (r, n) uint8."""
        config = self._config
        array = random_array(region, config, rng)
        span = config.typed
        first = int(rng.integers(max(1, len(array) - span + 1)))
        ends = (
            0 if first == 0 else array[first],
            len(region.pos) if first + span >= len(array) else array[first + span],
        )
        array = array[first : first + span]
        rows = np.arange(*ends)
        if len(rows) > config.rows:
            rows = np.union1d(rng.choice(rows, config.rows, replace=False), array)
        alleles = region.alleles(rows)
        people = self._people(alleles[np.searchsorted(rows, array)], rng)
        alleles = alleles.reshape(len(alleles), -1, 2)[:, people].reshape(len(alleles), -1)
        varies = (alleles.min(axis=1) < 1) & (alleles.max(axis=1) > 0)
        rows, alleles = rows[varies], alleles[varies]
        typed = np.flatnonzero(np.isin(rows, array))
        n = len(rows)
        sites = Sites(region.name, region.pos[rows], [""] * n, ["A"] * n, ["C"] * n)
        panel = Haplotypes(sites, np.packbits(alleles, axis=1, bitorder="little"), alleles.shape[1])
        none = np.empty((len(typed), 0), np.int8)
        whole = Window(panel, region.cm[rows], typed, none, 0, n, (0, 0), np.empty(0, np.uint8))
        if len(typed) < LEAST_TYPED:
            return None
        whole = replace(whole, elsewhere=self._elsewhere(region, people, rng))
        window, columns = hide(whole, np.sort(rng.choice(len(people), config.hidden, replace=False)))
        return window, alleles[:, columns]

    def _elsewhere(self, region: Region, people: np.ndarray, rng: np.random.Generator) -> Elsewhere | None:
        """Sites of other regions that have these people, of none or some or all as chance has it: whole chromosomes
        tell more of ancestry than a region does."""
        who, codes = set(region.samples), []
        others = [other for other in self._regions if other is not region and who and who <= set(other.samples)]
        for i in rng.permutation(len(others))[: rng.integers(len(others) + 1)]:
            place = {name: number for number, name in enumerate(others[i].samples)}
            chosen = [place[region.samples[person]] for person in people]
            alleles = others[i].alleles(random_array(others[i], self._config, rng))
            codes.append(alleles.reshape(len(alleles), -1, 2)[:, chosen].reshape(len(alleles), -1))
        return Elsewhere(np.concatenate(codes), np.empty((sum(map(len, codes)), 0), np.int8)) if codes else None

    def _people(self, typed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Some of the region's people, (p,) int64 increasing. typed: (t, k) uint8 alleles."""
        people = typed.shape[1] // 2
        low, high = (min(number, people) for number in self._config.people)
        size = round(math.exp(rng.uniform(math.log(low), math.log(high))))
        if rng.random() >= self._config.alike:
            return np.sort(rng.choice(people, size, replace=False))
        dosage = typed[:, ::2].astype(np.float32) + typed[:, 1::2]
        dosage -= dosage.mean(axis=1, keepdims=True)
        likeness = dosage.T @ dosage[:, rng.integers(people)]
        return np.sort(np.argsort(-likeness, kind="stable")[:size])

    def _imputed(self, window: Window, truth: np.ndarray, rng: np.random.Generator) -> Drawn | None:
        config, model = self._config, self._model
        share, err = (math.exp(rng.uniform(*np.log(ends))) for ends in (config.ne, config.err))
        ne, _ = copying_model(model, None, err, seed=int(rng.integers(2**31))).estimate(window, config.hidden)
        engine = copying_model(model, share * (ne or START_NE), err)
        copying = engine.copying(window, model.size, model.haplotypes)
        hidden = round(math.exp(rng.uniform(*np.log(config.calibrate)))) if rng.random() >= config.uncalibrated else 0
        known = self_impute(engine.impute, window, hidden, int(rng.integers(2**31))).features()
        targets, rows = np.nonzero(~window.typed_rows() & (copying.p > CERTAIN) & (copying.p < 1 - CERTAIN))
        if not len(rows):
            return None
        # What may be kept in memory is not more than is learnt from.
        return Drawn(copying, replace(window, elsewhere=None), truth, known, targets, rows)

    def _batch(self, drawn: Drawn, rng: np.random.Generator, count: int) -> Batch:
        config, copying, rows = self._config, drawn.copying, drawn.rows
        sequence = drawn.targets * copying.ranking.haplotypes.shape[1] + Places.of(copying).stretch[rows]
        chosen = rng.permutation(np.unique(sequence))[:count]
        picked = []
        for s in chosen:
            here = np.flatnonzero(sequence == s)
            picked.append(rows[rng.permutation(here)[: config.per_sequence]])
        return make_batch(copying, self._model, chosen, picked, drawn.window, drawn.known, drawn.truth)


def make_batch(
    copying: Copying,
    model: CopyingConfig,
    chosen: np.ndarray,
    picked: list[np.ndarray],
    window: Window,
    known: np.ndarray,
    truth: np.ndarray,
) -> Batch:
    """chosen: (q,) sequences, target x stretch; picked: the rows of each. The others: see ``Drawn``."""
    n, w, m = copying.ranking.haplotypes.shape
    wanted = np.zeros(n * w, bool)
    wanted[chosen] = True
    found, places = sequences(copying, 0, wanted.reshape(n, w), model.flank), Places.of(copying)
    order, alleles = found.number.ravel()[chosen], window.panel.alleles(slice(None))
    shape = (len(chosen), max(map(len, picked)))
    left, right = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    fraction, truths, counts = (np.zeros(shape, np.float32) for _ in range(3))
    p, carried = np.full(shape, 0.5, np.float32), np.zeros((*shape, m), np.float32)
    told = np.zeros((*shape, known.shape[1]), np.float32)
    for i, (s, rows) in enumerate(zip(chosen, picked, strict=True)):
        here, target = (i, slice(len(rows))), s // w
        left[here], right[here] = places.left[rows], places.right[rows]
        fraction[here], p[here] = copying.prepared.queries.fraction[rows], copying.p[target, rows]
        carried[here], told[here] = alleles[rows][:, found.haplotypes[order[i]]], known[rows]
        truths[here], counts[here] = truth[rows, target], 1
    rows = Rows(*map(torch.from_numpy, (left, right, fraction, carried, p, told)))
    parts = (found.haplotype[order], found.site[order], found.posterior[order])
    return Batch(*map(torch.from_numpy, parts), rows, *map(torch.from_numpy, (truths, counts)))


class CopyingTask:
    """See ``loop.Task``. network: made with ``config``."""

    def __init__(
        self,
        network: CopyingNetwork,
        config: CopyingConfig,
        source: CopyingSource,
        held_out: list[HeldOut],
        device: str = "cpu",
        threads: int = 1,
    ):
        self.network, self._config, self._source, self._device = network, config, source, device
        self._held_out, self._threads = held_out, threads
        self._ready: list[tuple[Ready, Judges | None]] = []

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        return self._source.draw(rng, count)

    def loss(self, network: nn.Module, batch: Batch, share: float) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy; beside it that of the copying model on the same rows."""
        batch = batch.to(self._device)
        logits = network(batch.haplotype, batch.site, batch.posterior, batch.rows)
        total = batch.counts.sum()
        loss = (F.binary_cross_entropy_with_logits(logits, batch.truth, reduction="none") * batch.counts).sum() / total
        p = torch.where(batch.truth > 0, batch.rows.p, 1 - batch.rows.p)
        before = -(torch.log(p) * batch.counts).sum() / total
        return loss, {"loss": float(loss.detach()), "copied": float(before)}

    def validate(self) -> dict[str, Any]:
        if not self._held_out:
            return {}
        tensors = {name: value.cpu().numpy() for name, value in self.network.state_dict().items()}
        if self._config.layers:
            reader = WithLayers(self.network, self._device)
        else:
            reader = WithoutLayers(tensors)
        if not self._ready:
            for part in self._held_out:
                engine = self._engine(tensors, reader)
                self._ready.append((engine.ready(part.window), engine.judges(part.window)))
            before = compare((ready.copying.p for ready, _ in self._ready), self._held_out)
            log.info("held-out people: r2 %.4f by copying alone", before["all"]["pooled"])
        engine = self._engine(tensors, reader)
        corrected = (
            engine.correct(ready, ready.copying.p.copy(), engine.taken(judges)) for ready, judges in self._ready
        )
        found = compare(corrected, self._held_out)
        log.info("held-out people: r2 %.4f over %d alleles", found["all"]["pooled"], found["all"]["alleles"])
        return found

    def _engine(self, tensors: dict[str, np.ndarray], reader: Reader) -> NPSSMEngine:
        # Each window has an Ne of its own, as it would have in a run.
        copying = copying_model(self._config, threads=self._threads)
        return NPSSMEngine(self._config, tensors, reader, copying, self._config.calibrate, self._threads)

    def save(self, path: Path) -> None:
        save_model(path, self.network, self._config)
