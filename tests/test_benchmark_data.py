"""What a comparison is made of: genotypes of any file, array sites, the files programs get, and the truth."""

import gzip
import logging
from collections import Counter
from dataclasses import replace

import numpy as np
import pysam
import pytest
from conftest import Record, Vcf, alt_counts, bcftools, needs, read_rows, simulate, write_map

from npimpute.benchmark import genotypes
from npimpute.benchmark.arrays import PanelRows, read_array, thinned
from npimpute.benchmark.dataset import Cast, make_dataset
from npimpute.benchmark.files import populations_of, read_populations, write_maps
from npimpute.benchmark.genotypes import GenotypeFile, is_snp, keys_of
from npimpute.errors import InputError
from npimpute.panel.genetic_map import read_genetic_map
from npimpute.panel.panel import compile_panel, open_panel
from npimpute.types import Sites
from npimpute.vcf.phased import write_phased
from npimpute.vcf.region import Region

FIELDS = {"GT": "1,Type=String", "DS": "A,Type=Float", "GP": "G,Type=Float", "HDS": ".,Type=Float"}
FIELDS |= {"AP1": "A,Type=Float", "AP2": "A,Type=Float", "XX": "1,Type=Float"}
HEADER = "##fileformat=VCFv4.2\n##contig=<ID=20>\n##contig=<ID=chr20>\n" + "".join(
    [f'##FORMAT=<ID={name},Number={kind},Description="">\n' for name, kind in FIELDS.items()]
    + [f'##INFO=<ID={name},Number=A,Type=Float,Description="">\n' for name in ("DR2", "INFO")]
    + ['##INFO=<ID=R2,Number=1,Type=Float,Description="">\n']
)
FIXED = "#CHROM POS ID REF ALT QUAL FILTER INFO"
NAN = [np.nan] * 3


def vcf(path, samples: str, *records: str):
    """A file of ``records``, written as in VCF with blanks for tabs."""
    columns = f"{FIXED} FORMAT {samples}" if samples else FIXED
    path.write_text(HEADER + "".join("\t".join(line.split()) + "\n" for line in (columns, *records)))
    return path


def imputed(path, *samples: str, wanted: dict | None = None) -> dict[tuple, tuple]:
    """(position, REF, ALT) -> dosage, call, gp, quality of the file's rows, all of them unless told."""
    wanted = {key: i + 7 for i, key in enumerate(keys_of(path))} if wanted is None else wanted
    names = {row: key for key, row in wanted.items()}
    out = {}
    for part in GenotypeFile(path).imputed(samples, wanted):
        assert (part.dosage.dtype, part.call.dtype, part.gp.dtype) == (np.float32, np.int8, np.float32)
        for i, row in enumerate(part.rows.tolist()):
            out[names[row][1:]] = (part.dosage[i], part.call[i], part.gp[i], part.quality[i])
    return out


def values(path, *samples: str) -> tuple:
    """Dosage, call and gp of the only row."""
    (found,) = imputed(path, *samples).values()
    return found[:3]


CASES = [
    ("GT:DS:GP:HDS", "0|1:1.25:0.1,0.2,0.7:0,0", 1.25, 1, (0.1, 0.2, 0.7)),
    ("GT:GP:HDS", "0|1:0.1,0.2,0.7:0,0", 1.6, 1, (0.1, 0.2, 0.7)),
    ("GP", "0.1,0.2,0.7", 1.6, 2, (0.1, 0.2, 0.7)),
    ("DS:GP", "0.2:0.1,0.2,0.7", 0.2, 2, (0.1, 0.2, 0.7)),
    ("DS", "1.25", 1.25, 1, NAN),
    ("DS", "1.75", 1.75, 2, NAN),
    ("DS", "0.4", 0.4, 0, NAN),
    ("HDS", "0.5,0.9", 1.4, 1, (0.05, 0.5, 0.45)),
    ("AP1:AP2", "0.5:0.9", 1.4, 1, (0.05, 0.5, 0.45)),
    ("GT:HDS", "1|1:0.5,0.9", 1.4, 2, (0.05, 0.5, 0.45)),
    ("DS:HDS", "0.3:0.5,0.9", 0.3, 1, (0.05, 0.5, 0.45)),
    ("GT", "0|1", 1, 1, NAN),
    ("GT", "1/1", 2, 2, NAN),
    ("GT", "0|0", 0, 0, NAN),
    ("GT", "1", 2, 2, NAN),
    ("GT", "0", 0, 0, NAN),
    ("GT", ".", np.nan, -1, NAN),
    ("GT", ".|1", np.nan, -1, NAN),
    ("GT:DS", "./.:0.7", 0.7, -1, NAN),
    ("GT:DS", "0|1:.", np.nan, 1, NAN),
    ("DS", ".", np.nan, -1, NAN),
    ("GT:DS", "1:0.8", 1.6, 2, NAN),
    ("GT:DS:GP", "1:0.8:0.1,0.9", 1.6, 2, (0.1, 0, 0.9)),
    ("GT:GP", "1:0.2,0.8", 1.6, 2, (0.2, 0, 0.8)),
    ("GT:HDS", "0:0.3", 0.6, 0, (0.7, 0, 0.3)),
    ("GT:AP1:AP2", "0:0.3:.", 0.6, 0, (0.7, 0, 0.3)),
]


@pytest.mark.parametrize(("fields", "call", "dosage", "best", "gp"), CASES, ids=lambda v: str(v))
def test_dosage_call_and_probabilities_follow_from_the_fields_there_are(tmp_path, fields, call, dosage, best, gp):
    path = vcf(tmp_path / "a.vcf", "S", f"20 10 . A C . . . {fields} {call}")
    found = values(path, "S")
    assert found[0] == pytest.approx([dosage], nan_ok=True)
    assert found[1].tolist() == [best]
    assert found[2] == pytest.approx(np.array([gp]), nan_ok=True)


@pytest.mark.parametrize(("fields", "call"), [("XX", "1"), ("HDS", "0.3"), ("AP1", "0.3")])
def test_a_record_without_a_field_that_tells_the_dosage_is_named(tmp_path, fields, call):
    path = vcf(tmp_path / "a.vcf", "S", "20 9 . A C . . . DS 1", f"20 10 . A C . . . {fields} {call}")
    with pytest.raises(InputError, match=r"a\.vcf: 20:10: no DS, GP"):
        imputed(path, "S")


@pytest.mark.parametrize("call", ["0.2,0.8", "."])
def test_a_record_of_unusable_probabilities_alone_is_named(tmp_path, call):
    path = vcf(tmp_path / "a.vcf", "S", f"20 10 . A C . . . GP {call}")
    with pytest.raises(InputError, match="20:10"):
        imputed(path, "S")


def test_a_record_with_too_few_dosages_is_named(tmp_path):
    path = vcf(tmp_path / "a.vcf", "S", "20 10 . A C,G . . . DS 1.2")
    with pytest.raises(InputError, match="20:10"):
        imputed(path, "S")


def test_who_has_no_probabilities_is_called_by_the_dosage(tmp_path):
    path = vcf(tmp_path / "a.vcf", "S T", "20 10 . A C . . . DS:GP 1.9:. 0:1,0,0")
    assert values(path, "S", "T")[1].tolist() == [2, 0]


def test_the_samples_asked_for_come_in_that_order(tmp_path):
    path = vcf(tmp_path / "a.vcf", "A B C", "20 10 . A C . . . GT:DS:GP 0|0:0.1:1,0,0 0|1:0.2:0,1,0 1|1:0.3:0,0,1")
    dosage, call, gp = values(path, "C", "A")
    assert dosage.tolist() == np.float32([0.3, 0.1]).tolist()
    assert call.tolist() == [2, 0] and gp.tolist() == [[0, 0, 1], [1, 0, 0]]
    ((_, copies, codes, _),) = GenotypeFile(path).copies(("C", "B"))
    assert copies.tolist() == [2, 1] and codes.tolist() == [[1, 1, 1], [0, 1, 1]]


def test_samples_that_a_file_lacks_are_named(tmp_path):
    path = vcf(tmp_path / "a.vcf", "A B", "20 10 . A C . . . GT 0|0 0|1")
    with pytest.raises(InputError, match=r"a\.vcf: lacks 4 of 5 samples \(Q, R, S \.\.\.\)"):
        imputed(path, "A", "Q", "R", "S", "T")
    with pytest.raises(InputError, match=r"lacks 1 of 1 samples \(Z\)"):
        list(GenotypeFile(path).copies(("Z",)))


def test_joined_and_split_multi_allelic_records_give_the_same_rows(tmp_path):
    """C and G: GP in the order 00 01 11 02 12 22, HDS all of one haplotype first."""
    joined = vcf(
        tmp_path / "joined.vcf",
        "S T",
        "20 10 . A C,G . . DR2=0.5,0.75 GT:DS:GP 1|2:0.9,1.2:0.1,0.05,0.2,0.3,0.15,0.2 0|2:0,1:0,0,0,1,0,0",
        "20 20 . A C,G . . DR2=0.5,0.75 HDS 0.1,0.5,0.2,0.25 0,1,1,0",
        "20 30 . A C,G . . DR2=0.5,0.75 AP1:AP2 0.1,0.5:0.2,0.25 0,1:1,0",
        "20 40 . A C,G . . DR2=0.5,0.75 GT 2|1 2|2",
        "20 50 . A C,G . . DR2=0.5,0.75 GP 0.1,0.05,0.2,0.3,0.15,0.2 0,0,0,0,0,1",
    )
    split = vcf(
        tmp_path / "split.vcf",
        "S T",
        "20 10 . A C . . DR2=0.5 GT:DS:GP 1|0:0.9:0.6,0.2,0.2 0|0:0:1,0,0",
        "20 10 . A G . . DR2=0.75 GT:DS:GP 0|1:1.2:0.35,0.45,0.2 0|1:1:0,1,0",
        "chr20 20 . a g . . DR2=0.75 HDS 0.5,0.25 1,0",
        "20 20 . A C . . DR2=0.5 HDS 0.1,0.2 0,1",
        "20 30 . A C . . DR2=0.5 AP1:AP2 0.1:0.2 0:1",
        "20 30 . A G . . DR2=0.75 AP1:AP2 0.5:0.25 1:0",
        "20 40 . A C . . DR2=0.5 GT 0|1 0|0",
        "20 40 . A G . . DR2=0.75 GT 1|0 1|1",
        "20 50 . A C . . DR2=0.5 GP 0.6,0.2,0.2 1,0,0",
        "20 50 . A G . . DR2=0.75 GP 0.35,0.45,0.2 0,0,1",
    )
    a, b = (imputed(path, "T", "S") for path in (joined, split))
    assert a.keys() == b.keys() == {(pos, "A", alt) for pos in (10, 20, 30, 40, 50) for alt in "CG"}
    for key in a:
        for x, y in zip(a[key], b[key], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, err_msg=str(key))


def test_true_copies_come_with_alleles_phase_and_name(tmp_path):
    path = vcf(
        tmp_path / "a.vcf",
        "S T U V",
        "chr20 10 rs1 a c,g . . . GT 0|1 2/1 1 .|2",
        "20 20 . AT A . . . GT 1/1 0/1 . 0|0",
    )
    found = list(GenotypeFile(path).copies(("S", "T", "U", "V")))
    assert [(key, copies.tolist(), name) for key, copies, _, name in found] == [
        (("20", 10, "A", "C"), [1, 1, 2, -1], "rs1"),
        (("20", 10, "A", "G"), [0, 1, 0, -1], "rs1"),
        (("20", 20, "AT", "A"), [2, 1, -1, 0], "."),
    ]
    codes = [codes for _, _, codes, _ in found]
    assert codes[0].tolist()[:2] == [[0, 1, 1], [2, 1, 0]] and codes[0][3, :2].tolist() == [-1, 2]
    assert codes[0][2, :2].tolist() == [1, -2] and codes[1] is None
    assert codes[2].tolist()[1] == [0, 1, 0]


def test_records_without_genotypes_or_with_three_alleles_a_person_are_named(tmp_path):
    path = vcf(tmp_path / "a.vcf", "S", "20 10 . A C . . . DS 1")
    with pytest.raises(InputError, match="20:10: the record cannot be read .*get genotypes"):
        list(GenotypeFile(path).copies(("S",)))
    path = vcf(tmp_path / "a.vcf", "S", "20 10 . A C . . . GT 0|1|1")
    for read in (lambda: list(GenotypeFile(path).copies(("S",))), lambda: imputed(path, "S")):
        with pytest.raises(InputError, match="20:10: more than two alleles"):
            read()


def test_a_row_that_comes_twice_is_named_if_it_is_wanted(tmp_path):
    path = vcf(
        tmp_path / "a.vcf",
        "S",
        "20 10 . A C . . . GT 0|1",
        "20 20 . A C,G . . . GT 0|1",
        "20 20 . A T . . . GT 0|1",
        "20 20 . A G . . . GT 0|1",
    )
    with pytest.raises(InputError, match=r"a\.vcf: 20:20 A>G comes twice; remove"):
        imputed(path, "S")
    wanted = {("20", 20, "A", "T"): 3, ("20", 20, "A", "C"): 0, ("20", 99, "A", "C"): 1}
    assert imputed(path, "S", wanted=wanted).keys() == {(20, "A", "C"), (20, "A", "T")}


@pytest.mark.parametrize(
    ("info", "expected"),
    [("DR2=0.5;R2=0.6;INFO=0.7", 0.5), ("R2=0.6;INFO=0.7", 0.6), ("INFO=0.75", 0.75), (".", np.nan), ("DR2=.", np.nan)],
)
def test_the_program_s_own_quality_is_the_first_that_there_is(tmp_path, info, expected):
    path = vcf(tmp_path / "a.vcf", "S", f"20 10 . A C . . {info} GT 0|1")
    (found,) = imputed(path, "S").values()
    assert found[3] == pytest.approx(expected, nan_ok=True)


def test_rows_come_in_file_order_whatever_the_batch(tmp_path, monkeypatch):
    path = vcf(tmp_path / "a.vcf", "S T", *(f"20 {i} . A C,G . . . DS {i / 9},{i / 7} 0,0.5" for i in range(1, 10)))
    wanted = {key: 50 - i for i, key in enumerate(keys_of(path))}
    parts = [list(GenotypeFile(path).imputed(("S", "T"), wanted))]
    monkeypatch.setattr(genotypes, "BATCH", 8)
    parts.append(list(GenotypeFile(path).imputed(("S", "T"), wanted)))
    assert [len(part) for part in parts] == [1, 3]
    for name in ("rows", "dosage", "call", "gp", "quality"):
        whole, pieces = (np.concatenate([getattr(p, name) for p in part]) for part in parts)
        np.testing.assert_array_equal(whole, pieces)
    assert parts[0][0].rows.tolist() == list(range(50, 32, -1))


def test_files_that_are_none_or_damaged_are_refused(tmp_path):
    for name, content in (
        ("none.vcf", None),
        ("empty.vcf", b""),
        ("text.vcf", b"hello\n"),
        ("x.vcf.gz", b"\x1f\x8b12"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            GenotypeFile(tmp_path / name)
        with pytest.raises(InputError, match=name):
            list(keys_of(tmp_path / name))
    path = vcf(tmp_path / "cut.vcf", "S", "20 10 . A C . . . GT 0|1", "20 ten . A C . . . GT 0|1")
    with pytest.raises(InputError, match=r"cut\.vcf: cannot be read past 20:10"):
        imputed(path, "S", wanted={})


@pytest.mark.parametrize(
    ("key", "snp"),
    [(("A", "C"), True), (("AT", "CG"), False), (("A", "AT"), False), (("A", "*"), False), (("N", "A"), False)],
)
def test_a_snp_is_a_base_for_a_base(key, snp):
    assert is_snp(("20", 10, *key)) is snp


# Array sites. The panel: SNPs at 10, 20, 25 and 40, an indel at 30, three alleles at 50, a split pair at 60.
KEYS = [("20", pos, ref, alt) for pos, ref, alt in (
    (10, "A", "C"), (20, "G", "T"), (25, "A", "C"), (30, "AT", "A"), (40, "C", "T"), (50, "A", "C"), (50, "A", "G"),
    (60, "A", "C"), (60, "A", "G"), (70, "A", "*"),
)]  # fmt: skip
ALONE = np.array([key[1] != 50 for key in KEYS])
ROWS = PanelRows(KEYS, ALONE, np.full(len(KEYS), 30), 100, {"20": "chr20"})


def typed(tmp_path, name: str, content: str | bytes, packed: bool = False) -> list[int]:
    """Positions of the rows that the array in the file has."""
    path = tmp_path / (name + ".gz" if packed else name)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if packed else content)
    return [KEYS[i][1:] for i in read_array(path)(ROWS)]


SITES = "20 10\nchr20 30\n20 40\n20 50\n20 60\n20 70\n21 25\n20 45\n"
AT_SITES = [(10, "A", "C"), (40, "C", "T"), (60, "A", "C"), (60, "A", "G")]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        SITES,
        "chrom pos\n" + SITES,
        "# made by me\n\n" + SITES,
        "#CHROM\tPOS\n" + SITES.replace(" ", "\t"),
        SITES.replace("\n", " A C x\r\n"),
        SITES.replace("20 10\n", "20 40\n20 10\n"),
    ],
)
def test_a_table_of_positions_types_the_panel_s_biallelic_snps_there(tmp_path, text, packed):
    assert typed(tmp_path, "sites.txt", text, packed) == AT_SITES


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("head", ["", "track name=array\n", "# made by me\n"])
def test_intervals_of_a_bed_file_count_from_zero(tmp_path, head, packed):
    text = head + "chr20 9 10 x\n20\t19\t25\n20\t40\t41\n21 0 100\n"
    assert typed(tmp_path, "sites.bed", text, packed) == [(10, "A", "C"), (20, "G", "T"), (25, "A", "C")]


@pytest.mark.parametrize("packed", [False, True])
def test_a_bim_file_types_the_snps_with_its_alleles_in_any_order(tmp_path, packed):
    lines = ["20 rs1 0 10 C A", "chr20 rs2 0.1 20 G T", "20 rs3 0 25 A G", "20 rs4 0 30 A AT", "20 rs5 0 50 A C"]
    lines += ["20 rs6 0 60 G A", "20 rs7 0 40 0 T"]
    assert typed(tmp_path, "a.bim", "\n".join(lines), packed) == [(10, "A", "C"), (20, "G", "T"), (60, "A", "G")]


@pytest.mark.parametrize("samples", ["", "S"])
@pytest.mark.parametrize("kind", ["vcf", "vcf.gz", "bcf"])
def test_a_vcf_file_types_the_snps_with_its_alleles(tmp_path, kind, samples):
    sites = ("10 . A C", "20 . T G", "25 . A C,G", "30 . AT A", "40 . C A", "60 . A G")
    plain = vcf(tmp_path / "plain.vcf", samples, *(f"20 {site} . . . {'GT 0|1' if samples else ''}" for site in sites))
    path = tmp_path / f"a.{kind}"
    with pysam.VariantFile(str(plain)) as source:
        with pysam.VariantFile(str(path), "wb" if kind == "bcf" else "w", header=source.header) as to:
            for record in source:
                to.write(record)
    assert [KEYS[i][1:] for i in read_array(path)(ROWS)] == [(10, "A", "C"), (25, "A", "C"), (60, "A", "G")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "20 11\n20 30\n20 50\n21 10\n"),
        ("a.bed", "20 10 10\n20 10 19\n"),
        ("a.bim", "20 rs1 0 10 A G\n"),
        ("a.vcf", HEADER + FIXED.replace(" ", "\t") + "\n20\t10\t.\tA\tG\t.\t.\t.\n"),
    ],
)
def test_an_array_of_which_the_panel_has_no_site_is_refused(tmp_path, name, content):
    with pytest.raises(InputError, match=rf"{name}: none of its \d sites is a SNP of the panel \(20:10 to 20:70\)"):
        typed(tmp_path, name, content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "20 10\n20 ten\n", r"a\.txt, line 2: 2 columns or more are needed"),
        ("a.txt", "chrom pos\n\n20 10\n20\n", r"a\.txt, line 4: 2 columns or more"),
        (
            "a.bim",
            "20 rs1 0 10 A C\n20 rs1 0\n",
            r"a\.bim, line 2: 6 columns or more are needed, with a position in column 4",
        ),
        ("a.txt", "", "names no site"),
        ("a.txt", "chrom pos\n# 20 10\n", "names no site"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read as a list of sites"),
        ("a.txt", b"\x1f\x8b\x08\x00rubbish", "cannot be read as a list of sites"),
    ],
)
def test_tables_that_are_none_are_refused_with_the_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        typed(tmp_path, name, content)


def test_an_array_that_is_not_there_is_refused(tmp_path):
    for name in ("a.txt", "a.bim", "a.vcf", "a.bcf"):
        with pytest.raises(InputError, match=name):
            read_array(tmp_path / name)


@pytest.mark.parametrize("line", ["20 5", "20 5 end", "20 \u00b2 9"])
def test_a_bed_line_without_an_end_is_refused_with_its_number(tmp_path, line):
    with pytest.raises(InputError, match=r"a\.bed, line 2"):
        typed(tmp_path, "a.bed", f"20 9 10\n{line}\n")


def test_a_header_may_follow_comments(tmp_path):
    assert typed(tmp_path, "sites.txt", "# made by me\nchrom pos\n" + SITES) == AT_SITES


def many_rows() -> PanelRows:
    """On two contigs, of every frequency and kind."""
    rng = np.random.default_rng(4)
    keys = [(c, int(p), "A", rng.choice(["C", "AT"])) for c in "12" for p in np.sort(rng.integers(1, 50_000, 400))]
    return PanelRows(keys, rng.random(800) < 0.9, rng.integers(0, 201, 800), 200, {"1": "1", "2": "2"})


def test_thinning_leaves_one_common_biallelic_snp_in_every_window():
    panel = many_rows()
    chosen = thinned(1000, seed=1)(panel)
    maf = np.minimum(panel.count, 200 - panel.count) / 200
    assert (panel.maf == maf).all()
    fit = [i for i, key in enumerate(panel.keys) if panel.alone[i] and maf[i] > 0.05 and is_snp(key)]
    windows = Counter((panel.keys[i][0], panel.keys[i][1] // 1000) for i in fit)
    assert 80 < len(windows) == len(chosen) and set(chosen) <= set(fit)
    assert {(panel.keys[i][0], panel.keys[i][1] // 1000) for i in chosen} == windows.keys()
    assert max(windows.values()) > 3


def test_thinning_is_by_the_seed_and_any_site_of_a_window_may_be_taken():
    panel = many_rows()
    assert thinned(1000, seed=1)(panel) == thinned(1000, seed=1)(panel) != thinned(1000, seed=2)(panel)
    taken = {row for seed in range(60) for row in thinned(100_000, seed)(panel)}
    assert len(taken) > 50
    at_edge = PanelRows([("1", 5, "A", "C")] * 2, np.ones(2, bool), np.array([10, 190]), 200, {"1": "1"})
    assert thinned(10, 1)(at_edge) == [], "5 % is not above 5 %"


# Files that programs get.


def panel_of(n_alts: tuple[int, ...], people: int = 30, contig: str = "20") -> tuple[Sites, np.ndarray]:
    rng = np.random.default_rng(len(n_alts))
    codes = np.stack([rng.integers(0, n + 1, 2 * people) for n in n_alts]).astype(np.int8)
    alts = [",".join("A" * (i + 2) for i in range(n)) for n in n_alts]
    n = len(n_alts)
    pos = np.arange(100, 100 + 10 * n, 10)
    return Sites(contig, pos, [f"rs{i}" if i % 2 else "." for i in range(n)], ["A"] * n, alts), codes, None


def test_a_written_panel_is_read_again(tmp_path):
    first, second = panel_of((1, 2, 1)), panel_of((12, 1, 9, 10, 1), contig="21")
    names = tuple(f"S{i}" for i in range(30))
    path = tmp_path / "panel.vcf.gz"
    write_phased(path, names, [("20", 5000), ("21", None)], [first, second], threads=2)
    panel = open_panel(path)
    assert panel.samples == names and panel.contigs == [("20", 5000), ("21", None)]
    chunks = list(panel)
    assert [chunk.sites.contig for chunk in chunks] == ["20", "21"]
    for chunk, (sites, codes, _) in zip(chunks, (first, second), strict=True):
        for name in ("ids", "ref", "alt"):
            assert getattr(chunk.sites, name) == getattr(sites, name)
        assert (chunk.sites.pos == sites.pos).all()
        rows = [codes[i] == a + 1 for i, alt in enumerate(sites.alt) for a in range(alt.count(",") + 1)]
        assert (chunk.alleles(slice(None)) == np.array(rows)).all()
    assert second[1].max() == 12
    with pysam.VariantFile(str(path), index_filename=f"{path}.tbi") as file:
        assert [record.pos for record in file.fetch("21", 105, 130)] == [110, 120, 130]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["panel.vcf.gz", "panel.vcf.gz.tbi"]


def test_allele_counts_are_written(tmp_path):
    sites, codes, _ = panel_of((1, 2, 12, 1))
    codes[3] = 0
    path = tmp_path / "panel.vcf.gz"
    write_phased(path, tuple(f"S{i}" for i in range(30)), [("20", None)], [(sites, codes, None)])
    for row, alleles, alt in zip(read_rows(path), codes, sites.alt, strict=True):
        expected = [int((alleles == a + 1).sum()) for a in range(alt.count(",") + 1)]
        assert row.info == {"AC": ",".join(map(str, expected)), "AN": "60"}


@needs("bcftools")
def test_bcftools_counts_the_same_alleles(tmp_path):
    path = tmp_path / "panel.vcf.gz"
    write_phased(path, tuple(f"S{i}" for i in range(30)), [("20", 9999)], [panel_of((1, 2, 12, 1))])
    query = ("query", "-f", "%POS %INFO/AC %INFO/AN\n")
    counted = tmp_path / "counted.vcf"
    counted.write_text(bcftools("view", "-s", ",".join(f"S{i}" for i in range(30)), path))
    assert bcftools(*query, counted) == bcftools(*query, path) != ""
    assert bcftools("view", "-H", "-r", "20:105-115", path).count("\n") == 1


def test_a_panel_that_cannot_be_written_leaves_nothing(tmp_path):
    def broken():
        yield panel_of((1, 1))
        raise InputError("the panel ends here")

    with pytest.raises(InputError, match="the panel ends here"):
        write_phased(tmp_path / "a.vcf.gz", tuple(f"S{i}" for i in range(30)), [("20", None)], broken())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"none/a\.vcf\.gz: the directory .* does not exist"):
        write_phased(tmp_path / "none" / "a.vcf.gz", ("S",), [("20", None)], [])


def test_maps_are_written_as_the_programs_read_them(tmp_path):
    (tmp_path / "map.txt").write_text(
        "".join(f"{contig} . 0 1\n{contig} . 8.1234567 800000\n{contig} . 46 5000000\n" for contig in (20, 21))
    )
    genetic_map = read_genetic_map(tmp_path / "map.txt")
    plink, gmap = write_maps(tmp_path, genetic_map, ["chr20"])
    assert [line.split()[0] for line in plink.read_text().splitlines()] == ["chr20"] * 3
    assert gmap.read_text().splitlines()[:3] == ["pos\tchr\tcM", "1\tchr20\t0", "800000\tchr20\t8.1234567"]
    pos = np.arange(1, 6_000_000, 17_001)
    for path in (plink, gmap):
        np.testing.assert_allclose(read_genetic_map(path).to_cm("20", pos), genetic_map.to_cm("20", pos), rtol=1e-6)
    both = read_genetic_map(write_maps(tmp_path, genetic_map, ["20", "21"])[0])
    assert (both.to_cm("21", pos) == read_genetic_map(gmap).to_cm("21", pos)).all()
    with pytest.raises(InputError, match="no map for contig '22'"):
        write_maps(tmp_path, genetic_map, ["20", "22"])


@pytest.mark.parametrize(
    "text",
    [
        "A CEU\nB YRI\n",
        "sample pop\nA CEU x\nB YRI\n",
        "#IID\tPOP\nA\tCEU\nB\tYRI \tx\n",
        "ID POP\n\nA CEU\nB YRI\nA CEU\n",
    ],
)
def test_populations_are_read_from_two_columns(tmp_path, text):
    path = tmp_path / "pops.txt"
    path.write_text(text)
    assert read_populations(path) == {"A": "CEU", "B": "YRI"}
    assert populations_of(path, ["B", "A", "B"]) == ["YRI", "CEU", "YRI"]
    with pytest.raises(InputError, match=r"pops\.txt: lacks 2 of 3 samples \(C, D\)"):
        populations_of(path, ["A", "C", "D"])


def test_populations_may_have_blanks_in_their_names_between_tabs(tmp_path):
    path = tmp_path / "pops.txt"
    path.write_text("A\tGreat Britain\nsample\tNorth\n")
    assert read_populations(path) == {"A": "Great Britain", "sample": "North"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A CEU\nB\n", r"pops\.txt, line 2: one column"),
        (b"A CEU\nB YRI\nA YRI\n", r"pops\.txt, line 3: sample A has two populations"),
        (b"sample pop\n", "names no sample"),
        (b"\xff\xfe", "cannot be read as a table"),
        (None, "cannot be read as a table"),
    ],
)
def test_tables_of_populations_that_are_none_are_refused(tmp_path, content, message):
    path = tmp_path / "pops.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_populations(path)


# Data of a comparison.


@pytest.fixture(scope="module")
def small():
    """16 panel people and 5 targets, whose truth is complete."""
    return simulate(n_sites=120, n_panel=16, n_target=5, seed=9)


@pytest.fixture
def files(tmp_path, small):
    """The panel's and the truth's file, and an array of every second biallelic SNP and of much that is none."""
    panel, truth = small.panel.save(tmp_path / "panel.vcf.gz"), small.truth.save(tmp_path / "truth.vcf.gz")
    array = tmp_path / "array.txt"
    array.write_text("".join(f"chr20 {pos}\n" for pos in [*{r.pos for r in small.panel.records[::2]}, 17]))
    return panel, truth, array


def array_sites(small) -> list[tuple]:
    pos = {r.pos for r in small.panel.records[::2]}
    keys = [r.key for r in small.panel.records if r.pos in pos and "," not in r.alt]
    return [key for key in keys if len(key[1]) == len(key[2]) == 1]


def all_rows(records) -> list[tuple]:
    return [(r.pos, r.ref, alt) for r in records for alt in r.alt.split(",")]


def check_against(data, typed: list[tuple], panel: Vcf, truth: Vcf) -> None:
    """That the chip has the truth at ``typed``, and the truth is that of all other rows, with the panel's facts."""
    rows = read_rows(data.chip)
    assert [row.key for row in rows] == typed and data.typed == len(typed)
    by_key = {r.key: r for r in truth.records}
    for row in rows:
        assert (row.fields["GT"], row.name) == (list(by_key[row.key].calls), by_key[row.key].name)
    others = [key for key in all_rows(panel.records) if key not in set(typed)]
    assert data.truth.wanted == {("20", *key): i for i, key in enumerate(others)}
    copies = dict(zip(all_rows(truth.records), np.nan_to_num(alt_counts(truth.records), nan=-1), strict=True))
    assert (data.truth.copies == [copies[key] for key in others]).all()
    af = dict(zip(all_rows(panel.records), alt_counts(panel.records).mean(axis=1) / 2, strict=True))
    af = np.array([af[key] for key in others])
    assert data.truth.maf == pytest.approx(np.minimum(af, 1 - af), abs=1e-12)
    assert (data.truth.alt_major == (af > 0.5 + 1e-12)).all()
    assert data.truth.snp.tolist() == [len(ref) == len(alt) == 1 for _, ref, alt in others]
    assert data.haplotypes == 2 * len(panel.samples) and data.truth.samples == tuple(truth.samples)
    name = panel.records[0].contig
    assert data.contigs == [(name, panel.records[0].pos, panel.records[-1].pos)]


def test_the_chip_has_the_array_s_sites_and_the_truth_all_others(tmp_path, small, files):
    panel, truth, array = files
    genetic_map = read_genetic_map(write_map(tmp_path / "map.txt"))
    data = make_dataset(tmp_path / "data", Cast(panel, truth=truth), read_array(array), genetic_map, None, 1)
    check_against(data, array_sites(small), small.panel, small.truth)
    assert data.typed > 40 and len(data.truth.wanted) > 40
    assert data.truth.alt_major.any() and not data.truth.snp.all()
    assert data.panel == panel and not (tmp_path / "data" / "panel.vcf.gz").exists(), "as it is"
    assert all(path.exists() for path in data.maps)
    assert make_dataset(tmp_path / "more", Cast(panel, truth=truth), read_array(array), None, None, 1).maps is None
    with pytest.raises(InputError, match="no map for contig"):
        other = read_genetic_map(write_map(tmp_path / "map.txt", contigs=("1",)))
        make_dataset(tmp_path / "no", Cast(panel, truth=truth), read_array(array), other, None, 1)


def test_names_of_contigs_are_the_panel_s_and_records_may_be_split(tmp_path, small, files):
    panel = small.panel.renamed({"20": "chr20"})
    split = [replace(r, alt=alt).with_alleles((r.alleles == a + 1).astype(int)) for r in small.truth.records
             for a, alt in enumerate(r.alt.split(","))]  # fmt: skip
    truth = Vcf(small.truth.samples, split, small.truth.contigs).save(tmp_path / "split.bcf")
    path = panel.save(tmp_path / "chr.vcf.gz")
    data = make_dataset(tmp_path / "data", Cast(path, truth=truth), read_array(files[2]), None, None, 1)
    check_against(data, array_sites(small), panel, small.truth)
    assert {row.contig for row in read_rows(data.chip)} == {"chr20"}


@pytest.mark.parametrize("kind", ["panel.vcf", "panel.bcf", "panel.npp"])
def test_panels_of_other_kinds_are_written_for_the_programs(tmp_path, small, files, kind):
    if kind == "panel.npp":
        compile_panel(open_panel(files[0]), tmp_path / kind)
    else:
        small.panel.save(tmp_path / kind)
    data = make_dataset(tmp_path / "data", Cast(tmp_path / kind, truth=files[1]), read_array(files[2]), None, None, 1)
    check_against(data, array_sites(small), small.panel, small.truth)
    assert data.panel == tmp_path / "data" / "panel.vcf.gz"
    check_panel(data.panel, small.panel)


@pytest.mark.parametrize("packing", ["bgzip without index", "gzip"])
def test_a_panel_that_has_no_index_is_given_one(tmp_path, small, files, packing):
    path = small.panel.save(tmp_path / "bare.vcf.gz", index=False)
    if packing == "gzip":
        path.write_bytes(gzip.compress(small.panel.text().encode()))
    data = make_dataset(tmp_path / "data", Cast(path, truth=files[1]), read_array(files[2]), None, None, 1)
    assert any(data.panel.with_name(f"{data.panel.name}.{kind}").exists() for kind in ("tbi", "csi"))
    with open(data.panel, "rb") as file:
        assert file.read(16)[12:14] == b"BC", "it is in BGZF"


def check_panel(path, expected: Vcf) -> None:
    assert open_panel(path).samples == tuple(expected.samples)
    rows = read_rows(path)
    assert [(row.key, row.name, row.fields["GT"]) for row in rows] == [
        (r.key, r.name, list(r.calls)) for r in expected.records
    ]
    with pysam.VariantFile(str(path), index_filename=f"{path}.tbi") as file:
        assert sum(1 for _ in file.fetch(rows[0].contig)) == len(rows)


def test_targets_taken_out_of_the_panel_are_not_in_it_any_more(tmp_path, small, files):
    targets = [3, 7, 8, 12]
    rest = [i for i in range(16) if i not in targets]
    cast = Cast(files[0], targets=frozenset(small.panel.samples[i] for i in targets))
    data = make_dataset(tmp_path / "data", cast, read_array(files[2]), None, None, 1)
    check_panel(data.panel, small.panel.columns(rest))
    check_against(data, array_sites(small), small.panel.columns(rest), small.panel.columns(targets))
    assert data.truth.samples == ("P3", "P7", "P8", "P12") and data.haplotypes == 24
    assert (data.truth.maf == 0).any(), "some alleles went with them"
    whole = make_dataset(tmp_path / "whole", Cast(files[0], truth=files[1]), read_array(files[2]), None, None, 1)
    assert (data.truth.maf != whole.truth.maf).any()


def test_people_of_the_panel_may_be_chosen(tmp_path, small, files):
    keep = [1, 2, 3, 4, 9]
    cast = Cast(files[0], keep=frozenset(small.panel.samples[i] for i in keep), truth=files[1])
    data = make_dataset(tmp_path / "data", cast, read_array(files[2]), None, None, 1)
    check_panel(data.panel, small.panel.columns(keep))
    check_against(data, array_sites(small), small.panel.columns(keep), small.truth)


def test_a_region_is_all_that_is_compared(tmp_path, small, files):
    inside = slice(40, 100)
    first, last = small.panel.records[40].pos, small.panel.records[99].pos
    panel = Vcf(small.panel.samples, small.panel.records[inside], small.panel.contigs)
    sites = [key for key in array_sites(small) if first <= key[0] <= last]
    for cast, truth in (
        (Cast(files[0], truth=files[1]), small.truth),
        (Cast(files[0], targets=frozenset(["P0"])), small.panel.columns([0])),
    ):
        folder = tmp_path / f"data{len(truth.samples)}"
        data = make_dataset(folder, cast, read_array(files[2]), None, Region("chr20", first, last), 1)
        rest = panel if cast.truth else panel.columns(list(range(1, 16)))
        check_panel(data.panel, rest)
        check_against(data, sites, rest, truth)
    with pytest.raises(InputError, match="no record; check --region"):
        make_dataset(tmp_path / "none", Cast(files[0]), read_array(files[2]), None, Region("20", 1, 5), 1)


def test_files_that_are_there_already_are_kept(tmp_path, small, files):
    cast = Cast(files[0], targets=frozenset(["P1", "P2"]))
    first = make_dataset(tmp_path / "data", cast, read_array(files[2]), None, None, 1)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (first.panel, first.chip)}
    again = make_dataset(tmp_path / "data", cast, read_array(files[2]), None, None, 1)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert (again.truth.copies == first.truth.copies).all() and (again.truth.maf == first.truth.maf).all()
    check_against(again, array_sites(small), small.panel.columns([0, *range(3, 16)]), small.panel.columns([1, 2]))


def against(tmp_path, small, files, records: list[Record]):
    """The data where the truth is ``records``."""
    path = Vcf(small.truth.samples, records, small.truth.contigs).save(tmp_path / "other.vcf.gz")
    return make_dataset(tmp_path / "data", Cast(files[0], truth=path), read_array(files[2]), None, None, 1)


def changed(small, key: tuple, change) -> list[Record]:
    return [change(r) if r.key == key else r for r in small.truth.records]


@pytest.mark.parametrize("call", [".|.", ".|0", "1"])
def test_an_array_site_with_a_missing_or_haploid_genotype_is_left_out(tmp_path, small, files, call, caplog):
    site = array_sites(small)[3]
    with caplog.at_level(logging.WARNING):
        data = against(tmp_path, small, files, changed(small, site, lambda r: r.with_call(2, call)))
    rest = [key for key in array_sites(small) if key != site]
    assert [row.key for row in read_rows(data.chip)] == rest and data.typed == len(rest)
    assert ("20", *site) not in data.truth.wanted, "nor is it compared"
    assert "1 array sites have missing genotypes" in caplog.text


def test_a_missing_genotype_elsewhere_is_missing_in_the_truth_alone(tmp_path, small, files):
    site = next(r.key for r in small.panel.records if r.key not in set(array_sites(small)) and "," not in r.alt)
    data = against(tmp_path, small, files, changed(small, site, lambda r: r.with_call(2, ".|1").with_call(0, "1/0")))
    assert data.truth.copies[data.truth.wanted["20", *site]].tolist()[:3:2] == [1, -1]
    assert data.typed == len(array_sites(small))


def test_a_heterozygote_without_phase_at_an_array_site_is_refused(tmp_path, small, files):
    site = array_sites(small)[3]
    records = changed(small, site, lambda r: r.with_call(1, "1/1").with_call(2, "0/0"))
    assert against(tmp_path, small, files, records).typed == len(array_sites(small)), "homozygotes need none"
    records = changed(small, site, lambda r: r.with_call(2, "0/1"))
    with pytest.raises(InputError, match=rf"other\.vcf\.gz: 20:{site[0]}, sample T2: a heterozygote without phase"):
        against(tmp_path, small, files, records)


def test_rows_that_only_the_truth_or_only_the_panel_has_are_not_compared(tmp_path, small, files):
    lost = {small.truth.records[i].key for i in (1, 2, 50, 51)}
    own = Record("20", small.truth.records[5].pos + 1, "own", "A", "G", ("0|1",) * 5)
    records = sorted([own, *(r for r in small.truth.records if r.key not in lost)], key=lambda r: r.pos)
    data = against(tmp_path, small, files, records)
    assert [row.key for row in read_rows(data.chip)] == [key for key in array_sites(small) if key not in lost]
    known = [r for r in small.panel.records if r.key not in lost]
    assert list(data.truth.wanted) == [("20", *key) for key in all_rows(known) if key not in set(array_sites(small))]


def test_targets_who_are_in_the_panel_are_refused_by_name(tmp_path, small, files):
    twins = replace_samples(small.truth, ["T0", "P5", "T2", "P2", "T4"]).save(tmp_path / "twins.vcf.gz")
    with pytest.raises(InputError, match=r"twins\.vcf\.gz: 2 of its 5 samples are in the panel .* \(P2, P5\)"):
        make_dataset(tmp_path / "data", Cast(files[0], truth=twins), read_array(files[2]), None, None, 1)
    apart = Cast(files[0], keep=frozenset(["P0", "P1", "P3"]), truth=twins)
    assert make_dataset(tmp_path / "data", apart, read_array(files[2]), None, None, 1).haplotypes == 6


def replace_samples(vcf: Vcf, samples: list[str]) -> Vcf:
    return Vcf(samples, vcf.records, vcf.contigs)


def test_nothing_typed_or_nothing_to_compare_is_refused(tmp_path, small, files):
    typed = set(array_sites(small))
    with pytest.raises(InputError, match=rf"none of the {len(typed)} array sites that the panel has is in it"):
        against(tmp_path, small, files, [r for r in small.truth.records if r.key not in typed])
    with pytest.raises(InputError, match="no site beside the array's is in the panel"):
        against(tmp_path, small, files, [r for r in small.truth.records if r.key in typed])


def test_a_typed_site_that_has_a_third_allele_in_the_truth_is_not_typed(tmp_path, small, files):
    site = array_sites(small)[3]
    other = next(base for base in "ACGT" if base not in site[1:])
    records = changed(small, site, lambda r: replace(r, alt=f"{r.alt},{other}").with_call(2, "2|1"))
    data = against(tmp_path, small, files, records)
    assert [row.key for row in read_rows(data.chip)] == [key for key in array_sites(small) if key != site]


@pytest.mark.parametrize("allele", [0, 1])
def test_an_array_s_vcf_does_not_type_one_allele_of_several(tmp_path, small, files, allele):
    several = next(r for r in small.panel.records if "," in r.alt and (r.alleles == 2).any())
    keys = sorted([*array_sites(small), (several.pos, several.ref, several.alt.split(",")[allele])])
    array = vcf(tmp_path / "array.vcf", "", *(f"20 {pos} . {ref} {alt} . . ." for pos, ref, alt in keys))
    carriers = [i for i, call in enumerate(several.calls) if "2" in call]
    cast = Cast(files[0], targets=frozenset(small.panel.samples[i] for i in carriers[:2]))
    data = make_dataset(tmp_path / "data", cast, read_array(array), None, None, 1)
    assert [row.key for row in read_rows(data.chip)] == array_sites(small)


def test_damage_that_is_no_damage_to_the_text_is_an_error_that_names_the_record(tmp_path):
    path = vcf(tmp_path / "a.vcf", "S T", "20 10 . A C . . . GT:AP1:AP2 0|1:0.1:0.2 0|1:0.1:0.2,0.3")
    with pytest.raises(InputError, match="20:10: the record cannot be read"):
        imputed(path, "S", "T")
    (tmp_path / "a.vcf").write_bytes(path.read_bytes().replace(b"\tA\t", b"\tA\xda\t"))
    with pytest.raises(InputError, match="cannot be read past 20:10 .*codec"):
        list(keys_of(path))
