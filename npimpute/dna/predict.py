"""What a network says of places in a genome: embeddings, and scores of variants.

Axes: b windows, l bases, t tokens, e width of the embedding, n rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..config import check_counts
from ..errors import ConfigError
from .chunked import stream
from .config import NTConfig
from .finetune import read_window
from .genome import Genome
from .model_files import load_model
from .tokens import N, Tokeniser, bases, reverse_complement, tokeniser
from .windows import INDEL, OK, UNKNOWN, Interval, Variant, centred, interval_status, pair

# Tokens that a network reads at a time, where windows are shorter.
TOKENS = 16_384
Progress = Callable[[float], None]


@dataclass(frozen=True)
class ReadConfig:
    """How sequence is read. Raises ConfigError.

    length: bases of a window, in whose middle the place is; None: an interval's or a contig's own. pool: bases around a
    variant's first letter over which states are averaged. chunk: tokens of a piece in which a window is read, each
    handing its state to the next; None: windows are read whole.
    """

    length: int | None = None
    pool: int = 1536
    chunk: int | None = None

    def __post_init__(self) -> None:
        given = {"length": self.length, "pool": self.pool, "chunk": self.chunk}
        check_counts(**{f"--{name}": value for name, value in given.items() if value is not None})


class Window(NamedTuple):
    """row: whose it is. tokens: (t,) int64; weights: (t,) float32 of the mean over t. told: (k,) places of tokens whose
    logits are wanted; alleles: (2, k), what these are with the reference and with the other allele. is_alt: it has the
    other allele."""

    row: int
    tokens: np.ndarray
    weights: np.ndarray
    told: np.ndarray = np.empty(0, np.int64)
    alleles: np.ndarray = np.empty((2, 0), np.int64)
    is_alt: bool = False


class Reader:
    """A network and how it reads. strands: the two of them, or only the first where the network is equivariant, so
    that both say the same."""

    def __init__(self, network: nn.Module, vocabulary: int, config: ReadConfig, device: str = "cpu"):
        self.network, self.config, self.device = network.to(device).eval(), config, device
        self.words: Tokeniser = tokeniser(vocabulary)
        self.strands = (False,) if getattr(network, "shared", False) else (False, True)

    @staticmethod
    def of(path: Path, config: ReadConfig, device: str = "cpu") -> Reader:
        """That of the model in directory ``path``. Raises InputError or ConfigError."""
        network, settings = load_model(path)
        if config.chunk is not None and isinstance(settings, NTConfig):
            raise ConfigError(f"--chunk: {path} is ntv2, which hands no state on; leave it away, or use another model")
        return Reader(network, settings.vocabulary, config, device)

    @property
    @torch.no_grad()
    def width(self) -> int:
        unknown = torch.full((1, 8), self.words.unknown, device=self.device)
        return self.network(unknown)[1].shape[-1]

    def window(self, row: int, letters: np.ndarray, first: int, end: int, turned: bool) -> Window:
        """Bases ``first`` to ``end`` of ``letters`` are averaged over. turned: read the other strand."""
        if turned:
            letters, first, end = reverse_complement(letters), len(letters) - end, len(letters) - first
        return Window(row, *read_window(self.words, letters, first, end, self.words.encode))

    @torch.no_grad()
    def read(
        self, windows: Iterable[Window], total: int, progress: Progress = lambda share: None
    ) -> Iterator[tuple[Window, Tensor, Tensor]]:
        """Each window with its mean state (e,), float64, for alleles differ by little, and its logits (k, V), float32,
        both on the CPU. total: windows at most."""
        done = 0
        for batch in self._batches(windows):
            if self.config.chunk is None:
                yield from self._whole(batch)
            else:
                yield batch[0], *self._streamed(batch[0], lambda share: progress((done + share) / total))  # noqa: B023
            done += len(batch)
            progress(done / total)

    def _batches(self, windows: Iterable[Window]) -> Iterator[list[Window]]:
        """Consecutive windows of one length, as many as make TOKENS; one at a time where they are streamed."""
        batch: list[Window] = []
        for window in windows:
            size = len(window.tokens)
            full = self.config.chunk is not None or (len(batch) + 1) * size > TOKENS
            if batch and (full or size != len(batch[0].tokens)):
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    def _whole(self, batch: list[Window]) -> Iterator[tuple[Window, Tensor, Tensor]]:
        tokens, weights = (
            torch.from_numpy(np.stack(rows)).to(self.device)
            for rows in ([window.tokens for window in batch], [window.weights for window in batch])
        )
        logits, states = self.network(tokens)
        means = torch.einsum("bte,bt->be", states.double(), weights.double()).cpu()
        for i, window in enumerate(batch):
            yield window, means[i], logits[i, torch.from_numpy(window.told).to(self.device)].float().cpu()

    def _streamed(self, window: Window, progress: Progress) -> tuple[Tensor, Tensor]:
        mean, told = torch.zeros(()), []
        for start, logits, states in stream(self.network, window.tokens, self.config.chunk, self.device, progress):
            here = slice(start, start + len(states))
            mean = mean + (torch.from_numpy(window.weights[here]).to(self.device).double() @ states.double()).cpu()
            within = window.told[(window.told >= here.start) & (window.told < here.stop)]  # in order
            told.append(logits[torch.from_numpy(within - start).to(self.device)].float().cpu())
        return mean, torch.cat(told)


def embed_intervals(
    reader: Reader, genome: Genome, intervals: Sequence[Interval], progress: Progress = lambda share: None
) -> tuple[list[str], np.ndarray]:
    """Status of each row, and the mean state (n, e) float32 over its bases, of both strands; NaN without."""
    status = [interval_status(genome, interval) for interval in intervals]

    def windows() -> Iterator[Window]:
        for i, place in enumerate(intervals):
            if status[i] != OK:
                continue
            length = reader.config.length
            start, end = (place.start, place.end) if length is None else centred(place.start, place.end, length)
            letters = genome.fetch(place.contig, start, end)
            first, last = max(place.start - start, 0), min(place.end - start, len(letters))
            if (bases(letters[first:last]) == N).all():
                status[i] = UNKNOWN
                continue
            for turned in reader.strands:
                yield reader.window(i, letters, first, last, turned)

    means = _means(reader, windows(), len(intervals), len(reader.strands), progress)
    return status, means


def embed_variants(
    reader: Reader, genome: Genome, variants: Sequence[Variant], progress: Progress = lambda share: None
) -> tuple[list[str], np.ndarray]:
    """Status of each row, and mean states (n, 2, e) around it with the reference and the other allele; NaN without."""
    status: list[str] = []

    def windows() -> Iterator[Window]:
        for i, variant in enumerate(variants):
            both = pair(genome, variant, reader.config.length)
            status.append(both.status)
            if both.status in (OK, INDEL):
                for turned in reader.strands:
                    yield _around(reader, 2 * i, both.ref, both.index, turned)
                    yield _around(reader, 2 * i + 1, both.alt, both.index, turned)

    means = _means(reader, windows(), 2 * len(variants), len(reader.strands), progress)
    return status, means.reshape(len(variants), 2, -1)


def _around(reader: Reader, row: int, letters: np.ndarray, index: int, turned: bool) -> Window:
    first = index - reader.config.pool // 2
    return reader.window(row, letters, first, first + reader.config.pool, turned)


def _means(reader: Reader, windows: Iterator[Window], rows: int, parts: int, progress: Progress) -> np.ndarray:
    """(rows, e): the mean over the windows of each row, ``parts`` of them; NaN where there is none."""
    means, found = np.zeros((rows, reader.width), np.float32), np.zeros(rows, bool)
    for window, mean, _ in reader.read(windows, rows * parts, progress):
        means[window.row] += mean.numpy() / parts
        found[window.row] = True
    means[~found] = np.nan
    return means


class Scores(NamedTuple):
    """(n,) float32, NaN where there is none. llr: log P(ALT) - log P(REF), in nats, of the variant's tokens when these
    are masked. distance: Euclidean, between the mean states around the variant with either allele; cosine: 1 less the
    cosine of their angle. All are means over both strands."""

    llr: np.ndarray
    distance: np.ndarray
    cosine: np.ndarray


def score_variants(
    reader: Reader,
    genome: Genome,
    variants: Sequence[Variant],
    distance: bool = True,
    progress: Progress = lambda share: None,
) -> tuple[list[str], Scores]:
    """Status and scores of each row; an indel has no llr. distance: without it, only llr, in a third of the time."""
    status: list[str] = []
    parts = len(reader.strands)
    found = np.full((len(Scores._fields), len(variants)), np.nan, np.float32)

    def windows() -> Iterator[Window]:
        for i, variant in enumerate(variants):
            both = pair(genome, variant, reader.config.length)
            status.append(both.status)
            if both.status == OK:
                found[0, i] = 0  # and stays so where the alleles are the same
            for turned in reader.strands if both.status in (OK, INDEL) else ():
                ref, alt = (_around(reader, i, letters, both.index, turned) for letters in (both.ref, both.alt))
                if both.status == OK and variant.ref != variant.alt:
                    yield _masked(reader, ref, alt)
                if distance:
                    yield ref
                    yield alt._replace(is_alt=True)

    for window, mean, logits in reader.read(windows(), len(variants) * parts * (3 if distance else 1), progress):
        if len(window.told):
            ref, alt = (logits[torch.arange(len(logits)), torch.from_numpy(tokens)].sum() for tokens in window.alleles)
            _add(found[:1, window.row], [float(alt - ref) / parts])
        elif not window.is_alt:
            before = mean
        else:
            apart = float((mean - before).norm()), 1 - float(torch.cosine_similarity(mean, before, 0))
            _add(found[1:, window.row], [value / parts for value in apart])
    return status, Scores(*found)


def _masked(reader: Reader, ref: Window, alt: Window) -> Window:
    """The reference's window with the tokens masked that differ between the alleles."""
    told = np.flatnonzero(ref.tokens != alt.tokens)
    tokens = ref.tokens.copy()
    tokens[told] = reader.words.mask
    return ref._replace(tokens=tokens, told=told, alleles=np.stack([ref.tokens[told], alt.tokens[told]]))


def _add(sums: np.ndarray, values: list[float]) -> None:
    """To sums that are NaN before the first."""
    sums[:] = np.where(np.isnan(sums), 0, sums) + values
