"""A run that is stopped and goes on writes what one that was not stopped writes, or refuses to go on."""

import gzip
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import (
    ALL,
    GIVEN,
    Data,
    Vcf,
    contents,
    expect_refusal,
    impute,
    run_forked,
    same_files,
    simulate,
    write_map,
)
from test_haploid import draw

from npimpute import pipeline, resuming
from npimpute.config import RunConfig
from npimpute.dosage import stitch
from npimpute.engine import li_stephens
from npimpute.errors import InputError
from npimpute.pipeline import run
from npimpute.summary import Summary
from npimpute.vcf import write
from npimpute.vcf.bgzf import EOF_BLOCK
from npimpute.vcf.pieces import Pieces

CORE_CM = 0.6  # of a window
SUFFIXES = (".vcf.gz", ".bcf", ".vcf")


class Stop(Exception):
    """What ends a run."""


def saved(panel: Vcf, target: Vcf, folder: Path, map_file: Path | None) -> Data:
    made = Data(panel, target, target, panel.save(folder / "panel.vcf.gz"), target.save(folder / "chip.vcf.gz"))
    made.map = map_file
    return made


@pytest.fixture(scope="module")
def made() -> Data:
    return simulate(n_sites=150, n_panel=16, n_target=3)


@pytest.fixture(scope="module")
def small(made, tmp_path_factory) -> Data:
    """Files of one contig and seven windows; three target sites are not in the panel."""
    folder = tmp_path_factory.mktemp("small")
    return saved(made.panel, made.target, folder, write_map(folder / "map.txt"))


@pytest.fixture(scope="module")
def kinds(made, small, tmp_path_factory) -> dict[str, Data]:
    """Files by what they are of."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in ("contigs", "unphased", "X"):
        (folder / name).mkdir()
    both = []
    for vcf in (made.panel, made.target):
        more = vcf.renamed({"20": "21"})
        both.append(Vcf(vcf.samples, [*vcf.records, *more.records], vcf.contigs | more.contigs))
    map_file = write_map(folder / "map.txt", ("20", "21"))
    records = [replace(r, calls=tuple("/".join(sorted(c.split("|"))) for c in r.calls)) for r in made.target.records]
    unphased = Vcf(made.target.samples, records, made.target.contigs)
    x = draw(n_panel=10, n_targets=4)
    return {
        "one": small,
        "contigs": saved(*both, folder / "contigs", map_file),
        "unphased": saved(made.panel, unphased, folder / "unphased", map_file),
        "X": saved(x.vcf(x.panel), x.chip(), folder / "X", None),
    }


def unfinished(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished")


def stopped(monkeypatch, windows: int, data: Data, out: Path, **options) -> None:
    """A run with --resume that ends in the first chunk after it has finished so many windows."""
    keep, count, finished = pipeline._keep, pipeline._count, []

    def kept(*args):
        keep(*args)
        finished.append(1)

    def counted(*args):
        if len(finished) == windows:
            raise Stop
        count(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_keep", kept)
        patch.setattr(pipeline, "_count", counted)
        with pytest.raises(Stop):
            impute(data, out, resume=True, **options)


def done(data: Data, out: Path, **options) -> Summary:
    """As ``impute``, but gives what was done."""
    files = {"ref": data.ref, "target": data.chip, "map": data.map, "out": out}
    return run(RunConfig(**files | {"engine": "li-stephens"} | GIVEN | options))


def records(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


ESTIMATED = {"ne": None, "err": None}


@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        (".vcf.gz", "one", {"formats": ALL} | ESTIMATED),
        (".bcf", "contigs", {"min_r2": 0.5, "all_typed_sites": True}),
        (".vcf", "unphased", ESTIMATED),
        (".vcf.gz", "X", {"formats": ALL, "core_cm": 0.04, "flank_cm": 0.1}),
        (".bcf", "one", {"engine": "npssm", "calibrate": 6} | ESTIMATED),
        (".vcf", "one", {"engine": "knn", "ne": None, "calibrate": 6}),
        (".vcf", "contigs", {"region": "21:100,000-400,000", "keep_typed": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_stopped_twice_is_not_stopped(kinds, tmp_path, monkeypatch, suffix, kind, options):
    monkeypatch.setattr(stitch, "CHUNK_ROWS", 4)
    data, options = kinds[kind], {"core_cm": CORE_CM, "flank_cm": 1.0} | options
    extra, summaries = {}, {}
    for name in ("plain", "whole", "pieces"):
        (tmp_path / name).mkdir()
        more = {"sites_only": "sites.vcf.gz", "sample_quality": "quality.tsv", "report": "report.tsv"}
        extra[name] = {key: tmp_path / name / file for key, file in more.items()} | options
    out = {name: tmp_path / name / f"out{suffix}" for name in extra}
    for name in ("plain", "whole"):
        summaries[name] = done(data, out[name], **extra[name], resume=name == "whole")
    stopped(monkeypatch, 1, data, out["pieces"], **extra["pieces"])
    stopped(monkeypatch, 2, data, out["pieces"], **extra["pieces"], threads=3)
    summaries["pieces"] = done(data, out["pieces"], **extra["pieces"], resume=True, threads=2)
    assert summaries["pieces"].windows > 3
    for name in ("whole", "pieces"):
        assert records(out[name]) == records(out["plain"])
        assert records(extra[name]["sites_only"]) == records(extra["plain"]["sites_only"])
        for table in ("sample_quality", "report"):
            assert extra[name][table].read_bytes() == extra["plain"][table].read_bytes()
        assert summaries[name].r2.sums == summaries["plain"].r2.sums
        assert replace(summaries[name], r2=None) == replace(summaries["plain"], r2=None)
    assert same_files(out["pieces"], out["whole"])
    assert same_files(extra["pieces"]["sites_only"], extra["whole"]["sites_only"])
    assert len({len(list((tmp_path / name).iterdir())) for name in extra}) == 1, "nothing else is left"


@pytest.mark.parametrize("options", [{}, {"calibrate": 4}, {"engine": "npssm"}], ids=str)
def test_what_was_estimated_is_kept(small, tmp_path, monkeypatch, options):
    """Each window would tell something else; the first decides."""
    monkeypatch.setattr(li_stephens, "estimate", lambda window, *_: (float(window.panel.sites.pos[-1]) / 10, 1e-3))
    options = options | ESTIMATED | {"core_cm": CORE_CM}
    plain = impute(small, tmp_path / "plain.vcf", **options)
    out = tmp_path / "out.vcf"
    stopped(monkeypatch, 2, small, out, **options)
    state = json.loads((unfinished(out) / "state.json").read_text())["state"]
    assert state["estimates"].keys() == ESTIMATED.keys() and 1_000 < state["estimates"]["ne"] < 50_000
    impute(small, out, resume=True, **options)
    assert records(out) == records(plain)


def test_what_is_kept(small, tmp_path, monkeypatch):
    """Records of finished windows in order, each piece readable by itself; nothing of those that are not finished."""
    monkeypatch.setattr(stitch, "CHUNK_ROWS", 4)
    out, sites = tmp_path / "out.vcf.gz", tmp_path / "sites.vcf"
    options = {"core_cm": CORE_CM, "sites_only": sites}
    stopped(monkeypatch, 0, small, out, **options)
    assert not unfinished(out).exists()
    stopped(monkeypatch, 3, small, out, **options)
    names = [f"{i:06d}" for i in range(3)]
    kept = [str(path.relative_to(unfinished(out))) for path in contents(unfinished(out))]
    assert sorted(kept) == [*(f"out/{name}" for name in names), *(f"sites/{name}" for name in names), "state.json"]
    assert [path.name for path in tmp_path.iterdir()] == [unfinished(out).name]
    parts = {place: b"".join(records(unfinished(out) / place / name) for name in names) for place in ("out", "sites")}
    for left in (".1.000003", "000003"):  # by a run that was killed, before it had told of it
        (unfinished(out) / "out" / left).write_bytes(b"left")
    stopped(monkeypatch, 0, small, out, **options)
    assert sorted(path.name for path in (unfinished(out) / "out").iterdir()) == names
    impute(small, out, resume=True, **options)
    assert out.read_bytes().count(EOF_BLOCK) == 1, "some readers end at the first"
    for place, path in (("out", out), ("sites", sites)):
        lines = records(path).splitlines(keepends=True)
        whole = b"".join(line for line in lines if not line.startswith(b"#"))
        assert 0 < len(parts[place]) < len(whole) and whole.startswith(parts[place])
    assert not unfinished(out).exists()


def test_how_far_records_reach_is_kept(made, tmp_path, monkeypatch):
    """It decides on the kind of index. Of two contigs the first is beyond what a .tbi can address."""
    both = []
    for vcf in (made.panel, made.target):
        far = [replace(record, pos=record.pos + write.TBI_LIMIT) for record in vcf.records]
        more = vcf.renamed({"20": "21"})
        both.append(Vcf(vcf.samples, [*far, *more.records], {"20": 9, "21": 9}))
        both[-1].save(tmp_path / f"{len(both)}.vcf")
    data = Data(*both, made.truth, tmp_path / "1.vcf", tmp_path / "2.vcf", None)
    out = tmp_path / "out.vcf.gz"
    stopped(monkeypatch, 8, data, out, core_cm=0.1, flank_cm=0.01)
    state = json.loads((unfinished(out) / "state.json").read_text())["state"]
    lines = [records(path).splitlines()[0] for path in sorted((unfinished(out) / "out").iterdir())]
    assert state["windows"] == 8 and lines[-1].startswith(b"21\t")
    impute(data, out, core_cm=0.1, flank_cm=0.01, resume=True)
    assert out.with_name(f"{out.name}.csi").exists() and not out.with_name(f"{out.name}.tbi").exists()


def words(data: Data, out: Path, *more) -> list:
    """The command, with --resume."""
    files = ["--ref", data.ref, "--target", data.chip, "--map", data.map, "--out", out, "--engine", "li-stephens"]
    given = ["--ne", GIVEN["ne"], "--err", GIVEN["err"], "--window", CORE_CM, "--threads", 1]
    return ["run", *files, *given, "--resume", *more]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory) -> Path:
    """The output of ``words`` where nothing stops it."""
    out = tmp_path_factory.mktemp("whole") / "out.vcf.gz"
    sites = out.with_name("sites.vcf.gz")
    return impute(small, out, core_cm=CORE_CM, resume=True, sites_only=sites, sample_quality=out.with_name("q.tsv"))


EXTRA = ("--sites-only", "sites.vcf.gz", "--sample-quality", "q.tsv", "--report", "r.tsv")


def extra(folder: Path) -> list:
    return [word if word.startswith("--") else folder / word for word in EXTRA]


@dataclass(frozen=True)
class Moment:
    """Before call ``number`` of ``function``; windows: how many are finished then."""

    place: object
    function: str
    number: int
    windows: int

    def strike(self, action: Callable[[], None]) -> Callable[[], None]:
        """What makes it happen in a process."""

        def prepare():
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
            was, seen = getattr(self.place, self.function), []

            def counted(*args, **named):
                seen.append(1)
                if len(seen) == self.number:
                    action()
                return was(*args, **named)

            setattr(self.place, self.function, counted)

        return prepare


MOMENTS = {
    "no window": Moment(pipeline, "_write", 1, 0),
    "in a window": Moment(pipeline, "_count", 4, 3),
    "between two outputs": Moment(Pieces, "end", 6, 2),
    "before the state": Moment(resuming.Kept, "finished", 5, 4),
    "in the state": Moment(os, "replace", 6, 1),
    "when joined": Moment(Pieces, "join", 1, 7),
    "when indexed": Moment(write, "_build_index", 2, 7),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
STRUCK = [(moment, SIGNALS[i % 3]) for i, moment in enumerate(MOMENTS)]
STRUCK += [("in a window", signal.SIGTERM), ("when joined", signal.SIGKILL)]


@pytest.mark.parametrize(("moment", "number"), STRUCK, ids=str)
def test_a_signal(small, whole, tmp_path, moment, number):
    out, moment = tmp_path / "out.vcf.gz", MOMENTS[moment]
    command = words(small, out, *extra(tmp_path))
    status, _, log = run_forked(*command, before=moment.strike(lambda: os.kill(os.getpid(), number)))
    errors = [line for line in log.splitlines() if line and not line.startswith(("I ", "W "))]
    left = {path.name for path in tmp_path.iterdir()}
    if number == signal.SIGKILL:
        assert status == -number
        left = {name for name in left if not name.startswith(".")}
    else:
        word = "interrupted" if number == signal.SIGINT else "stopped"
        assert errors == [f"npimpute: error: {word}; the same command goes on with what is not done"]
        assert status == 128 + number
    assert left == ({unfinished(out).name} if moment.windows else set())
    status, _, log = run_forked(*command)
    assert status == 0, log
    assert (f"goes on after {moment.windows} finished windows" in log) == (moment.windows > 0)
    assert same_files(out, whole)
    for name in ("sites.vcf.gz", "q.tsv"):
        assert (tmp_path / name).read_bytes() == whole.with_name(name).read_bytes()
    assert not unfinished(out).exists()


def test_without_the_option_nothing_is_kept(small, tmp_path):
    command = [word for word in words(small, tmp_path / "out.vcf.gz") if word != "--resume"]
    strike = MOMENTS["in a window"].strike(lambda: os.kill(os.getpid(), signal.SIGINT))
    status, _, log = run_forked(*command, before=strike)
    assert status == 130 and log.endswith("npimpute: error: interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


# Disk full


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_in_a_window(small, tmp_path, suffix):
    out, moment = tmp_path / f"out{suffix}", MOMENTS["in a window"]
    command = words(small, out)
    expected = impute(small, tmp_path / f"whole{suffix}", core_cm=CORE_CM, resume=True)
    status, _, log = run_forked(*command, before=moment.strike(limited(100)))
    assert status == 2 and log.count("npimpute: error: ") == 1 and "cannot be written" in log, log
    assert [path.name for path in (unfinished(out) / "out").iterdir() if path.name[0] == "."] == []
    assert len(list((unfinished(out) / "out").iterdir())) == moment.windows
    status, _, log = run_forked(*command)
    assert status == 0 and f"goes on after {moment.windows} finished windows" in log
    assert same_files(out, expected)


@pytest.mark.parametrize("output", ["out.vcf.gz", "sites.vcf.gz", "q.tsv"])
def test_a_disk_that_is_full_when_all_is_joined(small, whole, tmp_path, monkeypatch, output):
    """No output has its name yet, so that the same command may go on."""
    out = tmp_path / "out.vcf.gz"
    command = words(small, out, *extra(tmp_path))

    def fail(function):
        def failing(self, *args):
            if str(args[0] if args else self._path).endswith(output):
                raise InputError(f"{output}: no space left")
            return function(self, *args)

        return failing

    def before():
        write.VariantWriter.complete = fail(write.VariantWriter.complete)
        pipeline.SampleQuality.write = fail(pipeline.SampleQuality.write)

    status, _, log = run_forked(*command, before=before)
    assert status == 2 and f"{output}: no space left" in log, log
    assert [path.name for path in tmp_path.iterdir()] == [unfinished(out).name]
    if output == "out.vcf.gz":
        status, _, log = run_forked(*command, before=limited(whole.stat().st_size - 1))
        assert (status, log.count("npimpute: error: ")) == (2, 1) and "out.vcf.gz: cannot be written" in log
        assert [path.name for path in tmp_path.iterdir()] == [unfinished(out).name]
    assert run_forked(*command)[0] == 0
    assert same_files(out, whole)


# Refused


@pytest.fixture
def half(small, tmp_path, monkeypatch) -> Path:
    """An output of which some windows are finished; its inputs are beside it."""
    data = Data(small.panel, small.target, small.truth)
    for name in ("ref", "chip", "map"):
        setattr(data, name, tmp_path / getattr(small, name).name)
        shutil.copy2(getattr(small, name), getattr(data, name))
    out = tmp_path / "out.vcf.gz"
    stopped(monkeypatch, 4, data, out, core_cm=CORE_CM)
    return out


def again(half: Path, *more) -> list:
    folder = half.parent
    return words(
        Data(None, None, None, folder / "panel.vcf.gz", folder / "chip.vcf.gz", folder / "map.txt"), half, *more
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--ne", 2000), "ne 1500.0, not 2000.0"),
        (("--flank", 1), "flank_cm 2.0, not 1.0"),
        (("--format", "GT"), "formats ('GT', 'DS'), not ('GT',)"),
        (("--impute-typed",), "keep_typed True, not False"),
        (("--sites-only", "/dev/shm/none.vcf"), "sites_only None, not /dev/shm/none.vcf"),
        (("--engine", "npssm"), "engine li-stephens, not npssm"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_other_settings_are_refused(half, more, told):
    command = again(half, *more)
    expect_refusal(half.parent, command, f"{half.name}.unfinished", told, "give the same command, or remove it")


@pytest.mark.parametrize("name", ["panel.vcf.gz", "chip.vcf.gz", "map.txt"])
def test_changed_inputs_are_refused(half, name):
    path = half.parent / name
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    kind = {"panel.vcf.gz": "ref", "chip.vcf.gz": "target", "map.txt": "map"}[name]
    expect_refusal(half.parent, again(half), f"{half.name}.unfinished: is of a run with {kind} {path} (size, time)")


def test_another_version_is_refused(half, monkeypatch):
    monkeypatch.setattr(resuming, "__version__", "0.0.0")
    expect_refusal(half.parent, again(half), "is of a run with version", "not 0.0.0")


def test_a_changed_model_is_refused(small, tmp_path, monkeypatch):
    from npimpute.engine.model_files import default_model

    shutil.copytree(default_model(), tmp_path / "model")
    out, options = tmp_path / "out.vcf.gz", {"engine": "npssm", "model": tmp_path / "model", "core_cm": CORE_CM}
    stopped(monkeypatch, 2, small, out, **options)
    for path in (tmp_path / "model").iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(resuming.ConfigError, match=r"model/.* \(size, time\)"):
        impute(small, out, resume=True, **options)


def other_number(text: str) -> str:
    state = json.loads(text)
    state["state"]["windows"] -= 1
    return json.dumps(state)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"state": [], "crc32": 223132457}',
        lambda text: "\udcff" + text,
        other_number,
    ],
)
def test_a_damaged_state_is_refused(half, damage):
    state = unfinished(half) / "state.json"
    state.write_text(damage(state.read_text()), errors="surrogateescape")
    expect_refusal(half.parent, again(half), f"{state}: cannot be gone on from", f"remove {unfinished(half)} to start")


@pytest.mark.parametrize(
    ("suffix", "damage", "piece"),
    [(".vcf.gz", "missing", 3), (".vcf", "missing", 0), (".vcf.gz", "shorter", 0), (".vcf", "shorter", 3)]
    + [(".vcf.gz", "empty", 3), (".bcf", "longer", 0)],
)
def test_pieces_that_are_not_as_they_were_are_refused(small, tmp_path, monkeypatch, suffix, damage, piece):
    """A shorter one would make a file that lacks records."""
    out = tmp_path / f"out{suffix}"
    stopped(monkeypatch, 4, small, out, core_cm=CORE_CM)
    path = unfinished(out) / "out" / f"{piece:06d}"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"shorter": data[:-30], "empty": b"", "longer": data + data}[damage])
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"{piece:06d}: \w+ bytes, where {len(data)} were .*; remove .* anew$"):
        impute(small, out, core_cm=CORE_CM, resume=True)
    assert contents(tmp_path) == before


def test_a_piece_that_is_cut_short_meanwhile(small, tmp_path, monkeypatch):
    """As by a second run of the same command."""
    out = tmp_path / "out.vcf"
    stopped(monkeypatch, 4, small, out, core_cm=CORE_CM)
    join = Pieces.join

    def cut(self, file):
        path = unfinished(out) / "out" / "000001"
        path.write_bytes(path.read_bytes()[:-30])
        join(self, file)

    monkeypatch.setattr(Pieces, "join", cut)
    with pytest.raises(InputError, match="out.vcf: .*shorter than it was"):
        impute(small, out, core_cm=CORE_CM, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [unfinished(out).name]


# Before and after


def test_a_run_that_fails_before_its_first_window_leaves_nothing(made, tmp_path):
    target = made.target.renamed({"20": "7"})
    data = saved(made.panel, target, tmp_path, write_map(tmp_path / "map.txt"))
    expect_refusal(tmp_path, words(data, tmp_path / "out.vcf.gz"), "no target site is in the panel")
    assert not unfinished(tmp_path / "out.vcf.gz").exists()
    data.chip.write_bytes(data.chip.read_bytes()[:-200])
    expect_refusal(tmp_path, words(data, tmp_path / "out.vcf.gz"), "chip.vcf.gz")
    expect_refusal(tmp_path, words(data, tmp_path / "none" / "out.vcf.gz"), "none", "does not exist")
    unfinished(tmp_path / "out.vcf.gz").write_text("a file")
    expect_refusal(tmp_path, words(data, tmp_path / "out.vcf.gz"), "out.vcf.gz.unfinished: cannot be written")


def test_a_run_that_fails_later_keeps_what_is_finished(half):
    before = contents(unfinished(half))
    command = again(half)
    status, _, log = run_forked(*command, before=MOMENTS["no window"].strike(lambda: os.kill(os.getpid(), 15)))
    assert status == 143, log
    assert contents(unfinished(half)) == before
    assert run_forked(*command)[0] == 0
    assert not unfinished(half).exists()


def test_outputs_that_exist_are_replaced_at_the_end_or_not_at_all(half, whole):
    half.write_text("old")
    expect_refusal(half.parent, again(half), f"{half}: exists already")
    command = again(half, "--overwrite")
    status, _, _ = run_forked(*command, before=MOMENTS["when joined"].strike(lambda: os.kill(os.getpid(), 9)))
    assert status == -9 and half.read_text() == "old"
    assert run_forked(*command)[0] == 0
    assert same_files(half, whole)
