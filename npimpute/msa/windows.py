"""Windows of alignments as networks read them: drawn for training, laid over held-out stretches for validation.

Axes: b windows, m rows (species of the model, the reference first), l columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, InputError
from .alphabet import GAP, MASK, complement
from .store import Alignment
from .stretches import Stretch

# Windows that are tried for one whose reference has a base.
TRIES = 1000


@dataclass(frozen=True)
class MaskingConfig:
    """What is hidden of a window in training. Raises ConfigError.

    masked: share of the reference's bases that are to be predicted; of these, the share ``random`` are shown as a
    random base and the share ``kept`` as they are, the rest as a mask. sparsity: share of the other rows that skip the
    row mixer. reverse_complement: half of the windows are of the other strand. validate_bases: columns of held-out
    stretches that are validated on, at most.
    """

    masked: float = 0.15
    random: float = 0.1
    kept: float = 0.1
    sparsity: float = 0.5
    reverse_complement: bool = True
    validate_bases: int = 65_536

    def __post_init__(self) -> None:
        if not 0 < self.masked <= 1:
            raise ConfigError(f"data.masked {self.masked}: a share above 0, up to 1")
        for name in ("random", "kept", "sparsity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.{name} {getattr(self, name)}: a share between 0 and 1")
        if self.random + self.kept > 1:
            raise ConfigError(f"data.random {self.random} and data.kept {self.kept}: more than 1 together")
        if self.validate_bases < 1:
            raise ConfigError(f"data.validate_bases {self.validate_bases}: at least 1")


class Rows:
    """The rows of an alignment in a model's order; those that the alignment lacks are gaps.

    Raises InputError where the two have other references.
    """

    def __init__(self, alignment: Alignment, species: tuple[str, ...]):
        if alignment.species[0] != species[0]:
            raise InputError(
                f"{alignment.path}: its reference is {alignment.species[0]}, the model's {species[0]}; "
                "use an alignment to the model's reference"
            )
        self._alignment, self._count = alignment, len(species)
        places = {name: i for i, name in enumerate(alignment.species)}
        self._to = [i for i, name in enumerate(species) if name in places]
        self._from = [places[name] for name in species if name in places]

    def window(self, contig: str, start: int, end: int) -> np.ndarray:
        """(m, l) uint8, see ``Alignment.window``."""
        out = np.full((self._count, end - start), GAP, np.uint8)
        out[self._to] = self._alignment.window(contig, start, end)[self._from]
        return out


class WindowSource:
    """Draws windows of ``length`` columns from ``stretches``, all places alike.

    Raises ConfigError where none of them is as long, InputError where the reference has next to no bases there.
    """

    def __init__(self, rows: Rows, stretches: list[Stretch], length: int, reverse_complement: bool):
        self._rows, self._length, self._both = rows, length, reverse_complement
        self._stretches = [s for s in stretches if s.end - s.start >= length]
        if not self._stretches:
            longest = max((s.end - s.start for s in stretches), default=0)
            raise ConfigError(
                f"length {length}: the longest stretch to train on has {longest} columns; give a smaller --length, or "
                "hold out less"
            )
        places = np.array([s.end - s.start - length + 1 for s in self._stretches])
        self._ends = places.cumsum()

    @property
    def places(self) -> int:
        """How many different windows there are."""
        return int(self._ends[-1])

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, m, l) uint8; every window's reference has a base."""
        return np.stack([self._window(rng) for _ in range(count)])

    def _window(self, rng: np.random.Generator) -> np.ndarray:
        for _ in range(TRIES):
            place = int(rng.integers(self.places))
            i = int(np.searchsorted(self._ends, place, side="right"))
            stretch = self._stretches[i]
            start = stretch.end - self._length - (int(self._ends[i]) - 1 - place)
            codes = self._rows.window(stretch.contig, start, start + self._length)
            if (codes[0] != GAP).any():
                return complement(codes[:, ::-1]) if self._both and rng.random() < 0.5 else codes
        raise InputError(f"{TRIES} windows in a row have no base in the reference; build the alignment with its FASTA")


def hide(codes: np.ndarray, masking: MaskingConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a network is shown of windows (b, m, l) and what it is to tell: (b, m, l) uint8, and (b, l) bool.

    Only bases of the reference are asked for, at least one, and only there do the codes change.
    Source: Devlin et al. 2019, arXiv 1810.04805, section 3.1.
    """
    reference = codes[:, 0]
    known = reference != GAP
    asked = known & (rng.random(reference.shape) < masking.masked)
    if not asked.any():
        asked.flat[rng.choice(np.flatnonzero(known))] = True
    how = rng.random(reference.shape)
    shown = np.where(how < masking.random, rng.integers(4, size=reference.shape, dtype=np.uint8), np.uint8(MASK))
    shown = np.where(how >= 1 - masking.kept, reference, shown)
    out = codes.copy()
    out[:, 0] = np.where(asked, shown, reference)
    return out, asked


def skipped(shape: tuple[int, int], sparsity: float, rng: np.random.Generator) -> np.ndarray:
    """(b, m) bool: rows that skip the row mixer, ``sparsity`` of the auxiliary rows of every window and never row 0.

    Where that is no whole number, windows have the one below or above it by chance.
    """
    b, m = shape
    count = np.floor(sparsity * (m - 1) + rng.random(b)).astype(int)
    order = rng.random((b, m - 1)).argsort(1).argsort(1)
    return np.concatenate([np.zeros((b, 1), bool), order < count[:, None]], 1)


def tiles(stretch: Stretch, bounds: tuple[int, int], length: int) -> list[tuple[int, int, int]]:
    """Windows of ``length`` columns over a stretch: (start, first, last), of which columns first to last are judged.

    Each column of the stretch is judged once. Windows stay in the stretch; one that is shorter than them lies in the
    middle of its window, which stays in ``bounds`` where it can.
    """
    if stretch.end - stretch.start <= length:
        start = (stretch.start + stretch.end - length) // 2
        start = max(bounds[0], min(start, bounds[1] - length))
        return [(start, stretch.start, stretch.end)]
    firsts = range(stretch.start, stretch.end, length)
    return [(min(first, stretch.end - length), first, min(first + length, stretch.end)) for first in firsts]


def held_out_windows(
    rows: Rows,
    stretches: list[Stretch],
    bounds: dict[str, tuple[int, int]],
    length: int,
    masking: MaskingConfig,
    seed: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows over held-out stretches, with what is asked of each: (m, l) uint8, and (l,) bool, some in each.

    bounds: what of each contig is covered. The bases that are asked for do not depend on the windows' length, unless
    there are more columns than are to be validated on.
    """
    found = []
    for i, stretch in enumerate(stretches):
        draw = np.random.default_rng([seed, i]).random(stretch.end - stretch.start) < masking.masked
        for start, first, last in tiles(stretch, bounds[stretch.contig], length):
            codes = rows.window(stretch.contig, start, start + length)
            asked = np.zeros(length, bool)
            asked[first - start : last - start] = draw[first - stretch.start : last - stretch.start]
            if (asked := asked & (codes[0] != GAP)).any():
                found.append((codes, asked))
    most = max(1, masking.validate_bases // length)
    chosen = np.linspace(0, len(found) - 1, most).round().astype(int) if len(found) > most else range(len(found))
    return [found[i] for i in chosen]
