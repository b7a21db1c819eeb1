"""Conservation in phyloP's manner, against the likelihood written out, and through the commands."""

import numpy as np
import pytest
from conftest import run_cli, run_forked

from npimpute.errors import ConfigError
from npimpute.msa.alphabet import GAP
from npimpute.msa.conservation import Conservation, differing
from npimpute.msa.store import Alignment, write_alignment

SPECIES = ("hg38", "panTro5", "mm10", "galGal4")
SHARES = (0.02, 0.2, 0.3)  # of bases that differ


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(5)
    codes = np.repeat(rng.integers(4, size=(1, 9000), dtype=np.uint8), 4, 0)
    for row, share in zip(codes[1:], SHARES, strict=True):
        changed = rng.random(9000) < share
        row[changed] = (row[changed] + rng.integers(1, 4, changed.sum())) % 4
    codes[3, ::2] = GAP
    # The columns that are looked at: as they are named below.
    codes[:, :6] = np.array(
        [[0, 0, 0, 0], [0, 0, 0, GAP], [0, 0, 1, 2], [0, 2, 2, 2], [0] + 3 * [GAP], [GAP, 0, 0, 0]]
    ).T
    path = tmp_path_factory.mktemp("store") / "made.msa"
    write_alignment(path, SPECIES, {"chr6": (100, codes)})
    return path


def test_branches_are_as_long_as_species_differ(store):
    assert differing(Alignment.open(store)) == pytest.approx(SHARES, abs=0.02)


def test_a_species_that_is_not_aligned_is_taken_as_the_others(tmp_path):
    codes = np.array([[0, 1, 2, 3], [0, 1, 2, 0], [GAP] * 4, [0, 1, 0, 0]], np.uint8)
    write_alignment(tmp_path / "x.msa", SPECIES, {"6": (0, codes)})
    assert differing(Alignment.open(tmp_path / "x.msa")).tolist() == [0.25, 3 / 8, 0.5]


def ratio(same, changed, shares):
    """Signed 2 ln of the likelihoods' ratio, by trying very many rates. same, changed: numbers of species."""

    def likelihood(rate):
        total = 0
        for i in (*same, *changed):
            distance = -0.75 * np.log(1 - 4 / 3 * shares[i])
            p = 0.75 * (1 - np.exp(-4 / 3 * distance * rate))
            total += np.log(p / 3 if i in changed else 1 - p)
        return total

    rates = np.linspace(1e-9, 5, 20_001)
    found = [likelihood(rate) for rate in rates]
    best = int(np.argmax(found))
    return 2 * (found[best] - likelihood(1)) * (1 if rates[best] < 1 else -1)


def test_it_is_the_likelihood_ratio(store):
    alignment = Alignment.open(store)
    shares = differing(alignment)
    found = Conservation(alignment).log_p("6", np.arange(100, 106))
    wanted = [ratio((0, 1, 2), (), shares), ratio((0, 1), (), shares), ratio((0,), (1, 2), shares)]
    wanted += [ratio((), (0, 1, 2), shares), 0, 0]
    assert found[:, 0] == pytest.approx(wanted, abs=2e-3)
    assert wanted[0] > wanted[1] > 0 > wanted[2] > wanted[3], "more species that keep a base, more conserved"
    assert wanted[0] == pytest.approx(-2 * np.log(1 - shares).sum(), abs=1e-6)
    assert not found[:, 1:].any(), "every ALT of a place has its score"


def test_a_reference_alone_is_refused(tmp_path):
    write_alignment(tmp_path / "x.msa", ("hg38",), {"6": (0, np.zeros((1, 9), np.uint8))})
    with pytest.raises(ConfigError, match="--model phylop-style: .*x.msa has no species besides the reference"):
        Conservation(Alignment.open(tmp_path / "x.msa"))


def test_variants_have_it_by_name(store, tmp_path):
    (tmp_path / "v.tsv").write_text("chrom\tpos\tref\talt\nchr6\t101\tA\tC\nchr6\t101\tA\tG\nchr6\t104\tA\tT\n")
    words = ["vep", "--model", "phylop-style", "--msa", str(store), "--variants", str(tmp_path / "v.tsv")]
    assert run_cli(*words, "--out", str(tmp_path / "out.tsv"))[0] == 0
    rows = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]]
    scores = [float(row[5]) for row in rows]
    assert scores[0] == scores[1] > 0 > scores[2] and {row[6] for row in rows} == {"ok"}
    assert "phylop-style" in run_forked("vep", "--help")[1]
