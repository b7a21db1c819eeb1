"""Runs of programs on datasets, each kept on disk as soon as it is finished, so that nothing is run twice."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InputError, NpimputeError
from ..outputs import file_errors, temporary
from .dataset import Dataset
from .measure import Measured, measure
from .programs import Commands, Program

log = logging.getLogger(__name__)
SETTINGS = "settings.json"


def write_json(path: Path, value: Any) -> None:
    """Writes it under a temporary name until complete. Raises InputError where it cannot be written."""
    with file_errors(path):
        temporary(path).write_text(json.dumps(value, indent=1) + "\n")
        temporary(path).replace(path)


def fingerprint(value: Any) -> Any:
    """A setting as it is kept to be compared; a file by its place, size and time. Raises InputError."""
    if not isinstance(value, Path):
        return value
    try:
        stat = value.stat()
    except OSError as error:
        raise InputError(f"{value}: cannot be read: {error.strerror}") from error
    return [str(value.resolve()), stat.st_size, stat.st_mtime]


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Makes ``out`` a benchmark of these settings, or goes on with it. Raises ConfigError where it is another's."""
    path = out / SETTINGS
    with file_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if any(out.iterdir()):
            raise ConfigError(f"--out {out}: has files of something else in it; name a new directory")
        write_json(path, settings)
        return
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); name a new directory") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged; name a new directory")
    settings = json.loads(json.dumps(settings))
    if other := sorted(name for name in settings if found.get(name) != settings[name]):
        raise ConfigError(
            f"--out {out}: holds a benchmark with another --{other[0]}; repeat its options to go on with it, or name a "
            "new directory"
        )


@contextlib.contextmanager
def claimed(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """``check_settings``; where what is done inside ends in an error of the user's, a new directory is not left."""
    with file_errors(out):
        new = not out.exists() or not any(out.iterdir())
    check_settings(out, settings)
    try:
        yield
    except NpimputeError:
        if new:
            shutil.rmtree(out, ignore_errors=True)
        raise


class Trials:
    """Every program on every dataset, ``repeat`` times in turn. folder: for the outputs, logs and times."""

    def __init__(self, folder: Path, threads: int, repeat: int):
        self._folder, self._threads, self._repeat = folder, threads, repeat
        self._failures: dict[str, dict[str, str]] = {}

    def run(self, programs: list[Program], datasets: list[Dataset]) -> None:
        """Runs what is not done yet. A program that is missing or fails is told of in the log, and left."""
        for program in programs:
            if program.missing:
                self._fail(program, "missing", program.missing)
        for turn in range(self._repeat):
            for data in datasets:
                for program in programs:
                    if program.name not in self._failures:
                        self._one(program, data, turn)

    def failure(self, program: Program) -> dict[str, str]:
        """As in ``failures``, of one of them."""
        return self._failures[program.name]

    def failures(self) -> list[dict[str, str]]:
        """ "label", "status" and "reason" of the programs that are missing or failed."""
        return list(self._failures.values())

    def finished(self, program: Program, datasets: list[Dataset]) -> bool:
        return program.name not in self._failures and all(self._record(program, d)["runs"] for d in datasets)

    def output(self, program: Program, data: Dataset) -> Path:
        return self._commands(program, data).out

    def usage(self, program: Program, datasets: list[Dataset]) -> dict[str, Any]:
        """ "command" of the first dataset; medians over repetitions, summed (memory: the largest) over datasets:
        "seconds", "cpu_seconds", "peak_mb"; "prepare_seconds", "warm_up_seconds", None where there is none; "runs":
        seconds of each run of each dataset."""
        records = [self._record(program, data) for data in datasets]
        medians = {
            name: [statistics.median(run[name] for run in record["runs"]) for record in records]
            for name in ("seconds", "cpu_seconds", "peak_mb")
        }
        out: dict[str, Any] = {"command": shlex.join(self._commands(program, datasets[0]).impute)}
        out |= {name: (max if name == "peak_mb" else sum)(values) for name, values in medians.items()}
        out |= {f"{name}_seconds": _total([record.get(name) for record in records]) for name in ("prepare", "warm_up")}
        return out | {"runs": [[run["seconds"] for run in record["runs"]] for record in records]}

    def _commands(self, program: Program, data: Dataset) -> Commands:
        return program.commands(data, self._place(program, data), self._threads)

    def _place(self, program: Program, data: Dataset) -> Path:
        return self._folder / data.folder.name / program.name

    def _record(self, program: Program, data: Dataset) -> dict[str, Any]:
        """What was done by this very program: its times so far."""
        path, commands = self._place(program, data) / "usage.json", self._commands(program, data)
        fresh = {"version": program.version, "command": commands.impute, "runs": []}
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return fresh
        same = isinstance(found, dict) and all(found.get(name) == fresh[name] for name in ("version", "command"))
        return found if same and commands.out.exists() else fresh

    def _one(self, program: Program, data: Dataset, turn: int) -> None:
        record, commands = self._record(program, data), self._commands(program, data)
        if len(record["runs"]) > turn:
            return
        folder = self._place(program, data)
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        steps = [("warm_up", commands.warm_up, None), ("prepare", *(commands.prepare or (None, None)))]
        for step, command, output in steps if not record["runs"] else []:
            if command is None:
                continue
            if (done := self._measured(program, data, step, command, output)) is None:
                return
            record[step] = done.seconds
        done = None
        commands.out.unlink(missing_ok=True)
        try:
            done = self._measured(program, data, "impute", commands.impute, None)
        finally:
            if done is None:  # half a file is not to be taken for that of a run before
                commands.out.unlink(missing_ok=True)
        if done is None:
            return
        if not commands.out.exists():
            self._fail(program, "failed", f"left no {commands.out.name}; its last words: {done.last}")
            return
        log.info("%s, %s: %.1f s, %.0f MB", program.label, data.folder.name, done.seconds, done.peak_mb)
        record["runs"].append(asdict(done))
        write_json(folder / "usage.json", record)

    def _measured(
        self, program: Program, data: Dataset, step: str, command: list[str], output: Path | None
    ) -> Measured | None:
        """None, and the program is given up, where the command fails."""
        log.info("%s, %s: %s", program.label, data.folder.name, step.replace("_", " "))
        path = self._place(program, data) / f"{step}.log"
        with file_errors(path):
            done = measure(command, path, output)
        if done.status == 0:
            return done
        how = f"signal {-done.status}" if done.status < 0 else f"exit status {done.status}"
        self._fail(program, "failed", f"{step.replace('_', ' ')} ended with {how}: {done.last} ({path})")
        return None

    def _fail(self, program: Program, status: str, reason: str) -> None:
        if program.name not in self._failures:
            log.warning("%s: %s", program.label, reason)
        self._failures[program.name] = {"label": program.label, "status": status, "reason": reason}


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
