"""One command in a process of its own: wall time, CPU time, peak memory, and its last words.

Run as a script, this file starts a command and writes what it took to a file. It stands between the caller and the
command because Linux counts the memory of the process that forks as the child's: the caller's may be large, this one's
is not. So it imports little.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """seconds: wall. cpu_seconds: user and system, of the command and what it started. peak_mb: memory (10^6 bytes) of
    the largest of its processes. status: exit status, negative for a signal. last: the last line of its log."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    status: int
    last: str


def measure(command: list[str], log: Path, output: Path | None = None) -> Measured:
    """Runs ``command``; what it prints goes to ``log``, and its stdout to ``output`` if given.

    An interruption of this process ends the command as well. The status is 127 where it cannot be started.
    Raises OSError where the log's directory cannot be written.
    """
    result = log.with_suffix(".usage.json")
    result.unlink(missing_ok=True)
    words = [sys.executable, "-I", __file__, str(result), str(log), str(output or ""), *command]
    child = subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL)
    try:
        child.wait()
    except BaseException:
        _end(child)
        raise
    usage = json.loads(result.read_text())
    result.unlink()
    return Measured(**usage, last=last_line(log))


def _end(child: subprocess.Popen) -> None:
    """Ends all processes of its group: kindly, and after 3 seconds by force."""
    number = signal.SIGTERM
    with contextlib.suppress(ProcessLookupError):  # none is left
        for _ in range(60):
            os.killpg(child.pid, number)
            child.poll()
            time.sleep(0.05)
            number = 0
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def last_line(log: Path) -> str:
    """The last line that says something, as a progress bar leaves it."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _main(result: str, log: str, output: str, *command: str) -> None:
    started = time.perf_counter()
    with open(log, "wb") as told, open(output or os.devnull, "wb") as file:
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file if output else told, stderr=told)
        except OSError as error:
            told.write(f"{command[0]}: {error.strerror}\n".encode())
            code, taken = 127, (0.0, 0.0)
        else:
            _, status, usage = os.wait4(child.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024
            taken = (usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)
    seconds = time.perf_counter() - started
    with open(result, "w") as file:
        json.dump({"seconds": seconds, "cpu_seconds": taken[0], "peak_mb": taken[1], "status": code}, file)


if __name__ == "__main__":
    _main(*sys.argv[1:])
