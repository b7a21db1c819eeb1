"""Damage never looks like the end of a file, whatever its kind and whether there is a region and an index."""

import os
import subprocess
import sys

import numpy as np
import pytest
from test_read import (
    BGZF_END,
    Written,
    bcftools,
    bgzf,
    gather,
    header,
    needs_bcftools,
    record,
    refusal,
    save,
    target_refusal,
)

from npimpute.errors import InputError
from npimpute.vcf.read import open_panel_vcf, read_targets
from npimpute.vcf.region import Region

REGIONS = [None, Region("20"), Region("20", 1, 10**6)]
FULL = Written(4, n_samples=30, n_records=1500, contigs=("20",))
PHASED = record(5, "0|1", "1|0")


def indexed(folder, suffix):
    """FULL, and its index."""
    path = folder / f"p.{suffix}"
    bcftools("view", "-Ob" if suffix == "bcf" else "-Oz", "-o", path, save(folder / "p.vcf", FULL.text))
    bcftools("index", "-c" if suffix == "bcf" else "-t", path)
    return path


def flip(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]


def cut(data):
    return data[: len(data) // 2] + BGZF_END


def spoil(path, damage):
    """Damage the file; its index stays the newer of the two."""
    path.write_bytes(damage(path.read_bytes()))
    for suffix in (".csi", ".tbi"):
        if os.path.exists(f"{path}{suffix}"):
            os.utime(f"{path}{suffix}")


@needs_bcftools
@pytest.mark.parametrize("suffix", ["vcf.gz", "bcf"])
@pytest.mark.parametrize("damage", [flip, cut])
def test_damage_is_told_with_a_region_and_an_index(tmp_path, suffix, damage):
    path = indexed(tmp_path, suffix)
    whole = FULL.expected()
    for region in REGIONS:
        assert gather(open_panel_vcf(path, region)) == whole
        assert len(read_targets(path, region).by_contig["20"].sites) == len(FULL.records)
    spoil(path, damage)
    for region in REGIONS:
        assert any(word in refusal(path, region=region) for word in ("damaged", "truncated"))
        with pytest.raises(InputError, match="damaged|truncated"):
            read_targets(path, region)


@needs_bcftools
@pytest.mark.parametrize("suffix", ["vcf", "vcf.gz", "bcf"])
def test_reading_stops_behind_the_region(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("npimpute.vcf.source.PIECE", 5000)
    monkeypatch.setattr("npimpute.vcf.htslib.PIECE", 5000)
    end = FULL.records[20][1]
    path = tmp_path / f"p.{suffix}"
    backwards = record(1, *["0|0"] * 30)
    text = save(tmp_path / "text.vcf", FULL.text + backwards)
    bcftools("view", {"vcf": "-Ov", "vcf.gz": "-Oz", "bcf": "-Ob"}[suffix], "-o", path, text)
    region = Region("20", 1, end)
    assert gather(open_panel_vcf(path, region)) == FULL.expected(region=("20", 1, end))
    assert read_targets(path, region).by_contig["20"].sites.pos.tolist() == [r[1] for r in FULL.records if r[1] <= end]
    assert "after position" in refusal(path)


@needs_bcftools
def test_targets_of_text_and_bcf_are_alike(tmp_path):
    lines = [record(5, "0|1", "2|0", alt="C,G", name="rs5"), record(6, "./.", ".", alt="."), record(7, "0/0", ".|1")]
    lines += [record(8, "1|0:0.5", "./1:.", fmt="GT:DS"), record(9, "1/1", "1|0", contig="21")]
    path = save(tmp_path / "t.vcf", header("AB", ("20", "21")) + "".join(lines))
    bcftools("view", "-Ob", "-o", tmp_path / "t.bcf", path)
    of_text, of_bcf = read_targets(path, threads=3), read_targets(tmp_path / "t.bcf")
    assert list(of_text.by_contig) == list(of_bcf.by_contig) == ["20", "21"]
    for contig, targets in of_text.by_contig.items():
        other = of_bcf.by_contig[contig]
        np.testing.assert_array_equal(targets.alleles, other.alleles)
        assert vars(targets.sites).keys() == vars(other.sites).keys()
        assert all(np.array_equal(value, vars(other.sites)[name]) for name, value in vars(targets.sites).items())
    expected = [[0, 1, 2, 0], [-1, -1, -1, -1], [0, 0, -1, 1], [1, 0, -1, 1]]
    assert of_text.by_contig["20"].alleles.tolist() == expected


READ = """import sys; from npimpute.vcf import read
try: print(len(list(getattr(read, sys.argv[1])('/dev/stdin').samples)))
except Exception as error: print(type(error).__name__, error)"""


@pytest.mark.parametrize("reader", ["open_panel_vcf", "read_targets"])
def test_a_pipe_is_refused(tmp_path, reader):
    data = bgzf((header("AB") + PHASED).encode())
    call = [sys.executable, "-c", READ, reader]
    piped = subprocess.run(call, input=data, capture_output=True, timeout=60).stdout.decode()
    assert piped.startswith("InputError /dev/stdin: is not a regular file (a pipe cannot be read twice): write it to")
    with open(save(tmp_path / "t.vcf.gz", data), "rb") as file:
        assert subprocess.run(call, stdin=file, capture_output=True, timeout=60).stdout.strip() == b"2"
    os.mkfifo(tmp_path / "fifo.vcf")
    assert "is not a regular file" in refusal(tmp_path / "fifo.vcf")
    os.symlink(tmp_path / "t.vcf.gz", tmp_path / "link.vcf.gz")
    assert read_targets(tmp_path / "link.vcf.gz").samples == ("A", "B")


@needs_bcftools
@pytest.mark.parametrize("suffix", ["vcf", "bcf"])
def test_any_number_of_threads_will_do(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    bcftools(
        "view", "-Ob" if suffix == "bcf" else "-Ov", "-o", path, save(tmp_path / "text.vcf", header("AB") + PHASED)
    )
    assert len(gather(open_panel_vcf(path, threads=100_000))[0]) == 1
    assert len(read_targets(path, threads=100_000).by_contig["20"].sites) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_blank_lines_are_passed_over(tmp_path, newline):
    text = header("AB") + PHASED + "\n" + record(6, "1|1", "0|0") + "\n\n"
    path = tmp_path / "t.vcf"
    with open(path, "w", newline=newline) as file:
        file.write(text)
    call = [sys.executable, "-c", "import sys; from npimpute.vcf.read import read_targets\n"
            "print(read_targets(sys.argv[1]).by_contig['20'].alleles.tolist())", path]  # fmt: skip
    ran = subprocess.run(call, capture_output=True, timeout=60)  # by itself: cyvcf2 crashed on a blank line
    assert ran.stdout.decode().strip() == "[[0, 1, 1, 0], [1, 1, 0, 0]]"
    assert len(gather(open_panel_vcf(path))[0]) == 2


@needs_bcftools
@pytest.mark.parametrize("refused", [refusal, target_refusal])
@pytest.mark.parametrize(("fmt", "words", "unwanted"), [
    ("DP:GT", ["20:9", "FORMAT is DP:GT", "VCF requires GT to be first"], "leave out"),
    ("DP", ["20:9", "FORMAT does not start with GT; leave out"], "first;"),
])  # fmt: skip
def test_gt_that_is_not_first(tmp_path, refused, fmt, words, unwanted):
    call = "7:0|1" if ":" in fmt else "7"
    path = save(tmp_path / "t.vcf", header("AB") + PHASED + record(9, call, call, fmt=fmt))
    message = refused(path)
    assert all(word in message for word in words) and unwanted not in message


@needs_bcftools
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize(("text", "words"), [
    (record(9, "0|1"), "20:9: the record has fewer than the header's 11 columns; the file is damaged"),
    (record(9, "0|1", "0|0", "0|0"), "20:9: the record has more than the header's 11 columns; the file is damaged"),
    ("20\t9\t.\tA\tC\t.\t.\t.\n", "20:9: the record has 8 columns"),
    (record(9, "0|1", "0x1"), "20:9, sample B: genotype 0x1 is not a genotype; the file is damaged"),
    (record("9x", "0|1", "0|1"), "POS '9x' is not a number; the file is damaged"),
])  # fmt: skip
def test_a_line_of_the_wrong_shape_is_told_as_damage(tmp_path, region, text, words):
    body = header("AB") + PHASED + text + record(12, "0|0", "0|0")
    path = save(tmp_path / "t.vcf.gz", bgzf(body.encode()))
    subprocess.run(["bcftools", "index", "-t", path], capture_output=True)  # which some of these lines do not let it
    assert words in refusal(path, region=region)
    with pytest.raises(InputError, match="t.vcf.gz") as caught:
        read_targets(path, region)
    assert words in str(caught.value)


def test_too_many_alleles_of_a_target(tmp_path):
    def line(n):
        return record(9, "0|1", f"1|{n}", alt=",".join("A" * (i + 2) for i in range(n)))

    path = save(tmp_path / "t.vcf", header("AB") + line(126))
    assert read_targets(path).by_contig["20"].alleles.tolist() == [[0, 1, 1, 126]]
    assert "20:9: 127 ALT alleles are too many" in target_refusal(save(path, header("AB") + line(127)))
