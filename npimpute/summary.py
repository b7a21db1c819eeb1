"""What a run did, and what looks wrong of it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from .config import RunConfig
from .dosage.quality import R2Table
from .errors import InputError
from .panel.align import Match
from .panel.builds import build_of
from .panel.panel import Panel
from .types import Sites
from .vcf.read import TargetFile
from .vcf.records import clip

log = logging.getLogger(__name__)

# Of all target sites, so many that are spelled differently are a fault of the file.
MANY = 0.01
# Where typed alleles are this much worse predicted than expected, at so many rows, the panel does not fit.
SURPRISING, TELLING_ROWS = 0.96, 100


@dataclass
class Summary:
    """What a run did. windows, bare: windows, and those without a typed site; typed: sites that the windows were
    imputed from, flanks and all; kinds: target sites by ``Match``; written, imputed: records; filled: target sites
    with missing genotypes that were imputed."""

    panel_sites: int = 0
    windows: int = 0
    bare: int = 0
    typed: int = 0
    target_sites: int = 0
    kinds: Counter = field(default_factory=Counter)
    written: int = 0
    imputed: int = 0
    filled: int = 0
    r2: R2Table = field(default_factory=R2Table)

    @property
    def used(self) -> int:
        """Target sites that were imputed from."""
        return sum(count for kind, count in self.kinds.items() if kind.done != "excluded")


def check_overlap(config: RunConfig, summary: Summary, panel: Panel, targets: TargetFile) -> None:
    """Raises InputError if not one target site was found in the panel; warns if few were."""
    counts = ", ".join(f"{n} {kind.label}" for kind, n in sorted(summary.kinds.items()) if kind.done == "excluded")
    builds = other_build(panel, targets)
    spelling = "" if builds else _other_spelling(config, summary)
    if summary.windows == 0 and config.region is not None:
        raise InputError(f"{panel.path}: no record in {config.region}; check --region")
    if summary.typed == 0:
        theirs = ", ".join(f"{name} ({s.pos[0]}-{s.pos[-1]})" for name, s in _spans(targets)) or "none"
        ours = ", ".join(name for name, _ in panel.contigs) or "not named in its header"
        raise InputError(
            f"{targets.path}: no target site is in the panel {panel.path} (target contigs: {theirs}; panel contigs: "
            f"{clip(ours, 60)}; {counts or 'no contig in common'}); "
            f"{builds or spelling or 'check that both use the same genome build'}"
        )
    if summary.used < summary.target_sites / 2:
        remedy = f"; {builds}" if builds else ""
        log.warning(
            "only %d of %d target sites are in the panel: %s%s", summary.used, summary.target_sites, counts, remedy
        )
    if spelling:
        log.warning("%s", spelling)
    if summary.kinds[Match.TAKEN]:
        log.warning("%d %s", summary.kinds[Match.TAKEN], Match.TAKEN.label)
    rows, found, expected = summary.r2.typed
    if rows >= TELLING_ROWS and found < SURPRISING * expected:
        log.warning(
            "left out, typed alleles are predicted with mean r2 %.3f, where %.3f was to be expected: DR2 and EXPR2 are "
            "too high, as they are where the panel lacks the targets' ancestry",
            *(found, expected),
        )
    if summary.bare:
        log.warning("%d of %d windows have no typed site: panel frequencies are written", summary.bare, summary.windows)


def other_build(panel: Panel, targets: TargetFile) -> str:
    """What is wrong, and what to do, if the headers name two genome builds; "" if they do not."""
    ours, theirs = build_of(panel.contigs), build_of(targets.contigs)
    if ours is None or theirs is None or ours == theirs:
        return ""
    return (
        f"by the contig lengths in their headers the targets ({targets.path}) are on {theirs} and the panel "
        f"({panel.path}) is on {ours}: lift the targets over to {ours} (e.g. bcftools +liftover, CrossMap)"
    )


def _other_spelling(config: RunConfig, summary: Summary) -> str:
    """What is wrong, and which options mend it, if many target sites are on the other strand or have REF and ALT
    exchanged, and are not used; "" if not."""
    kinds, total = summary.kinds, summary.target_sites
    both = kinds[Match.FLIPPED_SWAPPED]
    flipped = 0 if config.fix_strand else kinds[Match.FLIPPED] + both
    swapped = 0 if config.swap_alleles else kinds[Match.SWAPPED] + both
    # At positions that are in the panel by chance, as those of another build, most have other alleles.
    if flipped + swapped <= kinds[Match.ALLELES_DIFFER]:
        return ""
    faults = [
        (flipped, "are on the other strand", "--fix-strand"),
        (swapped, "have REF and ALT exchanged", "--swap-alleles"),
    ]
    faults = [fault for fault in faults if fault[0] > MANY * total]
    if not faults:
        return ""
    found = " and ".join(f"{count} {fault}" for count, fault, _ in faults)
    return f"of {total} target sites, {found}, so they are not used: add {' '.join(option for *_, option in faults)}"


def _spans(targets: TargetFile) -> list[tuple[str, Sites]]:
    return [(name, part.sites) for name, part in targets.by_contig.items()][:5]
