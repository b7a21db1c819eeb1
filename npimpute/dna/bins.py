"""Embeddings along whole contigs: the mean state of every bin of so many bases.

Axes: l bases, t tokens, n bins, e width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .chunked import CHUNK, stream
from .config import NTConfig
from .genome import Genome
from .predict import Progress, Reader
from .tokens import N, bases, reverse_complement
from .windows import OK, UNKNOWN


def check_whole(reader: Reader) -> None:
    """Raises ConfigError where a contig cannot be read in one go."""
    if reader.config.length is None and isinstance(getattr(reader.network, "config", None), NTConfig):
        raise ConfigError("--bin: ntv2 reads windows, one by one: give --length, such as 12000")


def embed_bins(
    reader: Reader, genome: Genome, contig: str, size: int, progress: Progress = lambda share: None
) -> tuple[list[str], np.ndarray]:
    """Status and mean state (n, e) float32 of the bins of ``contig``, over both strands; the last may be shorter.

    Without a ``length`` the contig is one sequence, read in chunks that hand their states on: bins know all of it. With
    one it is cut into such windows, each read by itself. A bin without a known base is NaN.
    """
    total = genome.lengths[genome.name(contig)]
    step = reader.config.length or max(1, total)  # a contig may be empty
    count = -(-total // size)
    sums = torch.zeros(count, reader.width)
    counts = torch.zeros(count)
    starts = range(0, total, step)
    for i, start in enumerate(starts):
        letters = genome.fetch(contig, start, min(start + step, total))
        for j, turned in enumerate(reader.strands):
            done = (i * len(reader.strands) + j, len(starts) * len(reader.strands))
            for states, places in _pieces(reader, letters, turned, progress, done):
                bins = torch.from_numpy((start + places) // size)
                sums.index_add_(0, bins, states)
                counts.index_add_(0, bins, torch.ones(len(bins)))
    means = (sums / counts[:, None]).numpy()
    return [UNKNOWN if empty else OK for empty in (counts == 0).tolist()], means


@torch.no_grad()
def _pieces(
    reader: Reader, letters: np.ndarray, turned: bool, progress: Progress, done: tuple[int, int]
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """States of known tokens (k, e), float32, on the CPU, and the first base of each (k,) in ``letters``."""
    if turned:
        letters = reverse_complement(letters)
    before, parts = done
    if reader.words.width == 1:  # a token is a base: nothing is held but the sequence
        tokens, firsts = bases(letters, np.uint8), None
    else:
        tokens, spans = reader.words.encode(letters)
        firsts = len(letters) - spans[:, 1] if turned else spans[:, 0]
    for start, states in _states(reader, tokens, lambda share: progress((before + share) / parts)):
        end = start + len(states)
        places = np.arange(start, end) if firsts is None else firsts[start:end]
        if turned and firsts is None:
            places = len(letters) - 1 - places
        known = tokens[start:end] < (N if firsts is None else reader.words.unknown)
        yield states[torch.from_numpy(known).to(states.device)].float().cpu(), places[known]
    progress((before + 1) / parts)


def _states(reader: Reader, tokens: np.ndarray, progress: Progress) -> Iterator[tuple[int, Tensor]]:
    """The states (n, e) of a sequence (t,) in pieces, each with the number of its first token."""
    if reader.config.length is None or reader.config.chunk is not None:
        pieces = stream(reader.network, tokens, reader.config.chunk or CHUNK, reader.device, progress)
        yield from ((start, states) for start, _, states in pieces)
    else:
        whole = torch.from_numpy(tokens.astype(np.int64))[None].to(reader.device)
        yield 0, reader.network(whole)[1][0]
