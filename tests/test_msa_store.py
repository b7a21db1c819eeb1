"""Alignments: MAF and FASTA to a store, and windows of it."""

import gzip
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from npimpute.errors import ConfigError, InputError
from npimpute.msa import shards, store
from npimpute.msa.alphabet import GAP, MASK, complement, decode, encode
from npimpute.msa.build import BuildConfig, build
from npimpute.msa.store import Alignment, write_alignment

DATA = Path(__file__).parents[2] / "shared" / "data" / "msa"
ENR334 = pytest.mark.skipif(not DATA.exists(), reason="the ENr334 alignment is not here")
FLIP = bytes.maketrans(b"ACGTacgt", b"TGCAtgca")


@pytest.fixture
def small_shards(monkeypatch):
    """Stores of 8 columns a chunk and 16 a shard, so that little data cross many borders."""
    monkeypatch.setattr(store, "CHUNK", 8)
    monkeypatch.setattr(store, "SHARD", 16)
    monkeypatch.setattr(shards, "SHARD", 16)
    monkeypatch.setattr(shards, "HELD", 1)


def write_maf(path, blocks, sizes):
    """blocks: lists of (src, start on the + strand, strand of the line, text of the + strand)."""
    lines = ["##maf version=1"]
    for rows in blocks:
        lines += ["a score=1"]
        for src, start, strand, text in rows:
            n = len(text.replace("-", ""))
            if strand == "-":
                start, text = sizes[src] - start - n, text[::-1].translate(str.maketrans("ACGTacgt", "TGCAtgca"))
            lines.append(f"s {src} {start} {n} {strand} {sizes[src]} {text}")
        lines.append("e other.chr1 5 0 + 100 I\n")
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def made_blocks(rng, n_blocks=30, length=150, species=("a", "b", "c")):
    """Blocks that overlap, are out of order, and repeat species; the reference's bases are those of one sequence."""
    genome = "".join(rng.choice(list("ACGTacgtN"), length))
    blocks, strands = [], []
    for _ in range(n_blocks):
        start = int(rng.integers(0, length - 12))
        n = int(rng.integers(1, 12))
        gaps = set(rng.integers(0, n + 1, 2).tolist())
        text = "".join(("-" if i in gaps else "") + base for i, base in enumerate(genome[start : start + n]))
        strand = str(rng.choice(["+", "-"]))
        rows = [("ref.chr6", start, strand, text)]
        for name in rng.choice(species, int(rng.integers(0, 4))):
            rows.append((f"{name}.chr{rng.integers(1, 3)}", 3, strand, "".join(rng.choice(list("ACGTn-"), len(text)))))
        blocks.append(rows)
        strands.append(strand)
    return genome, blocks


def by_column(blocks, names):
    """Position -> column of codes, written as plainly as can be."""
    found = {}
    for rows in blocks:
        head = rows[0]
        best = {"ref": head[3]}
        for name in names[1:]:
            own = [text for src, _, _, text in rows if src.startswith(f"{name}.")]
            score = [
                sum(a.upper() == b.upper() != "N" and a != "-" for a, b in zip(text, head[3], strict=True))
                for text in own
            ]
            if own:
                best[name] = own[score.index(max(score))]
        at = head[1]
        for i, base in enumerate(head[3]):
            if base == "-":
                continue
            column = ["ACGT".find(best[name][i].upper()) if name in best else -1 for name in names]
            found.setdefault(at, [GAP if code < 0 else code for code in column])
            at += 1
    return found


@pytest.mark.parametrize("seed", range(6))
def test_a_store_has_the_columns_of_the_blocks(tmp_path, small_shards, seed):
    rng = np.random.default_rng(seed)
    genome, blocks = made_blocks(rng)
    sizes = {"ref.chr6": 170, **{f"{s}.chr{i}": 400 for s in "abc" for i in (1, 2)}}
    half = len(blocks) // 2
    one = write_maf(tmp_path / "one.maf", blocks[:half], sizes)
    two = write_maf(tmp_path / "two.maf.gz", blocks[half:], sizes)
    build(BuildConfig(tmp_path / "x.msa", maf=(one, two), reference="ref", species=("c", "a", "b")))
    alignment = Alignment.open(tmp_path / "x.msa")
    assert alignment.species == ("ref", "c", "a", "b")
    truth = by_column(blocks, alignment.species)
    assert alignment.contigs == {"chr6": (min(truth), max(truth) + 1)} and alignment.lengths == {"chr6": 170}
    got = alignment.window("6", -5, 200)
    expected = np.array([truth.get(at, [GAP] * 4) for at in range(-5, 200)]).T
    np.testing.assert_array_equal(got, expected)
    for start in rng.integers(-5, 170, 20):
        np.testing.assert_array_equal(alignment.window("chr6", start, start + 31), expected[:, start + 5 : start + 36])


def test_the_order_of_blocks_and_files_does_not_matter_where_none_overlap(tmp_path, small_shards):
    rng = np.random.default_rng(1)
    blocks = []
    for start in range(0, 140, 7):
        texts = ["".join(rng.choice(list("ACGT-" if name != "ref" else "ACGT"), 7)) for name in ("ref", "a", "b")]
        blocks.append(
            [(f"{n}.chr1", start if n == "ref" else 3, "+", t) for n, t in zip(("ref", "a", "b"), texts, strict=True)]
        )
    sizes = {f"{name}.chr1": 200 for name in ("ref", "a", "b")}
    windows = []
    for i in range(3):
        write_maf(tmp_path / f"{i}.maf", blocks, sizes)
        build(BuildConfig(tmp_path / f"{i}.msa", maf=(tmp_path / f"{i}.maf",), reference="ref", species=("a", "b")))
        windows.append(Alignment.open(tmp_path / f"{i}.msa").window("chr1", 0, 200))
        rng.shuffle(blocks)
    np.testing.assert_array_equal(windows[0], windows[1])
    np.testing.assert_array_equal(windows[0], windows[2])


def test_the_first_block_has_a_column(tmp_path):
    sizes = {"r.chr1": 50, "m.chr1": 50}
    blocks = [[("r.chr1", 10, "+", "ACGT"), ("m.chr1", 0, "+", "AC-T")], [("r.chr1", 8, "+", "TTTTTTTT")]]
    counts = build(BuildConfig(tmp_path / "x.msa", maf=(write_maf(tmp_path / "x.maf", blocks, sizes),)))
    window = Alignment.open(tmp_path / "x.msa").window("chr1", 8, 16)
    assert [decode(row) for row in window] == [b"TTACGTTT", b"--AC-T--"]
    assert counts["columns that an earlier block has"] == 4 and counts["columns"] == 8


def test_names_exclusions_and_offset(tmp_path):
    sizes = {"hg18.chr6": 50, "mm9.chr1": 50, "rn4.chr1": 50}
    rows = [("hg18.chr6", 10, "+", "ACGT"), ("rn4.chr1", 0, "+", "AC-T"), ("mm9.chr1", 0, "+", "ACGA")]
    maf = write_maf(tmp_path / "x.maf", [rows], sizes)
    build(BuildConfig(tmp_path / "x.msa", maf=(maf,), exclude=("rn4",), offset=1000, contig="chr7"))
    alignment = Alignment.open(tmp_path / "x.msa")
    assert alignment.species == ("hg18", "mm9") and alignment.contigs == {"chr7": (1010, 1014)}
    assert decode(alignment.window("7", 1010, 1014)[1]) == b"ACGA"
    with pytest.raises(ConfigError, match="no species dog; there are hg18, rn4, mm9"):
        build(BuildConfig(tmp_path / "y.msa", maf=(maf,), exclude=("dog",)))
    with pytest.raises(InputError, match="no contig chrX; there are chr7"):
        alignment.name("chrX")
    assert alignment.has("7") and not alignment.has("chr6")


def test_a_fasta_fills_what_no_block_covers(tmp_path, small_shards):
    rng = np.random.default_rng(3)
    genome = "".join(rng.choice(list("ACGT"), 100))
    (tmp_path / "g.fa").write_text(f">6\n{genome}\n>7\nACGT\n")
    blocks = [[("r.chr6", s, "+", genome[s : s + 5]), ("m.1", 0, "+", "ACGTA")] for s in (20, 60)]
    maf = write_maf(tmp_path / "x.maf", blocks, {"r.chr6": 100, "m.1": 9})
    counts = build(BuildConfig(tmp_path / "x.msa", maf=(maf,), fasta=tmp_path / "g.fa"))
    assert counts["bases compared with the FASTA"] == 10 and counts["bases unlike the FASTA"] == 0
    alignment = Alignment.open(tmp_path / "x.msa")
    assert alignment.contigs == {"chr6": (20, 65)}
    window = alignment.window("chr6", 0, 100)
    assert decode(window[0, 20:65]).decode() == genome[20:65] and (window[0, :20] == GAP).all()
    assert (window[1, 25:60] == GAP).all() and decode(window[1, 60:65]) == b"ACGTA"
    build(BuildConfig(tmp_path / "y.msa", maf=(maf,), fasta=tmp_path / "g.fa", whole_contigs=True))
    whole = Alignment.open(tmp_path / "y.msa")
    assert whole.contigs == {"chr6": (0, 100)} and decode(whole.window("6", 0, 100)[0]).decode() == genome
    build(BuildConfig(tmp_path / "z.msa", fasta=tmp_path / "g.fa", reference="hg"))
    alone = Alignment.open(tmp_path / "z.msa")
    assert alone.species == ("hg",) and alone.contigs == {"6": (0, 100), "7": (0, 4)}
    assert decode(alone.window("chr6", 0, 100)[0]).decode() == genome


def test_a_fasta_of_another_build_is_refused(tmp_path):
    rng = np.random.default_rng(4)
    genome = "".join(rng.choice(list("ACGT"), 300))
    (tmp_path / "g.fa").write_text(f">chr6\nA{genome}\n")
    maf = write_maf(tmp_path / "x.maf", [[("r.chr6", 0, "+", genome)]], {"r.chr6": 301})
    with pytest.raises(InputError, match="g.fa: 2.. of 300 bases of r differ from the alignment's; give the FASTA"):
        build(BuildConfig(tmp_path / "x.msa", maf=(maf,), fasta=tmp_path / "g.fa"))
    (tmp_path / "h.fa").write_text(">chr6\nACGT\n")
    with pytest.raises(InputError, match="x.maf, line 3: r.chr6 ends at 300, beyond the 4 bases of chr6"):
        build(BuildConfig(tmp_path / "x.msa", maf=(maf,), fasta=tmp_path / "h.fa"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.fa", "h.fa", "x.maf"]


DAMAGE = {
    "s r.chr1 0 4 + 9": "line 3: 6 words where a row has 7",
    "s r.chr1 0 x + 9 ACGT": "line 3: start, size and srcSize must be whole numbers",
    "s r.chr1 0 4 * 9 ACGT": "line 3: start, size and srcSize must be whole numbers, and strand",
    "s r.chr1 0 5 + 9 ACGT": "line 3: r.chr1 has 4 bases, its size says 5",
    "s r.chr1 7 4 + 9 ACGT": "line 3: r.chr1 ends at 11, beyond its size of 9",
    "s r.chr1 0 4 + 9 ACGT\ns m.1 0 3 + 9 ACG": "line 4: m.1 has 3 columns, the first row of its block 4",
    "@SQ": "line 3: neither a block nor a row of one: '@SQ'",
}


@pytest.mark.parametrize("text", DAMAGE)
def test_damaged_maf_is_told_with_its_line(tmp_path, text):
    (tmp_path / "x.maf").write_text(f"##maf version=1\na score=3\n{text}\n")
    with pytest.raises(InputError, match=f"x.maf, {DAMAGE[text]}") as error:
        build(BuildConfig(tmp_path / "x.msa", maf=(tmp_path / "x.maf",)))
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["x.maf"]


def test_what_is_no_maf_or_ends_early(tmp_path):
    (tmp_path / "x.maf").write_text("##maf version=1\n")
    with pytest.raises(InputError, match="no alignment block"):
        build(BuildConfig(tmp_path / "x.msa", maf=(tmp_path / "x.maf",)))
    (tmp_path / "x.maf").write_text("s r.chr1 0 4 + 9 ACGT\n")
    with pytest.raises(InputError, match="line 1: a row before the first block"):
        build(BuildConfig(tmp_path / "x.msa", maf=(tmp_path / "x.maf",)))
    rows = [("r.chr1", 0, "+", "ACGT" * 500)]
    whole = write_maf(tmp_path / "y.maf.gz", [rows] * 3, {"r.chr1": 3000}).read_bytes()
    (tmp_path / "y.maf.gz").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="damaged or end early, after line"):
        build(BuildConfig(tmp_path / "x.msa", maf=(tmp_path / "y.maf.gz",)))
    with pytest.raises(InputError, match="no such file"):
        build(BuildConfig(tmp_path / "x.msa", maf=(tmp_path / "none.maf",)))
    with pytest.raises(InputError, match="no block has a row of the reference q"):
        build(
            BuildConfig(
                tmp_path / "x.msa",
                maf=(write_maf(tmp_path / "z.maf", [rows], {"r.chr1": 3000}),),
                reference="q",
                species=("r",),
            )
        )


def test_only_a_store_is_replaced(tmp_path):
    (tmp_path / "g.fa").write_text(">1\nACGT\n")
    config = {"fasta": tmp_path / "g.fa", "out": tmp_path / "x.msa"}
    build(BuildConfig(**config))
    with pytest.raises(InputError, match="exists already"):
        build(BuildConfig(**config))
    build(BuildConfig(**config, overwrite=True, reference="new"))
    assert Alignment.open(tmp_path / "x.msa").species == ("new",)
    (tmp_path / "precious").mkdir()
    with pytest.raises(InputError, match="is no alignment store: it is not replaced"):
        build(BuildConfig(tmp_path / "precious", fasta=tmp_path / "g.fa", overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.fa", "precious", "x.msa"]
    for path, found in ((tmp_path / "precious", "cannot be read|not an alignment"), (tmp_path / "no", "no such dir")):
        with pytest.raises(InputError, match=found):
            Alignment.open(path)


def test_windows_from_several_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CACHED_BYTES", 0)
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 5, (3, 50_000)).astype(np.uint8)
    write_alignment(tmp_path / "x.msa", ("r", "a", "b"), {"1": (1000, codes)})
    alignment = Alignment.open(tmp_path / "x.msa")
    starts = rng.integers(0, 49_000, 200)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda s: alignment.window("chr1", 1000 + s, 1100 + s), starts))
    assert all((window == codes[:, s : s + 100]).all() for window, s in zip(found, starts, strict=True))
    found[0][:] = 9  # a window is the caller's own
    assert (alignment.window("1", 1000 + starts[0], 1100 + starts[0]) < 5).all()


def test_a_damaged_store_is_told(tmp_path):
    write_alignment(tmp_path / "x.msa", ("r", "a"), {"1": (0, np.zeros((2, 100), np.uint8))})
    (shard,) = (path for path in (tmp_path / "x.msa" / "0" / "rows" / "c").rglob("*") if path.is_file())
    whole = shard.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4] + bytes(len(whole) - 4)):
        shard.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read .*; the store is damaged"):
            Alignment.open(tmp_path / "x.msa").window("1", 0, 10)
    shutil.rmtree(tmp_path / "x.msa" / "0" / "rows")
    with pytest.raises(InputError, match="lacks the columns of 1"):
        Alignment.open(tmp_path / "x.msa").window("1", 0, 10)


def test_codes():
    assert encode("ACGTacgtNn-RX*").tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4]
    codes = np.array([0, 1, 2, 3, GAP, MASK], np.uint8)
    assert complement(codes).tolist() == [3, 2, 1, 0, GAP, MASK]
    assert decode(complement(encode(b"GATTACA"))[::-1]) == b"GATTACA"[::-1].translate(FLIP)


@ENR334
def test_maf_and_fasta_of_one_alignment_make_the_same_store(tmp_path):
    build(BuildConfig(tmp_path / "a.msa", maf=(DATA / "ENr334-100k.maf.gz",)))
    where = {"contig": "6", "offset": 41_405_894}
    build(BuildConfig(tmp_path / "b.msa", alignment=DATA / "ENr334-100k.fa.gz", **where))
    maf, fasta = Alignment.open(tmp_path / "a.msa"), Alignment.open(tmp_path / "b.msa")
    assert maf.contigs == {"chr6": (41_405_894, 41_505_894)}
    assert set(maf.species) == set(fasta.species) == {"hg18", "mm9", "rn4", "canFam2"}
    ours, theirs = (a.window("chr6", 41_405_894, 41_505_894) for a in (maf, fasta))
    np.testing.assert_array_equal(ours, theirs[[fasta.species.index(name) for name in maf.species]])


def test_the_command_builds_describes_and_tells_of_mistakes(tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "npimpute", "msa", *words], capture_output=True, text=True, cwd=tmp_path
        )

    rows = [("hg18.chr6", 10, "+", "ACGT"), ("mm9.chr1", 0, "+", "ACGA")]
    write_maf(tmp_path / "x.maf", [rows], {"hg18.chr6": 50, "mm9.chr1": 50})
    done = run("build", "--maf", "x.maf", "--out", "x.msa")
    assert done.returncode == 0 and "mm9\t4" in done.stdout, done.stderr
    assert "chr6\t10\t14\t50" in run("info", "x.msa").stdout
    failed = run("build", "--out", "y.msa")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "give --maf, --alignment" in failed.stderr
    failed = run("info", "x.maf")
    assert failed.returncode == 2 and "no such directory" in failed.stderr
