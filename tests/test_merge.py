"""Outputs of several runs merged: the same as one run, or refused."""

import gzip
import resource
import signal
from itertools import permutations, zip_longest
from pathlib import Path

import cyvcf2
import numpy as np
import pytest
from conftest import ALL, bcftools, contents, expect_refusal, impute, needs, read_rows, run_cli, run_forked, same_files

from npimpute.dosage import merge as merging
from npimpute.dosage.merge import merge
from npimpute.errors import ConfigError, InputError
from npimpute.vcf.bgzf import BgzfWriter
from npimpute.vcf.headers import contig_order
from npimpute.vcf.lines import LineReader, LineWriter
from npimpute.vcf.source import Source, open_source

GROUPS = ([0, 1, 2], [3, 4], [5, 6, 7])
COMPUTED = ("AF", "DR2", "R2", "INFO", "EXPR2", "SP", "SPQ", "SPPQ", "SPPPQ")
HEAD = (
    "##fileformat=VCFv4.2\n##source=npimpute 1\n##contig=<ID=20,length=5000>\n"
    '##INFO=<ID=AF,Number=A,Type=Float,Description="x">\n##INFO=<ID=DR2,Number=A,Type=Float,Description="x">\n'
    '##INFO=<ID=R2,Number=A,Type=Float,Description="x">\n##INFO=<ID=INFO,Number=A,Type=Float,Description="x">\n'
    '##INFO=<ID=ER2,Number=A,Type=Float,Description="x">\n##INFO=<ID=EXPR2,Number=A,Type=Float,Description="x">\n'
    '##INFO=<ID=NH,Number=1,Type=Integer,Description="x">\n'
    '##INFO=<ID=SP,Number=A,Type=Float,Description="x">\n##INFO=<ID=SPQ,Number=A,Type=Float,Description="x">\n'
    '##INFO=<ID=SPPQ,Number=A,Type=Float,Description="x">\n##INFO=<ID=SPPPQ,Number=A,Type=Float,Description="x">\n'
    '##INFO=<ID=TYPED,Number=0,Type=Flag,Description="x">\n##INFO=<ID=IMP,Number=0,Type=Flag,Description="x">\n'
    '##INFO=<ID=VEP,Number=1,Type=String,Description="x">\n'
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="x">\n##FORMAT=<ID=DS,Number=A,Type=Float,Description="x">\n'
)
SUMS = "NH=4;SP=1;SPQ=0.2;SPPQ=0.1;SPPPQ=0.05"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT"


def record(pos: int, info: str = f"{SUMS};IMP", alt: str = "C", contig: str = "20", keys: str = "GT:DS") -> str:
    """A record of two samples up to FORMAT, and the samples' values, which tell their place."""
    calls = "\t".join("0|1:1" if keys == "GT:DS" else "0|1" for _ in range(2))
    return f"{contig}\t{pos}\t.\tA\t{alt}\t.\tPASS\t{info}\t{keys}\t{calls}\n"


def save(path: Path, samples: str, *records: str, head: str = HEAD) -> Path:
    text = head + "\t".join([COLUMNS, *samples.split()]) + "\n" + "".join(records)
    if path.suffix == ".gz":
        with BgzfWriter(path) as out:
            out.write(text.encode())
    else:
        path.write_text(text)
    return path


@pytest.fixture(scope="module")
def batches(data, tmp_path_factory):
    """Outputs of three batches of samples, .vcf.gz and .bcf."""
    folder = tmp_path_factory.mktemp("batches")
    made = {}
    for suffix in (".vcf.gz", ".bcf"):
        made[suffix] = []
        for i, group in enumerate(GROUPS):
            chip = data.target.columns(group).save(folder / f"chip{i}.vcf.gz")
            made[suffix].append(impute(data, folder / f"b{i}{suffix}", target=chip, formats=ALL))
    return made


@pytest.fixture(scope="module")
def merged(batches, tmp_path_factory):
    out = tmp_path_factory.mktemp("merged") / "out.vcf.gz"
    merge(batches[".vcf.gz"], out)
    return out


def text(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def split(path: Path, folder: Path, *borders: int, suffix: str = ".vcf") -> list[Path]:
    """The file cut into files of the positions up to each border, and of the rest."""
    lines = text(path).splitlines(keepends=True)
    header = [line for line in lines if line.startswith("#")]
    parts = [[] for _ in range(len(borders) + 1)]
    for line in lines[len(header) :]:
        parts[sum(int(line.split("\t")[1]) > border for border in borders)].append(line)
    folder.mkdir(exist_ok=True)
    out = []
    for i, part in enumerate(parts):
        out.append(folder / f"part{i}{suffix}")
        out[-1].write_text("".join([*header, *part]))
    return out


def test_batches_are_what_one_run_writes(merged, whole):
    """Byte for byte but for ER2, EXPR2 of typed sites, and the last digit of what follows from printed sums."""
    ours, theirs = text(merged).splitlines(), text(whole).splitlines()
    header = [line for line in theirs if line.startswith("#") and "ID=ER2," not in line]
    assert [line for line in ours if line.startswith("#")] == header
    differ, n = dict.fromkeys(COMPUTED, 0), 0
    for a, b in zip(read_rows(merged), read_rows(whole), strict=True):
        for key in ("ER2", "EXPR2") if "TYPED" in b.info else ():
            b.info.pop(key, None)
        assert list(a.info) == list(b.info)
        assert (a.contig, a.key, a.name, a.fields) == (b.contig, b.key, b.name, b.fields)
        assert all(a.info[key] == b.info[key] for key in a.info if key not in COMPUTED)
        n += len(a.floats("SP"))
        for key in set(COMPUTED) & set(a.info):
            differ[key] += int((a.floats(key) != b.floats(key)).sum())
        # NH is 16, so that 6 digits are 5 decimals at the most; each of four roundings moves them by half a unit.
        np.testing.assert_allclose(a.floats("SP"), b.floats("SP"), rtol=0, atol=2.001e-4)
        np.testing.assert_allclose(a.floats("AF"), b.floats("AF"), rtol=0, atol=2e-4 / 16)
        np.testing.assert_allclose(a.floats("DR2"), b.floats("DR2"), rtol=0, atol=0.002)
        if "EXPR2" in a.info:
            np.testing.assert_allclose(a.floats("EXPR2"), b.floats("EXPR2"), rtol=0, atol=0.002)
    assert n > 600
    assert differ["AF"] < 0.2 * n
    assert differ["DR2"] == differ["R2"] == differ["INFO"] < 0.02 * n
    assert differ["EXPR2"] < 0.05 * n


def test_quality_follows_from_the_printed_sums(batches, merged):
    multi = typed = filled = 0
    parts = [read_rows(path) for path in batches[".vcf.gz"]]
    for row, *of in zip(read_rows(merged), *parts, strict=True):
        n = sum(int(part.info["NH"]) for part in of)
        sum_p, sum_pq = (sum(part.floats(key) for part in of) for key in ("SP", "SPQ"))
        assert int(row.info["NH"]) == n == 16
        assert row.info["SP"] == ",".join(f"{x:.6g}" for x in sum_p)
        assert row.info["SPQ"] == ",".join(f"{x:.6g}" for x in sum_pq)
        spread = sum_p * (1 - sum_p / n)
        dr2 = np.clip(1 - np.divide(sum_pq, spread, out=np.ones_like(spread), where=spread > 1e-9), 0, 1)
        np.testing.assert_allclose(row.floats("AF"), sum_p / n, rtol=0, atol=5.1e-7)
        for key in ("DR2", "R2", "INFO"):
            np.testing.assert_allclose(row.floats(key), dr2, rtol=0, atol=5.1e-5)
        assert row.info["DR2"] == row.info["R2"] == row.info["INFO"]
        assert "ER2" not in row.info
        assert all(("TYPED" in part.info) == ("TYPED" in row.info) for part in of)
        imputed = ["IMP" in part.info for part in of]
        assert ("IMP" in row.info) == any(imputed)
        multi += len(sum_p) > 1
        typed += "TYPED" in row.info
        filled += any(imputed) and not all(imputed)
    assert min(multi, typed, filled) > 5


def test_the_expected_r2_is_that_of_the_whole_run_within_the_printed_digits(batches, merged, whole):
    """By the formula of the documentation, from sums that are each off by half a unit of their last digit at most."""

    def by_formula(n, s, q, ppq, pppq):
        m = s / n
        a, b = s * (1 - m) - q, pppq - 2 * m * ppq + m**2 * q
        with np.errstate(invalid="ignore", divide="ignore"):
            value = (a**2 + b + 1e-4 * a) / (a * (a + q * (1 - 1 / n) + n * 1e-4))
        return np.where((a > 1e-9) & (np.minimum(s, n - s) > 1e-6), np.clip(value, 0, 1), 0)

    def half_unit(x):
        return 0.5 * 10.0 ** (np.floor(np.log10(np.maximum(x, 1e-9))) - 5)

    parts, seen, moved = [read_rows(path) for path in batches[".vcf.gz"]], 0, []
    for row, one, *of in zip(read_rows(merged), read_rows(whole), *parts, strict=True):
        if "TYPED" in row.info:
            assert "EXPR2" not in row.info
            continue
        values = [[part.floats(key) for part in of] for key in ("SP", "SPQ", "SPPQ", "SPPPQ")]
        sums = np.sum(values, axis=1)
        expected = by_formula(16, *sums)
        np.testing.assert_allclose(row.floats("EXPR2"), expected, rtol=0, atol=5.1e-5)
        # How far it may move if every sum does, to either side.
        error = [sum(half_unit(x) for x in part) for part in values]
        reach = np.zeros_like(expected)
        for i, e in enumerate(error):
            for sign in (-1, 1):
                shifted = [x + sign * e * (i == j) for j, x in enumerate(sums)]
                reach[:] += np.abs(by_formula(16, *shifted) - expected)
        assert (np.abs(row.floats("EXPR2") - one.floats("EXPR2")) <= 2 * reach + 1.01e-4).all()
        moved += reach.tolist()
        seen += len(expected)
    assert seen > 400 and np.median(moved) < 1e-4


def test_samples_come_in_the_given_order(batches, tmp_path):
    merge([batches[".vcf.gz"][i] for i in (2, 0, 1)], tmp_path / "out.vcf")
    assert open_source(tmp_path / "out.vcf").samples == tuple(f"T{i}" for i in (5, 6, 7, 0, 1, 2, 3, 4))
    for row, *of in zip(
        read_rows(tmp_path / "out.vcf"), *(read_rows(batches[".vcf.gz"][i]) for i in (2, 0, 1)), strict=True
    ):
        assert row.fields == {key: sum((part.fields[key] for part in of), []) for key in row.fields}


@pytest.mark.parametrize("suffix", [".vcf", ".vcf.gz", ".bcf"])
def test_bcf_and_vcf_give_the_same_bytes(batches, tmp_path, suffix):
    mixed = [batches[".vcf.gz"][0], batches[".bcf"][1], batches[".vcf.gz"][2]]
    merge(batches[".vcf.gz"], tmp_path / f"a{suffix}")
    for name, files in (("b", batches[".bcf"]), ("c", mixed)):
        merge(files, tmp_path / f"{name}{suffix}", threads=2)
        assert same_files(tmp_path / f"a{suffix}", tmp_path / f"{name}{suffix}")
    assert len(list(tmp_path.iterdir())) == (3 if suffix == ".vcf" else 6)


def test_bcf_holds_what_vcf_holds(batches, merged, tmp_path):
    merge(batches[".vcf.gz"], tmp_path / "out.bcf")
    a, b = (cyvcf2.VCF(str(path)) for path in (tmp_path / "out.bcf", merged))
    assert a.samples == b.samples
    n = 0
    for x, y in zip_longest(a, b):
        one, two = (str(line).split("\t") for line in (x, y))
        assert one[:7] + one[8:] == two[:7] + two[8:]
        for (key, u), (other, v) in zip(x.INFO, y.INFO, strict=True):
            assert key == other
            np.testing.assert_allclose(u, v, rtol=1e-6)
        n += 1
    assert n > 600
    assert sum(1 for _ in a("20:1-1000000")) == sum(row.pos <= 1_000_000 for row in read_rows(merged)) > 50


@pytest.mark.parametrize("suffix", [".vcf", ".vcf.gz", ".bcf"])
def test_bytes_do_not_depend_on_threads_or_blocks(batches, tmp_path, monkeypatch, suffix):
    merge(batches[".vcf.gz"], tmp_path / f"one{suffix}", threads=1)
    monkeypatch.setattr(merging, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(merging, "READ_BYTES", 1)
    for threads in (1, 3):
        merge(batches[".vcf.gz"], tmp_path / f"more{suffix}", threads=threads, overwrite=True)
        assert same_files(tmp_path / f"one{suffix}", tmp_path / f"more{suffix}")


def test_regions_are_what_one_file_was(whole, tmp_path):
    """In whatever order; with the bytes of the file that they were cut from, ER2 included."""
    assert "ER2=" in text(whole)
    parts = split(whole, tmp_path / "parts", 400_000, 900_000)
    for i, files in enumerate(permutations(parts)):
        merge(list(files), tmp_path / f"{i}.vcf.gz")
        assert same_files(tmp_path / f"{i}.vcf.gz", whole)


def test_runs_of_regions_are_joined(data, tmp_path):
    parts = [
        impute(data, tmp_path / f"{i}.vcf.gz", region=region)
        for i, region in enumerate(["20:1,000,001-", "20:1-500,000", "20:500,001-1,000,000"])
    ]
    merge(parts, tmp_path / "out.vcf.gz")
    assert read_rows(tmp_path / "out.vcf.gz") == [row for i in (1, 2, 0) for row in read_rows(parts[i])]
    assert [row.key for row in read_rows(tmp_path / "out.vcf.gz")] == [r.key for r in data.panel.records]


def test_batches_in_regions(batches, merged, tmp_path):
    """A grid, each batch cut at other places, all files shuffled."""
    borders = ([300_000], [300_000, 800_000], [])
    files = []
    for i, path in enumerate(batches[".vcf.gz"]):
        files += split(path, tmp_path / str(i), *borders[i])
    assert len(files) == 6
    order = [1, 4, 0, 5, 3, 2]  # the batches' first files come in the order of the batches
    merge([files[i] for i in order], tmp_path / "out.vcf.gz")
    assert same_files(tmp_path / "out.vcf.gz", merged)


def test_contigs_come_in_the_headers_order(tmp_path):
    def contigs(*names):
        return HEAD.replace("##contig=<ID=20,length=5000>\n", "".join(f"##contig=<ID={n},length=9>\n" for n in names))

    # One file's contigs lie between those of another.
    a = save(tmp_path / "a.vcf", "S T", record(5, contig="2"), record(3, contig="1"), head=contigs("2", "10", "1"))
    b = save(tmp_path / "b.vcf", "S T", record(9, contig="10"), record(7, contig="1"), head=contigs("10", "1"))
    c = save(tmp_path / "c.vcf", "S T", head=contigs("2", "1"))
    for files in permutations((a, b, c)):
        merge(list(files), tmp_path / "out.vcf", overwrite=True)
        rows = read_rows(tmp_path / "out.vcf")
        assert [(row.contig, row.pos) for row in rows] == [("2", 5), ("10", 9), ("1", 3), ("1", 7)]
        assert [name for name, _ in open_source(tmp_path / "out.vcf").contigs] == ["2", "10", "1"]


def test_contigs_of_single_headers_are_sorted_as_numbers():
    def source(*names):
        return Source(Path("x"), False, "plain", ("S",), [(name, None) for name in names], "")

    assert contig_order([source(f"chr{i}") for i in (10, 2, "X", 1)]) == ["chr1", "chr2", "chr10", "chrX"]
    assert contig_order([source("2", "1"), source("3"), source("1", "X")]) == ["2", "1", "3", "X"]
    with pytest.raises(InputError, match="different orders"):
        contig_order([source("2", "1"), source("1", "2")])
    with pytest.raises(InputError, match="one name"):
        contig_order([source("20"), source("chr20")])
    assert contig_order([source("20", "chr20"), source("chr20")]) == ["20", "chr20"]


def test_missing_values_other_keys_and_records_without_alt(tmp_path):
    a = save(
        tmp_path / "a.vcf", "S T",
        record(5, "AF=.;DR2=.;R2=.;INFO=.;NH=0;SP=0;SPQ=0;SPPQ=0;SPPPQ=0;TYPED"),
        record(6, "TYPED", alt="."), record(7, ".", alt="."),
        record(8, "NH=3;SP=1.5;SPQ=0.25;SPPQ=0.125;SPPPQ=0.0625;TYPED;VEP=a"),
        record(9, "NH=0;SP=0;SPQ=0;SPPQ=0;SPPPQ=0;TYPED"),
        record(10, "AF=0;NH=4;SP=0.125,1;SPQ=0.1,0;SPPQ=0.03,0;SPPPQ=0.01,0;IMP", alt="C,G"),
    )  # fmt: skip
    b = save(
        tmp_path / "b.vcf", "U V",
        record(5, "NH=2;SP=1;SPQ=0;SPPQ=0;SPPPQ=0;ER2=0.5;EXPR2=0.5;TYPED"),
        record(6, "TYPED", alt="."), record(7, ".", alt="."),
        record(8, "VEP=a;TYPED;IMP;SPPPQ=0.0625;SPQ=0.25;NH=4;SP=2;SPPQ=0.125"),
        record(9, "NH=0;SP=0;SPQ=0;SPPQ=0;SPPPQ=0;TYPED"),
        record(10, "AF=0;NH=4;SP=0.375,1;SPQ=0.1,0;SPPQ=0.03,0;SPPPQ=0.01,0;IMP", alt="C,G"),
    )  # fmt: skip
    merge([a, b], tmp_path / "out.vcf")
    assert [line.split("\t")[7] for line in text(tmp_path / "out.vcf").splitlines() if line[0] != "#"] == [
        "AF=0.5;DR2=1;R2=1;INFO=1;NH=2;SP=1;SPQ=0;SPPQ=0;SPPPQ=0;TYPED",
        "TYPED",
        ".",
        "AF=0.5;DR2=0.7143;R2=0.7143;INFO=0.7143;NH=7;SP=3.5;SPQ=0.5;SPPQ=0.25;SPPPQ=0.125;TYPED;IMP;VEP=a",
        "AF=.;DR2=.;R2=.;INFO=.;NH=0;SP=0;SPQ=0;SPPQ=0;SPPPQ=0;TYPED",
        "AF=0.0625,0.25;DR2=0.5733,1;R2=0.5733,1;INFO=0.5733,1;EXPR2=0.7159,0.9995;NH=8;SP=0.5,2;SPQ=0.2,0;"
        "SPPQ=0.06,0;SPPPQ=0.02,0;IMP",
    ]


def test_records_are_written_as_they_are_read(tmp_path, monkeypatch):
    """No more than a block of them is held, however many there are."""
    monkeypatch.setattr(merging, "BLOCK_BYTES", 10_000)
    files = [save(tmp_path / f"{s[0]}.vcf.gz", s, *map(record, range(1, 3000))) for s in ("S T", "U V")]
    read, held = [], []

    class Reader(LineReader):
        def joined(self, sources):
            for each in super().joined(sources):
                read.append(each.pos)
                yield each

    class Writer(LineWriter):
        def write(self, lines, end):
            super().write(lines, end)
            held.append(len(read) - 2 * end)

    monkeypatch.setattr(merging, "LineReader", Reader)
    monkeypatch.setattr(merging, "LineWriter", Writer)
    merge(files, tmp_path / "out.vcf.gz")
    assert len(read) == 2 * len(read_rows(tmp_path / "out.vcf.gz")) == 2 * 2999
    assert len(held) > 50
    assert held == [0] * len(held)


ONE, TWO = ("S T", record(5), record(9)), ("U V", record(5), record(9))


def other(old: str, new: str) -> dict:
    assert old in HEAD
    return {"head": HEAD.replace(old, new)}


def refused_files():
    """name: samples and records of two files, options of the second's header, what the error tells."""
    flag = record(9, f"{SUMS};TYPED")
    yield "site", ONE, ("U V", record(5), record(8)), {}, ("20:9 A>C", "20:8 A>C", "same sites")
    yield "allele", ONE, ("U V", record(5), record(9, alt="G")), {}, ("20:9 A>C", "20:9 A>G")
    yield "shorter", ONE, ("U V", record(5)), {}, ("a.vcf has 20:9 A>C", "after the last record of", "b.vcf")
    yield "longer", ("S T",), TWO, {}, ("b.vcf has 20:5 A>C", "after the last record of", "a.vcf")
    yield "filter", ONE, ("U V", record(5), record(9).replace("PASS", "LOW")), {}, ("20:9 A>C: FILTER is PASS", "LOW")
    yield "typed", ONE, ("U V", record(5), flag), {}, ("20:9 A>C", "a.vcf", "b.vcf", "typed")
    yield "no flag", ONE, ("U V", record(5), record(9, SUMS)), {}, ("20:9 A>C", "a.vcf", "b.vcf")
    yield "other key", ONE, ("U V", record(5), record(9, f"{SUMS};IMP;VEP=b")), {}, ("20:9", "INFO VEP")
    for old, new in (
        ("NH=4;", ""),
        (";SPPPQ=0.05", ""),
        ("SPQ=0.2", "SPQ=1,2"),
        ("NH=4", "NH=."),
        ("SPPQ=0.1", "SPPQ=."),
    ):
        bad = record(9, f"{SUMS};IMP".replace(old, new))
        assert bad != record(9)
        yield f"sums {old} {new}", ONE, ("U V", record(5), bad), {}, ("b.vcf: 20:9 A>C", "NH, SP, SPQ, SPPQ or SPPPQ")
    yield "no sums", ONE, TWO, other("ID=SPQ", "ID=XX"), ("b.vcf", "INFO SPQ", "npimpute run")
    yield "no third sums", ONE, TWO, other("ID=SPPPQ", "ID=XX"), ("b.vcf", "INFO SPPPQ", "npimpute run")
    yield "format", ONE, TWO, other("ID=DS", "ID=GP"), ("FORMAT DS, GP", "a.vcf", "b.vcf")
    yield "keys", ONE, ("U V", record(5, keys="GT"), record(9)), {}, ("20:5 A>C: FORMAT is GT:DS", "GT in")
    yield "type", ONE, TWO, other("ID=AF,Number=A", "ID=AF,Number=1"), ("INFO AF", "A Float", "1 Float")
    yield "length", ONE, TWO, other("length=5000", "length=6000"), ("contig 20", "5000 bp", "6000 bp")
    yield "spelling", ONE, ("U V",), other("ID=20", "ID=chr20"), ("contig 20", "chr20", "one name")
    yield "no contig", ONE, ("U V", record(5, contig="9")), {}, ("b.vcf: 9:5", "##contig")
    yield "shared", ONE, ("T U", *TWO[1:]), {}, ("sample T", "a.vcf", "b.vcf")
    yield "order", ONE, ("T S", *TWO[1:]), {}, ("same samples in different orders",)
    yield "twice", ONE, ("U U", *TWO[1:]), {}, ("b.vcf", "sample U comes twice")
    yield "overlap", ONE, ("S T", record(7), record(11)), {}, ("a.vcf has 20:5-9", "b.vcf begins at 7", "twice")
    yield "touch", ("S T", record(9), record(12)), ("S T", record(5), record(9)), {}, ("b.vcf has 20:5-9", "a.vcf", "9")
    yield (
        "unsorted",
        ("S T", record(11)),
        ("S T", record(9), record(5)),
        {},
        ("b.vcf: 20:5 A>C is out of order",),
    )
    yield "columns", ONE, ("U V", record(5).replace("\n", "\t0|0:1\n")), {}, ("b.vcf", "20 5", "columns")
    yield "cut", ONE, ("U V", record(5), record(9)[:-1]), {}, ("b.vcf", "truncated")
    yield "position", ONE, ("U V", record(5).replace("5", "x", 1)), {}, ("b.vcf", "POS")


@pytest.mark.parametrize("case", list(refused_files()), ids=lambda case: case[0])
def test_files_that_do_not_fit_are_refused(tmp_path, case):
    _, a, b, options, told = case
    files = save(tmp_path / "a.vcf", *a), save(tmp_path / "b.vcf", *b, **options)
    with pytest.raises(InputError) as error:
        merge(list(files), tmp_path / "out.vcf.gz")
    assert "\n" not in str(error.value)
    for word in told:
        assert word in str(error.value), error.value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.vcf", "b.vcf"]


def test_regions_need_no_sums(tmp_path):
    """Files of other programs may be joined as regions."""
    a, b = (save(tmp_path / f"{name}.vcf", "S T", record(pos, "AF=0.5")) for name, pos in (("a", 7), ("b", 3)))
    merge([a, b], tmp_path / "out.vcf")
    assert [(row.pos, row.info) for row in read_rows(tmp_path / "out.vcf")] == [(3, {"AF": "0.5"}), (7, {"AF": "0.5"})]


def test_command(batches, merged, tmp_path):
    status, printed, log = run_cli("merge", "--out", tmp_path / "out.vcf.gz", "--threads", 2, *batches[".bcf"])
    assert (status, printed) == (0, "")
    assert "8 samples; files: 3, batches of samples: 3" in log
    assert same_files(tmp_path / "out.vcf.gz", merged)


def test_command_refuses(batches, tmp_path):
    a, b, c = batches[".vcf.gz"]
    kept = tmp_path / "kept.vcf.gz"
    kept.write_bytes(a.read_bytes())
    damaged = tmp_path / "damaged.vcf.gz"
    damaged.write_bytes(b.read_bytes()[:-40])
    middle = bytearray(b.read_bytes())
    middle[len(middle) // 2] ^= 255
    broken = tmp_path / "broken.vcf.gz"
    broken.write_bytes(middle)
    (tmp_path / "link.vcf.gz").symlink_to(kept)
    for told, words in {
        ("1 file given", "two or more"): ["--out", tmp_path / "out.bcf", a],
        ("0 files given",): ["--out", tmp_path / "out.bcf"],
        ("is given twice",): ["--out", tmp_path / "out.bcf", a, b, a],
        ("also an input", "kept.vcf.gz"): ["--out", kept, "--overwrite", kept, b],
        ("also an input", "link.vcf.gz"): ["--out", tmp_path / "link.vcf.gz", "--overwrite", kept, b],
        ("no such file", "gone.vcf.gz"): ["--out", tmp_path / "out.bcf", a, tmp_path / "gone.vcf.gz"],
        ("damaged.vcf.gz", "truncated"): ["--out", tmp_path / "out.bcf", a, damaged],
        ("broken.vcf.gz", "damaged"): ["--out", tmp_path / "out.bcf", a, broken],
        ("exists already", "--overwrite"): ["--out", kept, a, b],
        ("must end in",): ["--out", tmp_path / "out.txt", a, b],
        ("at least one thread",): ["--out", tmp_path / "out.bcf", "--threads", 0, a, b],
        ("--out",): [a, b],
    }.items():
        expect_refusal(tmp_path, ["merge", *words], *told)


def test_overwrite_replaces_the_file_and_its_index(batches, merged, tmp_path):
    out = tmp_path / "out.vcf.gz"
    out.write_text("old")
    Path(f"{out}.csi").write_text("old")
    merge(batches[".vcf.gz"], out, overwrite=True)
    assert same_files(out, merged)


@pytest.mark.parametrize(("length", "pos"), [(2**29 + 9, 5), (None, 2**29 + 1)])
def test_far_positions_get_a_csi_index(tmp_path, length, pos):
    head = HEAD.replace(",length=5000", f",length={length}" if length else "")
    files = [save(tmp_path / f"{s[0]}.vcf", s, record(4), record(pos), head=head) for s in ("S T", "U V")]
    merge(files, tmp_path / "out.vcf.gz")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.vcf.gz", "out.vcf.gz.csi"]
    assert [each.POS for each in cyvcf2.VCF(str(tmp_path / "out.vcf.gz"))(f"20:{pos}-{pos}")] == [pos]


@pytest.mark.parametrize("suffix", [".vcf.gz", ".bcf", ".vcf"])
@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_file_that_may_not_grow(batches, tmp_path, suffix, limit):
    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    status, _, log = run_forked("merge", "--out", tmp_path / f"out{suffix}", *batches[".vcf.gz"], before=before)
    assert status == 2, log
    assert log.splitlines()[-1].startswith(f"npimpute: error: {tmp_path / 'out'}{suffix}: ")
    assert contents(tmp_path) == {}


def test_batches_of_different_versions_are_warned_of(tmp_path, caplog):
    files = save(tmp_path / "a.vcf", *ONE), save(tmp_path / "b.vcf", *TWO, **other("npimpute 1", "npimpute 2"))
    merge(list(files), tmp_path / "out.vcf")
    assert "npimpute 1, ##source=npimpute 2" in caplog.text
    header = [line for line in text(tmp_path / "out.vcf").splitlines() if line.startswith("##")]
    assert header == [line for line in HEAD.splitlines() if "ID=ER2" not in line]


def test_another_kind_of_name_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="must end in"):
        merge([tmp_path / "no", tmp_path / "none"], tmp_path / "out.gz")


@needs("bcftools")
def test_bcftools_reads_it_and_files_that_it_rewrote_are_merged(batches, merged, tmp_path):
    """bcftools numbers the keys in the header of BCF and adds lines of its own."""
    files = []
    for i, path in enumerate(batches[".vcf.gz"]):
        files.append(tmp_path / f"{i}.bcf")
        bcftools("view", "-Ob", "-o", files[-1], path)
    merge(files, tmp_path / "out.bcf")
    shown = [bcftools("view", "--no-version", path) for path in (tmp_path / "out.bcf", merged)]
    lines = [[line for line in each.splitlines() if not line.startswith("##bcftools")] for each in shown]
    assert lines[0] == lines[1]
    merge(files, tmp_path / "out.vcf")
    made = [line for line in text(tmp_path / "out.vcf").splitlines() if not line.startswith("##bcftools")]
    assert sorted(made) == sorted(text(merged).splitlines())
    assert bcftools("index", "--stats", tmp_path / "out.bcf").split("\t")[2].strip() == str(len(read_rows(merged)))
