"""Phasing: marks of unphased genotypes, the kernels against plain loops, and targets whose haplotypes are known."""

import os
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import Record, Vcf, mosaic, simulate

from npimpute.errors import InputError
from npimpute.panel.align import Mending
from npimpute.panel.genetic_map import GeneticMap, constant_rate, read_genetic_map
from npimpute.panel.panel import open_panel
from npimpute.panel.ploidy import stretches
from npimpute.phasing import kernels, phase
from npimpute.types import Haplotypes, Sites, Targets
from npimpute.vcf import source as source_module
from npimpute.vcf.read import TargetFile, read_targets
from npimpute.vcf.region import Region

KINDS = (".vcf", ".vcf.gz", ".bcf")
CALLS = ["0/1", "1/0", "1/2", "2/1", "0|1", "1|0", "2|0", "0/0", "1/1", "2/2", "0|0", "1|1"]
CALLS += ["./.", ".|.", "./1", "0/.", ".|1", "1|."]
MB = constant_rate(1.0)
NE = 2_000.0  # of what ``simulate`` draws, with ``MB``


# Reading


def some_calls(seed=1, n_records=60, n_samples=7):
    """Calls of all kinds on two contigs, all of them phased in the first third of each, and on a third contig."""
    rng = np.random.default_rng(seed)
    phased = [call for call in CALLS if "/" not in call]
    records = []
    for contig in ("20", "21", "22"):
        for i in range(n_records):
            calls = rng.choice(phased if contig == "22" or i < n_records // 3 else CALLS, n_samples)
            records.append(Record(contig, 100 + 10 * i, ".", "A", "C,G", tuple(calls.tolist())))
    return Vcf([f"S{i}" for i in range(n_samples)], records, dict.fromkeys(("20", "21", "22"), 90_000))


def is_marked(call):
    return "/" in call and "." not in call and len(set(call.split("/"))) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_heterozygotes_without_phase_are_marked_and_no_other_calls(tmp_path, kind, threads, monkeypatch):
    made = some_calls()
    path = made.save(tmp_path / f"calls{kind}")
    monkeypatch.setattr(source_module, "PIECE", 500)  # parts with marks and parts without are joined
    found = read_targets(path, threads=threads, unphased=True).by_contig
    assert list(found) == ["20", "21", "22"]
    for contig in ("20", "21"):
        calls = [r.calls for r in made.records if r.contig == contig]
        np.testing.assert_array_equal(found[contig].unphased, [[is_marked(call) for call in row] for row in calls])
        alleles = [[int(a) if a != "." else -1 for call in row for a in call[::2]] for row in calls]
        np.testing.assert_array_equal(found[contig].alleles, alleles)
    assert found["22"].unphased is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_has_the_marks_of_its_records(tmp_path, kind):
    made = some_calls()
    path = made.save(tmp_path / f"calls{kind}")
    found = read_targets(path, Region("21", 350, 500), unphased=True).by_contig["21"]
    calls = [r.calls for r in made.records if r.contig == "21" and 350 <= r.pos <= 500]
    np.testing.assert_array_equal(found.unphased, [[is_marked(call) for call in row] for row in calls])
    assert found.unphased.any()
    assert read_targets(path, Region("21", 100, 290), unphased=True).by_contig["21"].unphased is None


@pytest.mark.parametrize("kind", KINDS)
def test_unless_told_otherwise_a_heterozygote_without_phase_is_refused(tmp_path, kind):
    sound = [Record("20", 5, ".", "A", "C", ("0/0", "./1", "0|1")), Record("20", 6, ".", "A", "C", ("1/1",) * 3)]
    good = Vcf(["A", "B", "C"], sound).save(tmp_path / f"good{kind}")
    for unphased in (False, True):
        assert read_targets(good, unphased=unphased).by_contig["20"].unphased is None
    bad = Vcf(["A", "B", "C"], [*sound, Record("20", 9, ".", "A", "C", ("0|0", "0/1", "1/0"))])
    path = bad.save(tmp_path / f"bad{kind}")
    with pytest.raises(InputError) as error:
        read_targets(path)
    found = f"{path}: 20:9, sample B: genotype 0/1 is not phased; phase the file first, e.g. "
    assert str(error.value).startswith(found) and "Beagle 5.4 (beagle gt=" in str(error.value)
    np.testing.assert_array_equal(read_targets(path, unphased=True).by_contig["20"].unphased[2], [False, True, True])


# Kernels


def log_likelihood(ref, jump, err, alleles):
    """Of one haplotype, by the forward algorithm."""
    n_sites, k = ref.shape
    f, total = np.full(k, 1 / k), 0.0
    for site in range(n_sites):
        f = (1 - jump[site]) * f + jump[site] * f.sum() / k
        if alleles[site] >= 0:
            f = f * np.where(ref[site] == alleles[site], 1 - err, err)
        total, f = total + np.log(f.sum()), f / f.sum()
    return total


def both(problem, pair):
    """The log likelihood of a pair of haplotypes."""
    return sum(log_likelihood(problem.ref, problem.jump, problem.err, haplotype) for haplotype in pair)


@dataclass
class Problem:
    """What the kernels take, with alleles of which some differ and are not open where ``anchored``."""

    ref: np.ndarray
    jump: np.ndarray
    err: float
    pair: np.ndarray
    is_open: np.ndarray
    anchored: bool

    def improve(self, pair):
        """``kernels.improve`` of a copy: the pair, how many sites changed, and the pair filled."""
        pair, filled = pair.copy(), np.full_like(pair, -1)
        changes = kernels.improve(self.ref, self.jump, self.err, pair, self.is_open, self.anchored, filled)
        return pair, changes, filled

    def phasings(self):
        """All pairs that the open sites allow."""
        for turns in product([False, True], repeat=int(self.is_open.sum())):
            pair, at = self.pair.copy(), np.flatnonzero(self.is_open)[list(turns)]
            pair[:, at] = pair[::-1, at]
            yield pair


def draw(seed, n_open, anchored=False, n_sites=9, k=6, missing=0.1):
    """Two mosaics of ``ref``, of three alleles, in random phase, missing alleles at sites that are not open.

    An unanchored pair differs nowhere else, so that haplotypes have no names.
    """
    rng = np.random.default_rng(seed)
    ref = rng.choice(3, (n_sites, k), p=[0.5, 0.3, 0.2]).astype(np.int8)
    jump = rng.uniform(0.02, 0.4, n_sites)
    jump[0] = 0
    pair = np.empty((2, n_sites), np.int8)
    for row in pair:
        copied = rng.integers(k)
        for site in range(n_sites):
            copied = rng.integers(k) if rng.random() < jump[site] else copied
            row[site] = ref[site, copied] if rng.random() < 0.95 else rng.integers(3)
    is_open = np.zeros(n_sites, np.bool_)
    is_open[rng.permutation(n_sites)[:n_open]] = True
    pair[1, is_open] = np.where(pair[0, is_open] == pair[1, is_open], (pair[0, is_open] + 1) % 3, pair[1, is_open])
    if not anchored:
        pair[1, ~is_open] = pair[0, ~is_open]
    pair[:, ~is_open & (rng.random(n_sites) < missing)] = -1
    return Problem(ref, jump, rng.choice([1e-3, 0.02, 0.1]), pair, is_open, anchored)


def test_the_forward_algorithm_here_is_the_sum_over_paths():
    problem = draw(1, 0, n_sites=5, k=4)
    n_sites, k = problem.ref.shape
    total = 0.0
    for path in product(range(k), repeat=n_sites):
        p = 1 / k
        for site, copied in enumerate(path):
            if site:
                p *= problem.jump[site] / k + (1 - problem.jump[site]) * (copied == path[site - 1])
            if problem.pair[0, site] >= 0:
                right = problem.ref[site, copied] == problem.pair[0, site]
                p *= 1 - problem.err if right else problem.err
        total += p
    assert log_likelihood(problem.ref, problem.jump, problem.err, problem.pair[0]) == pytest.approx(np.log(total))


@pytest.mark.parametrize("seed", range(5))
def test_backward_is_proportional_to_the_probability_of_what_is_right_of_a_site(seed):
    problem = draw(seed, 2, n_sites=12, missing=0.3)
    alleles, (n_sites, k) = problem.pair[0], problem.ref.shape
    out = np.empty((n_sites, k), np.float32)
    kernels._backward(problem.ref, problem.jump, problem.err, alleles, out)
    expected = np.ones(k)
    for site in range(n_sites - 1, -1, -1):
        np.testing.assert_allclose(out[site] / out[site].sum(), expected / expected.sum(), rtol=1e-5)
        if alleles[site] >= 0:
            expected = expected * np.where(problem.ref[site] == alleles[site], 1 - problem.err, problem.err)
        expected = (1 - problem.jump[site]) * expected + problem.jump[site] * expected.sum() / k


def options(pair, site, anchored):
    """The pairs to which ``improve`` may go from an open site."""
    for crossed in (False,) if anchored else (False, True):
        for turned in (False, True):
            option = pair.copy()
            option[:, site] = pair[::-1, site] if turned else pair[:, site]
            option[:, site + 1 :] = pair[::-1, site + 1 :] if crossed else pair[:, site + 1 :]
            yield option


@pytest.mark.parametrize("anchored", [False, True])
def test_improve_takes_the_likeliest_option_at_an_open_site(anchored):
    taken = [0] * 4
    for seed in range(150):
        # Alleles differ elsewhere too, also where haplotypes have no names: they cross as they are.
        problem = draw(seed, 1, anchored=True)
        problem.anchored = anchored
        site = int(np.flatnonzero(problem.is_open)[0])
        tried = list(options(problem.pair, site, anchored))
        likelihoods = np.array([both(problem, option) for option in tried])
        best = int(likelihoods.argmax())
        if np.sort(likelihoods)[-1] - np.sort(likelihoods)[-2] < 1e-3:
            continue  # as likely, but for rounding
        found, changes, filled = problem.improve(problem.pair)
        np.testing.assert_array_equal(found, tried[best])
        assert changes == (best != 0)
        np.testing.assert_array_equal(filled[found >= 0], found[found >= 0])
        assert (filled >= 0).all()
        taken[best] += 1
    assert min(taken[: 2 if anchored else 4]) >= 5, "some options were never the best"


@pytest.mark.parametrize("anchored", [False, True])
def test_improve_never_loses_and_stops_where_no_single_site_can_gain(anchored):
    gained = 0
    for seed in range(60):
        problem = draw(1_000 + seed, 4, anchored)
        pair = problem.pair
        value = first = both(problem, pair)
        for _ in range(20):
            pair, changes, filled = problem.improve(pair)
            after = both(problem, pair)
            assert after >= value - 1e-4
            value = after
            if not changes:
                break
        assert not changes, "it goes on for ever"
        gained += value > first + 1e-2
        np.testing.assert_array_equal(np.sort(pair, axis=0), np.sort(problem.pair, axis=0))
        if anchored:
            np.testing.assert_array_equal(pair[:, ~problem.is_open], problem.pair[:, ~problem.is_open])
        for site in np.flatnonzero(problem.is_open):
            assert max(both(problem, option) for option in options(pair, site, anchored)) < value + 1e-3
    assert gained > 20


def test_improve_fills_in_the_likeliest_allele_where_one_is_missing():
    compared = 0
    for seed in range(40):
        problem = draw(2_000 + seed, 0, missing=0.4)
        problem.pair[0, 2] = -1  # of the other haplotype perhaps not
        found, changes, filled = problem.improve(problem.pair)
        assert changes == 0
        np.testing.assert_array_equal(found, problem.pair)
        for s, site in np.argwhere(problem.pair < 0):
            tried = []
            for allele in range(3):
                haplotype = problem.pair[s].copy()
                haplotype[site] = allele
                tried.append(log_likelihood(problem.ref, problem.jump, problem.err, haplotype))
            if np.sort(tried)[-1] - np.sort(tried)[-2] > 1e-3:
                assert filled[s, site] == np.argmax(tried)
                compared += 1
    assert compared > 100


@pytest.mark.parametrize("seed", range(8))
def test_improve_mends_all_switches_in_one_pass_and_fills_by_what_is_right_after_them(seed):
    rng = np.random.default_rng(seed)
    ref = (rng.random((120, 20)) < 0.4).astype(np.int8)
    truth = ref[:, [4, 11]].T.copy()
    pair, is_open = truth.copy(), truth[0] != truth[1]
    for switch in rng.choice(120, 5, replace=False):  # from here to the end, or in one place
        pair[:, switch:] = pair[::-1, switch:]
    for turn in rng.choice(np.flatnonzero(is_open), 5, replace=False):
        pair[:, turn] = pair[::-1, turn]
    missing = rng.random(120) < 0.15
    pair[:, missing] = -1
    problem = Problem(ref, np.full(120, 0.002), 0.01, pair, is_open & ~missing, False)
    problem.jump[0] = 0
    found, changes, filled = problem.improve(pair)
    assert changes > 3
    expected = truth if (found[:, ~missing] == truth[:, ~missing]).all() else truth[::-1]
    np.testing.assert_array_equal(found[:, ~missing], expected[:, ~missing])
    assert (filled != expected).sum() <= 1  # what is filled in left of a switch goes by what was right of it


def test_without_open_sites_search_changes_nothing():
    problem = draw(3, 0, anchored=True)
    pair = problem.pair.copy()
    kernels.search(problem.ref, problem.jump, problem.err, pair, problem.is_open, True)
    np.testing.assert_array_equal(pair, problem.pair)


@pytest.mark.parametrize("anchored", [False, True])
def test_search_finds_the_likeliest_phasing_where_it_can_keep_all(anchored):
    most = int(np.log2(kernels.PATHS)) + (not anchored)
    moved, decided = 0, 0
    for seed in range(80):
        problem = draw(3_000 + seed, 1 + seed % most, anchored)
        pair = problem.pair.copy()
        kernels.search(problem.ref, problem.jump, problem.err, pair, problem.is_open, anchored)
        values = [(both(problem, phasing), phasing) for phasing in problem.phasings()]
        best = max(value for value, _ in values)
        assert both(problem, pair) > best - 1e-3
        assert any((pair == phasing).all() for _, phasing in values)
        moved += (pair != problem.pair).any()
        decided += sum(value > best - 1e-3 for value, _ in values) == (1 if anchored else 2)
        if not anchored:
            site = np.flatnonzero(problem.is_open)[0]
            np.testing.assert_array_equal(pair[:, site], problem.pair[:, site])
    assert moved > 20 and decided > 20


def test_search_of_many_open_sites_finds_two_panel_haplotypes():
    """Also where more paths are open than it keeps, and it must forget."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        ref = (rng.random((200, 30)) < 0.4).astype(np.int8)
        truth = ref[:, [3, 17]].T.copy()
        is_open = truth[0] != truth[1]
        pair = np.sort(truth, axis=0)
        kernels.search(ref, np.full(200, 0.02), 1e-3, pair, is_open, False)
        assert (pair == truth).all() or (pair == truth[::-1]).all()


def best_apart(scores, histories, anchored):
    """In plain words: histories of turns, newest last, of the paths that go on."""
    kept = []
    for child in sorted(range(len(scores)), key=lambda i: -scores[i]):
        last = histories[child][-kernels.MEMORY :]
        same = [last, [not turn for turn in last]] if not anchored else [last]
        if not any(histories[other][-kernels.MEMORY :] in same for other in kept):
            kept.append(child)
    return kept[: kernels.PATHS]


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("seen", [0, 1, 3, kernels.MEMORY - 1, kernels.MEMORY, 40])
def test_paths_that_go_on_are_the_best_that_differ_of_late(anchored, seen):
    rng = np.random.default_rng(seen)
    dropped = 0
    for _ in range(30):
        n = int(rng.integers(1, kernels.PATHS + 1))
        turned = np.zeros((kernels.PATHS, 50), np.bool_)
        # Few histories, their complements, and differences long ago.
        few = rng.random((3, seen)) < 0.5
        turned[:n, :seen] = few[rng.integers(3, size=n)] ^ (rng.random((n, 1)) < 0.5)
        turned[:n, : max(0, seen - kernels.MEMORY + 1)] ^= rng.random((n, max(0, seen - kernels.MEMORY + 1))) < 0.5
        scores = rng.integers(-6, 0, 2 * n).astype(float)
        histories = [[*turned[i // 2, :seen].tolist(), i % 2 == 1] for i in range(2 * n)]
        expected = best_apart(scores, histories, anchored)
        found = kernels._best_apart(scores, turned, seen, anchored)
        assert found.tolist() == expected
        dropped += len(expected) < min(kernels.PATHS, 2 * n)
    assert dropped > 3


def test_distances_count_sites_that_differ_in_each_stretch():
    rng = np.random.default_rng(4)
    ref = rng.integers(0, 3, (50, 20)).astype(np.int8)
    pair = rng.integers(-1, 3, (2, 50)).astype(np.int8)
    starts = np.array([0, 7, 8, 30, 50])
    out = np.full((2, 4, 20), 99, np.int32)
    kernels.distances(ref, pair, starts, out)
    for s in range(2):
        apart = (ref != pair[s][:, None]) & (pair[s][:, None] >= 0)
        np.testing.assert_array_equal(out[s], np.add.reduceat(apart.astype(int), starts[:-1]))


@pytest.mark.parametrize("number", [0, 1, 5, 13, 30])
def test_the_nearest_are_marked_and_of_equals_the_first(number):
    rng = np.random.default_rng(number)
    distance = rng.integers(0, 6, 30).astype(np.int32)
    marks = np.zeros(30, np.bool_)
    kernels.mark_nearest(distance, number, marks)
    assert set(np.flatnonzero(marks)) == set(np.argsort(distance, kind="stable")[:number])
    before = rng.random(30) < 0.3
    more = before.copy()
    kernels.mark_nearest(distance, number, more)
    np.testing.assert_array_equal(more, marks | before)


def test_columns_are_those_asked_for_in_their_order():
    alleles = np.random.default_rng(5).integers(-1, 9, (11, 8)).astype(np.int8)
    columns = np.array([6, 0, 0, 3])
    out = np.empty((11, 4), np.int8)
    kernels.columns_of(alleles, columns, out)
    np.testing.assert_array_equal(out, alleles[:, columns])


# Targets whose haplotypes are known


class Chunks(list):
    """A panel in memory: what ``phase_targets`` needs of one."""


def haplotypes(contig, pos, alleles, alt="C", k=None):
    """alleles: (s, k) codes. alt: the ALT alleles of every site, or a list of them."""
    alts = [alt] * len(pos) if isinstance(alt, str) else alt
    sites = Sites(contig, np.asarray(pos), ["."] * len(pos), ["A"] * len(pos), alts)
    rows = [row == a + 1 for row, names in zip(alleles, alts, strict=True) for a in range(names.count(",") + 1)]
    return Haplotypes(sites, np.packbits(np.array(rows), axis=1, bitorder="little"), alleles.shape[1])


def unphased_targets(sites, truth, keep=None):
    """truth: (s, 2N). Alleles of a genotype in ascending order, and marks where that loses the phase, but for genotypes
    of ``keep`` (s, N), which are as in ``truth``."""
    pairs = truth.reshape(len(truth), -1, 2)
    keep = np.zeros(pairs.shape[:2], np.bool_) if keep is None else keep
    alleles = np.where(keep[..., None], pairs, np.sort(pairs, axis=2)).reshape(truth.shape).astype(np.int8)
    marks = (pairs[..., 0] != pairs[..., 1]) & (pairs >= 0).all(axis=2) & ~keep
    return Targets(sites, alleles, tuple(f"T{i}" for i in range(pairs.shape[1])), marks if marks.any() else None)


def file_of(**by_contig):
    """A target file; names of contigs without the ``c`` in front."""
    parts = {name[1:]: part for name, part in by_contig.items()}
    samples = next(iter(parts.values())).samples
    return TargetFile(Path("targets.vcf"), samples, [(name, None) for name in parts], parts)


def phase_targets(panel, targets, *args, **options):
    """``phase.phase_targets`` of a target file whose samples are diploid: every contig is one stretch."""
    found = phase.phase_targets(panel, stretches(panel, targets, lambda name: panel), *args, **options)
    return replace(targets, by_contig={stretch.contig: stretch.targets for (stretch,) in found.values()})


def phase_contigs(panel, by_contig, *args, **options):
    """Name and phased genotypes of every contig of diploid samples."""
    parts = stretches(panel, file_of(**{f"c{name}": part for name, part in by_contig.items()}), lambda name: panel)
    for stretch, found in phase.phase_stretches(panel, parts, *args, **options):
        yield stretch.contig, found


def errors(found, truth):
    """(switches, neighbours): heterozygotes that are phased other than the one before, and all that have one before.

    Both (s, 2N); genotypes must be the same, and those with a missing allele do not count.
    """
    found, truth = (alleles.reshape(len(alleles), -1, 2) for alleles in (found, truth))
    np.testing.assert_array_equal(np.sort(found, axis=2), np.sort(truth, axis=2))
    wrong, all_of_them = 0, 0
    for i in range(truth.shape[1]):
        here = (truth[:, i, 0] != truth[:, i, 1]) & (truth[:, i] >= 0).all(axis=1)
        same = found[here, i, 0] == truth[here, i, 0]
        wrong, all_of_them = wrong + (same[1:] != same[:-1]).sum(), all_of_them + max(0, len(same) - 1)
    return int(wrong), int(all_of_them)


def same_but_for_names(found, truth):
    """Whether every sample's two haplotypes (s, 2N) are those of the truth, in any order."""
    pairs = zip(np.split(found, found.shape[1] // 2, axis=1), np.split(truth, truth.shape[1] // 2, axis=1), strict=True)
    return all((a == b).all() or (a == b[:, ::-1]).all() for a, b in pairs)


@dataclass
class Copies:
    """Targets that each copy two haplotypes of a random panel from end to end."""

    panel: Chunks
    sites: Sites
    truth: np.ndarray

    def phased(self, keep=None, threads=1, **options):
        targets = file_of(c20=unphased_targets(self.sites, self.truth, keep))
        return phase_targets(self.panel, targets, MB, threads, NE, **options).by_contig["20"]


def copies(n_sites=160, k=40, n_targets=5, seed=6):
    """No site is like its neighbours, so that nothing but a whole haplotype explains the targets."""
    rng = np.random.default_rng(seed)
    alleles = (rng.random((n_sites, k)) < 0.4).astype(np.int8)
    panel = haplotypes("20", 10_000 * np.arange(1, n_sites + 1), alleles)
    copied = np.concatenate([rng.permutation(k)[:2] for _ in range(n_targets)])
    return Copies(Chunks([panel]), panel.sites, alleles[:, copied])


@dataclass
class Mosaics:
    """``simulate``'s targets, read without their phases. truth: (s, 2N), the alleles that are not missing."""

    panel: object
    targets: TargetFile
    truth: np.ndarray
    in_panel: np.ndarray
    unknown: np.ndarray


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mosaics")
    data = simulate(n_sites=1_000, n_target=12)
    calls = [["/".join(sorted(call.split("|"))) for call in r.calls] for r in data.target.records]
    records = [replace(r, calls=tuple(row)) for r, row in zip(data.target.records, calls, strict=True)]
    chip = Vcf(data.target.samples, records).save(folder / "chip.vcf.gz")
    known = {r.key: r.alleles for r in data.truth.records}
    truth = np.array([r.alleles for r in data.target.records])
    in_panel = np.array([r.key in known for r in data.target.records])
    unknown = np.array([known.get(r.key, r.alleles) for r in data.target.records])
    panel = open_panel(data.panel.save(folder / "panel.vcf.gz"))
    return Mosaics(panel, read_targets(chip, unphased=True), truth, in_panel, unknown)


def phased_mosaics(mosaics, threads=1, **options):
    return phase_targets(mosaics.panel, mosaics.targets, MB, threads, NE, **options).by_contig["20"]


@pytest.fixture(scope="module")
def phased(mosaics):
    return phased_mosaics(mosaics)


def test_mosaics_of_the_panel_are_phased_with_few_switches(mosaics, phased):
    """Against the order as written, and against a phasing by the panel's haplotypes at two sites at a time."""
    here, given = mosaics.in_panel, mosaics.targets.by_contig["20"]
    wrong, neighbours = errors(phased.alleles[here], mosaics.truth[here])
    codes = {pos: row for chunk in mosaics.panel for pos, row in codes_of(chunk)}
    reference = np.array([codes[pos] for pos in given.sites.pos[here].tolist()])
    by_pairs, _ = errors(phased_by_pairs(reference, given.alleles[here]), mosaics.truth[here])
    as_written, _ = errors(given.alleles[here], mosaics.truth[here])
    assert neighbours > 600
    assert wrong < 0.03 * neighbours
    assert wrong < 0.5 * by_pairs < 0.5 * as_written
    assert phased.unphased is None


def codes_of(chunk):
    """Positions and alleles of the sites of a part of a panel."""
    return zip(chunk.sites.pos.tolist(), chunk.codes(np.arange(len(chunk.sites))), strict=True)


def phased_by_pairs(reference, alleles):
    """Each heterozygote the way round that is commoner in the panel beside the heterozygote before."""
    out = alleles.copy()
    for pair in np.split(out, out.shape[1] // 2, axis=1):
        here = np.flatnonzero((pair[:, 0] != pair[:, 1]) & (pair >= 0).all(axis=1))
        for i, j in zip(here, here[1:], strict=False):
            together = [[((reference[i] == a) & (reference[j] == b)).sum() for b in pair[j]] for a in pair[i]]
            if together[0][0] * together[1][1] < together[0][1] * together[1][0]:
                pair[j] = pair[j, ::-1].copy()
    return out


def test_genotypes_stay_as_they_are_and_so_do_sites_that_the_panel_lacks(mosaics, phased):
    """Missing alleles stay missing."""
    given = mosaics.targets.by_contig["20"]
    assert (given.alleles < 0).sum() > 50 and given.unphased[~mosaics.in_panel].any()
    errors(phased.alleles, given.alleles)  # genotypes are compared there
    np.testing.assert_array_equal(phased.alleles[~mosaics.in_panel], given.alleles[~mosaics.in_panel])
    assert phased.sites == given.sites and phased.samples == given.samples


def test_missing_genotypes_are_filled_and_mostly_right(mosaics, phased):
    given = mosaics.targets.by_contig
    ((name, found),) = phase_contigs(mosaics.panel, given, MB, 1, NE)
    assert name == "20"
    np.testing.assert_array_equal(found.target_index, np.flatnonzero(mosaics.in_panel))
    np.testing.assert_array_equal(found.sites.pos, given["20"].sites.pos[mosaics.in_panel])
    filled = found.filled.transpose(2, 0, 1)
    pairs, truth, unknown = (
        alleles[mosaics.in_panel].reshape(filled.shape) for alleles in (phased.alleles, mosaics.truth, mosaics.unknown)
    )
    known = (pairs >= 0).all(axis=2)
    np.testing.assert_array_equal(filled[known], pairs[known])
    assert (filled >= 0).all()
    np.testing.assert_array_equal(
        found.turned, (pairs != given["20"].alleles[found.target_index].reshape(pairs.shape)).any(2)
    )
    missing = (truth < 0).all(axis=2)
    right = (np.sort(filled, axis=2) == np.sort(unknown, axis=2)).all(axis=2)[missing]
    commonest = np.round(2 * unknown.mean(axis=(1, 2)))[:, None] == unknown.sum(axis=2)
    assert missing.sum() > 30
    assert right.mean() > max(0.9, commonest[missing].mean() + 0.2)


def test_half_missing_genotypes_are_filled_as_well_as_missing_ones():
    made, rng = copies(n_targets=20), np.random.default_rng(7)
    whole = made.truth.reshape(len(made.truth), -1, 2)
    hit = rng.random(whole.shape[:2]) < 0.05
    wrong = {}
    for kind in ("half", "all"):
        truth = whole.copy()
        truth[hit, 0] = -1
        if kind == "all":
            truth[hit] = -1
        targets = {"20": unphased_targets(made.sites, truth.reshape(made.truth.shape))}
        ((_, found),) = phase_contigs(made.panel, targets, MB, 1, NE)
        genotypes = np.sort(found.filled.transpose(2, 0, 1), axis=2)
        wrong[kind] = (genotypes != np.sort(whole, axis=2)).any(axis=2)[hit].mean()
    assert wrong["all"] < 0.02
    assert wrong["half"] < 0.02


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("most_states", [phase.MOST_STATES, 60])
def test_threads_do_not_matter(mosaics, threads, most_states, monkeypatch):
    monkeypatch.setattr(phase, "MOST_STATES", most_states)
    expected = phased_mosaics(mosaics)
    np.testing.assert_array_equal(phased_mosaics(mosaics, threads).alleles, expected.alleles)


def in_order(targets, order):
    """With the samples in another order; and the columns of that."""
    columns = np.stack([2 * order, 2 * order + 1], axis=1).ravel()
    samples = tuple(targets.samples[i] for i in order)
    part = replace(targets, alleles=targets.alleles[:, columns], samples=samples, unphased=targets.unphased[:, order])
    return file_of(c20=part), columns


def test_the_order_of_the_targets_does_not_matter(mosaics, phased):
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(mosaics.targets.samples))
        permuted, columns = in_order(mosaics.targets.by_contig["20"], order)
        found = phase_targets(mosaics.panel, permuted, MB, 1, NE).by_contig["20"]
        assert found.samples == tuple(mosaics.targets.samples[i] for i in order)
        np.testing.assert_array_equal(found.alleles, phased.alleles[:, columns])


def test_the_order_of_the_targets_does_not_matter_where_not_all_haplotypes_are_used(monkeypatch):
    monkeypatch.setattr(phase, "MOST_STATES", 20)
    rng = np.random.default_rng(0)
    founders = (rng.random((120, 8)) < 0.4).astype(np.int8)
    alleles = np.take_along_axis(founders, mosaic(8, 40 + 60, 120, rng, 60), 1)
    panel = haplotypes("20", 10_000 * np.arange(1, 121), alleles[:, :40])
    targets = unphased_targets(panel.sites, alleles[:, 40:])
    permuted, columns = in_order(targets, rng.permutation(30))
    first = phase_targets(Chunks([panel]), file_of(c20=targets), MB, 1, NE).by_contig["20"].alleles
    np.testing.assert_array_equal(
        phase_targets(Chunks([panel]), permuted, MB, 1, NE).by_contig["20"].alleles, first[:, columns]
    )


def test_targets_that_copy_whole_haplotypes_are_phased_without_a_switch():
    made = copies()
    assert errors(np.sort(made.truth.reshape(-1, 2)).reshape(made.truth.shape), made.truth)[0] > 100
    assert same_but_for_names(made.phased().alleles, made.truth)


def test_one_target_alone_is_phased(mosaics):
    made = copies(n_targets=1)
    assert same_but_for_names(made.phased().alleles, made.truth)
    given = mosaics.targets.by_contig["20"]
    alone = replace(given, alleles=given.alleles[:, :2], samples=given.samples[:1], unphased=given.unphased[:, :1])
    found = phase_targets(mosaics.panel, file_of(c20=alone), MB, 1, NE).by_contig["20"]
    here = mosaics.in_panel
    wrong, neighbours = errors(found.alleles[here], mosaics.truth[here, :2])
    assert neighbours > 40 and wrong < 0.1 * neighbours


def family():
    """A panel, and targets that share haplotypes of which it has none: (s, 2N)."""
    rng = np.random.default_rng(8)
    panel = haplotypes("20", 10_000 * np.arange(1, 161), (rng.random((160, 40)) < 0.4).astype(np.int8))
    own = (rng.random((160, 6)) < 0.4).astype(np.int8)
    shared = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3], [4, 1], [4, 2], [5, 0], [5, 3]])
    return Chunks([panel]), panel.sites, own[:, shared.ravel()]


def test_targets_help_to_phase_each_other():
    panel, sites, truth = family()
    found = phase_targets(panel, file_of(c20=unphased_targets(sites, truth)), MB, 1, NE).by_contig["20"].alleles
    wrong, neighbours = errors(found, truth)
    alone = 0
    for person in np.split(truth, 10, axis=1):
        one = file_of(c20=unphased_targets(sites, person))
        alone += errors(phase_targets(panel, one, MB, 1, NE).by_contig["20"].alleles, person)[0]
    assert alone > 0.3 * neighbours
    assert wrong < 0.6 * alone


def test_neither_order_nor_threads_matter_to_targets_that_depend_on_each_other():
    panel, sites, truth = family()
    targets = unphased_targets(sites, truth)
    expected = phase_targets(panel, file_of(c20=targets), MB, 1, NE).by_contig["20"].alleles
    for threads in (1, 3):
        permuted, columns = in_order(targets, np.arange(10)[::-1])
        found = phase_targets(panel, permuted, MB, threads, NE).by_contig["20"].alleles
        np.testing.assert_array_equal(found, expected[:, columns])


def some_heterozygotes(truth, places):
    """(s, N) bool: each sample's heterozygotes of these numbers."""
    keep = truth[:, ::2] != truth[:, 1::2]
    for column in keep.T:
        at = np.flatnonzero(column)
        column[:] = False
        column[at[places]] = True
    return keep


@pytest.mark.parametrize("places", [[0], [-1], [30], [5, 6, 40], slice(None, None, 2)])
def test_phased_heterozygotes_keep_their_phase_and_the_others_go_by_it(places):
    made = copies()
    keep = some_heterozygotes(made.truth, places)
    np.testing.assert_array_equal(made.phased(keep).alleles, made.truth)


def test_phased_heterozygotes_keep_their_phase_although_it_is_wrong():
    """Two of them contradict each other; both stay as written, in phase_contigs too."""
    made = copies()
    keep = some_heterozygotes(made.truth, [10, 50])
    given = unphased_targets(made.sites, made.truth, keep)
    second = keep & (np.cumsum(keep, axis=0) == 2)
    pairs = given.alleles.reshape(len(given.alleles), -1, 2)
    pairs[second] = pairs[second][:, ::-1]
    found = phase_targets(made.panel, file_of(c20=given), MB, 1, NE).by_contig["20"].alleles.reshape(pairs.shape)
    np.testing.assert_array_equal(found[keep], pairs[keep])
    ((_, contig),) = phase_contigs(made.panel, {"20": given}, MB, 1, NE)
    assert not contig.turned[keep].any()
    np.testing.assert_array_equal(contig.filled.transpose(2, 0, 1)[keep], pairs[keep])


@pytest.mark.parametrize(("window", "overlap"), [(40, 16), (60, 20), (100, 30)])
def test_windows_are_joined_with_hardly_a_switch(mosaics, phased, window, overlap, monkeypatch):
    monkeypatch.setattr(phase, "WINDOW", window)
    monkeypatch.setattr(phase, "OVERLAP", overlap)
    here = mosaics.in_panel
    whole, neighbours = errors(phased.alleles[here], mosaics.truth[here])
    parts, _ = errors(phased_mosaics(mosaics).alleles[here], mosaics.truth[here])
    assert parts < whole + 0.01 * neighbours
    # No end of these windows is a place where names of haplotypes may change.
    made = copies()
    assert same_but_for_names(made.phased().alleles, made.truth)


@pytest.mark.parametrize("n_sites", [40, 41, 52, 53, 68, 69, 96, 97])
def test_every_site_is_phased_however_many_windows_there_are(n_sites, monkeypatch):
    monkeypatch.setattr(phase, "WINDOW", 40)
    monkeypatch.setattr(phase, "OVERLAP", 12)
    made = copies(n_sites)
    assert same_but_for_names(made.phased().alleles, made.truth)
    ((_, found),) = phase_contigs(made.panel, {"20": unphased_targets(made.sites, made.truth)}, MB, 1, NE)
    assert same_but_for_names(found.filled.transpose(2, 0, 1).reshape(n_sites, -1), made.truth)


def test_each_window_gives_what_is_nearer_to_its_middle(monkeypatch):
    monkeypatch.setattr(phase, "WINDOW", 40)
    monkeypatch.setattr(phase, "OVERLAP", 12)
    whole, numbers = phase._phase_window, iter(range(9))

    def numbered(window, pool):
        phased, filled = whole(window, pool)
        return phased, np.full_like(filled, next(numbers))

    monkeypatch.setattr(phase, "_phase_window", numbered)
    made = copies(n_sites=90, n_targets=1)
    ((_, found),) = phase_contigs(made.panel, {"20": unphased_targets(made.sites, made.truth)}, MB, 1, NE)
    assert found.filled[0, 0].tolist() == [0] * 34 + [1] * 28 + [2] * 28


@pytest.mark.parametrize("place", [0, 35, -1])
def test_a_phased_heterozygote_in_one_window_holds_for_the_others(place, monkeypatch):
    monkeypatch.setattr(phase, "WINDOW", 40)
    monkeypatch.setattr(phase, "OVERLAP", 12)
    made = copies()
    np.testing.assert_array_equal(made.phased(some_heterozygotes(made.truth, [place])).alleles, made.truth)


@pytest.mark.parametrize(("most_states", "stretch"), [(30, 64), (40, 32), (60, 16)])
def test_the_most_alike_haplotypes_are_enough(mosaics, phased, most_states, stretch, monkeypatch):
    monkeypatch.setattr(phase, "MOST_STATES", most_states)
    monkeypatch.setattr(phase, "STRETCH", stretch)
    here = mosaics.in_panel
    wrong, neighbours = errors(phased_mosaics(mosaics).alleles[here], mosaics.truth[here])
    assert wrong < 0.06 * neighbours


@pytest.mark.parametrize(("n_sites", "stretch"), [(100, 16), (100, 64), (30, 64)])
@pytest.mark.parametrize("most_states", [20, 64, 1_000])
def test_the_states_are_the_nearest_of_each_stretch_and_never_the_targets_own(
    n_sites, stretch, most_states, monkeypatch
):
    monkeypatch.setattr(phase, "MOST_STATES", most_states)
    monkeypatch.setattr(phase, "STRETCH", stretch)
    rng = np.random.default_rng(n_sites + stretch)
    every = (rng.random((n_sites, 200)) < 0.5).astype(np.int8)
    own = np.array([130, 131])
    pair = every[:, own].T.copy()
    pair[:, rng.random(n_sites) < 0.1] = -1
    states = phase._most_alike(every, pair, own).T.tolist()
    others = [j for j in range(200) if j not in own]
    columns = {next(j for j in range(200) if every[:, j].tolist() == state) for state in states}
    assert len(columns) == len(states), "a haplotype comes twice"
    if most_states == 1_000:
        assert columns == set(others)
        return
    assert 0 < len(columns) <= most_states and not columns & set(own.tolist())
    starts = list(range(0, max(1, n_sites - stretch // 2), stretch))
    near, nearest = set(), set()
    for haplotype in pair:
        apart = (every != haplotype[:, None]) & (haplotype >= 0)[:, None]
        parts = [part.sum(axis=0) for part in np.split(apart, starts[1:])]
        for i, part in enumerate(parts):
            total = 2 * part + sum(parts[j] for j in (i - 1, i + 1) if 0 <= j < len(parts))
            limit = sorted(total[others])[most_states // (2 * len(starts)) - 1]
            near |= {j for j in others if total[j] <= limit}
            nearest |= {j for j in others if total[j] < limit}
    assert nearest <= columns <= near


def test_alleles_of_a_multi_allelic_site_in_another_order_than_the_panels():
    """1/2 and 0/2 among them; records with REF and ALT exchanged too, if that is mended."""
    rng = np.random.default_rng(3)
    alleles = rng.choice(3, (80, 30), p=[0.4, 0.3, 0.3]).astype(np.int8)
    pos = 10_000 * np.arange(1, 81)
    panel = haplotypes("20", pos, alleles, "C,G")
    truth = alleles[:, np.concatenate([rng.permutation(30)[:2] for _ in range(4)])]
    for ref, alt, code, mending in (
        ("A", "C,G", [0, 1, 2], Mending()),
        ("A", "G,C", [0, 2, 1], Mending()),
        ("C", "A,G", [1, 0, 2], Mending(swap=True)),
        ("T", "C,G", [0, 2, 1], Mending(strand=True)),
    ):
        written = np.array(code, np.int8)[truth]
        sites = Sites("20", pos, ["."] * 80, [ref] * 80, [alt] * 80)
        file = file_of(c20=unphased_targets(sites, written))
        found = phase_targets(Chunks([panel]), file, MB, 1, NE, mending).by_contig["20"]
        assert same_but_for_names(found.alleles, written)
        ((_, contig),) = phase_contigs(Chunks([panel]), file.by_contig, MB, 1, NE, mending)
        assert same_but_for_names(contig.filled.transpose(2, 0, 1).reshape(truth.shape), truth), "not the panel's codes"
    as_written = phase_targets(Chunks([panel]), file, MB, 1, NE).by_contig["20"]
    np.testing.assert_array_equal(as_written.alleles, file.by_contig["20"].alleles)


def test_names_of_contigs_need_not_be_spelled_as_in_the_panel():
    made = copies()
    expected = made.phased().alleles
    for panel_name, name in (("20", "chr20"), ("chr20", "20")):
        panel = replace(made.panel[0], sites=replace(made.sites, contig=panel_name))
        targets = unphased_targets(replace(made.sites, contig=name), made.truth)
        found = phase_targets(Chunks([panel]), file_of(**{f"c{name}": targets}), MB, 1, NE).by_contig
        assert list(found) == [name] and found[name].sites.contig == name
        np.testing.assert_array_equal(found[name].alleles, expected)


def test_contigs_are_phased_one_by_one_and_those_without_need_stay():
    made, others = copies(), copies(seed=9)
    here = {name: replace(made.sites, contig=name) for name in ("19", "20", "21", "22")}
    panel = Chunks([replace(made.panel[0], sites=here[name]) for name in ("20", "21")])
    panel.append(replace(others.panel[0], sites=here["19"]))
    file = file_of(
        c19=unphased_targets(here["19"], others.truth),
        c22=unphased_targets(here["22"], made.truth),
        c21=Targets(here["21"], made.truth, tuple(f"T{i}" for i in range(5))),
        c20=unphased_targets(here["20"], made.truth),
    )
    told = []
    found = phase_targets(panel, file, MB, 1, NE, progress=told.append)
    assert list(found.by_contig) == ["19", "22", "21", "20"]
    assert (found.path, found.samples, found.contigs) == (file.path, file.samples, file.contigs)
    assert same_but_for_names(found.by_contig["19"].alleles, others.truth)
    np.testing.assert_array_equal(found.by_contig["20"].alleles, made.phased().alleles)
    assert found.by_contig["21"].alleles is file.by_contig["21"].alleles
    lacking = found.by_contig["22"]
    np.testing.assert_array_equal(lacking.alleles, file.by_contig["22"].alleles)
    assert [part.unphased for part in found.by_contig.values()] == [None] * 4
    assert file.by_contig["22"].unphased.any() and file.by_contig["20"].unphased.any(), "the input was changed"
    assert told == [0.5, 1.0]


def test_the_input_is_not_changed():
    made = copies()
    targets = unphased_targets(made.sites, made.truth)
    before = targets.alleles.copy(), targets.unphased.copy()
    after = phase_targets(made.panel, file_of(c20=targets), MB, 1, NE).by_contig["20"]
    assert (after.alleles != before[0]).any()
    np.testing.assert_array_equal(targets.alleles, before[0])
    np.testing.assert_array_equal(targets.unphased, before[1])


def test_chunks_of_the_panel_and_its_other_sites_do_not_matter():
    made = copies()
    expected = made.phased().alleles
    codes = made.panel[0].codes(np.arange(160))
    pos = np.sort(np.concatenate([made.sites.pos, made.sites.pos + 5]))
    more = haplotypes("20", pos, np.repeat(codes, 2, axis=0), ["C", "C,G"] * 160)
    rows = more.row_start()
    borders = [0, 1, 90, 91, 200, 320]
    chunks = [
        Haplotypes(more.sites.slice(a, b), more.bits[rows[a] : rows[b]], 40)
        for a, b in zip(borders, borders[1:], strict=False)
    ]
    np.testing.assert_array_equal(replace(made, panel=Chunks(chunks)).phased().alleles, expected)


def test_a_map_without_the_contig_is_refused():
    made = copies()
    points = {"21": (np.array([1.0, 1e6]), np.array([0.0, 1.0]))}
    with pytest.raises(InputError, match="no map for contig '20'"):
        phase_targets(made.panel, file_of(c20=unphased_targets(made.sites, made.truth)), GeneticMap("map", points), 1)


def test_ne_is_used_and_is_a_hundred_thousand_unless_given(mosaics):
    def phased(*ne):
        return phase_targets(mosaics.panel, mosaics.targets, MB, 1, *ne).by_contig["20"].alleles

    np.testing.assert_array_equal(phased(), phased(1e5))
    assert (phased(1e7) != phased(1e5)).any()


def test_real_people_are_phased_as_well_as_by_beagle():
    """Beagle 5.4 has 3.41 % of switches here, and npimpute 3.30 %."""
    root = Path(os.environ.get("NPIMPUTE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = root / "imputation" / "chr20_EUR"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; NPIMPUTE_DATA names another directory with the data")
    targets = read_targets(folder / "chip.unphased.vcf.gz", unphased=True)
    genetic_map = read_genetic_map(folder / "chr20.b37.gmap.gz")
    found = phase_targets(open_panel(folder / "panel.vcf.gz"), targets, genetic_map, 2).by_contig["20"]
    truth = read_targets(folder / "truth.vcf.gz").by_contig["20"]
    at = {key: i for i, key in enumerate(zip(truth.sites.pos, truth.sites.ref, truth.sites.alt, strict=True))}
    typed = [at[key] for key in zip(found.sites.pos, found.sites.ref, found.sites.alt, strict=True)]
    wrong, neighbours = errors(found.alleles, truth.alleles[typed])
    assert neighbours > 50_000
    assert wrong < 0.036 * neighbours
