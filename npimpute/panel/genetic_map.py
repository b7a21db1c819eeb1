"""Genetic maps: bp -> cM."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from npimpute.contigs import contig_key
from npimpute.errors import ConfigError, InputError

END_CM = 5.0
"""cM at each end of a map whose mean rate is used beyond that end."""

_REMEDY = (
    "give a map of 4 columns without header (chrom id cM bp), of 3 columns with header 'pos chr cM', or of "
    "4 columns with header 'Chromosome Position(bp) Rate(cM/Mb) Map(cM)', plain or gzip"
)
_CHROM_NAMES = {"chr", "chrom", "chromosome"}
_BP_NAMES = {"pos", "bp", "position", "position(bp)"}
_CM_NAMES = {"cm", "map(cm)", "genetic_map(cm)"}


class _Layout(NamedTuple):
    """Which column holds what, how many columns a line has, and whether the first line is a header."""

    chrom: int
    bp: int
    cm: int
    width: int
    header: bool


@dataclass(frozen=True, eq=False)
class GeneticMap:
    """Where each bp of each contig lies in cM.

    source: the file it came from, for messages. points: by ``contig_key``, the map points (bp (m,) float64,
    increasing; cM (m,) float64, non-decreasing), m >= 2. cm_per_mb: a rate that holds on every contig instead
    of points, or None.
    """

    source: str
    points: Mapping[str, tuple[np.ndarray, np.ndarray]]
    cm_per_mb: float | None = None

    def to_cm(self, contig: str, pos: np.ndarray) -> np.ndarray:
        """(s,) float64 cM of ``pos`` (s,) int64, 1-based bp, in any order, none missing.

        Linear between map points. Beyond an end of the map, the mean rate over the points that reach just
        past ``END_CM`` (5 cM) from that end, or over the whole map where it is shorter, is continued; before
        the first point cM may therefore be negative. Only differences of cM mean anything.

        Raises InputError if the map does not have the contig ("chr" prefix ignored; X, chrX and 23 are one).
        """
        pos = np.asarray(pos)
        if self.cm_per_mb is not None:
            return pos * (self.cm_per_mb * 1e-6)
        bp, cm = self._contig(contig)
        out = np.interp(pos, bp, cm)
        before, after = pos < bp[0], pos > bp[-1]
        first, last = _end_rates(bp, cm)
        out[before] = cm[0] - (bp[0] - pos[before]) * first
        out[after] = cm[-1] + (pos[after] - bp[-1]) * last
        return out

    def _contig(self, contig: str) -> tuple[np.ndarray, np.ndarray]:
        found = self.points.get(contig_key(contig))
        if found is None:
            raise InputError(
                f"{self.source}: no map for contig {contig!r}; the file has {', '.join(self.points)}; "
                "give a genetic map that includes this contig"
            )
        return found


def constant_rate(cm_per_mb: float = 1.0) -> GeneticMap:
    """The map with the same rate (cM per Mb) everywhere on every contig; bp 0 is 0 cM.

    Raises ConfigError unless the rate is positive and finite.
    """
    if not 0 < cm_per_mb < float("inf"):
        raise ConfigError(f"a recombination rate of {cm_per_mb} cM/Mb was given; it must be a positive number")
    return GeneticMap(f"constant {cm_per_mb:g} cM/Mb", {}, float(cm_per_mb))


def read_genetic_map(path: str | os.PathLike) -> GeneticMap:
    """Read a genetic map, plain or gzip, of one or several contigs; the format is told by the content.

    PLINK/Beagle: 4 columns ``chrom id cM bp`` without header. GLIMPSE/SHAPEIT: header ``pos chr cM``. HapMap:
    header ``Chromosome Position(bp) Rate(cM/Mb) Map(cM)``, of which the rate is not used. Columns of a header
    may come in any order. Separated by blanks; empty lines are skipped; a repeated point is read once.

    Raises InputError: unreadable file, unknown format, wrong number of columns, a field that is not a number,
    bp or cM that decrease along a contig, two cM for one bp, fewer than 2 points of a contig.
    """
    path = os.fspath(path)
    data = _read_bytes(path)
    fields = data.split()
    number, widths = _count_fields(data)
    if not fields:
        raise InputError(f"{path}: the genetic map is empty; {_REMEDY}")
    layout = _layout(path, [_text(field) for field in fields[: widths[0]]])
    _check_width(path, number, widths)
    if layout.header:
        fields, number = fields[layout.width :], number[1:]
    bp = _numbers(path, fields[layout.bp :: layout.width], number, "bp")
    cm = _numbers(path, fields[layout.cm :: layout.width], number, "cM")
    _check_whole(path, bp, number)
    return GeneticMap(path, _by_contig(path, fields[layout.chrom :: layout.width], bp, cm, number))


def _read_bytes(path: str) -> bytes:
    """The content of a plain or gzip file, told apart by the first two bytes."""
    try:
        with open(path, "rb") as handle:
            data = handle.read()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or truncated gzip ({error}); copy or download the map again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the genetic map ({error.strerror}); check the path") from None
    return data.removeprefix(b"\xef\xbb\xbf")


def _count_fields(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Number, from 1, and count of fields of each line that is not empty; both (lines,) int64.

    Counted on the bytes, since a list for each line costs several times as much as all the rest of the reading.
    """
    text = np.frombuffer(data, np.uint8)
    field = (text != 32) & ((text < 9) | (text > 13))
    begins = np.flatnonzero(field & ~np.concatenate([[False], field])[: len(field)])
    ends = np.append(np.flatnonzero(text == 10), len(text))
    widths = np.diff(np.searchsorted(begins, ends), prepend=0)
    number = np.flatnonzero(widths) + 1
    return number, widths[number - 1]


def _layout(path: str, first: list[str]) -> _Layout:
    """The format, from the fields of the first line that is not empty."""
    names = [field.lstrip("#").lower() for field in first]
    roles = [[j for j, name in enumerate(names) if name in wanted] for wanted in (_CHROM_NAMES, _BP_NAMES, _CM_NAMES)]
    if len(first) in (3, 4) and all(len(found) == 1 for found in roles):
        return _Layout(roles[0][0], roles[1][0], roles[2][0], len(first), header=True)
    if len(first) == 4 and _is_number(first[2]) and _is_number(first[3]):
        return _Layout(0, 3, 2, 4, header=False)
    raise InputError(f"{path}: cannot tell the format of the genetic map from {_shown(' '.join(first))}; {_REMEDY}")


def _text(field: bytes) -> str:
    return field.decode("utf-8", errors="replace")


def _is_number(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    """``text`` quoted on one line and cut to a length that fits in a message."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _check_width(path: str, number: np.ndarray, widths: np.ndarray) -> None:
    """Every line has as many fields as the first."""
    wrong = np.flatnonzero(widths != widths[0])
    if wrong.size:
        at = wrong[0]
        raise InputError(
            f"{path}, line {number[at]}: {widths[at]} columns where line {number[0]} has {widths[0]}; "
            "mend or remove the line"
        )


def _numbers(path: str, texts: list[bytes], number: np.ndarray, what: str) -> np.ndarray:
    """(m,) float64 of the texts. Raises InputError at the first that is not a finite number."""
    try:
        values = np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        values = np.array([float(text) if _is_number(text) else np.nan for text in texts])
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        at = wrong[0]
        raise InputError(
            f"{path}, line {number[at]}: {what} is {_shown(_text(texts[at]))}, not a number; mend or remove the line"
        )
    return values


def _check_whole(path: str, bp: np.ndarray, number: np.ndarray) -> None:
    """A fraction in the bp column means that the columns are not what they were taken for."""
    wrong = np.flatnonzero(bp != np.floor(bp))
    if wrong.size:
        at = wrong[0]
        raise InputError(f"{path}, line {number[at]}: bp is {bp[at]:g}, not a whole number; {_REMEDY}")


def _by_contig(
    path: str, chrom: list[bytes], bp: np.ndarray, cm: np.ndarray, number: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Map points of each contig by ``contig_key``, in the order of the file."""
    keys = {name: contig_key(_text(name)) for name in dict.fromkeys(chrom)}
    code = {key: i for i, key in enumerate(dict.fromkeys(keys.values()))}
    if not code:
        raise InputError(f"{path}: the genetic map has a header and no points; {_REMEDY}")
    code_of = {name: code[key] for name, key in keys.items()}
    of_line = np.fromiter(map(code_of.__getitem__, chrom), np.int64, len(chrom))
    points = {}
    for key, i in code.items():
        mine = of_line == i
        points[key] = _contig_points(path, key, bp[mine], cm[mine], number[mine])
    return points


def _contig_points(
    path: str, key: str, bp: np.ndarray, cm: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The points of one contig without repetitions. Raises InputError if they are not a map."""
    step_bp, step_cm = np.diff(bp), np.diff(cm)
    wrong = np.flatnonzero((step_bp < 0) | (step_cm < 0) | ((step_bp == 0) & (step_cm != 0)))
    if wrong.size:
        at = wrong[0]
        fault = _fault(step_bp[at], bp[at : at + 2], cm[at : at + 2])
        raise InputError(
            f"{path}, line {number[at + 1]}: {fault} on contig {key!r}; "
            "sort the map by position, or mend or remove the line"
        )
    keep = np.concatenate([[True], step_bp > 0])
    if np.count_nonzero(keep) < 2:
        raise InputError(
            f"{path}, line {number[0]}: contig {key!r} has 1 map point and needs 2 or more; "
            "add points or remove the contig"
        )
    return bp[keep], cm[keep]


def _fault(step_bp: float, bp: np.ndarray, cm: np.ndarray) -> str:
    """What is wrong with two neighbouring points, in words."""
    if step_bp < 0:
        return f"bp goes down from {bp[0]:.0f} to {bp[1]:.0f}"
    if step_bp == 0:
        return f"bp {bp[0]:.0f} has two cM values, {cm[0]:.10g} and {cm[1]:.10g},"
    return f"cM goes down from {cm[0]:.10g} to {cm[1]:.10g}"


def _end_rates(bp: np.ndarray, cm: np.ndarray) -> tuple[float, float]:
    """cM per bp at the start and at the end of the map: means over the points within and just past END_CM."""
    inner = min(np.searchsorted(cm, cm[0] + END_CM), len(cm) - 1)
    outer = max(np.searchsorted(cm, cm[-1] - END_CM, side="right") - 1, 0)
    return (cm[inner] - cm[0]) / (bp[inner] - bp[0]), (cm[-1] - cm[outer]) / (bp[-1] - bp[outer])
