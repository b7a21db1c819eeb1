"""Reference panels: VCF or BCF, or compiled once into a memory-mapped file.

A compiled panel is one safetensors file. The tensors ``bits``, ``pos``, ``ids``, ``ref`` and ``alt`` (strings one
after the other) with ``ids_end``, ``ref_end`` and ``alt_end``, ``n_alt``, ``samples``, ``contigs`` (JSON) and, where
it was compiled with a genetic map, ``cm``; where samples are haploid somewhere, ``ploidy`` (one for each stretch and
sample) and ``ploidy_start`` (the first site of each stretch); ``bits_crc32`` and the metadata hold checksums, and the
metadata tell the source and the format's version.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from .. import __version__
from ..contigs import contig_key
from ..errors import ConfigError, InputError
from ..outputs import check_place, replacing
from ..types import Haplotypes, Sites, same_ploidy
from ..vcf.read import open_panel_vcf
from ..vcf.records import Selection
from ..vcf.region import Region
from .genetic_map import GeneticMap

FORMAT, FORMAT_VERSION = "npimpute-panel", 1
# With haploid samples; what reads only the first version must not take it for diploid.
HAPLOID_VERSION = 2
CHUNK_BYTES = 4 << 20
# Rows under one checksum: read together, so that damage is seen without reading the whole file.
CHECKED_ROWS = 1024
# The header comes first but is known last: room is kept for it, blanks at its end are legal.
HEADER_BYTES = 1 << 13
_TEXTS = ("ids", "ref", "alt")


class Panel(Protocol):
    """A phased reference panel that can be iterated, chunk by chunk of one contig each, in file order.

    samples: those in use; k: their haplotypes, where all are diploid; contigs: (name, length in bp or None). A chunk
    ends where the ploidy of a sample changes.
    """

    path: Path
    samples: tuple[str, ...]
    k: int
    contigs: list[tuple[str, int | None]]

    def __iter__(self) -> Iterator[Haplotypes]: ...


def open_panel(
    path: Path,
    region: Region | None = None,
    keep_samples: set[str] | None = None,
    drop_samples: set[str] | None = None,
    threads: int = 1,
) -> Panel:
    """Opens a panel of any kind, told apart by content. Raises InputError where it cannot be used."""
    if is_compiled(path):
        return CompiledPanel(path, region, keep_samples, drop_samples)
    return open_panel_vcf(path, region, keep_samples, drop_samples, threads)


def all_diploid(panel: Panel) -> Iterator[Haplotypes]:
    """The panel's chunks. Raises InputError where a sample is haploid."""
    for chunk in panel:
        if chunk.ploidy is not None:
            where, name = f"{chunk.sites.contig}:{chunk.sites.pos[0]}", panel.samples[np.argmin(chunk.ploidy)]
            raise InputError(f"{panel.path}: {where}, sample {name}: is haploid, which only 'run', 'phase' and 'panel' "
                             "take; leave this part out (--region, bcftools view)")  # fmt: skip
        yield chunk


def is_compiled(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class _Contig:
    name: str
    start: int  # its first site
    stop: int


class CompiledPanel:
    """A compiled panel; see ``Panel``. metadata: what ``compile_panel`` wrote about it (str to str)."""

    def __init__(
        self,
        path: Path,
        region: Region | None = None,
        keep_samples: set[str] | None = None,
        drop_samples: set[str] | None = None,
    ):
        self.path = Path(path)
        self._tensors = _open_tensors(self.path)
        self.metadata = _metadata(self._tensors, self.path)
        others = {name: self._tensors.get_tensor(name) for name in self._tensors.keys() if name != "bits"}  # noqa: SIM118
        if str(_checksum_of(others)) != self.metadata.get("crc32"):
            raise InputError(f"{self.path}: the compiled panel is damaged; compile it again")
        self._checksums = others["bits_crc32"]
        contigs = json.loads(self._text("contigs"))
        self._contigs = [_Contig(**contig) for contig in contigs["sites"]]
        self.contigs = [(name, length) for name, length in contigs["header"]]
        samples = tuple(self._text("samples").split("\n"))
        self._selection = Selection.of(self.path, samples, keep_samples, drop_samples)
        self.samples = tuple(samples[i] for i in self._selection.chosen)
        self.k = self._selection.k
        self._region = region
        self._pos = self._tensors.get_tensor("pos")
        self._stretches = _Stretches.of(others, len(samples))
        self._rows = np.append(0, np.cumsum(self._tensors.get_tensor("n_alt").astype(np.int64)))
        self._ends = {name: self._tensors.get_tensor(f"{name}_end") for name in _TEXTS}
        if region is not None and not any(region.has_contig(contig.name) for contig in self._contigs):
            names = ", ".join(contig.name for contig in self._contigs)
            raise InputError(f"{path}: no contig {region.contig}; the panel has {names}")

    @property
    def sites_by_contig(self) -> dict[str, tuple[int, int, int]]:
        """For each contig how many sites it has, and the first and last position."""
        ends = ((c.name, c.start, c.stop) for c in self._contigs)
        return {name: (b - a, int(self._pos[a]), int(self._pos[b - 1])) for name, a, b in ends}

    @property
    def fewest_haplotypes(self) -> int:
        """Those of the stretch where most are haploid."""
        ploidies = self._stretches.ploidy[:, self._selection.chosen]
        return min([self.k, *ploidies.sum(axis=1, dtype=np.int64).tolist()])

    @property
    def genetic_map(self) -> GeneticMap | None:
        """The map that the panel was compiled with."""
        if "cm" not in self._tensors.keys():  # noqa: SIM118 - safetensors handles have no __contains__
            return None
        cm = self._tensors.get_tensor("cm")
        points = {}
        for contig in self._contigs:
            pos, first = np.unique(self._pos[contig.start : contig.stop], return_index=True)
            there = cm[contig.start : contig.stop][first]
            if len(pos) == 1:  # a map needs two points; no other site is there to be measured with them
                pos, there = np.append(pos, pos + 1_000_000), np.append(there, there + 1)
            points[contig_key(contig.name)] = (pos.astype(np.float64), there)
        return GeneticMap(str(self.path), points)

    def __iter__(self) -> Iterator[Haplotypes]:
        step = max(1, CHUNK_BYTES // max(1, self._selection.row_bytes))
        for contig in self._contigs:
            for begin, end, ploidy in self._stretches.between(*self._inside(contig)):
                for first in range(begin, end, step):
                    yield self._chunk(contig.name, first, min(first + step, end), ploidy)

    def ploidies(self, key: str) -> Iterator[tuple[int, int, np.ndarray | None]]:
        """First and last position and ploidy of every stretch of the contig with this ``contig_key``."""
        for contig in self._contigs:
            if contig_key(contig.name) == key:
                for begin, end, ploidy in self._stretches.between(*self._inside(contig)):
                    ploidy = None if ploidy is None else ploidy[self._selection.chosen]
                    haploid = ploidy is not None and (ploidy == 1).any()
                    yield int(self._pos[begin]), int(self._pos[end - 1]), ploidy if haploid else None

    def _inside(self, contig: _Contig) -> tuple[int, int]:
        """The contig's first site in the region, and the one after its last."""
        region, pos = self._region, self._pos[contig.start : contig.stop]
        if region is None:
            return contig.start, contig.stop
        if not region.has_contig(contig.name):
            return contig.start, contig.start
        stop = len(pos) if region.end is None else int(np.searchsorted(pos, region.end + 1))
        return contig.start + int(np.searchsorted(pos, region.start)), contig.start + stop

    def _text(self, name: str) -> str:
        return self._tensors.get_tensor(name).tobytes().decode()

    def _chunk(self, contig: str, start: int, stop: int, ploidy: np.ndarray | None) -> Haplotypes:
        ids, ref, alt = (self._strings(name, start, stop) for name in _TEXTS)
        bits, chosen = self._bits(int(self._rows[start]), int(self._rows[stop])), self._selection.chosen
        sites = Sites(contig, self._pos[start:stop], ids, ref, alt)
        if len(chosen) < len(self._selection.samples):
            bits, ploidy = _select_samples(bits, self._selection), None if ploidy is None else ploidy[chosen]
        return Haplotypes.of_pairs(sites, bits, ploidy, len(chosen))

    def _bits(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1, checked."""
        first = start // CHECKED_ROWS
        end = min(-(-stop // CHECKED_ROWS) * CHECKED_ROWS, int(self._rows[-1]))
        rows = self._tensors.get_slice("bits")[first * CHECKED_ROWS : end]
        for i in range(-(-len(rows) // CHECKED_ROWS)):
            part = rows[i * CHECKED_ROWS : (i + 1) * CHECKED_ROWS]
            if zlib.crc32(np.ascontiguousarray(part)) != self._checksums[first + i]:
                raise InputError(f"{self.path}: the compiled panel is damaged; compile it again")
        return rows[start - first * CHECKED_ROWS : stop - first * CHECKED_ROWS]

    def _strings(self, name: str, start: int, stop: int) -> list[str]:
        ends = self._ends[name]
        first = int(ends[start - 1]) if start else 0
        text = self._tensors.get_slice(name)[first : int(ends[stop - 1])].tobytes().decode()
        cuts = (ends[start:stop] - first).tolist()
        return [text[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]


@dataclass(frozen=True)
class _Stretches:
    """Where ploidies change. start: (x,) int64, the first site of each stretch; ploidy: (x, samples) int8."""

    start: np.ndarray
    ploidy: np.ndarray

    @staticmethod
    def of(tensors: dict[str, np.ndarray], samples: int) -> _Stretches:
        none = np.zeros(0, np.uint8)
        start = tensors.get("ploidy_start", np.zeros(0, np.int64))
        return _Stretches(start, tensors.get("ploidy", none).astype(np.int8).reshape(len(start), samples))

    def between(self, start: int, stop: int) -> Iterator[tuple[int, int, np.ndarray | None]]:
        """First site, the one after the last, and ploidy of every stretch of sites start..stop-1; None: diploid."""
        if start >= stop:
            return
        cuts = [start, *(int(x) for x in self.start if start < x < stop), stop]
        for begin, end in pairwise(cuts):
            i = int(np.searchsorted(self.start, begin, side="right")) - 1
            yield begin, end, self.ploidy[i] if i >= 0 else None


def _select_samples(bits: np.ndarray, selection: Selection) -> np.ndarray:
    columns = np.stack([2 * selection.chosen, 2 * selection.chosen + 1], axis=1).ravel()
    unpacked = np.unpackbits(bits, axis=1, count=2 * len(selection.samples), bitorder="little")
    return np.packbits(unpacked.take(columns, axis=1), axis=1, bitorder="little")


def _open_tensors(path: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise InputError(f"{path}: the compiled panel is damaged or incomplete ({error}); compile it again") from error


def _metadata(tensors, path: Path) -> dict:
    metadata = tensors.metadata() or {}
    # What else is in the file does not matter; without one of these it cannot be read.
    lost = {
        "bits",
        "bits_crc32",
        "pos",
        "n_alt",
        "samples",
        "contigs",
        *_TEXTS,
        *(f"{name}_end" for name in _TEXTS),
    } - set(tensors.keys())
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: not a compiled panel; give VCF, BCF or a file made by 'npimpute panel'")
    if (found := metadata.get("version")) not in (str(FORMAT_VERSION), str(HAPLOID_VERSION)):
        known = f"{FORMAT_VERSION} or {HAPLOID_VERSION}"
        raise InputError(f"{path}: compiled panel of format version {found}, not {known}; compile it again")
    if lost:
        raise InputError(f"{path}: the compiled panel lacks {', '.join(sorted(lost))}; compile it again")
    return metadata


def compile_panel(panel: Panel, out: Path, genetic_map: GeneticMap | None = None, overwrite: bool = False) -> None:
    """Writes ``panel`` to ``out`` as a compiled panel, under a temporary name until it is complete.

    genetic_map: kept with it, and then the map of any run that names no other.
    """
    out = Path(out)
    if out.suffix != ".npp":
        raise ConfigError(f"output {out}: the name must end in .npp")
    check_place(out, overwrite)
    with replacing(out) as temp, open(temp, "wb") as file:
        _write_panel(panel, file, genetic_map)


def _write_panel(panel: Panel, file, genetic_map: GeneticMap | None) -> None:
    file.write(b" " * HEADER_BYTES)
    bits_shape, sites, checksums, ploidy = _write_bits(panel, file)
    if not sites:
        raise InputError(f"{panel.path}: no record with an ALT allele; there is nothing to compile")
    version = HAPLOID_VERSION if ploidy else FORMAT_VERSION
    metadata = {"format": FORMAT, "version": str(version), "program": f"npimpute {__version__}"}
    metadata |= {"source": panel.path.name, "sha256": _checksum(panel.path)}
    metadata["map"] = Path(genetic_map.source).name if genetic_map else "none"
    tensors = _tensors(panel, sites, genetic_map) | ploidy | {"bits_crc32": checksums}
    metadata["crc32"] = str(_checksum_of(tensors))
    header = {"__metadata__": metadata}
    end = int(np.prod(bits_shape))
    header["bits"] = {"dtype": "U8", "shape": bits_shape, "data_offsets": [0, end]}
    for name, values in tensors.items():
        kind = {"uint8": "U8", "int64": "I64", "float64": "F64"}[str(values.dtype)]
        header[name] = {"dtype": kind, "shape": [len(values)], "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
        file.write(values.tobytes())
    file.seek(0)
    file.write((HEADER_BYTES - 8).to_bytes(8, "little") + json.dumps(header).encode())


def _tensors(panel: Panel, sites: list[Sites], genetic_map: GeneticMap | None) -> dict[str, np.ndarray]:
    contigs = json.dumps({"header": panel.contigs, "sites": _contig_table(sites)}).encode()
    tensors = {"contigs": np.frombuffer(contigs, np.uint8)}
    tensors["samples"] = np.frombuffer("\n".join(panel.samples).encode(), np.uint8)
    tensors["pos"] = np.concatenate([s.pos for s in sites])
    tensors["n_alt"] = np.concatenate([s.n_alt() for s in sites]).astype(np.uint8)
    for name in _TEXTS:
        texts = [text.encode() for s in sites for text in getattr(s, name)]
        tensors[name] = np.frombuffer(b"".join(texts), np.uint8)
        tensors[f"{name}_end"] = np.cumsum([len(text) for text in texts])
    if genetic_map is not None:
        tensors["cm"] = np.concatenate([genetic_map.to_cm(s.contig, s.pos) for s in sites])
    return tensors


class _RowChecksums:
    """CRC-32 of every CHECKED_ROWS rows in turn."""

    def __init__(self) -> None:
        self._done, self._crc, self._rows = [], 0, 0

    def add(self, bits: np.ndarray) -> None:
        while len(bits):
            part = bits[: CHECKED_ROWS - self._rows]
            self._crc = zlib.crc32(np.ascontiguousarray(part), self._crc)
            self._rows += len(part)
            bits = bits[len(part) :]
            if self._rows == CHECKED_ROWS:
                self._done.append(self._crc)
                self._crc, self._rows = 0, 0

    def finished(self) -> np.ndarray:
        return np.array([*self._done, self._crc] if self._rows else self._done, np.int64)


def _write_bits(panel: Panel, file) -> tuple[list[int], list[Sites], np.ndarray, dict[str, np.ndarray]]:
    """Streams the haplotypes, two columns a sample; returns their shape, the sites chunk by chunk, the checksums of the
    rows, and, where samples are haploid, the tensors that say so."""
    n_rows, n_sites, sites, checksums = 0, 0, [], _RowChecksums()
    starts, ploidies, last = [], [], None
    for chunk in panel:
        bits = chunk.pairs()
        file.write(np.ascontiguousarray(bits).data)
        checksums.add(bits)
        if not same_ploidy(chunk.ploidy, last):
            last = chunk.ploidy
            starts.append(n_sites)
            ploidies.append(np.full(len(panel.samples), 2) if last is None else last)
        n_rows, n_sites = n_rows + len(bits), n_sites + len(chunk.sites)
        sites.append(chunk.sites)
    tensors = {}
    if starts:
        tensors = {"ploidy_start": np.array(starts, np.int64), "ploidy": np.concatenate(ploidies).astype(np.uint8)}
    return [n_rows, (panel.k + 7) // 8], sites, checksums.finished(), tensors


def _checksum_of(tensors: dict[str, np.ndarray]) -> int:
    """CRC-32 of all tensors but the bits, by name."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].tobytes(), crc)
    return crc


def _contig_table(sites: Iterable[Sites]) -> list[dict]:
    table, at = [], 0
    for part in sites:
        if not table or table[-1]["name"] != part.contig:
            table.append({"name": part.contig, "start": at, "stop": at})
        at += len(part)
        table[-1]["stop"] = at
    return table


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
