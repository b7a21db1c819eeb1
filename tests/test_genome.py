"""Sequence by any kind of file is the same; tokens are what a plain reading of the letters says."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pysam
import pytest

from npimpute.dna.genome import Genome, open_genome
from npimpute.dna.tokens import (
    BASES,
    COMPLEMENT,
    SIX_MER,
    SIX_MER_BASES,
    bases,
    letters,
    reverse_complement,
    reverse_complement_bases,
    six_mers,
    tokeniser,
)
from npimpute.errors import ConfigError, InputError

CONTIGS = {
    "chr1": "ACGTacgtNNNNnnACGRYKMacgt" * 7,
    "2": "TTTTTACGACGTTTNACG",
    "chrX": "GATTACA" * 30,
}
REAL = Path(__file__).parents[2] / "shared" / "data" / "dna" / "human_NT_187562.fa.gz"


def ascii(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def text(values: np.ndarray) -> str:
    return values.tobytes().decode()


def fasta(contigs: dict[str, str], width: int = 11, end: str = "\n") -> str:
    lines = []
    for name, sequence in contigs.items():
        lines.append(f">{name} a description of it")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return "".join(line + end for line in lines)


def two_bit(path: Path, contigs: dict[str, str]) -> None:
    """Writes the format of UCSC's specification; unknown letters are N there."""
    code = {"T": 0, "C": 1, "A": 2, "G": 3}
    bodies = []
    for sequence in contigs.values():
        plain = re.sub("[^ACGTacgt]", "N", sequence)
        runs = [[(m.start(), m.end() - m.start()) for m in re.finditer(p, plain)] for p in ("N+", "[a-z]+")]
        body = struct.pack("<I", len(plain))
        for found in runs:
            body += struct.pack("<I", len(found))
            body += b"".join(struct.pack("<I", value[i]) for i in (0, 1) for value in found)
        body += struct.pack("<I", 0)
        codes = [code.get(letter.upper(), 0) for letter in plain] + [0] * (-len(plain) % 4)
        quads = zip(*[iter(codes)] * 4, strict=True)
        bodies.append(body + bytes(a << 6 | b << 4 | c << 2 | d for a, b, c, d in quads))
    start = 16 + sum(5 + len(name) for name in contigs)
    index = b""
    for name, offset in zip(contigs, np.cumsum([0, *map(len, bodies)]), strict=False):
        index += bytes([len(name)]) + name.encode() + struct.pack("<I", start + int(offset))
    path.write_bytes(struct.pack("<IIII", 0x1A412743, 0, len(contigs), 0) + index + b"".join(bodies))


def made(folder: Path, kind: str) -> Genome:
    path = folder / {"2bit": "g.2bit"}.get(kind, "g.fa" if kind in ("plain", "fai", "crlf") else "g.fa.gz")
    if kind == "2bit":
        two_bit(path, CONTIGS)
    elif kind in ("plain", "fai"):
        path.write_text(fasta(CONTIGS))
    elif kind == "crlf":
        path.write_bytes(fasta(CONTIGS, end="\r\n").encode())
    elif kind == "gzip":
        path.write_bytes(gzip.compress(fasta(CONTIGS).encode()))
    else:
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(fasta(CONTIGS).encode())
    if kind in ("fai", "bgzip with index"):
        pysam.faidx(str(path))
    return open_genome(path)


KINDS = ["plain", "crlf", "fai", "gzip", "bgzip", "bgzip with index", "2bit"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_has_the_same_sequence(tmp_path, kind):
    genome = made(tmp_path, kind)
    assert genome.lengths == {name: len(sequence) for name, sequence in CONTIGS.items()}
    for name, sequence in CONTIGS.items():
        known = re.sub("[^ACGT]", "N", sequence.upper())
        for start, end in ((0, len(sequence)), (3, 20), (-4, 5), (len(sequence) - 3, len(sequence) + 6), (-5, -2)):
            expected = "".join(known[i] if 0 <= i < len(known) else "N" for i in range(start, end))
            found = genome.fetch(name, start, end)
            assert found.dtype == np.uint8
            assert re.sub("[^ACGT]", "N", text(found)) == expected
    assert text(genome.fetch("chr1", 0, 8)) == "ACGTACGT"
    assert genome.fetch("chr1", 5, 5).shape == (0,)


def test_indexed_files_are_not_read_whole(tmp_path):
    genome = made(tmp_path, "fai")
    path = genome.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])  # the last contig's end is lost
    (tmp_path / "g.fa.fai").touch()
    damaged = open_genome(path)
    assert text(damaged.fetch("2", 0, 18)) == CONTIGS["2"]
    with pytest.raises(InputError, match="chrX:191-210"):
        damaged.fetch("chrX", 190, 210)


def test_contigs_go_by_either_name(tmp_path):
    genome = made(tmp_path, "plain")
    assert [genome.name(name) for name in ("1", "chr1", "chr2", "X", "23")] == ["chr1", "chr1", "2", "chrX", "chrX"]
    with pytest.raises(InputError, match="no contig chr3; there are chr1, 2, chrX"):
        genome.name("chr3")
    with pytest.raises(InputError, match="no contig"):
        genome.fetch("nowhere", 0, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fa", b"ACGT\n", "does not start with >"),
        ("a.fa", b"", "not FASTA"),
        ("a.fa", b">a\nAC\n>a\nGT\n", "contig a twice"),
        ("a.fa", b"> \nAC\n", "without a name"),
        ("a.fa.gz", gzip.compress(b">a\n" + b"ACGT" * 999)[:-20], "whole"),
        ("a.fa.gz", b">a\nACGT\n", "cannot be read"),
        ("a.2bit", b">a\nACGT\n", "not a .2bit"),
        ("a.txt", b">a\nACGT\n", "neither FASTA nor 2bit"),
    ],
)
def test_other_files_are_refused_in_a_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        open_genome(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        open_genome(tmp_path / "none.fa")


def test_bases_of_any_letter():
    assert bases(ascii("ACGTNacgtnRYU*-")).tolist() == [0, 1, 2, 3, 4] * 2 + [4] * 5
    assert bases(ascii("ACG"), np.uint8).dtype == np.uint8
    assert text(letters(np.array([0, 1, 2, 3, 4]))) == "ACGTN"


def test_reverse_complement_of_letters_is_that_of_tokens():
    rng = np.random.default_rng(0)
    sequence = rng.choice(ascii("ACGTNacgtnRYKMSWBDHV"), 200)
    assert (bases(reverse_complement(sequence)) == reverse_complement_bases(bases(sequence))).all()
    assert (reverse_complement(reverse_complement(sequence)) == sequence).all()
    assert text(reverse_complement(ascii("AACGTTTRN"))) == "NYAAACGTT"
    assert COMPLEMENT.tolist() == [3, 2, 1, 0, 4, 5]
    two = np.stack([sequence, sequence[::-1]])
    assert (reverse_complement(two)[1] == reverse_complement(sequence[::-1])).all()


def plain_six_mers(sequence: str) -> list[tuple[int, int, int]]:
    """Token, start and end, read letter by letter."""
    found, at = [], 0
    while at < len(sequence):
        word = sequence[at : at + 6]
        if re.fullmatch("[ACGT]{6}", word):
            code = 0
            for letter in word:
                code = 4 * code + "ACGT".index(letter)
            found.append((code, at, at + 6))
            at += 6
        else:
            found.append((4096 + "ACGTN".index(sequence[at]), at, at + 1))
            at += 1
    return found


@pytest.mark.parametrize("seed", range(6))
def test_six_mers_are_those_of_a_plain_reading(seed):
    rng = np.random.default_rng(seed)
    sequence = "".join(rng.choice(list("ACGTN"), 300 + seed, p=[0.24, 0.24, 0.24, 0.25, 0.03]))
    tokens, spans = six_mers(ascii(sequence))
    assert list(zip(tokens.tolist(), *spans.T.tolist(), strict=True)) == plain_six_mers(sequence)
    assert spans[0, 0] == 0 and spans[-1, 1] == len(sequence) and (spans[1:, 0] == spans[:-1, 1]).all()


def test_six_mers_of_little():
    assert six_mers(ascii(""))[0].shape == (0,) and six_mers(ascii(""))[1].shape == (0, 2)
    assert six_mers(ascii("ACG"))[0].tolist() == SIX_MER_BASES[:3].tolist()
    assert six_mers(ascii("acgtac"))[0].tolist() == six_mers(ascii("ACGTAC"))[0].tolist() == [433]
    assert six_mers(ascii("NNNNNNN"))[0].tolist() == [4100] * 7


def test_windows_of_a_fixed_number_of_tokens_keep_their_middle():
    sequence = ascii("N" * 60 + "ACGTAC" * 10)
    tokens, spans = SIX_MER.fixed(sequence)
    assert len(tokens) == 20
    assert ((spans[:, 0] <= 60) & (spans[:, 1] > 60)).sum() == 1
    plain = ascii("ACGTAC" * 7 + "AC")
    assert SIX_MER.fixed(plain)[0].tolist() == [433] * 7
    assert BASES.fixed(plain)[0].tolist() == bases(plain).tolist()
    assert len(SIX_MER.fixed(ascii("ACG"))[0]) == 1
    assert tokeniser(6) is BASES and tokeniser(4102) is SIX_MER
    with pytest.raises(ConfigError, match="vocabulary 7"):
        tokeniser(7)


@pytest.mark.skipif(not REAL.exists(), reason="the human sequence is not here")
def test_real_sequence():
    genome = open_genome(REAL)
    (name,) = genome.lengths
    assert genome.lengths[name] == 1_111_570
    sequence = genome.fetch(name, 0, 1_111_570)
    assert text(sequence[:8]) == "GATCCCAC"
    assert np.bincount(bases(sequence), minlength=5).tolist() == [322411, 235377, 233529, 320253, 0]
