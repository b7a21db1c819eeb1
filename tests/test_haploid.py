"""Haploid samples and chromosome X: males outside the PARs, haploid organisms, and files that mix them up."""

import gzip
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cyvcf2
import numpy as np
import pysam
import pytest
from conftest import (
    ALL,
    Record,
    Row,
    Vcf,
    bcftools,
    expect_refusal,
    impute,
    mosaic,
    needs,
    r2,
    read_rows,
    run_forked,
    same_files,
)

from npimpute.benchmark.genotypes import GenotypeFile, keys_of
from npimpute.config import PhaseConfig
from npimpute.dosage.merge import merge
from npimpute.dosage.quality import SampleQuality, row_sums
from npimpute.errors import InputError
from npimpute.panel.panel import all_diploid, compile_panel, open_panel
from npimpute.panel.ploidy import Stretch, stretches
from npimpute.phasing import phase as phasing
from npimpute.pipeline import phase
from npimpute.train.data import read_regions
from npimpute.types import ABSENT, Dosages, Sites
from npimpute.vcf import htslib as htslib_module
from npimpute.vcf import source as source_module
from npimpute.vcf.read import read_targets
from npimpute.vcf.region import Region
from npimpute.vcf.write import VariantWriter

# Of GRCh37: the last position of PAR1, the first of PAR2, and the length of X.
PAR1, PAR2, LENGTH = 2_699_520, 154_931_044, 155_270_560
KINDS = (".vcf", ".vcf.gz", ".bcf")
EXACT = {"calibrate": 0}


def in_par(pos: int) -> bool:
    return pos <= PAR1 or pos >= PAR2


def written(a: int, b: int, haploid: bool, between: str = "|") -> str:
    return str(a) if haploid else between.join(map(str, (a, b) if between == "|" else sorted((a, b))))


@dataclass
class X:
    """People with two haplotypes each, of which males, whose names begin with M, carry the first alone outside the
    PARs. sites: records without calls. alleles: (s, people, 2). panel, targets: who is which. typed: (s,) bool."""

    sites: list[Record]
    alleles: np.ndarray
    names: list[str]
    panel: list[int]
    targets: list[int]
    typed: np.ndarray

    def male(self, i: int) -> bool:
        return self.names[i][0] == "M"

    def vcf(self, people: list[int], rows=None, haploid=in_par, between: str = "|") -> Vcf:
        """haploid: at which positions males are diploid."""
        rows = range(len(self.sites)) if rows is None else rows
        records = []
        for s in rows:
            site = self.sites[s]
            alone = not haploid(site.pos)
            calls = (written(*self.alleles[s, i].tolist(), alone and self.male(i), between) for i in people)
            records.append(replace(site, calls=tuple(calls)))
        return Vcf([self.names[i] for i in people], records, {"X": LENGTH})

    def chip(self, people=None, **options) -> Vcf:
        return self.vcf(self.targets if people is None else people, np.flatnonzero(self.typed), **options)


@dataclass
class Files:
    """What ``impute`` takes."""

    ref: Path
    chip: Path
    map: Path | None = None


def draw(n_panel: int = 24, n_targets: int = 6, seed: int = 3) -> X:
    """Mosaics of ten founders on PAR1, X, and PAR2; males of the panel stand in pairs. Some records multi-allelic."""
    rng = np.random.default_rng(seed)
    pos = np.concatenate(
        [PAR1 - 2_000 * np.arange(40)[::-1], PAR1 + 1 + 2_000 * np.arange(120), PAR2 + 2_000 * np.arange(30)]
    )
    founders = (rng.random((len(pos), 10)) < 0.35).astype(np.int64)
    alts = np.where(rng.random(len(pos)) < 0.1, "C,G", "C").tolist()
    founders[[alt == "C,G" for alt in alts]] *= rng.integers(1, 3, 10)
    n = n_panel + n_targets
    alleles = np.take_along_axis(founders, mosaic(10, 2 * n, len(pos), rng, 40), 1).reshape(len(pos), n, 2)
    sites = [Record("X", int(p), f"rs{i}", "A", alt, ()) for i, (p, alt) in enumerate(zip(pos, alts, strict=True))]
    names = [f"{'FMMF'[i % 4]}{i}" for i in range(n)]
    typed = (np.arange(len(pos)) % 4 == 1) & ([alt == "C" for alt in alts])
    return X(sites, alleles, names, list(range(n_panel)), list(range(n_panel, n)), typed)


@pytest.fixture(scope="module")
def x():
    return draw()


@pytest.fixture(scope="module")
def files(x, tmp_path_factory):
    folder = tmp_path_factory.mktemp("x")
    return Files(x.vcf(x.panel).save(folder / "panel.vcf.gz"), x.chip().save(folder / "chip.vcf.gz"))


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    return impute(files, tmp_path_factory.mktemp("whole") / "out.vcf.gz", formats=ALL, **EXACT)


def columns(people: list[str], male: bool) -> list[int]:
    return [i for i, name in enumerate(people) if (name[0] == "M") == male]


# Exact invariants


@pytest.mark.parametrize("engine", ["li-stephens", "clades", "npssm"])
@pytest.mark.parametrize("haploid_panel", [True, False])
def test_a_haploid_target_is_imputed_as_its_haplotype_written_twice(x, files, tmp_path, engine, haploid_panel):
    if not haploid_panel:
        files = replace(files, ref=x.vcf(x.panel, haploid=lambda pos: True).save(tmp_path / "panel.vcf.gz"))
    outside = [not in_par(site.pos) for site in x.sites]
    *males, _ = (i for i in x.targets if x.male(i))  # one stays haploid, so that both runs end windows at the PARs
    doubled, names = x.alleles.copy(), list(x.names)
    for i in males:
        names[i] = f"F{i}"
        doubled[outside, i, 1] = doubled[outside, i, 0]
    twice = replace(x, alleles=doubled, names=names).chip().save(tmp_path / "chip.vcf.gz")
    options = {"formats": ("GT", "DS", "HDS"), "engine": engine} | ({} if engine == "npssm" else EXACT)
    one = read_rows(impute(files, tmp_path / "one.vcf.gz", **options))
    two = read_rows(impute(files, tmp_path / "two.vcf.gz", **options, target=twice))
    assert len(one) == len(two) == len(x.sites)
    for a, b, out in zip(one, two, outside, strict=True):
        for i, person in enumerate(x.targets):
            pair = b.fields["HDS"][i].split(",")
            if out and person in males:
                n = len(pair) // 2
                assert pair[:n] == pair[n:] and a.fields["HDS"][i] == a.fields["DS"][i] == ",".join(pair[:n])
                assert b.fields["GT"][i] == "|".join([a.fields["GT"][i]] * 2)
            else:
                assert all(a.fields[key][i] == b.fields[key][i] for key in a.fields)


def test_haploid_males_of_the_panel_count_as_one_haplotype_each(x, files, tmp_path):
    """As in a panel in which two of them are one diploid person outside the PARs."""
    outside = [not in_par(site.pos) for site in x.sites]
    pairs = [(i, i + 1) for i in x.panel if x.male(i) and x.male(i + 1)]
    people = [i for i in x.panel if i not in {b for _, b in pairs}]
    joined = x.alleles.copy()
    for a, b in pairs:
        joined[outside, a, 1] = x.alleles[outside, b, 0]
    names = [name.replace("M", "F") if i in x.panel else name for i, name in enumerate(x.names)]
    made = replace(x, alleles=joined, names=names)
    rows = np.flatnonzero(outside)
    panel = made.vcf(people, rows).save(tmp_path / "panel.vcf.gz")
    out = impute(files, tmp_path / "out.vcf.gz", ref=panel, formats=ALL, **EXACT)
    expected = impute(
        files, tmp_path / "all.vcf.gz", ref=x.vcf(x.panel, rows).save(tmp_path / "p.vcf.gz"), formats=ALL, **EXACT
    )
    assert read_rows(out) == read_rows(expected)
    assert len(x.panel) == 24 and len(people) == 18 and len(read_rows(out)) == 120


@pytest.mark.parametrize("kind", ["panel.bcf", "panel.vcf", "panel.npp"])
def test_kinds_of_files_do_not_matter(x, files, whole, tmp_path, kind):
    if kind == "panel.npp":
        compile_panel(open_panel(files.ref), tmp_path / kind)
    else:
        x.vcf(x.panel).save(tmp_path / kind)
    chip = x.chip().save(tmp_path / ("chip.bcf" if kind == "panel.bcf" else "chip.vcf"))
    out = impute(files, tmp_path / "out.vcf.gz", ref=tmp_path / kind, target=chip, formats=ALL, **EXACT)
    assert same_files(out, whole)


@pytest.mark.parametrize(("piece", "threads"), [(997, 1), (3_000, 3)])
def test_slabs_and_threads_do_not_matter(files, whole, tmp_path, monkeypatch, piece, threads):
    monkeypatch.setattr(source_module, "PIECE", piece)
    assert same_files(impute(files, tmp_path / "out.vcf.gz", formats=ALL, threads=threads, **EXACT), whole)


def test_the_order_of_the_targets_does_not_matter(x, files, whole, tmp_path):
    order = [3, 1, 5, 0, 2, 4]
    chip = x.chip([x.targets[i] for i in order]).save(tmp_path / "chip.vcf.gz")
    for a, b in zip(
        read_rows(impute(files, tmp_path / "out.vcf.gz", target=chip, formats=ALL, **EXACT)),
        read_rows(whole),
        strict=True,
    ):
        assert a.fields == {key: [values[i] for i in order] for key, values in b.fields.items()}


@needs("bcftools")
def test_bcf_holds_what_text_holds(files, whole, tmp_path):
    out = impute(files, tmp_path / "out.bcf", formats=ALL, **EXACT)
    shown, text = bcftools("view", "-H", out).splitlines(), gzip.decompress(whole.read_bytes()).decode().splitlines()
    # bcftools prints tiny numbers of INFO with exponents.
    samples = ([line.split("\t")[8:] for line in lines if line[0] != "#"] for lines in (shown, text))
    assert next(samples) == next(samples) != []
    assert bcftools("view", "--no-version", out) == bcftools("view", "--no-version", whole)


@needs("bcftools")
def test_each_sample_has_one_ploidy_in_each_stretch(x, whole):
    found = [line.split("\t") for line in bcftools("+check-ploidy", whole).splitlines()[1:]]
    expected = set()
    for i in x.targets:
        for first, last in ((0, 39), (40, 159), (160, 189)) if x.male(i) else ((0, 189),):
            ploidy = 1 if x.male(i) and first == 40 else 2
            expected.add((x.names[i], "X", x.sites[first].pos, x.sites[last].pos, ploidy))
    assert {(row[0], row[1], int(row[2]), int(row[3]), int(row[4])) for row in found} == expected


def test_males_are_imputed_as_well_as_females(tmp_path):
    """The same haplotypes as those of females are imputed to the same; others, as well."""
    msprime = pytest.importorskip("msprime")
    trees = msprime.sim_ancestry(
        120, sequence_length=600_000, recombination_rate=1e-8, population_size=1e4, random_seed=5
    )
    trees = msprime.sim_mutations(trees, rate=1e-8, random_seed=6, model=msprime.BinaryMutationModel())
    alleles = trees.genotype_matrix()
    pos = PAR1 - 200_000 + trees.tables.sites.position.astype(int)
    kept = np.append(True, np.diff(pos) > 0) & (alleles.max(axis=1) == 1)
    alleles, pos = alleles[kept].astype(np.int64).reshape(kept.sum(), 120, 2), pos[kept]
    sites = [Record("X", int(p), ".", "A", "C", ()) for p in pos]
    common = np.minimum(alleles.mean(axis=(1, 2)), 1 - alleles.mean(axis=(1, 2)))
    typed = np.zeros(len(pos), np.bool_)
    typed[np.flatnonzero(common > 0.1)[::4]] = True
    names = [f"{'FM'[i % 2]}{i}" for i in range(120)]
    made = X(sites, alleles, names, list(range(80)), list(range(80, 120)), typed)
    files = Files(made.vcf(made.panel).save(tmp_path / "panel.vcf.gz"), made.chip().save(tmp_path / "chip.vcf.gz"))
    rows = read_rows(impute(files, tmp_path / "out.vcf.gz", formats=("HDS",), ne=10_000.0))
    assert [row.pos for row in rows] == pos.tolist()
    scored = {}
    for where in ("par", "rest"):
        here = [s for s in np.flatnonzero(~typed) if in_par(rows[s].pos) == (where == "par") and common[s] > 0.02]
        for male in (False, True):
            people = [i for i in range(40) if made.male(made.targets[i]) == male]
            pairs = [np.array([[float(p) for p in rows[s].fields["HDS"][i].split(",")] for i in people]) for s in here]
            assert pairs[0].shape[1] == 1 + (where == "par" or not male)
            truth = [alleles[s][[80 + i for i in people]][:, : pairs[0].shape[1]] for s in here]
            scored[where, male] = r2(
                np.concatenate([p.ravel() for p in pairs]), np.concatenate([t.ravel() for t in truth])
            )
    assert min(scored.values()) > 0.6, scored
    for where in ("par", "rest"):
        assert scored[where, True] > scored[where, False] - 0.06, scored


# Writing


PLOIDY = np.array([2, 1, 1, 2, 1], np.int8)
PEOPLE = ("A", "B", "C", "D", "E")


def some_dosages(alts: list[str], ploidy=PLOIDY, seed: int = 1, missing: float = 0.3) -> Dosages:
    rng = np.random.default_rng(seed)
    sites = Sites("X", np.arange(1, len(alts) + 1) * 10, ["."] * len(alts), ["A"] * len(alts), alts)
    n, parts = int(ploidy.sum()), []
    for n_alt in sites.n_alt():
        p = rng.dirichlet(np.full(n_alt + 1, 0.2), n).T[1:]
        parts.append(np.where(rng.random(n) < missing, np.nan, np.round(p * 64) / 64 * 0.99))
    p = np.concatenate(parts).astype(np.float32)
    n_hap, *sums = row_sums(p)
    nothing = np.zeros(len(p), np.float32)
    flags = np.zeros(len(alts), np.bool_), np.ones(len(alts), np.bool_)
    return Dosages(sites, p, *flags, nothing, nothing, nothing, nothing, n_hap, *sums, ploidy)


def by_sample(d: Dosages) -> Iterator[tuple[int, int, list[np.ndarray]]]:
    """Number of the site, of the sample, and (alleles with REF, its haplotypes) float64."""
    rows, first = np.append(0, np.cumsum(d.sites.n_alt())), np.append(0, np.cumsum(d.ploidy))
    for s in range(len(d.sites)):
        for i in range(len(d.ploidy)):
            p = d.p[rows[s] : rows[s + 1], first[i] : first[i + 1]].astype(np.float64)
            yield s, i, np.concatenate([1 - p.sum(axis=0, keepdims=True), p])


def expected_call(p: np.ndarray) -> dict[str, list]:
    """What is written of one sample; p: (alleles with REF, haplotypes)."""
    lost = np.isnan(p[0])
    best = (np.roll(p, -1, axis=0).argmax(axis=0) + 1) % len(p)  # REF last: a tie is of the first ALT
    best = [None if gone else code for code, gone in zip(best.tolist(), lost, strict=True)]
    out = {"GT": best, "DS": p[1:].sum(axis=1), "HDS": p[1:].T.ravel(), "AP1": p[1:, 0]}
    out["AP2"] = p[1:, 1] if p.shape[1] == 2 else np.full(max(1, len(p) - 1), np.nan)
    if p.shape[1] == 1:
        out["GP"] = p[:, 0]
    else:
        pairs = [(a, b) for b in range(len(p)) for a in range(b + 1)]
        out["GP"] = np.array([p[a, 0] * p[b, 1] + (a != b) * p[b, 0] * p[a, 1] for a, b in pairs])
        out["GP"] = np.where(lost.any(), np.nan, out["GP"])
    return {key: value if key == "GT" or len(value) else np.array([np.nan]) for key, value in out.items()}


ALTS = ["C", "C,G", ".", "G", "C,G,T", "T"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ploidy", [PLOIDY, np.ones(5, np.int8)], ids=["mixed", "haploid"])
def test_every_field_of_haploid_samples_is_read_again(tmp_path, kind, ploidy):
    """By pysam, which tells values that are not there from missing ones."""
    d = some_dosages(ALTS, ploidy)
    with VariantWriter(tmp_path / f"out{kind}", PEOPLE, [("X", LENGTH)], ALL) as out:
        out.write(d)
    with pysam.VariantFile(str(tmp_path / f"out{kind}")) as file:
        records = list(file)
    lost = 0
    for s, i, p in by_sample(d):
        found = records[s].samples[i]
        for key, values in expected_call(p).items():
            if key == "GT":
                assert list(found["GT"]) == values
                assert len(values) == 1 or found.phased
                lost += None in values
                continue
            read = [np.nan if v is None else v for v in found[key]]
            whole = len(records[s].alts or ()) and not (len(read) == 1 and np.isnan(read[0]) and key in ("HDS", "GP"))
            assert len(read) == len(values) if whole else np.isnan(values).all() or key == "GP"
            np.testing.assert_allclose(read, values[: len(read)], rtol=0, atol=5.01e-4, err_msg=f"{key} {s} {i}")
    assert lost > 3


@pytest.mark.parametrize("kind", [".vcf.gz", ".bcf"])
def test_genotypes_of_haploid_samples_among_many_alleles(tmp_path, kind):
    """From 63 ALT alleles BCF has 16-bit genotypes, which end in another value."""
    alts = [",".join("C" * i for i in range(2, 2 + n)) for n in (62, 63, 70)]
    d = some_dosages(alts, missing=0.05)
    with VariantWriter(tmp_path / f"out{kind}", PEOPLE, [("X", LENGTH)], ALL) as out:
        out.write(d)
    records = list(cyvcf2.VCF(str(tmp_path / f"out{kind}")))
    for s, i, p in by_sample(d):
        codes = [-1 if a is None else a for a in expected_call(p)["GT"]]
        assert records[s].genotypes[i][:-1] == codes
        hds = records[s].format("HDS")[i]
        np.testing.assert_allclose(hds[: p[1:].size], p[1:].T.ravel(), rtol=0, atol=5.01e-4)
        assert np.isnan(hds[p[1:].size :]).all()
        gp, values = records[s].format("GP")[i], expected_call(p)["GP"]
        np.testing.assert_allclose(gp[: len(values)], values, rtol=0, atol=5.01e-4)
        assert np.isnan(gp[len(values) :]).all()


def test_the_text_of_haploid_samples(tmp_path):
    d = some_dosages(["C", "C,G"], np.array([1, 2, 1], np.int8))
    d.p[:] = [[0.75, 0, 1, np.nan], [0.25, 0.5, 0, np.nan], [0.5, 0.25, 0, np.nan]]
    with VariantWriter(tmp_path / "out.vcf", ("A", "B", "C"), [("X", None)], ALL) as out:
        out.write(d)
    lines = [line.split("\t")[9:] for line in (tmp_path / "out.vcf").read_text().splitlines() if line[0] != "#"]
    assert lines == [
        ["1:0.75:0.75:0.25,0.75:0.75:.", "0|1:1:0,1:0,1,0:0:1", ".:.:.:.,.:.:."],
        [
            "2:0.25,0.5:0.25,0.5:0.25,0.25,0.5:0.25,0.5:.,.",
            "1|0:0.5,0.25:0.5,0.25,0,0:0.25,0.5,0,0.25,0,0:0.5,0.25:0,0",
            ".:.,.:.,.:.,.,.:.,.:.,.",
        ],
    ]


def test_sites_and_numbers_of_haplotypes(x, files, whole, tmp_path):
    impute(files, tmp_path / "out.bcf", sites_only=tmp_path / "sites.vcf.gz", **EXACT)
    sites, rows = read_rows(tmp_path / "sites.vcf.gz"), read_rows(whole)
    assert [(row.key, row.info, row.fields) for row in sites] == [(row.key, row.info, {}) for row in rows]
    males = sum(x.male(i) for i in x.targets)
    for row in rows:
        n = 12 if in_par(row.pos) else 12 - males
        assert int(row.info["NH"]) == n and males == 3
        p = np.array([float(v) for call in row.fields["HDS"] for v in call.split(",")[: len(row.floats("SP"))]])
        p = [
            np.array([float(v) for v in call.split(",")]).reshape(-1, len(row.floats("SP")))
            for call in row.fields["HDS"]
        ]
        p = np.concatenate(p)
        assert len(p) == n
        np.testing.assert_allclose(row.floats("SP"), p.sum(axis=0), rtol=0, atol=n * 5.1e-4)
        np.testing.assert_allclose(row.floats("AF"), p.mean(axis=0), rtol=0, atol=5.1e-4)


@pytest.mark.parametrize("suffix", [".vcf.gz", ".bcf"])
def test_batches_of_males_and_females_are_merged(x, files, whole, tmp_path, suffix):
    """One of them males alone, another females alone, whose run does not know of PARs."""
    groups = ([0, 1], [2, 5], [3, 4])
    assert [x.names[x.targets[i]][0] for group in groups for i in group] == list("FMMMFF")
    made = []
    for i, group in enumerate(groups):
        chip = x.chip([x.targets[j] for j in group]).save(tmp_path / f"chip{i}.vcf.gz")
        made.append(impute(files, tmp_path / f"b{i}{suffix}", target=chip, formats=ALL, **EXACT))
    merge(made, tmp_path / f"out{suffix}")
    merge(made, tmp_path / "out.vcf")
    order = [i for group in groups for i in group]
    for a, b in zip(read_rows(tmp_path / "out.vcf"), read_rows(whole), strict=True):
        assert a.fields == {key: [values[i] for i in order] for key, values in b.fields.items()}
        assert a.info["NH"] == b.info["NH"]
        np.testing.assert_allclose(a.floats("SP"), b.floats("SP"), rtol=1e-4)
    again = [[str(record).split("\t")[8:] for record in cyvcf2.VCF(str(tmp_path / f"out{suffix}"))]]
    again += [[str(record).split("\t")[8:] for record in cyvcf2.VCF(str(tmp_path / "out.vcf"))]]
    assert again[0] == again[1]


# Reading


def text_of(samples: str, *lines: str, contig: str = "X", length: str = "") -> str:
    """lines: position and calls, with blanks between them; ALT is C,G where a call has a 2."""
    out = [f"##fileformat=VCFv4.2\n##contig=<ID={contig}{length}>\n##contig=<ID=9>"]
    out.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="x">')
    out.append("\t".join(["#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT".replace(" ", "\t"), *samples]))
    for line in lines:
        pos, *calls = line.split()
        out.append(
            "\t".join([contig, pos, ".", "A", "C,G" if "2" in "".join(calls) else "C", ".", ".", ".", "GT", *calls])
        )
    return "\n".join(out) + "\n"


def save(path: Path, text: str) -> Path:
    if path.suffix == ".bcf":
        plain = path.with_suffix(".vcf")
        plain.write_text(text)
        with pysam.VariantFile(str(plain)) as source, pysam.VariantFile(str(path), "wb", header=source.header) as out:
            for record in source:
                out.write(record)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def read_panel(path: Path, **options) -> list[tuple[int, list[int], list[int]]]:
    """Position, ploidy of the samples and alleles of every site."""
    out = []
    panel = open_panel(path, **options)
    for chunk in panel:
        assert chunk.people == len(panel.samples) and len(chunk.bits) == chunk.row_start()[-1]
        assert chunk.ploidy is None or (chunk.ploidy.sum() == chunk.k and (chunk.ploidy == 1).any())
        ploidy = [2] * chunk.people if chunk.ploidy is None else chunk.ploidy.tolist()
        codes = chunk.codes(np.arange(len(chunk.sites)))
        out += [(pos, ploidy, row.tolist()) for pos, row in zip(chunk.sites.pos.tolist(), codes, strict=True)]
    return out


MIXED = [
    "5 0|1 1|0 0|0", "6 1|1 0|0 0|1", "7 0|1 1|2 2|0",
    "8 0|1 1 0", "9 1|1 0 1", "10 2|1 2 0", "11 0|0 1 1",
    "12 0|0 1|0 0|0", "13 1|0 1|0 0|1",
    "14 1 1|0 0", "15 0 1|1 1",
    "16 1 0 1", "17 0 0 1", "18 2 1 0",
]  # fmt: skip


def expected_panel(lines: list[str], chosen=(0, 1, 2)) -> list[tuple[int, list[int], list[int]]]:
    out = []
    for line in lines:
        pos, *calls = line.split()
        alleles = [list(map(int, calls[i].split("|"))) for i in chosen]
        out.append((int(pos), [len(a) for a in alleles], sum(alleles, [])))
    return out


@pytest.mark.parametrize("kind", [*KINDS, ".npp"])
@pytest.mark.parametrize("piece", [60, 170, 8 << 20])
@pytest.mark.parametrize("kept", [None, "A", "BC", "AC"])
def test_panels_with_haploid_calls_are_read_as_written(tmp_path, monkeypatch, kind, piece, kept):
    """Lines of the quick form between them, stretches that end within slabs, records that are haploid throughout."""
    monkeypatch.setattr(source_module, "PIECE", piece)
    monkeypatch.setattr(htslib_module, "PIECE", piece)
    path = save(tmp_path / f"p{'.vcf' if kind == '.npp' else kind}", text_of("ABC", *MIXED))
    if kind == ".npp":
        compile_panel(open_panel(path), tmp_path / "p.npp")
        assert open_panel(tmp_path / "p.npp").metadata["version"] == "2"
        path = tmp_path / "p.npp"
    chosen = [i for i in range(3) if kept is None or "ABC"[i] in kept]
    assert read_panel(path, keep_samples=kept and set(kept), threads=2) == expected_panel(MIXED, chosen)
    region = Region("X", 7, 14)
    expected = [row for row in expected_panel(MIXED, chosen) if 7 <= row[0] <= 14]
    assert read_panel(path, region=region, keep_samples=kept and set(kept)) == expected


def test_a_compiled_panel_of_diploid_samples_has_the_first_version(tmp_path):
    diploid = [line for line in MIXED if line.count("|") == 3]
    for name, lines, kept, version in (
        ("a", diploid, None, "1"),
        ("b", MIXED[:11], {"A", "B"}, "2"),
        ("c", MIXED[:9], {"A"}, "1"),
    ):
        path = save(tmp_path / f"{name}.vcf", text_of("ABC", *lines))
        compile_panel(open_panel(path, keep_samples=kept), tmp_path / f"{name}.npp")
        assert open_panel(tmp_path / f"{name}.npp").metadata["version"] == version
        assert read_panel(tmp_path / f"{name}.npp") == read_panel(path, keep_samples=kept)


def test_random_panels_of_many_samples_are_read_as_written(tmp_path):
    """Numbers of samples around those of bytes, and ploidies that change often."""
    rng = np.random.default_rng(2)
    for n in (1, 4, 7, 8, 9, 33):
        names = [f"S{i}" for i in range(n)]
        lines, ploidy = [], np.full(n, 2)
        for pos in range(1, 60):
            if rng.random() < 0.2:
                ploidy = rng.integers(1, 3, n) if rng.random() < 0.7 else np.full(n, rng.integers(1, 3))
            lines.append(" ".join([str(pos), *("|".join(map(str, rng.integers(0, 2, p))) for p in ploidy)]))
        for kind in (".vcf", ".bcf"):
            path = save(tmp_path / f"p{n}{kind}", text_of(names, *lines))
            kept = set(rng.permutation(names)[: n // 2 + 1].tolist())
            chosen = [i for i in range(n) if names[i] in kept]
            assert read_panel(path) == expected_panel(lines, range(n))
            assert read_panel(path, keep_samples=kept) == expected_panel(lines, chosen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [60, 8 << 20])
def test_targets_with_haploid_calls_are_read_as_written(tmp_path, monkeypatch, kind, piece):
    monkeypatch.setattr(source_module, "PIECE", piece)
    monkeypatch.setattr(htslib_module, "PIECE", piece)
    lines = ["5 0|1 1|0 0/1", "6 1 ./. 1/1", "7 . 1 2", "8 1 1 0", "9 .|1 .|. 0|1"]
    expected = [
        [0, 1, 1, 0, 0, 1], [1, ABSENT, -1, -1, 1, 1], [-1, -1, 1, ABSENT, 2, ABSENT],
        [1, ABSENT, 1, ABSENT, 0, ABSENT], [-1, 1, -1, -1, 0, 1],
    ]  # fmt: skip
    path = save(tmp_path / f"t{kind}", text_of("ABC", *lines))
    found = read_targets(path, unphased=True).by_contig["X"]
    assert found.alleles.tolist() == expected and found.unphased.tolist() == [[False, False, True]] + [[False] * 3] * 4
    assert read_targets(path, Region("X", 6, 8)).by_contig["X"].alleles.tolist() == expected[1:4]


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("panel", [True, False])
@pytest.mark.parametrize("n", [2, 3])
def test_a_file_that_ends_within_its_last_call_is_truncated(tmp_path, panel, cut, n):
    """Where it lost its half it would else be a haploid call. cut: characters and the newline."""
    lines = [f"{pos} " + " ".join(["0|1"] * n) for pos in (5, 6)]
    path = tmp_path / "a.vcf"
    path.write_text(text_of("ABC"[:n], *lines)[:-cut])
    read = (lambda: list(open_panel(path))) if panel else (lambda: read_targets(path))
    if cut == 1:
        read()
        return
    with pytest.raises(InputError, match="truncated"):
        read()


@pytest.mark.parametrize("panel", [True, False])
def test_a_last_line_of_haploid_calls_needs_no_newline(tmp_path, panel):
    path = tmp_path / "a.vcf"
    path.write_text(text_of("ABC", "5 0|1 1 1", "6 0|1 0 1")[:-1])
    if panel:
        assert read_panel(path) == expected_panel(["5 0|1 1 1", "6 0|1 0 1"])
    else:
        assert read_targets(path).by_contig["X"].alleles[1].tolist() == [0, 1, 0, ABSENT, 1, ABSENT]


# Stretches


def cut(folder: Path, panel: str, targets: str) -> list[Stretch]:
    """Those of the targets' first contig, from the texts of both files."""
    ref, chip = save(folder / "panel.vcf", panel), save(folder / "chip.vcf", targets)
    found = stretches(open_panel(ref), read_targets(chip, unphased=True), lambda name: open_panel(ref, Region(name)))
    return next(iter(found.values()))


def borders(found: list[Stretch]) -> list[int]:
    """Where stretches begin but the first, checked to follow each other and to hold all sites."""
    assert found[0].start == 1 and all(a.stop == b.start for a, b in zip(found, found[1:], strict=False))
    assert all(part.start <= pos < part.stop for part in found for pos in part.targets.sites.pos.tolist())
    return [part.start for part in found[1:]]


def ploidies(found: list[Stretch]) -> list[list[int] | None]:
    return [None if part.targets.ploidy is None else part.targets.ploidy.tolist() for part in found]


def calls_at(*pos: int, calls: str) -> list[str]:
    return [f"{p} {calls}" for p in pos]


@pytest.mark.parametrize(
    ("length", "par1", "par2"),
    [
        (155_270_560, 2_699_520, 154_931_044),  # GRCh37
        (156_040_895, 2_781_479, 155_701_383),  # GRCh38
        (154_913_754, 2_709_520, 154_584_238),  # GRCh36
        (154_259_566, 2_394_410, 153_925_835),  # T2T-CHM13
    ],
)
@pytest.mark.parametrize("told_by", ["panel", "targets"])
def test_pars_are_those_of_the_build_in_the_headers(tmp_path, length, par1, par2, told_by, caplog):
    """Of a panel whose males are written as diploid."""
    diploid = [f"{pos} 0|1 1|1" for pos in (100, par1, par1 + 1, par2 - 1, par2, par2 + 9)]
    lines = [f"{par1} 0|1 0|1", f"{par1 + 1} 0|1 1", f"{par2 - 1} 1|1 0", f"{par2} 1|0 0|1"]
    header = {name: f",length={length}" if name == told_by else "" for name in ("panel", "targets")}
    found = cut(
        tmp_path, text_of("AB", *diploid, length=header["panel"]), text_of("ST", *lines, length=header["targets"])
    )
    assert borders(found) == [par1 + 1, par2] and ploidies(found) == [None, [2, 1], None]
    assert [part.targets.alleles.tolist() for part in found] == [[[0, 1, 0, 1]], [[0, 1, 1], [1, 1, 0]], [[1, 0, 0, 1]]]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(("par1", "par2"), [(2_699_520, 154_931_044), (2_781_479, 155_701_383)])
def test_pars_are_guessed_where_no_header_tells_and_that_is_said(tmp_path, par1, par2, caplog):
    diploid = [f"{pos} 0|1 1|1" for pos in (100, par1, par1 + 1, par2 - 1, par2)]
    lines = [f"{par1} 0|1 0|1", f"{par1 + 1} 0|1 1", f"{par2 - 1} 1|1 0", f"{par2} 1|0 0|1"]
    found = cut(tmp_path, text_of("AB", *diploid), text_of("ST", *lines))
    assert borders(found) == [par1 + 1, par2] and ploidies(found) == [None, [2, 1], None]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "no header tells the genome build" in warning and ("37" if par1 == 2_699_520 else "38") in warning


NON_PAR = [PAR1 + 1, PAR1 + 9, PAR2 - 9]


def panel_lines(where: str, males: bool = True) -> list[str]:
    """Sites of a panel of a female and a male in PAR1, outside the PARs, in PAR2."""
    lines = []
    for part, pos in (("1", [10, PAR1 - 100]), ("x", NON_PAR), ("2", [PAR2 + 5, PAR2 + 9])):
        lines += calls_at(*pos, calls="0|1 1" if part == "x" and males else "0|1 1|0") if part in where else []
    return lines


TARGETS = ["10 0|1 1|0", f"{PAR1 - 50} 0|1 1|0", f"{PAR1 + 1} 0|1 1", f"{PAR2 - 9} 0|1 0", f"{PAR2 + 5} 1|1 1|0"]


@pytest.mark.parametrize("where", ["1x2", "1x", "x", "x2", "12"])
@pytest.mark.parametrize("males", [True, False])
@pytest.mark.parametrize("length", ["", f",length={LENGTH}"])
def test_panels_may_lack_pars(tmp_path, where, males, length):
    """The targets have all; where the panel has the rest of X alone, its own calls do not tell where it ends."""
    found = cut(tmp_path, text_of("AB", *panel_lines(where, males), length=length), text_of("ST", *TARGETS))
    assert borders(found) == [PAR1 + 1, PAR2]
    assert ploidies(found) == [None, [2, 1], None]
    assert [len(part.targets.sites) for part in found] == [2, 2, 1]


def test_the_panels_calls_go_before_the_build(tmp_path, caplog):
    """Of another species, or with borders of its own, and no header that tells; PARs lie within what the panel has."""
    panel = [*calls_at(10, 500_000, calls="0|1 1|0"), *calls_at(600_000, 154_950_000, calls="0|1 1")]
    panel += calls_at(154_960_000, calls="1|0 0|1")
    lines = ["20 0|1 1|1", "599999 0|1 0|1", "600000 0|1 1", "154950000 1|1 1", "154960000 1|1 0|0"]
    found = cut(tmp_path, text_of("AB", *panel), text_of("ST", *lines))
    assert borders(found) == [600_000, 154_960_000] and ploidies(found) == [None, [2, 1], None]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_targets_that_are_all_diploid_are_cut_where_the_panel_is(tmp_path):
    found = cut(tmp_path, text_of("AB", *panel_lines("1x2")), text_of("ST", *(f"{p} 0|1 1|1" for p in (10, *NON_PAR))))
    assert borders(found) == [PAR1 + 1, PAR2] and ploidies(found) == [None] * 3
    assert [len(part.targets.sites) for part in found] == [1, 3, 0]


def test_targets_without_sites_in_the_pars(tmp_path):
    found = cut(tmp_path, text_of("AB", *panel_lines("1x2")), text_of("ST", *(f"{p} 0|1 1" for p in NON_PAR)))
    assert ploidies(found) == [None, [2, 1], None] and [len(part.targets.sites) for part in found] == [0, 3, 0]


def test_haploid_organisms_and_contigs_without_haploid_calls(tmp_path):
    lines = [f"{pos} 0 1 1" for pos in (10, 20, 30)]
    found = cut(tmp_path, text_of("ABC", *lines, contig="chr1"), text_of("STU", *lines, contig="1"))
    assert borders(found) == [] and ploidies(found) == [[1, 1, 1]] and found[0].targets.alleles.shape == (3, 3)
    diploid = [f"{pos} 0|1 1|1" for pos in (10, 20)]
    found = cut(tmp_path, text_of("AB", *diploid), text_of("ST", *diploid, length=f",length={LENGTH}"))
    assert borders(found) == [] and ploidies(found) == [None]


def settled(tmp_path, *columns: list[str]) -> Stretch:
    """The stretch outside the PARs of targets with these calls, one list a sample."""
    pos = [PAR1 + 1 + i for i in range(len(columns[0]))]
    lines = [" ".join([str(p), *calls]) for p, calls in zip(pos, zip(*columns, strict=True), strict=True)]
    names = [f"S{i}" for i in range(len(columns))]
    made = cut(tmp_path, text_of("AB", *panel_lines("1x2")), text_of(names, *lines, length=f",length={LENGTH}"))
    return made[1]


def test_odd_calls_are_missing_or_one_allele_and_told_of(tmp_path, caplog):
    male, female = ["0", "1"] * 20, ["0|1", "1/0"] * 20
    male[3], male[8] = "0/1", "1|1"
    female[5], female[6] = "1", "./."
    found = settled(tmp_path, male, female, ["0", *["1"] * 39]).targets
    assert found.ploidy.tolist() == [1, 2, 1]
    expected = [[int(a[0]), 0, 1, 1] if i % 2 == 0 else [int(a[0]), 1, 0, 1] for i, a in enumerate(male)]
    expected[0][3] = 0
    expected[3][0], expected[8][0] = -1, 1
    expected[5][1:3], expected[6][1:3] = [-1, -1], [-1, -1]
    assert found.alleles.tolist() == expected
    assert found.unphased[:, 1].tolist() == [i % 2 == 1 and i != 5 for i in range(40)]
    assert not found.unphased[:, [0, 2]].any()
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "3 calls of 2 samples" in warning and "2 are taken as missing" in warning
    assert f"chip.vcf:{PAR1 + 1}-" in warning or f"X:{PAR1 + 1}-" in warning


@pytest.mark.parametrize(
    ("usual", "odd", "words"),
    [("1", "0|1", "is diploid here, and haploid at"), ("0|1", "1", "is haploid here, and diploid at")],
)
def test_too_many_odd_calls_are_refused(tmp_path, usual, odd, words):
    for n in (2, 3):
        calls = [usual] * 40
        calls[10 : 10 + n] = [odd] * n
        if n == 2:
            settled(tmp_path, calls, ["1"] * 40)
            continue
        with pytest.raises(InputError) as error:
            settled(tmp_path, ["1"] * 40, calls)
        assert f"chip.vcf: X:{PAR1 + 11}, sample S1: {words}" in str(error.value)
        assert "3 of 40 calls differ" in str(error.value) and "fixploidy" in str(error.value)


def test_missing_calls_tell_no_ploidy(tmp_path):
    some = ["1", ".", "./.", "0", ".|."]
    found = settled(tmp_path, some, ["./.", "0|1", ".", "1|1", ".|1"], ["."] * 5, ["./."] * 5).targets
    assert found.ploidy.tolist() == [1, 2, 2, 2]
    assert found.alleles[:, 0].tolist() == [1, -1, -1, 0, -1]
    assert found.alleles[:, 1:3].tolist() == [[-1, -1], [0, 1], [-1, -1], [1, 1], [-1, 1]]
    assert (found.alleles[:, 3:] == -1).all() and found.alleles.shape == (5, 7)
    everybody = settled(tmp_path, some, ["./."] * 5, ["0", "1", "1", "0", "0"]).targets
    assert everybody.ploidy.tolist() == [1, 1, 1] and (everybody.alleles[:, 1] == -1).all()


def test_a_panel_whose_ploidy_changes_often_is_refused(tmp_path):
    lines = [f"{pos} 0|1 {'1' if pos // 10 % 2 else '0|1'}" for pos in range(10, 60, 10)]
    with pytest.raises(InputError, match=r"panel\.vcf: contig X: the ploidy of samples changes 4 times .*fixploidy"):
        cut(tmp_path, text_of("AB", *lines), text_of("ST", "10 0|1 1"))


def test_ploidy_that_changes_within_a_stretch_is_refused(tmp_path):
    """On a contig whose targets are diploid nobody looked for stretches."""
    panel = save(tmp_path / "p.vcf", text_of("AB", "10 0|1 1|1", "20 0|1 1", "30 1|1 0", contig="Z"))
    chip = save(tmp_path / "t.vcf", text_of("ST", "10 0|1 1|1", "30 0|1 1|1", contig="Z"))
    options = ["--ne", 1000, "--err", 1e-4, "--out", tmp_path / "out.vcf", "--target", chip]
    words = ("p.vcf: Z:20: other samples are haploid than before", "bcftools view -t")
    expect_refusal(tmp_path, ["run", "--ref", panel, *options], *words)
    part = save(tmp_path / "part.vcf", text_of("AB", "20 0|1 1", "30 1|1 0", contig="Z"))
    status, _, log = run_forked("run", "--ref", part, *options)
    assert status == 0, log
    assert [(row.pos, row.info["NH"]) for row in read_rows(tmp_path / "out.vcf")] == [(20, "4"), (30, "4")]


def test_two_names_of_one_contig_are_refused(tmp_path):
    panel = save(tmp_path / "p.vcf", text_of("AB", "10 0|1 1|1"))
    both = text_of("ST", "10 0|1 1|1") + text_of("ST", "10 0|1 1|1", contig="chrX").splitlines()[-1] + "\n"
    with pytest.raises(InputError, match=r"contigs X and chrX are one chromosome"):
        stretches(open_panel(panel), read_targets(save(tmp_path / "t.vcf", both)), lambda name: open_panel(panel))


# Runs


def rows_within(rows: list[Row], start: int, stop: int) -> list[Row]:
    return [row for row in rows if start <= row.pos <= stop]


@pytest.mark.parametrize(
    ("start", "stop"), [(PAR1 + 20_000, PAR1 + 90_000), (PAR1 - 15_000, PAR1 + 15_000), (PAR1 + 1, PAR2 + 8_000)]
)
@pytest.mark.parametrize("compiled", [True, False])
def test_regions_are_parts_of_the_whole(files, whole, tmp_path, start, stop, compiled):
    """Within a stretch and across the ends of PARs; flanks hold all there is on either side."""
    if compiled:
        compile_panel(open_panel(files.ref), tmp_path / "panel.npp")
        files = replace(files, ref=tmp_path / "panel.npp")
    out = impute(files, tmp_path / "out.vcf.gz", region=f"X:{start}-{stop}", formats=ALL, **EXACT)
    assert read_rows(out) == rows_within(read_rows(whole), start, stop)


def test_a_heterozygote_of_a_haploid_male_is_filled_in(x, files, whole, tmp_path, caplog):
    chip = x.chip()
    at = [i for i, record in enumerate(chip.records) if not in_par(record.pos)]
    male = columns(chip.samples, True)[1]
    for name, call in (("odd", "0|1"), ("missing", ".")):
        records = list(chip.records)
        records[at[7]] = records[at[7]].with_call(male, call)
        path = replace(chip, records=records).save(tmp_path / f"{name}.vcf.gz")
        impute(files, tmp_path / f"{name}.out.vcf.gz", target=path, formats=ALL, **EXACT)
    odd, missing = (read_rows(tmp_path / f"{name}.out.vcf.gz") for name in ("odd", "missing"))
    assert odd == missing
    (row,) = [row for row in odd if row.key == chip.records[at[7]].key]
    assert "IMP" in row.info and "TYPED" in row.info and row.fields["GT"][male] in "01"
    for a, b in zip(odd, read_rows(whole), strict=True):
        for key, values in a.fields.items():
            assert values[:male] + values[male + 1 :] == b.fields[key][:male] + b.fields[key][male + 1 :]
    assert "1 calls of 1 samples have another ploidy" in caplog.text


def test_sites_of_a_stretch_that_the_panel_lacks_are_counted_and_reported(x, files, tmp_path):
    panel = x.vcf(x.panel, [s for s, site in enumerate(x.sites) if not in_par(site.pos)]).save(tmp_path / "p.vcf.gz")
    status, _, log = run_forked(
        "run", "--ref", panel, "--target", files.chip, "--out", tmp_path / "out.vcf",
        "--report", tmp_path / "report.tsv", "--engine", "li-stephens", "--ne", 1500, "--err", 1e-4,
    )  # fmt: skip
    assert status == 0, log
    lost = [site for s, site in enumerate(x.sites) if x.typed[s] and in_par(site.pos)]
    lines = [line.split("\t") for line in (tmp_path / "report.tsv").read_text().splitlines()[1:]]
    assert [(line[0], int(line[1]), line[5]) for line in lines] == [("X", site.pos, "excluded") for site in lost]
    for line in (
        "targets: 45 sites",
        "28 found in the panel",
        "17 position not in the panel",
        "3 of 6 targets are haploid",
    ):
        assert line in log
    assert all(not in_par(row.pos) for row in read_rows(tmp_path / "out.vcf"))
    region = impute(
        replace(files, ref=panel),
        tmp_path / "part.vcf",
        region=f"X:{PAR1 - 9_000}-{PAR1 + 9_000}",
        report=tmp_path / "part.tsv",
    )
    reported = [int(line.split("\t")[1]) for line in (tmp_path / "part.tsv").read_text().splitlines()[1:]]
    assert reported == [site.pos for site in lost if abs(site.pos - PAR1) <= 9_000] and len(read_rows(region)) == 5


def test_all_typed_sites_are_written_with_their_ploidy(x, files, tmp_path):
    chip, own = x.chip(), []
    for pos, alone in ((PAR1 - 1, False), (PAR1 + 2, True), (PAR2 + 1, False)):
        calls = tuple(("1" if alone and name[0] == "M" else "0|1") for name in chip.samples)
        own.append(Record("X", pos, "own", "A", "T", calls))
    own[1] = own[1].with_call(columns(chip.samples, True)[0], ".").with_call(columns(chip.samples, False)[0], "./.")
    records = sorted([*chip.records, *own], key=lambda r: r.pos)
    target = replace(chip, records=records).save(tmp_path / "chip.vcf.gz")
    out = impute(files, tmp_path / "out.vcf", target=target, all_typed_sites=True, formats=("GT", "HDS"), **EXACT)
    found = [row for row in read_rows(out) if row.name == "own"]
    assert [row.fields["GT"] for row in found] == [
        list(own[0].calls), [call.replace("./.", ".|.") for call in own[1].calls], list(own[2].calls),
    ]  # fmt: skip
    assert [row.info["NH"] for row in found] == ["12", "6", "12"]


def test_sample_quality_of_males_counts_their_haplotypes(tmp_path):
    """From a run without them: leave-one-out probabilities are those where the call is missing, for each by itself."""
    quality = SampleQuality(("F", "M"))
    predicted = np.array([[0.9, 0.2, 0.8], [0.4, 0.7, 0.3], [0.1, 0.3, 0.6]], np.float32)
    carried = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0]], np.float32)
    ploidy = np.array([2, 1], np.int8)
    quality.add_typed(predicted, carried, ploidy)
    quality.add_typed(predicted[:1], np.array([[np.nan, np.nan, np.nan]], np.float32), ploidy)
    p = np.array([[0.5, 0.9, 0.3], [0.0, 0.2, 0.9]], np.float32)
    quality.add_imputed(p, ploidy)
    quality.write(tmp_path / "q.tsv")
    female, male = [line.split("\t") for line in (tmp_path / "q.tsv").read_text().splitlines()[1:]]
    assert female[:3] == ["F", "3", "1"] and male[:3] == ["M", "3", "1"]
    assert float(male[3]) == pytest.approx(2 / 3, abs=1e-4)
    assert float(female[3]) == pytest.approx(2 / 3, abs=1e-4)  # dosages 1.1, 1.1, 0.4 of 1, 2, 0
    assert float(male[4]) == pytest.approx(np.corrcoef([0.8, 0.3, 0.6], [1, 0, 0])[0, 1] ** 2, abs=1e-4)
    assert float(female[4]) == pytest.approx(np.corrcoef([1.1, 1.1, 0.4], [1, 2, 0])[0, 1] ** 2, abs=1e-4)
    assert float(male[5]) == pytest.approx((0.7 + 0.9) / 2, abs=1e-4)
    assert float(female[5]) == pytest.approx((0.5 + 0.8) / 2, abs=1e-4)


def test_sample_quality_in_a_run(x, files, tmp_path):
    """Of a male as of his haplotype twice, but for his confidence, which in pairs would be a square."""
    impute(
        files,
        tmp_path / "out.vcf",
        sample_quality=tmp_path / "q.tsv",
        region=f"X:{PAR1 + 1}-{PAR2 - 1}",
        formats=("HDS",),
        **EXACT,
    )
    rows = [line.split("\t") for line in (tmp_path / "q.tsv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == [x.names[i] for i in x.targets]
    untyped = [row for row in read_rows(tmp_path / "out.vcf") if "TYPED" not in row.info and "," not in row.alt]
    for i in columns([row[0] for row in rows], True):
        p = np.array([float(row.fields["HDS"][i]) for row in untyped])
        assert float(rows[i][5]) == pytest.approx(np.maximum(p, 1 - p).mean(), abs=0.03)


def test_y_is_haploid_in_females_who_have_none_of_it(tmp_path):
    rng = np.random.default_rng(1)
    panel = [f"{pos} " + " ".join(map(str, rng.integers(0, 2, 9))) for pos in range(100, 2000, 100)]
    chip = [f"{pos} 1 0 ." for pos in range(100, 2000, 300)]
    ref = save(tmp_path / "p.vcf", text_of("ABCDEFGHI", *panel, contig="Y"))
    target = save(tmp_path / "t.vcf", text_of("STU", *chip, contig="chrY"))
    out = impute(Files(ref, target), tmp_path / "out.vcf", formats=ALL)
    rows = read_rows(out)
    assert len(rows) == 19 and all("|" not in call for row in rows for call in row.fields["GT"])
    assert {row.info["NH"] for row in rows} == {"3"}


def test_haploid_organisms(tmp_path):
    """As their haplotypes in pairs."""
    rng = np.random.default_rng(4)
    founders = (rng.random((80, 8)) < 0.4).astype(int)
    alleles = np.take_along_axis(founders, mosaic(8, 40, 80, rng, 30), 1)

    def lines(haplotypes: np.ndarray, step: int, pairs: bool) -> list[str]:
        out = []
        for s in range(0, 80, step):
            row = list(map(str, haplotypes[s]))
            calls = ["|".join(row[i : i + 2]) for i in range(0, len(row), 2)] if pairs else row
            out.append(" ".join([str(1000 + 1000 * s), *calls]))
        return out

    found = {}
    for pairs in (False, True):
        folder = tmp_path / str(pairs)
        folder.mkdir()
        names = [f"S{i}" for i in range(15 if pairs else 30)], [f"T{i}" for i in range(5 if pairs else 10)]
        ref = save(folder / "p.vcf", text_of(names[0], *lines(alleles[:, :30], 1, pairs), contig="chr1"))
        chip = save(folder / "t.vcf", text_of(names[1], *lines(alleles[:, 30:], 5, pairs), contig="chr1"))
        found[pairs] = read_rows(impute(Files(ref, chip), folder / "out.vcf", formats=("GT", "HDS"), **EXACT))
    for one, two in zip(found[False], found[True], strict=True):
        assert one.fields["GT"] == [a for call in two.fields["GT"] for a in call.split("|")]
        assert one.fields["HDS"] == [a for call in two.fields["HDS"] for a in call.split(",")]
        assert one.info == two.info and one.info["NH"] == "10"


# Phasing


def test_unphased_females_and_haploid_males_are_phased(x, files, tmp_path):
    chip = x.chip(between="/")
    at = [i for i, record in enumerate(chip.records) if not in_par(record.pos)][11]
    male = columns(chip.samples, True)[0]
    chip.records[at] = chip.records[at].with_call(male, ".")
    target = chip.save(tmp_path / "chip.vcf.gz")
    outs = {}
    for kind in KINDS:
        outs[kind] = tmp_path / f"out{kind}"
        phase(PhaseConfig(files.ref, target, outs[kind], ne=1500.0))
    rows = read_rows(outs[".vcf.gz"])
    assert rows == read_rows(outs[".vcf"])
    assert [str(r).split("\t")[:7] + str(r).split("\t")[8:] for r in cyvcf2.VCF(str(outs[".bcf"]))] == [
        str(r).split("\t")[:7] + str(r).split("\t")[8:] for r in cyvcf2.VCF(str(outs[".vcf"]))
    ]
    assert [row.key for row in rows] == [record.key for record in chip.records]
    for i, (row, record) in enumerate(zip(rows, chip.records, strict=True)):
        for j, (call, given) in enumerate(zip(row.fields["GT"], record.calls, strict=True)):
            if (i, j) == (at, male):
                assert call in ("0", "1")
            elif "/" in given:
                assert "|" in call and sorted(call.split("|")) == given.split("/")
            else:
                assert call == given
        alleles = [a for call in row.fields["GT"] for a in call.split("|")]
        assert row.info["AN"] == str(len(alleles)) and row.info["AC"] == str(alleles.count("1"))
    again = impute(files, tmp_path / "two.vcf", target=outs[".vcf.gz"], phase="never")
    straight = impute(files, tmp_path / "one.vcf", target=target)
    males = columns(chip.samples, True)
    for a, b in zip(read_rows(again), read_rows(straight), strict=True):
        same = [i for i in range(6) if i not in males or in_par(a.pos)] + males[1:]
        assert [a.fields["DS"][i] for i in same] == [b.fields["DS"][i] for i in same]


def test_haploid_targets_do_not_copy_themselves_and_count_once(x, files, tmp_path):
    """Females are phased as beside diploid people who are the males in pairs."""
    outside = np.flatnonzero([not in_par(site.pos) for site in x.sites])
    females, males = (
        [i for i in x.targets if not x.male(i)], [i for i in x.targets if x.male(i)][:2]
    )  # fmt: skip
    joined = x.alleles.copy()
    joined[:, males[0], 1] = x.alleles[:, males[1], 0]
    names = list(x.names)
    names[males[0]] = "F_of_both"
    rows = [s for s in outside if x.typed[s]]
    panel = x.vcf(x.panel, outside).save(tmp_path / "panel.vcf.gz")
    one = x.vcf([*females, *males], rows, between="/").save(tmp_path / "one.vcf.gz")
    both = replace(x, alleles=joined, names=names).vcf([*females, males[0]], rows, between="/")
    # The pair's phase is known at its every heterozygote.
    for record in both.records:
        call = record.calls[-1]
        a, b = joined[[site.pos for site in x.sites].index(record.pos), males[0]]
        both.records[both.records.index(record)] = record.with_call(len(females), f"{a}|{b}") if call else record
    two = both.save(tmp_path / "two.vcf.gz")
    calls = {}
    for name, chip in (("one", one), ("two", two)):
        phase(PhaseConfig(panel, chip, tmp_path / f"{name}.out.vcf", ne=1500.0))
        calls[name] = [row.fields["GT"][: len(females)] for row in read_rows(tmp_path / f"{name}.out.vcf")]
    assert calls["one"] == calls["two"]


def test_haploid_targets_are_one_haplotype_among_those_that_are_copied(x, files, tmp_path, monkeypatch):
    improve, jumps, copied, sizes = phasing._improve, phasing._jumps, [], []

    def seen(window, filled, every, own, *rest):
        copied.append(every.shape[1] - len(set(own.tolist())))
        return improve(window, filled, every, own, *rest)

    monkeypatch.setattr(phasing, "_improve", seen)
    monkeypatch.setattr(phasing, "_jumps", lambda distance, k: sizes.append(k) or jumps(distance, k))
    rows = [s for s, site in enumerate(x.sites) if not in_par(site.pos) and x.typed[s]]
    chip = x.vcf(x.targets, rows, between="/").save(tmp_path / "chip.vcf.gz")
    phase(PhaseConfig(files.ref, chip, tmp_path / "out.vcf"))
    k = sum(1 if x.male(i) else 2 for i in x.panel)
    # Of a female: the panel, at first alone, two other females, and three males.
    assert set(copied) == {k + 2 * 2 + 3} and set(sizes) == {k, k + 2 * 2 + 3}


# What takes diploid samples only, and comparisons


def test_training_refuses_haploid_panels_with_one_line(files, x, tmp_path):
    for read in (lambda: list(all_diploid(open_panel(files.ref))), lambda: read_regions([open_panel(files.ref)])):
        with pytest.raises(InputError) as error:
            read()
        message = str(error.value)
        assert "\n" not in message and f"panel.vcf.gz: X:{PAR1 + 1}, sample M1: is haploid" in message
    females = {name for name in x.names if name[0] == "F"}
    kept = open_panel(files.ref, keep_samples=females & {x.names[i] for i in x.panel})
    assert sum(len(chunk.sites) for chunk in all_diploid(kept)) == len(x.sites)


HEADER = "##fileformat=VCFv4.2\n##contig=<ID=X>\n" + "".join(
    f'##FORMAT=<ID={name},Number={number},Type={kind},Description="x">\n'
    for name, number, kind in (
        ("GT", 1, "String"), ("DS", "A", "Float"), ("GP", "G", "Float"), ("HDS", ".", "Float"),
        ("AP1", "A", "Float"), ("AP2", "A", "Float"),
    )
)  # fmt: skip


def values_of(path: Path, fields: str, alt: str, *calls: str) -> list[tuple]:
    """Dosages, calls and probabilities of each row of a file with one record."""
    names = [f"S{i}" for i in range(len(calls))]
    columns = "#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT".split() + names
    line = ["X", "5", ".", "A", alt, ".", ".", ".", fields, *calls]
    path.write_text(HEADER + "\t".join(columns) + "\n" + "\t".join(line) + "\n")
    wanted = {key: i for i, key in enumerate(keys_of(path))}
    parts = list(GenotypeFile(path).imputed(tuple(names), wanted))
    return [(p.dosage[i], p.call[i], p.gp[i]) for p in parts for i in range(len(p.rows))]


# A diploid and a haploid sample, or two haploid ones; dosages, calls, and probabilities of each of them.
CASES = [
    ("GT", "C", ("0|1", "1"), [[1, 2]], [[1, 2]], None),
    ("GT", "C,G", ("1|2", "2"), [[1, 0], [1, 2]], [[1, 0], [1, 2]], None),
    ("GT:DS", "C", ("0|1:1.1", "1:0.8"), [[1.1, 1.6]], [[1, 2]], None),
    ("GT:DS", "C,G", ("0|1:1.1,0", "2:0.1,0.8"), [[1.1, 0.2], [0, 1.6]], [[1, 0], [0, 2]], None),
    ("GT:GP", "C", ("0|1:0.1,0.7,0.2", "1:0.3,0.7"), [[1.1, 1.4]], [[1, 2]], [[(0.1, 0.7, 0.2), (0.3, 0, 0.7)]]),
    ("GT:GP", "C", ("0:0.9,0.1", "1:0.3,0.7"), [[0.2, 1.4]], [[0, 2]], [[(0.9, 0, 0.1), (0.3, 0, 0.7)]]),
    (
        "GT:GP", "C,G", ("0|2:0.1,0.1,0.1,0.5,0.1,0.1", "2:0.3,0.1,0.6"), [[0.4, 0.2], [0.8, 1.2]], [[0, 0], [1, 2]],
        [[(0.7, 0.2, 0.1), (0.9, 0, 0.1)], [(0.3, 0.6, 0.1), (0.4, 0, 0.6)]],
    ),
    ("GT:GP", "C,G", ("1:0.2,0.8,0", "2:0.3,0.1,0.6"), [[1.6, 0.2], [0, 1.2]], [[2, 0], [0, 2]],
     [[(0.2, 0, 0.8), (0.9, 0, 0.1)], [(1, 0, 0), (0.4, 0, 0.6)]]),
    ("GT:HDS", "C", ("0|1:0.5,0.8", "0:0.2"), [[1.3, 0.4]], [[1, 0]], [[(0.1, 0.5, 0.4), (0.8, 0, 0.2)]]),
    ("GT:HDS", "C", ("1:0.9", "0:0.2"), [[1.8, 0.4]], [[2, 0]], [[(0.1, 0, 0.9), (0.8, 0, 0.2)]]),
    ("GT:HDS", "C,G", ("0|1:0.5,0,0.8,0.1", "2:0.2,0.7"), [[1.3, 0.4], [0.1, 1.4]], [[1, 0], [0, 2]], None),
    ("GT:HDS", "C,G", ("1:0.5,0", "2:0.2,0.7"), [[1, 0.4], [0, 1.4]], [[2, 0], [0, 2]], None),
    ("GT:AP1:AP2", "C", ("0|1:0.5:0.8", "0:0.2:."), [[1.3, 0.4]], [[1, 0]], [[(0.1, 0.5, 0.4), (0.8, 0, 0.2)]]),
    ("GT:DS", "C", ("0|1:1.1", ".:."), [[1.1, np.nan]], [[1, -1]], None),
    ("GT:DS:HDS", "C", (".|.:1.1:0.5,0.6", "1:0.8:0.8"), [[1.1, 1.6]], [[-1, 2]], None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "alt", "calls", "dosage", "best", "gp"), CASES, ids=str)
def test_a_haploid_genotype_counts_as_the_homozygous_one(tmp_path, fields, alt, calls, dosage, best, gp):
    found = values_of(tmp_path / "a.vcf", fields, alt, *calls)
    for i, (ds, call, p) in enumerate(found):
        assert ds == pytest.approx(dosage[i], abs=1e-6, nan_ok=True)
        assert call.tolist() == best[i]
        if gp is not None:
            np.testing.assert_allclose(p, gp[i], atol=1e-6)


@pytest.mark.parametrize("formats", [("GT",), ("GT", "DS"), ("GT", "HDS"), ("GT", "GP"), ("GT", "AP"), ALL])
def test_outputs_are_compared_as_if_males_were_written_twice(x, files, tmp_path, formats):
    out = impute(files, tmp_path / "out.vcf.gz", formats=formats, **EXACT)
    wanted = {key: i for i, key in enumerate(keys_of(out))}
    names = tuple(x.names[i] for i in x.targets)
    true = {
        key: copies for key, copies, *_ in GenotypeFile(x.vcf(x.targets).save(tmp_path / "truth.bcf")).copies(names)
    }
    keys, males = list(wanted), columns(list(names), True)
    close = []
    for part in GenotypeFile(out).imputed(names, wanted):
        for row, dosage, call in zip(part.rows.tolist(), part.dosage, part.call, strict=True):
            truth = true[keys[row]]
            assert in_par(keys[row][1]) or not (truth[males] == 1).any()
            close.append((np.abs(dosage - truth)[males].mean(), (call == truth)[males].mean()))
            assert (0 <= dosage).all() and (dosage <= 2.001).all()
    apart, alike = np.mean(close, axis=0)
    assert len(close) == sum(site.alt.count(",") + 1 for site in x.sites)
    assert apart < 0.3 and alike > 0.8
