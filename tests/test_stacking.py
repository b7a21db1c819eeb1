"""How much of the network's corrections is taken: least squares in plain loops, who the judges are, what they do."""

import numpy as np
import pytest
from test_npssm import ERR, NE, engine, make_network, window_of

from npimpute.context.hidden import hide, middle
from npimpute.engine import npssm, self_imputed, stacking
from npimpute.engine.li_stephens import copying_model
from npimpute.engine.self_imputed import self_impute
from npimpute.engine.stacking import CLASSES, classes, shares

ALL = (0, 2, 4, 16)


def test_classes_are_of_copies_of_the_rarer_allele():
    k = 60
    found = classes(np.arange(k + 1), k)
    for count, group in enumerate(found.tolist()):
        rarer = min(count, k - count)
        assert group == (-1 if rarer == 0 else max(i for i, least in enumerate(ALL) if rarer >= max(least, 1)))
    assert tuple(CLASSES) == ALL and set(found.tolist()) == {-1, 0, 1, 2, 3}


def made_up(rng, n=30, r=400):
    """p without and with a network, the truth, and groups."""
    group = rng.integers(-1, len(CLASSES), r)
    truth = (rng.random((r, n)) < 0.4).astype(np.uint8)
    copied = np.clip(truth.T * 0.5 + rng.random((n, r)) * 0.5, 0, 1).astype(np.float32)
    corrected = np.where(rng.random((n, r)) < 0.3, rng.random((n, r)), copied).astype(np.float32)
    return copied, corrected, truth, group


def squared_error(share, copied, corrected, truth, rows):
    p = copied[:, rows] + share * (corrected[:, rows] - copied[:, rows])
    return ((truth[rows].T - p) ** 2).sum()


def drawn(copied, corrected, truth, rows, expected):
    """The share of some rows, by trying all, and how sure it is, by leaving every haplotype out."""
    grid = np.linspace(-3, 6, 9001)
    found = grid[np.argmin([squared_error(share, copied, corrected, truth, rows) for share in grid])]
    correction = (corrected - copied)[:, rows].astype(float)
    error = truth[rows].T - copied[:, rows] - found * correction
    total = (correction**2).sum()
    variance = max(sum(float(a @ b) ** 2 for a, b in zip(correction, error, strict=True)) / total**2, 0.25 / total)
    away = found - expected
    return expected + away * max(0, 1 - 3 * variance / away**2), away**2 > 3 * variance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("better", [-0.4, 0.0, 0.3, 0.8, 1.5])
def test_a_share_is_what_errs_least_where_that_is_clear(seed, better):
    copied, corrected, truth, group = made_up(rng := np.random.default_rng(seed))
    # Of the correction so much is right.
    differs = corrected != copied
    corrected = (copied + ((truth.T - copied) * better + rng.normal(0, 0.2, copied.shape)) * differs).astype(np.float32)
    data = copied, corrected, truth
    of_all, _ = drawn(*data, group >= 0, 1.0)
    for i, found in enumerate(shares(*data, group)):
        assert found == pytest.approx(np.clip(drawn(*data, group == i, of_all)[0], 0, 1), abs=5e-3)


def test_what_is_not_clear_is_what_was_expected():
    copied, corrected, truth, group = made_up(rng := np.random.default_rng(5))
    noise = rng.normal(0, 0.1, copied.shape)
    few = np.flatnonzero(group == 1)[:2]
    corrected = copied + ((truth.T - copied) * 2.5 + noise) * (group != 1)
    corrected[:, few] += noise[:, few]
    corrected = corrected.astype(np.float32)
    of_all, clear = drawn(copied, corrected, truth, group >= 0, 1.0)
    assert clear and 0.2 < of_all < 0.6
    assert not drawn(copied, corrected, truth, group == 1, of_all)[1]
    assert shares(copied, corrected, truth, group)[1] == pytest.approx(of_all, abs=1e-3)
    # Neither here nor there.
    np.testing.assert_array_equal(
        shares(copied[:2], corrected[:2], truth[:, :2], np.where(group == 1, 1, -1)), np.ones(4)
    )


def test_without_a_difference_all_is_taken_and_a_class_without_one_is_as_all():
    copied, _, truth, group = made_up(np.random.default_rng(5))
    corrected = (copied + (0.4 * truth.T - 0.3 * copied)).astype(np.float32)
    np.testing.assert_array_equal(shares(copied, copied, truth, group), np.ones(len(CLASSES)))
    np.testing.assert_array_equal(shares(copied, corrected, truth, np.full(len(group), -1)), np.ones(len(CLASSES)))
    lacking = np.where(group == 2, -1, group)
    of_all, _ = drawn(copied, corrected, truth, lacking >= 0, 1.0)
    assert shares(copied, corrected, truth, lacking)[2] == pytest.approx(np.clip(of_all, 0, 1), abs=2e-3)


@pytest.mark.parametrize("seed", [1, 2])
def test_judges_are_hidden_people_who_teach_nothing_of_rows(seed, monkeypatch):
    window, made = window_of(3, k=200), make_network()
    taught, hidden = [], []
    monkeypatch.setattr(self_imputed, "hide", lambda *given: taught.append(given[1]) or hide(*given))
    monkeypatch.setattr(npssm, "hide", lambda *given: hidden.append(given[1]) or hide(*given))
    tested = engine(made, 80, seed=seed)
    judges = tested.judges(window)
    (people,), others = hidden, np.concatenate(taught)
    # Forty people are hidden, and for four of them there is a judge.
    assert len(people) == 10 and len(others) == 40 and len(np.unique(np.concatenate([people, others]))) == 50
    starts, columns = window.panel.row_start(), window.panel.haplotypes_of(people)
    rows = slice(starts[window.typed[0]], starts[window.typed[-1] + 1])
    np.testing.assert_array_equal(judges.truth, window.panel.alleles(rows, columns))
    copying = copying_model(made.config, NE, ERR)
    alone, _ = hide(window, people)
    expected = copying.copying(alone, made.config.size, made.config.haplotypes)
    np.testing.assert_allclose(judges.ready.copying.p, expected.p[:, rows], atol=1e-6)
    np.testing.assert_array_equal(judges.ready.rows.classes, classes(alone.panel.counts(), alone.panel.k)[rows])
    known = self_impute(copying.impute, window, 80, seed, apart=10).features()
    np.testing.assert_array_equal(judges.ready.rows.known, known[rows])
    np.testing.assert_array_equal(tested.ready(window).rows.known, known)


def test_what_is_taken_of_each_class_is_added_to_what_was_copied():
    window, made = window_of(1, k=80), make_network()
    tested = engine(made, 20)
    ready = tested.ready(window)
    before, whole = ready.copying.p.copy(), tested.correct(ready, ready.copying.p.copy())
    np.testing.assert_array_equal(ready.rows.classes, classes(window.panel.counts(), window.panel.k))
    rows = np.diff(window.panel.row_start())
    alone, group = np.repeat(rows == 1, rows), np.random.default_rng(2).integers(0, len(CLASSES), rows.sum())
    ready = ready._replace(rows=ready.rows._replace(classes=group))
    assert set(group[alone & (np.abs(whole - before) > 0.01).any(axis=0)].tolist()) == {0, 1, 2, 3}
    for taken in ([1, 1, 1, 1], [0, 0, 0, 0], [0.2, 0.9, 0, 0.6]):
        p = tested.correct(ready, before.copy(), np.array(taken, np.float32))
        expected = before + np.array(taken)[group] * (whole - before)
        np.testing.assert_allclose(p[:, alone], expected[:, alone], atol=1e-6)


@pytest.mark.parametrize("noise", [0.6, 1.0])
def test_a_network_that_knows_nothing_does_little_harm(noise):
    window, made = window_of(2, k=300, n=40), make_network(noise=noise)
    window, columns = hide(window, np.arange(0, 150, 10))
    whole = window_of(2, k=300, n=40)
    truth = whole.panel.alleles(slice(None), columns).T.astype(np.float32)
    untyped = ~window.typed_rows()

    def error(p):
        return float(((p - truth)[:, untyped] ** 2).mean())

    copied = copying_model(made.config, NE, ERR).impute(window)
    judged, all_taken = engine(made, 160), engine(made, 160)
    p = judged.impute(window)
    ready = all_taken.ready(window)
    worst = all_taken.correct(ready, ready.copying.p)
    assert error(worst) > 1.3 * error(copied) > 0
    assert error(p) < error(copied) + 0.1 * (error(worst) - error(copied))
    bare = engine(made, 0)
    np.testing.assert_array_equal(bare.impute(window), bare.correct((r := bare.ready(window)), r.copying.p))


def test_where_nobody_can_be_spared_all_is_taken():
    window, made = window_of(k=198), make_network()
    assert engine(made, 400).judges(window) is None and engine(made, 0).judges(window_of(k=300)) is None
    assert engine(made, 79).judges(window_of(k=300)) is None  # 39 people are less than four for each of ten
    assert engine(made, 80).judges(window_of(k=300)).truth.shape[1] == 20
    assert engine(made, 400).judges(window_of(k=200)).truth.shape[1] == 20
    tested = engine(made, 400)
    ready = tested.ready(window)
    np.testing.assert_array_equal(tested.taken(None), np.ones(len(CLASSES)))
    np.testing.assert_array_equal(tested.impute(window), tested.correct(ready, ready.copying.p))


def test_judges_see_the_middle_of_a_long_window(monkeypatch):
    window, made = window_of(4, s=200, k=200, every=3), make_network()
    monkeypatch.setattr(stacking, "TYPED", 21)
    part, rows = middle(window, 21, stacking.SITES)
    judges = engine(made, 80).judges(window)
    assert judges.ready.copying.p.shape == (2 * 10, rows.sum()) and rows.sum() == len(part.panel.bits) < len(rows) / 2
    assert judges.ready.copying.prepared.queries.observed.shape[1] == 21
    np.testing.assert_array_equal(judges.ready.rows.known, engine(made, 80).ready(window).rows.known[rows])
