"""Simulated panels: reproducible, well formed, and with the history and the recombination that were asked for."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from npimpute.errors import ConfigError
from npimpute.panel.genetic_map import GeneticMap, constant_rate
from npimpute.panel.panel import CompiledPanel, compile_panel
from npimpute.train import simulate as module
from npimpute.train.simulate import SimulationConfig, simulate

msprime = pytest.importorskip("msprime", reason="msprime is not installed")

SMALL = SimulationConfig(samples=41, length_mb=0.1)
# In 2 kb, as much recombination as in 10 Mb elsewhere; next to none in the rest of the map.
HOT = (5_090_000, 5_092_000)


def hot_map(contig: str = "7") -> GeneticMap:
    bp = np.unique(np.append(np.arange(5_030_000, 5_155_001, 5_000), HOT)).astype(np.float64)
    per_bp = np.where(bp[:-1] == HOT[0], 10 / 2_000, 1e-10)
    return GeneticMap("hot.map", {contig: (bp, np.append(0, np.cumsum(per_bp * np.diff(bp))))})


def dense(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Map points every 10 kb, at 1 cM/Mb."""
    bp = np.arange(start, stop + 1, 10_000, dtype=np.float64)
    return bp, bp * 1e-6


def alleles(panel) -> np.ndarray:
    """(s, k) uint8."""
    bits = np.concatenate([chunk.bits for chunk in panel])
    return np.unpackbits(bits, axis=1, count=panel.k, bitorder="little")


def diversity(haplotypes: np.ndarray, length: float) -> float:
    """Mean differences per bp of two of the haplotypes (s, k)."""
    k, copies = haplotypes.shape[1], haplotypes.sum(1, dtype=np.int64)
    return float((copies * (k - copies)).sum() / (k * (k - 1) / 2) / length)


def same(a, b) -> bool:
    return (
        (a.samples, a.contigs, a.sites.ref, a.sites.alt) == (b.samples, b.contigs, b.sites.ref, b.sites.alt)
        and np.array_equal(a.sites.pos, b.sites.pos)
        and np.array_equal(a.bits, b.bits)
        and np.array_equal(a.cm, b.cm)
    )


@pytest.mark.parametrize("genetic_map", [None, hot_map()], ids=["constant", "map"])
def test_a_seed_is_a_panel(genetic_map):
    config = replace(SMALL, genotyping_error=0.01)
    first = simulate(config, 3, genetic_map)
    assert same(first, simulate(config, 3, genetic_map))
    other = simulate(config, 4, genetic_map)
    assert not np.array_equal(first.sites.pos, other.sites.pos) and not np.array_equal(first.bits, other.bits)


def test_the_panel_is_well_formed(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 500)
    panel = simulate(SMALL, 1)
    assert panel.k == 82 and panel.contigs == [("1", 100_000)]
    shares = {"YRI": 14, "CEU": 14, "CHB": 13}
    assert panel.samples == tuple(f"{name}_{i}" for name, n in shares.items() for i in range(n))
    chunks = list(panel)
    assert len(chunks) > 3 and all(len(chunk.bits) <= 500 // 11 for chunk in chunks)
    assert {(chunk.k, chunk.bits.dtype, chunk.bits.shape[1]) for chunk in chunks} == {(82, np.dtype(np.uint8), 11)}
    assert all(len(chunk.bits) == len(chunk.sites) == chunk.row_start()[-1] for chunk in chunks)
    pos = np.concatenate([chunk.sites.pos for chunk in chunks])
    assert pos.dtype == np.int64 and (np.diff(pos) > 0).all() and 1 <= pos[0] < pos[-1] <= 100_000
    ref, alt = ([x for chunk in chunks for x in getattr(chunk.sites, name)] for name in ("ref", "alt"))
    assert set(ref) == set(alt) == set("ACGT") and not any(map(str.__eq__, ref, alt))
    assert len(ref) == len(panel.cm) == len(panel.sites)
    bits = np.concatenate([chunk.bits for chunk in chunks])
    assert bits.any() and not (bits[:, -1] >> 2).any()


@pytest.mark.parametrize("min_mac", [1, 2, 6])
def test_rare_sites_are_dropped_and_no_others(min_mac):
    whole, panel = simulate(replace(SMALL, min_mac=1), 2), simulate(replace(SMALL, min_mac=min_mac), 2)
    copies = alleles(whole).sum(1, dtype=np.int64)
    rarer = np.minimum(copies, whole.k - copies)
    assert rarer.min() == 1 and rarer.max() > 6
    np.testing.assert_array_equal(panel.sites.pos, whole.sites.pos[rarer >= min_mac])
    np.testing.assert_array_equal(panel.bits, whole.bits[rarer >= min_mac])


def test_pieces_do_not_show(monkeypatch):
    whole = simulate(SMALL, 5)
    monkeypatch.setattr(module, "_PIECE_BYTES", 82 * 7)
    assert same(simulate(SMALL, 5), whole)


def test_haplotypes_are_those_of_the_trees(monkeypatch):
    """Node by node: what msprime made, against what came out of the packing."""
    made = []
    monkeypatch.setattr(module, "_trees", lambda *args, plain=module._trees: made.append(plain(*args)) or made[0])
    panel = simulate(replace(SMALL, min_mac=1), 1)
    wanted = made[0].genotype_matrix(alleles=("0", "1"))
    seen = wanted.any(1) & ~wanted.all(1)
    np.testing.assert_array_equal(alleles(panel), wanted[seen])
    np.testing.assert_array_equal(panel.sites.pos, 1 + made[0].sites_position[seen])
    names = [made[0].population(made[0].node(node).population).metadata["name"] for node in made[0].samples()]
    assert names == [name.split("_")[0] for name in panel.samples for _ in range(2)]
    people = made[0].nodes_individual[made[0].samples()]
    assert people.tolist() == [i for i in range(41) for _ in range(2)]


def test_out_of_africa_is_the_published_history():
    written = getattr(msprime.Demography, "_ooa_model", None)
    if written is None:
        pytest.skip("this msprime has no out-of-Africa model of its own")
    module._out_of_africa().assert_equivalent(written())


def test_africa_is_more_diverse_than_the_populations_that_left_it():
    panel = simulate(SimulationConfig(samples=60, min_mac=1), 1)
    pi = dict(
        zip(("YRI", "CEU", "CHB"), [diversity(part, 1e6) for part in np.split(alleles(panel), 3, 1)], strict=True)
    )
    assert pi["YRI"] > 1.15 * pi["CEU"] > 1.15 * pi["CHB"] > 0


@pytest.mark.parametrize("mutation_rate", [1.29e-8, 4e-8])
def test_constant_history_has_the_expected_diversity(mutation_rate):
    config = SimulationConfig(40, 1.0, "constant", ("A", "B"), mutation_rate, min_mac=1)
    panel = simulate(config, 1)
    wanted = 4 * 10_000 * mutation_rate
    assert diversity(alleles(panel), 1e6) == pytest.approx(wanted, rel=0.2)
    assert panel.samples == tuple(f"{name}_{i}" for name in "AB" for i in range(20))
    between = np.abs(np.subtract(*[part.mean(1) for part in np.split(alleles(panel), 2, 1)]))
    assert between.max() < 0.5, "the names are labels of one population"


def test_recombination_is_where_the_map_has_it():
    """Four gametes of two sites need a crossover between them: many over the hot spot, hardly any beside it."""
    config = SimulationConfig(40, 0.1, "constant", ("A",), 4e-8)
    for seed in range(3):
        panel = simulate(config, seed, hot_map())
        x = alleles(panel).astype(np.int64)
        both, one = x @ x.T, x.sum(1)
        gametes = [both, one[:, None] - both, one[None] - both, panel.k - one[:, None] - one[None] + both]
        crossed = np.logical_and.reduce([count > 0 for count in gametes])
        left, right = panel.sites.pos < HOT[0], panel.sites.pos >= HOT[1]
        assert left.sum() > 30 and right.sum() > 30
        beside = [crossed[np.ix_(side, side)][np.triu_indices(side.sum(), 1)].mean() for side in (left, right)]
        assert max(beside) < 0.02
        assert crossed[np.ix_(left, right)].mean() > 0.2


def test_recombination_rate_is_that_of_the_configuration():
    """Rates per bp over the whole sequence, without a map and with one that is a rate."""
    made = module._rate_map(constant_rate(1.5), module._Stretch("1", 1, 1000))
    np.testing.assert_allclose(made.rate, 1.5e-8)
    few, many = (simulate(replace(SMALL, recombination_rate=rate), 1) for rate in (1e-9, 1e-8))
    np.testing.assert_allclose(few.cm, few.sites.pos * 1e-7)
    assert same(simulate(SMALL, 1, constant_rate(1.0)), many)
    assert len({row.tobytes() for row in alleles(few).T}) < len({row.tobytes() for row in alleles(many).T})


def test_a_panel_with_a_map_has_its_positions_and_cm():
    starts = set()
    for seed in range(5):
        panel, genetic_map = simulate(SMALL, seed, hot_map("X")), hot_map("X")
        np.testing.assert_array_equal(panel.cm, genetic_map.to_cm("X", panel.sites.pos))
        assert panel.cm[-1] - panel.cm[0] > 9.9, "the hot spot is in every stretch"
        assert panel.sites.contig == "X" and panel.contigs == [("X", None)]
        pos = panel.sites.pos
        assert pos[0] >= 5_030_000 and pos[-1] <= 5_155_000 and pos[-1] - pos[0] < 100_000
        starts.add(int(pos[0]) // 1_000)
    assert len(starts) > 2


def test_stretches_are_drawn_from_all_that_is_dense():
    """Three runs of map points: 100 kb and 50 kb of possible starts around a gap, and 250 kb on another contig."""
    left, right = dense(1_000_000, 1_299_999), dense(2_000_000, 2_250_000)
    gap = tuple(np.concatenate(pair) for pair in zip(left, right, strict=True))
    genetic_map = GeneticMap("gap.map", {"1": gap, "2": dense(10_000, 460_000), "3": dense(10_000, 200_000)})
    rng = np.random.default_rng(0)
    drawn = [module._stretch(genetic_map, 200_000, rng) for _ in range(4000)]
    runs = {("1", 1_000_000): 90_001, ("1", 2_000_000): 50_001, ("2", 10_000): 250_001}
    for (contig, first), count in runs.items():
        mine = [s.start - first for s in drawn if s.contig == contig and 0 <= s.start - first < 500_000]
        assert len(mine) / 4000 == pytest.approx(count / sum(runs.values()), abs=0.03)
        assert 0 <= min(mine) < 0.02 * count and 0.98 * count < max(mine) < count + 1
    assert {s.contig for s in drawn} == {"1", "2"}


def test_a_stretch_may_be_the_whole_map_to_the_last_bp():
    genetic_map = GeneticMap("one.map", {"5": dense(0, 100_000)})
    rng = np.random.default_rng(0)
    assert {module._stretch(genetic_map, 99_999, rng).start for _ in range(50)} == {1, 2}
    assert module._stretch(genetic_map, 100_000, rng) == ("5", 1, 100_000)
    with pytest.raises(ConfigError, match="one.map: no 100001 bp"):
        module._stretch(genetic_map, 100_001, rng)


def test_each_possible_start_is_drawn_and_no_other():
    """One or none in each contig: every draw is at the end of a contig's share."""
    points = {name: dense(0, end) for name, end in (("1", 90_000), ("2", 100_000), ("3", 90_000), ("4", 100_000))}
    rng = np.random.default_rng(0)
    drawn = {module._stretch(GeneticMap("four.map", points), 100_000, rng) for _ in range(50)}
    assert drawn == {("2", 1, 100_000), ("4", 1, 100_000)}


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.4])
def test_flips_are_as_many_as_expected_everywhere(probability):
    found = np.tile(np.array([0, 1], np.uint8), (1000, 500))
    given = found.copy()
    module._flip(found, probability, np.random.default_rng(0))
    assert set(np.unique(found)) == {0, 1}
    for part in np.split(found != given, 2, 0) + np.split(found != given, 2, 1):
        assert part.mean() == pytest.approx(probability, rel=0.15 if probability < 0.1 else 0.01)


def test_errors_flip_alleles_at_their_rate():
    config = replace(SMALL, length_mb=0.2, min_mac=1)
    clean, noisy = simulate(config, 1), simulate(replace(config, genotyping_error=0.05), 1)
    _, a, b = np.intersect1d(clean.sites.pos, noisy.sites.pos, return_indices=True)
    assert len(a) > 200
    assert [clean.sites.ref[i] for i in a] == [noisy.sites.ref[i] for i in b]
    flipped = alleles(clean)[a] != alleles(noisy)[b]
    assert flipped.mean() == pytest.approx(0.05, rel=0.1)
    rare = alleles(clean)[a].mean(1) < 0.05
    assert flipped[rare][alleles(clean)[a][rare] == 1].mean() == pytest.approx(0.05, abs=0.03)
    assert np.bincount(flipped.any(1))[1] > 0.9 * len(a)


def test_a_simulated_panel_can_be_compiled(tmp_path):
    panel = simulate(SMALL, 1, hot_map())
    source = tmp_path / "simulated.txt"
    source.write_text(repr(SMALL))
    compile_panel(replace(panel, path=source), tmp_path / "panel.npp", hot_map())
    compiled = CompiledPanel(tmp_path / "panel.npp")
    assert (compiled.samples, compiled.k, compiled.contigs) == (panel.samples, panel.k, panel.contigs)
    np.testing.assert_array_equal(alleles(compiled), alleles(panel))
    np.testing.assert_array_equal(np.concatenate([chunk.sites.pos for chunk in compiled]), panel.sites.pos)
    np.testing.assert_array_equal(compiled.genetic_map.to_cm("7", panel.sites.pos), panel.cm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": "flood"}, "history 'flood'"),
        ({"populations": ()}, r"populations \(\)"),
        ({"populations": "YRI", "history": "constant"}, "populations 'YRI'"),
        ({"populations": ("CEU", "CEU")}, "different names"),
        ({"populations": ("CEU", "FIN")}, "FIN.*choose from YRI, CEU, CHB"),
        ({"populations": ("a b",), "history": "constant"}, "without blanks"),
        ({"populations": ("",), "history": "constant"}, "without blanks"),
        ({"samples": 2}, "samples 2: .* 3 populations"),
        ({"length_mb": 0.0}, "length_mb 0.0"),
        ({"length_mb": float("nan")}, "length_mb nan"),
        ({"length_mb": float("inf")}, "length_mb inf"),
        ({"mutation_rate": 0.0}, "mutation_rate 0.0"),
        ({"recombination_rate": -1e-8}, "recombination_rate -1e-08"),
        ({"recombination_rate": 1.0}, "recombination_rate 1.0"),
        ({"genotyping_error": -0.1}, "genotyping_error -0.1"),
        ({"genotyping_error": 0.5}, "genotyping_error 0.5"),
        ({"min_mac": 0}, "min_mac 0"),
        ({"min_mac": 1001}, "min_mac 1001: give 1 to 1000"),
    ],
    ids=str,
)
def test_a_bad_configuration_is_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        SimulationConfig(**options)
    assert "\n" not in str(refusal.value)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ConfigError, match="seed -1"):
        simulate(SMALL, -1)
    with pytest.raises(ConfigError, match="hot.map: no 200000 bp"):
        simulate(replace(SMALL, length_mb=0.2), 1, hot_map())
    for config in (SimulationConfig(3, 1e-6), SimulationConfig(4, 0.005, min_mac=4, mutation_rate=1e-8)):
        with pytest.raises(ConfigError, match="no site is left"):
            simulate(config, 1)


def test_without_msprime_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "msprime", None)
    with pytest.raises(ConfigError, match=r"needs msprime: pip install 'npimpute\[train\]'"):
        simulate(SMALL, 1)
