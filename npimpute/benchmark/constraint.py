"""Stretches of the genome under constraint against stretches that are not: can a model tell their positions apart?

A position's score is how much more likely the model holds the reference's base to be than the three others, which it
does not see (``msa.score.constraint``). Intervals are of bootstrap samples of whole elements.

Axes: n positions, e elements.
"""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..config import check_device
from ..errors import ConfigError, InputError
from ..msa.alphabet import GAP
from ..msa.maf import lines
from ..msa.score import constraint, make_scorer
from ..msa.store import Alignment
from ..msa.stretches import Stretch, held_out
from ..vcf.records import clip
from .ranking import curve, ranked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConstraintConfig:
    """One comparison. Paths are as given; see ``npimpute benchmark constraint --help``. Raises ConfigError.

    positions: at most so many of each kind are scored, evenly spaced; 0: all.
    """

    msa: Path
    models: tuple[str, ...]
    features: tuple[Path, ...]
    positive_features: tuple[str, ...]
    negative_features: tuple[str, ...]
    out: Path
    hold_out: tuple[str, ...] = ()
    positions: int = 0
    batch: int = 64
    device: str | None = None
    threads: int = 1
    both_strands: bool = True
    bootstrap: int = 200
    seed: int = 1

    def __post_init__(self) -> None:
        check_device(self.device)
        if not self.models or len(set(self.models)) < len(self.models):
            raise ConfigError("--model: name one or more, each once")
        if not self.features:
            raise ConfigError("--features: name a GFF or BED file")
        if not self.positive_features or not self.negative_features:
            raise ConfigError("--positive-features and --negative-features: each needs the name of a feature")
        if set(self.positive_features) & set(self.negative_features):
            raise ConfigError("--positive-features and --negative-features: must differ")
        if min(self.batch, self.threads) < 1 or min(self.positions, self.bootstrap, self.seed) < 0:
            raise ConfigError("--batch and --threads are 1 or more; --positions, --bootstrap and --seed 0 or more")


class Positions(NamedTuple):
    """contig: (n,) number among ``contigs``; at: (n,) 0-based; element: (n,) its number; positive: (n,) bool."""

    contigs: tuple[str, ...]
    contig: np.ndarray
    at: np.ndarray
    element: np.ndarray
    positive: np.ndarray
    bases: np.ndarray


def benchmark(config: ConstraintConfig, progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
    """The measures as plain values, ready for JSON. Raises InputError and ConfigError."""
    alignment = Alignment.open(config.msa)
    places = labelled_positions(config, alignment)
    entries = []
    for i, model in enumerate(config.models):
        scorer = make_scorer(model, alignment, config.batch, config.device, config.threads, config.both_strands)
        values = np.empty(len(places.at))
        for j, contig in enumerate(places.contigs):
            own = places.contig == j
            values[own] = constraint(scorer.log_p(contig, places.at[own]), places.bases[own])
        entries.append(_entry(config, model, values, places))
        progress((i + 1) / len(config.models))
    elements = np.unique(places.element, return_index=True)[1]
    return {
        "kind": "constraint",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "settings": {name: _plain(value) for name, value in vars(config).items()},
        "positive_elements": int(places.positive[elements].sum()),
        "negative_elements": int((~places.positive[elements]).sum()),
        "scores": entries,
    }


def _entry(config: ConstraintConfig, model: str, values: np.ndarray, places: Positions) -> dict[str, Any]:
    sizes = np.bincount(places.element)
    kept = sizes > 0
    means = np.bincount(places.element, values)[kept] / sizes[kept]
    labels = np.bincount(places.element, places.positive)[kept] > 0
    parts = [
        {"group": "positions"} | ranked(places.positive, values, config.bootstrap, config.seed, places.element),
        {"group": "elements"} | ranked(labels, means, config.bootstrap, config.seed),
    ]
    return {"name": model, "scored": len(values), "groups": parts, "curve": curve(places.positive, values)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def labelled_positions(config: ConstraintConfig, alignment: Alignment) -> Positions:
    """Positions of the features where the reference has a base; those that are in both kinds are left out.

    A position is of the first of its elements. Raises InputError where one kind has none.
    """
    elements = [(name, stretch) for path in config.features for name, stretch in read_features(path, alignment)]
    within = held_out(config.hold_out, alignment) if config.hold_out else None
    contigs = tuple(dict.fromkeys(stretch.contig for _, stretch in elements))
    found: dict[bool, dict[tuple[int, int], int]] = {True: {}, False: {}}
    for number, (name, stretch) in enumerate(elements):
        for kind, names in ((True, config.positive_features), (False, config.negative_features)):
            if name in names:
                places = _places(stretch, within, alignment)
                for at in places:
                    found[kind].setdefault((contigs.index(stretch.contig), at), number)
    both = found[True].keys() & found[False].keys()
    if both:
        log.info("%d positions are in features of both kinds: left out", len(both))
    parts = []
    for kind, names in ((True, config.positive_features), (False, config.negative_features)):
        own = sorted((*key, number) for key, number in found[kind].items() if key not in both)
        if not own:
            seen = ", ".join(f"{name} {n}" for name, n in Counter(name for name, _ in elements).most_common(8))
            raise InputError(f"no position of {', '.join(names)} is in the alignment; features there: {seen or 'none'}")
        if config.positions and len(own) > config.positions:
            own = [own[i] for i in np.linspace(0, len(own) - 1, config.positions).round().astype(int)]
        parts += [(*place, kind) for place in own]
    contig, at, element, positive = (np.array(column) for column in zip(*parts, strict=True))
    bases = np.array([alignment.window(contigs[c], a, a + 1)[0, 0] for c, a in zip(contig, at, strict=True)])
    return Positions(contigs, contig, at, element, positive.astype(bool), bases)


def _places(stretch: Stretch, within: Sequence[Stretch] | None, alignment: Alignment) -> list[int]:
    low, high = alignment.contigs[stretch.contig]
    start, end = max(stretch.start, low), min(stretch.end, high)
    if start >= end:
        return []
    known = alignment.window(stretch.contig, start, end)[0] < GAP
    if within is not None:
        inside = np.zeros(end - start, bool)
        for part in within:
            if part.contig == stretch.contig:
                inside[max(0, part.start - start) : max(0, part.end - start)] = True
        known &= inside
    return (start + np.flatnonzero(known)).tolist()


def read_features(path: Path, alignment: Alignment) -> list[tuple[str, Stretch]]:
    """(name, stretch) of a GFF or GTF file (column 3; 1-based) or a BED file (column 4; 0-based), also gzip.

    Features of contigs that the alignment lacks are left out. Raises InputError at a line that is none.
    """
    bed = path.name.lower().removesuffix(".gz").endswith(".bed")
    first, last, column, width = (1, 2, 3, 4) if bed else (3, 4, 2, 5)
    found, others = [], 0
    for number, line in lines(path):
        if not line.strip() or line.startswith((b"#", b"track", b"browser")):
            continue
        words = line.decode("utf-8", "replace").split("\t")
        ends = words[first : last + 1] if len(words) >= width else []
        if len(ends) < 2 or not all(word.isdigit() for word in ends) or int(ends[1]) < int(ends[0]) + bed:
            what = "BED (contig, start, end, name)" if bed else "GFF"
            shown = clip(line.decode("utf-8", "replace"))
            raise InputError(f"{path}, line {number}: not a line of {what} with tabs: {shown!r}")
        if not alignment.has(words[0]):
            others += 1
            continue
        start = int(ends[0]) - (not bed)
        found.append((words[column], Stretch(alignment.name(words[0]), start, int(ends[1]))))
    if others:
        log.info("%s: %d features are of contigs that %s lacks", path, others, alignment.path)
    return found
