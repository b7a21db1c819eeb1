"""Where compiled kernels are kept, and compiling them before they are wanted."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Of what kernels are compiled with: people, sites, and of how many sites one is typed.
_PEOPLE, _SITES, _TYPED = 40, 400, 10

_lost: list[str] = []  # the directory that goes when the process ends


def keep_kernels() -> None:
    """Where no directory that numba keeps kernels in can be written, they are compiled for this process only.

    numba refuses to start then. The directory is this process's own: what lies in a shared one might be anybody's.
    """
    home = os.path.expanduser("~")  # "~" where there is none
    cache = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if os.path.isabs(home) else "")
    places = [os.environ.get("NUMBA_CACHE_DIR"), Path(__file__).parents[1], cache and os.path.join(cache, "numba")]
    if any(_can_be_written(place) for place in places if place):
        return
    _lost.append(tempfile.mkdtemp(prefix="npimpute-"))
    os.environ["NUMBA_CACHE_DIR"] = _lost[0]
    atexit.register(shutil.rmtree, _lost[0], ignore_errors=True)
    print("W compiled kernels cannot be kept; set NUMBA_CACHE_DIR to a directory that can be written", file=sys.stderr)


def _can_be_written(place: str | Path) -> bool:
    try:
        os.makedirs(place, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError:
        return False
    return True


def place_of_kernels() -> str:
    """The directory of those of the engines."""
    from ..engine.group_passes import _impute

    return "none that can be written" if _lost else _impute.stats.cache_path


def compile_kernels() -> None:
    """Compiles what ``run`` runs, of VCF and BCF and of targets with and without phase, by imputing a small panel.

    Raises ConfigError where kernels cannot be kept.
    """
    # Imported here: these load numba, and doctor alone wants them.
    import numpy as np

    from ..config import RunConfig
    from ..errors import ConfigError
    from ..pipeline import run

    if _lost:
        raise ConfigError("--compile: no directory to keep kernels in; set NUMBA_CACHE_DIR to one that can be written")
    rng = np.random.default_rng(1)
    founders = rng.random((8, _SITES)) < rng.random(_SITES) ** 2
    copied = np.cumsum(rng.random((4 * _PEOPLE, _SITES)) < 0.02, axis=1) + rng.integers(0, 8, (4 * _PEOPLE, 1))
    haplotypes = np.where(rng.random(copied.shape) < 0.002, 1, founders[copied % 8, np.arange(_SITES)]).astype(int)
    with tempfile.TemporaryDirectory(prefix="npimpute-") as made:
        place = Path(made)
        _write(place / "panel.vcf", "A", haplotypes[: 2 * _PEOPLE], "|", 1)
        _write(place / "phased.vcf", "B", haplotypes[2 * _PEOPLE :], "|", _TYPED)
        _write(place / "unphased.vcf", "C", haplotypes[2 * _PEOPLE :], "/", _TYPED)
        for ref, target, out in (
            ("panel.vcf", "phased.vcf", "one.bcf"),
            ("one.bcf", "unphased.vcf", "two.bcf"),
            ("panel.vcf", "two.bcf", "three.vcf.gz"),
        ):
            run(RunConfig(place / ref, place / target, place / out, formats=("GT", "DS", "GP", "HDS", "AP")))


def _write(path: Path, name: str, haplotypes, between: str, every: int) -> None:
    """One site in ``every``, of people of two ``haplotypes`` (k, sites) each."""
    people = [f"{name}{i}" for i in range(len(haplotypes) // 2)]
    lines = ["##fileformat=VCFv4.2", "##contig=<ID=1>", '##FORMAT=<ID=GT,Number=1,Type=String,Description="">']
    lines.append("\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *people]))
    for site in range(0, haplotypes.shape[1], every):
        calls = (f"{a}{between}{b}" for a, b in haplotypes[:, site].reshape(-1, 2))
        lines.append("\t".join(["1", str(1000 * (site + 1)), ".", "A", "C", ".", ".", ".", "GT", *calls]))
    path.write_text("\n".join(lines) + "\n")
