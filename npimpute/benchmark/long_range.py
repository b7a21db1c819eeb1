"""Masked-language loss of long-range DNA models against the length of their context.

The same tokens are hidden and told at every length: they lie in short segments, and only the context around a segment
grows. Axes: k tokens that are told, V vocabulary.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .. import __version__
from ..config import check_growing
from ..dna.chunked import CHUNK
from ..dna.config import NTConfig
from ..dna.genome import Genome, open_genome
from ..dna.model_files import CONFIG, load_config, load_model
from ..dna.predict import ReadConfig, Reader, Window
from ..dna.pretrain import PretrainConfig
from ..dna.regions import Stretch, stretches
from ..dna.tokens import Tokeniser
from ..engine.device import choose_device
from ..engine.model_files import WEIGHTS
from ..errors import ConfigError
from ..outputs import file_errors
from .machine import machine
from .trials import claimed, fingerprint

log = logging.getLogger(__name__)
POINTS = "points.jsonl"
CONTEXTS = (2_000, 4_000, 8_000, 12_000, 24_000, 48_000, 96_000, 120_000, 250_000, 500_000, 1_000_000)


@dataclass(frozen=True)
class LossConfig:
    """What is measured, on what. Paths are as given. Raises ConfigError.

    models: label -> directory. region: what no model was trained on, such as chr20:1-500,000; the context stays in it
    where it fits. contexts: bases. segments: so many, of as many bases as the shortest context, evenly over the
    region; mask: share of their tokens that are hidden. trained_length: bases of the windows that models were trained
    on: for ntv2, position interpolation begins beyond it. minutes: a model goes on to longer contexts until one takes
    longer than this.
    """

    out: Path
    fasta: Path
    models: dict[str, Path]
    region: str
    contexts: tuple[int, ...] = CONTEXTS
    segments: int = 16
    mask: float = PretrainConfig.mask
    trained_length: int = 12_000
    minutes: float = math.inf
    device: str | None = None
    threads: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("give --model LABEL=DIR, once or more")
        check_growing("--contexts", self.contexts, 6)
        if self.segments < 1 or self.trained_length < 1 or not 0 < self.mask < 1 or not self.minutes > 0:
            raise ConfigError("--segments and --trained-length are 1 or more, --minutes above 0")


@dataclass(frozen=True)
class _Segment:
    """A stretch whose tokens (t,) are told where ``hidden`` (k,); start: of the stretch in the contig."""

    contig: str
    start: int
    end: int
    tokens: np.ndarray
    hidden: np.ndarray


def loss_benchmark(config: LossConfig, progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """Runs what is not done yet and returns the results, plain values as in results.json.

    Raises InputError or ConfigError.
    """
    device = choose_device(config.device, config.threads)
    for path in config.models.values():
        load_config(path)
    names = ("fasta", "region", "segments", "mask", "trained_length", "seed")
    settings = {name: fingerprint(getattr(config, name)) for name in names}
    with claimed(config.out, settings | {"shortest": config.contexts[0]}):
        genome = open_genome(config.fasta)
        region = _region(genome, config)
    entries = [(label, path, kind) for label, path in config.models.items() for kind in _kinds(path)]
    programs = []
    for i, (label, path, interpolated) in enumerate(entries):
        share = lambda part: progress((i + part) / len(entries))  # noqa: B023, E731
        programs.append(_Curve(config, genome, region, label, path, interpolated, device).measured(share))
    return {
        "kind": "long-range-loss",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(config.threads),
        "settings": {name: str(value) for name, value in asdict(config).items()},
        "programs": programs,
    }


def _region(genome: Genome, config: LossConfig) -> Stretch:
    region, *more = stretches(genome, [config.region])
    length = region.end - region.start
    if more or length < config.contexts[0]:
        raise ConfigError(
            f"--region {config.region}: one stretch, no shorter than the shortest context ({config.contexts[0]}), is "
            f"needed; it has {length} bases"
        )
    return region


def _kinds(path: Path) -> tuple[bool, ...]:
    """Without position interpolation and, where a model has positions, with it."""
    return (False, True) if isinstance(load_config(path), NTConfig) else (False,)


def segments(genome: Genome, region: Stretch, words: Tokeniser, config: LossConfig) -> list[_Segment]:
    """Those of a tokeniser, the same each time; what is hidden is drawn from the seed."""
    size = config.contexts[0] // words.width * words.width
    room = region.end - region.start - size
    found = []
    for i in range(config.segments):
        start = region.start + room * (2 * i + 1) // (2 * config.segments)
        tokens, _ = words.encode(genome.fetch(region.contig, start, start + size))
        known = np.flatnonzero(tokens < words.unknown)
        count = max(1, round(config.mask * len(known)))
        hidden = np.random.default_rng([config.seed, i]).permutation(known)[:count]
        found.append(_Segment(region.contig, start, start + size, tokens, np.sort(hidden)))
    return found


def context_of(genome: Genome, region: Stretch, segment: _Segment, length: int) -> tuple[int, int] | None:
    """``length`` bases of the contig with the segment in their middle, or as near to it as the region allows, or the
    contig where the region is shorter; None where that is shorter, too."""
    whole = Stretch(region.contig, 0, genome.lengths[region.contig])
    within = next((s for s in (region, whole) if s.end - s.start >= length), None)
    if within is None:
        return None
    start = (segment.start + segment.end - length) // 2
    start = min(max(start, within.start), within.end - length)
    return start, start + length


class _Curve:
    """One model at every context, the points kept on disk as soon as they are known."""

    def __init__(
        self,
        config: LossConfig,
        genome: Genome,
        region: Stretch,
        label: str,
        path: Path,
        interpolated: bool,
        device: str,
    ):
        self._config, self._genome, self._region, self._path, self._device = config, genome, region, path, device
        self._label, self._interpolated = f"{label} interpolated" if interpolated else label, interpolated
        self._points = config.out / POINTS

    def measured(self, progress: Callable[[float], None]) -> dict[str, Any]:
        """Label and points: context, nats per token and per base, share told right, seconds, by segment."""
        network, settings = load_model(self._path)
        base = Reader(network, settings.vocabulary, ReadConfig(), self._device).words
        found = segments(self._genome, self._region, base, self._config)
        kept, points, ended = self._kept(), [], ""
        total = sum(self._config.contexts)
        for length in self._config.contexts:
            if context_of(self._genome, self._region, found[0], length) is None:
                ended = f"{self._region.contig} is shorter than {length}"
            elif points and points[-1]["seconds"] > 60 * self._config.minutes:
                ended = f"{points[-1]['context']} bases took more than {self._config.minutes:g} minutes"
            if ended:
                log.info("%s: no more contexts: %s", self._label, ended)
                break
            if length not in kept:
                if self._interpolated:
                    network.position_interpolation = max(1.0, length / self._config.trained_length)
                chunk = None if isinstance(settings, NTConfig) or length <= CHUNK else CHUNK
                reader = Reader(network, settings.vocabulary, ReadConfig(chunk=chunk), self._device)
                kept[length] = self._point(reader, found, length)
                self._keep(kept[length])
            points.append(kept[length])
            progress(sum(point["context"] for point in points) / total)
        return {"label": self._label, "name": self._label, "points": points, "ended": ended, "hidden": base.width}

    def _point(self, reader: Reader, found: list[_Segment], length: int) -> dict[str, Any]:
        started = time.perf_counter()
        losses, right, counts = [], 0, []
        windows = [self._window(reader.words, i, segment, length) for i, segment in enumerate(found)]
        for window, _, logits in reader.read(iter(windows), len(windows)):
            true = torch.from_numpy(window.alleles[0])
            losses.append(float(F.cross_entropy(logits, true, reduction="sum")))
            right += int((logits.argmax(-1) == true).sum())
            counts.append(len(true))
        loss = sum(losses) / sum(counts)
        log.info("%s, context %d: loss %.4f", self._label, length, loss)
        return {
            "context": length,
            "loss": loss,
            "loss_per_base": loss / reader.words.width,
            "accuracy": right / sum(counts),
            "tokens": sum(counts),
            "segments": [value / count for value, count in zip(losses, counts, strict=True)],
            "seconds": time.perf_counter() - started,
        }

    def _window(self, words: Tokeniser, row: int, segment: _Segment, length: int) -> Window:
        """The segment's tokens, which are the same in every context, and those of its sides, cut to whole words."""
        start, end = context_of(self._genome, self._region, segment, length)
        start, end = start + (segment.start - start) % words.width, end - (end - segment.end) % words.width
        left, _ = words.encode(self._genome.fetch(segment.contig, start, segment.start))
        right, _ = words.encode(self._genome.fetch(segment.contig, segment.end, end))
        shown = segment.tokens.copy()
        shown[segment.hidden] = words.mask
        tokens = np.concatenate([left, shown, right])
        weights = np.full(len(tokens), 1 / len(tokens), np.float32)
        true = segment.tokens[segment.hidden][None]
        return Window(row, tokens, weights, len(left) + segment.hidden, true)

    def _identity(self) -> list[Any]:
        return [self._label, *(fingerprint(self._path / name) for name in (CONFIG, WEIGHTS))]

    def _kept(self) -> dict[int, dict[str, Any]]:
        if not self._points.exists():
            return {}
        whole, _, _ = self._points.read_text().rpartition("\n")  # a line that was cut off is measured again
        lines = [json.loads(line) for line in whole.splitlines()]
        ours = json.loads(json.dumps(self._identity()))
        return {line["point"]["context"]: line["point"] for line in lines if line["model"] == ours}

    def _keep(self, point: dict[str, Any]) -> None:
        with file_errors(self._points), open(self._points, "a") as file:
            file.write(json.dumps({"model": self._identity(), "point": point}) + "\n")


def differences(program: dict[str, Any]) -> Iterator[tuple[int, float, float]]:
    """Context, nats per base more than at the shortest context, and the standard error of that over segments."""
    first = np.array(program["points"][0]["segments"])
    for point in program["points"]:
        apart = (np.array(point["segments"]) - first) / program["hidden"]
        error = float(apart.std(ddof=1) / math.sqrt(len(apart))) if len(apart) > 1 else math.nan
        yield point["context"], float(apart.mean()), error
