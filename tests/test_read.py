"""Reading VCF and BCF: every way of reading against what was written, and every refusal."""

import gzip
import random
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npimpute.errors import ConfigError, InputError
from npimpute.vcf import htslib as htslib_module
from npimpute.vcf import source as source_module
from npimpute.vcf import text as text_module
from npimpute.vcf.htslib import hts_parts
from npimpute.vcf.read import open_panel_vcf, read_targets
from npimpute.vcf.records import Selection
from npimpute.vcf.region import Region
from npimpute.vcf.source import open_source

needs_bcftools = pytest.mark.skipif(shutil.which("bcftools") is None, reason="bcftools is not installed")
FIXED = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
ALTS = ["C", "G", "T", "C,G", "AT", "<DEL>,C,T", ",".join("A" * i + "C" for i in range(1, 14)), "."]
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def header(samples, contigs=("20",)):
    lines = ["##fileformat=VCFv4.2", '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">']
    lines += ['##FORMAT=<ID=DS,Number=1,Type=Float,Description="Dosage">']
    lines += [f"##contig=<ID={name},length=90000000>" for name in contigs]
    return "\n".join(lines + ["\t".join([*FIXED, *samples])]) + "\n"


def record(pos, *genotypes, contig="20", ref="A", alt="C", fmt="GT", name="."):
    return "\t".join([contig, str(pos), name, ref, alt, ".", "PASS", ".", fmt, *genotypes]) + "\n"


def bgzf(data, block=700):
    """``data`` as BGZF in small blocks, so that lines cross their borders."""
    out = b""
    for at in range(0, len(data), block):
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(data[at : at + block]) + deflate.flush()
        head = bytes.fromhex("1f8b08040000000000ff060042430200") + struct.pack("<H", len(body) + 25)
        out += head + body + struct.pack("<II", zlib.crc32(data[at : at + block]), len(data[at : at + block]))
    return out + BGZF_END


class Written:
    """A random panel: its text, and what reading it must give."""

    def __init__(self, seed, n_samples=7, n_records=60, contigs=("20", "21")):
        draw = random.Random(seed)
        self.samples = [f"S{i}" for i in range(n_samples)]
        self.records = []  # contig, pos, id, ref, alt, alleles
        lines = []
        for contig in contigs:
            pos = draw.randint(1, 50)
            for _ in range(n_records):
                pos += draw.randint(1, 90)
                for alt in draw.sample(ALTS, draw.choice([1, 1, 2])):
                    n = 0 if alt == "." else alt.count(",") + 1
                    alleles = [draw.randint(0, n) for _ in range(2 * n_samples)]
                    name, ref = draw.choice([".", f"rs{pos}", "a;b"]), draw.choice(["A", "ACGT"])
                    extra = draw.choice(["", "", ":0.5"])
                    calls = [f"{a}|{b}{extra}" for a, b in zip(alleles[::2], alleles[1::2], strict=True)]
                    fmt = "GT:DS" if extra else "GT"
                    lines.append(record(pos, *calls, contig=contig, ref=ref, alt=alt, fmt=fmt, name=name))
                    self.records.append((contig, pos, name, ref, alt, np.array(alleles)))
        self.text = header(self.samples, contigs) + "".join(lines)

    def expected(self, samples=None, region=None):
        chosen = [i for i, name in enumerate(self.samples) if samples is None or name in samples]
        columns = np.ravel([(2 * i, 2 * i + 1) for i in chosen])
        rows, sites = [], []
        for contig, pos, name, ref, alt, alleles in self.records:
            inside = region is None or (contig == region[0] and region[1] <= pos <= region[2])
            if inside and alt != ".":
                sites.append((contig, pos, name, ref, alt))
                rows += [alleles[columns] == a for a in range(1, alt.count(",") + 2)]
        bits = np.packbits(np.array(rows, bool).reshape(len(rows), len(columns)), axis=1, bitorder="little")
        return sites, bits.tobytes()


def gather(chunks):
    sites, bits = [], b""
    for chunk in chunks:
        s = chunk.sites
        assert chunk.bits.shape == (chunk.row_start()[-1], -(-chunk.k // 8)) and s.pos.dtype == np.int64
        sites += [(s.contig, int(p), i, r, a) for p, i, r, a in zip(s.pos, s.ids, s.ref, s.alt, strict=True)]
        bits += chunk.bits.tobytes()
    return sites, bits


def by_htslib(path, keep=None):
    source = open_source(path)
    parts = hts_parts(source, Selection.of(path, source.samples, keep, None), None, 1)
    return gather(part.data for part in parts)


def save(path, data):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def bcftools(*args):
    subprocess.run(["bcftools", *map(str, args)], check=True, capture_output=True)


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        list(open_panel_vcf(path, **options))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n_samples=st.integers(1, 40))
def test_text_and_htslib_give_what_was_written(tmp_path_factory, seed, n_samples):
    panel = Written(seed, n_samples, n_records=12)
    path = save(tmp_path_factory.mktemp("p") / "p.vcf", panel.text)
    assert gather(open_panel_vcf(path, threads=2)) == panel.expected()
    assert by_htslib(path) == panel.expected()


PACKINGS = [
    str.encode,
    lambda text: bgzf(text.encode()),
    lambda text: gzip.compress(text.encode()),
    lambda text: gzip.compress(text[:999].encode()) + gzip.compress(text[999:].encode()),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.rstrip("\n").encode(),
]


@pytest.mark.parametrize("pack", PACKINGS)
@pytest.mark.parametrize(("piece", "room"), [(300, 4), (3000, 1 << 20), (8 << 20, 1 << 20)])
def test_packing_and_piece_borders_do_not_matter(tmp_path, monkeypatch, pack, piece, room):
    monkeypatch.setattr(source_module, "PIECE", piece)
    monkeypatch.setattr(source_module, "ROOM", room)
    monkeypatch.setattr(text_module, "ROOM", room)
    panel = Written(3, n_samples=9)
    reader = open_panel_vcf(save(tmp_path / "p.vcf", pack(panel.text)), threads=2)
    assert reader.samples == tuple(panel.samples) and reader.k == 18
    assert reader.contigs == [("20", 90000000), ("21", 90000000)]
    assert gather(reader) == panel.expected()
    assert reader.n_skipped_monomorphic == sum(r[4] == "." for r in panel.records) > 0
    assert gather(reader) == panel.expected()  # a second iteration starts anew


@needs_bcftools
def test_bcf_gives_the_same(tmp_path):
    panel = Written(5)
    save(tmp_path / "p.vcf", panel.text)
    for kind in ("b", "u"):
        bcftools("view", f"-O{kind}", "-o", tmp_path / "p.bcf", tmp_path / "p.vcf")
        reader = open_panel_vcf(tmp_path / "p.bcf", keep_samples={"S1", "S6"})
        assert reader.contigs == [("20", 90000000), ("21", 90000000)]
        assert gather(reader) == panel.expected({"S1", "S6"})


def test_htslib_chunks_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(htslib_module, "PIECE", 4 * 7 * 10)
    panel = Written(6)
    path = save(tmp_path / "p.vcf", panel.text)
    assert by_htslib(path) == panel.expected()
    source = open_source(path)
    parts = list(hts_parts(source, Selection.of(path, source.samples, None, None), None, 1))
    assert len(parts) > 12 and max(len(part.all_pos) for part in parts) == 10


@pytest.mark.parametrize("bad", ["0/1", "2|0", "0|2", ".|0", "0|.", "0!1", "0|1!", "/|1", "0|:"])
def test_a_bad_genotype_is_found_wherever_it_is(tmp_path, bad):
    for n in (1, 4, 5, 8, 11):
        for i in range(n):
            calls = ["0|1"] * n
            calls[i] = bad
            message = refusal(save(tmp_path / "p.vcf", header([f"S{j}" for j in range(n)]) + record(9, *calls)))
            assert f"20:9, sample S{i}: genotype {bad.rstrip(':')} " in message


@pytest.mark.parametrize("i", range(11))
def test_a_bad_separator_is_found_wherever_it_is(tmp_path, i):
    line = "\t".join(["0|1"] * (i + 1)) + " " + "\t".join(["0|1"] * (11 - i))
    message = refusal(save(tmp_path / "p.vcf", header("ABCDEFGHIJKL") + record(9, line)))
    assert f"sample {'ABCDEFGHIJKL'[i]}: genotype 0|1 0|1 is not a genotype" in message


def test_sample_selection(tmp_path):
    panel = Written(7, n_samples=13)
    path = save(tmp_path / "p.vcf", panel.text)
    keep = {"S12", "S0", "S5", "S6", "S7"}
    reader = open_panel_vcf(path, keep_samples=keep, drop_samples={"S6"})
    assert reader.samples == ("S0", "S5", "S7", "S12")
    assert gather(reader) == panel.expected(keep - {"S6"})
    assert by_htslib(path, keep) == panel.expected(keep)
    assert "no sample NN" in refusal(path, keep_samples={"NN", "S1"})
    assert "no sample NN" in refusal(path, drop_samples={"NN"})
    assert "no sample is left" in refusal(path, drop_samples=set(panel.samples))


def test_faults_of_dropped_samples_do_not_count(tmp_path):
    path = save(tmp_path / "p.vcf", header("ABC") + record(5, "0|1", "./.", "1|0") + record(6, "1|1", "0", "0/1"))
    reader = open_panel_vcf(path, keep_samples={"A"})
    assert gather(reader)[1] == bytes([2, 3])
    assert by_htslib(path, {"A"})[1] == bytes([2, 3])


@pytest.mark.parametrize("written", ["20:1000-2000", "chr20:1,000-2,000", "21:1-500", "20:1500-", "21"])
@pytest.mark.parametrize("piece", [200, 8 << 20])
def test_region_scan(tmp_path, monkeypatch, written, piece):
    monkeypatch.setattr(source_module, "PIECE", piece)
    panel = Written(11)
    path = save(tmp_path / "p.vcf", panel.text)
    region = Region.parse(written)
    expected = panel.expected(region=(region.contig.removeprefix("chr"), region.start, region.end or 10**9))
    assert gather(open_panel_vcf(path, region)) == expected
    assert 0 < len(expected[0]) < len(panel.records)


@needs_bcftools
@pytest.mark.parametrize(("suffix", "index"), [("vcf.gz", "-t"), ("vcf.gz", "-c"), ("bcf", "-c")])
@pytest.mark.parametrize("written", ["chr20:1000-2000", "21:1500-", "20", "21:80000000-"])
def test_region_with_an_index_at_hand(tmp_path, suffix, index, written):
    panel = Written(11)
    path = tmp_path / f"p.{suffix}"
    bcftools("view", "-Ob" if suffix == "bcf" else "-Oz", "-o", path, save(tmp_path / "p.vcf", panel.text))
    region = Region.parse(written)
    expected = panel.expected(region=(region.contig.removeprefix("chr"), region.start, region.end or 10**9))
    assert gather(open_panel_vcf(path, region)) == expected
    bcftools("index", index, path)
    assert gather(open_panel_vcf(path, region)) == expected
    assert "no contig 7 (the file has 20, 21)" in refusal(path, region=Region("7"))


def test_region_reaching_records_are_left_out(tmp_path):
    path = save(tmp_path / "p.vcf", header("A") + record(5, "0|1", ref="ACGTACGT", alt="A") + record(9, "1|1"))
    assert [s[1] for s in gather(open_panel_vcf(path, Region("20", 7, 20)))[0]] == [9]


def test_region_parse():
    assert Region.parse("chr20:1,000-2000") == Region("chr20", 1000, 2000)
    assert Region.parse("20") == Region("20") and Region.parse("20:5-") == Region("20", 5)
    assert Region.parse("20:5") == Region("20", 5, 5)
    assert Region("chrM").has_contig("MT") and Region("20").has_contig("chr20") and not Region("2").has_contig("chr20")
    for text in ("", ":5", "20:", "20:x", "20:9-5", "20:0-5", "20:1-2-3", "20:1,00", "20:-5", "2 0"):
        with pytest.raises(ConfigError) as caught:
            Region.parse(text)
        assert "\n" not in str(caught.value)


SOUND = record(5, "0|1", "1|0", "0|0")
BAD_RECORDS = {
    "missing": (record(9, "0|1", ".|.", "0|0"), ["20:9, sample B", "is missing", "complete"]),
    "half missing": (record(9, "0|1", "0|0", "0|."), ["20:9, sample C", "is missing"]),
    "unphased": (record(9, "0/1", "0|0", "0|0"), ["20:9, sample A", "0/1 is not phased", "Beagle", "SHAPEIT5"]),
    "unphased homozygote": (record(9, "0|1", "0|0", "0/0"), ["20:9, sample C", "not phased"]),
    "haploid and missing": (record(9, "0|1", "1", "."), ["20:9, sample C", "is missing"]),
    "haploid and beyond": (record(9, "0|1", "2", "0|0"), ["20:9, sample B", "genotype 2 ", "beyond"]),
    "triploid": (record(9, "0|1", "0|0|1", "0|0"), ["20:9, sample B", "0|0|1 is neither diploid nor haploid"]),
    "allele too high": (record(9, "0|1", "0|0", "2|0"), ["20:9, sample C", "2|0", "beyond"]),
    "no GT": (record(9, "1", "0", "2", fmt="DS"), ["20:9", "GT"]),
    "backwards": (record(4, "0|1", "0|0", "0|0"), ["20:4", "after position 5", "bcftools sort"]),
    "contig again": (
        record(9, "0|1", "0|0", "0|0", contig="21") + record(11, "0|1", "0|0", "0|0"),
        ["20:11", "comes again after 21", "bcftools sort"],
    ),
    "repeated": (record(5, "0|1", "0|0", "0|0", alt="G") + SOUND, ["20:5", "second record A>C", "bcftools norm"]),
}
BAD_TEXT = {
    "not a genotype": (record(9, "0|1", "0|x", "0|0"), ["20:9, sample B", "0|x is not a genotype"]),
    "empty genotype": (record(9, "0|1", "", "0|0"), ["20:9, sample B", "not a genotype"]),
    "too few columns": (record(9, "0|1", "0|0") + SOUND, ["20:9", "fewer than the header's 12"]),
    "too many columns": (record(9, "0|1", "0|0", "0|0", "0|0"), ["20:9", "more than the header's 12"]),
    "hardly a column": ("20\t9\n", ["20:9", "2 columns"]),
    "bad position": (record("9x", "0|1", "0|0", "0|0"), ["contig 20", "'9x' is not a number"]),
    "cut in a line": (record(9, "0|1", "0|0", "0|0")[:-5], ["truncated"]),
    "cut in a genotype": (record(9, "0|1", "0|0", "0|0")[:-2], ["truncated"]),
    "unphased without a last newline": (record(9, "0|1", "0|0", "0/1")[:-1], ["20:9, sample C", "not phased"]),
    "cut in the fixed columns": ("20\t9\t.\tA", ["truncated"]),
}


@pytest.mark.parametrize("name", [*BAD_RECORDS, *BAD_TEXT])
def test_bad_records_are_refused(tmp_path, name):
    text, words = (BAD_RECORDS | BAD_TEXT)[name]
    message = refusal(save(tmp_path / "p.vcf", header("ABC", ("20", "21")) + SOUND + text))
    assert all(word in message for word in words), message


@needs_bcftools
@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records_of_bcf_get_the_same_message(tmp_path, name):
    text = header("ABC", ("20", "21")) + SOUND + BAD_RECORDS[name][0]
    of_text = refusal(save(tmp_path / "p.vcf", text))
    bcftools("view", "-Ob", "-o", tmp_path / "p.bcf", tmp_path / "p.vcf")
    assert refusal(tmp_path / "p.bcf") == of_text.replace("p.vcf", "p.bcf")


def test_repeats_and_order_are_seen_across_chunk_borders(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "PIECE", 10)
    head = header("ABC")
    legal = [record(5, "0|1", "1|0", "0|0", alt=alt) for alt in ("G", "T", "C", "AT")]
    assert len(gather(open_panel_vcf(save(tmp_path / "p.vcf", head + "".join(legal))))[0]) == 4
    for last, words in ((legal[0], "second record A>G"), (record(4, "0|0", "0|0", "0|0"), "after position 5")):
        message = refusal(save(tmp_path / "p.vcf", head + "".join(legal) + last))
        assert f"20:{last.split()[1]}" in message and words in message


def test_bad_files_are_refused(tmp_path, capfd):
    path = tmp_path / "p.vcf.gz"
    assert "no such file" in refusal(path)
    assert "cannot be read" in refusal(tmp_path)
    assert "empty" in refusal(save(path, b""))
    assert "neither VCF nor BCF" in refusal(save(path, "hello\n"))
    assert "neither VCF nor BCF" in refusal(save(path, gzip.compress(b"hello\n")))
    assert "#CHROM" in refusal(save(path, "##fileformat=VCFv4.2\n" + SOUND))
    assert "no samples" in refusal(save(path, header("")))
    assert "sample A comes twice" in refusal(save(path, header("ABA")))
    assert "no records" in refusal(save(path, header("ABC")))
    assert "no contig 7" in refusal(save(path, header("ABC") + SOUND), region=Region("7"))
    assert capfd.readouterr() == ("", "")


def test_truncated_and_damaged_files_are_refused(tmp_path):
    text, path = Written(2).text.encode(), tmp_path / "p.vcf.gz"
    whole = bgzf(text)
    for cut in (len(whole) - len(BGZF_END), len(whole) // 2):
        assert "truncated" in refusal(save(path, whole[:cut]))
    assert "damaged" in refusal(save(path, whole[: len(whole) // 2] + BGZF_END))
    assert "truncated" in refusal(save(path, bgzf(text[: len(text) // 2])))
    for cut in (900, 4):  # 4: all of the text is there, its checksum is not
        assert "truncated" in refusal(save(path, gzip.compress(text)[:-cut]))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    assert "damaged" in refusal(save(path, bytes(flipped)))


def test_undeclared_contigs_leave_stderr_clean(tmp_path, capfd):
    path = save(tmp_path / "p.vcf", header("ABC", ()) + SOUND)
    assert len(gather(open_panel_vcf(path))[0]) == 1
    assert list(read_targets(path).by_contig) == ["20"]
    assert capfd.readouterr() == ("", "")


def target_refusal(path):
    with pytest.raises(InputError) as caught:
        read_targets(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_targets(tmp_path):
    """A haploid call has one allele and a place that is not there, but a missing one says nothing of ploidy."""
    text = header("AB", ("20", "chr21")) + record(5, "0|1", "2|0", alt="C,G", name="rs5") + record(6, "./.", ".")
    text += record(7, "0/0", ".|1") + record(7, "0|0", "0|.", alt=".") + record(3, "1/1", "1|0", contig="chr21")
    targets = read_targets(save(tmp_path / "t.vcf.gz", bgzf(text.encode())))
    assert targets.samples == ("A", "B") and targets.contigs == [("20", 90000000), ("chr21", 90000000)]
    assert list(targets.by_contig) == ["20", "chr21"]
    first = targets.by_contig["20"]
    assert first.alleles.dtype == np.int8 and first.samples == ("A", "B")
    assert first.alleles.tolist() == [[0, 1, 2, 0], [-1, -1, -1, -1], [0, 0, -1, 1], [0, 0, 0, -1]]
    assert first.sites.pos.tolist() == [5, 6, 7, 7] and first.sites.alt == ["C,G", "C", "C", "."]
    assert first.sites.ids == ["rs5", ".", ".", "."] and first.sites.ref == ["A"] * 4
    only = read_targets(tmp_path / "t.vcf.gz", Region("21"))
    assert list(only.by_contig) == ["chr21"] and only.by_contig["chr21"].alleles.tolist() == [[1, 1, 1, 0]]
    assert read_targets(tmp_path / "t.vcf.gz", Region("20", 6, 6)).by_contig["20"].sites.pos.tolist() == [6]


@pytest.mark.parametrize(("text", "words"), [
    (record(9, "0/0", "0/1"), ["20:9, sample B", "0/1 is not phased", "impute=false", "SHAPEIT5"]),
    (record(9, "0|0", "2"), ["20:9, sample B", "genotype 2 ", "beyond"]),
    (record(9, "0|0", "0|1|1"), ["20:9, sample B", "0|1|1 is neither diploid nor haploid"]),
    (record(9, "0|0", "0|3"), ["20:9, sample B", "0|3", "beyond"]),
    (record(9, "1", "1", fmt="DS"), ["20:9", "GT"]),
    (record(4, "0|0", "0|1"), ["20:4", "after position 5"]),
    (record(5, "0|0", "0|1"), ["20:5", "second record A>C"]),
    (record(9, "0|0"), ["20:9", "fewer than the header's 11"]),
])  # fmt: skip
def test_bad_targets_are_refused(tmp_path, text, words):
    message = target_refusal(save(tmp_path / "t.vcf", header("AB") + record(5, "0/0", "1|0") + text))
    assert all(word in message for word in [*words, "t.vcf"]), message


def test_truncated_targets_are_refused(tmp_path, capfd):
    text, path = Written(2).text.encode(), tmp_path / "t.vcf.gz"
    assert "truncated" in target_refusal(save(path, bgzf(text)[: -len(BGZF_END)]))
    assert "truncated" in target_refusal(save(path, gzip.compress(text)[:-900]))
    assert "no records" in target_refusal(save(path, header("AB")))
    assert capfd.readouterr() == ("", "")
