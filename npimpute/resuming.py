"""What a run keeps beside its output while it is not done, so that the same command goes on where it stopped.

The directory OUT.unfinished holds the records of every finished window, and ``state.json``: the settings, what was
estimated, and the counts so far.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from . import __version__
from .config import RunConfig
from .errors import ConfigError, InputError
from .outputs import file_errors, temporary

log = logging.getLogger(__name__)

STATE = "state.json"
PIECES = ("out", "sites")
# Settings that no record depends on.
_FREE = {"threads", "log", "overwrite", "resume"}


class Kept:
    """The directory of one run, removed at the end of a ``with`` block that ends well, or with nothing finished.

    windows: how many are finished; estimates: Ne and error rate, as far as they were estimated; counts: what the run
    had counted after the last of them, plain values. Raises ConfigError where it is of a run with other settings or
    inputs, InputError where it cannot be used.
    """

    def __init__(self, config: RunConfig):
        self.folder = config.out.with_name(f"{config.out.name}.unfinished")
        self._settings = _settings(config)
        self.windows, self.estimates, self.counts = 0, {}, {}

    def __enter__(self) -> Self:
        with file_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            found = {path.name for path in self.folder.iterdir()}
        if found - {STATE, *PIECES} and STATE not in found:
            raise InputError(f"{self.folder}: holds {min(found)}, which no run has put there; move it away")
        if STATE in found:
            self._read()
            log.info("%s: goes on after %d finished windows", self.folder, self.windows)
        return self

    def __exit__(self, kind, value, trace) -> None:
        if kind is None or not self.windows:
            shutil.rmtree(self.folder, ignore_errors=kind is not None)

    def place(self, name: str) -> Path:
        """Where the pieces of one output are."""
        return self.folder / name

    def finished(self, estimates: dict[str, float], counts: dict[str, Any]) -> None:
        """One more window is finished, its pieces are complete."""
        self.windows += 1
        state = {"settings": self._settings, "windows": self.windows, "estimates": estimates, "counts": counts}
        path = self.folder / STATE
        with file_errors(path):
            temporary(path).write_text(json.dumps({"crc32": _crc32(state), "state": state}))
            os.replace(temporary(path), path)

    def _read(self) -> None:
        path = self.folder / STATE
        try:
            found = json.loads(path.read_text())
            state = found["state"]
            if found["crc32"] != _crc32(state):
                raise ValueError("it is not as it was written")
            settings = state["settings"]
            self.windows, self.estimates, self.counts = state["windows"], state["estimates"], state["counts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be gone on from ({error}); remove {self.folder} to start anew") from error
        for name in sorted(settings.keys() | self._settings.keys()):
            if settings.get(name) != self._settings.get(name):
                theirs, ours = settings.get(name), self._settings.get(name)
                raise ConfigError(
                    f"{self.folder}: is of a run with {name} {theirs}, not {ours}; give the same command, or remove it "
                    "to start anew"
                )


def _crc32(state: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(state).encode())


def _settings(config: RunConfig) -> dict[str, str]:
    """What the output depends on; of input files their size and time too."""
    found = {field.name: str(getattr(config, field.name)) for field in fields(config) if field.name not in _FREE}
    inputs = {name: getattr(config, name) for name in ("ref", "target", "map", "samples", "exclude_samples", "model")}
    for name, path in inputs.items():
        files = [] if path is None else sorted(path.iterdir()) if path.is_dir() else [path] * path.is_file()
        for file in files:
            stat = file.stat()
            found[f"{name} {file} (size, time)"] = f"{stat.st_size}, {stat.st_mtime_ns}"
    return found | {"version": __version__}
