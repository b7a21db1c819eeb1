"""npimpute dna: what is written equals what the network says, by any path, and mistakes end in a line."""

import math

import numpy as np
import pytest
import torch
from conftest import contents, expect_refusal, run_forked

from npimpute.dna.config import CaduceusConfig, HawkConfig, NTConfig
from npimpute.dna.genome import open_genome
from npimpute.dna.model_files import load_model, new_model, save
from npimpute.dna.predict import ReadConfig, Reader, embed_intervals, embed_variants, score_variants
from npimpute.dna.tokens import COMPLEMENT, bases, reverse_complement, six_mers
from npimpute.dna.windows import Interval, Variant

CONFIGS = {
    "hawk": HawkConfig(d_model=8, n_layers=2, d_rnn=8, n_blocks=2, expand=1),
    "ntv2": NTConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=8),
    "caduceus": CaduceusConfig(d_model=8, n_layers=2, d_state=2, expand=1),
    "posthoc": CaduceusConfig(d_model=8, n_layers=1, d_state=2, expand=1, reverse_complement="posthoc"),
}
LENGTH = 900


pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A genome, models, intervals and variants."""
    folder = tmp_path_factory.mktemp("dna")
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), LENGTH)
    letters[300:330] = ord("N")
    text = letters.tobytes().decode()
    (folder / "g.fa").write_text(f">chr1\n{text[:400].lower()}{text[400:]}\n>chr2\n{text[400:600]}\n")
    for name, config in CONFIGS.items():
        torch.manual_seed(3)
        network = new_model(config)
        for parameter in network.parameters():  # away from small initial values, under which alleles hardly differ
            parameter.data += 0.1 * torch.randn_like(parameter)
        save(folder / name, network, config)
    rows = [("chr1", 100, 140, "a"), ("1", 0, 30, "b"), ("chr9", 1, 5, "c"), ("chr1", 890, 905, "d")]
    rows += [("chr1", 300, 320, "e"), ("chr2", 500, 600, "f"), ("chr2", 7, 7, "g"), ("chr2", 100, 150, "h")]
    (folder / "a.bed").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    ref = text[449]
    other = "C" if ref != "C" else "A"
    rows = [("chr1", 450, "s", ref, other), ("chr1", 450, "m", other, ref), ("chr1", 450, "i", ref, ref + "G")]
    rows += [("chr1", 450, "p", text[449:452], "".join("ACGT"[3 - "ACGT".index(x)] for x in text[449:452]))]
    rows += [("chr9", 4, ".", "A", "C"), ("chr1", 9999, ".", "A", "C"), ("chr1", 4, ".", "A", "<DEL>")]
    rows += [("chr1", 1, "first", text[0].lower(), "A" if text[0] != "A" else "C")]
    head = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n"
    (folder / "a.vcf").write_text(head + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    return folder


def reader(folder, name, **options) -> Reader:
    return Reader.of(folder / name, ReadConfig(**options))


def tokens_of(name, letters):
    tokens = six_mers(letters)[0] if name == "ntv2" else bases(letters)
    return torch.from_numpy(tokens)[None]


@torch.no_grad()
def plain_mean(folder, name, letters):
    """Mean state of a window without N, of both strands."""
    network, _ = load_model(folder / name)
    strands = [letters] if name == "caduceus" else [letters, reverse_complement(letters)]
    return torch.stack([network(tokens_of(name, strand))[1][0].mean(0) for strand in strands]).mean(0).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_of_intervals_are_mean_states(here, name):
    genome = open_genome(here / "g.fa")
    places = [Interval("chr1", 400, 448), Interval("chr1", 500, 548), Interval("chr2", 30, 90)]
    status, means = embed_intervals(reader(here, name), genome, places)
    assert status == ["ok"] * 3
    for place, mean in zip(places, means, strict=True):
        expected = plain_mean(here, name, genome.fetch(place.contig, place.start, place.end))
        assert np.allclose(mean, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["hawk", "caduceus"])
def test_a_longer_window_changes_what_is_read_and_not_what_is_averaged(here, name):
    genome = open_genome(here / "g.fa")
    network, _ = load_model(here / name)
    _, means = embed_intervals(reader(here, name, length=101), genome, [Interval("chr1", 500, 520)])
    letters = genome.fetch("chr1", 460, 561)
    with torch.no_grad():
        own = network(tokens_of(name, letters))[1][0, 40:60].mean(0)
        other = network(tokens_of(name, reverse_complement(letters)))[1][0, 41:61].mean(0)
    expected = own if name == "caduceus" else (own + other) / 2
    assert np.allclose(means[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["hawk", "caduceus", "posthoc"])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_do_not_matter(here, name, chunk):
    genome = open_genome(here / "g.fa")
    places = [Interval("chr1", 380, 470), Interval("chr2", 3, 160)]
    ref = genome.fetch("chr2", 19, 20).tobytes().decode()
    variant = [Variant("chr2", 20, ".", ref, "A" if ref != "A" else "C")]
    whole, pieces = reader(here, name, length=61), reader(here, name, length=61, chunk=chunk)
    assert np.allclose(embed_intervals(whole, genome, places)[1], embed_intervals(pieces, genome, places)[1], atol=1e-5)
    for a, b in zip(score_variants(whole, genome, variant)[1], score_variants(pieces, genome, variant)[1], strict=True):
        assert np.isfinite(a).all() and np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", ["hawk", "ntv2"])
def test_batches_do_not_matter(here, name, monkeypatch):
    genome = open_genome(here / "g.fa")
    places = [Interval("chr1", i, i + 40) for i in range(400, 800, 20)]
    _, together = embed_intervals(reader(here, name), genome, places)
    monkeypatch.setattr("npimpute.dna.predict.TOKENS", 1)
    _, alone = embed_intervals(reader(here, name), genome, places)
    assert np.allclose(together, alone, atol=1e-5)


@torch.no_grad()
def plain_llr(network, letters, at, ref, alt):
    """From single bases, by hand: both strands, the place masked."""
    found = []
    for turned in (False, True):
        tokens, place = bases(letters), at
        alleles = [bases(np.frombuffer(a.encode(), np.uint8))[0] for a in (ref, alt)]
        if turned:
            tokens, place, alleles = COMPLEMENT[tokens][::-1].copy(), len(letters) - 1 - at, [3 - a for a in alleles]
        tokens[place] = 5
        told = network(torch.from_numpy(tokens)[None])[0][0, place].log_softmax(-1)
        found.append(float(told[alleles[1]] - told[alleles[0]]))
    return np.mean(found)


@pytest.mark.parametrize("name", ["hawk", "posthoc", "caduceus"])
def test_llr_is_that_of_the_masked_base_on_both_strands(here, name):
    genome = open_genome(here / "g.fa")
    network, _ = load_model(here / name)
    for position in (420, 450, 2):
        ref = genome.fetch("chr1", position - 1, position).tobytes().decode()
        for alt in set("ACGT") - {ref}:
            _, scores = score_variants(
                reader(here, name, length=50), genome, [Variant("chr1", position, ".", ref, alt)]
            )
            expected = plain_llr(network, genome.fetch("chr1", position - 26, position + 24), 25, ref, alt)
            assert float(scores.llr[0]) == pytest.approx(expected, abs=1e-5)


def test_llr_of_6_mers_is_that_of_the_masked_word(here):
    genome = open_genome(here / "g.fa")
    network, _ = load_model(here / "ntv2")
    ref = genome.fetch("chr1", 449, 450).tobytes().decode()
    alt = "A" if ref != "A" else "C"
    _, scores = score_variants(reader(here, "ntv2", length=36), genome, [Variant("chr1", 450, ".", ref, alt)])
    found = []
    window = genome.fetch("chr1", 431, 467)
    changed = window.copy()
    changed[18] = ord(alt)
    for turn in (lambda letters: letters, reverse_complement):
        tokens, others = six_mers(turn(window))[0], six_mers(turn(changed))[0]
        (place,) = np.flatnonzero(tokens != others)
        shown = tokens.copy()
        shown[place] = 4101
        with torch.no_grad():
            told = network(torch.from_numpy(shown)[None])[0][0, place].log_softmax(-1)
        found.append(float(told[others[place]] - told[tokens[place]]))
    assert float(scores.llr[0]) == pytest.approx(np.mean(found), abs=1e-5)


def test_distances_are_those_of_the_embeddings(here):
    genome = open_genome(here / "g.fa")
    ref = genome.fetch("chr1", 449, 450).tobytes().decode()
    variants = [Variant("chr1", 450, ".", ref, alt) for alt in ("A", "C", ref + "GG") if alt != ref]
    of = reader(here, "caduceus", length=80, pool=20)
    _, scores = score_variants(of, genome, variants)
    _, means = embed_variants(of, genome, variants)
    before, after = means[:, 0].astype(float), means[:, 1].astype(float)
    assert np.allclose(scores.distance, np.linalg.norm(after - before, axis=1), rtol=1e-3)
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert np.allclose(scores.cosine, 1 - cosine, atol=1e-6)
    assert (scores.distance > 0).all() and np.isnan(scores.llr[-1]) and np.isfinite(scores.llr[:-1]).all()
    _, short = score_variants(of, genome, variants, distance=False)
    assert np.allclose(short.llr, scores.llr, equal_nan=True) and np.isnan(short.distance).all()


def test_both_strands_of_a_genome_score_alike(here, tmp_path):
    genome = open_genome(here / "g.fa")
    letters = genome.fetch("chr2", 0, 200)
    path = tmp_path / "turned.fa"
    path.write_text(">chr2\n" + reverse_complement(letters).tobytes().decode() + "\n")
    turned = open_genome(path)
    position = 90
    ref = letters[position : position + 1].tobytes().decode()
    alt = "G" if ref != "G" else "T"
    pairs = dict(zip("ACGT", "TGCA", strict=True))
    one = Variant("chr2", position + 1, ".", ref, alt)
    other = Variant("chr2", 200 - position, ".", pairs[ref], pairs[alt])
    for name in ("hawk", "caduceus", "posthoc"):  # 6-mers of the two strands lie a base apart
        of = reader(here, name, length=61, pool=21)
        found = [score_variants(of, *place)[1] for place in ((genome, [one]), (turned, [other]))]
        assert np.allclose(*found, rtol=1e-3, atol=1e-6), name


# The command line


def run(folder, *words):
    status, printed, log = run_forked("dna", *words, "--threads", "1", "--device", "cpu")
    assert status == 0, log
    return log


STATUS = ["ok", "ok", "no contig", "ok", "unknown base", "outside", "empty", "ok"]


def test_every_row_has_its_line_in_every_kind_of_output(here, tmp_path):
    import pyarrow.parquet
    import zarr

    words = ["embed", "--model", here / "hawk", "--fasta", here / "g.fa", "--bed", here / "a.bed", "--length", "60"]
    log = run(here, *words, "--out", tmp_path / "e.npz")
    assert "8 rows: 4 ok" in log
    found = np.load(tmp_path / "e.npz")
    assert found["status"].tolist() == STATUS and found["name"].tolist() == list("abcdefgh")
    assert np.isfinite(found["embedding"]).all(1).tolist() == [status == "ok" for status in STATUS]
    assert found["start"].tolist()[:3] == [100, 0, 1]
    for kind in ("zarr", "parquet", "tsv", "tsv.gz"):
        run(here, *words, "--out", tmp_path / f"e.{kind}")
    group = zarr.open(tmp_path / "e.zarr")
    assert np.array_equal(group["embedding"][:], found["embedding"], equal_nan=True)
    assert group["status"][:].tolist() == STATUS and group.attrs["length"] == 60
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pydict()
    assert table["status"] == STATUS and table["end"] == found["end"].tolist()
    assert np.array_equal(np.array(table["embedding"], np.float32), found["embedding"], equal_nan=True)
    import gzip

    text = (tmp_path / "e.tsv").read_text()
    assert gzip.open(tmp_path / "e.tsv.gz", "rt").read() == text
    lines = [line.split("\t") for line in text.splitlines()]
    assert lines[0] == ["contig", "start", "end", "name", "status", *(f"embedding_{i}" for i in range(8))]
    written = np.array([[float(cell) for cell in line[5:]] for line in lines[1:]])
    assert np.allclose(written, found["embedding"], rtol=1e-5, equal_nan=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["e.npz", "e.parquet", "e.tsv", "e.tsv.gz", "e.zarr"]


def test_scores_by_the_command_line(here, tmp_path):
    words = ["score", "--model", here / "ntv2", "--fasta", here / "g.fa", "--vcf", here / "a.vcf", "--length", "120"]
    run(here, *words, "--out", tmp_path / "s.tsv")
    lines = [line.split("\t") for line in (tmp_path / "s.tsv").read_text().splitlines()]
    assert lines[0] == ["contig", "pos", "id", "ref", "alt", "status", "llr", "distance", "cosine"]
    status = ["ok", "reference mismatch", "indel", "ok", "no contig", "outside", "symbolic allele", "ok"]
    assert [line[5] for line in lines[1:]] == status
    assert [math.isfinite(float(line[6])) for line in lines[1:]] == [s == "ok" for s in status]
    assert [math.isfinite(float(line[7])) for line in lines[1:]] == [s in ("ok", "indel") for s in status]
    assert [line[2] for line in lines[1:4]] == ["s", "m", "i"]
    run(here, *words, "--llr-only", "--out", tmp_path / "s.npz")
    assert np.allclose(np.load(tmp_path / "s.npz")["llr"][0], float(lines[1][6]), rtol=1e-4)
    assert "distance" not in np.load(tmp_path / "s.npz")


def test_variants_are_embedded_with_either_allele(here, tmp_path):
    words = ["--model", here / "caduceus", "--fasta", here / "g.fa", "--vcf", here / "a.vcf", "--length", "50"]
    run(here, "embed", *words, "--out", tmp_path / "v.npz")
    found = np.load(tmp_path / "v.npz")
    assert found["embedding_ref"].shape == found["embedding_alt"].shape == (8, 16)
    assert (found["embedding_ref"][0] != found["embedding_alt"][0]).any()


@pytest.mark.parametrize("name", ["hawk", "caduceus"])
def test_bins_of_a_contig_know_all_of_it(here, tmp_path, name):
    words = ["embed", "--model", here / name, "--fasta", here / "g.fa", "--bin", "64"]
    run(here, *words, "--chunk", "50", "--out", tmp_path / "b.npz")
    found = np.load(tmp_path / "b.npz")
    assert len(found["start"]) == 15 + 4 and found["contig"].tolist() == ["chr1"] * 15 + ["chr2"] * 4
    assert found["end"].tolist()[14] == LENGTH and set(found["status"].tolist()) == {"ok"}
    genome = open_genome(here / "g.fa")
    network, _ = load_model(here / name)
    letters = genome.fetch("chr1", 0, LENGTH)
    with torch.no_grad():
        own = network(tokens_of(name, letters))[1][0]
        other = network(tokens_of(name, reverse_complement(letters)))[1][0].flip(0)
    states = own if name == "caduceus" else (own + other) / 2
    known = bases(letters) != 4
    for i in (0, 4, 5, 14):
        inside = known & (np.arange(LENGTH) // 64 == i)
        assert np.allclose(found["embedding"][i], states[torch.from_numpy(inside)].mean(0), atol=1e-5)


def test_bins_of_windows_and_of_6_mers(here, tmp_path):
    words = ["embed", "--model", here / "ntv2", "--fasta", here / "g.fa", "--bin", "60", "--contig", "2"]
    run(here, *words, "--length", "120", "--out", tmp_path / "b.npz")
    found = np.load(tmp_path / "b.npz")
    assert found["start"].tolist() == [0, 60, 120, 180] and found["contig"].tolist() == ["chr2"] * 4
    genome = open_genome(here / "g.fa")
    network, _ = load_model(here / "ntv2")
    letters = genome.fetch("chr2", 0, 120)
    with torch.no_grad():
        own = network(tokens_of("ntv2", letters))[1][0]
        other = network(tokens_of("ntv2", reverse_complement(letters)))[1][0].flip(0)
    expected = ((own + other) / 2).unflatten(0, (2, 10)).mean(1)
    assert np.allclose(found["embedding"][:2], expected, atol=1e-5)


def test_bins_without_a_known_base(here, tmp_path):
    words = ["embed", "--model", here / "hawk", "--fasta", here / "g.fa", "--bin", "15", "--contig", "chr1"]
    run(here, *words, "--out", tmp_path / "b.npz")
    found = np.load(tmp_path / "b.npz")
    unknown = found["status"] == "unknown base"
    assert np.flatnonzero(unknown).tolist() == [20, 21]
    assert np.isnan(found["embedding"]).all(1).tolist() == unknown.tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "--bed", "a.bed", "--vcf", "a.vcf"], "give one of --bed, --vcf and --bin"),
        (["embed"], "give one of --bed, --vcf and --bin"),
        (["embed", "--bed", "a.bed", "--contig", "chr1"], "belongs to --bin"),
        (["embed", "--bin", "0"], "--bin 0"),
        (["embed", "--bin", "9", "--contig", "chr7"], "no contig chr7; there are chr1, chr2"),
        (["embed", "--bed", "a.bed", "--model", "ntv2", "--chunk", "5"], "hands no state on"),
        (["embed", "--bin", "9", "--model", "ntv2"], "give --length"),
        (["embed", "--bed", "a.bed", "--chunk", "0"], "--chunk 0"),
        (["embed", "--bed", "a.bed", "--model", "nowhere"], "nowhere/config.json"),
        (["embed", "--bed", "a.bed", "--fasta", "none.fa"], "none.fa: no such file"),
        (["embed", "--bed", "a.bed", "--out", "x.txt"], "its name must end in"),
        (["embed", "--bed", "a.bed", "--out", "no/x.npz"], "does not exist"),
        (["embed", "--bed", "a.bed", "--out", "a.vcf"], "its name must end in"),
        (["embed", "--bed", "there.npz"], "not text"),
        (["embed", "--bed", "a.bed", "--out", "there.npz"], "exists already"),
        (["score", "--vcf", "a.bed"], "not VCF"),
        (["score", "--vcf", "other.vcf"], "are none of those of"),
        (["score", "--vcf", "a.vcf", "--threads", "0"], "--threads 0"),
    ],
)
def test_mistakes_end_in_a_line(here, monkeypatch, words, message):
    monkeypatch.chdir(here)
    (here / "there.npz").write_bytes(bytes(range(128, 200)))
    (here / "other.vcf").write_text("chr77\t5\t.\tA\tC\n")
    given = {words[i]: words[i + 1] for i in range(1, len(words) - 1, 2)}
    rest = {"--model": "hawk", "--fasta": "g.fa", "--out": "x.npz", "--threads": "1"} | given
    expect_refusal(here, ["dna", words[0], *(word for pair in rest.items() for word in pair)], message)


def test_an_output_is_replaced_only_when_asked(here, tmp_path):
    words = ["embed", "--model", here / "hawk", "--fasta", here / "g.fa", "--bed", here / "a.bed"]
    for name in ("e.npz", "e.zarr"):
        run(here, *words, "--out", tmp_path / name)
        before = contents(tmp_path)
        expect_refusal(tmp_path, ["dna", *words, "--out", tmp_path / name], "exists already")
        run(here, *words, "--length", "40", "--out", tmp_path / name, "--overwrite")
        assert contents(tmp_path).keys() == before.keys() or name == "e.zarr"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("precious")
    (tmp_path / "mine").rename(tmp_path / "mine.zarr")
    expect_refusal(tmp_path, ["dna", *words, "--out", tmp_path / "mine.zarr", "--overwrite"], "is not zarr")
