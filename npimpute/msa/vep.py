"""Variants of a file scored by a model: every row of the input is a row of the output.

llr is log p(ALT) - log p(REF), natural logarithms, at the masked place; score is -llr, higher for what the model holds
to be more damaging.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..config import check_device
from ..errors import ConfigError
from .alphabet import BASES, GAP
from .score import Scorer, make_scorer
from .scored import open_writer
from .store import Alignment
from .variants import Row, open_variants

OK = "ok"
_BASES = BASES.decode()


@dataclass(frozen=True)
class VepConfig:
    """One scoring. Paths are as given; see ``npimpute vep --help``. Raises ConfigError."""

    model: str
    msa: Path
    variants: Path
    out: Path
    batch: int = 64
    device: str | None = None
    threads: int = 1
    both_strands: bool = True
    prefix: str = ""
    sheet: str | None = None
    header_row: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)
        for name in ("batch", "threads", "header_row"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: 1 or more is needed")
        if not all(c.isalnum() or c == "_" for c in self.prefix) or self.prefix[:1].isdigit():
            raise ConfigError(f"--prefix {self.prefix}: letters, digits and _ make a name")
        if self.out.resolve() == self.variants.resolve():
            raise ConfigError(f"{self.out} is named twice; the output needs a name of its own")


class Scored(NamedTuple):
    """Of one ALT of a row. llr: nan unless the status is "ok"."""

    llr: float
    status: str


def run(config: VepConfig, progress: Callable[[int], None] = lambda rows: None) -> Counter[str]:
    """Scores the file; returns how many alleles have each status. progress: is told the rows done.

    Raises InputError and ConfigError.
    """
    alignment = Alignment.open(config.msa)
    source = open_variants(config.variants, config.sheet, config.header_row)
    writer = open_writer(config.out, source, config.prefix, config.overwrite, config.threads)
    scorer = make_scorer(config.model, alignment, config.batch, config.device, config.threads, config.both_strands)
    statuses: Counter[str] = Counter()
    done = 0
    with writer:
        for rows in source.chunks():
            scored = score_rows(rows, alignment, scorer)
            writer.write(rows, scored)
            statuses.update(allele.status for alleles in scored for allele in alleles)
            progress(done := done + len(rows))
    return statuses


def score_rows(rows: Sequence[Row], alignment: Alignment, scorer: Scorer) -> list[list[Scored]]:
    """What is said of each row: of each of its ALT, or, where the row has a fault, that fault alone.

    Alleles at one place share its probabilities.
    """
    out: list[list[Scored]] = []
    wanted: dict[str, dict[int, list[tuple[int, int, str, str]]]] = {}
    for i, row in enumerate(rows):
        if row.fault:
            out.append([Scored(math.nan, row.fault)])
            continue
        out.append([])
        for j, alt in enumerate(row.alts):
            place = _place(row, alt, alignment)
            out[i].append(Scored(math.nan, place if isinstance(place, str) else ""))
            if not isinstance(place, str):
                contig, at, ref, base = place
                wanted.setdefault(contig, {}).setdefault(at, []).append((i, j, ref, base))
    for contig, places in wanted.items():
        at = np.array(sorted(places), np.int64)
        log_p = scorer.log_p(contig, at)
        for place, p in zip(at.tolist(), log_p.tolist(), strict=True):
            for i, j, ref, base in places[place]:
                out[i][j] = Scored(p[_BASES.index(base)] - p[_BASES.index(ref)], OK)
    return out


def _place(row: Row, alt: str, alignment: Alignment) -> tuple[str, int, str, str] | str:
    """Contig, 0-based place, REF and ALT of a substitution of one base; else why it is not scored."""
    ref, alt, at = row.ref.upper(), alt.upper(), row.pos - 1
    kind = allele_kind(ref, alt)
    if kind:
        return kind
    if not alignment.has(row.contig):
        return "unknown_contig"
    contig = alignment.name(row.contig)
    ref, alt, skipped = trimmed(ref, alt)
    at += skipped
    low, high = alignment.contigs[contig]
    if not low <= at < high:
        return "outside_alignment"
    known = int(alignment.window(contig, at, at + 1)[0, 0])
    if known == GAP or ref == "N":
        return "reference_n"
    return (contig, at, ref, alt) if _BASES[known] == ref else "reference_mismatch"


def allele_kind(ref: str, alt: str) -> str:
    """Why REF and ALT, in capitals, are no substitution of one base; "" if they are one."""
    if alt == "*" or alt[:1] == "<" or any(c in alt for c in "[]"):
        return "symbolic_allele"
    if not ref or not alt or set(ref + alt) - set("ACGTN"):
        return "bad_allele"
    if ref == alt:
        return "alt_is_ref"
    if len(ref) != len(alt):
        return "indel"
    ref, alt, _ = trimmed(ref, alt)
    if len(ref) > 1:
        return "mnv"
    return "bad_allele" if alt == "N" else ""


def trimmed(ref: str, alt: str) -> tuple[str, str, int]:
    """Alleles of one length without the bases that they share at either end, and how many are gone from the start: a
    substitution beside an indel is often written with the indel's bases."""
    while len(ref) > 1 and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    same = 0
    while len(ref) - same > 1 and ref[same] == alt[same]:
        same += 1
    return ref[same:], alt[same:], same
