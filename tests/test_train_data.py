"""What a network is trained and validated on: tables drawn from regions, and held-out people."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import Record, Vcf, simulate

from npimpute.context.blocks import BlockSize
from npimpute.context.neighbours import column_weights
from npimpute.errors import ConfigError, InputError
from npimpute.panel.panel import open_panel
from npimpute.train import data as module
from npimpute.train.data import DataConfig, Region, TableSource, random_array, read_regions, region_of
from npimpute.train.validate import choose_people, hold_out, validate

CONFIG = DataConfig(spacing_kb=(2, 4), min_typed_maf=(0.1, 0.2))
SIZE = BlockSize(untyped=15, typed=30)
PEOPLE = 8


def region(people: int = PEOPLE, rows: int = 300, seed: int = 0, homozygous: bool = False) -> Region:
    """Random alleles, a row every kb: any thirty tell all haplotypes apart, and hardly any two rows are alike."""
    rng = np.random.default_rng(seed)
    alleles = (rng.random((rows, 2 * people)) < rng.uniform(0.05, 0.95, (rows, 1))).astype(np.uint8)
    alleles[np.arange(rows), rng.integers(2 * people, size=rows)] ^= 1
    if homozygous:
        alleles[:, 1::2] = alleles[:, ::2]
    alleles = alleles[(alleles.any(1)) & ~alleles.all(1)]
    pos = 1000 * np.arange(1, len(alleles) + 1)
    return region_of("toy", pos, np.packbits(alleles, axis=1, bitorder="little"), 2 * people)


def everything(r: Region) -> np.ndarray:
    return r.alleles(np.arange(len(r.pos)))


class Spied:
    """A source whose draws tell their columns' alleles and which haplotypes they chose."""

    def __init__(self, monkeypatch, source: TableSource):
        self._source, self._calls = source, []
        plain = module.tables
        monkeypatch.setattr(module, "tables", lambda *args: self._calls.append(args) or plain(*args))

    def draw(self, seed: int, count: int):
        drawn = self._source.draw(np.random.default_rng(seed), count)
        _, panel, chosen = self._calls.pop()
        return drawn, panel, chosen


def same_haplotype(panel: np.ndarray, tokens: np.ndarray) -> int:
    """The one haplotype of the panel with these alleles."""
    (found,) = np.flatnonzero((panel.T == tokens).all(1))
    return int(found)


def test_context_is_the_nearest_of_all_but_the_query_and_its_sister(monkeypatch):
    source = Spied(monkeypatch, TableSource([region()], CONFIG, SIZE, 2 * PEOPLE - 2))
    few = Spied(monkeypatch, TableSource([region()], CONFIG, SIZE, 5))
    queries = set()
    for seed in range(20):
        drawn, panel, chosen = source.draw(seed, 6)
        nearer, panel_again, chosen_few = few.draw(seed, 6)
        np.testing.assert_array_equal(panel, panel_again)
        assert drawn.tokens.shape == (6, 2 * PEOPLE - 1, panel.shape[0]) and drawn.tokens.dtype == np.int8
        for table, small, rows, nearest in zip(drawn.tokens, nearer.tokens, chosen, chosen_few, strict=True):
            query = same_haplotype(panel, table[-1])
            queries.add(query)
            assert sorted(rows) == sorted(set(range(2 * PEOPLE)) - {query, query ^ 1})
            np.testing.assert_array_equal(table[:-1], panel.T[rows])
            np.testing.assert_array_equal(nearest, rows[-5:])
            np.testing.assert_array_equal(small, table[-6:])
            typed = table[:, ~drawn.wanted]
            distance = (typed[:-1] != typed[-1]).sum(1)
            assert (np.diff(distance) <= 0).all() and distance[0] > distance[-1], "the nearest last"
    assert queries == set(range(2 * PEOPLE)), "every haplotype in turn is a query"


def test_a_mismatch_far_off_counts_less_where_a_reach_says_so(monkeypatch):
    source = Spied(monkeypatch, TableSource([region()], CONFIG, SIZE, 2 * PEOPLE - 2, 3.0))
    for seed in range(10):
        drawn, panel, chosen = source.draw(seed, 6)
        weight = column_weights(drawn.wanted, 3.0)[~drawn.wanted]
        assert weight.max() > 20 * weight.min()
        for table, rows in zip(drawn.tokens, chosen, strict=True):
            np.testing.assert_array_equal(table[:-1], panel.T[rows])
            typed = table[:, ~drawn.wanted]
            assert (np.diff((typed[:-1] != typed[-1]) @ weight) <= 0).all(), "the nearest last"


def test_context_may_come_in_random_order(monkeypatch):
    def draws(share):
        source = Spied(monkeypatch, TableSource([region()], replace(CONFIG, shuffle=share), SIZE, 8))
        return [source.draw(seed, 3)[::2] for seed in range(40)]

    shuffled = {}
    for share in (0.5, 1.0):
        shuffled[share] = 0
        for (plain, by_distance), (drawn, chosen) in zip(draws(0.0), draws(share), strict=True):
            np.testing.assert_array_equal(np.sort(chosen, 1), np.sort(by_distance, 1))
            np.testing.assert_array_equal(drawn.tokens[:, -1], plain.tokens[:, -1])
            moved = (chosen != by_distance).any(1)
            assert moved.all() or not moved.any()
            shuffled[share] += moved.all()
            if moved.all():
                ranks = (chosen[:, :, None] == by_distance[:, None]).argmax(2)
                assert len({tuple(row) for row in ranks.tolist()}) == 3, "each query has its own order"
    assert shuffled[1.0] == 40 and 10 < shuffled[0.5] < 30


def test_context_is_the_nearest_of_a_pool(monkeypatch):
    source = Spied(monkeypatch, TableSource([region()], replace(CONFIG, pool=(6, 6)), SIZE, 5))
    pools = set()
    for seed in range(40):
        drawn, panel, chosen = source.draw(seed, 2 * PEOPLE)
        used = {int(i) for row in chosen for i in row}
        assert len(used) <= 6 + 2, "a query and its sister, who may be of the pool, are no one's context but others'"
        pools.add(frozenset(used))
        for table, rows in zip(drawn.tokens, chosen, strict=True):
            query = same_haplotype(panel, table[-1])
            assert len(set(rows)) == 5 and not {query, query ^ 1} & set(rows)
    assert len(pools) > 30


def test_not_even_a_sister_that_is_alike_is_context():
    """People are homozygous: the sister would be the nearest of all."""
    source = TableSource([region(homozygous=True)], CONFIG, SIZE, 2 * PEOPLE - 2)
    for seed in range(20):
        for table in source.draw(np.random.default_rng(seed), 8).tokens:
            assert (table[:-1] != table[-1]).any(1).all()


def test_columns_are_a_block_of_untyped_rows_and_the_typed_around_it(monkeypatch):
    whole = region()
    source = Spied(monkeypatch, TableSource([whole], CONFIG, SIZE, 5))
    index = {row.tobytes(): i for i, row in enumerate(everything(whole))}
    assert len(index) > 0.95 * len(whole.pos)
    starts = set()
    for seed in range(20):
        drawn, panel, _ = source.draw(seed, 2)
        assert drawn.wanted.dtype == bool and drawn.wanted.sum() == 15 and (~drawn.wanted).sum() == 30
        rows = np.array([index[row.tobytes()] for row in panel])
        ordered = np.diff(rows) > 0
        assert ordered.mean() > 0.9, "in order, but for rows that are alike"
        np.testing.assert_array_equal(drawn.frequency, panel.mean(1).astype(np.float32))
        assert drawn.frequency.dtype == np.float32
        assert np.minimum(panel.mean(1), 1 - panel.mean(1))[~drawn.wanted].min() >= 0.1
        before = np.flatnonzero(~drawn.wanted) < np.flatnonzero(drawn.wanted)[7]
        starts.add(int(rows[drawn.wanted][0]))
        if 80 < rows[drawn.wanted][0] and rows[drawn.wanted][-1] < len(whole.pos) - 80:
            assert 13 <= before.sum() <= 17, "as many on either side"
    assert len(starts) > 15 and max(starts) - min(starts) > 150, "anywhere in the region"


def test_all_that_a_short_region_has_is_used(monkeypatch):
    whole = region(rows=30)
    drawn, panel, _ = Spied(monkeypatch, TableSource([whole], CONFIG, BlockSize(100, 200), 5)).draw(0, 3)
    assert len(panel) == len(whole.pos)
    np.testing.assert_array_equal(panel, everything(whole))


def test_a_draw_is_a_function_of_the_generator():
    source = TableSource([region(), region(seed=1)], CONFIG, SIZE, 5)
    first, other = source.draw(np.random.default_rng(3), 4), source.draw(np.random.default_rng(4), 4)
    again = source.draw(np.random.default_rng(3), 4)
    for name in ("tokens", "wanted", "frequency"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.tokens.shape != other.tokens.shape or (first.tokens != other.tokens).any()


def test_a_batch_may_be_larger_than_the_panel_and_repeats_nothing_otherwise():
    source = TableSource([region()], CONFIG, SIZE, 5)
    distinct = {table[-1].tobytes() for table in source.draw(np.random.default_rng(0), 2 * PEOPLE).tokens}
    assert len(distinct) == 2 * PEOPLE
    assert len(source.draw(np.random.default_rng(0), 40).tokens) == 40


def test_rare_rows_are_left_out_of_tables_if_so_asked():
    rare = {}
    for least in (0.0, 0.25):
        source = TableSource([region()], replace(CONFIG, min_maf=least), SIZE, 5)
        frequency = [d.frequency[d.wanted] for d in (source.draw(np.random.default_rng(i), 1) for i in range(10))]
        rare[least] = np.minimum(np.concatenate(frequency), 1 - np.concatenate(frequency)).min()
    assert rare[0.0] < 0.2 and rare[0.25] >= 0.25


def test_regions_are_drawn_by_their_untyped_rows(monkeypatch):
    parts = [replace(region(rows=rows), name=str(rows)) for rows in (50, 150)]
    source = TableSource(parts, CONFIG, SIZE, 5)
    drawn = []
    monkeypatch.setattr(module, "random_array", lambda r, *args: drawn.append(r.name) or random_array(r, *args))
    for seed in range(200):
        source.draw(np.random.default_rng(seed), 1)
    assert drawn.count("150") == pytest.approx(150, abs=25)


def test_a_region_that_cannot_give_the_context_is_refused():
    TableSource([region()], CONFIG, SIZE, 2 * PEOPLE - 2)
    with pytest.raises(ConfigError, match="context of 15 haplotypes: toy has 16"):
        TableSource([region(20), region()], CONFIG, SIZE, 2 * PEOPLE - 1)


def test_a_region_without_frequent_rows_is_refused():
    alleles = np.zeros((20, 40), np.uint8)
    alleles[:, 3] = 1
    rare = region_of("rare", np.arange(20) * 1000, np.packbits(alleles, axis=1, bitorder="little"), 40)
    with pytest.raises(ConfigError, match="min_maf 0.1: no site of rare"):
        TableSource([region(), rare], replace(CONFIG, min_maf=0.1), SIZE, 5)
    with pytest.raises(ConfigError, match="rare: too short, or too few sites"):
        TableSource([rare], CONFIG, SIZE, 5)


def test_an_array_that_types_everything_leaves_nothing_to_learn():
    with pytest.raises(ConfigError, match="leaves no untyped site"):
        TableSource([region()], DataConfig((0.1, 0.1), (0, 0)), SIZE, 5).draw(np.random.default_rng(0), 1)


def test_an_array_has_a_row_a_bin_of_those_frequent_enough():
    rng = np.random.default_rng(0)
    whole = region(people=50, rows=2000)
    whole = replace(whole, pos=np.sort(rng.integers(1, 1_000_000, len(whole.pos))))
    chosen = set()
    for seed in range(30):
        rows = random_array(whole, DataConfig((5, 5), (0.2, 0.2)), np.random.default_rng(seed))
        assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()
        assert whole.maf[rows].min() >= 0.2
        pos = whole.pos[rows]
        assert 190 <= len(rows) <= 201, "one in each of 200 bins"
        # One in each bin: of three in a row, the outer two lie further apart than one bin.
        assert (pos[2:] - pos[:-2]).min() > 5_000
        chosen |= set(rows.tolist())
    assert len(chosen) > 0.8 * (whole.maf >= 0.2).sum(), "any row of a bin"


def test_arrays_differ_in_spacing_and_floor():
    whole = region(people=50, rows=2000)
    config = DataConfig((2, 50), (0.01, 0.4))
    drawn = [random_array(whole, config, np.random.default_rng(seed)) for seed in range(60)]
    counts, floors = np.array([len(rows) for rows in drawn]), [whole.maf[rows].min() for rows in drawn]
    assert counts.min() < 60 and counts.max() > 500
    # Half of them above the geometric mean of the spacing, 10 kb.
    assert 0.3 < np.mean(counts < 200) < 0.7
    assert min(floors) < 0.1 and max(floors) > 0.35 and min(floors) >= 0.01


def panel_of(records: list[Record], path, samples: int = 3):
    contigs = dict.fromkeys((r.contig for r in records), 1_000_000)
    return open_panel(Vcf([f"P{i}" for i in range(samples)], records, contigs).save(path))


def record(contig, pos, alleles, alt="G"):
    return Record(contig, pos, ".", "A", alt, ()).with_alleles(np.array(alleles))


def test_regions_are_contigs_of_rows_that_vary(tmp_path):
    records = [
        record("1", 100, [0, 0, 0, 0, 0, 0]),
        record("1", 200, [0, 1, 0, 0, 0, 1]),
        record("1", 300, [1, 1, 1, 1, 1, 1]),
        record("1", 400, [0, 1, 2, 2, 2, 2], "G,T,C"),
        record("2", 50, [1, 0, 1, 1, 1, 1]),
    ]
    panels = [panel_of(records, tmp_path / "a.vcf"), panel_of(records[1:2], tmp_path / "b.vcf")]
    a1, a2, b1 = read_regions(panels)
    for found, name, pos, count in (
        (a1, f"{tmp_path}/a.vcf:1", [200, 400, 400], [2, 1, 4]),
        (a2, f"{tmp_path}/a.vcf:2", [50], [5]),
        (b1, f"{tmp_path}/b.vcf:1", [200], [2]),
    ):
        assert (found.name, found.pos.tolist(), found.count.tolist(), found.k) == (name, pos, count, 6)
    np.testing.assert_array_equal(everything(a1), [[0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    np.testing.assert_allclose(a1.maf, [2 / 6, 1 / 6, 2 / 6])
    np.testing.assert_allclose(a2.maf, [1 / 6])


def test_what_does_not_vary_cannot_be_learnt(tmp_path):
    same = [record("1", 200, [0, 1, 0, 0, 0, 1]), record("2", 100, [0] * 6), record("2", 300, [1] * 6)]
    with pytest.raises(InputError, match="a.vcf:2: no site varies among its 6 haplotypes"):
        read_regions([panel_of(same, tmp_path / "a.vcf")])
    with pytest.raises(InputError, match="b.vcf"):
        read_regions([panel_of([record("1", 5, [0] * 6, ".")], tmp_path / "b.vcf")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing_kb": (7, 1)}, r"data.spacing_kb \(7, 1\)"),
        ({"spacing_kb": (0, 1)}, "data.spacing_kb"),
        ({"spacing_kb": (1, float("inf"))}, "data.spacing_kb"),
        ({"spacing_kb": (1, 2, 3)}, "data.spacing_kb"),
        ({"spacing_kb": ()}, "data.spacing_kb"),
        ({"min_typed_maf": (-0.1, 0.1)}, "data.min_typed_maf"),
        ({"min_typed_maf": (0.1, 0.6)}, "data.min_typed_maf"),
        ({"min_typed_maf": (float("nan"), 0.1)}, "data.min_typed_maf"),
        ({"min_maf": -0.01}, "data.min_maf -0.01"),
        ({"min_maf": 0.5}, "data.min_maf 0.5"),
        ({"pool": (0, 5)}, "data.pool"),
        ({"pool": (9, 5)}, "data.pool"),
        ({"shuffle": -0.1}, "data.shuffle -0.1"),
        ({"shuffle": 1.1}, "data.shuffle 1.1"),
    ],
    ids=str,
)
def test_a_bad_way_of_drawing_is_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        DataConfig(**options)
    assert "\n" not in str(refusal.value)


def test_lists_as_toml_has_them_are_tuples():
    assert DataConfig(spacing_kb=[1, 2]) == DataConfig(spacing_kb=(1, 2))


# Validation.

HELD = {"P3", "P11"}


@pytest.fixture(scope="module")
def made():
    return simulate(n_sites=200, n_panel=20, n_target=1, seed=3).panel


@pytest.fixture(scope="module")
def path(made, tmp_path_factory):
    return made.save(tmp_path_factory.mktemp("held") / "panel.vcf")


def rows_of(vcf: Vcf, people: list[int]) -> np.ndarray:
    """(rows, haplotypes of these people)."""
    columns = [2 * i + j for i in people for j in (0, 1)]
    return np.array(
        [r.alleles[columns] == a + 1 for r in vcf.records for a in range(r.alt.count(",") + 1)], dtype=np.uint8
    )


def test_held_out_people_are_the_truth_and_not_the_panel(made, path):
    others = [i for i in range(20) if i not in (3, 11)]
    config = DataConfig((20, 20), (0.1, 0.1))
    held = hold_out(path, HELD, config, 80, 1)
    panel = held.window.panel
    assert panel.k == 36
    np.testing.assert_array_equal(np.unpackbits(panel.bits, axis=1, count=36, bitorder="little"), rows_of(made, others))
    np.testing.assert_array_equal(held.truth, rows_of(made, [3, 11]))
    starts = panel.row_start()
    np.testing.assert_array_equal(held.window.alleles, held.truth[starts[held.window.typed]])
    assert len(held.window.typed) > 20 and (np.diff(starts)[held.window.typed] == 1).all(), "biallelic"
    maf = rows_of(made, others).mean(1)[starts[held.window.typed]]
    assert np.minimum(maf, 1 - maf).min() >= 0.1
    np.testing.assert_allclose(held.window.cm, 1e-6 * panel.sites.pos)


def test_rows_in_the_middle_are_compared_and_none_that_is_typed(path):
    held = hold_out(path, HELD, DataConfig((20, 20), (0.1, 0.1)), 80, 1)
    starts = held.window.panel.row_start()
    first, last = starts[held.window.start], starts[held.window.stop]
    assert 78 <= last - first <= 84
    assert abs((first + last) / 2 - starts[-1] / 2) < 4
    np.testing.assert_array_equal(held.rows, np.setdiff1d(np.arange(first, last), starts[held.window.typed]))
    assert 20 < len(held.rows) < 80
    whole = hold_out(path, HELD, DataConfig((20, 20), (0.1, 0.1)), 10_000, 1)
    assert (whole.window.start, whole.window.stop) == (0, len(whole.window.panel.sites))


def test_the_array_of_validation_is_its_seed_s(path):
    config = DataConfig((10, 40), (0.05, 0.2))
    first, again, other = (hold_out(path, HELD, config, 80, seed).window.typed for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_people_must_be_in_the_panel_and_leave_some(made, path):
    with pytest.raises(InputError, match="panel.vcf: none of the 1 held-out samples"):
        hold_out(path, {"stranger"}, DataConfig(), 80, 1)
    with pytest.raises(InputError, match="panel.vcf: every sample is held out"):
        hold_out(path, set(made.samples), DataConfig(), 80, 1)


def test_of_the_held_out_people_a_panel_has_some(made, path):
    held = hold_out(path, HELD | {"stranger"}, DataConfig((20, 20), (0.1, 0.1)), 80, 1)
    assert held.window.panel.k == 36
    np.testing.assert_array_equal(held.truth, rows_of(made, [3, 11]))


def test_validation_needs_typed_and_untyped_sites(made, path, tmp_path):
    with pytest.raises(InputError, match=r"panel.vcf: \d+ typed and 0 untyped"):
        hold_out(path, HELD, DataConfig((0.001, 0.001), (0, 0)), 1, 1)
    multi = replace(made, records=[r for r in made.records if "," in r.alt]).save(tmp_path / "multi.vcf")
    with pytest.raises(InputError, match=r"multi.vcf: 0 typed and \d+ untyped"):
        hold_out(multi, HELD, DataConfig(), 80, 1)


def test_people_are_chosen_among_all_panels_by_the_seed(made, path, tmp_path):
    other = replace(made.columns(list(range(4))), samples=["P0", "Q1", "Q2", "Q3"]).save(tmp_path / "other.vcf")
    panels = [open_panel(path), open_panel(other)]
    names = {f"P{i}" for i in range(20)} | {"Q1", "Q2", "Q3"}
    chosen = choose_people(panels, 22, 1)
    assert len(chosen) == 22 and chosen < names
    draws = [choose_people(panels, 5, seed) for seed in range(30)]
    assert draws[1] == choose_people(panels, 5, 1) and len(set(map(frozenset, draws))) > 20
    assert set().union(*draws) == names
    for count in (0, -1, 23, 50):
        with pytest.raises(ConfigError, match=f"--hold-out {count}: the panels have 23 samples"):
            choose_people(panels, count, 1)


class Oracle:
    """An engine that knows the truth of the window it is asked for."""

    name, error_rate = "oracle", 0.0

    def __init__(self, held_out):
        self._held_out = held_out

    def impute(self, window, progress=lambda share: None):
        (held,) = [h for h in self._held_out if h.window is window]
        return held.truth.T.astype(np.float32)


class Frequency(Oracle):
    """One that knows no more than the panel, plus something of its own for every person."""

    def impute(self, window, progress=lambda share: None):
        counts = np.bitwise_count(window.panel.bits).sum(axis=1)
        n = window.alleles.shape[1]
        return np.tile(counts / window.panel.k, (n, 1)).astype(np.float32)


def test_the_truth_is_imputed_perfectly_and_frequencies_are_not(made, path):
    held = [hold_out(path, {f"P{i}" for i in range(8)}, DataConfig((20, 20), (0.1, 0.1)), 100, 1)]
    known = validate(Oracle(held), held)
    assert known["all"] == pytest.approx({"alleles": len(held[0].rows), "pooled": 1, "mean": 1})
    maf = rows_of(made, list(range(8, 20))).mean(1)[held[0].rows]
    assert known["0.2-0.5"]["alleles"] == (np.minimum(maf, 1 - maf) > 0.2).sum() > 0
    guessed = validate(Frequency(held), held)
    assert 0.01 < guessed["all"]["pooled"] < 0.9 and guessed["all"]["mean"] == 0
    dosage = np.repeat(2 * maf[:, None], 8, 1)
    truth = held[0].truth[held[0].rows].astype(int)
    wanted = np.corrcoef(dosage.ravel(), (truth[:, ::2] + truth[:, 1::2]).ravel())[0, 1] ** 2
    assert guessed["all"]["pooled"] == pytest.approx(wanted, rel=1e-4)


def test_only_the_compared_rows_are_compared(path):
    held = [hold_out(path, HELD, DataConfig((20, 20), (0.1, 0.1)), 80, 1)]

    class Elsewhere(Oracle):
        def impute(self, window, progress=lambda share: None):
            p = 1 - super().impute(window)
            p[:, held[0].rows] = held[0].truth[held[0].rows].T
            return p

    assert validate(Elsewhere(held), held)["all"]["pooled"] == pytest.approx(1)


def test_panels_are_validated_together(path, tmp_path):
    other = simulate(n_sites=120, n_panel=15, n_target=1, seed=4).panel.save(tmp_path / "other.vcf")
    config = DataConfig((20, 20), (0.1, 0.1))
    held = [hold_out(path, HELD, config, 80, 1), hold_out(other, HELD, config, 60, 1)]
    rows = [len(h.rows) for h in held]
    assert validate(Oracle(held), held)["all"] == pytest.approx({"alleles": sum(rows), "pooled": 1, "mean": 1})
    one, two = (validate(Frequency([h]), [h])["all"]["pooled"] for h in held)
    assert validate(Frequency(held), held)["all"]["pooled"] != pytest.approx(one)
    assert one != pytest.approx(two)


@pytest.mark.filterwarnings("error")
def test_panels_of_different_people_are_pooled(path, tmp_path):
    other = simulate(n_sites=120, n_panel=10, n_target=1, seed=4).panel.save(tmp_path / "other.vcf")
    config = DataConfig((20, 20), (0.1, 0.1))
    held = [hold_out(path, HELD, config, 80, 1), hold_out(other, {"P3"}, config, 60, 1)]
    assert [h.truth.shape[1] for h in held] == [4, 2]
    assert validate(Oracle(held), held)["all"]["pooled"] == pytest.approx(1)
    assert validate(Frequency(held), held)["all"]["pooled"] < 0.9


def test_panels_of_different_people_have_a_mean(path, tmp_path):
    other = simulate(n_sites=120, n_panel=10, n_target=1, seed=4).panel.save(tmp_path / "other.vcf")
    config = DataConfig((20, 20), (0.1, 0.1))
    held = [hold_out(path, {f"P{i}" for i in range(8)}, config, 80, 1), hold_out(other, {"P1", "P3"}, config, 60, 1)]
    found = validate(Oracle(held), held)["all"]
    assert found["mean"] == pytest.approx(1)
    assert found["alleles"] == sum(len(h.rows) for h in held)


def test_bins_of_validation_do_not_tell_ref_from_alt(tmp_path):
    """An allele that 1 of 20 panel haplotypes has, and one that 19 have, are both of MAF 0.05: of the lower bin."""
    rng = np.random.default_rng(0)
    records = [record("1", 1000 * i, [i % 2, 0, *rng.permutation([1] * 10 + [0] * 10)]) for i in range(1, 20, 2)]
    for i in range(2, 20, 2):
        alleles = rng.permutation([1] + [0] * 19)
        records.append(record("1", 1000 * i, [1, 0, *(alleles if i % 4 else 1 - alleles)]))
    records.sort(key=lambda r: r.pos)
    file = Vcf([f"P{i}" for i in range(11)], records, {"1": 1_000_000}).save(tmp_path / "p.vcf")
    held = [hold_out(file, {"P0"}, DataConfig((0.1, 0.1), (0.3, 0.3)), 100, 1)]
    counts = {name: values["alleles"] for name, values in validate(Oracle(held), held).items()}
    assert counts == {"all": 9, "0.02-0.05": 9}
