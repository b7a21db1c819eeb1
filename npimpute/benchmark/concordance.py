"""One imputed file against the truth, whatever imputed it.

Axes: r rows (one per ALT allele), N people.
"""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..contigs import contig_key
from ..dosage.accuracy import MAF_BINS
from ..errors import ConfigError, InputError
from ..panel.panel import open_panel
from ..vcf.htslib import variants
from ..vcf.region import Region
from .arrays import PanelRows, read_array
from .dataset import Truth
from .files import populations_of
from .genotypes import GenotypeFile, Key, is_snp, keys_of, record_keys
from .metrics import Tally, bootstrap_weights, check_edges
from .score import bin_table, calibration, population_table, sample_table, score

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConcordanceConfig:
    """What is compared. Paths are as given; see ``npimpute concordance --help``. Raises ConfigError.

    Allele frequencies are those of ``panel``'s haplotypes, or ``frequencies``' INFO/``af_tag``, or else the truth's.
    """

    truth: Path
    imputed: Path
    panel: Path | None = None
    frequencies: Path | None = None
    af_tag: str = "AF"
    array: Path | None = None
    region: str | None = None
    samples: Path | None = None
    populations: Path | None = None
    maf_bins: tuple[float, ...] = MAF_BINS
    bootstrap: int = 200
    seed: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        if self.panel and self.frequencies:
            raise ConfigError("--panel and --frequencies: allele frequencies come from one of them")
        check_edges(self.maf_bins)
        if self.bootstrap < 0 or self.seed < 0:
            raise ConfigError("--bootstrap and --seed are 0 or more")
        if self.threads < 1:
            raise ConfigError(f"--threads {self.threads}: at least one thread is needed")


def concordance(config: ConcordanceConfig) -> tuple[dict[str, Any], Tally, tuple[str, ...]]:
    """The measures as plain values (the "programs" of ``imputation.benchmark`` has one entry), the sums that they are
    of, and the samples. Raises InputError or ConfigError."""
    samples = _samples(config)
    truth = read_truth(config, samples)
    weights = bootstrap_weights(len(samples), config.bootstrap, config.seed)
    everything = np.ones(len(truth.copies), bool)
    tally = score(config.imputed, truth, everything, weights, config.maf_bins, config.threads)
    entry = {"name": "imputed", "label": config.imputed.name, "version": "", "ours": True, "status": "done"}
    entry |= {"bins": bin_table(tally), "calibration": calibration(tally), "samples": sample_table(tally, samples)}
    if config.populations:
        names = populations_of(config.populations, samples)
        entry["populations"] = population_table(tally, names)
    results = {
        "kind": "concordance",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "settings": {name: None if v is None else str(v) for name, v in vars(config).items()},
        "compared": len(truth.copies),
        "phase": switch_errors(config, samples),
        "programs": [entry],
    }
    return results, tally, samples


def switch_errors(config: ConcordanceConfig, samples: tuple[str, ...]) -> dict[str, int]:
    """ "pairs": neighbours among the heterozygotes, of one person and contig, that both files have phased; "switches":
    those that are phased to each other otherwise than in the truth."""
    region = Region.parse(config.region) if config.region else None
    first: dict[Key, np.ndarray] = {}
    for key, _, codes, _ in GenotypeFile(config.truth, config.threads).copies(samples):
        if codes is not None and _inside(key, region):
            first.setdefault(key, _first_carries(codes))
    last, contig = np.full(len(samples), -1, np.int8), ""
    found = {"pairs": 0, "switches": 0}
    for key, _, codes, _ in GenotypeFile(config.imputed, config.threads).copies(samples):
        if codes is None or key not in first:
            continue
        if key[0] != contig:
            last[:], contig = -1, key[0]
        ours, theirs = _first_carries(codes), first[key]
        both = (ours >= 0) & (theirs >= 0)
        same = (ours == theirs).astype(np.int8)
        known = both & (last >= 0)
        found["pairs"] += int(known.sum())
        found["switches"] += int((known & (same != last)).sum())
        last[both] = same[both]
    return found


def _first_carries(codes: np.ndarray) -> np.ndarray:
    """(N,) int8: of a phased heterozygote of REF and the first ALT, whether the first allele is ALT; of others -1.

    codes: (N, 3), two alleles and whether they are phased."""
    phased = (codes[:, :2].min(axis=1) == 0) & (codes[:, :2].max(axis=1) == 1) & (codes[:, 2] == 1)
    return np.where(phased, codes[:, 0], -1).astype(np.int8)


def _samples(config: ConcordanceConfig) -> tuple[str, ...]:
    """Those of the imputed file, or of the list; all must be in the truth."""
    imputed, true = (GenotypeFile(path).samples for path in (config.imputed, config.truth))
    wanted = imputed
    if config.samples is not None:
        try:
            wanted = tuple(dict.fromkeys(config.samples.read_text().split()))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{config.samples}: cannot be read as a list of samples, one a line ({error})") from error
        GenotypeFile(config.imputed).columns(wanted)
    if not wanted:
        raise InputError(f"{config.samples or config.imputed}: names no sample")
    if lost := [name for name in wanted if name not in set(true)]:
        names = ", ".join(lost[:3]) + (" ..." if len(lost) > 3 else "")
        raise InputError(
            f"{config.truth}: lacks {len(lost)} of the {len(wanted)} samples of {config.imputed} ({names}); choose "
            "those to compare with --samples"
        )
    return wanted


def read_truth(config: ConcordanceConfig, samples: tuple[str, ...]) -> Truth:
    """The truth at the rows that both files have, less the array's. Raises InputError if there are none."""
    region = Region.parse(config.region) if config.region else None
    imputed = {key for key in keys_of(config.imputed, config.threads) if _inside(key, region)}
    known = _frequencies(config)
    keys: list[Key] = []
    copies, seen = [], set()
    unknown = 0
    for key, row, _, _ in GenotypeFile(config.truth, config.threads).copies(samples):
        if key not in imputed or key in seen:
            continue
        if known is not None and key not in known:
            unknown += 1
            continue
        seen.add(key)
        keys.append(key)
        copies.append(row)
    if unknown:
        log.warning("%d alleles have no frequency in %s: left out", unknown, config.panel or config.frequencies)
    if not keys:
        raise InputError(
            f"{config.imputed}: no allele of it is in {config.truth}{' with a frequency' if unknown else ''}; check "
            "that both use the same genome build"
        )
    copies = np.stack(copies)
    af = _of_truth(copies) if known is None else np.array([known[key] for key in keys])
    kept = _untyped(config, keys, copies)
    return _table(samples, [keys[i] for i in kept], copies[kept], af[kept])


def _table(samples: tuple[str, ...], keys: list[Key], copies: np.ndarray, af: np.ndarray) -> Truth:
    wanted = {key: i for i, key in enumerate(keys)}
    return Truth(samples, wanted, copies, np.minimum(af, 1 - af), af > 0.5, np.array([is_snp(key) for key in keys]))


def _untyped(config: ConcordanceConfig, keys: list[Key], copies: np.ndarray) -> np.ndarray:
    """(r,) places of the rows that the array does not type."""
    everything = np.arange(len(keys))
    if config.array is None:
        return everything
    records = Counter(key[:3] for key in keys)
    alone = np.array([records[key[:3]] == 1 for key in keys])
    typed = read_array(config.array)(PanelRows(keys, alone, np.zeros(len(keys)), 1, {}))
    kept = np.setdiff1d(everything, typed)
    if not len(kept):
        raise InputError(f"{config.array}: types every allele that can be compared; nothing is left")
    return kept


def _inside(key: Key, region: Region | None) -> bool:
    if region is None:
        return True
    return region.has_contig(key[0]) and region.start <= key[1] and (region.end is None or key[1] <= region.end)


def _of_truth(copies: np.ndarray) -> np.ndarray:
    """(r,) float64 ALT frequency among those known; 0 where none is."""
    known = copies >= 0
    return np.where(known, copies, 0).sum(axis=1) / np.maximum(2 * known.sum(axis=1), 1)


def _frequencies(config: ConcordanceConfig) -> dict[Key, float] | None:
    """ALT frequency by row; None: the truth's own."""
    if config.panel is not None:
        return dict(_of_panel(config.panel, config.threads))
    return None if config.frequencies is None else dict(_of_info(config.frequencies, config.af_tag, config.threads))


def _of_panel(path: Path, threads: int) -> Iterator[tuple[Key, float]]:
    for chunk in open_panel(path, threads=threads):
        contig, af = contig_key(chunk.sites.contig), iter((chunk.counts() / chunk.k).tolist())
        for pos, ref, alt in zip(chunk.sites.pos.tolist(), chunk.sites.ref, chunk.sites.alt, strict=True):
            yield from (((contig, pos, ref.upper(), a.upper()), next(af)) for a in alt.split(","))


def _of_info(path: Path, tag: str, threads: int) -> Iterator[tuple[Key, float]]:
    found = False
    for record in variants(path, threads):
        values = record.INFO.get(tag)
        if values is None:
            continue
        found = True
        values = values if isinstance(values, tuple) else (values,)
        yield from ((key, float(v)) for key, v in zip(record_keys(record), values, strict=False) if v is not None)
    if not found:
        raise InputError(f"{path}: no record has INFO/{tag}; name the tag of the ALT frequency with --af-tag")
