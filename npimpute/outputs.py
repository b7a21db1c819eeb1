"""Where output files may go, and how what the file system refuses is told."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError


def check_place(path: Path, overwrite: bool) -> None:
    """Raises InputError unless a file can be written at ``path``, which may exist only if ``overwrite``."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: the directory {path.parent} does not exist: create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the directory {path.parent} is not writable")
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name a file")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: exists already: choose another name or add --overwrite")


def temporary(path: Path) -> Path:
    """The name that an output has until it is complete: hidden, in the same directory, this process's own."""
    return path.with_name(f".{os.getpid()}.{path.name}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The temporary name to write to in a ``with`` block; if it ends well, the file gets its own. Raises InputError."""
    temp = temporary(path)
    with file_errors(path):
        try:
            yield temp
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turns OSError into InputError: what the file system refuses is the user's to mend."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = path.parent.resolve()
            raise InputError(f"{path}: no space left on {place}: free some or write elsewhere") from error
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
