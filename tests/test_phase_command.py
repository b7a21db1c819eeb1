"""``npimpute phase`` from end to end: what it writes in every kind of file, and what it leaves when it is stopped."""

import gzip
import os
import resource
import signal
from dataclasses import replace

import numpy as np
import pytest
from conftest import Vcf, bcftools, expect_refusal, needs, read_rows, run_forked, same_files, simulate, write_map

from npimpute.vcf import lines, phased, write

SUFFIXES = (".vcf.gz", ".bcf", ".vcf")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Unphased targets with missing genotypes; three of their sites are not in the panel."""
    folder, made = tmp_path_factory.mktemp("made"), simulate(n_sites=200, n_panel=20, n_target=5)
    calls = [replace(r, calls=tuple("/".join(sorted(c.split("|"))) for c in r.calls)) for r in made.target.records]
    made.target = replace(made.target, records=calls)
    made.ref, made.chip = made.panel.save(folder / "panel.vcf.gz"), made.target.save(folder / "chip.vcf.gz")
    made.map = write_map(folder / "map.txt")
    return made


def words(made, out, *more) -> list:
    files = ["--ref", made.ref, "--target", made.chip, "--map", made.map, "--out", out]
    return ["phase", *files, "--ne", 2000, "--threads", 1, *more]


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out.vcf.gz"
    status, printed, log = run_forked(*words(made, out))
    assert (status, printed) == (0, "") and f"written: {len(made.target.records) - 3} sites to {out}" in log
    return out


def test_genotypes_come_back_phased_and_complete(made, whole):
    known = {r.key: r for r in made.target.records}
    rows = read_rows(whole)
    panel = {r.key: r for r in made.panel.records}
    assert [row.key for row in rows] == [r.key for r in made.target.records if r.key in panel]
    filled = 0
    for row in rows:
        calls = [call.split("|") for call in row.fields["GT"]]
        assert all(len(call) == 2 and "." not in call for call in calls)
        assert row.name == panel[row.key].name and row.info["AN"] == "10"
        for call, was in zip(calls, known[row.key].calls, strict=True):
            filled += "." in was
            assert "." in was or sorted(call) == was.split("/")
    assert filled > 5


@needs("bcftools")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kinds_of_output_and_threads_do_not_matter(made, whole, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    status, _, log = run_forked(*words(made, out), "--threads", 3)
    assert status == 0, log
    assert bcftools("view", "--no-version", out) == bcftools("view", "--no-version", whole)
    if suffix == ".vcf.gz":
        assert same_files(out, whole)
    assert len(list(tmp_path.iterdir())) == (1 if suffix == ".vcf" else 2)


@needs("bcftools")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_contigs_are_called_as_in_the_panel(made, tmp_path, suffix):
    """Also where its header names none."""
    text = "".join(line for line in made.panel.text().splitlines(True) if not line.startswith("##contig"))
    ref, chip = tmp_path / "panel.vcf", made.target.renamed({"20": "chr20"}).save(tmp_path / "chip.vcf")
    ref.write_text(text)
    out = tmp_path / f"out{suffix}"
    status, _, log = run_forked(*words(replace(made, ref=ref, chip=chip), out))
    assert status == 0, log
    header = bcftools("view", "-h", out)
    assert "##contig=<ID=20>" in header and "chr20" not in header
    assert {line.split("\t")[0] for line in bcftools("view", "-H", out).splitlines()} == {"20"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_contig_that_the_panels_header_lacks_is_told(made, tmp_path, suffix):
    ref = replace(made.panel, contigs={"21": 5_000_000}).save(tmp_path / "panel.vcf")
    command = words(replace(made, ref=ref), tmp_path / f"out{suffix}")
    expect_refusal(tmp_path, command, f"{ref}: contig 20 has no ##contig line; add it to the header")


def test_the_kind_of_index_goes_by_the_records(made, tmp_path):
    """Where the header tells no length. An index of the other kind, of an older file, does not stay."""
    far = []
    for vcf in (made.panel, made.target):
        records = [replace(r, pos=r.pos + write.TBI_LIMIT) for r in vcf.records]
        far.append(Vcf(vcf.samples, records, {"20": 9}).save(tmp_path / f"{len(far)}.vcf"))
    out = tmp_path / "out.vcf.gz"
    status, _, log = run_forked(*words(made, out))
    assert status == 0 and out.with_name(f"{out.name}.tbi").exists(), log
    status, _, log = run_forked(*words(replace(made, ref=far[0], chip=far[1]), out), "--overwrite")
    assert status == 0, log
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[:3] == "out") == [
        "out.vcf.gz",
        "out.vcf.gz.csi",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full(made, whole, tmp_path, suffix):
    """At whatever size: of the text, of what is made of it, of the index."""
    size, limits, told = len(gzip.decompress(whole.read_bytes())), [], set()
    for share in (0.001, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.9):
        out, limit = tmp_path / f"out{suffix}", int(share * size)
        before = lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # noqa: E731
        status, _, log = run_forked(*words(made, out), before=before)
        errors = [line for line in log.splitlines() if not line.startswith(("I ", "W "))]
        if status == 0:
            assert out.exists() and not errors
            break
        assert status == 2 and len(errors) == 1 and errors[0].startswith(f"npimpute: error: {out}: "), log
        assert list(tmp_path.iterdir()) == []
        limits.append(limit)
        told.add(errors[0])
    assert limits


def test_bcf_that_cannot_be_made_is_told_in_one_line(made, tmp_path, monkeypatch):
    """Of what htslib says nothing comes through."""
    import pysam.bcftools

    def fails(*_, **__):
        raise pysam.SamtoolsError("'bcftools returned with error -1: stdout=None'")

    monkeypatch.setattr(pysam.bcftools, "view", fails)
    out = tmp_path / "out.bcf"
    expect_refusal(tmp_path, words(made, out), f"{out}: cannot be made BCF: no space left")


MOMENTS = [(phased, "_lines"), (lines, "publish"), (lines.LineWriter, "_convert"), (phased.LineWriter, "__enter__")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(("place", "function"), MOMENTS, ids=lambda value: str(value).rpartition(".")[2])
def test_a_signal(made, tmp_path, number, place, function):
    out = tmp_path / "out.bcf"

    def prepare():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        was = getattr(place, function)

        def struck(*args, **named):
            os.kill(os.getpid(), number)
            return was(*args, **named)

        setattr(place, function, struck)

    status, _, log = run_forked(*words(made, out), before=prepare)
    left = [path.name for path in tmp_path.iterdir()]
    if number == signal.SIGKILL:
        assert status == -number and all(name.startswith(".") for name in left)
        return
    word = "interrupted" if number == signal.SIGINT else "stopped"
    errors = [line for line in log.splitlines() if line and not line.startswith(("I ", "W "))]
    assert (status, errors, left) == (128 + number, [f"npimpute: error: {word}; nothing was written"], [])


def test_haplotypes_of_very_many_alleles_are_spelled_out():
    sites = phased.Sites("20", np.array([5]), ["."], ["A"], [",".join("C" * i for i in range(1, 13))])
    codes = np.array([[0, 12, 3]], np.int8)
    (line,) = phased._lines(sites, codes, np.array([0, 2, 3]))
    assert line.split(b"\t")[9:] == [b"0|12", b"3"]
