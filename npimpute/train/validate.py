"""Held-out people, imputed by an engine as any target would be, and compared with what they carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..context.windows import Window
from ..dosage.accuracy import r2_by_maf
from ..engine.base import Engine
from ..errors import ConfigError, InputError
from ..panel.genetic_map import GeneticMap, constant_rate
from ..panel.panel import Panel, all_diploid, open_panel
from ..types import Haplotypes
from .data import ArrayConfig, random_array, region_of


@dataclass(frozen=True)
class HeldOut:
    """A window of people who are not in its panel, and the truth. truth: (r, n) uint8; rows: (u,) int64, those that
    are compared: untyped and written by the window."""

    window: Window
    truth: np.ndarray
    rows: np.ndarray


def choose_people(panels: list[Panel], count: int, seed: int) -> set[str]:
    """``count`` sample names at random out of all the panels'. Raises ConfigError if there are too few."""
    names = sorted({name for panel in panels for name in panel.samples})
    if not 0 < count < len(names):
        raise ConfigError(f"--hold-out {count}: the panels have {len(names)} samples; hold out at least 1, not all")
    return set(np.random.default_rng(seed).choice(names, count, replace=False).tolist())


def hold_out(
    path: Path,
    people: set[str],
    config: ArrayConfig,
    most_rows: int,
    seed: int,
    genetic_map: GeneticMap | None = None,
    threads: int = 1,
) -> HeldOut:
    """The people of ``people`` that the panel at ``path`` has, typed by a random array, and the others as the panel.

    Of the first contig, some ``most_rows`` rows in its middle are imputed. Raises InputError if none is left.
    """
    names = set(open_panel(path).samples)
    if not names & people:
        raise InputError(f"{path}: none of the {len(people)} held-out samples is in it; nothing can be validated there")
    if len(names - people) < 1:
        raise InputError(f"{path}: every sample is held out; no panel is left to impute them from")
    panel = _first_contig(open_panel(path, None, None, names & people, threads))
    truth = _first_contig(open_panel(path, None, names & people, None, threads))
    starts = panel.row_start()
    typed = _typed_sites(panel, starts, config, seed)
    start = max(0, int(np.searchsorted(starts, starts[-1] // 2 - most_rows // 2)))
    stop = min(int(np.searchsorted(starts, starts[start] + most_rows)), len(panel.sites))
    alleles = truth.alleles(slice(None))
    cm = (genetic_map or constant_rate(1.0)).to_cm(panel.sites.contig, panel.sites.pos)
    codes = alleles[starts[typed]].astype(np.int8)
    window = Window(panel, cm, typed, codes, start, stop, (0, 0), np.empty(0, np.uint8))
    rows = np.arange(starts[start], starts[stop])
    rows = rows[~window.typed_rows()[rows]]
    if not len(rows) or not len(typed):
        raise InputError(f"{path}: {len(typed)} typed and {len(rows)} untyped sites; nothing can be validated there")
    return HeldOut(window, alleles, rows)


def _first_contig(panel: Panel) -> Haplotypes:
    chunks = list(all_diploid(panel))
    if not chunks:
        raise InputError(f"{panel.path}: no record with an ALT allele")
    chunks = [chunk for chunk in chunks if chunk.sites.contig == chunks[0].sites.contig]
    return Haplotypes.concat(chunks)


def _typed_sites(panel: Haplotypes, starts: np.ndarray, config: ArrayConfig, seed: int) -> np.ndarray:
    """(t,) int64: biallelic sites that an array might type."""
    biallelic = np.flatnonzero(np.diff(starts) == 1)
    region = region_of("", panel.sites.pos[biallelic], panel.bits[starts[biallelic]], panel.k)
    return biallelic[random_array(region, config, np.random.default_rng(seed))]


def validate(engine: Engine, held_out: list[HeldOut]) -> dict[str, dict[str, float]]:
    """``r2_by_maf`` of the engine's dosages over all the windows together."""
    return compare((engine.impute(part.window) for part in held_out), held_out)


def compare(imputed: Iterable[np.ndarray], held_out: list[HeldOut]) -> dict[str, dict[str, float]]:
    """``r2_by_maf`` over all the windows together. imputed: ALT probabilities of each, (n, r) float32."""
    people = max(part.truth.shape[1] for part in held_out) // 2
    dosages, truths, mafs = [], [], []
    for p, part in zip(imputed, held_out, strict=True):
        p = p[:, part.rows].T
        truth = part.truth[part.rows].astype(np.float64)
        count, k = part.window.panel.counts()[part.rows], part.window.panel.k
        # Not everybody is in every panel: who is not, does not count there.
        absent = ((0, 0), (0, people - truth.shape[1] // 2))
        dosages.append(np.pad(p[:, ::2] + p[:, 1::2], absent, constant_values=np.nan))
        truths.append(np.pad(truth[:, ::2] + truth[:, 1::2], absent, constant_values=np.nan))
        mafs.append(np.minimum(count, k - count) / k)
    return r2_by_maf(np.concatenate(dosages), np.concatenate(truths), np.concatenate(mafs))
