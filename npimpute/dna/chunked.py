"""One long sequence through a recurrent network in chunks: exact, in the memory of one chunk whatever the length.

Every layer reads both ways, so the next layer's leftward direction needs all of this one's output. Layer by layer:
a sweep from right to left keeps what the leftward direction hands over at each cut; a sweep from left to right, with
these and with what the rightward direction hands over, computes the outputs chunk by chunk. Both the activations
between two layers and the states at the cuts lie in a temporary file, read and written explicitly: mapped into memory,
they would count as memory. Only the leftward recurrence runs twice; time is linear in the length.

Axes: l length, s strands (2 of a network that reads both), e model width, v vocabulary.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..outputs import file_errors
from .backbone import Bidirectional

# Tokens. On a CPU longer chunks are no faster, and take more memory; a GPU is busier with longer ones.
CHUNK = 4096


class Scratch:
    """A temporary file of rows of numbers, gone when it is closed. Raises InputError where it cannot be written."""

    def __init__(self, place: Path | None, width: int, dtype: np.dtype):
        self._place = Path(tempfile.gettempdir() if place is None else place)
        self._width, self._dtype = width, np.dtype(dtype)
        with file_errors(self._place):
            self._file = tempfile.TemporaryFile(dir=self._place, buffering=0)

    def close(self) -> None:
        self._file.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``: (stop - start, width)."""
        rows = np.empty((stop - start, self._width), self._dtype)
        with file_errors(self._place):
            self._through(lambda part, at: os.preadv(self._file.fileno(), [part], at), rows, start)
        return rows

    def write(self, start: int, rows: np.ndarray) -> None:
        """Rows (n, width) from ``start`` on."""
        with file_errors(self._place):
            self._through(lambda part, at: os.pwrite(self._file.fileno(), part, at), np.ascontiguousarray(rows), start)

    def _through(self, call: Callable[[memoryview, int], int], rows: np.ndarray, start: int) -> None:
        # The system may move less than it is asked to, 2 GB at most.
        left, at = memoryview(rows).cast("B"), start * self._width * self._dtype.itemsize
        while left:
            done = call(left, at)
            if not done:
                raise OSError(f"the temporary file ends before byte {at}")
            left, at = left[done:], at + done


class _States:
    """States at the cuts of a sequence, each a row of a temporary file."""

    def __init__(self, place: Path | None):
        self._place, self._file, self._like = place, None, ()

    def write(self, i: int, state: tuple[Tensor, ...]) -> None:
        row = np.concatenate([_array(x).ravel() for x in state])
        if self._file is None:  # all are alike, and the first tells how long they are
            self._file, self._like = Scratch(self._place, len(row), row.dtype), state
        self._file.write(i, row[None])

    def read(self, i: int) -> tuple[Tensor, ...]:
        parts = torch.from_numpy(self._file.read(i, i + 1)[0]).split([x.numel() for x in self._like])
        return type(self._like)(*(part.view_as(x).to(x) for part, x in zip(parts, self._like, strict=True)))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Sequence:
    """A sequence on its way through the layers. Each strand counts positions from where it begins."""

    def __init__(self, network: Bidirectional, tokens: np.ndarray, strands: int, file: Scratch):
        self._network, self._tokens, self._strands, self._file = network, tokens, strands, file
        self._weight = network.embedding.weight

    def embedded(self, start: int, stop: int) -> Tensor:
        """What enters the first layer: (s, stop - start, e)."""
        length = len(self._tokens)
        rows = [self._of(start, stop)]
        if self._strands == 2:
            rows.append(self._network.other_strand(self._of(length - stop, length - start)))
        return self._network.embedding(torch.cat(rows))

    def _of(self, start: int, stop: int) -> Tensor:
        piece = np.array(self._tokens[start:stop], np.int64)
        return torch.from_numpy(piece)[None].to(self._weight.device)

    def kept(self, start: int, stop: int) -> Tensor:
        """What the last layer so far left there: (s, stop - start, e)."""
        return torch.cat([self.strand(k, start, stop) for k in range(self._strands)])

    def strand(self, k: int, start: int, stop: int) -> Tensor:
        """``kept`` of one strand: (1, stop - start, e)."""
        first = k * len(self._tokens)
        return torch.from_numpy(self._file.read(first + start, first + stop))[None].to(self._weight)

    def keep(self, start: int, x: Tensor) -> None:
        for k in range(self._strands):
            self._file.write(k * len(self._tokens) + start, _array(x[k]))


def stream(
    network: Bidirectional,
    tokens: np.ndarray,
    chunk: int = CHUNK,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda share: None,
    averaged: bool = False,
    scratch: Path | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What ``network(tokens)`` gives of one sequence, in pieces of ``chunk`` tokens, from left to right.

    tokens: (l,) base tokens, any whole-number dtype, read piece by piece. device: where the network goes and runs.
    averaged: what ``network.averaged(tokens)`` gives. scratch: a directory for the temporary file, 4 e s l bytes and
    what the states take; the system's own if None. progress: called with the share that is done.

    Gives (start, logits (n, v), hidden states (n, width)) per piece, on the device. No gradients. Raises ConfigError
    for a network that cannot be cut (ntv2), and InputError where the temporary file cannot be written.
    """
    if not isinstance(network, Bidirectional):
        raise ConfigError(
            "--chunk: only caduceus and hawk hand a state from chunk to chunk; ntv2 reads its "
            "windows whole: give it shorter ones"
        )
    if chunk < 1:
        raise ConfigError(f"--chunk {chunk}: at least 1 token")
    return _stream(network.to(device), tokens, chunk, 2 if averaged or network.shared else 1, scratch, progress)


@torch.no_grad()
def _stream(network, tokens, chunk, strands, place, progress) -> Iterator[tuple[int, Tensor, Tensor]]:
    length = len(tokens)
    if not length:
        return
    spans = [(start, min(start + chunk, length)) for start in range(0, length, chunk)]
    total, done = len(spans) * (2 * len(network.layers) + 1), 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done / total)

    weight = network.embedding.weight
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(contextlib.closing(Scratch(place, weight.shape[1], _array(weight[:0]).dtype)))
        states = stack.enter_context(contextlib.closing(_States(place)))
        sequence = _Sequence(network, tokens, strands, file)
        load = sequence.embedded
        for layer in network.layers:
            _leftward(layer, load, spans, states, tick)
            _rightward(layer, load, spans, states, sequence.keep, tick)
            load = sequence.kept
        for start, stop in spans:
            own = sequence.strand(0, start, stop)
            if strands == 1:
                logits, hidden = network.read(own)
            else:
                logits, hidden = network.join(own, sequence.strand(1, length - stop, length - start).flip(1))
            tick()
            yield start, logits[0], hidden[0]


def _leftward(layer: nn.Module, load: Callable, spans: list[tuple[int, int]], states: _States, tick: Callable) -> None:
    """Keeps what the leftward direction hands over at every cut; cut i lies after chunk i."""
    state = None
    for i in range(len(spans) - 1, 0, -1):
        state = layer.leave_left(load(*spans[i]), state)
        states.write(i - 1, state)
        tick()
    tick()


def _rightward(
    layer: nn.Module, load: Callable, spans: list[tuple[int, int]], states: _States, keep: Callable, tick: Callable
) -> None:
    """Keeps the layer's outputs, each chunk's in the place of its inputs."""
    right = None
    for i, span in enumerate(spans):
        left = states.read(i) if i < len(spans) - 1 else None
        x, (right, _) = layer(load(*span), (right, left))
        keep(span[0], x)
        tick()


def _array(x: Tensor) -> np.ndarray:
    """float32, or float64 of that: numpy has no bfloat16."""
    x = x if x.dtype == torch.float64 else x.float()
    return x.cpu().numpy()
