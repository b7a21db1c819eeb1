"""Targets that are imputed by turns come out as if they had been imputed together, in little memory."""

import resource
from dataclasses import replace

import numpy as np
import pytest
from conftest import ALL, Vcf, contents, impute, run_forked, simulate, write_map
from test_haploid import draw

from npimpute.context import windows
from npimpute.context.windows import Window, _most_sites
from npimpute.dosage import by_turns, stitch
from npimpute.dosage.by_turns import Waiting, imputed
from npimpute.engine import calibrated, npssm
from npimpute.engine.npssm import NPSSMEngine
from npimpute.engine.self_imputed import self_impute
from npimpute.errors import InputError
from npimpute.panel.align import Alignment
from npimpute.types import Haplotypes, Sites


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two contigs of some windows each, unphased targets, genotypes missing."""
    folder, made = tmp_path_factory.mktemp("small"), simulate(n_sites=300, n_panel=30, n_target=7)
    parts = []
    for vcf in (made.panel, made.target):
        more = vcf.renamed({"20": "21"})
        parts.append(Vcf(vcf.samples, [*vcf.records, *more.records], vcf.contigs | more.contigs))
    calls = [replace(r, calls=tuple("/".join(sorted(c.split("|"))) for c in r.calls)) for r in parts[1].records]
    parts[1] = replace(parts[1], records=calls)
    made.ref, made.chip = parts[0].save(folder / "panel.vcf.gz"), parts[1].save(folder / "chip.vcf.gz")
    made.map = write_map(folder / "map.txt", ("20", "21"))
    return made


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    """X, where males are haploid."""
    folder, drawn = tmp_path_factory.mktemp("x"), draw(n_panel=12, n_targets=6)
    made = simulate(n_sites=60, n_panel=8, n_target=4)
    made.ref, made.map = drawn.vcf(drawn.panel).save(folder / "panel.vcf.gz"), None
    made.chip = drawn.chip().save(folder / "chip.vcf.gz")
    return made


ESTIMATED = {"ne": None, "err": None, "core_cm": 4.0}


@pytest.mark.parametrize("together", [1, 5])
@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        (".vcf.gz", "small", ESTIMATED | {"formats": ALL, "min_r2": 0.3, "all_typed_sites": True}),
        (".bcf", "small", ESTIMATED | {"engine": "npssm", "calibrate": 12, "resume": True}),
        (".bcf", "small", ESTIMATED | {"calibrate": 12, "keep_typed": False}),
        (".vcf", "small", {"engine": "knn", "ne": None, "region": "21:100,000-500,000"}),
        (".vcf.gz", "x", {"formats": ALL, "core_cm": 0.1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_turns_do_not_matter(request, tmp_path, monkeypatch, together, suffix, kind, options):
    data = request.getfixturevalue(kind)
    for name in ("whole", "turns"):
        (tmp_path / name).mkdir()
        if name == "turns":
            monkeypatch.setattr(windows, "TOGETHER", together)
            monkeypatch.setattr(stitch, "CHUNK_VALUES", 100)
            monkeypatch.setattr(by_turns, "STEP", 7)
        place = tmp_path / name
        more = {"sites_only": place / "sites.vcf.gz", "sample_quality": place / "q.tsv", "report": place / "r.tsv"}
        impute(data, place / f"out{suffix}", **more, **options)
    whole, turns = (
        {path.name: data for path, data in contents(tmp_path / name).items()} for name in ("whole", "turns")
    )
    assert len(whole) >= 4 and whole == turns


@pytest.mark.parametrize("options", [{"engine": "npssm"}, {"engine": "clades"}, {"engine": "li-stephens"}], ids=str)
def test_the_panel_is_hidden_once_a_window(small, tmp_path, monkeypatch, options):
    monkeypatch.setattr(windows, "TOGETHER", 3)
    hidden, judged, was, judges = [], [], self_impute, NPSSMEngine.judges

    def counted(impute, window, *rest):
        hidden.append((window.panel.sites.contig, int(window.panel.sites.pos[0])))
        return was(impute, window, *rest)

    def counted_judges(engine, window, *rest):
        judged.append((window.panel.sites.contig, int(window.panel.sites.pos[0])))
        return judges(engine, window, *rest)

    for module in (npssm, calibrated):
        monkeypatch.setattr(module, "self_impute", counted)
    monkeypatch.setattr(NPSSMEngine, "judges", counted_judges)
    impute(small, tmp_path / "out.vcf", calibrate=12, core_cm=4.0, **options)
    assert len(hidden) == len(set(hidden)) > 3
    assert len(judged) == len(set(judged)) == (len(hidden) if options["engine"] == "npssm" else 0)


def test_many_targets_do_not_cut_windows_short():
    assert _most_sites(6_000, 1_000) > _most_sites(6_000, windows.TOGETHER) == _most_sites(6_000, 20_000)
    assert 4 * 200_000 * _most_sites(6_000, 200_000) <= windows.WAITING_BYTES < 4 * 200_001 * _most_sites(6_000, 2_000)
    assert _most_sites(6_000, 10**9) == windows.MIN_WINDOW_SITES


def test_what_waits_is_what_was_imputed(tmp_path, monkeypatch):
    monkeypatch.setattr(by_turns, "STEP", 3)
    p = np.random.default_rng(1).random((9, 20)).astype(np.float32)
    with Waiting(tmp_path / "out.vcf", 4, 15) as waiting:
        for first, last in ((0, 2), (2, 3), (3, 9)):
            waiting.add(p[first:last])
        assert waiting.shape == (9, 11)
        for a, b in ((4, 15), (4, 5), (9, 12), (14, 15)):
            np.testing.assert_array_equal(waiting[:, a:b], p[:, a:b])
        assert list(tmp_path.iterdir()) == [], "it has no name"


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["", "resume"])
def test_no_room_to_wait(small, tmp_path, monkeypatch, resume):
    """What waits is larger than the output, which is compressed."""
    monkeypatch.setattr(windows, "TOGETHER", 3)
    files = ["--ref", small.ref, "--target", small.chip, "--map", small.map, "--out", tmp_path / "out.bcf"]
    command = ["run", *files, "--engine", "li-stephens", "--ne", 1500, "--err", 1e-4, *resume]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))  # noqa: E731
    status, _, log = run_forked(*command, before=limit)
    assert status == 2 and log.count("npimpute: error: ") == 1 and "out.bcf: cannot be written" in log, log
    assert list(tmp_path.iterdir()) == []


def test_a_directory_where_nothing_can_wait(tmp_path):
    with pytest.raises(InputError, match="cannot be written"), Waiting(tmp_path / "none" / "out.vcf", 0, 1):
        pass


def test_without_a_typed_site_nothing_is_settled(tmp_path, monkeypatch):
    """Panel frequencies are written then."""
    monkeypatch.setattr(windows, "TOGETHER", 2)

    class Engine:
        def impute(self, window, progress):
            progress(1.0)
            return np.full((window.alleles.shape[1], 3), 0.25, np.float32)

    sites = Sites("20", np.array([1, 2, 3]), ["."] * 3, ["A"] * 3, ["C"] * 3)
    panel, nothing = Haplotypes(sites, np.zeros((3, 1), np.uint8), 4), np.zeros(0, np.int64)
    window = Window(panel, np.zeros(3), nothing, np.zeros((0, 5), np.int8), 0, 3, (0, 0), nothing, np.ones(5, np.int8))
    told = []
    with imputed(Engine(), window, tmp_path / "out.vcf", told.append) as p:
        assert p[:, 1:3].shape == (5, 2) and (p[:, 0:3] == 0.25).all()
    assert told == pytest.approx([1 / 3, 2 / 3, 1])


def test_alleles_are_translated_pair_by_pair():
    rng = np.random.default_rng(1)
    alleles = rng.integers(-1, 3, (7, 11)).astype(np.int8)
    codes = rng.integers(0, 5, (4, 3)).astype(np.int8)
    at = np.array([6, 0, 3, 2])
    alignment = Alignment(at, np.arange(4), codes, np.zeros(7, np.uint8))
    expected = [[codes[i, a] if a >= 0 else -1 for a in alleles[t]] for i, t in enumerate(at)]
    np.testing.assert_array_equal(alignment.translated(alleles), expected)
