"""The genetic map: every format, interpolation against np.interp, and one clear line for each fault."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npimpute.contigs import contig_key
from npimpute.errors import ConfigError, InputError
from npimpute.panel.genetic_map import constant_rate, read_genetic_map

BP = [1000, 5000, 20000, 21000]
CM = [0.0, 0.01, 0.2, 0.25]
PLINK = "".join(f"20 . {c} {b}\n" for b, c in zip(BP, CM, strict=True))
THREE = "pos\tchr\tcM\n" + "".join(f"{b}\t20\t{c}\n" for b, c in zip(BP, CM, strict=True))
HAPMAP = "Chromosome\tPosition(bp)\tRate(cM/Mb)\tMap(cM)\n" + "".join(
    f"chr20\t{b}\t1.5\t{c}\n" for b, c in zip(BP, CM, strict=True)
)


def write(tmp_path, text, name="map.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fault(tmp_path, text):
    """The message for a map that cannot be used, which is one line and names the file."""
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_genetic_map(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path)) and ";" in message
    return message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "text", [PLINK, THREE, HAPMAP, PLINK.replace("\n", "\r\n"), "\n" + THREE.replace("\n", "\n\n")]
)
def test_formats_agree(tmp_path, text, packed):
    path = write(tmp_path, gzip.compress(text.encode()) if packed else text)
    genetic_map = read_genetic_map(path)
    pos = np.arange(1000, 21001, 7)
    for contig in ("20", "chr20"):
        np.testing.assert_array_equal(genetic_map.to_cm(contig, pos), np.interp(pos, BP, CM))


def test_several_contigs_and_their_names(tmp_path):
    text = "1 . 0 100\n1 . 1 200\nchr23 . 5 100\nchr23 . 7 300\n"
    genetic_map = read_genetic_map(write(tmp_path, text))
    assert genetic_map.to_cm("chr1", np.array([150])).tolist() == [0.5]
    for name in ("X", "chrX", "23", "chr23"):
        assert genetic_map.to_cm(name, np.array([200])).tolist() == [6.0]
    with pytest.raises(InputError, match=r"'chr2'; the file has 1, X; ") as caught:
        genetic_map.to_cm("chr2", np.array([1]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("20", "chr20", "Chr20"),
        ("X", "chrx", "23", "chr23"),
        ("MT", "M", "chrM", "26"),
        ("Y", "24"),
        ("chr",),
        ("X_par1",),
    ],
)
def test_contig_key_of_equal_names(names):
    assert len({contig_key(name) for name in names}) == 1
    assert contig_key(names[0]) not in {contig_key("2"), contig_key("XY"), contig_key("25")}


def test_positions_in_any_order_and_repeated_points(tmp_path):
    genetic_map = read_genetic_map(write(tmp_path, "1 a 0 100\n1 b 0 100\n1 c 1 200\n"))
    assert genetic_map.to_cm("1", np.array([200, 100, 150, 150], np.int64)).tolist() == [1.0, 0.0, 0.5, 0.5]


def test_short_map_continues_with_its_mean_rate(tmp_path):
    genetic_map = read_genetic_map(write(tmp_path, PLINK))
    rate = 0.25 / 20000
    got = genetic_map.to_cm("20", np.array([1, 999, 21001, 31000]))
    np.testing.assert_allclose(got, [-999 * rate, -rate, 0.25 + rate, 0.25 + 10000 * rate], rtol=1e-12)


def test_long_map_continues_with_the_rate_of_the_last_5_cm(tmp_path):
    """1 cM/Mb at the start, 2 at the end, and a cold last interval that must not be the only witness."""
    bp = np.arange(0, 41) * 1_000_000
    cm = np.concatenate([np.arange(21.0), 20 + 2 * np.arange(1, 20), [58.0]])
    text = "".join(f"1 . {c} {b}\n" for b, c in zip(bp, cm, strict=True))
    genetic_map = read_genetic_map(write(tmp_path, text))
    assert genetic_map.to_cm("1", np.array([-1_000_000]))[0] == pytest.approx(-1.0)
    assert genetic_map.to_cm("1", np.array([41_000_000]))[0] == pytest.approx(58 + 6 / 4)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 400)), min_size=2, max_size=12),
    st.lists(st.integers(-500, 2000), min_size=1, max_size=20),
)
def test_monotone_continuous_and_interp_inside(tmp_path_factory, steps, pos):
    bp, cm = np.cumsum([step[0] for step in steps]), np.cumsum([step[1] for step in steps]) / 100
    path = tmp_path_factory.getbasetemp() / "property.map"
    path.write_text("".join(f"1 . {c} {b}\n" for b, c in zip(bp, cm, strict=True)))
    pos = np.sort(np.array(pos, np.int64))
    got = read_genetic_map(path).to_cm("1", pos)
    assert got.dtype == np.float64 and got.shape == pos.shape
    assert np.all(np.diff(got) >= 0)
    inside = (pos >= bp[0]) & (pos <= bp[-1])
    np.testing.assert_array_equal(got[inside], np.interp(pos[inside], bp, cm))


def test_constant_rate():
    assert constant_rate().to_cm("anything", np.array([1_000_000, 3_000_000])).tolist() == [1.0, 3.0]
    assert constant_rate(2.5).to_cm("X", np.array([2_000_000])).tolist() == [5.0]
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            constant_rate(rate)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("pos chr cM\n", "no points"),
        ("##fileformat=VCFv4.2\n", "cannot tell the format"),
        ("100 20 0.1\n200 20 0.2\n", "cannot tell the format"),
        ("position COMBINED_rate(cM/Mb) Genetic_Map(cM)\n1 1 1\n", "cannot tell the format"),
        ("pos chr cM\n100 20 zero\n200 20 1\n", "line 2: cM is 'zero', not a number"),
        ("20 . 0 100\n\n20 . nan 200\n", "line 3: cM is 'nan', not a number"),
        ("20 . 0 100\n20 . 1 2OO\n", "line 2: bp is '2OO', not a number"),
        ("20 . 0 100\n20 . 1\n20 . 2 300\n", "line 2: 3 columns where line 1 has 4"),
        ("20 . 0 100\n20 . 1\n200 20 . 2 300\n", "line 2: 3 columns where line 1 has 4"),
        ("20 100 1.1 0.5\n20 200 1.2 0.6\n", "line 1: bp is 0.5, not a whole number"),
        ("20 . 0 100\n20 . 2 300\n20 . 1 400\n", "line 3: cM goes down from 2 to 1 on contig '20'"),
        ("20 . 0 100\n20 . 1 300\n20 . 2 200\n", "line 3: bp goes down from 300 to 200 on contig '20'"),
        ("20 . 0 100\n20 . 1 100\n", "line 2: bp 100 has two cM values, 0 and 1,"),
        ("1 . 5 900\n20 . 0 100\n1 . 4 1000\n20 . 1 200\n", "line 3: cM goes down from 5 to 4 on contig '1'"),
        ("1 . 0 100\n1 . 1 200\nchr2 . 0 100\n", "line 3: contig '2' has 1 map point"),
        ("1 . 0 100\n1 . 0 100\n", "line 1: contig '1' has 1 map point"),
        (gzip.compress(THREE.encode() * 50)[:-20], "truncated gzip"),
        (b"\x1f\x8b garbage", "gzip"),
    ],
)
def test_faults_are_one_line(tmp_path, text, found):
    assert found in fault(tmp_path, text)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_genetic_map(tmp_path / "absent.map")


def test_real_map():
    root = Path(os.environ.get("NPIMPUTE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "imputation" / "chr20_EUR" / "chr20.b37.gmap.gz"
    if not path.exists():
        pytest.skip("no real genetic map here: set NPIMPUTE_DATA to the data directory")
    bp, _, cm = np.loadtxt(path, skiprows=1).T
    pos = np.arange(int(bp[0]), int(bp[-1]) + 1, 1009)
    genetic_map = read_genetic_map(path)
    np.testing.assert_allclose(genetic_map.to_cm("chr20", pos), np.interp(pos, bp, cm), rtol=1e-12, atol=1e-12)
    assert np.all(np.diff(genetic_map.to_cm("20", np.array([1, pos[0], pos[-1], pos[-1] + 10_000_000]))) > 0)
