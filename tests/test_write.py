"""VCF.gz and BCF as written: read back by other programs, and compared with values computed here."""

from __future__ import annotations

import errno
import gzip
import io
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cyvcf2
import numpy as np
import pytest

from npimpute.errors import ConfigError, InputError
from npimpute.types import Dosages, Sites
from npimpute.vcf import bgzf, write
from npimpute.vcf.write import VariantWriter

SAMPLES = tuple(f"person{i}" for i in range(7))
CONTIGS = [("chr20", 64_444_167), ("chrUn", None)]
ALL = ("GT", "DS", "HDS", "GP", "AP")
KINDS = (".vcf.gz", ".bcf")

# Biallelic, multi-allelic and without ALT; indels; the same position with other alleles; a name and none.
ALLELES = [
    ("A", "C"), ("A", "G"), ("G", "T,C"), ("GA", "G"), ("C", "CTT,CT,A"), ("T", "."), ("T", "G"),
    ("TACGTACGTACGTACGTAAC", "T"),
]  # fmt: skip


def needs(program: str):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def dosages(sites: Sites, n: int, rng: np.random.Generator, missing: float = 0.0) -> Dosages:
    """ALT probabilities that are sharp, soft, or exact halves of a thousandth, and their statistics."""
    parts = []
    for n_alt in sites.n_alt():
        alleles = rng.dirichlet(np.full(n_alt + 1, 0.2), n).T[1:]
        if rng.random() < 0.5:
            # Certain, or sixteenths: 1/16 is exactly 62.5 thousandths.
            scale = rng.choice([1, 16])
            alleles = np.floor(alleles * scale + 1e-9) / scale
        parts.append(np.where(rng.random(n) < missing, np.nan, alleles))
    p = np.concatenate(parts).astype(np.float32)
    wide = p.astype(np.float64)
    n_hap, sum_p = (~np.isnan(wide)).sum(1), np.nansum(wide, 1)
    sum_pq, *more = (np.nansum(wide**i * (1 - wide), 1) for i in (1, 2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        af = sum_p / n_hap
        dr2 = np.nan_to_num(1 - sum_pq / (sum_p - sum_p * af))
    typed = rng.random(len(sites)) < 0.4
    er2 = np.where(np.repeat(typed, sites.n_alt()), rng.random(len(p)), np.nan).astype(np.float32)
    values = (*(x.astype(np.float32) for x in (af, dr2)), er2, rng.random(len(p)).astype(np.float32))
    imputed = ~typed | (rng.random(len(sites)) < 0.2)
    return Dosages(sites, p, typed, imputed, *values, n_hap, sum_p, sum_pq, *more)


def example(repeats: int = 12, seed: int = 5, contig: str = "chr20", start: int = 1000) -> Dosages:
    rng = np.random.default_rng(seed)
    pairs = ALLELES * repeats
    pos = start + np.cumsum(rng.integers(0, 3, len(pairs)) * 37)
    ids = ["." if rng.random() < 0.5 else f"rs{i};other" for i in range(len(pairs))]
    sites = Sites(contig, pos, ids, [ref for ref, _ in pairs], [alt for _, alt in pairs])
    return dosages(sites, 2 * len(SAMPLES), rng, missing=0.1)


def cut(d: Dosages, start: int, stop: int) -> Dosages:
    rows = np.concatenate([[0], np.cumsum(d.sites.n_alt())])
    return d.take(slice(start, stop), slice(rows[start], rows[stop]), d.sites.slice(start, stop))


def save(path: Path, *parts: Dosages, formats=ALL, **options) -> Path:
    with VariantWriter(path, SAMPLES, CONTIGS, formats, **options) as out:
        for part in parts:
            out.write(part)
    return path


def thousandths(x: np.ndarray) -> np.ndarray:
    return (np.floor(np.asarray(x, np.float64) * 1000 + 0.5) / 1000).astype(np.float32)


def site_parts(d: Dosages):
    """(site number, (a, n) float64 probabilities) of every site."""
    rows = np.concatenate([[0], np.cumsum(d.sites.n_alt())])
    for s in range(len(d.sites)):
        yield s, d.p[rows[s] : rows[s + 1]].astype(np.float64)


def expected_gt(p: np.ndarray) -> list[list]:
    """[allele, allele, phased] per sample."""
    ref = 1 - p.sum(0, keepdims=True)
    # REF last, so that argmax leaves a tie to ALT.
    best = np.argmax(np.concatenate([p, ref]), 0)
    best = np.where(best == len(p), 0, best + 1)
    best = np.where(np.isnan(ref[0]), -1, best).tolist()
    return [[best[i], best[i + 1], True] for i in range(0, len(best), 2)]


def expected_fields(p: np.ndarray) -> dict[str, np.ndarray]:
    """The Float fields of one site, (samples, values), unrounded."""
    first, second = p[:, 0::2].T, p[:, 1::2].T
    full = [np.concatenate([1 - h.sum(1, keepdims=True), h], 1) for h in (first, second)]
    genotypes = []
    for high in range(len(p) + 1):
        for low in range(high + 1):
            one = full[0][:, low] * full[1][:, high]
            genotypes.append(one if low == high else one + full[0][:, high] * full[1][:, low])
    gp = np.stack(genotypes, 1)
    gp[np.isnan(gp).any(1)] = np.nan
    return {"DS": first + second, "HDS": np.concatenate([first, second], 1), "AP1": first, "AP2": second, "GP": gp}


def records(path: Path):
    reader = cyvcf2.VCF(str(path))
    yield from reader
    reader.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_reads_back(tmp_path, kind):
    d = example()
    read = list(records(save(tmp_path / f"out{kind}", d)))
    assert len(read) == len(d.sites)
    for record, (s, p) in zip(read, site_parts(d), strict=True):
        assert ("chr20", d.sites.pos[s], d.sites.ref[s]) == (record.CHROM, record.POS, record.REF)
        assert (",".join(record.ALT) or ".") == d.sites.alt[s]
        assert (record.ID or ".") == d.sites.ids[s]
        assert record.FILTERS == ["PASS"]
        assert record.QUAL is None
        assert record.FORMAT == ["GT", "DS", "HDS", "GP", "AP1", "AP2"]
        assert record.genotypes == expected_gt(p)
        for key, values in expected_fields(p).items():
            if values.shape[1] == 0:
                values = np.full((len(SAMPLES), 1), np.nan)
            if key == "GP":
                # Products, where a half of a thousandth depends on the order of summation.
                np.testing.assert_allclose(record.format(key), values, rtol=0, atol=5.001e-4)
            else:
                np.testing.assert_array_equal(record.format(key), thousandths(values), err_msg=key)


@pytest.mark.parametrize("kind", KINDS)
def test_info(tmp_path, kind):
    d = example()
    rows = np.concatenate([[0], np.cumsum(d.sites.n_alt())])
    wanted = {"AF": d.af, "DR2": d.dr2, "R2": d.dr2, "INFO": d.dr2, "EXPR2": d.expected_r2}
    wanted |= {"SP": d.sum_p, "SPQ": d.sum_pq, "SPPQ": d.sum_ppq, "SPPPQ": d.sum_pppq}
    with_er2 = 0
    for s, record in enumerate(records(save(tmp_path / f"out{kind}", d))):
        info = dict(record.INFO)
        assert info.pop("TYPED", False) == d.typed[s]
        assert info.pop("IMP", False) == d.imputed[s]
        if rows[s] == rows[s + 1]:
            assert info == {}
            continue
        assert info.pop("NH") == d.n_hap[rows[s]]
        for key, values in wanted.items():
            np.testing.assert_allclose(info.pop(key), values[rows[s] : rows[s + 1]], rtol=6e-6, atol=5.1e-5)
        if d.typed[s]:
            with_er2 += 1
            np.testing.assert_allclose(info.pop("ER2"), d.er2[rows[s] : rows[s + 1]], atol=5.1e-5)
        assert info == {}
    assert 0 < with_er2 < len(d.sites)


def test_info_text_and_order(tmp_path):
    sites = Sites("chr20", np.array([5, 9]), ["rs1", "."], ["A", "C"], ["G", "T,A"])
    p = np.array([[0.0, 0.5, 0.4996, 1.0], [0.25, 0, 0, 0], [0, 0, np.nan, 0]], np.float32)
    row = (np.array([0.4999004, 1e-6, 0.0]), np.array([0.61234, 0.5, np.nan]), np.array([0.98766, np.nan, np.nan]))
    row += (np.array([0.75, 0.12346, np.nan]),)
    sums = (np.array([4, 4, 4]), np.array([1.9996, 0.25, 0.0]), np.array([1.49960016, 0.0625, 0.0]))
    sums += (np.array([0.2512344, 1e-9, 0.0]), np.array([0.125, 0.5, 0.0]))
    d = Dosages(sites, p, np.array([True, True]), np.array([True, False]), *row, *sums)
    with VariantWriter(tmp_path / "out.vcf", ("a", "b"), CONTIGS, ("GT", "DS")) as out:
        out.write(d)
    lines = (tmp_path / "out.vcf").read_text().splitlines()
    assert lines[0] == "##fileformat=VCFv4.2"
    assert "##contig=<ID=chr20,length=64444167>" in lines
    assert lines[-3:-2] == ["#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\tb"]
    assert lines[-2] == (
        "chr20\t5\trs1\tA\tG\t.\tPASS\tAF=0.4999;DR2=0.6123;R2=0.6123;INFO=0.6123;ER2=0.9877;EXPR2=0.75;NH=4;"
        "SP=1.9996;SPQ=1.4996;SPPQ=0.251234;SPPPQ=0.125;TYPED;IMP\tGT:DS\t0|1:0.5\t0|1:1.5"
    )
    assert lines[-1] == (
        "chr20\t9\t.\tC\tT,A\t.\tPASS\tAF=0.000001,0;DR2=0.5,.;R2=0.5,.;INFO=0.5,.;EXPR2=0.1235,.;NH=4;SP=0.25,0;"
        "SPQ=0.0625,0;SPPQ=1e-09,0;SPPPQ=0.5,0;TYPED\tGT:DS\t0|0:0.25,0\t.|0:0,."
    )


@needs("bcftools")
@pytest.mark.parametrize("formats", [ALL, ("GT",), ("DS", "GP"), ("GT", "DS")])
def test_bcftools_prints_both_alike_without_warnings(tmp_path, formats):
    shown = []
    for kind in KINDS:
        path = save(tmp_path / f"out{kind}", example(), example(3, contig="chrUn"), formats=formats)
        run = subprocess.run(["bcftools", "view", "--no-version", path], capture_output=True, text=True, check=True)
        assert run.stderr == ""
        shown.append(run.stdout)
    assert shown[0] == shown[1]
    assert sum(not line.startswith("#") for line in shown[0].splitlines()) == 15 * len(ALLELES)


@needs("bcftools")
def test_bcftools_prints_the_text_itself(tmp_path):
    """Digits are chosen so that a round trip through float32 keeps them; only tiny AF become exponents."""
    d = example()
    path = save(tmp_path / "out.bcf", d)
    plain = save(tmp_path / "out.vcf", d).read_text().splitlines()
    shown = subprocess.run(["bcftools", "view", "-H", path], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [line for line in plain if line[0] != "#"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_alt", [5, 15, 70])
def test_many_alleles(tmp_path, kind, n_alt):
    """Two-digit alleles in text; in BCF vectors of 15 values and more, and from 63 ALT alleles 16-bit genotypes."""
    rng = np.random.default_rng(8)
    alts = ["C" * i for i in range(2, 2 + n_alt)]
    sites = Sites("chr20", np.array([77, 78]), ["x" * 300, "."], ["C", "A"], [",".join(alts), "G"])
    d = dosages(sites, 2 * len(SAMPLES), rng)
    likely = n_alt - 1 - np.arange(14) * (n_alt // 5) % n_alt
    d.p[:n_alt] = 0.0
    d.p[likely, np.arange(14)] = 0.9
    big, small = records(save(tmp_path / f"out{kind}", d))
    assert [g[:2] for g in big.genotypes] == (likely.reshape(7, 2) + 1).tolist()
    (_, p_big), (_, p_small) = site_parts(d)
    for key, values in expected_fields(p_big).items():
        np.testing.assert_allclose(big.format(key), values, atol=6e-4, err_msg=key)
    assert (alts, "x" * 300) == (big.ALT, big.ID)
    assert small.genotypes == expected_gt(p_small)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_inside_a_deletion_finds_it(tmp_path, kind):
    d = example(1)
    path = save(tmp_path / f"out{kind}", cut(d, 7, 8))
    assert len(d.sites.ref[7]) == 20
    inside = d.sites.pos[7] + 15
    assert [r.POS for r in cyvcf2.VCF(str(path))(f"chr20:{inside}-{inside}")] == [d.sites.pos[7]]


@pytest.mark.parametrize(("kind", "suffix"), [(".vcf.gz", ".tbi"), (".bcf", ".csi")])
def test_index_finds_a_region(tmp_path, kind, suffix):
    d = example(200)
    path = save(tmp_path / f"out{kind}", d, example(2, contig="chrUn"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, path.name + suffix]
    low, high = int(d.sites.pos[500]), int(d.sites.pos[530])
    found = [r.POS for r in cyvcf2.VCF(str(path))(f"chr20:{low}-{high}") if low <= r.POS]
    assert found == [x for x in d.sites.pos if low <= x <= high]
    assert len(list(cyvcf2.VCF(str(path))("chrUn"))) == 2 * len(ALLELES)


@pytest.mark.parametrize("contig", [("chr20", 2**30), ("chr20", None)])
def test_a_long_contig_gets_a_csi_index(tmp_path, contig):
    path = tmp_path / "out.vcf.gz"
    with VariantWriter(path, SAMPLES, [contig], ("GT",)) as out:
        out.write(example(start=600_000_000))
    assert {p.name for p in tmp_path.iterdir()} == {"out.vcf.gz", "out.vcf.gz.csi"}
    assert len(list(cyvcf2.VCF(str(path))("chr20:600000000-600100000"))) == len(example().sites)


@pytest.mark.parametrize("kind", [*KINDS, ".vcf"])
def test_bytes_do_not_depend_on_threads_split_or_chunks(tmp_path, kind, monkeypatch):
    d = example(150)
    whole = save(tmp_path / f"one{kind}", d).read_bytes()
    assert len(gzip.decompress(whole) if kind != ".vcf" else whole) > 2 * bgzf.BLOCK
    assert save(tmp_path / f"two{kind}", d, threads=2).read_bytes() == whole
    cuts = [0, 1, 2, 600, 1111, len(d.sites)]
    pieces = [cut(d, a, b) for a, b in pairwise(cuts)]
    assert save(tmp_path / f"cut{kind}", *pieces, cut(d, 0, 0)).read_bytes() == whole
    monkeypatch.setattr(write, "CHUNK_BYTES", 5000)
    assert save(tmp_path / f"chunks{kind}", d).read_bytes() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_no_records_is_a_valid_file(tmp_path, kind):
    assert list(records(save(tmp_path / f"out{kind}"))) == []


@pytest.mark.parametrize("kind", [*KINDS, ".vcf"])
def test_an_exception_leaves_nothing(tmp_path, kind):
    with (
        pytest.raises(RuntimeError, match="engine"),
        VariantWriter(tmp_path / f"o{kind}", SAMPLES, CONTIGS, ALL) as out,
    ):
        out.write(example())
        assert len(list(tmp_path.iterdir())) == 1
        raise RuntimeError("engine")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_no_result(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from npimpute.vcf.write import VariantWriter\n"
        "assert 'pysam' not in sys.modules\n"
        "with VariantWriter(sys.argv[1], ('a',), [('1', None)], ('GT',)):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(write.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", script, tmp_path / "out.bcf"], cwd=root, check=False)
    assert run.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")


def test_records_out_of_order_leave_nothing(tmp_path):
    d = example()
    with pytest.raises(InputError, match="out of order"):
        save(tmp_path / "out.vcf.gz", cut(d, 40, 80), cut(d, 0, 40))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["header", "write", "close"])
def test_full_disk_is_the_users_to_mend(tmp_path, monkeypatch, moment):
    class Full(bgzf.BgzfWriter):
        pass

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write, "BgzfWriter", Full)
    if moment == "header":
        Full.write = fail
    writer = VariantWriter(tmp_path / "out.bcf", SAMPLES, CONTIGS, ALL)
    with pytest.raises(InputError, match=r"out\.bcf: no space left"), writer as out:
        setattr(Full, moment, fail)
        out.write(example())
    assert list(tmp_path.iterdir()) == []


def test_refuses_to_overwrite_unless_asked(tmp_path):
    path = save(tmp_path / "out.vcf.gz", example(1))
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists"):
        save(path, example(2))
    assert path.read_bytes() == before
    stale = tmp_path / "out.vcf.gz.csi"
    stale.write_bytes(b"index of the old file")
    save(path, example(2), overwrite=True)
    assert len(list(records(path))) == 2 * len(ALLELES)
    assert not stale.exists()


def test_refuses_unusable_places_and_names(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        VariantWriter(tmp_path / "no" / "out.bcf", SAMPLES, CONTIGS, ALL)
    for name in ("out.txt", "out.gz", ".bcf", "out.vcf.bz2"):
        with pytest.raises(ConfigError, match="must end in"):
            VariantWriter(tmp_path / name, SAMPLES, CONTIGS, ALL)
    for formats in ((), ("XX",), ("DS", "GT"), ("DS", "DS")):
        with pytest.raises(ConfigError, match="formats"):
            VariantWriter(tmp_path / "out.bcf", SAMPLES, CONTIGS, formats)


def test_refuses_a_read_only_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(write.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="not writable"):
        VariantWriter(tmp_path / "out.bcf", SAMPLES, CONTIGS, ALL)


def test_refuses_dosages_of_other_samples_or_contigs(tmp_path):
    with (
        VariantWriter(tmp_path / "out.bcf", SAMPLES[:3], CONTIGS[:1], ("GT",)) as out,
        pytest.raises(ValueError, match="3 s"),
    ):
        out.write(example())
    with (
        VariantWriter(tmp_path / "b.bcf", SAMPLES, CONTIGS[:1], ("GT",)) as out,
        pytest.raises(ValueError, match="chrUn"),
    ):
        out.write(example(contig="chrUn"))


@needs("plink2")
def test_plink2_reads_dosages(tmp_path):
    rng = np.random.default_rng(2)
    pos = np.arange(1, 41) * 100
    sites = Sites("chr20", pos, [f"v{i}" for i in range(40)], ["A"] * 40, ["G"] * 40)
    d = dosages(sites, 2 * len(SAMPLES), rng)
    path = save(tmp_path / "out.vcf.gz", d, formats=("GT", "DS"))
    command = ["plink2", "--vcf", path, "dosage=DS", "--freq", "--out", tmp_path / "p"]
    subprocess.run(command, check=True, capture_output=True)
    table = [line.split() for line in (tmp_path / "p.afreq").read_text().splitlines()]
    column = table[0].index("ALT_FREQS")
    found = np.array([float(row[column]) for row in table[1:]])
    np.testing.assert_allclose(found, d.p.mean(1), atol=5e-4)


@pytest.mark.parametrize("size", [0, 1, bgzf.BLOCK, bgzf.BLOCK + 1, 10 * bgzf.BLOCK + 17])
@pytest.mark.parametrize("random", [True, False])
def test_bgzf_reads_back(size, random):
    data = np.random.default_rng(1).bytes(size) if random else bytes(size)
    written = []
    for threads, step in ((1, 1 << 30), (3, 997)):
        raw = io.BytesIO()
        with bgzf.BgzfWriter(raw, threads) as out:
            for at in range(0, size, step):
                out.write(data[at : at + step])
        written.append(raw.getvalue())
    assert gzip.decompress(written[0]) == data
    assert written[0] == written[1]
    assert written[0].endswith(bgzf.EOF_BLOCK)


@needs("bgzip")
def test_bgzip_accepts_it(tmp_path):
    path = tmp_path / "x.gz"
    data = np.random.default_rng(4).integers(0, 4, 300_000).astype(np.uint8)
    with bgzf.BgzfWriter(path, 2) as out:
        out.write(data)
    run = subprocess.run(["bgzip", "-t", path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_a_failing_disk_shows_in_bgzf():
    with pytest.raises(OSError, match="space"), open("/dev/full", "wb") as full, bgzf.BgzfWriter(full) as out:
        out.write(np.random.default_rng(0).bytes(1_000_000))
