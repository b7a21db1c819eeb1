"""The programs that are compared: npimpute with any options, and the peers, each as commands over a ``Dataset``."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..config import ENGINES, RunConfig
from ..errors import ConfigError
from .dataset import Dataset

ALIASES = {"lr": "logistic"}
"""Short names of engines, as the literature has them."""


@dataclass(frozen=True)
class Commands:
    """What to run for a dataset. warm_up: run first, not counted (it compiles what is compiled once). prepare: counted
    apart (it converts the panel), with the file its stdout goes to. impute: what is timed. out: the imputed VCF."""

    warm_up: list[str] | None
    prepare: tuple[list[str], Path] | None
    impute: list[str]
    out: Path


@dataclass(frozen=True)
class Program:
    """name: of its files, its own among all. label: in tables. version: as it says itself. commands: of a dataset, an
    output folder and a number of threads. missing: why it cannot run, "" if it can. ours: npimpute, with
    ``options`` of 'npimpute run'."""

    name: str
    label: str
    version: str
    commands: Callable[[Dataset, Path, int], Commands]
    missing: str = ""
    ours: bool = False
    options: tuple[str, ...] = ()

    @property
    def engine(self) -> str | None:
        """The engine of npimpute that it runs."""
        if not self.ours:
            return None
        words = " ".join(self.options).replace("=", " ").split()
        return words[words.index("--engine") + 1] if "--engine" in words[:-1] else RunConfig.engine


def engine(text: str) -> Program:
    """The program "ENGINE" or "ENGINE:MODEL" (a directory). Raises ConfigError for an unknown engine."""
    name, colon, model = text.partition(":")
    if colon and not model:
        raise ConfigError(f"--engines {text}: write ENGINE, or ENGINE:MODEL")
    name = ALIASES.get(name, name)
    if name not in ENGINES:
        raise ConfigError(f"--engines {text}: choose from {', '.join(ENGINES)}, or ENGINE:MODEL")
    options = ["--engine", name, *(["--model", str(Path(model).resolve())] if colon else [])]
    return npimpute(text if colon else name, options)


def variant(text: str) -> Program:
    """The program "LABEL=OPTIONS" of 'npimpute run'. Raises ConfigError where it is none, or sets what is set here."""
    label, equals, options = text.partition("=")
    if not equals or not label.strip():
        raise ConfigError(f"--run {text}: write LABEL=OPTIONS, such as 'without network=--engine li-stephens'")
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--run {text}: {error}") from error
    taken = {"--ref", "--target", "--out", "--format", "--map", "--threads", "--region", "--overwrite"}
    if both := sorted(taken & {word.partition("=")[0] for word in words}):
        raise ConfigError(f"--run {text}: {', '.join(both)} is set by the benchmark")
    return npimpute(label.strip(), words)


def npimpute(label: str, options: list[str]) -> Program:
    """'npimpute run' with ``options``, by the Python that runs this."""

    def commands(data: Dataset, folder: Path, threads: int) -> Commands:
        run = [sys.executable, "-m", "npimpute", "run", "--ref", str(data.panel), "--target", str(data.chip)]
        run += ["--threads", str(threads), *(["--map", str(data.maps[0])] if data.maps else []), *options]
        run += ["--format", "GT,DS,GP", "--overwrite"]
        contig, first, last = data.contigs[0]
        warm = [*run, "--region", f"{contig}:{first}-{min(last, first + WARM_UP_BP)}"]
        out = folder / "imputed.vcf.gz"
        return Commands([*warm, "--out", str(folder / "warm_up.vcf.gz")], None, [*run, "--out", str(out)], out)

    return Program(_file_name(label), label, f"npimpute {__version__}", commands, "", True, tuple(options))


WARM_UP_BP = 200_000


def peer(name: str, path: str | None = None) -> Program:
    """A peer by name, as installed or at ``path``. Raises ConfigError for an unknown one."""
    if name not in PEERS:
        raise ConfigError(f"--peers {name}: choose from {', '.join(PEERS)}, or none")
    make, install = PEERS[name]
    found = path or shutil.which(name)
    if found is None:
        return Program(name, name, "", lambda *_: None, missing=f"not installed; {install}")
    if not Path(found).exists():
        raise ConfigError(f"--program {name}={found}: no such file")
    place = str(Path(found).resolve())
    start = ["java", "-jar", place] if found.endswith(".jar") else [place]
    return make(start)


def _beagle(start: list[str]) -> Program:
    found = re.search(r"^(\S+?)(?:\.jar)? \(version ([\d.]+)\)", _says(start), re.MULTILINE)
    version = f"Beagle {found[2]} ({found[1].removeprefix('beagle.')})" if found else "Beagle"

    def commands(data: Dataset, folder: Path, threads: int) -> Commands:
        words = [f"gt={data.chip}", f"ref={data.panel}", f"out={folder / 'imputed'}", "gp=true", f"nthreads={threads}"]
        words += [f"map={data.maps[0]}"] if data.maps else []
        return Commands(None, None, [*start, *words], folder / "imputed.vcf.gz")

    return Program("beagle", f"Beagle {found[2]}" if found else "Beagle", version, commands)


def _minimac4(start: list[str]) -> Program:
    found = re.search(r"v?(\d+(?:\.\d+)+)", _says([*start, "--version"]))

    def commands(data: Dataset, folder: Path, threads: int) -> Commands:
        panel, out = folder / "panel.msav", folder / "imputed.vcf.gz"
        words = [*start, str(panel), str(data.chip), "-f", "GT,DS,GP", "-O", "vcf.gz", "-o", str(out)]
        words += ["-t", str(threads), *(["-m", str(data.maps[0])] if data.maps else [])]
        return Commands(None, ([*start, "--compress-reference", str(data.panel)], panel), words, out)

    label = f"Minimac4 {found[1]}" if found else "Minimac4"
    return Program("minimac4", label, label, commands)


def _impute5(start: list[str]) -> Program:
    found = re.search(r"v?(\d+(?:\.\d+)+)", _says([*start, "--help"]))

    def commands(data: Dataset, folder: Path, threads: int) -> Commands:
        contig, first, last = data.contigs[0]
        region, out = f"{contig}:{first}-{last}", folder / "imputed.vcf.gz"
        words = [*start, "--h", str(data.panel), "--g", str(data.chip), "--r", region, "--buffer-region", region]
        words += ["--out-gp-field", "--o", str(out), "--threads", str(threads)]
        return Commands(None, None, words + (["--m", str(data.maps[1])] if data.maps else []), out)

    label = f"IMPUTE5 {found[1]}" if found else "IMPUTE5"
    return Program("impute5", label, label, commands)


PEERS = {
    "beagle": (_beagle, "Debian: apt-get install beagle; or --program beagle=FILE.jar from its web site"),
    "minimac4": (_minimac4, "Debian: apt-get install minimac4; conda: conda install -c bioconda minimac4"),
    "impute5": (_impute5, "download it from jmarchini.org and give --program impute5=FILE"),
}


def _says(command: list[str]) -> str:
    """What it prints, however it ends."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _file_name(label: str) -> str:
    """Raises ConfigError where nothing of the label can be part of one."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("._")
    if not name:
        raise ConfigError(f"--run {label}: a label needs a letter or a number (A-Z, a-z, 0-9)")
    return name
