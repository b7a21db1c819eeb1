"""Blocks: every row once, from the typed rows around it and never from itself; neighbours against loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npimpute.context.blocks import FOLDS, BlockSize, cut_blocks, nearest_typed, row_alleles
from npimpute.context.neighbours import MASKED, UNIT, column_weights, mismatches, nearest, tables
from npimpute.context.windows import Window
from npimpute.errors import ConfigError
from npimpute.types import Haplotypes, Sites

FEW = settings(deadline=None, max_examples=80, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def make_window(n_alt, typed, k=12, n=4, seed=0, missing=0.2, core=(0, None)):
    """A window of sites with ``n_alt`` random ALT alleles each, those of ``typed`` typed; ``core``: start and stop."""
    rng = np.random.default_rng(seed)
    n_alt, typed, s = np.asarray(n_alt), np.asarray(typed), len(n_alt)
    codes = rng.integers(0, n_alt[:, None] + 1, (s, k + n)).astype(np.int8)
    rows = [codes[i, :k] == a + 1 for i in range(s) for a in range(n_alt[i])]
    bits = np.packbits(np.array(rows, bool).reshape(-1, k), axis=1, bitorder="little")
    alleles = np.where(rng.random((len(typed), n)) < missing, -1, codes[typed, k:]).astype(np.int8)
    pos, alt = np.arange(s) * 1000 + 1, [",".join("CGT"[:a]) or "." for a in n_alt]
    panel = Haplotypes(Sites("20", pos, ["."] * s, ["A"] * s, alt), bits, k)
    stop = s if core[1] is None else core[1]
    kind = np.zeros(len(typed), np.uint8)
    return Window(panel, pos / 1e6, typed, alleles, core[0], stop, (0, len(typed)), kind)


@st.composite
def windows(draw, most_alt=3):
    """Windows of 1 to 40 sites, some typed, with flanks or without; ``most_alt`` ALT alleles a site at most."""
    n_alt = draw(st.lists(st.integers(min(1, most_alt - 1), most_alt), min_size=1, max_size=40))
    typed = sorted(draw(st.sets(st.integers(0, len(n_alt) - 1), min_size=1)))
    start = draw(st.integers(0, len(n_alt) - 1))
    stop = draw(st.integers(start + 1, len(n_alt)))
    return make_window(n_alt, typed, draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(seeds), core=(start, stop))


sizes = st.builds(BlockSize, st.integers(1, 12), st.integers(1, 12))


def dense(window):
    """(r, k) uint8: the panel's alleles, bit by bit."""
    return np.array([[bits[j // 8] >> (j % 8) & 1 for j in range(window.panel.k)] for bits in window.panel.bits])


def typed_rows(window):
    """Row -> (n,) what the targets carry there, -1 missing."""
    starts, found = window.panel.row_start(), {}
    for site, codes in zip(window.typed, window.alleles, strict=True):
        for allele, row in enumerate(range(starts[site], starts[site + 1]), 1):
            found[row] = [-1 if code < 0 else int(code == allele) for code in codes]
    return found


def around_by_hand(typed, rows, count):
    """The ``count`` of the sorted ``typed`` around the middle of ``rows``; what one end lacks the other one gives."""
    before, after = ([t for t in typed if (t < rows[len(rows) // 2]) == left] for left in (True, False))
    left = min(count // 2, len(before))
    right = min(count - left, len(after))
    left = min(count - right, len(before))
    return before[len(before) - left :] + after[:right]


@FEW
@given(windows(), sizes)
def test_every_row_to_write_is_wanted_once_and_no_other(window, size):
    starts = window.panel.row_start()
    wanted = [block.rows[block.wanted] for block in cut_blocks(window, size)]
    assert all(len(rows) for rows in wanted)
    found = sorted(row for rows in wanted for row in rows.tolist())
    assert found == list(range(starts[window.start], starts[window.stop]))


@FEW
@given(windows(), sizes)
def test_a_block_holds_what_panel_and_targets_have_and_nothing_of_what_is_wanted(window, size):
    panel, carried = dense(window), typed_rows(window)
    for block in cut_blocks(window, size):
        assert (np.diff(block.rows) > 0).all()
        assert (block.queries.dtype, block.panel.dtype, block.wanted.dtype) == (np.int8, np.uint8, bool)
        assert block.queries.shape == (window.alleles.shape[1], len(block.rows))
        np.testing.assert_array_equal(block.panel, panel[block.rows])
        assert (block.queries[:, block.wanted] == -1).all()
        for column in np.flatnonzero(~block.wanted):
            assert block.queries[:, column].tolist() == carried[block.rows[column]]


@FEW
@given(windows(), sizes)
def test_untyped_rows_come_in_runs_with_the_typed_rows_around_them(window, size):
    starts, typed = window.panel.row_start(), sorted(typed_rows(window))
    untyped = [row for row in range(starts[window.start], starts[window.stop]) if row not in typed]
    runs = [untyped[i : i + size.untyped] for i in range(0, len(untyped), size.untyped)]
    blocks = [b for b in cut_blocks(window, size) if not set(b.rows[b.wanted].tolist()) & set(typed)]
    assert [b.rows[b.wanted].tolist() for b in blocks] == runs
    for block, run in zip(blocks, runs, strict=True):
        assert block.rows[~block.wanted].tolist() == around_by_hand(typed, run, size.typed)


def changed_at(window, i):
    """The window with every target's allele at typed site ``i`` another one, and none missing there."""
    n_alt = np.diff(window.panel.row_start())[window.typed[i]]
    alleles = window.alleles.copy()
    alleles[i] = (alleles[i] + 1) % (n_alt + 1)
    return replace(window, alleles=alleles)


def check_left_out(window, size):
    """Checks that no block which wants a row of a typed site depends on the targets' alleles at that site."""
    starts, blocks = window.panel.row_start(), list(cut_blocks(window, size))
    for i, site in enumerate(window.typed):
        own = set(range(starts[site], starts[site + 1]))
        for one, other in zip(blocks, cut_blocks(changed_at(window, i), size), strict=True):
            np.testing.assert_array_equal(one.rows, other.rows)
            np.testing.assert_array_equal(one.wanted, other.wanted)
            if own & set(one.rows[one.wanted].tolist()):
                np.testing.assert_array_equal(one.queries, other.queries)
            else:
                assert own.isdisjoint(one.rows.tolist()) == np.array_equal(one.queries, other.queries)


@FEW
@given(windows(most_alt=1), sizes)
def test_typed_alleles_do_not_predict_themselves(window, size):
    check_left_out(window, size)


@FEW
@given(windows(), st.integers(1, 12))
def test_typed_alleles_of_multi_allelic_sites_do_not_predict_themselves(window, typed):
    check_left_out(window, BlockSize(1000, typed))


@pytest.mark.parametrize("untyped", [1, 2, 3, 5])
def test_the_rows_of_a_typed_site_are_wanted_together(untyped):
    window = make_window([1, 2, 1, 3, 2, 1, 2, 3], range(8), missing=0)
    starts, size = window.panel.row_start(), BlockSize(untyped, 200)
    wanted = [set(block.rows[block.wanted].tolist()) for block in cut_blocks(window, size)]
    for site in window.typed:
        own = set(range(starts[site], starts[site + 1]))
        assert sum(bool(own & rows) for rows in wanted) == 1, f"site {site}, rows {own}: apart in {wanted}"
    check_left_out(window, size)


@pytest.mark.parametrize(("sites", "turns"), [(1, 1), (7, 7), (10, 10), (43, 10), (100, 10), (101, 11), (250, 30)])
def test_typed_sites_are_left_out_in_equal_turns(sites, turns):
    window = make_window([1] * sites, range(sites))
    counts = [int(block.wanted.sum()) for block in cut_blocks(window, BlockSize(100, 200))]
    assert FOLDS == 10 and len(counts) == turns
    for first in range(0, turns, FOLDS):
        turn = counts[first : first + FOLDS]
        assert max(turn) - min(turn) <= 1


def test_typed_sites_of_the_flanks_are_known_but_not_wanted():
    window = make_window([1] * 30, [0, 5, 12, 20, 29], core=(10, 18), missing=0)
    blocks = list(cut_blocks(window, BlockSize(100, 200)))
    assert [block.rows[block.wanted].tolist() for block in blocks] == [[10, 11, 13, 14, 15, 16, 17], [12]]
    assert blocks[0].rows[~blocks[0].wanted].tolist() == [0, 5, 12, 20, 29]
    assert blocks[1].rows[~blocks[1].wanted].tolist() == [0, 5, 20, 29]
    assert (blocks[1].queries >= 0).all(axis=0).tolist() == [True, True, False, True, True]


def test_one_typed_site_only():
    window = make_window([1, 1, 1], [1], missing=0)
    first, second = cut_blocks(window, BlockSize(100, 200))
    assert first.rows.tolist() == [0, 1, 2] and first.wanted.tolist() == [True, False, True]
    assert first.queries[:, 1].tolist() == window.alleles[0].tolist()
    assert second.rows.tolist() == [1] and second.wanted.all() and (second.queries == -1).all()


@pytest.mark.parametrize(
    ("rows", "count", "chosen"),
    [
        ([55], 4, [3, 4, 5, 6]),  # typed rows 40 and 50, then 60 and 70
        ([54, 55, 56], 5, [3, 4, 5, 6, 7]),
        ([1, 55, 99], 2, [4, 5]),  # the middle row counts
        ([1, 2, 3], 4, [0, 1, 2, 3]),  # clipped at the start
        ([15], 4, [0, 1, 2, 3]),
        ([95], 4, [6, 7, 8, 9]),  # and at the end
        ([105], 3, [7, 8, 9]),
        ([55], 10, list(range(10))),
        ([55], 11, list(range(10))),  # fewer than asked for
        ([55], 1, [5]),
    ],
)
def test_the_nearest_typed_rows_on_either_side(rows, count, chosen):
    typed = np.arange(10, 101, 10)  # 10, 20, ..., 100
    assert np.arange(10)[nearest_typed(typed, np.array(rows), count)].tolist() == chosen


@pytest.mark.parametrize("sizes", [(0, 200), (100, 0), (-1, 5)])
def test_a_block_without_rows_is_refused(sizes):
    with pytest.raises(ConfigError, match="at least 1 of each"):
        BlockSize(*sizes)


def test_alleles_of_rows():
    window = make_window([2, 1, 3], [0, 2])
    window = replace(window, alleles=np.array([[0, 1, 2, -1], [3, -1, 1, 0]], np.int8))
    found = row_alleles(window, window.panel.row_start())
    assert found.dtype == np.int8 and found.flags.c_contiguous
    assert found.T.tolist() == [[0, 1, 0, -1], [0, 0, 1, -1], [0, -1, 1, 0], [0, -1, 0, 0], [1, -1, 0, 0]]


@FEW
@given(seeds, st.integers(1, 5), st.integers(1, 20), st.integers(1, 30), st.floats(0, 1))
def test_mismatches_are_counted_where_the_query_is_known(seed, n, k, c, unknown):
    rng = np.random.default_rng(seed)
    queries = np.where(rng.random((n, c)) < unknown, -1, rng.integers(0, 2, (n, c))).astype(np.int8)
    panel = rng.integers(0, 2, (c, k)).astype(np.uint8)
    wanted = rng.random(c) < 0.3
    wanted[seed % c] = True
    for reach, weight in ((0.0, np.ones(c, np.int64)), (3.0, column_weights(wanted, 3.0))):
        expected = [[weight[(q >= 0) & (q != alleles) & ~wanted].sum() for alleles in panel.T] for q in queries]
        found = mismatches(queries, panel, wanted, reach)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, np.reshape(expected, (n, k)))


@FEW
@given(seeds, st.integers(1, 40), st.floats(0, 1), st.floats(0.1, 20))
def test_a_mismatch_counts_less_the_more_columns_lie_between(seed, c, share, reach):
    wanted = np.random.default_rng(seed).random(c) < share
    wanted[seed % c] = True
    found = column_weights(wanted, reach)
    assert found.shape == (c,) and found.dtype == np.int64
    for x in np.flatnonzero(~wanted):
        between = min(np.count_nonzero(~wanted[min(x, y) + 1 : max(x, y)]) for y in np.flatnonzero(wanted))
        assert found[x] == max(1, round(UNIT * np.exp(-between / reach)))


def test_reach_is_where_a_mismatch_counts_an_eth():
    assert column_weights(np.array([False, False, True, False, False]), 1.0)[[0, 1, 3, 4]].tolist() == [
        round(UNIT / np.e), UNIT, UNIT, round(UNIT / np.e)
    ]  # fmt: skip


@FEW
@given(seeds, st.integers(1, 5), st.integers(1, 30), st.integers(1, 6), st.data())
def test_the_nearest_come_last_and_of_equals_the_first(seed, n, k, most, data):
    distance = np.random.default_rng(seed).integers(0, most, (n, k))
    count = data.draw(st.integers(1, k))
    found = nearest(distance, count)
    assert found.shape == (n, count)
    for row, chosen in zip(distance.tolist(), found.tolist(), strict=True):
        assert chosen == sorted(range(k), key=lambda j: (row[j], j))[:count][::-1]


def test_tables_hold_the_chosen_in_order_and_the_query_last():
    panel = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
    queries = np.array([[-1, 1], [0, -1]], np.int8)
    found = tables(queries, panel, np.array([[2, 0], [1, 1]]))
    assert MASKED == 2 and found.dtype == np.int8
    assert found.tolist() == [[[1, 1], [0, 1], [2, 1]], [[1, 0], [1, 0], [0, 2]]]
