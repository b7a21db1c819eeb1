"""Records that would end or crash the process that gives them to htslib and cyvcf2."""

import gzip
import struct
from pathlib import Path

import pysam
import pytest
from conftest import Record, Vcf, run_cli, simulate

from npimpute.errors import InputError
from npimpute.vcf import sound, source
from npimpute.vcf.read import open_panel_vcf, read_targets


@pytest.fixture(scope="module")
def small() -> Vcf:
    return simulate(n_sites=40, n_panel=6, n_target=2).panel


def genotype_fields(data: bytes) -> list[int]:
    """Where each record's type descriptor of its first FORMAT field is."""
    at, out = 9 + struct.unpack("<I", data[5:9])[0], []
    while at < len(data):
        shared, own = struct.unpack("<II", data[at : at + 8])
        out.append(at + 8 + shared + 2)  # behind the key: its own descriptor and one byte
        at += 8 + shared + own
    return out


def patched(path: Path, to: Path, record: int, descriptor: int) -> Path:
    data = bytearray(gzip.decompress(path.read_bytes()))
    at = genotype_fields(bytes(data))[record]
    assert data[at] == 2 << 4 | 1, "two alleles of one byte each"
    data[at] = descriptor
    to.write_bytes(bytes(data))
    pysam.tabix_compress(str(to), f"{to}.bcf", force=True)
    return Path(f"{to}.bcf")


@pytest.mark.parametrize("piece", [None, 500, 4_000])
def test_every_record_of_a_sound_file_is_sound(tmp_path, small, monkeypatch, piece):
    path = small.save(tmp_path / "a.bcf")
    if piece:  # of several BGZF blocks, whose borders cut records
        monkeypatch.setattr(source, "PIECE", piece)
        end, text = path.read_bytes()[-28:], gzip.decompress(path.read_bytes())
        with open(path, "wb") as file:
            for start in range(0, len(text), piece):
                part = tmp_path / "part"
                part.write_bytes(text[start : start + piece])
                pysam.tabix_compress(str(part), f"{part}.gz", force=True)
                file.write(Path(f"{part}.gz").read_bytes()[:-28])
            file.write(end)
    for threads in (1, 3):
        assert list(sound.sound_records(path, threads)) == [True] * len(small.records)
    assert sum(len(chunk.sites) for chunk in open_panel_vcf(path)) == len(small.records)


def test_what_is_bcf_is_told_by_content(tmp_path, small):
    kinds = {name: small.save(tmp_path / name) for name in ("a.bcf", "a.vcf.gz", "a.vcf")}
    assert {name: sound.is_bgzf_bcf(path) for name, path in kinds.items()} == {
        "a.bcf": True,
        "a.vcf.gz": False,
        "a.vcf": False,
    }
    assert not sound.is_bgzf_bcf(tmp_path / "none")


@pytest.mark.parametrize("descriptor", [2 << 4, 0, 1, 15], ids=hex)
def test_genotypes_without_type_or_length_are_an_error_not_the_end(tmp_path, small, descriptor):
    path = patched(small.save(tmp_path / "a.bcf"), tmp_path / "bad", 7, descriptor)
    found = list(sound.sound_records(path, 1))
    assert found[:8] == [True] * 7 + [descriptor >> 4 > 0 and descriptor & 15 in (1, 2, 3, 5, 7)]
    where = f"20:{small.records[7].pos}"
    for read in (lambda: list(open_panel_vcf(path)), lambda: read_targets(path)):
        with pytest.raises(InputError, match=f"{where}|the file is damaged"):
            read()
    # In a process of its own, since one that htslib ended would not get so far as to say something.
    status, printed, log = run_cli("panel", "--ref", path, "--out", tmp_path / "a.npp")
    assert (status, printed) == (2, "") and log.count("npimpute: error: ") == 1, log


def test_records_of_another_number_of_samples_than_the_header_names_are_an_error(tmp_path, small):
    data = gzip.decompress(small.save(tmp_path / "a.bcf").read_bytes())
    (length,) = struct.unpack("<I", data[5:9])
    header = data[9 : 9 + length].replace(b"\tP5\n", b"\n")
    (tmp_path / "b").write_bytes(data[:5] + struct.pack("<I", len(header)) + header + data[9 + length :])
    pysam.tabix_compress(str(tmp_path / "b"), str(tmp_path / "b.bcf"), force=True)
    for read in (lambda: list(open_panel_vcf(tmp_path / "b.bcf")), lambda: read_targets(tmp_path / "b.bcf")):
        with pytest.raises(InputError, match="b.bcf: .*number of columns or samples"):
            read()


def test_records_without_samples_have_nothing_to_look_at(tmp_path):
    text = "##fileformat=VCFv4.2\n##contig=<ID=20>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (tmp_path / "a.vcf").write_text(text + "20\t5\t.\tA\tC\t.\t.\t.\n20\t6\t.\tA\tC\t.\t.\t.\n")
    with (
        pysam.VariantFile(str(tmp_path / "a.vcf")) as plain,
        pysam.VariantFile(str(tmp_path / "a.bcf"), "wb", header=plain.header) as to,
    ):
        for record in plain:
            to.write(record)
    assert list(sound.sound_records(tmp_path / "a.bcf", 1)) == [True, True]


def test_a_header_longer_than_a_piece(tmp_path, monkeypatch):
    records = [Record("20", 5, ".", "A", "C", ("0|1",)), Record("20", 6, ".", "A", "C", ("0|1",))]
    contigs = {f"a_long_name_of_a_contig_{i}": 9 for i in range(5_000)} | {"20": 9}
    path = Vcf(["S"], records, contigs).save(tmp_path / "a.bcf", index=False)
    monkeypatch.setattr(source, "PIECE", 1)
    assert list(sound.sound_records(path, 2)) == [True, True]


@pytest.mark.parametrize("suffix", [".vcf", ".vcf.gz"])
@pytest.mark.parametrize("spoilt", ["2", "20:DS\t0|0\t0|1", "", "20\t9\t.\tA\tC\t.\t.\t.\tGT\t0|1\t0|1\t0|1"])
def test_lines_of_the_wrong_shape_are_an_error_not_the_end(tmp_path, suffix, spoilt):
    records = [Record("20", pos, ".", "A", "C", ("0|1", "1|1")) for pos in (5, 9, 12)]
    path = Vcf(["S", "T"], records).save(tmp_path / "a.vcf")
    assert list(sound.sound_records(path, 2)) == [True] * 3
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-2], spoilt, lines[-1]]) + "\n")
    if suffix == ".vcf.gz":
        pysam.tabix_compress(str(path), f"{path}.gz", force=True)
        path = Path(f"{path}.gz")
    assert list(sound.sound_records(path, 1)) == [True, False, True]
    status, printed, log = run_cli("concordance", "--truth", path, "--imputed", path)
    assert (status, printed) == (2, "") and log.count("npimpute: error: ") == 1, log
    assert "20:5" in log and "number of columns or samples" in log


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("contig", ["20", "2<0>"])
def test_the_first_record_of_a_contig_that_the_header_does_not_name(tmp_path, named, contig):
    """Of such a contig cyvcf2 takes a record that htslib could not read."""
    records = [Record(contig, pos, ".", "A", "C", ("0|1", "1|1")) for pos in (5, 9)]
    path = Vcf(["S", "T"], records, {contig: 900} if named else {}).save(tmp_path / "a.vcf")
    words = ("concordance", "--truth", path, "--imputed", path)
    status, _, log = run_cli(*words)
    assert status == (0 if contig == "20" else 2), log
    path.write_text(path.read_text().replace("0|1", "Be0|1", 1))
    status, printed, log = run_cli(*words)
    assert (status, printed) == (2, "") and log.count("npimpute: error: ") == 1, log


@pytest.mark.parametrize("place", [-3, -2])
def test_header_lines_among_the_records_are_an_error(tmp_path, place):
    """htslib takes them for records, of a contig with no number, at which cyvcf2 crashes; the header is said to end
    where it does for htslib."""
    records = [Record("20", pos, ".", "A", "C", ("0|1", "1|1")) for pos in (5, 9, 12)]
    path = Vcf(["S", "T"], records).save(tmp_path / "a.vcf")
    lines = path.read_text().splitlines()
    head = next(line for line in lines if line.startswith("#CHROM"))
    path.write_text("\n".join([*lines[:place], head, *lines[place:]]) + "\n")
    assert list(sound.sound_records(path, 1)) == [i != place + 3 for i in range(4)]
    status, printed, log = run_cli("concordance", "--truth", path, "--imputed", path)
    assert (status, printed) == (2, "") and log.count("npimpute: error: ") == 1, log
