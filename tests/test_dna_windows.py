"""Intervals, variants and regions of a genome: what is read of them, and what is told of those that cannot be."""

import gzip
from pathlib import Path

import numpy as np
import pysam
import pytest

from npimpute.dna.genome import open_genome
from npimpute.dna.regions import (
    Stretch,
    draw_window,
    fetch_within,
    merged,
    spaced_windows,
    stretches,
    training_stretches,
    without,
)
from npimpute.dna.windows import (
    Interval,
    Variant,
    centred,
    check_contigs,
    interval_status,
    pair,
    read_intervals,
    read_variants,
)
from npimpute.errors import ConfigError, InputError

SEQUENCE = "acgtACGTTTNNGATTACAGATTACARCC"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(f">chr1\n{SEQUENCE}\n>chr2\n{'ACGT' * 50}\n")
    return open_genome(path)


def text(values) -> str:
    return values.tobytes().decode()


def test_bed_of_any_width(tmp_path):
    path = tmp_path / "a.bed"
    path.write_text("track name=x\n#c\nchr1\t1\t5\nchr1 2 9 a 0 -\n\nchr2\t0\t0\tb\t.\t.\n")
    expected = [Interval("chr1", 1, 5), Interval("chr1", 2, 9, "a", "-"), Interval("chr2", 0, 0, "b")]
    assert read_intervals(path) == expected
    packed = tmp_path / "b.bed"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_intervals(packed) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("chr1\t5\n", "line 1: not BED"),
        ("chr1\t1\t2\nchr1\tx\t9\n", "line 2: not BED"),
        ("chr1\t9\t5\n", "line 1: ends at 5, before its start 9"),
        ("#only\n", "holds no interval"),
    ],
)
def test_bad_bed_is_refused_in_a_line(tmp_path, content, message):
    path = tmp_path / "a.bed"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_intervals(path)


RECORDS = "chr1\t3\trs1\tG\tA,GT\t.\t.\t.\nchr1\t5\t.\ta\tc\n"


def test_variants_of_vcf_and_bcf_by_allele(tmp_path):
    path = tmp_path / "a.vcf"
    path.write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + RECORDS)
    rows = [(3, "rs1", "G", "A"), (3, "rs1", "G", "GT"), (5, ".", "A", "C")]
    expected = [Variant("chr1", *row) for row in rows]
    assert read_variants(path) == expected
    path.with_name("b.vcf.gz").write_bytes(gzip.compress(RECORDS.encode()))
    assert read_variants(tmp_path / "b.vcf.gz") == expected
    header = pysam.VariantHeader()
    header.contigs.add("chr1", 100)
    with pysam.VariantFile(str(tmp_path / "c.bcf"), "wb", header=header) as file:
        file.write(file.new_record("chr1", 2, 3, ("G", "A", "GT"), "rs1"))
        file.write(file.new_record("chr1", 4, 5, ("A", "C")))
    assert read_variants(tmp_path / "c.bcf") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.vcf", b"chr1\t3\trs1\tG\n", "line 1: not VCF"),
        ("a.vcf", b"#x\nchr1\t0\trs1\tG\tA\n", "line 2: not VCF"),
        ("a.vcf", b"#x\n", "holds no variant"),
        ("a.vcf", bytes(range(128, 256)), "not text"),
        ("a.vcf.gz", gzip.compress(RECORDS.encode() * 99)[:-9], "whole"),
        ("a.bcf", b"junk", "cannot be read as BCF"),
    ],
)
def test_bad_vcf_is_refused_in_a_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_variants(path)
    with pytest.raises(InputError, match="no such file"):
        read_variants(tmp_path / "none.vcf")


def test_windows_of_a_substitution(genome):
    found = pair(genome, Variant("1", 14, ".", "A", "C"), 8)  # 0-based 13, in GATTACA
    assert (found.status, found.start, found.index) == ("ok", 9, 4)
    assert text(found.ref) == "TNNGATTA" and text(found.alt) == "TNNGCTTA"


def test_windows_of_indels_are_as_long(genome):
    into = pair(genome, Variant("chr1", 14, ".", "A", "AGG"), 8)
    assert into.status == "indel" and text(into.ref) == "TNNGATTA" and text(into.alt) == "TNNGAGGT"
    out = pair(genome, Variant("chr1", 14, ".", "ATT", "A"), 8)
    assert out.status == "indel" and text(out.ref) == "TNNGATTA" and text(out.alt) == "TNNGAACA"


def test_windows_past_the_ends_are_unknown(genome):
    first = pair(genome, Variant("chr1", 1, ".", "A", "G"), 9)
    assert text(first.ref) == "NNNNACGTA" and text(first.alt) == "NNNNGCGTA"
    last = pair(genome, Variant("chr1", len(SEQUENCE), ".", "C", "G"), 6)
    assert last.status == "ok" and text(last.alt) == "ARCGNN"


@pytest.mark.parametrize(
    ("variant", "status"),
    [
        (("chr9", 3, ".", "G", "A"), "no contig"),
        (("chr1", 3, ".", "T", "A"), "reference mismatch"),
        (("chr1", len(SEQUENCE) + 1, ".", "T", "A"), "outside"),
        (("chr1", len(SEQUENCE), ".", "CA", "A"), "outside"),
        (("chr1", 3, ".", "G", "<DEL>"), "symbolic allele"),
        (("chr1", 3, ".", "G", "."), "symbolic allele"),
        (("chr1", 3, ".", "G", "*"), "symbolic allele"),
        (("chr1", 11, ".", "N", "A"), "unknown base"),
        (("chr1", 27, ".", "G", "A"), "unknown base"),
        (("chr1", 1, ".", "ACGTACGTTT", "A"), "longer than the window"),
    ],
)
def test_variants_that_cannot_be_read_say_why(genome, variant, status):
    found = pair(genome, Variant(*variant), 12)
    assert (found.status, found.ref) == (status, None)


def test_intervals_that_cannot_be_read_say_why(genome):
    rows = [("1", 2, 5), ("chr9", 2, 5), ("chr1", 4, 4), ("chr1", len(SEQUENCE), 99), ("chr1", len(SEQUENCE) - 1, 99)]
    assert [interval_status(genome, Interval(*row)) for row in rows] == ["ok", "no contig", "empty", "outside", "ok"]
    assert centred(10, 20, 6) == (12, 18) and centred(1, 2, 7) == (-2, 5)


def test_a_file_of_another_genome_is_refused(genome):
    check_contigs(genome, ["chr9", "1"], Path("a.bed"))
    with pytest.raises(InputError, match=r"its contigs \(chr9, chr8\) are none of those of .*g.fa \(chr1, chr2\)"):
        check_contigs(genome, ["chr9", "chr8", "chr9"], Path("a.bed"))


def test_regions_are_1_based_and_bed_is_not(genome, tmp_path):
    (tmp_path / "h.bed").write_text("2\t5\t9\nchr2\t8\t500\nother\t1\t2\n")
    assert stretches(genome, ["1:3-5"]) == [Stretch("chr1", 2, 5)]
    assert stretches(genome, ["1:3-", "chr2"]) == [Stretch("chr1", 2, len(SEQUENCE)), Stretch("chr2", 0, 200)]
    assert stretches(genome, [str(tmp_path / "h.bed"), "chr2:10-20"]) == [Stretch("chr2", 5, 200)]
    with pytest.raises(InputError, match="no contig chr7"):
        stretches(genome, ["chr7"])
    with pytest.raises(InputError, match="past the contig's end, 200"):
        stretches(genome, ["chr2:900-"])
    with pytest.raises(ConfigError, match="nothing is left"):
        training_stretches(genome, ["chr1"], [Stretch("chr1", 0, 99)])


@pytest.mark.parametrize("seed", range(5))
def test_stretches_without_others_are_the_rest_of_the_bases(seed):
    rng = np.random.default_rng(seed)

    def some():
        starts = rng.integers(0, 90, 6)
        names = rng.choice(["a", "b"], 6)
        return merged(
            Stretch(str(name), int(s), int(s + rng.integers(1, 15))) for name, s in zip(names, starts, strict=True)
        )

    def covered(found):
        return {(s.contig, i) for s in found for i in range(s.start, s.end)}

    kept, removed = some(), some()
    left = without(kept, removed)
    assert covered(left) == covered(kept) - covered(removed)
    assert sum(s.end - s.start for s in left) == len(covered(left))


def test_held_out_bases_are_never_drawn(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">a\n" + "A" * 100 + "C" * 50 + "A" * 30 + "\n>b\n" + "C" * 70 + "\n")
    genome = open_genome(path)
    places = training_stretches(genome, [], stretches(genome, ["a:101-150", "b"]))
    assert places == [Stretch("a", 0, 100), Stretch("a", 150, 180)]
    rng = np.random.default_rng(0)
    seen = [text(draw_window(genome, places, 40, rng)) for _ in range(200)]
    assert all("C" not in window for window in seen)
    # The stretch that is shorter than a window is read as well, and nothing beyond it.
    assert {window.count("N") for window in seen} == {0, 10}
    assert text(fetch_within(genome, places[1], 140, 50)) == "N" * 10 + "A" * 30 + "N" * 10


def test_windows_are_drawn_alike_from_every_base(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">a\n" + "A" * 300 + "\n>b\n" + "C" * 100 + "\n")
    genome = open_genome(path)
    rng = np.random.default_rng(1)
    places = training_stretches(genome, [], [])
    drawn = [text(draw_window(genome, places, 5, rng))[0] for _ in range(800)]
    assert 0.7 < drawn.count("A") / 800 < 0.8


def test_windows_of_mostly_unknown_bases_are_drawn_again(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">a\n" + "N" * 500 + "ACGT" * 100 + "\n")
    genome = open_genome(path)
    rng = np.random.default_rng(1)
    drawn = [text(draw_window(genome, training_stretches(genome, [], []), 20, rng)) for _ in range(100)]
    assert max(window.count("N") for window in drawn) <= 10


def test_validation_windows_are_spread_and_the_same(genome):
    places = [Stretch("chr2", 20, 60), Stretch("chr2", 100, 105)]
    found = spaced_windows(genome, places, 10, 4)
    assert found.shape == (4, 10)
    assert (found == spaced_windows(genome, places, 10, 4)).all()
    assert text(found[0]) == "ACGT" * 2 + "AC"
    many = spaced_windows(genome, places, 10, 64)
    assert text(many[-1]) == "ACGTA" + "N" * 5
