"""How targets copy from their likeliest haplotypes, against the plain reference over all of them."""

from dataclasses import replace

import numpy as np
import pytest
from test_blocks import dense
from test_engine import make_window

from npimpute.engine import reference
from npimpute.engine.copying import sequences
from npimpute.engine.li_stephens import LiStephens

NE, ERR = 3e4, 2e-3


class Known:
    """What the plain reference knows of a window. codes: (t, k). gap: (t-1,) cM. switch: (t,). posterior: (n, t, k)."""

    def __init__(self, window):
        panel, starts, self.window = dense(window), window.panel.row_start(), window
        self.rows = [range(starts[site], starts[site + 1]) for site in window.typed]
        self.codes = np.array([sum((a * panel[row] for a, row in enumerate(rows, 1)), 0) for rows in self.rows])
        self.gap = np.diff(window.cm[window.typed])
        self.switch = np.append(0, 1 - np.exp(-0.04 * NE * self.gap / window.panel.k))
        self.posterior = np.array([self.given(observed) for observed in window.alleles.T])

    def given(self, observed):
        return reference.forward_backward(self.codes, observed.astype(int), self.switch, ERR)

    def probability_of_observed(self, p, q, t):
        """By ``p`` (n, r), of the allele that target q has at typed site t."""
        code, alt = self.window.alleles[t, q], [float(p[q, row]) for row in self.rows[t]]
        return alt[code - 1] if code else 1 - sum(alt)


def copied(window, size, m, threads=1):
    return LiStephens(NE, ERR, threads).copying(window, size, m)


def places(copying, flank):
    """(w, columns) the typed site of each stretch's columns, which may lie beyond the window's ends."""
    _, w, _ = copying.ranking.haplotypes.shape
    size = copying.ranking.size
    return np.arange(w)[:, None] * size + np.arange(-flank, size + 1 + flank)


def every(copying, first, last, flank):
    """The sequences of these targets, all stretches."""
    return sequences(copying, first, np.ones((last - first, copying.ranking.haplotypes.shape[1]), bool), flank)


@pytest.mark.parametrize(("k", "every"), [(40, 4), (300, 9)])
def test_dosages_are_the_same_whatever_is_kept_beside_them(k, every):
    window, _ = make_window(np.random.default_rng(1), k=k, every=every)
    first = LiStephens(NE, ERR).impute(window)
    assert copied(window, 1, 1, 1).p.tobytes() == first.tobytes()
    # Blocks have whole stretches.
    for size, m, threads in ((5, 8, 3), (16, 1000, 1), (1000, 3, 2)):
        np.testing.assert_allclose(copied(window, size, m, threads).p, first, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "every", "size", "m"), [(40, 4, 6, 10), (300, 2, 16, 25), (300, 9, 1, 300), (40, 3, 99, 5)]
)
def test_the_haplotypes_of_a_stretch_are_those_with_the_most_posterior(k, every, size, m):
    window, _ = make_window(np.random.default_rng(k + size), k=k, every=every)
    posterior, starts = Known(window).posterior, range(0, len(window.typed), size)
    sums = np.stack([posterior[:, first : first + size + 1].sum(axis=1) for first in starts], axis=1)
    found = copied(window, size, m, threads=2).ranking.haplotypes
    assert found.shape == (*sums.shape[:2], m)
    for of_target, haplotypes in zip(sums, found, strict=True):
        for total, chosen in zip(of_target, haplotypes, strict=True):
            assert len(set(chosen.tolist())) == m
            np.testing.assert_allclose(total[chosen], np.sort(total)[::-1][:m], atol=1e-4)


def test_of_a_panel_with_fewer_haplotypes_than_asked_for_all():
    window, _ = make_window(np.random.default_rng(2), k=17, every=2)
    found = copied(window, 9, 64).ranking.haplotypes
    assert found.shape == (6, 9, 17)
    assert (np.sort(found, axis=2) == np.arange(17)).all()


@pytest.mark.parametrize(
    ("k", "size", "m", "flank"), [(40, 6, 7, 5), (300, 16, 12, 0), (300, 8, 12, 30), (40, 50, 40, 2)]
)
def test_sequences_hold_the_model_over_all_haplotypes(k, size, m, flank):
    """Posterior and, of two targets, what comes from the left and from the right alone: the same without the rest."""
    window, _ = make_window(np.random.default_rng(k + size), k=k, every=4, missing=0.1)
    known, copying = Known(window), copied(window, size, m)
    at, found = places(copying, flank), every(copying, 0, 6, flank)
    n, w, _ = copying.ranking.haplotypes.shape
    np.testing.assert_array_equal(found.haplotypes, copying.ranking.haplotypes.reshape(n * w, m))
    assert found.posterior.shape == (n * w, m, at.shape[1])
    forward, backward = np.full((2, 2, len(window.typed), k), np.nan)
    for q in range(2):
        for t, observed in enumerate(window.alleles[:, q]):
            before, after = (window.alleles[:, q].copy() for _ in range(2))
            before[t:], after[: t + 1] = -1, -1
            emission = np.where(known.codes[t] == observed, 1 - ERR, ERR) if observed >= 0 else 1
            forward[q, t], backward[q, t] = known.given(before)[t] * emission, known.given(after)[t]
    for s, haplotypes in enumerate(found.haplotypes):
        q, here = s // w, at[s % w]
        inside = (here >= 0) & (here < len(window.typed))
        pick = np.ix_(here[inside], haplotypes)
        expected, features = known.posterior[q][pick].T, found.haplotype[s][:, inside]
        np.testing.assert_allclose(found.posterior[s][:, inside], expected, atol=2e-4)
        np.testing.assert_allclose(np.exp(4 * features[..., 0]), expected, atol=2e-4)
        np.testing.assert_allclose(features[..., 0], 0.25 * np.log(expected + 1e-7), atol=5e-3)
        if q < 2:
            np.testing.assert_allclose(features[..., 1], 0.25 * np.log(forward[q][pick].T + 1e-7), atol=5e-3)
            np.testing.assert_allclose(features[..., 2], 0.25 * np.log(backward[q][pick].T + 1e-7), atol=5e-3)
        same = known.codes[pick] == window.alleles[here[inside], q][:, None]
        np.testing.assert_array_equal(features[..., 3], same.T)
        np.testing.assert_array_equal(found.site[s, :, 5], inside)
        for beyond in (found.posterior[s][:, ~inside], found.haplotype[s][:, ~inside], found.site[s, ~inside]):
            assert not beyond.any()


def test_sites_tell_their_distances_frequencies_and_what_was_expected():
    window, _ = make_window(np.random.default_rng(3), every=3, missing=0.15)
    n_alt, alleles = window.panel.sites.n_alt()[window.typed], window.alleles.copy()
    absent = [t for t in range(len(alleles)) if window.panel.counts()[window.panel.row_start()[window.typed[t]]] == 0]
    alleles[absent, 3] = 1  # nobody of the panel has it
    alleles[n_alt > 1, 4] = 2
    window = replace(window, alleles=alleles)
    known, copying = Known(window), copied(window, 7, 4)
    at, found = places(copying, 4), every(copying, 0, 6, 4)
    log = lambda x: 0.25 * np.log(x)  # noqa: E731
    seen = {"missing": 0, "clipped": 0, "multi-allelic": 0, "of no haplotype": 0}
    for s, site in enumerate(found.site):
        q, here = divmod(s, len(at))
        for t, feature in zip(at[here], site, strict=True):
            if not 0 <= t < len(window.typed):
                continue
            code = alleles[t, q]
            assert feature[1] == pytest.approx(log(known.gap[t - 1] + 1e-5) if t else 0, abs=1e-5)
            assert feature[2] == pytest.approx(log(known.gap[t] + 1e-5) if t < len(known.gap) else 0, abs=1e-5)
            assert feature[4] == (code < 0)
            seen["missing"] += code < 0
            if code < 0:
                assert feature[0] == feature[3] == 0
                continue
            share, p = (known.codes[t] == code).mean(), known.probability_of_observed(copying.p, q, t)
            assert feature[0] == pytest.approx(log(share if share else 1 / 80), abs=1e-5)
            assert feature[3] == pytest.approx(-log(min(max(p, 1e-4), 1)), abs=1e-3 if p < 1e-3 else 1e-4)
            seen["clipped"] += p < 1e-4
            seen["multi-allelic"] += code == 2
            seen["of no haplotype"] += share == 0
    assert min(seen.values()) > 3, seen


def test_sequences_do_not_depend_on_who_comes_with_them():
    window, _ = make_window(np.random.default_rng(4), k=60, n=9)
    copying = copied(window, 6, 8)
    _, w, _ = copying.ranking.haplotypes.shape
    for whole, part in zip(every(copying, 0, 9, 3)[:4], every(copying, 3, 7, 3)[:4], strict=True):
        assert part.tobytes() == whole[3 * w : 7 * w].tobytes()
    alone = copied(replace(window, alleles=window.alleles[:, 5:6]), 6, 8)
    for whole, part in zip(every(copying, 0, 9, 3)[:4], every(alone, 0, 1, 3)[:4], strict=True):
        assert part.tobytes() == whole[5 * w : 6 * w].tobytes()


def test_only_the_sequences_that_are_wanted_are_made():
    window, _ = make_window(np.random.default_rng(8), n=7, every=2)
    copying = copied(window, 3, 6)
    wanted = np.random.default_rng(9).random((5, copying.ranking.haplotypes.shape[1])) < 0.3
    whole, part = every(copying, 1, 6, 2), sequences(copying, 1, wanted, 2)
    assert (part.number[~wanted] == -1).all() and part.number[wanted].tolist() == list(range(wanted.sum()))
    for all_values, values in zip(whole[:4], part[:4], strict=True):
        np.testing.assert_array_equal(values, all_values[wanted.ravel()])
    assert len(sequences(copying, 0, np.zeros_like(wanted), 2).haplotypes) == 0
