"""Small files: genetic maps as other programs read them, and tables of samples and populations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from ..outputs import file_errors
from ..panel.genetic_map import GeneticMap


def write_maps(folder: Path, genetic_map: GeneticMap, contigs: list[str]) -> tuple[Path, Path]:
    """The map as Beagle and Minimac4 read it (chrom id cM bp) and as IMPUTE5 does (pos chr cM), contigs named as in
    the panel. Raises InputError where the map lacks a contig."""
    plink, gmap = folder / "map.plink.txt", folder / "map.gmap.txt"
    points = []
    for contig in contigs:
        genetic_map.to_cm(contig, np.array([1]))  # refuses a contig that it lacks
        bp, cm = genetic_map.points[contig_key(contig)]
        points += [(contig, int(b), float(c)) for b, c in zip(bp, cm, strict=True)]
    with file_errors(plink):
        plink.write_text("".join(f"{contig} . {cm:.8g} {bp}\n" for contig, bp, cm in points))
        gmap.write_text("pos\tchr\tcM\n" + "".join(f"{bp}\t{contig}\t{cm:.8g}\n" for contig, bp, cm in points))
    return plink, gmap


def read_populations(path: Path) -> dict[str, str]:
    """Sample -> population, from the first two columns of a table, blank- or tab-separated; a first line whose first
    word is sample, id or IID (any case, # in front) is a header. Raises InputError."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of samples and populations ({error})") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("\t") if "\t" in line else line.split()
        if not words or (number == 1 and words[0].lstrip("#").lower() in ("sample", "id", "iid")):
            continue
        if len(words) < 2:
            raise InputError(f"{path}, line {number}: one column; write a sample and its population")
        if found.setdefault(words[0], words[1].strip()) != words[1].strip():
            raise InputError(f"{path}, line {number}: sample {words[0]} has two populations; keep one of the lines")
    if not found:
        raise InputError(f"{path}: names no sample; write one a line, with its population")
    return found


def populations_of(path: Path, samples: Sequence[str]) -> list[str]:
    """The population of each of ``samples``. Raises InputError where the table lacks one."""
    found = read_populations(path)
    if lost := [name for name in samples if name not in found]:
        names = ", ".join(lost[:3]) + (" ..." if len(lost) > 3 else "")
        raise InputError(f"{path}: lacks {len(lost)} of {len(samples)} samples ({names})")
    return [found[name] for name in samples]
