"""An imputation from end to end: panel and targets -> windows -> engine -> dosages -> files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np

from .config import PhaseConfig, RunConfig
from .context.windows import Window, WindowSize, cut_windows
from .contigs import contig_key
from .dosage.by_turns import imputed
from .dosage.quality import SampleQuality
from .dosage.stitch import StitchConfig, stitch
from .engine.base import Engine
from .engine.select import make_engine
from .errors import InputError
from .panel.align import Match, Mending
from .panel.genetic_map import GeneticMap, constant_rate, read_genetic_map
from .panel.panel import CompiledPanel, Panel, open_panel
from .panel.ploidy import Stretch, by_stretch, stretches
from .panel.site_report import SiteReport
from .phasing.phase import phase_stretches, phase_targets
from .resuming import Kept
from .summary import Summary, check_overlap, other_build
from .types import Dosages, Haplotypes, Sites, Targets, present
from .vcf.phased import write_phased
from .vcf.read import TargetFile, read_targets
from .vcf.records import clip
from .vcf.region import Region
from .vcf.write import VariantWriter

log = logging.getLogger(__name__)

# Phases of sites further away do not matter.
PHASING_FLANK_CM = 2.0
# Phased sites that are written at a time.
PHASED_ROWS = 256


def run(config: RunConfig, progress: Callable[[float], None] = lambda share: None) -> Summary:
    """Imputes ``config.target`` from ``config.ref`` into ``config.out``.

    progress: called with the share done, by target sites. Raises InputError or ConfigError; then no output is left.
    """
    with Kept(config) if config.resume else contextlib.nullcontext() as kept:
        return _run(replace(config, **kept.estimates) if kept else config, kept, progress)


def _run(config: RunConfig, kept: Kept | None, progress: Callable[[float], None]) -> Summary:
    engine = make_engine(config)
    panel, genetic_map, region, targets, parts = _open(config, config.flank_cm, config.phase == "auto")
    parts = _phased(config, panel, targets, parts, genetic_map)
    summary = Summary()
    stitching = StitchConfig(config.keep_typed, config.all_typed_sites, config.min_r2)
    quality = SampleQuality(targets.samples) if config.sample_quality else None
    chunks, contigs = _contigs(panel)
    reporting = SiteReport(config.report, config.overwrite) if config.report else contextlib.nullcontext()
    with reporting as report, _writers(config, targets.samples, contigs, kept) as outputs:
        done = _restore(kept, outputs, summary, quality) if kept else 0
        windows = _windows(panel, chunks, parts, genetic_map, region, config, summary, report)
        for window, part in islice(windows, done, None):
            with imputed(engine, window, config.out, _progress_from(summary, targets, window, progress)) as p:
                for dosages in stitch(window, p, engine.error_rate, part, stitching, quality):
                    _write(outputs, dosages, config)
                    _count(summary, dosages)
            if kept:
                _keep(kept, outputs, engine, summary, quality)
        check_overlap(config, summary, panel, targets)
        # All that can fail comes before the first output has its name.
        if report:
            report.complete()
        for output in outputs:
            output.complete()
        if quality:
            quality.write(config.sample_quality)
    return summary


def _keep(kept: Kept, outputs: list[VariantWriter], engine: Engine, summary: Summary, quality: SampleQuality | None):
    """A window is finished."""
    pieces = [output.end_piece() for output in outputs]
    counts = {"written": summary.written, "imputed": summary.imputed, "filled": summary.filled, "r2": summary.r2.sums}
    counts |= {"quality": quality.sums if quality else None, "last": outputs[0].last_position, "pieces": pieces}
    kept.finished(engine.estimates, counts)


def _restore(kept: Kept, outputs: list[VariantWriter], summary: Summary, quality: SampleQuality | None) -> int:
    """Counts go on from where the last run stopped; returns how many windows it had finished."""
    if counts := kept.counts:
        summary.written, summary.imputed, summary.filled = (counts[name] for name in ("written", "imputed", "filled"))
        summary.r2.sums = counts["r2"]
        if quality:
            quality.sums = counts["quality"]
        for output in outputs:
            output.reach(counts["last"])
    return kept.windows


def phase(config: PhaseConfig, progress: Callable[[float], None] = lambda share: None) -> int:
    """Phases ``config.target`` against ``config.ref`` into ``config.out``, missing genotypes filled; how many sites.

    progress: called with the share done. Raises InputError or ConfigError; then no output is left.
    """
    panel, genetic_map, region, targets, wanted = _open(config, PHASING_FLANK_CM, True)
    mending = Mending(config.fix_strand, config.swap_alleles)
    phased = phase_stretches(panel, wanted, genetic_map, config.threads, config.ne, mending, progress)
    written, (_, contigs) = 0, _contigs(panel)

    def parts() -> Iterator[tuple[Sites, np.ndarray, np.ndarray | None]]:
        nonlocal written
        for stretch, part in phased:
            if part.sites.contig not in dict(contigs):
                raise _undeclared(panel.path, part.sites.contig)
            inside = np.arange(len(part.sites))
            if region is not None:
                end = np.inf if region.end is None else region.end
                inside = np.flatnonzero((part.sites.pos >= region.start) & (part.sites.pos <= end))
            written += len(inside)
            for first in range(0, len(inside), PHASED_ROWS):
                rows = inside[first : first + PHASED_ROWS]
                codes = part.filled[:, :, rows].transpose(2, 0, 1).reshape(len(rows), -1)
                ploidy = stretch.targets.ploidy
                yield part.sites.take(rows), codes if ploidy is None else codes[:, present(ploidy)], ploidy
        if not written:
            raise InputError(
                f"{targets.path}: no target site is in the panel {panel.path}; check that both use the same build"
            )

    write_phased(config.out, targets.samples, contigs, parts(), config.threads, config.overwrite)
    return written


def _open(
    config: RunConfig | PhaseConfig, flank_cm: float, unphased: bool
) -> tuple[Panel, GeneticMap, Region | None, TargetFile, dict[str, list[Stretch]]]:
    """The panel, the map and the targets, in the region with its flanks, whole and by contig; tells of what looks
    wrong."""
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
    if builds := other_build(panel, targets):
        log.warning("%s", builds)

    def panel_of(contig: str) -> Panel:
        # A region must have a contig that the panel is known to have; a compiled panel tells without being read.
        if region or isinstance(panel, CompiledPanel) or not panel.contigs:
            return panel
        return open_panel(config.ref, Region(contig, 1, None), keep, drop, config.threads)

    return panel, genetic_map, region, targets, stretches(panel, targets, panel_of)


def _phased(
    config: RunConfig, panel: Panel, targets: TargetFile, parts: dict[str, list[Stretch]], genetic_map: GeneticMap
) -> dict[str, list[Stretch]]:
    """The targets with every heterozygote phased."""
    marks = (part.targets.unphased for contig in parts.values() for part in contig)
    unphased = sum(int(mark.sum()) for mark in marks if mark is not None)
    if not unphased:
        return parts
    log.info("phasing %d heterozygotes of %d targets (--phase never refuses them)", unphased, len(targets.samples))
    mending = Mending(config.fix_strand, config.swap_alleles)
    return phase_targets(panel, parts, genetic_map, config.threads, config.ne, mending)


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
def _writers(config: RunConfig, samples: tuple[str, ...], contigs, kept: Kept | None) -> Iterator[list[VariantWriter]]:
    """Opens OUT and, if wanted, the sites-only file; both appear when all is well, neither when not."""
    with contextlib.ExitStack() as stack:
        wanted = [("out", config.out, samples, config.formats)]
        if config.sites_only is not None:
            wanted.append(("sites", config.sites_only, (), ()))
        sizes = kept.counts.get("pieces", [[] for _ in wanted]) if kept else []
        pieces = [(kept.place(name), sizes[i]) if kept else None for i, (name, *_) in enumerate(wanted)]
        options = {"threads": config.threads, "overwrite": config.overwrite}
        yield [
            stack.enter_context(VariantWriter(path, who, contigs, formats, **options, pieces=there))
            for (_, path, who, formats), there in zip(wanted, pieces, strict=True)
        ]


def _undeclared(path: Path, contig: str) -> InputError:
    return InputError(f"{path}: contig {contig} has no ##contig line; add it to the header")


def _write(outputs: list[VariantWriter], dosages: Dosages, config: RunConfig) -> None:
    if not outputs[0].knows(dosages.sites.contig):
        raise _undeclared(config.ref, dosages.sites.contig)
    for output, part in zip(outputs, (dosages, replace(dosages, p=dosages.p[:, :0])), strict=False):
        output.write(part)


def _windows(
    panel: Panel,
    chunks: Iterable[Haplotypes],
    parts: dict[str, list[Stretch]],
    genetic_map: GeneticMap,
    region: Region | None,
    config: RunConfig,
    summary: Summary,
    report: SiteReport | None,
) -> Iterator[tuple[Window, Targets]]:
    """Every window that writes something, with the targets of its stretch; counts and reports what goes by."""
    by_key = dict(parts)
    size, mending = WindowSize(config.core_cm, config.flank_cm), Mending(config.fix_strand, config.swap_alleles)
    for name, group in groupby(chunks, key=lambda chunk: chunk.sites.contig):
        contig = by_key.pop(contig_key(name), None)
        if contig is None:
            log.warning("contig %s of the panel has no target sites and is not imputed", name)
            continue
        pieces = by_stretch(panel, _counted(group, summary), contig)
        bare = dict(enumerate(contig))
        for i, part in groupby(pieces, key=lambda piece: piece[0]):
            near = bare.pop(i).targets
            for window in cut_windows((chunk for _, chunk in part), near, genetic_map, size, mending):
                window = _within(window, near, region) if region else window
                summary.target_sites += len(window.kind)
                summary.kinds.update(Match(kind) for kind in window.kind)
                if report:
                    report.add(near.sites.slice(*window.span), window.kind, window.panel.sites)
                if window.start >= window.stop:
                    continue
                summary.windows += 1
                summary.bare += len(window.typed) == 0
                summary.typed += len(window.typed)
                yield window, near
        for stretch in bare.values():
            _pass_over(stretch.targets.sites, region, summary, report)
    for contig in by_key.values():
        count = sum(len(part.targets.sites) for part in contig)
        log.warning("contig %s of the targets (%d sites) is not in the panel", contig[0].contig, count)
        for part in contig if report else ():
            report.add_contig(part.targets.sites)


def _pass_over(sites: Sites, region: Region | None, summary: Summary, report: SiteReport | None) -> None:
    """Counts and reports targets in a stretch of a contig of which the panel has nothing."""
    if region is not None:
        end = np.inf if region.end is None else region.end
        sites = sites.take(np.flatnonzero((sites.pos >= region.start) & (sites.pos <= end)))
    summary.target_sites += len(sites)
    summary.kinds[Match.NOT_IN_PANEL] += len(sites)
    if report:
        report.add(sites, np.full(len(sites), Match.NOT_IN_PANEL), sites.slice(0, 0))


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
