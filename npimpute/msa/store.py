"""Alignments on disk: columns of the reference genome, a row a species, in compressed chunks that are read alone.

A store is a zarr (format 3) group, a directory. For contig i it has ``i/reference`` (length,) and ``i/rows``
(other species, length), codes of ``alphabet`` at 0-based places of the contig; what was never written takes no space
and reads as gaps. The attribute ``npimpute-alignment`` has the species (reference first) and, for each contig, its
name, length and the stretch that is covered.

Axes: M rows (species), L columns.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from ..contigs import contig_key
from ..errors import ConfigError, InputError
from ..outputs import file_errors, temporary
from .alphabet import GAP

try:
    import zarr
except ImportError as error:
    raise ConfigError("stores of alignments need zarr: pip install 'npimpute[dna]'") from error

ATTRIBUTE, VERSION = "npimpute-alignment", 1
# Columns that are compressed together: a window of 128 to 1,024 columns inflates few that it does not need.
CHUNK = 4096
# Columns to a file, a whole number of chunks: what is held while it is written, and few files to a genome.
SHARD = 64 * CHUNK
CACHED_BYTES = 64 << 20


class Alignment:
    """An alignment that ``npimpute msa build`` made. Reading is safe from several threads.

    species: names, the reference first. contigs: name -> (start, end), 0-based half-open, the stretch that the
    alignment covers. lengths: name -> bases of the whole contig.
    """

    def __init__(self, path: Path, group: zarr.Group, about: dict):
        self.path = path
        self.species: tuple[str, ...] = tuple(about["species"])
        self.contigs = {c["name"]: (c["start"], c["end"]) for c in about["contigs"]}
        self.lengths = {c["name"]: c["length"] for c in about["contigs"]}
        self.about = about
        self._names: dict[str, str] = {}
        for name in self.contigs:
            self._names.setdefault(contig_key(name), name)
        self._group = group
        self._numbers = {name: i for i, name in enumerate(self.contigs)}
        self._opened: dict[str, tuple[zarr.Array, zarr.Array | None]] = {}
        self._chunks: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._room = max(8, CACHED_BYTES // (CHUNK * len(self.species)))
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Raises InputError where ``path`` is no store."""
        path = Path(path)
        if not path.is_dir():
            raise InputError(f"{path}: no such directory; name an alignment that 'npimpute msa build' made")
        try:
            group = zarr.open_group(path, mode="r")
            about = group.attrs.asdict().get(ATTRIBUTE)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read as an alignment store ({error}); make it again") from error
        if about is None:
            raise InputError(f"{path}: not an alignment that 'npimpute msa build' made")
        if about.get("version") != VERSION:
            raise InputError(f"{path}: a store of format {about.get('version')}, not {VERSION}: build it again")
        return cls(path, group, about)

    def name(self, contig: str) -> str:
        """The contig's name here, chr6 being 6. Raises InputError for one that the store lacks."""
        found = contig if contig in self.contigs else self._names.get(contig_key(contig))
        if found is None:
            some = ", ".join(list(self.contigs)[:5]) + (", ..." if len(self.contigs) > 5 else "")
            raise InputError(f"{self.path}: no contig {contig}; there are {some}")
        return found

    def has(self, contig: str) -> bool:
        """Whether the store has the contig, under either style of name."""
        return contig in self.contigs or contig_key(contig) in self._names

    def window(self, contig: str, start: int, end: int) -> np.ndarray:
        """Columns ``start`` to ``end``, 0-based half-open: (M, L) uint8 codes, all rows gaps outside what is covered.

        Raises InputError for a contig that is not there, and where the store is damaged.
        """
        contig = self.name(contig)
        out = np.full((len(self.species), max(0, end - start)), GAP, np.uint8)
        low, high = self.contigs[contig]
        first, last = max(start, low), min(end, high)
        for chunk in range(first // CHUNK, -(-last // CHUNK) if last > first else first // CHUNK):
            a, b = max(first, chunk * CHUNK), min(last, (chunk + 1) * CHUNK)
            out[:, a - start : b - start] = self._chunk(contig, chunk)[:, a - chunk * CHUNK : b - chunk * CHUNK]
        return out

    def _chunk(self, contig: str, chunk: int) -> np.ndarray:
        """(M, up to CHUNK) codes. The chunks read last are kept: variants and windows come in clusters."""
        key = contig, chunk
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        place = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        reference, rows = self._arrays(contig)
        try:
            columns = reference[place][None]
            found = np.concatenate([columns, rows[:, place]]) if rows is not None else columns
        except (OSError, ValueError, RuntimeError) as error:
            where = f"{contig}:{place.start + 1}-{place.stop}"
            raise InputError(f"{self.path}: {where} cannot be read ({error}); the store is damaged") from error
        with self._lock:
            self._chunks[key] = found
            while len(self._chunks) > self._room:
                self._chunks.popitem(last=False)
        return found

    def _arrays(self, contig: str) -> tuple[zarr.Array, zarr.Array | None]:
        """Those of a contig, opened when it is first read: there may be thousands of contigs."""
        if contig not in self._opened:
            i = self._numbers[contig]
            try:
                rows = self._group[f"{i}/rows"] if len(self.species) > 1 else None
                self._opened[contig] = self._group[f"{i}/reference"], rows
            except (OSError, KeyError, ValueError) as error:
                raise InputError(f"{self.path}: lacks the columns of {contig} ({error}); it is damaged") from error
        return self._opened[contig]


class StoreWriter:
    """Writes a store in a ``with`` block, under a temporary name until it is complete.

    species: names, the reference first. Raises InputError where ``path`` exists (and not ``overwrite``, or is anything
    but a store) or cannot be written.
    """

    def __init__(self, path: Path, species: Sequence[str], overwrite: bool = False):
        self.path, self.species, self._overwrite = Path(path), tuple(species), overwrite
        check_store_place(self.path, overwrite)
        self._temp = temporary(self.path)
        self._contigs: dict[str, dict] = {}
        self._facts: dict = {}

    def __enter__(self) -> Self:
        with file_errors(self.path):
            shutil.rmtree(self._temp, ignore_errors=True)
            self._group = zarr.open_group(self._temp, mode="w")
        return self

    def add_contig(self, name: str, length: int) -> int:
        """Makes room for a contig of so many bases; returns its number."""
        i = len(self._contigs)
        self._contigs[name] = {"name": name, "length": length, "start": 0, "end": 0}
        m = len(self.species) - 1
        # A contig shorter than a shard is one of whole chunks.
        shard = min(SHARD, CHUNK * -(-length // CHUNK))
        kind = {"dtype": "uint8", "fill_value": GAP, "compressors": zarr.codecs.ZstdCodec(level=6)}
        with file_errors(self.path):
            self._group.create_array(f"{i}/reference", shape=(length,), chunks=(CHUNK,), shards=(shard,), **kind)
            if m:
                shape = {"shape": (m, length), "chunks": (m, CHUNK), "shards": (m, shard)}
                self._group.create_array(f"{i}/rows", **shape, **kind)
        return i

    def array(self, name: str, kind: str) -> zarr.Array:
        """The array "reference" or "rows" of a contig, to be written in whole shards."""
        return self._group[f"{list(self._contigs).index(name)}/{kind}"]

    def cover(self, name: str, start: int, end: int) -> None:
        """Says which stretch of a contig is covered."""
        self._contigs[name] |= {"start": start, "end": end}

    def tell(self, **facts) -> None:
        """Adds plain values to what the store says of itself."""
        self._facts |= facts

    def __exit__(self, kind, value, trace) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._temp, ignore_errors=True)

    def _publish(self) -> None:
        about = {"version": VERSION, "species": list(self.species), "contigs": list(self._contigs.values())}
        with file_errors(self.path):
            self._group.attrs[ATTRIBUTE] = about | self._facts
            check_store_place(self.path, self._overwrite)
            if self.path.exists():
                old = self._temp.with_name(f"{self._temp.name}.old")
                os.replace(self.path, old)
                os.replace(self._temp, self.path)
                shutil.rmtree(old)
            else:
                os.replace(self._temp, self.path)


def check_store_place(path: Path, overwrite: bool) -> None:
    """Raises InputError unless a store can be made at ``path``, which may be one already if ``overwrite``."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: the directory {path.parent} does not exist: create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the directory {path.parent} is not writable")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise InputError(f"{path}: exists already: choose another name or add --overwrite")
    try:
        Alignment.open(path)
    except InputError as error:
        raise InputError(f"{path}: exists and is no alignment store: it is not replaced, remove it first") from error


def write_alignment(
    path: Path, species: Sequence[str], contigs: Mapping[str, tuple[int, np.ndarray]], overwrite: bool = False
) -> None:
    """A store of what is in memory: contig -> (start of the first column, (M, L) uint8 codes). Raises InputError."""
    with StoreWriter(path, species, overwrite) as writer:
        for name, (start, codes) in contigs.items():
            end = start + codes.shape[1]
            writer.add_contig(name, end)
            writer.cover(name, start, end)
            with file_errors(writer.path):
                writer.array(name, "reference")[start:end] = codes[0]
                if len(codes) > 1:
                    writer.array(name, "rows")[:, start:end] = codes[1:]
