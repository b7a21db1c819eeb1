"""What is learnt of a window's panel and typed sites: remembered while its targets come in parts, kept for other runs.

A run of other targets at the same sites would learn the same. So an array is kept in a file whose name is a digest of
all that it depends on: what has changed is not found, and learnt anew.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..context.windows import Window
from ..errors import InputError
from ..outputs import file_errors, replacing

log = logging.getLogger(__name__)


class Learnt:
    """Arrays that depend on a window's panel and typed sites alone: those of the last window are remembered, all are
    kept in ``directory``, if there is one, which is made where it is not there.

    settings: what else they depend on. Raises InputError where the directory or a file in it cannot be used.
    """

    def __init__(self, directory: Path | None = None, *settings: Any):
        self._directory, self._settings, self._told = directory, (__version__, *settings), False
        self._panel, self._typed, self._digest, self._values = None, None, b"", {}
        if directory is not None:
            if directory.exists() and not directory.is_dir():
                raise InputError(f"{directory}: is a file; --cache takes a directory")
            with file_errors(directory):
                directory.mkdir(parents=True, exist_ok=True)

    def of(
        self, what: str, window: Window, depends: dict[str, float | None], make: Callable[[], np.ndarray | None]
    ) -> np.ndarray | None:
        """The array of this name, made by ``make`` where nothing has it; None is remembered, not kept. depends: what
        it depends on beside the window and the settings."""
        # A reference that does not keep a panel in memory that nobody else wants.
        if self._panel is None or self._panel() is not window.panel or self._typed is not window.typed:
            self._panel, self._typed, self._values = weakref.ref(window.panel), window.typed, {}
            self._digest = _digest(window) if self._directory else b""
        if what not in self._values:
            self._values[what] = self._kept(what, depends, make) if self._directory else make()
        return self._values[what]

    def _kept(self, what: str, depends: dict, make: Callable[[], np.ndarray | None]) -> np.ndarray | None:
        known = repr((self._settings, what, depends)).encode() + self._digest
        path = self._directory / f"{what}-{hashlib.sha256(known).hexdigest()[:32]}.npy"
        if path.exists():
            if not self._told:
                log.info("%s: what was learnt of this panel and array before is used", self._directory)
                self._told = True
            return _read(path)
        value = make()
        if value is not None:
            with replacing(path) as temp, open(temp, "wb") as file:
                np.save(file, value, allow_pickle=False)
        return value


def _digest(window: Window) -> bytes:
    """Of the panel, its map and the sites that targets were typed at, but not of the targets."""
    panel, out = window.panel, window.elsewhere
    ploidy = panel.ploidy if panel.ploidy is not None else np.full(panel.people, 2)
    codes = out.codes if out is not None else np.empty((0, panel.k), np.uint8)
    sha = hashlib.sha256(panel.sites.contig.encode())
    for array in (panel.sites.pos, panel.row_start(), panel.bits, ploidy, window.cm, window.typed, codes):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array))
    return sha.digest()


def _read(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it, and it is made again") from error
