"""What is learnt of a panel kept for other runs: found where nothing has changed, and only there."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import impute, read_rows, same_files, simulate, write_map

from npimpute.config import RunConfig
from npimpute.engine import calibrated, li_stephens, npssm
from npimpute.errors import ConfigError, InputError

FREE = {"ne": None, "err": None}
each_engine = pytest.mark.parametrize(
    ("engine", "kinds"),
    [
        ("npssm", ("parameters", "rows", "shares")),
        ("clades", ("lines", "parameters")),
        ("li-stephens", ("parameters",)),
    ],
)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Data with a panel that can spare judges."""
    folder = tmp_path_factory.mktemp("many")
    made = simulate(n_panel=110, n_target=30)
    made.ref, made.chip = made.panel.save(folder / "panel.vcf.gz"), made.target.save(folder / "chip.vcf.gz")
    made.map = write_map(folder / "map.txt")
    return made


def options(engine):
    return FREE | {"engine": engine, "calibrate": {"npssm": None, "clades": 40, "li-stephens": 0}[engine]}


def kinds_in(cache):
    return tuple(sorted(path.name.split("-")[0] for path in cache.iterdir()))


@each_engine
def test_the_same_again_without_learning(many, tmp_path, monkeypatch, engine, kinds):
    plain = impute(many, tmp_path / "plain.vcf.gz", **options(engine))
    first = impute(many, tmp_path / "first.vcf.gz", cache=tmp_path / "cache", **options(engine))
    assert same_files(plain, first) and kinds_in(tmp_path / "cache") == kinds

    def learnt(*args, **more):
        raise AssertionError("learnt again")

    for place, name in ((npssm, "self_impute"), (calibrated, "self_impute"), (li_stephens, "estimate")):
        monkeypatch.setattr(place, name, learnt)
    monkeypatch.setattr(npssm.NPSSMEngine, "judges", learnt)
    again = impute(many, tmp_path / "again.vcf.gz", cache=tmp_path / "cache", **options(engine))
    assert same_files(plain, again) and kinds_in(tmp_path / "cache") == kinds


@each_engine
def test_other_targets_get_what_they_get_with_the_first_ones_parameters(many, tmp_path, engine, kinds):
    halves = [many.target.columns(list(part)) for part in np.array_split(np.arange(len(many.target.samples)), 2)]
    paths = [half.save(tmp_path / f"{i}.vcf.gz") for i, half in enumerate(halves)]
    for path in paths:
        impute(many, tmp_path / f"out.{path.name}", target=path, cache=tmp_path / "cache", **options(engine))
    assert kinds_in(tmp_path / "cache") == kinds
    ne, err = np.load(next((tmp_path / "cache").glob("parameters-*"))).tolist()
    given = options(engine) | {"ne": ne, "err": err}
    for path in paths:
        assert same_files(
            impute(many, tmp_path / f"given.{path.name}", target=path, **given), tmp_path / f"out.{path.name}"
        )


def test_what_has_changed_is_learnt_anew(many, tmp_path):
    at = next(i for i, r in enumerate(many.panel.records) if 0.3 < r.alleles.mean() < 0.7)
    record = many.panel.records[at]
    moved = record.with_alleles(np.roll(record.alleles, 2))
    panel = replace(many.panel, records=[*many.panel.records[:at], moved, *many.panel.records[at + 1 :]])
    changes = {
        "panel": {"ref": panel.save(tmp_path / "moved.vcf.gz")},
        "array": {"target": replace(many.target, records=many.target.records[:-3]).save(tmp_path / "fewer.vcf.gz")},
        "map": {"map": write_map(tmp_path / "map.txt", cm_per_mb=13)},
        "seed": {"seed": 2},
        "number": {"calibrate": 100},
        "parameters": {"ne": 3000.0},
        "engine": {"engine": "clades", "calibrate": 40},
    }
    cache, before = tmp_path / "cache", 0
    for name, change in ({"nothing": {}} | changes).items():
        out = impute(many, tmp_path / f"{name}.vcf.gz", cache=cache, **options("npssm") | change)
        assert same_files(out, impute(many, tmp_path / f"{name}.plain.vcf.gz", **options("npssm") | change))
        assert len(kinds_in(cache)) >= before + 2
        before = len(kinds_in(cache))


def test_threads_and_formats_change_nothing(many, tmp_path):
    for i, change in enumerate(({"threads": 1}, {"threads": 3}, {"formats": ("GT",)})):
        impute(many, tmp_path / f"{i}.vcf.gz", cache=tmp_path / "cache", **options("npssm") | change)
    assert len(kinds_in(tmp_path / "cache")) == 3


def test_too_few_typed_alleles_are_not_kept_as_an_estimate(many, tmp_path):
    few = replace(many.target, records=many.target.records[:5]).save(tmp_path / "few.vcf.gz")
    outs = [
        impute(many, tmp_path / f"{i}.vcf", target=few, cache=cache, **options("npssm"))
        for i, cache in enumerate((None, tmp_path / "cache", tmp_path / "cache"))
    ]
    assert len({out.read_bytes() for out in outs}) == 1 and read_rows(outs[0])
    assert kinds_in(tmp_path / "cache") == ("rows", "shares")


def test_a_cache_that_cannot_be_used_is_named(many, tmp_path):
    cache = tmp_path / "cache"
    impute(many, tmp_path / "a.vcf", cache=cache, **options("npssm"))
    rows = next(cache.glob("rows-*"))
    rows.write_bytes(rows.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{rows.name}: cannot be read .*remove it"):
        impute(many, tmp_path / "b.vcf", cache=cache, **options("npssm"))
    assert not (tmp_path / "b.vcf").exists()
    with pytest.raises(InputError, match="a.vcf: is a file; --cache takes a directory"):
        impute(many, tmp_path / "b.vcf", cache=tmp_path / "a.vcf", **options("npssm"))
    with pytest.raises(InputError, match="a.vcf/cache: cannot be written"):
        impute(many, tmp_path / "b.vcf", cache=tmp_path / "a.vcf" / "cache", **options("npssm"))
    with pytest.raises(ConfigError, match="--cache .*: --engine knn learns nothing"):
        RunConfig(ref=tmp_path / "r", target=tmp_path / "t", out=tmp_path / "o.vcf", engine="knn", cache=cache)
