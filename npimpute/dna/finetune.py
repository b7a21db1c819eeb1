"""Fine-tuning: labels of places or of variants, told from the sequence around them.

Axes: b rows, t tokens, o outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, InputError
from .genome import Genome
from .heads import HeadConfig, Headed, HeadedConfig, head_loss, save_headed
from .tables import Table
from .tokens import N, Tokeniser, bases, reverse_complement, tokeniser
from .windows import (
    INDEL,
    OK,
    UNKNOWN,
    Interval,
    Variant,
    centred,
    check_contigs,
    counted,
    interval_status,
    pair,
    warn_of_build,
)

log = logging.getLogger(__name__)
# Rows told at a time.
ROWS = 16
Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class FinetuneConfig:
    """Of the head and its data. Raises ConfigError.

    length: bases that are read around a place or a variant. pool, hidden: see ``heads.HeadConfig``. reverse_complement:
    read either strand in training, at random, and average both when labels are told; not of tables with a strand.
    """

    length: int = 12_000
    pool: int = 1536
    hidden: int = 0
    reverse_complement: bool = True

    def __post_init__(self) -> None:
        for name in ("length", "pool"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} {getattr(self, name)}: 1 or more")
        if self.hidden < 0:
            raise ConfigError(f"data.hidden {self.hidden}: 0 or more")


class Windows(NamedTuple):
    """tokens: (b, t); weights: (b, t) of the mean over t. Of variants tokens are those of the reference allele, other
    (b, t) those of the other allele, and weights (2, b, t)."""

    tokens: Tensor
    weights: Tensor
    other: Tensor | None = None

    def to(self, device: str) -> Windows:
        return Windows(*(None if t is None else t.to(device) for t in self))


def head_config(task: str, table: Table, config: FinetuneConfig) -> HeadConfig:
    """The head for the labels of the training rows of ``table``. Raises InputError or ConfigError."""
    classes, mean, scale = (), (), ()
    if task in ("classification", "variants"):
        if len(table.columns) != 1:
            names = ", ".join(table.columns)
            raise ConfigError(f"--task {task}: learns one column, and {table.path} has {names}: name it with --labels")
        classes = tuple(sorted({row[0] for row in table.labels if row[0]}))
        if len(classes) < 2:
            raise InputError(f"{table.path}: its training rows are of {len(classes)} class; two or more are needed")
    if task == "regression":
        values = table.numbers()
        if empty := [name for name, column in zip(table.columns, values.T, strict=True) if np.isnan(column).all()]:
            raise InputError(f"{table.path}: {empty[0]} is missing in every training row")
        mean = tuple(map(float, np.nanmean(values, 0)))
        scale = tuple(float(value) or 1.0 for value in np.nanstd(values, 0))
    stranded = table.stranded or not config.reverse_complement
    options = {"pool": config.pool, "hidden": config.hidden, "stranded": stranded}
    return HeadConfig(task, table.columns, config.length, classes, mean, scale, **options)


def labels_of(table: Table, head: HeadConfig) -> np.ndarray:
    """(n,) int64 classes, -1 where missing; or (n, o) float32, standardised for "regression", NaN where missing.

    Raises InputError for a class that training had not, and for labels of "multi-label" other than 0 and 1.
    """
    if head.has_classes:
        known = {name: i for i, name in enumerate(head.classes)} | {"": -1}
        for (name,) in table.labels:
            if name not in known:
                raise InputError(f"{table.path}: class {name} is not one of training ({', '.join(head.classes)})")
        return np.array([known[name] for (name,) in table.labels], np.int64)
    values = table.numbers()
    if head.task == "multi-label":
        if wrong := values[np.isfinite(values) & (values != 0) & (values != 1)].tolist():
            raise InputError(f"{table.path}: a label is {wrong[0]:g}; those of multi-label are 0 and 1")
        return values.astype(np.float32)
    return ((values - np.array(head.mean)) / np.array(head.scale)).astype(np.float32)


class Rows:
    """Rows of a table as windows. Those that cannot be read (see ``windows.Pair.status``) or whose labels are all
    missing are left out, and the log says how many and why. Raises InputError where none is left."""

    def __init__(self, genome: Genome, table: Table, head: HeadConfig, vocabulary: int):
        self._genome, self._head, self._words = genome, head, tokeniser(vocabulary)
        check_contigs(genome, [place.contig for place in table.places], table.path)
        labels = labels_of(table, head)
        known = labels >= 0 if head.has_classes else np.isfinite(labels).any(1)
        self.status = [self._status(place) for place in table.places]
        usable = np.array([status in (OK, INDEL) for status in self.status])
        self.kept = np.flatnonzero(known & usable)
        self.labels, self._places = labels[self.kept], [table.places[i] for i in self.kept]
        why = counted(np.where(known, self.status, "without a label").tolist())
        if not len(self.kept):
            raise InputError(f"{table.path}: no row can be used: {why}; is it of the build of {genome.path}?")
        if len(self.kept) < len(table):
            log.warning("%s: %d of %d rows are used: %s", table.path, len(self.kept), len(table), why)
            warn_of_build(genome, self.status, table.path)

    def __len__(self) -> int:
        return len(self._places)

    def _status(self, place: Interval | Variant) -> str:
        if isinstance(place, Variant):
            return pair(self._genome, place, self._head.length).status
        status = interval_status(self._genome, place)
        if status == OK and (bases(self._letters(place)) == N).all():
            return UNKNOWN
        return status

    def _letters(self, place: Interval) -> np.ndarray:
        return self._genome.fetch(place.contig, *centred(place.start, place.end, self._head.length))

    def windows(self, rows: np.ndarray, turned: np.ndarray) -> Windows:
        """Those of ``rows``. turned: (b,) bool, read on the other strand than the place's."""
        found = [self._window(self._places[i], bool(turn)) for i, turn in zip(rows, turned, strict=True)]
        tokens, weights, *other = (torch.from_numpy(np.stack(parts)) for parts in zip(*found, strict=True))
        if not other:
            return Windows(tokens, weights)
        return Windows(tokens, torch.stack([weights, other[1]]), other[0])

    def _window(self, place: Interval | Variant, turned: bool) -> tuple[np.ndarray, ...]:
        head = self._head
        if isinstance(place, Variant):
            both = pair(self._genome, place, head.length)
            first = both.index - head.pool // 2
            ends = (first, first + head.pool)
            return (*self._read(both.ref, ends, turned), *self._read(both.alt, ends, turned))
        return self._read(self._letters(place), (0, head.length), turned != (place.strand == "-"))

    def _read(self, letters: np.ndarray, pooled: tuple[int, int], turned: bool) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and weights (t,) of the mean over the known ones within ``pooled``, bases of the window."""
        first, end = pooled
        if turned:
            letters, first, end = reverse_complement(letters), len(letters) - end, len(letters) - first
        return read_window(self._words, letters, first, end)


def read_window(
    words: Tokeniser, letters: np.ndarray, first: int, end: int, encode: Encode | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (t,) of a window, and float32 weights (t,), which sum to 1, of the mean over the known tokens that bases
    ``first`` to ``end`` touch; over all tokens where none of these is known. encode: ``words.fixed`` (t = l // width
    whatever the letters), if None, or ``words.encode``, which leaves nothing out."""
    tokens, spans = (encode or words.fixed)(letters)
    inside = (spans[:, 1] > first) & (spans[:, 0] < end) & (tokens < words.unknown)
    weights = (inside if inside.any() else np.ones(len(tokens), bool)).astype(np.float32)
    return tokens, weights / weights.sum()


class LabelTask:
    """See ``train.loop.Task``. judged: rows to validate on, or None."""

    def __init__(
        self,
        network: Headed,
        config: HeadedConfig,
        rows: Rows,
        judged: Rows | None,
        device: str = "cpu",
    ):
        self.network, self._config, self._device = network, config, device
        self._rows, self._judged = rows, judged
        self._either = not config.head.stranded

    @property
    def judges(self) -> bool:
        """Whether there are rows to validate on."""
        return self._judged is not None

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Windows, Tensor]:
        rows = rng.integers(0, len(self._rows), count)
        turned = rng.random(count) < 0.5 if self._either else np.zeros(count, bool)
        return self._rows.windows(rows, turned), torch.from_numpy(self._rows.labels[rows])

    def loss(self, network: nn.Module, batch: Any, share: float) -> tuple[Tensor, dict[str, float]]:
        windows, labels = batch
        loss = head_loss(self._config.head, network(*windows.to(self._device)), labels.to(self._device))
        return loss, {"loss": float(loss.detach())}

    def validate(self) -> dict[str, Any]:
        """The mean loss, and as what is to be large ("all": "pooled") its negative."""
        if self._judged is None:
            return {}
        told = tell(self.network, self._judged, self._either, self._device)
        loss = float(head_loss(self._config.head, told, torch.from_numpy(self._judged.labels)))
        log.info("validation: loss %.4f over %d rows", loss, len(self._judged))
        return {"loss": loss, "rows": len(self._judged), "all": {"pooled": -loss}}

    def save(self, path: Path) -> None:
        save_headed(path, self.network, self._config)


@torch.no_grad()
def tell(
    network: Headed,
    rows: Rows,
    both_strands: bool,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """The head's outputs (n, o), float32, on the CPU: before softmax or sigmoid, or standardised numbers."""
    network.eval()
    found = []
    for chosen in _parts(len(rows)):
        strands = (False, True) if both_strands else (False,)
        told = [network(*rows.windows(chosen, np.full(len(chosen), turn)).to(device)) for turn in strands]
        found.append(torch.stack(told).mean(0).float().cpu())
        progress((chosen[-1] + 1) / len(rows))
    return torch.cat(found)


def _parts(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, ROWS):
        yield np.arange(start, min(start + ROWS, count))


def predictions(head: HeadConfig, told: Tensor) -> np.ndarray:
    """What is told, as users know it: (n, o) probabilities of classes or labels, or numbers in the labels' units."""
    if head.has_classes:
        return told.softmax(-1).numpy()
    if head.task == "multi-label":
        return told.sigmoid().numpy()
    return told.numpy() * np.array(head.scale) + np.array(head.mean)
