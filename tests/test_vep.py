"""Variants scored: what a score is, which rows have none and why, and that no row is lost."""

import csv
import gzip
import math
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from npimpute.errors import ConfigError, InputError
from npimpute.msa.alphabet import GAP, MASK, complement
from npimpute.msa.score import PSEUDO, ColumnFrequency, ModelScorer, constraint
from npimpute.msa.store import Alignment, write_alignment
from npimpute.msa.variants import Row, open_variants
from npimpute.msa.vep import VepConfig, allele_kind, run, score_rows, trimmed

START, LENGTH, SPECIES = 1000, 600, ("hg", "mm", "rn", "cf")
BASES = "ACGT"


@pytest.fixture(scope="module")
def msa(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "x.msa"
    codes = np.random.default_rng(1).integers(0, 4, (4, LENGTH)).astype(np.uint8)
    codes[1:][np.random.default_rng(2).random((3, LENGTH)) < 0.3] = GAP
    codes[0, 500] = GAP
    write_alignment(path, SPECIES, {"chr6": (START, codes), "chrX": (0, codes[:, :50])})
    return path


@pytest.fixture(scope="module")
def alignment(msa):
    return Alignment.open(msa)


def reference(alignment, pos, contig="chr6"):
    return BASES[alignment.window(contig, pos - 1, pos)[0, 0]]


def other(base, i=0):
    return [b for b in BASES if b != base][i]


class Fake(nn.Module):
    """Logits from all rows of the columns around, in no way symmetrical."""

    def __init__(self, rows=4, width=7):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, rows * 6, width, generator=torch.Generator().manual_seed(3)))

    def forward(self, tokens):
        x = F.one_hot(tokens, 6).float().permute(0, 1, 3, 2).flatten(1, 2)
        return F.conv1d(x, self.weight, padding="same").transpose(1, 2)


def scorer(alignment, length=16, batch=8, both=True, species=SPECIES):
    return ModelScorer(Fake(len(species)), species, length, alignment, batch, "cpu", both)


@pytest.mark.parametrize("length", [15, 16])
@pytest.mark.parametrize("both", [True, False])
def test_llr_is_that_of_a_plain_loop(alignment, length, both):
    ours, network = scorer(alignment, length, both=both), Fake()
    for pos in (1003, 1300, 1599):
        ref = reference(alignment, pos)
        window = alignment.window("chr6", pos - 1 - length // 2, pos - 1 - length // 2 + length).astype(np.int64)
        assert window[0, length // 2] == BASES.index(ref)
        window[0, length // 2] = MASK
        turned = complement(window[:, ::-1]).astype(np.int64)
        with torch.no_grad():
            forward = network(torch.tensor(window)[None])[0, length // 2].log_softmax(0)
            backward = network(torch.tensor(turned)[None])[0, length - 1 - length // 2].log_softmax(0)
        for alt in set(BASES) - {ref}:
            llr = (forward[BASES.index(alt)] - forward[BASES.index(ref)]).item()
            back = (backward[3 - BASES.index(alt)] - backward[3 - BASES.index(ref)]).item()
            row = Row("6", pos, ref, (alt,), "", [])
            (found,) = score_rows([row], alignment, ours)[0]
            assert found.status == "ok"
            assert found.llr == pytest.approx((llr + back) / 2 if both else llr, abs=1e-5)


def test_scores_do_not_depend_on_the_batch_or_on_other_rows(alignment):
    places = np.arange(1000, 1100)
    whole = scorer(alignment, batch=64).log_p("chr6", places)
    np.testing.assert_allclose(scorer(alignment, batch=7).log_p("chr6", places), whole, atol=1e-6)
    np.testing.assert_allclose(scorer(alignment).log_p("chr6", places[50:51]), whole[50:51], atol=1e-6)
    np.testing.assert_allclose(np.exp(whole).sum(axis=1), 1, atol=1e-9)


def test_the_base_that_is_scored_is_not_seen(tmp_path, alignment):
    codes = alignment.window("chr6", START, START + LENGTH)
    before = scorer(alignment).log_p("chr6", np.array([1300]))
    codes[0, 300] = (codes[0, 300] + 1) % 4
    write_alignment(tmp_path / "y.msa", SPECIES, {"chr6": (START, codes)})
    after = scorer(Alignment.open(tmp_path / "y.msa")).log_p("chr6", np.array([1300]))
    np.testing.assert_array_equal(before, after)


def test_rows_are_the_models_species(alignment):
    ours = scorer(alignment, species=("hg", "cf", "dog", "mm"), both=False)
    window = alignment.window("chr6", 1292, 1308).astype(np.int64)
    tokens = torch.tensor(np.stack([window[0], window[3], np.full(16, GAP), window[1]]))[None]
    tokens[0, 0, 8] = MASK
    with torch.no_grad():
        expected = Fake()(tokens)[0, 8, :4].log_softmax(0).numpy()
    np.testing.assert_allclose(ours.log_p("chr6", np.array([1300]))[0], expected, atol=1e-5)


def test_column_frequency(alignment):
    found = ColumnFrequency(alignment).log_p("6", np.array([1300, 2000]))
    column = alignment.window("6", 1300, 1301)[1:, 0]
    counts = np.array([(column == code).sum() for code in range(4)]) + PSEUDO
    np.testing.assert_allclose(found[0], np.log(counts / counts.sum()))
    np.testing.assert_allclose(found[1], math.log(0.25))


def test_constraint_is_the_mean_of_the_three_scores():
    log_p = np.log(np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]]))
    plain = [np.mean([row[b] - row[a] for a in range(4) if a != b]) for row, b in zip(log_p, (0, 2), strict=True)]
    np.testing.assert_allclose(constraint(log_p, np.array([0, 2])), plain)


KINDS = {
    ("A", "G"): "",
    ("AT", "GT"): "",
    ("CAT", "CGT"): "",
    ("A", "AT"): "indel",
    ("AT", "A"): "indel",
    ("AT", "GC"): "mnv",
    ("A", "*"): "symbolic_allele",
    ("A", "<DEL>"): "symbolic_allele",
    ("A", "A[6:1["): "symbolic_allele",
    ("A", "A"): "alt_is_ref",
    ("A", "N"): "bad_allele",
    ("", "A"): "bad_allele",
    ("A", "?"): "bad_allele",
}


@pytest.mark.parametrize("alleles", KINDS, ids="-".join)
def test_what_alleles_are(alleles):
    assert allele_kind(*alleles) == KINDS[alleles]


def test_bases_that_both_alleles_share_are_trimmed(alignment):
    assert trimmed("CAT", "CGT") == ("A", "G", 1) and trimmed("AA", "AC") == ("A", "C", 1)
    for pos in range(1200, 1210):
        ref = "".join(BASES[c] for c in alignment.window("6", pos - 1, pos + 2)[0])
        long = ref[0] + other(ref[1]) + ref[2]
        rows = [Row("6", pos, ref, (long,), "", []), Row("6", pos + 1, ref[1], (other(ref[1]),), "", [])]
        (one,), (two,) = score_rows(rows, alignment, scorer(alignment))
        assert one == two and one.status == "ok"


def table(alignment):
    """(chrom, pos, ref, alt, status) of one row for every status of a table, and good ones."""
    ref = reference(alignment, 1100)
    rows = [
        ("6", str(pos), reference(alignment, pos), other(reference(alignment, pos), pos % 3), "ok")
        for pos in range(1001, 1021)
    ]
    rows += [
        ("chr6", "1100", other(ref), ref, "reference_mismatch"),
        ("6", "999", "A", "C", "outside_alignment"),
        ("6", "1601", "A", "C", "outside_alignment"),
        ("6", "1501", "A", "C", "reference_n"),
        ("7", "1100", "A", "C", "unknown_contig"),
        ("6", "x", "A", "C", "bad_position"),
        ("6", "-5", "A", "C", "bad_position"),
        ("6", "99999999999", "A", "C", "bad_position"),
        ("6", "1100", ref, ".", "no_alt"),
        ("6", "1100", ref, "", "no_alt"),
        ("6", "1100", ref, ref + "A", "indel"),
        ("6", "1100", ref, ref, "alt_is_ref"),
        ("6", "1100", ref.lower(), other(ref).lower(), "ok"),
        ("x", "10", reference(alignment, 10, "chrX"), other(reference(alignment, 10, "chrX")), "ok"),
    ]
    return rows


def write_table(path, rows, names=("#Chromosome", "Position (hg19)", "REF", "ref_alt", "alternate")):
    """Of text, parquet or XLSX; between ref and alt is another column."""
    names = (names[0], names[1], "reference", "note", "alt_allele")
    cells = [(c, p, r, "a note", a) for c, p, r, a, *_ in rows]
    if path.name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet

        columns = dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))
        pyarrow.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for row in [("a title",), (), names, *cells]:
            book.active.append(row)
        book.save(path)
    else:
        separator = "," if ".csv" in path.name else "\t"
        text = "\n".join(separator.join(row) for row in [names, *cells]) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read_text(path):
    separator = "," if ".csv" in path.name else "\t"
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return list(csv.DictReader(file, delimiter=separator))


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz", "x.csv", "x.csv.gz", "x.parquet", "x.xlsx"])
def test_tables_of_any_kind_have_the_same_rows_scores_and_statuses(tmp_path, msa, alignment, name):
    rows = table(alignment)
    if ".csv" not in name and ".tsv" not in name:
        pytest.importorskip("pyarrow" if name.endswith("parquet") else "openpyxl")
    source = write_table(tmp_path / name, rows)
    header = {"header_row": 3} if name.endswith("xlsx") else {}
    for out in ("out.tsv", "out.csv.gz"):
        counts = run(VepConfig("column-frequency", msa, source, tmp_path / out, **header))
        found = read_text(tmp_path / out)
        assert [row["status"] for row in found] == [row[4] for row in rows]
        assert counts["ok"] == sum(row[4] == "ok" for row in rows)
        blank = {"": "", None: ""}
        assert [row["alt_allele"] for row in found] == [blank.get(row[3], row[3]) for row in rows]
        for row, (_, pos, ref, alt, status) in zip(found, rows, strict=True):
            if status != "ok":
                assert row["llr"] == row["score"] == "NA"
                continue
            contig = row["#Chromosome"]
            log_p = ColumnFrequency(alignment).log_p(contig, np.array([int(pos) - 1]))[0]
            llr = log_p[BASES.index(alt.upper())] - log_p[BASES.index(ref.upper())]
            assert float(row["llr"]) == pytest.approx(llr, rel=1e-5) and float(row["score"]) == -float(row["llr"])


def test_parquet_keeps_its_columns(tmp_path, msa, alignment):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    ref = reference(alignment, 1100)
    given = pa.table(
        {
            "chr": ["6", None],
            "pos": pa.array([1100, None], pa.int32()),
            "ref": [ref, "A"],
            "alt": [other(ref), "C"],
            "af": pa.array([0.5, None], pa.float32()),
        }
    )
    parquet.write_table(given, tmp_path / "x.parquet")
    run(VepConfig("column-frequency", msa, tmp_path / "x.parquet", tmp_path / "out.parquet", prefix="m_"))
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.select(given.column_names).equals(given)
    assert found["m_status"].to_pylist() == ["ok", "bad_position"]
    assert found["m_llr"].to_pylist()[1] is None and found["m_llr"].type == pa.float64()


def test_rows_with_too_few_or_too_many_cells_and_open_quotes_stay(tmp_path, msa, alignment):
    ref = reference(alignment, 1100)
    good = ["6", "1100", ref, other(ref)]
    (tmp_path / "x.tsv").write_text(
        "\n".join(
            ["chrom\tpos\tref\talt", "\t".join(good), "6\t1100", "", "\t".join([*good, "more", "yet"]), "\t".join(good)]
        )
        + "\n\n\n"
    )
    run(VepConfig("column-frequency", msa, tmp_path / "x.tsv", tmp_path / "out.tsv"))
    lines = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert [line[-1] for line in lines[1:]] == ["ok", "malformed_row", "malformed_row", "malformed_row", "ok"]
    assert {len(line) for line in lines} == {7}
    text = [
        "chrom,pos,ref,alt,note",
        ",".join(good) + ',"two\nlines, quoted"',
        ",".join(good) + ',"open',
        *[",".join(good) + ",n"] * 30,
    ]
    (tmp_path / "x.csv").write_text("\n".join(text) + "\n")
    run(VepConfig("column-frequency", msa, tmp_path / "x.csv", tmp_path / "out.csv"))
    found = read_text(tmp_path / "out.csv")
    assert [row["status"] for row in found] == ["ok", "malformed_row", *["ok"] * 30]
    assert found[0]["note"] == "two\nlines, quoted"


HEADER = '##fileformat=VCFv4.2\n##contig=<ID=chr6,length=1700>\n##INFO=<ID=AF,Number=A,Type=Float,Description="f">\n'
NAMES = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
BROKEN = [
    "chr6\tx\t.\tA\tC\t.\t.\t.",
    "chr6\t-1\t.\tA\tC\t.\t.\t.",
    "chr6",
    "",
    "chr6\t1100\t.\tA",
    "chr6\t1100\t.\tA B\tC\t.\t.\t.",
    "chr6\t1100\t.\t\tC\t.\t.\t.",
    "chr6\t1100\t.\tA\t\t.\t.\t.",
    "chr6\t1100\t.\tA\tC\thigh\t.\t.",
    "chr6\t1100\t.\tA\tC\t.\t.\t.\tGT\t0/1",
    "\t1100\t.\tA\tC\t.\t.\t.",
    "chr 6\t1100\t.\tA\tC\t.\t.\t.",
    "chr6\t1100\t.\t?\tC\t.\t.\t.",
    "chr6\t1100\t.\tA\tC,\t.\t.\t.",
    "chr6 1100 . A C . . .",
    "chr6\t3000000000\t.\tA\tC\t.\t.\t.",
    "chr6\t1e3\t.\tA\tC\t.\t.\t.",
    "garbage \x01 line",
    "chr6\t0\t.\tA\tC\t.\t.\t.",
    "chr6\t1100\t.\tA\tC\t.\t.\ta b",
]


def broken_vcf(path, alignment):
    """1,000 rows, of which 20 are broken, in every fiftieth place."""
    lines = []
    for i in range(980):
        pos = 1001 + i // 2
        ref = reference(alignment, pos)
        lines.append(f"chr6\t{pos}\trs{i}\t{ref}\t{other(ref, i % 2)}\t.\tPASS\tAF=0.5")
    for i, line in enumerate(BROKEN):
        lines.insert(50 * i + 7, line)
    path.write_text(f"{HEADER}{NAMES}\n" + "\n".join(lines) + "\n", newline="\n")
    return lines


def test_a_vcf_with_broken_rows_loses_none(tmp_path, msa, alignment, caplog):
    lines = broken_vcf(tmp_path / "x.vcf", alignment)
    broken = set(range(7, 1000, 50))
    for name in ("out.tsv", "out.csv", "out.vcf", "out.vcf.gz", "out.bcf", "out.parquet"):
        if name == "out.parquet":
            pytest.importorskip("pyarrow")
        counts = run(VepConfig("column-frequency", msa, tmp_path / "x.vcf", tmp_path / name))
        assert sum(counts.values()) == 1001 and counts["ok"] == 980  # one of the broken rows has two ALT
    found = (tmp_path / "out.tsv").read_text().splitlines()
    assert len(found) == 1001
    for i, (line, row) in enumerate(zip(lines, found[1:], strict=True)):
        assert row.split("\t")[10].startswith("ok") == (i not in broken)
        if i not in broken:
            assert row.startswith(line)
    assert "are no VCF" in caplog.text


@pytest.mark.parametrize("name", ["out.vcf", "out.vcf.gz", "out.bcf"])
def test_a_broken_vcf_becomes_one_that_tools_read(tmp_path, msa, alignment, name):
    import pysam

    lines = broken_vcf(tmp_path / "x.vcf", alignment)
    run(VepConfig("column-frequency", msa, tmp_path / "x.vcf", tmp_path / name, prefix="m_"))
    run(VepConfig("column-frequency", msa, tmp_path / "x.vcf", tmp_path / "out.tsv"))
    table = read_text(tmp_path / "out.tsv")
    pysam.set_verbosity(0)
    with pysam.VariantFile(str(tmp_path / name)) as file:
        records = list(file)
    assert len(records) == 1000
    for line, record, row in zip(lines, records, table, strict=True):
        if row["status"] == "ok":
            assert record.id == row["ID"] and record.pos == int(row["POS"]) and record.info["AF"] == (0.5,)
            assert record.info["m_llr"][0] == pytest.approx(float(row["llr"]), rel=1e-5)
            assert record.info["m_score"][0] == -record.info["m_llr"][0]
        else:
            assert ("m_record=" in str(record)) == (not line.startswith("chr6\t0\t"))
        if row["status"] == "malformed_row":
            assert unquote(str(record).partition("m_record=")[2].rstrip()) == (line or ".")
        assert f"m_status={row['status']}" in str(record).rstrip().split("\t")[7].split(";")


def test_vcf_records_with_several_alt_and_samples(tmp_path, msa, alignment):
    import pysam

    ref = reference(alignment, 1100)
    alts = [other(ref, 0), ref + "A", other(ref, 2), "*"]
    line = f"6\t1100\t.\t{ref}\t{','.join(alts)}\t30\tPASS\t.\tGT:DP\t0/1:7\t2|3:9"
    formats = "".join(
        f'##FORMAT=<ID={n},Number=1,Type={t},Description="d">\n' for n, t in (("GT", "String"), ("DP", "Integer"))
    )
    text = f"##fileformat=VCFv4.2\n##contig=<ID=6>\n{formats}{NAMES}\tFORMAT\ta\tb\n{line}\n"
    with pysam.BGZFile(str(tmp_path / "x.vcf.gz"), "w") as file:
        file.write(text.encode())
    for given, out in (("x.vcf.gz", "y.bcf"), ("y.bcf", "z.vcf.gz")):
        run(VepConfig("column-frequency", msa, tmp_path / given, tmp_path / out, prefix=out[0]))
        with pysam.VariantFile(str(tmp_path / out)) as file:
            (record,) = file.fetch("6", 1099, 1100)  # through its index
        assert record.info[f"{out[0]}status"] == ("ok", "indel", "ok", "symbolic_allele")
        llr = record.info[f"{out[0]}llr"]
        assert llr[1] is None and llr[3] is None and llr[0] is not None and llr[2] is not None
        assert record.samples["b"].allele_indices == (2, 3) and record.samples["b"].phased
        assert record.samples["a"]["DP"] == 7
    assert record.info["ystatus"] == record.info["zstatus"]


def test_sorted_tsv_is_indexed(tmp_path, msa, alignment):
    import pysam

    rows = [row for row in table(alignment) if row[4] == "ok"][:20]
    text = write_table(tmp_path / "x.tsv", rows).read_text()
    for name, head in (("with", text), ("without", text.removeprefix("#"))):
        (tmp_path / "x.tsv").write_text(head)
        run(VepConfig("column-frequency", msa, tmp_path / "x.tsv", tmp_path / f"{name}.tsv.gz"))
        with pysam.TabixFile(str(tmp_path / f"{name}.tsv.gz")) as file:
            (line,) = file.fetch("6", 1004, 1005)
            assert line.split("\t")[1] == "1005" and file.contigs == ["6"]
    run(VepConfig("column-frequency", msa, tmp_path / "x.tsv", tmp_path / "out.tsv.gz"))
    write_table(tmp_path / "y.tsv", rows[::-1])
    run(VepConfig("column-frequency", msa, tmp_path / "y.tsv", tmp_path / "out.tsv.gz", overwrite=True))
    assert not (tmp_path / "out.tsv.gz.tbi").exists() and len(read_text(tmp_path / "out.tsv.gz")) == 20


def test_a_vcf_without_header_is_read_by_its_columns(tmp_path, msa, alignment):
    ref = reference(alignment, 1100)
    (tmp_path / "x.vcf").write_text(f"6\t1100\tname\t{ref}\t{other(ref)}\n")
    run(VepConfig("column-frequency", msa, tmp_path / "x.vcf", tmp_path / "out.vcf"))
    text = (tmp_path / "out.vcf").read_text().splitlines()
    assert text[0] == "##fileformat=VCFv4.2" and text[-1].split("\t")[:7] == [
        "6",
        "1100",
        "name",
        ref,
        other(ref),
        ".",
        ".",
    ]
    assert list(open_variants(tmp_path / "out.vcf").rows)[0].fields[7].startswith("llr=")


def test_mistakes_are_told_and_leave_nothing(tmp_path, msa):
    (tmp_path / "x.tsv").write_text("chrom\tpos\tref\n6\t1\tA\n")
    (tmp_path / "y.tsv").write_text("chrom\tpos\tref\talt\tllr\n6\t1\tA\tC\t0\n")
    (tmp_path / "x.bed").write_text("6\t1\n")
    whole = gzip.compress(f"{HEADER}{NAMES}\n".encode() + b"chr6\t1100\t.\tA\tC\t.\t.\t.\n" * 4000)
    (tmp_path / "z.vcf.gz").write_bytes(whole[:-20])
    before = sorted(tmp_path.iterdir())
    for name, out, error, text in [
        ("x.tsv", "o.tsv", InputError, "no column alt; name columns chrom, pos, ref, alt"),
        ("y.tsv", "o.tsv", ConfigError, "has llr already; name the new columns otherwise with --prefix"),
        ("x.bed", "o.tsv", InputError, "what it is must show in its name"),
        ("z.vcf.gz", "o.vcf.gz", InputError, "damaged or end early"),
        ("none.vcf", "o.vcf", InputError, "no such file"),
        ("z.vcf.gz", "o.txt", ConfigError, "the name must end in one of"),
        ("y.tsv", "y.tsv", ConfigError, "named twice"),
    ]:
        with pytest.raises(error, match=text):
            run(VepConfig("column-frequency", msa, tmp_path / name, tmp_path / out))
    assert sorted(tmp_path.iterdir()) == before


def test_the_command(tmp_path, msa, alignment):
    def vep(*words):
        words = [sys.executable, "-m", "npimpute", "vep", "--msa", str(msa), *words]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)

    write_table(tmp_path / "x.tsv", table(alignment))
    done = vep("--model", "column-frequency", "--variants", "x.tsv", "--out", "o.tsv")
    assert done.returncode == 0 and "ok\t22" in done.stderr and len(read_text(tmp_path / "o.tsv")) == 34
    failed = vep("--model", "no-such-model", "--variants", "x.tsv", "--out", "p.tsv")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "no-such-model" in failed.stderr
    assert not (tmp_path / "p.tsv").exists()
