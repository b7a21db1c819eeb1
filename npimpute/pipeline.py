"""An imputation from end to end: panel and targets -> windows -> engine -> dosages -> files."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from .config import PhaseConfig, RunConfig
from .context.windows import Window, WindowSize, cut_windows
from .contigs import contig_key
from .dosage.quality import R2Table, SampleQuality
from .dosage.stitch import StitchConfig, stitch
from .engine.select import make_engine
from .errors import InputError
from .panel.align import Match, Mending
from .panel.builds import build_of
from .panel.genetic_map import GeneticMap, constant_rate, read_genetic_map
from .panel.panel import CompiledPanel, Panel, open_panel
from .panel.site_report import SiteReport
from .phasing.phase import phase_contigs, phase_targets
from .types import Dosages, Haplotypes, Sites, Targets
from .vcf.phased import write_phased
from .vcf.read import TargetFile, read_targets
from .vcf.records import clip
from .vcf.region import Region
from .vcf.write import VariantWriter

log = logging.getLogger(__name__)

# Of all target sites, so many that are spelled differently are a fault of the file.
MANY = 0.01
# Phases of sites further away do not matter.
PHASING_FLANK_CM = 2.0


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


def run(config: RunConfig, progress: Callable[[float], None] = lambda share: None) -> Summary:
    """Imputes ``config.target`` from ``config.ref`` into ``config.out``.

    progress: called with the share done, by target sites. Raises InputError or ConfigError; then no output is left.
    """
    engine = make_engine(config)
    panel, genetic_map, region, targets = _open(config, config.flank_cm, config.phase == "auto")
    targets = _phased(config, panel, targets, genetic_map)
    summary = Summary()
    stitching = StitchConfig(config.keep_typed, config.all_typed_sites, config.min_r2)
    quality = SampleQuality(targets.samples) if config.sample_quality else None
    chunks, contigs = _contigs(panel)
    reporting = SiteReport(config.report, config.overwrite) if config.report else contextlib.nullcontext()
    with reporting as report, _writers(config, targets.samples, contigs) as write:
        for window, contig in _windows(chunks, targets, genetic_map, region, config, summary, report):
            done = _progress_from(summary, targets, window, progress)
            p = engine.impute(window, done)
            for dosages in stitch(window, p, engine.error_rate, contig, stitching, quality):
                write(dosages)
                _count(summary, dosages)
        _check_overlap(config, summary, panel, targets)
        if quality:
            quality.write(config.sample_quality)
        if report:
            report.complete()
    return summary


def phase(config: PhaseConfig, progress: Callable[[float], None] = lambda share: None) -> int:
    """Phases ``config.target`` against ``config.ref`` into ``config.out``, missing genotypes filled; how many sites.

    progress: called with the share done. Raises InputError or ConfigError; then no output is left.
    """
    panel, genetic_map, region, targets = _open(config, PHASING_FLANK_CM, True)
    mending = Mending(config.fix_strand, config.swap_alleles)
    phased = phase_contigs(panel, targets.by_contig, genetic_map, config.threads, config.ne, mending, progress)
    written = 0

    def parts() -> Iterator[tuple[Sites, np.ndarray]]:
        nonlocal written
        for _, part in phased:
            inside = np.arange(len(part.sites))
            if region is not None:
                end = np.inf if region.end is None else region.end
                inside = np.flatnonzero((part.sites.pos >= region.start) & (part.sites.pos <= end))
            written += len(inside)
            yield part.sites.take(inside), part.filled[:, :, inside].transpose(2, 0, 1).reshape(len(inside), -1)
        if not written:
            raise InputError(
                f"{targets.path}: no target site is in the panel {panel.path}; check that both use the same build"
            )

    contigs = panel.contigs or [(name, None) for name in targets.by_contig]
    write_phased(config.out, targets.samples, contigs, parts(), config.threads, config.overwrite)
    return written


def _open(
    config: RunConfig | PhaseConfig, flank_cm: float, unphased: bool
) -> tuple[Panel, GeneticMap, Region | None, TargetFile]:
    """The panel, the map and the targets, in the region with its flanks; tells of what looks wrong."""
    keep, drop = _sample_list(config.samples), _sample_list(config.exclude_samples)
    panel = open_panel(config.ref, None, keep, drop, config.threads)
    genetic_map = _genetic_map(config, panel)
    region = None if config.region is None else Region.parse(config.region)
    wide = None
    if region is not None:
        _check_contig(region, panel)
        wide = _with_flanks(region, genetic_map, flank_cm)
        panel = open_panel(config.ref, wide, keep, drop, config.threads)
    targets = read_targets(config.target, wide, config.threads, unphased)
    _warn_of_shared_samples(panel, targets)
    if builds := _other_build(panel, targets):
        log.warning("%s", builds)
    return panel, genetic_map, region, targets


def _phased(config: RunConfig, panel: Panel, targets: TargetFile, genetic_map: GeneticMap) -> TargetFile:
    """The targets with every heterozygote phased."""
    unphased = sum(int(part.unphased.sum()) for part in targets.by_contig.values() if part.unphased is not None)
    if not unphased:
        return targets
    log.info("phasing %d heterozygotes of %d targets (--phase never refuses them)", unphased, len(targets.samples))
    mending = Mending(config.fix_strand, config.swap_alleles)
    return phase_targets(panel, targets, genetic_map, config.threads, config.ne, mending)


def _sample_list(path: Path | None) -> set[str] | None:
    if path is None:
        return None
    try:
        names = {line.strip() for line in path.read_text().splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of samples, one a line ({error})") from error
    if not names:
        raise InputError(f"{path}: names no sample; write one sample a line")
    return names


def _genetic_map(config: RunConfig | PhaseConfig, panel: Panel) -> GeneticMap:
    if config.map is not None:
        return read_genetic_map(config.map)
    if isinstance(panel, CompiledPanel) and panel.genetic_map is not None:
        log.info("genetic map: the one that the panel was compiled with (%s)", panel.metadata["map"])
        return panel.genetic_map
    log.info("genetic map: none given, so 1 cM/Mb is used; --map improves accuracy")
    return constant_rate(1.0)


def _check_contig(region: Region, panel: Panel) -> None:
    names = [name for name, _ in panel.contigs]
    if names and not any(region.has_contig(name) for name in names):
        has = clip(", ".join(names), 60)
        raise InputError(f"{panel.path}: no contig {region.contig}; the panel has {has}; check --region")


def _with_flanks(region: Region, genetic_map: GeneticMap, flank_cm: float) -> Region:
    """The region with at least ``flank_cm`` more on either side, as far as positions go."""
    steps = np.append(0, 1000 * 2 ** np.arange(20))

    def reach(pos: int, direction: int) -> int:
        there = np.clip(pos + direction * steps, 1, 2**31 - 1)
        far = np.abs(genetic_map.to_cm(region.contig, there) - genetic_map.to_cm(region.contig, np.array([pos])))
        return int(there[np.argmax(far >= flank_cm)] if (far >= flank_cm).any() else there[-1])

    return Region(region.contig, reach(region.start, -1), None if region.end is None else reach(region.end, 1))


def _warn_of_shared_samples(panel: Panel, targets: TargetFile) -> None:
    shared = set(panel.samples) & set(targets.samples)
    if shared:
        names = ", ".join(sorted(shared)[:3])
        log.warning(
            "%d target samples are also in the panel (%s ...); --exclude-samples removes them", len(shared), names
        )


def _contigs(panel: Panel) -> tuple[Iterator[Haplotypes], list[tuple[str, int | None]]]:
    """The panel's chunks, and the contigs for the output's header; a panel without any in its header has one."""
    chunks = iter(panel)
    if panel.contigs:
        return chunks, panel.contigs
    first = next(chunks, None)
    if first is None:
        return chunks, []
    return chain([first], chunks), [(first.sites.contig, None)]


@contextlib.contextmanager
def _writers(config: RunConfig, samples: tuple[str, ...], contigs) -> Iterator[Callable[[Dosages], None]]:
    """Opens OUT and the sites-only file; both appear when all is well, neither when not."""
    with contextlib.ExitStack() as stack:
        options = {"contigs": contigs, "threads": config.threads, "overwrite": config.overwrite}
        out = stack.enter_context(VariantWriter(config.out, samples, formats=config.formats, **options))
        sites = None
        if config.sites_only:
            sites = stack.enter_context(VariantWriter(config.sites_only, (), formats=(), **options))
        named = {name for name, _ in contigs}

        def write(dosages: Dosages) -> None:
            if dosages.sites.contig not in named:
                raise InputError(
                    f"{config.ref}: contig {dosages.sites.contig} has no ##contig line; add it to the header"
                )
            out.write(dosages)
            if sites:
                sites.write(replace(dosages, p=dosages.p[:, :0]))

        yield write


def _windows(
    chunks: Iterable[Haplotypes],
    targets: TargetFile,
    genetic_map: GeneticMap,
    region: Region | None,
    config: RunConfig,
    summary: Summary,
    report: SiteReport | None,
) -> Iterator[tuple[Window, Targets]]:
    """Every window that writes something, with the targets of its contig; counts and reports what goes by."""
    by_key: dict[str, Targets] = {}
    for name, part in targets.by_contig.items():
        if (other := by_key.setdefault(contig_key(name), part)) is not part:
            both = f"{other.sites.contig} and {name}"
            raise InputError(f"{targets.path}: contigs {both} are one chromosome; rename or remove one of them")
    size, mending = WindowSize(config.core_cm, config.flank_cm), Mending(config.fix_strand, config.swap_alleles)
    for name, group in groupby(chunks, key=lambda chunk: chunk.sites.contig):
        contig = by_key.pop(contig_key(name), None)
        if contig is None:
            log.warning("contig %s of the panel has no target sites and is not imputed", name)
            continue
        for window in cut_windows(_counted(group, summary), contig, genetic_map, size, mending):
            window = _within(window, contig, region) if region else window
            summary.target_sites += len(window.kind)
            summary.kinds.update(Match(kind) for kind in window.kind)
            if report:
                report.add(contig.sites.slice(*window.span), window.kind, window.panel.sites)
            if window.start >= window.stop:
                continue
            summary.windows += 1
            summary.bare += len(window.typed) == 0
            summary.typed += len(window.typed)
            yield window, contig
    for contig in by_key.values():
        log.warning("contig %s of the targets (%d sites) is not in the panel", contig.sites.contig, len(contig.sites))
        if report:
            report.add_contig(contig.sites)


def _counted(chunks: Iterable[Haplotypes], summary: Summary) -> Iterator[Haplotypes]:
    for chunk in chunks:
        summary.panel_sites += len(chunk.sites)
        yield chunk


def _within(window: Window, targets: Targets, region: Region) -> Window:
    """The window, writing only what lies in the region."""
    ends = (region.start, np.iinfo(np.int64).max if region.end is None else region.end + 1)
    first, last = np.searchsorted(window.panel.sites.pos, ends)
    span = slice(*window.span)
    inside = np.searchsorted(targets.sites.pos[span], ends)
    return replace(
        window,
        start=max(window.start, int(first)),
        stop=min(window.stop, int(last)),
        span=(span.start + int(inside[0]), span.start + int(inside[1])),
        kind=window.kind[slice(*inside)],
    )


def _progress_from(summary: Summary, targets: TargetFile, window: Window, progress) -> Callable[[float], None]:
    total = sum(len(part.sites) for part in targets.by_contig.values())
    before = summary.target_sites - len(window.kind)
    return lambda share: progress((before + share * len(window.kind)) / max(total, 1))


def _count(summary: Summary, dosages: Dosages) -> None:
    summary.written += len(dosages.sites)
    summary.imputed += int((dosages.imputed & ~dosages.typed).sum())
    summary.filled += int((dosages.imputed & dosages.typed).sum())
    summary.r2.add(dosages)


def _check_overlap(config: RunConfig, summary: Summary, panel: Panel, targets: TargetFile) -> None:
    """Raises InputError if not one target site was found in the panel; warns if few were."""
    counts = ", ".join(f"{n} {kind.label}" for kind, n in sorted(summary.kinds.items()) if kind.done == "excluded")
    builds = _other_build(panel, targets)
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
    if summary.bare:
        log.warning("%d of %d windows have no typed site: panel frequencies are written", summary.bare, summary.windows)


def _other_build(panel: Panel, targets: TargetFile) -> str:
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
