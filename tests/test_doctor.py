"""What the machine will use, and where compiled kernels are kept."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import npimpute
from npimpute.cli import kernels
from npimpute.errors import ConfigError

EXAMPLES = Path(__file__).parents[1] / "examples"


def npimpute_run(*words: str, **environment: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "npimpute", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def none_kept(monkeypatch):
    """No directory can be written but those of this process."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(kernels, "_can_be_written", lambda place: False)
    monkeypatch.setattr(kernels, "_lost", [])
    kept = []
    monkeypatch.setattr(kernels.atexit, "register", lambda function, *args, **options: kept.append((function, args)))
    yield kept
    os.environ.pop("NUMBA_CACHE_DIR")


def test_doctor_names_what_will_run():
    rows = dict(line.split("\t") for line in npimpute_run("doctor").splitlines())
    assert rows["npimpute"] == npimpute.__version__ and rows["torch"][0].isdigit()
    assert rows["selective scan, cpu"].startswith("numba") and "engine" in rows["compiled kernels"]


def test_kernels_find_a_place_where_none_can_be_kept(none_kept, capsys):
    kernels.keep_kernels()
    assert "set NUMBA_CACHE_DIR" in capsys.readouterr().err
    [(remove, (place,))] = none_kept
    assert remove is shutil.rmtree and os.environ["NUMBA_CACHE_DIR"] == place and os.path.isdir(place)
    os.rmdir(place)
    assert kernels.place_of_kernels() == "none that can be written"
    with pytest.raises(ConfigError, match="--compile: no directory to keep kernels in"):
        kernels.compile_kernels()


def test_where_kernels_can_be_kept_nothing_is_set(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "_can_be_written", lambda place: str(place).startswith(str(tmp_path)))
    kernels.keep_kernels()
    assert "NUMBA_CACHE_DIR" not in os.environ and not capsys.readouterr().err


def test_a_place_is_one_where_a_file_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    assert not kernels._can_be_written(tmp_path / "file" / "below")
    assert kernels._can_be_written(tmp_path / "new" / "below") and not any((tmp_path / "new" / "below").iterdir())


def test_after_compiling_a_run_compiles_nothing(tmp_path):
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    npimpute_run("doctor", "--compile", **place)
    compiled = sorted(tmp_path.rglob("*.nbc"))
    files = {"--ref": "panel.vcf.gz", "--target": "chip.vcf.gz", "--map": "map.txt"}
    words = [word for name, file in files.items() for word in (name, str(EXAMPLES / file))]
    for out in ("imputed.vcf.gz", "imputed.bcf"):
        npimpute_run("run", *words, "--out", str(tmp_path / out), **place)
        assert sorted(tmp_path.rglob("*.nbc")) == compiled
