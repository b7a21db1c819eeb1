"""Sequence, places and labels as people have them: empty contigs, another build, gaps, spreadsheets."""

import numpy as np
import pytest
import torch
from conftest import expect_refusal, run_forked

from npimpute.dna.config import HawkConfig, NTConfig
from npimpute.dna.finetune import FinetuneConfig, Rows, head_config
from npimpute.dna.genome import open_genome
from npimpute.dna.model_files import load_model, new_model, save
from npimpute.dna.predict import ReadConfig, Reader, embed_intervals, score_variants
from npimpute.dna.tables import read_table
from npimpute.dna.tokens import SIX_MER_VOCABULARY, reverse_complement, six_mers
from npimpute.dna.windows import Interval, Variant
from npimpute.errors import InputError

CONFIGS = {
    "hawk": HawkConfig(d_model=8, n_layers=1, d_rnn=8, n_blocks=2, expand=1),
    "ntv2": NTConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=8),
}
pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A genome with an empty contig and a gap, and models."""
    folder = tmp_path_factory.mktemp("messy")
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 600)
    letters[200:300] = ord("N")
    text = letters.tobytes().decode()
    (folder / "g.fa").write_text(f">chr1\n{text}\n>none\n>chr2\n{text[:50]}\n")
    for name, config in CONFIGS.items():
        torch.manual_seed(3)
        save(folder / name, new_model(config), config)
    return folder


def run(folder, model, *words) -> str:
    words = [*words, "--model", folder / model, "--fasta", folder / "g.fa", "--threads", "1", "--device", "cpu"]
    status, _, log = run_forked("dna", *words)
    assert status == 0, log
    return log


@pytest.mark.parametrize(("model", "length"), [("hawk", []), ("ntv2", ["--length", "60"])])
def test_a_contig_without_bases_has_no_bins(here, tmp_path, model, length):
    run(here, model, "embed", "--bin", "100", *length, "--out", tmp_path / "b.npz")
    found = np.load(tmp_path / "b.npz")
    assert found["contig"].tolist() == ["chr1"] * 6 + ["chr2"] and len(found["embedding"]) == 7
    words = ["dna", "embed", "--model", here / model, "--fasta", here / "g.fa", "--bin", "9", *length]
    words += ["--contig", "none", "--threads", "1", "--out", tmp_path / "c.npz"]
    expect_refusal(tmp_path, words, "none without a base: name another --contig")


def test_a_genome_without_bases_is_refused(tmp_path):
    (tmp_path / "g.fa").write_text(">a\n>b\n\n")
    with pytest.raises(InputError, match="holds no sequence"):
        open_genome(tmp_path / "g.fa")


def test_variants_of_another_build_are_told_of(here, tmp_path):
    genome = open_genome(here / "g.fa")
    at = [place for place in range(0, 600, 7) if not 200 <= place < 300]
    refs = [genome.fetch("chr1", place, place + 1).tobytes().decode() for place in at]
    shifted = [
        f"chr1\t{place + 3}\t.\t{ref}\t{'A' if ref != 'A' else 'C'}\n" for place, ref in zip(at, refs, strict=True)
    ]
    (tmp_path / "other.vcf").write_text("".join(shifted))
    right = [
        f"chr1\t{place + 1}\t.\t{ref}\t{'A' if ref != 'A' else 'C'}\n" for place, ref in zip(at, refs, strict=True)
    ]
    (tmp_path / "own.vcf").write_text("".join(right + shifted[: len(right) // 2]))
    (tmp_path / "other.bed").write_text("chr1\t5\t9\nchr1\t700\t800\nchr2\t70\t80\n")
    words = ["score", "--length", "20", "--llr-only", "--vcf"]
    log = run(here, "hawk", *words, tmp_path / "other.vcf", "--out", tmp_path / "a.tsv")
    assert "places have another REF than" in log and "are they of another build?" in log
    assert "another build" not in run(here, "hawk", *words, tmp_path / "own.vcf", "--out", tmp_path / "b.tsv")
    log = run(here, "hawk", "embed", "--bed", tmp_path / "other.bed", "--out", tmp_path / "c.tsv")
    assert "2 of 3 places have another REF" in log


def test_alleles_that_are_the_same_have_a_ratio_of_nothing(here):
    genome = open_genome(here / "g.fa")
    ref = genome.fetch("chr1", 99, 100).tobytes().decode()
    for name in CONFIGS:
        reader = Reader.of(here / name, ReadConfig(length=40))
        for distance in (True, False):
            status, scores = score_variants(reader, genome, [Variant("chr1", 100, ".", ref, ref)], distance)
            assert status == ["ok"] and scores.llr.tolist() == [0]


def test_6_mers_beside_a_gap_are_all_averaged(here):
    """A gap has more tokens than its length in words: none may fall out, and none be taken for what is asked."""
    genome = open_genome(here / "g.fa")
    network, _ = load_model(here / "ntv2")
    _, means = embed_intervals(Reader.of(here / "ntv2", ReadConfig()), genome, [Interval("chr1", 170, 420)])
    letters, found = genome.fetch("chr1", 170, 420), []
    for strand in (letters, reverse_complement(letters)):
        tokens = six_mers(strand)[0]
        with torch.no_grad():
            states = network(torch.from_numpy(tokens)[None])[1][0]
        found.append(states[torch.from_numpy(tokens < SIX_MER_VOCABULARY - 2)].mean(0))
    assert np.allclose(means[0], (found[0] + found[1]) / 2, atol=1e-5)


def test_a_table_that_a_spreadsheet_wrote(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffchrom,start,end,label\r\nchr1,1,5,2\r\n".encode())
    found = read_table(tmp_path / "t.csv", variants=False)
    assert found.places == [Interval("chr1", 1, 5)] and found.labels == [["2"]] and found.columns == ("label",)


def rows(here, path, header, lines, task="classification"):
    path.write_text("\n".join(["\t".join(header), *("\t".join(map(str, line)) for line in lines)]) + "\n")
    table = read_table(path, task == "variants")
    return Rows(open_genome(here / "g.fa"), table, head_config(task, table, FinetuneConfig(length=20, pool=4)), 6)


def test_rows_that_are_left_out_say_why(here, tmp_path, caplog):
    lines = [
        ("chr1", 5, 25, "a"),
        ("chr1", 230, 250, "a"),
        ("chr9", 1, 9, "b"),
        ("chr1", 30, 50, ""),
        ("chr2", 5, 9, "b"),
    ]
    found = rows(here, tmp_path / "t.tsv", ["chrom", "start", "end", "x"], lines)
    assert found.status == ["ok", "unknown base", "no contig", "ok", "ok"] and found.kept.tolist() == [0, 4]
    assert "2 of 5 rows are used: 2 ok, 1 unknown base, 1 no contig, 1 without a label" in caplog.text
    lines = [("chr1", 700, "A", "C", i % 2) for i in range(4)]
    with pytest.raises(InputError, match="no row can be used: 0 ok, 4 outside; is it of the build of"):
        rows(here, tmp_path / "v.tsv", ["chrom", "pos", "ref", "alt", "x"], lines, "variants")
