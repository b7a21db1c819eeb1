"""Who is haploid where: contigs cut into stretches in which nobody's ploidy changes, as X is at its PARs.

The panel's own calls tell where ploidies change; where it has no haploid call, the PARs of human builds do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..contigs import contig_key
from ..errors import InputError
from ..types import ABSENT, Haplotypes, Targets, present, same_ploidy
from ..vcf.read import TargetFile
from .builds import build_of
from .panel import CompiledPanel, Panel

log = logging.getLogger(__name__)

# The last position of PAR1 and the first of PAR2 on X. Source: the Genome Reference Consortium's pages of the builds;
# of T2T-CHM13 Rhie et al. 2023, Nature 621:344.
PARS = {
    "GRCh38 (hg38)": (2781479, 155701383),
    "GRCh37 (hg19)": (2699520, 154931044),
    "GRCh36 (hg18)": (2709520, 154584238),
    "T2T-CHM13v2.0 (hs1)": (2394410, 153925835),
}
# PAR1, the rest of X, PAR2.
MOST_STRETCHES = 3
# Of a sample's calls, so many may have another ploidy than the rest: genotyping errors.
MOST_ODD = 0.05
END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Stretch:
    """Positions start..stop-1 of a contig and the targets' sites there. targets: with their ploidy."""

    start: int
    stop: int
    targets: Targets

    @property
    def contig(self) -> str:
        """As the targets call it."""
        return self.targets.sites.contig


def stretches(panel: Panel, targets: TargetFile, panel_of: Callable[[str], Panel]) -> dict[str, list[Stretch]]:
    """By ``contig_key``, the targets' contigs, each as one stretch or several in order.

    panel_of: the panel's part of a contig, which is read for it where targets are haploid, or on X. A sample's ploidy
    in a stretch is that of nearly all its calls there; of one without calls it is 1 where all others are haploid. Where
    a few differ, heterozygotes of haploid samples and haploid calls of diploid ones are taken as missing, homozygotes
    of haploid samples for one allele. Raises InputError where more differ, or two contigs of the targets are one.
    """
    found: dict[str, list[Stretch]] = {}
    names: dict[str, str] = {}
    for name, part in targets.by_contig.items():
        key = contig_key(name)
        if (other := names.setdefault(key, name)) != name:
            both = f"{other} and {name}"
            raise InputError(f"{targets.path}: contigs {both} are one chromosome; rename or remove one of them")
        if key == "X" or (part.alleles == ABSENT).any():
            has = not panel.contigs or key in {contig_key(ours) for ours, _ in panel.contigs}
            found[key] = _of_contig(panel, list(_runs(panel_of(name), key)) if has else [], targets, name)
        else:
            found[key] = [Stretch(1, END, part)]
    return found


def by_stretch(
    panel: Panel, chunks: Iterable[Haplotypes], stretches: list[Stretch]
) -> Iterator[tuple[int, Haplotypes]]:
    """The panel's ``chunks`` of a contig, cut where a stretch ends, each with its stretch's place in the list. Raises
    InputError where ploidy changes within one."""
    before: dict[int, Haplotypes] = {}
    for chunk in chunks:
        for i, stretch in enumerate(stretches):
            first, last = np.searchsorted(chunk.sites.pos, [stretch.start, stretch.stop])
            if first < last:
                part = chunk if last - first == len(chunk.sites) else chunk.slice(int(first), int(last))
                if not same_ploidy(before.setdefault(i, part).ploidy, part.ploidy):
                    where = f"{chunk.sites.contig}:{part.sites.pos[0]}"
                    raise InputError(
                        f"{panel.path}: {where}: other samples are haploid than before; cut the panel there (bcftools "
                        "view -t) and impute with one part at a time"
                    )
                yield i, part


_Run = tuple[int, int, np.ndarray | None]


def _of_contig(panel: Panel, runs: list[_Run], targets: TargetFile, name: str) -> list[Stretch]:
    part = targets.by_contig[name]
    if len(runs) > MOST_STRETCHES:
        where = ", ".join(str(first) for first, *_ in runs[1:4])
        raise InputError(
            f"{panel.path}: contig {name}: the ploidy of samples changes {len(runs) - 1} times (at {where} ...), at "
            "the PARs of X it would twice; make the calls of each sample alike (bcftools +fixploidy)"
        )
    borders = [_border(before[1], after[0]) for before, after in pairwise(runs)]
    if contig_key(name) == "X" and (part.alleles == ABSENT).any():
        # Between its first and its last site a panel with haploid calls says itself where ploidies change.
        says = (runs[0][0], runs[-1][1]) if any(ploidy is not None for *_, ploidy in runs) else (0, 0)
        if part.sites.pos[0] < says[0] or part.sites.pos[-1] > says[1]:
            borders += [pos for pos in _pars(panel, targets, part) if not says[0] < pos <= says[1]]
            borders.sort()
    cut = []
    for start, stop in zip([1, *borders], [*borders, END], strict=True):
        first, last = np.searchsorted(part.sites.pos, [start, stop])
        cut.append(Stretch(start, stop, settled := _settled(targets.path, part.slice(int(first), int(last)))))
        if settled.ploidy is not None:
            where = f"{name}:{start}-" + (str(stop - 1) if stop < END else "")
            log.info("%s: %d of %d targets are haploid", where, (settled.ploidy == 1).sum(), len(settled.ploidy))
    return cut


def _runs(panel: Panel, key: str) -> Iterator[_Run]:
    """First and last position and ploidy of every stretch of the panel's contig."""
    if isinstance(panel, CompiledPanel):
        pieces = panel.ploidies(key)
    else:
        chunks = (chunk for chunk in panel if contig_key(chunk.sites.contig) == key)
        pieces = ((int(chunk.sites.pos[0]), int(chunk.sites.pos[-1]), chunk.ploidy) for chunk in chunks)
    run = None
    for first, last, ploidy in pieces:
        if run is not None and not same_ploidy(ploidy, run[2]):
            yield run
            run = None
        run = (run[0] if run else first, last, ploidy)
    if run is not None:
        yield run


def _border(last: int, first: int) -> int:
    """Where a stretch begins: between the panel's last site before and its first, where a PAR ends or begins if one
    does."""
    return next((pos for par1, par2 in PARS.values() for pos in (par1 + 1, par2) if last < pos <= first), first)


def _pars(panel: Panel, targets: TargetFile, part: Targets) -> tuple[int, int]:
    """Where X outside the PARs begins, and where PAR2 does, on the build that the headers or the calls tell."""
    told = build_of(panel.contigs) or build_of(targets.contigs)
    if told is not None:
        return PARS[told][0] + 1, PARS[told][1]
    odd = {}
    for build, (par1, par2) in PARS.items():
        inside = np.searchsorted(part.sites.pos, [par1 + 1, par2])
        calls = np.delete(part.alleles, slice(*inside), axis=0)
        odd[build] = int((calls == ABSENT).sum()) + int(_odd(part.alleles[slice(*inside)]).sum())
    build = min(odd, key=odd.get)
    log.warning(
        "contig %s: no header tells the genome build; its PARs are taken to be those of %s, which fit the calls",
        part.sites.contig,
        build,
    )
    return PARS[build][0] + 1, PARS[build][1]


def _calls(alleles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(s, samples) bool, twice: called haploid, and diploid."""
    haploid = alleles[:, 1::2] == ABSENT
    return haploid, ~haploid & ((alleles[:, ::2] >= 0) | (alleles[:, 1::2] >= 0))


def _odd(alleles: np.ndarray) -> np.ndarray:
    """(s, samples) bool: calls of another ploidy than most of the sample's."""
    haploid, diploid = _calls(alleles)
    mostly = haploid.sum(axis=0) > diploid.sum(axis=0)
    return np.where(mostly, diploid, haploid)


def _settled(path: Path, part: Targets) -> Targets:
    """The targets of a stretch with the ploidy that their calls have."""
    haploid, diploid = _calls(part.alleles)
    if not haploid.any():
        return part
    odd = _odd(part.alleles)
    mostly, silent = haploid.sum(axis=0) > diploid.sum(axis=0), ~(haploid | diploid).any(axis=0)
    ploidy = np.where(mostly | (silent & (mostly | silent).all()), 1, 2).astype(np.int8)
    many = np.flatnonzero(odd.sum(axis=0) > MOST_ODD * (haploid | diploid).sum(axis=0))
    contig, pos = part.sites.contig, part.sites.pos
    if len(many):
        i = many[0]
        which = ["diploid", "haploid"]
        found = f"{contig}:{pos[np.argmax(odd[:, i])]}, sample {part.samples[i]}: is {which[ploidy[i] - 1]} here, and "
        raise InputError(
            f"{path}: {found}{which[2 - ploidy[i]]} at most sites of {contig}:{pos[0]}-{pos[-1]} ({odd[:, i].sum()} of "
            f"{(haploid | diploid)[:, i].sum()} calls differ); make its calls alike (bcftools +fixploidy)"
        )
    first, second = part.alleles[:, ::2].copy(), part.alleles[:, 1::2].copy()
    lost = odd & ((ploidy == 2) | (first != second))
    first[lost], second[lost] = -1, -1
    if odd.any():
        log.warning(
            "%s:%d-%d: %d calls of %d samples have another ploidy than the rest of theirs; %d are taken as missing",
            *(contig, pos[0], pos[-1], odd.sum(), odd.any(axis=0).sum(), lost.sum()),
        )
    alleles = np.stack([first, second], axis=2).reshape(len(pos), -1)[:, present(ploidy)]
    unphased = None if part.unphased is None else part.unphased & ~lost & (ploidy == 2)
    return replace(part, alleles=alleles, unphased=unphased, ploidy=ploidy)
