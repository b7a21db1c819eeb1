"""Output in pieces that outlive a run that is stopped, to be joined when all are there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from npimpute.errors import InputError
from npimpute.outputs import file_errors, temporary
from npimpute.vcf.bgzf import EOF_BLOCK, BgzfWriter


class Pieces:
    """Pieces 0, 1, ... of one output, each a file of its own in ``folder`` that has its name once it is complete.

    sizes: of those that there are, in bytes; what else the folder holds is removed. packed: BGZF, else as they are. All
    methods raise InputError where the disk refuses, and the first where a piece is not there as it was written.
    """

    def __init__(self, folder: Path, sizes: list[int], packed: bool, threads: int):
        self._folder, self._packed, self._threads = folder, packed, threads
        self.sizes, self._out = list(sizes), None
        with file_errors(folder):
            folder.mkdir(exist_ok=True)
            for i, size in enumerate(sizes):
                path = self._path(i)
                found = path.stat().st_size if path.exists() else "no"
                if found != size:
                    remedy = f"remove {folder.parent} to start anew"
                    raise InputError(f"{path}: {found} bytes, where {size} were written; {remedy}")
            for path in set(folder.iterdir()) - {self._path(i) for i in range(len(sizes))}:
                path.unlink()

    def write(self, data) -> None:
        with file_errors(self._folder):
            if self._out is None:
                temp = temporary(self._path(len(self.sizes)))
                self._out = BgzfWriter(temp, self._threads) if self._packed else open(temp, "wb")
            self._out.write(data)

    def end(self) -> None:
        """The piece is complete; what is written next belongs to the next one."""
        self.write(b"")
        path = self._path(len(self.sizes))
        with file_errors(path):
            self._out.close()
            os.replace(temporary(path), path)
            self.sizes.append(path.stat().st_size)
        self._out = None

    def join(self, out: BinaryIO) -> None:
        """Appends all pieces to ``out``, without the block that ends each."""
        for i, size in enumerate(self.sizes):
            with open(self._path(i), "rb") as piece:
                _copy(piece.read, out, size - (len(EOF_BLOCK) if self._packed else 0))

    def abort(self) -> None:
        """Drops the piece that is not complete."""
        if self._out is not None:
            (self._out.abort if self._packed else self._out.close)()
            temporary(self._path(len(self.sizes))).unlink(missing_ok=True)
            self._out = None

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}"


def _copy(read: Callable[[int], bytes], out: BinaryIO, size: int) -> None:
    while size > 0:
        data = read(min(size, 1 << 20))
        if not data:
            raise OSError("a finished piece is shorter than it was")
        out.write(data)
        size -= len(data)
