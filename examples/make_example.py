"""Simulate the example: a reference panel, genotyped targets, their truth, and the genetic map.

Usage: python examples/make_example.py [--seed 20] [--out examples]

Needs msprime and pysam (pip install msprime pysam). The same seed and versions give the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msprime
import numpy as np
import pysam

CONTIG, LENGTH = "20", 1_000_000
PANEL = {"AFR": 70, "EUR": 70, "EAS": 60}
TARGETS = {"AFR": 10, "EUR": 10, "EAS": 10}
MUTATION_RATE = 1.25e-8
INDEL_SHARE, MERGED_SHARE, MISSING_SHARE = 0.03, 0.01, 0.005
CHIP_SPACING, CHIP_MAF = 4000, 0.05

# bp where the rate changes and cM/Mb between: hotspots in a cold background, so that the map matters.
RATE_BP = [0, 150_000, 154_000, 380_000, 386_000, 520_000, 523_000, 700_000, 850_000, 852_000, LENGTH]
RATE_CM_PER_MB = [0.3, 45.0, 0.6, 30.0, 0.2, 60.0, 0.5, 2.0, 80.0, 0.3]


@dataclass(frozen=True)
class Record:
    """One VCF record. pos: 1-based bp. alleles: REF, ALT, ... codes: (haplotypes,) int8 into alleles."""

    pos: int
    alleles: tuple[str, ...]
    codes: np.ndarray


def demography() -> msprime.Demography:
    """Three populations out of Africa; sizes, times and migration after Gutenkunst et al. 2009."""
    years = 25
    europe, asia = 0.004, 0.0055
    split = 21_200 / years
    model = msprime.Demography()
    model.add_population(name="AFR", initial_size=12_300)
    model.add_population(name="EUR", initial_size=1_000 * np.exp(europe * split), growth_rate=europe)
    model.add_population(name="EAS", initial_size=510 * np.exp(asia * split), growth_rate=asia)
    model.add_population(name="OUT", initial_size=2_100)
    model.add_population(name="OLD", initial_size=12_300)
    model.add_population(name="ANC", initial_size=7_300)
    model.set_symmetric_migration_rate(["AFR", "EUR"], 3e-5)
    model.set_symmetric_migration_rate(["AFR", "EAS"], 1.9e-5)
    model.set_symmetric_migration_rate(["EUR", "EAS"], 9.6e-5)
    model.add_population_split(time=split, derived=["EUR", "EAS"], ancestral="OUT")
    model.add_symmetric_migration_rate_change(time=split, populations=["AFR", "OUT"], rate=25e-5)
    model.add_population_split(time=140_000 / years, derived=["AFR", "OUT"], ancestral="OLD")
    model.add_population_split(time=220_000 / years, derived=["OLD"], ancestral="ANC")
    model.sort_events()
    return model


def simulate(seed: int) -> tuple[list[Record], np.ndarray]:
    """Records of all samples, and which population each haplotype is from: (haplotypes,) str."""
    rates = msprime.RateMap(position=RATE_BP, rate=[rate * 1e-8 for rate in RATE_CM_PER_MB])
    samples = {name: PANEL[name] + TARGETS[name] for name in PANEL}
    trees = msprime.sim_ancestry(samples, demography=demography(), recombination_rate=rates, random_seed=seed)
    trees = msprime.sim_mutations(trees, rate=MUTATION_RATE, random_seed=seed)
    names = [trees.population(p).metadata["name"] for p in range(trees.num_populations)]
    population = np.array([names[trees.node(node).population] for node in trees.samples()])
    records = [Record(int(v.site.position) + 1, v.alleles, v.genotypes.astype(np.int8)) for v in trees.variants()]
    return records, population


def ancestral_sequence(records: list[Record], rng: np.random.Generator) -> str:
    """Random bases, with the ancestral allele at each site: REF of a deletion agrees with the sites inside it."""
    bases = rng.choice(list("ACGT"), LENGTH)
    for record in records:
        bases[record.pos - 1] = record.alleles[0]
    return "".join(bases)


def without_unseen(record: Record) -> Record:
    """The record with REF and only those ALT alleles that some haplotype carries."""
    kept = [0, *(a for a in range(1, len(record.alleles)) if np.any(record.codes == a))]
    new_code = np.zeros(len(record.alleles), np.int8)
    new_code[kept] = np.arange(len(kept))
    return Record(record.pos, tuple(record.alleles[a] for a in kept), new_code[record.codes])


def merge_neighbours(records: list[Record], rng: np.random.Generator) -> list[Record]:
    """Turn MERGED_SHARE of neighbouring biallelic pairs into one record with two ALT alleles.

    It stands at the first's position; haplotypes with both ALT alleles keep the first's.
    """
    out: list[Record] = []
    mergeable = False
    for record in records:
        if mergeable and len(record.alleles) == 2 and rng.random() < MERGED_SHARE:
            first = out[-1]
            other = rng.choice([base for base in "ACGT" if base not in first.alleles])
            codes = np.where((first.codes == 0) & (record.codes == 1), 2, first.codes).astype(np.int8)
            out[-1] = Record(first.pos, (*first.alleles, str(other)), codes)
            mergeable = False
            continue
        out.append(record)
        mergeable = len(record.alleles) == 2
    return out


def make_indels(records: list[Record], sequence: str, rng: np.random.Generator) -> list[Record]:
    """Turn INDEL_SHARE of the biallelic sites into insertions or deletions of 1 to 4 bases, half of each."""
    out = []
    for record in records:
        length = int(rng.integers(1, 5))
        anchor = sequence[record.pos - 1]
        if len(record.alleles) != 2 or rng.random() >= INDEL_SHARE or record.pos + length > LENGTH:
            out.append(record)
        elif rng.random() < 0.5:
            deleted = sequence[record.pos - 1 : record.pos + length]
            out.append(replace(record, alleles=(deleted, anchor)))
        else:
            inserted = "".join(rng.choice(list("ACGT"), length))
            out.append(replace(record, alleles=(anchor, anchor + inserted)))
    return out


def choose_chip(records: list[Record], in_panel: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Indices of one common biallelic SNV in each CHIP_SPACING bp, as an array has them."""
    by_bin: dict[int, list[int]] = {}
    for i, record in enumerate(records):
        frequency = np.mean(record.codes[in_panel] > 0)
        if len("".join(record.alleles)) == 2 and min(frequency, 1 - frequency) > CHIP_MAF:
            by_bin.setdefault(record.pos // CHIP_SPACING, []).append(i)
    return [int(rng.choice(choices)) for choices in by_bin.values()]


def write_vcf(path: Path, records: list[Record], names: list[str], missing: np.ndarray | None = None) -> None:
    """Write phased genotypes as bgzip VCF with a tabix index. missing: (records, samples) bool, or None."""
    header = [
        "##fileformat=VCFv4.3",
        '##FILTER=<ID=PASS,Description="All filters passed">',
        "##source=npimpute examples/make_example.py (simulated)",
        f"##contig=<ID={CONTIG},length={LENGTH}>",
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *names]),
    ]
    lines = []
    for i, record in enumerate(records):
        genotypes = [f"{a}|{b}" for a, b in record.codes.reshape(-1, 2)]
        if missing is not None:
            genotypes = [".|." if gone else gt for gt, gone in zip(genotypes, missing[i], strict=True)]
        ref, *alt = record.alleles
        fixed = [CONTIG, str(record.pos), f"sim{record.pos}", ref, ",".join(alt), ".", "PASS", ".", "GT"]
        lines.append("\t".join(fixed + genotypes))
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.vcf"
        plain.write_text("\n".join(header + lines) + "\n")
        pysam.tabix_compress(str(plain), str(path), force=True)
    pysam.tabix_index(str(path), preset="vcf", force=True)


def write_map(path: Path) -> None:
    """The rates of the simulation as a PLINK map: chrom id cM bp."""
    bp = np.array([1, *RATE_BP[1:]])
    cm = np.interp(bp, RATE_BP, np.concatenate([[0], np.cumsum(np.diff(RATE_BP) * RATE_CM_PER_MB) * 1e-6]))
    path.write_text("".join(f"{CONTIG} . {c:.6f} {b}\n" for b, c in zip(bp, cm, strict=True)))


def sample_split(population: np.ndarray) -> tuple[np.ndarray, list[str], list[str]]:
    """(haplotypes,) bool, in the panel; the names of panel and of target samples.

    The last samples of each population are the targets.
    """
    in_panel = np.zeros(len(population), bool)
    panel, targets = [], []
    for name, size in PANEL.items():
        in_panel[np.flatnonzero(population == name)[: 2 * size]] = True
        panel += [f"{name}{i + 1:03d}" for i in range(size)]
        targets += [f"{name}{i + 1:03d}" for i in range(size, size + TARGETS[name])]
    return in_panel, panel, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=20, help="seed of the simulation (default 20)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    records, population = simulate(options.seed)
    in_panel, panel_names, target_names = sample_split(population)
    sequence = ancestral_sequence(records, rng)
    records = [without_unseen(record) for record in records]
    records = make_indels(merge_neighbours(records, rng), sequence, rng)
    # A variant that no panel haplotype carries cannot be imputed.
    records = [record for record in records if np.any(record.codes[in_panel] > 0)]
    targets = [replace(record, codes=record.codes[~in_panel]) for record in records]
    chip = choose_chip(records, in_panel, rng)
    missing = np.zeros((len(chip), len(target_names)), bool)
    missing.flat[rng.choice(missing.size, round(MISSING_SHARE * missing.size), replace=False)] = True
    panel = [replace(record, codes=record.codes[in_panel]) for record in records]
    options.out.mkdir(parents=True, exist_ok=True)
    write_vcf(options.out / "panel.vcf.gz", panel, panel_names)
    write_vcf(options.out / "truth.vcf.gz", targets, target_names)
    write_vcf(options.out / "chip.vcf.gz", [targets[i] for i in chip], target_names, missing)
    write_map(options.out / "map.txt")


if __name__ == "__main__":
    main()
