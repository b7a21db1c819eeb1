"""The panel imputing itself: who is hidden, what is summed, and what it corrects."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import impute, matrix, read_rows, same_files
from test_blocks import dense, make_window

from npimpute.config import RunConfig
from npimpute.engine.calibrated import Calibrated
from npimpute.engine.li_stephens import LiStephens
from npimpute.engine.self_imputed import PRIOR, self_impute
from npimpute.errors import ConfigError


class Oracle:
    """Knows every haplotype by its alleles at typed sites that are all different; imputes ``tell(alleles)``."""

    name, error_rate, estimates = "oracle", 1e-3, {}

    def __init__(self, window, tell):
        panel = dense(window)
        starts = window.panel.row_start()
        self.known = {self._key(window, panel, starts, j): panel[:, j] for j in range(window.panel.k)}
        assert len(self.known) == window.panel.k
        self.tell, self.seen = tell, []

    @staticmethod
    def _key(window, panel, starts, j):
        return tuple(
            max((a + 1 for a in range(starts[s + 1] - starts[s]) if panel[starts[s] + a, j]), default=0)
            for s in window.typed
        )

    def impute(self, window, progress=lambda share: None):
        self.seen.append(window)
        return np.array([self.tell(self.known[tuple(codes)]) for codes in window.alleles.T]).astype(np.float32)


def many_alleles(k=40, seed=3):
    """A window whose haplotypes all differ at the typed sites, some of them multi-allelic."""
    return make_window([1, 2, 3, 1, 2, 1, 3, 1, 1, 2] * 2, np.arange(0, 20, 2), k=k, n=4, seed=seed)


def test_hidden_people_leave_the_panel_and_come_as_targets():
    window = many_alleles()
    oracle = Oracle(window, lambda alleles: alleles)
    sums = self_impute(oracle.impute, window, 40, seed=1)
    assert sums.n == 40 and len(oracle.seen) == 10  # two people at a time of twenty
    whole = dense(window)
    for seen in oracle.seen:
        assert seen.panel.k == 36 and seen.alleles.shape == (10, 4) and len(seen.panel.bits) == len(whole)
        left = {column.tobytes() for column in dense(seen).T}
        hidden = [oracle.known[tuple(codes)] for codes in seen.alleles.T]
        assert not left & {alleles.tobytes() for alleles in hidden}
    np.testing.assert_array_equal(sums.y, whole.sum(axis=1))  # everybody was hidden once
    np.testing.assert_array_equal(sums.x, sums.y)
    np.testing.assert_array_equal(sums.xy, sums.y)


def test_both_haplotypes_of_a_person_are_hidden_together():
    window = many_alleles()
    oracle = Oracle(window, lambda alleles: alleles)
    self_impute(oracle.impute, window, 10, seed=1)
    whole = dense(window)
    place = {column.tobytes(): j for j, column in enumerate(whole.T)}
    for seen in oracle.seen:
        hidden = sorted(place[oracle.known[tuple(codes)].tobytes()] for codes in seen.alleles.T)
        assert hidden == [j for i in hidden[::2] for j in (i, i + 1)] and not any(j % 2 for j in hidden[::2])


@pytest.mark.parametrize(("asked", "hidden"), [(1, 2), (2, 2), (10, 10), (40, 40), (1000, 40)])
def test_as_many_are_hidden_as_asked_for(asked, hidden):
    window = many_alleles()
    assert self_impute(Oracle(window, lambda alleles: alleles).impute, window, asked, seed=1).n == hidden


def test_haploid_people_are_hidden_by_their_one_haplotype():
    window = many_alleles()
    window = replace(window, panel=replace(window.panel, ploidy=np.repeat([2, 1], [10, 20]).astype(np.int8)))
    oracle = Oracle(window, lambda alleles: alleles)
    assert self_impute(oracle.impute, window, 40, seed=1).n == 40
    assert all(seen.panel.ploidy.sum() == seen.panel.k == 40 - seen.alleles.shape[1] for seen in oracle.seen)


def test_sums_and_slope_are_the_regression():
    window = many_alleles()
    rng = np.random.default_rng(0)
    noise = {}

    def tell(alleles):
        return noise.setdefault(alleles.tobytes(), np.clip(0.6 * alleles + rng.uniform(0, 0.4, len(alleles)), 0, 1))

    sums = self_impute(Oracle(window, tell).impute, window, 40, seed=2)
    y = dense(window).astype(float)
    x = np.array([noise[column.tobytes()] for column in dense(window).T]).T
    np.testing.assert_allclose(sums.xx, (x * x).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(sums.xy, (x * y).sum(axis=1), rtol=1e-5)
    for row in range(len(y)):
        cov, var = 40 * np.cov(x[row], y[row], ddof=0)[0]
        assert sums.slope()[row] == pytest.approx((var + PRIOR) / (cov + PRIOR), rel=1e-4)


def test_what_is_right_stays_and_what_says_nothing_is_drawn_to_the_frequency():
    window = many_alleles(k=120, seed=4)
    rng = np.random.default_rng(1)
    untyped = np.ones(len(window.panel.bits), bool)
    starts = window.panel.row_start()
    for s in window.typed:
        untyped[starts[s] : starts[s + 1]] = False
    bad = np.flatnonzero(untyped)[::2]

    def tell(alleles):
        out = alleles.astype(float)
        out[bad] = rng.integers(0, 2, len(bad))  # unrelated to the truth
        return out

    before = rng.integers(0, 2, (4, len(untyped))).astype(np.float32)
    oracle = Oracle(window, tell)
    hidden_by = oracle.impute
    oracle.impute = lambda part, progress=None: before.copy() if part is window else hidden_by(part)
    p = Calibrated(oracle, 120, seed=1).impute(window)
    good = untyped.copy()
    good[bad] = False
    np.testing.assert_allclose(p[:, good], before[:, good], atol=1e-5)
    np.testing.assert_array_equal(p[:, ~untyped], before[:, ~untyped])
    frequency = dense(window).mean(axis=1)
    assert np.abs(p[:, bad] - frequency[bad]).max() < 0.25 < np.abs(before[:, bad] - frequency[bad]).min()
    assert p.dtype == np.float32 and p.min() >= 0 and p.max() <= 1


def test_nothing_is_done_without_typed_sites_or_without_a_panel_to_spare():
    for window in (make_window([1, 1], np.empty(0, int), k=12), make_window([1, 1], [0], k=2)):
        engine = LiStephens(1e4, 1e-3)
        np.testing.assert_array_equal(Calibrated(engine, 10, seed=1).impute(window), engine.impute(window))


def test_a_target_gets_the_same_whoever_else_is_imputed():
    window = many_alleles(k=60)
    engine = LiStephens(1e4, 1e-3)

    tested, shares = Calibrated(engine, 30, seed=5), []
    assert (tested.name, tested.error_rate) == (engine.name, engine.error_rate)
    whole = tested.impute(window, shares.append)
    assert shares[-1] == 1 and (np.diff(shares) >= 0).all()
    np.testing.assert_allclose(tested.impute(replace(window, alleles=window.alleles[:, 2:3])), whole[2:3], atol=1e-6)
    assert np.abs(whole - engine.impute(window)).max() > 1e-3


def test_a_site_of_wrong_panel_genotypes_is_believed_less(data, tmp_path):
    """A common untyped site whose panel genotypes are shuffled: its dosages end near the frequency."""
    typed = {r.key for r in data.target.records}
    untyped = [i for i, r in enumerate(data.panel.records) if r.key not in typed and len(r.alt) == len(r.ref) == 1]
    at = next(i for i in untyped if 0.3 < data.panel.records[i].alleles.mean() < 0.5)
    record = data.panel.records[at]
    shuffled = record.with_alleles(np.random.default_rng(0).permutation(record.alleles))
    panel = replace(data.panel, records=[*data.panel.records[:at], shuffled, *data.panel.records[at + 1 :]])
    ref = panel.save(tmp_path / "panel.vcf.gz")
    plain = matrix(read_rows(impute(data, tmp_path / "plain.vcf", ref=ref)))
    # One row an allele: records before it may have several.
    at = sum(r.alt.count(",") + 1 for r in data.panel.records[:at])
    better = matrix(read_rows(impute(data, tmp_path / "better.vcf", ref=ref, calibrate=120)))
    assert better[at].std() < 0.6 * plain[at].std()
    others = np.delete(np.arange(len(plain)), at)
    assert np.abs(better[others] - plain[others]).mean() < 0.05


def test_the_same_bytes_for_any_number_of_threads(data, tmp_path):
    for threads in (1, 3):
        impute(data, tmp_path / f"{threads}.vcf.gz", calibrate=20, threads=threads)
    assert same_files(tmp_path / "1.vcf.gz", tmp_path / "3.vcf.gz")


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--calibrate -1"):
        RunConfig(ref=tmp_path / "a", target=tmp_path / "b", out=tmp_path / "c.vcf", calibrate=-1)
