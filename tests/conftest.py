"""A small simulated panel with targets whose truth is known, and ways to write, impute and read VCF."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pysam
import pytest

from npimpute.config import RunConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
GIVEN = {"ne": 1500.0, "err": 1e-4}
SUFFIXES = ("", ".tbi", ".csi")
ALL = ("GT", "DS", "HDS", "GP", "AP")
# Each site then depends on few neighbours, so that flanks of FLANK_CM hold all that matters.
FAST_SWITCHING = {"ne": 10_000.0, "flank_cm": 5.0}
PANEL_KINDS = ("panel.bcf", "panel.vcf", "unindexed.vcf.gz", "unindexed.bcf", "panel.npp")


def needs(program: str):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@dataclass(frozen=True)
class Record:
    """One VCF record. calls: the genotypes as written."""

    contig: str
    pos: int
    name: str
    ref: str
    alt: str
    calls: tuple[str, ...]

    @property
    def key(self) -> tuple:
        return self.pos, self.ref, self.alt

    @property
    def alleles(self) -> np.ndarray:
        """(n,) int, -1 missing."""
        return np.array([-1 if a == "." else int(a) for call in self.calls for a in call.split("|")])

    def with_alleles(self, alleles: np.ndarray) -> Record:
        words = ["." if a < 0 else str(a) for a in np.asarray(alleles).tolist()]
        return replace(self, calls=tuple(f"{a}|{b}" for a, b in zip(words[::2], words[1::2], strict=True)))

    def with_call(self, sample: int, call: str) -> Record:
        return replace(self, calls=(*self.calls[:sample], call, *self.calls[sample + 1 :]))


@dataclass
class Vcf:
    """A VCF in memory."""

    samples: list[str]
    records: list[Record]
    contigs: dict[str, int] = field(default_factory=lambda: {"20": 5_000_000})

    def text(self) -> str:
        lines = ["##fileformat=VCFv4.2", '##FILTER=<ID=PASS,Description="All filters passed">']
        lines += [f"##contig=<ID={name},length={length}>" for name, length in self.contigs.items()]
        lines += ['##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
        columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
        lines.append("\t".join([*columns, *self.samples]))
        for r in self.records:
            lines.append("\t".join([r.contig, str(r.pos), r.name, r.ref, r.alt, ".", "PASS", ".", "GT", *r.calls]))
        return "\n".join(lines) + "\n"

    def save(self, path: Path, index: bool = True) -> Path:
        """Writes .vcf, .vcf.gz (bgzip) or .bcf by the name, the latter two with an index."""
        if path.suffix == ".vcf":
            path.write_text(self.text())
            return path
        plain = path.with_name(f"{path.name}.plain.vcf")
        plain.write_text(self.text())
        if path.suffix == ".gz":
            pysam.tabix_compress(str(plain), str(path), force=True)
        else:
            with (
                pysam.VariantFile(str(plain)) as source,
                pysam.VariantFile(str(path), "wb", header=source.header) as to,
            ):
                for record in source:
                    to.write(record)
        plain.unlink()
        if index:
            kind = "vcf" if path.suffix == ".gz" else "bcf"
            pysam.tabix_index(str(path), preset=kind, force=True, keep_original=True, csi=kind == "bcf")
        return path

    def renamed(self, names: dict[str, str]) -> Vcf:
        """With other contig names."""
        records = [replace(r, contig=names.get(r.contig, r.contig)) for r in self.records]
        return Vcf(self.samples, records, {names.get(c, c): length for c, length in self.contigs.items()})

    def columns(self, index: list[int]) -> Vcf:
        """With the samples of ``index``, in that order."""
        records = [replace(r, calls=tuple(r.calls[i] for i in index)) for r in self.records]
        return Vcf([self.samples[i] for i in index], records, self.contigs)


def mosaic(sources: int, n: int, sites: int, rng: np.random.Generator, length: float) -> np.ndarray:
    """(sites, n) int: which of the sources each of n haplotypes copies; segments of ``length`` sites on average."""
    out = np.empty((sites, n), np.int64)
    copied = rng.integers(sources, size=n)
    for s in range(sites):
        switch = rng.random(n) < 1 / length
        copied = np.where(switch, rng.integers(sources, size=n), copied)
        out[s] = copied
    return out


def draw_sites(contig: str, n: int, rng: np.random.Generator) -> list[Record]:
    """SNVs, indels, multi-allelic records, and positions that occur twice; about 4 kb apart."""
    records, pos = [], 20_000
    for i in range(n):
        pos += int(rng.integers(100, 8_000))
        ref, *others = (str(base) for base in rng.permutation(list("ACGT")))
        kinds = {
            "snv": [(ref, others[0])],
            "multi": [(ref, f"{others[0]},{others[1]}")],
            "deletion": [(ref + "TG", ref)],
        }
        kinds |= {"insertion": [(ref, ref + "ACA")], "pair": [(ref, others[0]), (ref, others[1])]}
        kinds |= {"overlap": [(ref, others[0]), (ref + "CC", ref)]}
        kind = rng.choice(list(kinds), p=[0.8, 0.05, 0.04, 0.04, 0.04, 0.03])
        for j, (r, a) in enumerate(kinds[kind]):
            records.append(Record(contig, pos, "." if i % 3 == 0 else f"rs{i}{'ab'[j]}", r, a, ()))
    return records


@dataclass
class Data:
    """panel; target: at chip sites, some genotypes missing, and at three sites that only it has; truth: the target's
    alleles at every panel record; ref, chip, map: the files."""

    panel: Vcf
    target: Vcf
    truth: Vcf
    ref: Path = Path()
    chip: Path = Path()
    map: Path = Path()


def simulate(contig: str = "20", n_sites: int = 600, n_panel: int = 60, n_target: int = 8, seed: int = 20) -> Data:
    """Panel haplotypes are mosaics of 12 founders, target haplotypes mosaics of panel haplotypes."""
    rng = np.random.default_rng(seed)
    sites = draw_sites(contig, n_sites, rng)
    founders = np.zeros((len(sites), 12), np.int64)
    for row, record in zip(founders, sites, strict=True):
        carriers = rng.permutation(12)[: rng.integers(1, 7)]
        row[carriers] = rng.integers(1, 2 + record.alt.count(","), len(carriers))
    of_panel = np.take_along_axis(founders, mosaic(12, 2 * n_panel, len(sites), rng, 300), 1)
    of_target = np.take_along_axis(of_panel, mosaic(2 * n_panel, 2 * n_target, len(sites), rng, 300), 1)
    panel = [record.with_alleles(row) for record, row in zip(sites, of_panel, strict=True)]
    truth = [record.with_alleles(row) for record, row in zip(sites, of_target, strict=True)]
    once = {r.pos for r in sites} - {a.pos for a, b in zip(sites, sites[1:], strict=False) if a.pos == b.pos}
    common = [i for i, r in enumerate(panel) if r.pos in once and len(r.ref + r.alt) == 2 and r.alleles.mean() > 0.1]
    chip = []
    for i in common[::4]:
        missing = (rng.random((n_target, 1)) < 0.03) | (rng.random((n_target, 2)) < 0.01)
        chip.append(truth[i].with_alleles(np.where(missing.ravel(), -1, truth[i].alleles)))
    own = np.where(rng.random((3, 2 * n_target)) < 0.1, -1, rng.integers(0, 2, (3, 2 * n_target)))
    for at, alleles in zip((n_sites // 20, n_sites // 3, n_sites // 2), own, strict=True):
        chip.append(Record(contig, sites[at].pos + 1, f"own{at}", "A", "G", ()).with_alleles(alleles))
    chip.sort(key=lambda r: r.pos)
    length = {contig: 5_000_000}
    people = [f"T{i}" for i in range(n_target)]
    return Data(
        Vcf([f"P{i}" for i in range(n_panel)], panel, length), Vcf(people, chip, length), Vcf(people, truth, length)
    )


def write_map(path: Path, contigs=("20",), cm_per_mb: float = 10.0) -> Path:
    """A genetic map with a cold stretch in the middle, so that it differs from any constant rate."""
    points = [(1, 0.0), (800_000, 0.8), (1_300_000, 0.9), (5_000_000, 4.6)]
    lines = [f"{contig} . {cm * cm_per_mb:.6f} {bp}\n" for contig in contigs for bp, cm in points]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def torch_alone(monkeypatch):
    """As if torchrun had not started the tests; torch has its threads back after one."""
    import torch

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Data:
    """The simulated data, written as VCF.gz with indexes, and a genetic map."""
    folder = tmp_path_factory.mktemp("data")
    made = simulate()
    made.ref, made.chip = made.panel.save(folder / "panel.vcf.gz"), made.target.save(folder / "chip.vcf.gz")
    made.map = write_map(folder / "map.txt")
    return made


def run_cli(*args, **options) -> tuple[int, str, str]:
    """Runs ``npimpute`` in a process of its own: exit status, stdout, stderr."""
    command = [sys.executable, "-m", "npimpute", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


STUCK = 100
"""Seconds after which a fork is taken to wait for a lock that another thread held when it was made, for good."""


def run_forked(*args, before=None) -> tuple[int, str, str]:
    """As ``run_cli``, in a fork of this process, which has loaded what takes long to load; ``before`` runs there.

    Warnings of Python, which pytest catches, do not come out.
    """
    import npimpute.cli.run
    import npimpute.pipeline  # noqa: F401
    from npimpute.cli.main import main

    pipes = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12, that other threads are running: they do nothing
        child = os.fork()
    if child == 0:
        signal.alarm(STUCK)
        _as_a_process(main, ["npimpute", *map(str, args)], before, pipes)
    texts = []
    for reader, writer in pipes:
        os.close(writer)
        with open(reader) as file:
            texts.append(file.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return run_cli(*args) if status == -signal.SIGALRM and before is None else (status, *texts)


def _as_a_process(main, argv: list[str], before, pipes) -> None:
    """Runs ``main`` with stdout and stderr into ``pipes``, and ends the process as Python would."""
    status = 1
    try:
        for number, (_, writer) in enumerate(pipes, 1):
            os.dup2(writer, number)
        sys.argv, sys.stdout, sys.stderr = argv, open(1, "w", closefd=False), open(2, "w", closefd=False)
        if torch := sys.modules.get("torch"):
            # Its other threads are not in a fork, which would wait for them.
            torch.set_num_threads(1)
            torch.set_num_threads = lambda count: None
        if before is not None:
            before()
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expect_refusal(folder: Path, words: list, *expected: str, **options) -> None:
    """Runs ``npimpute``, which must stop with status 2 and one line that holds ``expected``, and leave ``folder``."""
    before = contents(folder)
    status, printed, log = run_forked(*words, **options)
    errors = [line for line in log.splitlines() if line.startswith("npimpute: error: ")]
    rest = [line for line in log.splitlines() if line not in errors and not line.startswith(("I ", "W "))]
    assert (status, printed, len(errors), rest) == (2, "", 1, []), log
    for word in expected:
        assert word in errors[0]
    after = contents(folder)
    assert after.keys() == before.keys()
    assert after == before, "a file was changed"


def impute(data: Data, out: Path, **options) -> Path:
    """Runs the pipeline in this process, with ``data``'s files, exact Li-Stephens and given parameters unless told
    otherwise."""
    from npimpute.pipeline import run

    files = {"ref": data.ref, "target": data.chip, "map": data.map, "out": out}
    run(RunConfig(**files | {"engine": "li-stephens"} | GIVEN | options))
    return out


@dataclass(frozen=True)
class Row:
    """One line of an output. info: values as text, flags ""; fields: FORMAT key -> value of each sample, as text."""

    contig: str
    pos: int
    name: str
    ref: str
    alt: str
    info: dict[str, str]
    fields: dict[str, list[str]]

    @property
    def key(self) -> tuple:
        return self.pos, self.ref, self.alt

    def numbers(self, key: str) -> np.ndarray:
        """(samples, values) float64, NaN missing."""
        return np.array([[np.nan if x == "." else float(x) for x in v.split(",")] for v in self.fields[key]])

    def floats(self, key: str) -> np.ndarray:
        """The values of one INFO key."""
        return np.array([float(x) for x in self.info[key].split(",")])


def read_rows(path: Path) -> list[Row]:
    """The records of a VCF, plain or compressed, by splitting its text."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        lines = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    rows = []
    for contig, pos, name, ref, alt, _, _, info, *rest in lines:
        pairs = (pair.partition("=")[::2] for pair in info.split(";"))
        columns = zip(*(call.split(":") for call in rest[1:]), strict=True) if rest else ()
        fields = dict(zip(rest[0].split(":"), map(list, columns), strict=True)) if rest else {}
        rows.append(Row(contig, int(pos), name, ref, alt, dict(pairs), fields))
    return rows


def matrix(rows: list[Row], key: str = "DS") -> np.ndarray:
    """(rows of all ALT alleles, samples): the values of a field with one per ALT allele."""
    return np.concatenate([row.numbers(key).T for row in rows])


def alt_counts(records: list[Record]) -> np.ndarray:
    """(rows of all ALT alleles, samples): how many copies of each ALT allele every sample has; NaN missing."""
    out = []
    for record in records:
        for a in range(record.alt.count(",") + 1):
            copies = np.where(record.alleles < 0, np.nan, record.alleles == a + 1)
            out.append(copies[::2] + copies[1::2])
    return np.array(out)


def r2(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1] ** 2)


def same_files(a: Path, b: Path) -> bool:
    """Whether both and their indexes hold the same bytes."""
    for suffix in SUFFIXES:
        x, y = Path(f"{a}{suffix}"), Path(f"{b}{suffix}")
        if x.exists() != y.exists() or (x.exists() and x.read_bytes() != y.read_bytes()):
            return False
    return True


def bcftools(*args) -> str:
    """What bcftools prints; it must not complain."""
    done = subprocess.run(["bcftools", *map(str, args)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"bcftools {args}"
    return done.stdout


@pytest.fixture(scope="session")
def whole(data, tmp_path_factory):
    """The path of the one-window run with given parameters and all fields."""
    return impute(data, tmp_path_factory.mktemp("whole") / "out.vcf.gz", formats=ALL)


@pytest.fixture(scope="session")
def fast_rows(data, tmp_path_factory):
    return read_rows(impute(data, tmp_path_factory.mktemp("fast") / "out.vcf.gz", **FAST_SWITCHING))


@pytest.fixture(scope="session")
def panels(data, tmp_path_factory):
    """Name -> the same panel in another kind of file."""
    folder = tmp_path_factory.mktemp("panels")
    from npimpute.panel.panel import compile_panel, open_panel

    for name in PANEL_KINDS[:-1]:
        data.panel.save(folder / name, index=not name.startswith("unindexed"))
    compile_panel(open_panel(data.ref), folder / "panel.npp")
    return {name: folder / name for name in PANEL_KINDS}
