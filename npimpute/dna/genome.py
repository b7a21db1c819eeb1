"""Reference sequences: FASTA, plain or compressed, and 2bit."""

from __future__ import annotations

import gzip
import logging
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError

log = logging.getLogger(__name__)
_UPPER = bytes(range(256)).upper()
_N = ord("N")
FORMATS = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz", ".2bit")


class Genome:
    """Contigs by name. lengths: bases of each, in the file's order. read: (contig, start, end) within the contig ->
    its letters; one call at a time."""

    def __init__(self, path: Path, lengths: dict[str, int], read: Callable[[str, int, int], bytes]):
        self.path, self.lengths, self._read = path, lengths, read
        self._names: dict[str, str] = {}
        for name in lengths:
            self._names.setdefault(contig_key(name), name)
        # A file is read at one place at a time, and training draws while it validates.
        self._lock = threading.Lock()

    def name(self, contig: str) -> str:
        """The contig's name in this file, chr20 being 20. Raises InputError for one that it lacks."""
        found = contig if contig in self.lengths else self._names.get(contig_key(contig))
        if found is None:
            some = ", ".join(list(self.lengths)[:5]) + (", ..." if len(self.lengths) > 5 else "")
            raise InputError(f"{self.path}: no contig {contig}; there are {some}")
        return found

    def fetch(self, contig: str, start: int, end: int) -> np.ndarray:
        """Bases ``start`` to ``end``, 0-based half-open: (end - start,) uint8, upper case; N outside the contig.

        Raises InputError for a contig that is not there.
        """
        contig = self.name(contig)
        letters = np.full(max(0, end - start), _N, np.uint8)
        first, last = max(start, 0), min(end, self.lengths[contig])
        if first < last:
            with self._lock:
                found = self._read(contig, first, last)
            letters[first - start : last - start] = np.frombuffer(found.translate(_UPPER), np.uint8)
        return letters


def open_genome(path: Path) -> Genome:
    """A FASTA file (.fa, .fasta, .fna, each also with .gz) or a .2bit file.

    With a .fai (and for bgzip a .gzi) beside it, FASTA is read where it is needed; without, it is read into memory.
    Raises InputError.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a FASTA (.fa, .fa.gz) or .2bit file")
    if not path.name.lower().endswith(FORMATS):
        raise InputError(f"{path}: neither FASTA nor 2bit by its name; names end in {', '.join(FORMATS)}")
    if path.suffix.lower() == ".2bit":
        genome = _two_bit(path)
    elif _indexed(path):
        genome = _faidx(path)
    else:
        genome = _in_memory(path)
    if not any(genome.lengths.values()):
        raise InputError(f"{path}: holds no sequence")
    return genome


def _indexed(path: Path) -> bool:
    index = Path(f"{path}.fai")
    if not index.exists() or (path.suffix == ".gz" and not Path(f"{path}.gzi").exists()):
        return False
    if index.stat().st_mtime < path.stat().st_mtime:
        log.warning("%s is older than %s: if the sequence has changed, run 'samtools faidx' again", index, path)
    return True


def _faidx(path: Path) -> Genome:
    import pysam

    try:
        file = pysam.FastaFile(str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read by its index ({error}); run 'samtools faidx' again") from error
    lengths = dict(zip(file.references, file.lengths, strict=True))

    def read(contig: str, start: int, end: int) -> bytes:
        try:
            found = file.fetch(contig, start, end).encode()
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {contig}:{start + 1}-{end} cannot be read ({error})") from error
        return _whole(found, path, contig, start, end)

    return Genome(path, lengths, read)


def _whole(found: bytes, path: Path, contig: str, start: int, end: int) -> bytes:
    if len(found) != end - start:
        raise InputError(
            f"{path}: {contig}:{start + 1}-{end} has {len(found)} bases; is the file or its index damaged?"
        )
    return found


def _two_bit(path: Path) -> Genome:
    try:
        import py2bit
    except ImportError as error:
        raise InputError(f"{path}: .2bit files need py2bit: pip install 'npimpute[dna]'") from error
    with open(path, "rb") as start:
        if start.read(4) not in (b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43"):
            raise InputError(f"{path}: not a .2bit file")
    try:
        file = py2bit.open(str(path))
        lengths = {name: int(length) for name, length in file.chroms().items()}
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as .2bit ({error})") from error

    def read(contig: str, start: int, end: int) -> bytes:
        try:
            found = file.sequence(contig, start, end).encode()
        except RuntimeError as error:
            raise InputError(f"{path}: {contig}:{start + 1}-{end} cannot be read ({error})") from error
        return _whole(found, path, contig, start, end)

    return Genome(path, lengths, read)


def _in_memory(path: Path) -> Genome:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            text = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); is it whole?") from error
    first, *records = (b"\n" + text).split(b"\n>")
    if first.strip() or not records:
        raise InputError(f"{path}: not FASTA: its first line does not start with >")
    contigs: dict[str, bytes] = {}
    for record in records:
        head, _, body = record.partition(b"\n")
        name = head.split(maxsplit=1)[0].decode(errors="replace") if head.strip() else ""
        if not name or name in contigs:
            raise InputError(f"{path}: {f'contig {name} twice' if name else 'a contig without a name'}")
        contigs[name] = body.translate(_UPPER, b" \t\r\n")
    lengths = {name: len(body) for name, body in contigs.items()}
    return Genome(path, lengths, lambda contig, start, end: contigs[contig][start:end])
