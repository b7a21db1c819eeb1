"""Running and timing the programs of a comparison: what is measured, what is run again, and the command lines."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import needs, read_rows, simulate, write_map

from npimpute import __version__
from npimpute.benchmark.arrays import thinned
from npimpute.benchmark.dataset import Cast, Dataset, make_dataset
from npimpute.benchmark.measure import last_line, measure
from npimpute.benchmark.programs import PEERS, Commands, Program, engine, peer, variant
from npimpute.benchmark.trials import SETTINGS, Trials, check_settings, claimed, write_json
from npimpute.config import ENGINES, RunConfig
from npimpute.errors import ConfigError, InputError
from npimpute.panel.genetic_map import read_genetic_map

HOLDS_200_MB = "b = b'x' * 200_000_000"
BURNS_CPU = "import time\nwhile time.process_time() < 0.4: pass"


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


def python(text: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", text]


def test_waiting_takes_time_but_no_processor(tmp_path):
    found = measure(shell("sleep 0.4"), tmp_path / "a.log")
    assert 0.4 <= found.seconds < 3 and found.cpu_seconds < 0.2
    assert found.status == 0 and 0.1 < found.peak_mb < 60


def test_processor_time_is_of_the_command_and_what_it_starts(tmp_path):
    program = shlex.join(python(BURNS_CPU))
    for command, least in ((python(BURNS_CPU), 0.4), (shell(f"{program}; {program}; true"), 0.8)):
        found = measure(command, tmp_path / "a.log")
        assert least <= found.cpu_seconds < least + 0.6
        assert found.seconds > 0.9 * found.cpu_seconds


def test_memory_is_that_of_the_largest_process(tmp_path):
    alone = measure(python(HOLDS_200_MB), tmp_path / "a.log").peak_mb
    assert 200 <= alone < 260
    program = shlex.join(python(HOLDS_200_MB))
    assert measure(shell(f"{program}; {program}; true"), tmp_path / "a.log").peak_mb == pytest.approx(alone, abs=20)


def test_memory_of_the_caller_is_not_the_command_s(tmp_path):
    held = np.ones(62_500_000)
    assert held.nbytes == 500_000_000
    assert measure(shell("exit 0"), tmp_path / "a.log").peak_mb < 60
    assert 200 <= measure(python(HOLDS_200_MB), tmp_path / "a.log").peak_mb < 260
    assert held[-1] == 1


@pytest.mark.parametrize(
    ("text", "status"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -signal.SIGKILL), ("kill -SEGV $$", -signal.SIGSEGV)],
)
def test_the_status_is_the_exit_status_or_the_signal(tmp_path, text, status):
    assert measure(shell(text), tmp_path / "a.log").status == status
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]


def test_a_command_that_cannot_be_started_has_status_127(tmp_path):
    (tmp_path / "data.txt").write_text("no program")
    for name, reason in (("no-such-program", "No such file"), (str(tmp_path / "data.txt"), "Permission denied")):
        found = measure([name, "-x"], tmp_path / "a.log")
        assert found.status == 127 and found.cpu_seconds == found.peak_mb == 0
        assert found.last.startswith(f"{name}: {reason}")


@pytest.mark.parametrize(
    ("log", "last"),
    [
        (b"one\ntwo\n", "two"),
        (b"one\n  two  \n\n \t\n", "two"),
        (b"one\n10 %\r50 %\r99 %", "99 %"),
        (b"one\n99 %\r\n", "99 %"),
        (b"", "no output"),
        (b"\n\n", "no output"),
        (b"bad \xff\n", "bad \ufffd"),
    ],
)
def test_the_last_words_are_the_last_line_that_says_something(tmp_path, log, last):
    (tmp_path / "a.log").write_bytes(log)
    assert last_line(tmp_path / "a.log") == last
    (tmp_path / "words").write_bytes(log)
    assert measure(["cat", str(tmp_path / "words")], tmp_path / "b.log").last == last


def test_output_goes_to_its_file_and_the_rest_to_the_log(tmp_path):
    log, out = tmp_path / "a.log", tmp_path / "out"
    for times in (3, 1):
        said = "echo data; echo told >&2; " * times
        assert measure(shell(said), log, out).last == "told"
        assert out.read_text() == "data\n" * times and log.read_text() == "told\n" * times
    assert measure(shell("echo told; exit 1"), log).last == "told"


def test_a_log_has_all_of_stdout_and_stderr_in_order(tmp_path):
    found = measure(shell("echo one; echo two >&2; echo three; echo four >&2"), tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text() == "one\ntwo\nthree\nfour\n"
    assert found.last == "four"


def test_a_command_has_nothing_to_read_and_the_caller_s_surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("NPIMPUTE_TEST", "there")
    monkeypatch.chdir(tmp_path)
    found = measure(shell("cat; pwd; echo $NPIMPUTE_TEST"), Path("a.log"))
    assert (tmp_path / "a.log").read_text() == f"{tmp_path}\nthere\n" and found.seconds < 10


def interrupted(tmp_path, command: str) -> tuple[int, float, str]:
    """The pid of ``command``, how long it lived after an interruption of its caller (60: too long), and the caller's
    last words. It writes its pid to $PID."""
    pid = tmp_path / "pid"
    code = "import signal\nfrom pathlib import Path\nfrom npimpute.benchmark.measure import measure\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where tests run in the background
    code += f"measure({shell(command)!r}, Path({str(tmp_path / 'a.log')!r}))"
    environment = os.environ | {"PID": str(pid)}
    caller = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )
    try:
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        started = time.perf_counter()
        caller.send_signal(signal.SIGINT)
        said = caller.communicate(timeout=30)[1]
        gone = wait_until(lambda: not alive(int(pid.read_text())), 3)
        return int(pid.read_text()), time.perf_counter() - started if gone else 60, said
    finally:
        caller.kill()
        if pid.exists() and alive(int(pid.read_text())):
            group = os.getpgid(int(pid.read_text()))
            assert group != os.getpgid(0)
            os.killpg(group, signal.SIGKILL)


def wait_until(ready, seconds: float = 20) -> bool:
    end = time.perf_counter() + seconds
    while not ready():
        if time.perf_counter() > end:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("inside", ["exec sleep 60", "sleep 60; true"])
def test_an_interruption_ends_the_command(tmp_path, inside):
    command = "echo $$ > $PID; exec sleep 60" if "exec" in inside else "sleep 60 & echo $! > $PID; wait"
    _, seconds, said = interrupted(tmp_path, command)
    assert seconds < 9 and said.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_an_interruption_ends_a_command_that_ignores_it(tmp_path):
    _, seconds, _ = interrupted(tmp_path, "trap '' TERM; echo $$ > $PID; sleep 60")
    assert seconds < 20


# Trials.


class Fake:
    """A program of which every command appends its name, and the dataset's, to ``calls``."""

    def __init__(self, folder: Path, name: str, impute: str = "echo result > $OUT", **parts: str):
        """parts: version, missing, and shell commands warm_up and prepare."""
        self.calls, self.name, self.impute, self.parts = folder / "calls", name, impute, parts

    def program(self) -> Program:
        def commands(data: Dataset, folder: Path, threads: int) -> Commands:
            assert not self.parts.get("missing")

            def words(step: str, text: str) -> list[str]:
                told = f"OUT={folder / 'out.vcf.gz'}; echo {self.name} {data.folder.name} {step} >> {self.calls}"
                return shell(f"{told}; {text}")

            warm, prepare = self.parts.get("warm_up"), self.parts.get("prepare")
            return Commands(
                words("warm_up", warm) if warm else None,
                (words("prepare", prepare), folder / "prepared") if prepare else None,
                words(f"impute -t {threads}", self.impute),
                folder / "out.vcf.gz",
            )

        facts = (self.parts.get("version", "1"), commands, self.parts.get("missing", ""))
        return Program(self.name, self.name.upper(), *facts)


def dataset(folder: Path, name: str = "fold1", **changes) -> Dataset:
    facts = {"panel": Path("panel.vcf.gz"), "chip": Path("chip.vcf.gz"), "maps": None, "haplotypes": 20, "typed": 5}
    facts |= {"contigs": [("chr20", 1000, 900_000)], "truth": None}
    return Dataset(folder / "data" / name, **facts | changes)


def ran(tmp_path, fakes: list[Fake], folds: int = 1, repeat: int = 1) -> tuple[Trials, list[str]]:
    """The trials after a run, and what was called in it."""
    calls = tmp_path / "calls"
    calls.write_text("")
    trials = Trials(tmp_path / "runs", 2, repeat)
    trials.run([fake.program() for fake in fakes], folds_of(tmp_path, folds))
    return trials, calls.read_text().splitlines()


def folds_of(tmp_path, n: int) -> list[Dataset]:
    return [dataset(tmp_path, f"fold{i + 1}") for i in range(n)]


def test_programs_take_turns_and_prepare_once(tmp_path):
    a = Fake(tmp_path, "a", warm_up="true", prepare="echo prepared; echo told >&2")
    b = Fake(tmp_path, "b")
    trials, calls = ran(tmp_path, [a, b], folds=2, repeat=2)
    first = [f"a fold{i} {step}" for i in (1, 2) for step in ("warm_up", "prepare", "impute -t 2")]
    turn = [f"{name} fold{i} impute -t 2" for i in (1, 2) for name in "ab"]
    assert calls == [*first[:3], turn[1], *first[3:], turn[3], *turn]
    data = folds_of(tmp_path, 2)
    for fake in (a, b):
        program = fake.program()
        assert trials.finished(program, data)
        assert trials.output(program, data[1]) == tmp_path / "runs" / "fold2" / fake.name / "out.vcf.gz"
        assert trials.output(program, data[1]).read_text() == "result\n"
    assert (tmp_path / "runs" / "fold1" / "a" / "prepared").read_text() == "prepared\n"
    assert (tmp_path / "runs" / "fold1" / "a" / "prepare.log").read_text() == "told\n"


def test_what_is_finished_is_not_run_again(tmp_path):
    fakes = [Fake(tmp_path, "a", warm_up="true", prepare="true"), Fake(tmp_path, "b")]
    assert len(ran(tmp_path, fakes, folds=2)[1]) == 8
    trials, calls = ran(tmp_path, fakes, folds=2)
    assert calls == []
    assert trials.finished(fakes[0].program(), folds_of(tmp_path, 2)) is True
    assert ran(tmp_path, fakes, folds=2, repeat=2)[1] == [f"{n} fold{i} impute -t 2" for i in (1, 2) for n in "ab"]
    assert ran(tmp_path, [*fakes, Fake(tmp_path, "c")], folds=2)[1] == [f"c fold{i} impute -t 2" for i in (1, 2)]
    assert len(ran(tmp_path, fakes, folds=3)[1]) == 4, "another fold"


@pytest.mark.parametrize("change", ["version", "options", "threads", "output", "times"])
def test_what_was_done_otherwise_or_is_lost_is_run_again(tmp_path, change):
    a, b = Fake(tmp_path, "a", version="1"), Fake(tmp_path, "b")
    ran(tmp_path, [a, b], folds=2)
    place = tmp_path / "runs" / "fold1" / "a"
    if change == "version":
        a = Fake(tmp_path, "a", version="2")
    elif change == "options":
        a = Fake(tmp_path, "a", "echo another > $OUT", version="1")
    elif change == "output":
        (place / "out.vcf.gz").unlink()
    elif change == "times":
        (place / "usage.json").write_text('{"version": ')
    if change == "threads":
        trials = Trials(tmp_path / "runs", 3, 1)
        assert not trials.finished(a.program(), folds_of(tmp_path, 1))
        return
    trials, calls = ran(tmp_path, [a, b], folds=2)
    again = (1,) if change in ("output", "times") else (1, 2)
    assert calls == [f"a fold{i} impute -t 2" for i in again]
    assert trials.finished(a.program(), folds_of(tmp_path, 2))
    assert ran(tmp_path, [a, b], folds=2)[1] == []


def test_a_program_that_fails_is_told_of_and_does_not_stop_the_others(tmp_path, caplog):
    bad = Fake(tmp_path, "bad", "echo so far so good; echo 'no memory left'; exit 3")
    good = Fake(tmp_path, "good")
    trials, calls = ran(tmp_path, [bad, good], folds=2, repeat=2)
    assert calls == ["bad fold1 impute -t 2", *[f"good fold{i} impute -t 2" for i in (1, 2, 1, 2)]], "and is left"
    reason = trials.failure(bad.program())["reason"]
    log = tmp_path / "runs" / "fold1" / "bad" / "impute.log"
    assert reason == f"impute ended with exit status 3: no memory left ({log})"
    assert trials.failures() == [{"label": "BAD", "status": "failed", "reason": reason}]
    assert caplog.text.count(f"BAD: {reason}") == 1
    data = folds_of(tmp_path, 2)
    assert not trials.finished(bad.program(), data) and trials.finished(good.program(), data)
    bad.impute = "echo result > $OUT"
    trials, calls = ran(tmp_path, [bad, good], folds=2, repeat=2)
    assert calls == [f"bad fold{i} impute -t 2" for i in (1, 2, 1, 2)], "another call tries again"
    assert trials.finished(bad.program(), data) and trials.failures() == []


@pytest.mark.parametrize(
    ("parts", "reason", "calls"),
    [
        ({"warm_up": "echo cold >&2; exit 1"}, "warm up ended with exit status 1: cold", 1),
        ({"warm_up": "true", "prepare": "echo full >&2; exit 2"}, "prepare ended with exit status 2: full", 2),
        ({"impute": "kill -KILL $$"}, "impute ended with signal 9: no output", 1),
        ({"impute": "echo done"}, "left no out.vcf.gz; its last words: done", 1),
    ],
)
def test_how_a_program_failed_is_told(tmp_path, parts, reason, calls):
    fake = Fake(tmp_path, "a", **parts)
    trials, called = ran(tmp_path, [fake])
    assert trials.failure(fake.program())["reason"].startswith(reason)
    assert len(called) == calls and not trials.finished(fake.program(), folds_of(tmp_path, 1))


def test_a_missing_program_is_told_of_with_its_remedy_and_never_started(tmp_path, caplog):
    missing, good = Fake(tmp_path, "a", missing="not installed; get it somewhere"), Fake(tmp_path, "b")
    trials, calls = ran(tmp_path, [missing, good])
    assert calls == ["b fold1 impute -t 2"]
    told = {"label": "A", "status": "missing", "reason": "not installed; get it somewhere"}
    assert trials.failure(missing.program()) == told and trials.failures() == [told]
    assert "A: not installed; get it somewhere" in caplog.text
    assert not trials.finished(missing.program(), folds_of(tmp_path, 1))


def test_usage_is_the_median_of_repetitions_summed_over_datasets(tmp_path):
    a = Fake(tmp_path, "a", warm_up="sleep 0.2", prepare="sleep 0.1")
    b = Fake(tmp_path, "b")
    trials, _ = ran(tmp_path, [a, b], folds=2, repeat=3)
    data = folds_of(tmp_path, 2)
    found = trials.usage(a.program(), data)
    assert 0.4 <= found["warm_up_seconds"] < 4 and 0.2 <= found["prepare_seconds"] < 4
    assert 0 < found["seconds"] < found["warm_up_seconds"] and [len(runs) for runs in found["runs"]] == [3, 3]
    assert (
        trials.usage(b.program(), data)["warm_up_seconds"] is None is trials.usage(b.program(), data)["prepare_seconds"]
    )
    assert found["command"] == shlex.join(a.program().commands(data[0], tmp_path / "runs" / "fold1" / "a", 2).impute)
    times = {1: [(5, 50, 7), (1, 10, 8), (2, 90, 100)], 2: [(30, 1, 9), (20, 2, 11), (40, 3, 10)]}
    for fold, runs in times.items():
        path = tmp_path / "runs" / f"fold{fold}" / "a" / "usage.json"
        record = json.loads(path.read_text())
        for run, (seconds, cpu, peak) in zip(record["runs"], runs, strict=True):
            assert run.keys() == {"seconds", "cpu_seconds", "peak_mb", "status", "last"}
            run |= {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak}
        write_json(path, record | {"prepare": 0.5 * fold, "warm_up": fold})
    found = trials.usage(a.program(), data)
    del found["command"]
    assert found == {
        "seconds": 2 + 30, "cpu_seconds": 50 + 2, "peak_mb": 10, "prepare_seconds": 1.5, "warm_up_seconds": 3,
        "runs": [[5, 1, 2], [30, 20, 40]],
    }  # fmt: skip


def test_the_output_of_another_version_does_not_count(tmp_path):
    ran(tmp_path, [Fake(tmp_path, "a", version="1")])
    fake = Fake(tmp_path, "a", "echo done", version="2")
    trials, _ = ran(tmp_path, [fake])
    assert trials.failure(fake.program())["reason"].startswith("left no out.vcf.gz")


def test_the_output_of_a_repetition_that_failed_does_not_count(tmp_path):
    text = f"if [ -e {tmp_path}/again ]; then echo half > $OUT; exit 1; fi; echo result > $OUT; touch {tmp_path}/again"
    fake = Fake(tmp_path, "a", text)
    trials, _ = ran(tmp_path, [fake], repeat=2)
    assert trials.failure(fake.program()) and not trials.finished(fake.program(), folds_of(tmp_path, 1))
    trials, calls = ran(tmp_path, [fake])
    assert calls == ["a fold1 impute -t 2"], "the output is not that of a finished run"


# Settings of a benchmark.


def test_settings_are_written_and_the_same_ones_go_on(tmp_path):
    out = tmp_path / "new" / "out"
    settings = {"panel": ["p", 1, 2.5], "targets": None, "seed": 1}
    check_settings(out, settings)
    assert json.loads((out / SETTINGS).read_text()) == settings and [p.name for p in out.iterdir()] == [SETTINGS]
    (out / "runs").mkdir()
    check_settings(out, settings | {"panel": ("p", 1, 2.5)})
    assert json.loads((out / SETTINGS).read_text()) == settings


@pytest.mark.parametrize("change", [{"seed": 2}, {"targets": 5}, {"panel": ["p", 1, 3.5]}, {"thin": 10}])
def test_other_settings_are_refused_by_name(tmp_path, change):
    check_settings(tmp_path / "out", {"panel": ["p", 1, 2.5], "targets": None, "seed": 1})
    before = (tmp_path / "out" / SETTINGS).read_bytes()
    with pytest.raises(ConfigError, match=f"holds a benchmark with another --{next(iter(change))};"):
        check_settings(tmp_path / "out", {"panel": ["p", 1, 2.5], "targets": None, "seed": 1} | change)
    assert (tmp_path / "out" / SETTINGS).read_bytes() == before


def test_directories_of_something_else_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="has files of something else in it"):
        check_settings(tmp_path, {"seed": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match=r"notes\.txt: cannot be written"):
        check_settings(tmp_path / "notes.txt", {"seed": 1})
    (tmp_path / SETTINGS).write_text('{"seed": ')
    with pytest.raises(InputError, match=r"settings\.json: damaged"):
        check_settings(tmp_path, {"seed": 1})


def test_a_directory_that_was_new_is_not_left_by_an_error_of_the_user_s(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        out = tmp_path / name
        with pytest.raises(InputError, match="no such panel"), claimed(out, {"seed": 1}):
            assert (out / SETTINGS).exists()
            raise InputError("no such panel")
        assert not out.exists()
        with pytest.raises(KeyboardInterrupt), claimed(out, {"seed": 1}):
            (out / "runs").mkdir()
            raise KeyboardInterrupt
        for seed, message in ((1, "no such panel"), (2, "another --seed")):
            with pytest.raises((InputError, ConfigError), match=message), claimed(out, {"seed": seed}):
                raise InputError("no such panel")
            assert (out / "runs").exists(), "it was not new"
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="something else"), claimed(tmp_path, {"seed": 1}):
        pass
    assert (tmp_path / "notes.txt").exists()


def test_settings_that_are_no_table_are_damaged(tmp_path):
    (tmp_path / SETTINGS).write_text("[]")
    with pytest.raises(InputError, match="damaged"):
        check_settings(tmp_path, {"seed": 1})


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None]}
    with pytest.raises(InputError, match="cannot be written"):
        write_json(tmp_path / "none" / "a.json", {})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": Path()})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None]}


# Programs.


def options(program: Program, data: Dataset, folder: Path = Path("out"), threads: int = 2) -> list[str]:
    """What npimpute is given beside what the benchmark gives it."""
    words = program.commands(data, folder, threads).impute
    assert words[:4] == [sys.executable, "-m", "npimpute", "run"] and program.ours and not program.missing
    assert words[4:10] == ["--ref", "panel.vcf.gz", "--target", "chip.vcf.gz", "--threads", str(threads)]
    assert words[-5:] == ["--format", "GT,DS,GP", "--overwrite", "--out", f"{folder}/imputed.vcf.gz"]
    return words[10:-5]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_a_program(name, tmp_path):
    program = engine(name)
    assert (program.name, program.label, program.version) == (name, name, f"npimpute {__version__}")
    assert options(program, dataset(tmp_path)) == ["--engine", name]


def test_engines_have_aliases_and_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert options(engine("lr"), dataset(tmp_path)) == ["--engine", "logistic"]
    assert (engine("lr").name, engine("lr").label) == ("logistic", "logistic")
    program = engine("npssm:models/my one")
    assert options(program, dataset(tmp_path)) == ["--engine", "npssm", "--model", f"{tmp_path}/models/my one"]
    assert (program.label, program.name) == ("npssm:models/my one", "npssm_models_my_one")
    assert options(engine("lr:m"), dataset(tmp_path)) == ["--engine", "logistic", "--model", f"{tmp_path}/m"]


@pytest.mark.parametrize("text", ["beagle", "", "LR", "npssm,knn", ":models"])
def test_engines_that_there_are_not_are_refused(text):
    told = "choose from npssm, clades, li-stephens, .*or ENGINE:MODEL"
    with pytest.raises(ConfigError, match=f"--engines {text}: {told}"):
        engine(text)


def test_an_engine_with_an_empty_model_is_refused():
    with pytest.raises(ConfigError):
        engine("npssm:")


def test_a_variant_is_a_label_and_options(tmp_path):
    program = variant("exact LS=--engine li-stephens --model 'my model' --seed=3")
    assert (program.label, program.name) == ("exact LS", "exact_LS")
    expected = ["--engine", "li-stephens", "--model", "my model", "--seed=3"]
    assert options(program, dataset(tmp_path, maps=(Path("plink"), Path("gmap")))) == ["--map", "plink", *expected]
    assert options(variant("as it is="), dataset(tmp_path)) == []
    assert (variant(" (a, b) = ").label, variant(" (a, b) = ").name) == ("(a, b)", "a_b")


def test_a_program_of_npimpute_tells_its_engine():
    assert [engine(text).engine for text in ("lr", "spin:model")] == ["logistic", "spin"]
    assert variant("a=--seed 3 --engine knn").engine == variant("a=--engine=knn --seed 3").engine == "knn"
    assert variant("a=--seed 3").engine == RunConfig.engine == "npssm"
    assert Program("a", "a", "", lambda *_: None).engine is None


@pytest.mark.parametrize("text", ["--engine knn", "", "label", "=--engine knn", "  =--engine knn"])
def test_a_variant_without_a_label_or_options_is_refused(text):
    with pytest.raises(ConfigError, match="--run .*: write LABEL=OPTIONS"):
        variant(text)


def test_a_variant_with_an_open_quote_is_refused():
    with pytest.raises(ConfigError, match="--run a=--model 'x: No closing quotation"):
        variant("a=--model 'x")


@pytest.mark.parametrize(
    "option", ["--ref", "--target", "--out", "--format", "--map", "--threads", "--region", "--overwrite"]
)
def test_what_the_benchmark_sets_a_variant_may_not(option):
    for text in (f"a={option} x", f"a=--engine knn {option}=x"):
        with pytest.raises(ConfigError, match=f"{option} is set by the benchmark"):
            variant(text)
    with pytest.raises(ConfigError, match="--map, --out is set"):
        variant("a=--out x --map y")


@pytest.mark.parametrize("label", ["+++", "..", ".", "\u03b1"])
def test_a_label_that_leaves_no_name_of_a_directory_is_refused(label):
    with pytest.raises(ConfigError, match="a label needs a letter"):
        variant(f"{label}=--engine knn")


def test_npimpute_warms_up_on_the_panel_s_first_200_kb(tmp_path):
    for last, end in ((900_000, 201_000), (90_000, 90_000)):
        data = dataset(tmp_path, contigs=[("chr20", 1000, last)])
        commands = engine("knn").commands(data, Path("out"), 2)
        start, (_, out) = commands.impute[:-2], commands.impute[-2:]
        assert commands.warm_up == [*start, "--region", f"chr20:1000-{end}", "--out", "out/warm_up.vcf.gz"]
        assert commands.prepare is None and str(commands.out) == out == "out/imputed.vcf.gz"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


BEAGLE_SAYS = "echo 'beagle.22Jul22.46e.jar (version 5.4)'; echo 'Copyright (C) 2014-2022'"
MINIMAC_SAYS = "echo 'minimac v4.1.2' >&2; exit 1"
IMPUTE_SAYS = "echo; echo 'IMPUTE5'; echo '  * Version : v1.2.0'"


def test_beagle_s_command(tmp_path):
    found = peer("beagle", str(executable(tmp_path / "my-beagle", BEAGLE_SAYS)))
    assert (found.name, found.label, found.version) == ("beagle", "Beagle 5.4", "Beagle 5.4 (22Jul22.46e)")
    assert not found.missing and not found.ours
    commands = found.commands(dataset(tmp_path), Path("out"), 2)
    expected = ["gt=chip.vcf.gz", "ref=panel.vcf.gz", "out=out/imputed", "gp=true", "nthreads=2"]
    assert commands == Commands(None, None, [str(tmp_path / "my-beagle"), *expected], Path("out/imputed.vcf.gz"))
    data = dataset(tmp_path, maps=(Path("plink"), Path("gmap")))
    assert found.commands(data, Path("out"), 2).impute[1:] == [*expected, "map=plink"]


def test_a_jar_is_run_by_java(tmp_path, monkeypatch):
    executable(tmp_path / "bin" / "java", BEAGLE_SAYS)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    Path("beagle.jar").write_text("")
    found = peer("beagle", "beagle.jar")
    assert found.label == "Beagle 5.4"
    assert found.commands(dataset(tmp_path), Path("out"), 2).impute[:3] == ["java", "-jar", f"{tmp_path}/beagle.jar"]


def test_minimac4_s_commands(tmp_path):
    program = executable(tmp_path / "minimac", MINIMAC_SAYS)
    found = peer("minimac4", str(program))
    assert (found.name, found.label, found.version) == ("minimac4", "Minimac4 4.1.2", "Minimac4 4.1.2")
    commands = found.commands(dataset(tmp_path, maps=(Path("plink"), Path("gmap"))), Path("out"), 3)
    assert commands.warm_up is None and commands.out == Path("out/imputed.vcf.gz")
    assert commands.prepare == ([str(program), "--compress-reference", "panel.vcf.gz"], Path("out/panel.msav"))
    expected = "out/panel.msav chip.vcf.gz -f GT,DS,GP -O vcf.gz -o out/imputed.vcf.gz -t 3"
    assert commands.impute == [str(program), *expected.split(), "-m", "plink"]
    assert found.commands(dataset(tmp_path), Path("out"), 3).impute == [str(program), *expected.split()]


def test_impute5_s_command(tmp_path):
    """Options as in IMPUTE5's manual; the program cannot be had without asking."""
    program = executable(tmp_path / "impute5_v1.2.0_static", IMPUTE_SAYS)
    found = peer("impute5", str(program))
    assert (found.name, found.label, found.version) == ("impute5", "IMPUTE5 1.2.0", "IMPUTE5 1.2.0")
    commands = found.commands(dataset(tmp_path, maps=(Path("plink"), Path("gmap"))), Path("out"), 3)
    expected = "--h panel.vcf.gz --g chip.vcf.gz --r chr20:1000-900000 --buffer-region chr20:1000-900000 --out-gp-field"
    expected += " --o out/imputed.vcf.gz --threads 3"
    impute = [str(program), *expected.split(), "--m", "gmap"]
    assert commands == Commands(None, None, impute, Path("out/imputed.vcf.gz"))
    assert found.commands(dataset(tmp_path), Path("out"), 3).impute == [str(program), *expected.split()]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_tells_no_version_goes_without(tmp_path, name):
    label = {"beagle": "Beagle", "minimac4": "Minimac4", "impute5": "IMPUTE5"}[name]
    (tmp_path / "no-program").write_text("data")
    for path in (executable(tmp_path / "program", "exit 1"), tmp_path / "no-program"):
        found = peer(name, str(path))
        assert found.label == found.version == label and not found.missing


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_found_where_they_are_installed_or_told_how_to_install(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = peer(name)
    assert found.missing.startswith("not installed; ") and name in found.missing and found.name == name
    executable(tmp_path / "bin" / name, "exit 0")
    found = peer(name)
    assert not found.missing
    assert found.commands(dataset(tmp_path), Path("out"), 1).impute[0] == str(tmp_path / "bin" / name)


def test_peers_that_are_unknown_or_not_where_they_are_said_to_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--peers minimac3: choose from beagle, minimac4, impute5, or none"):
        peer("minimac3")
    with pytest.raises(ConfigError, match="--program beagle=.*none: no such file"):
        peer("beagle", str(tmp_path / "none"))


def test_a_program_in_the_working_directory_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    executable(tmp_path / "mini", MINIMAC_SAYS)
    assert peer("minimac4", "mini").label == "Minimac4 4.1.2"


def test_a_peer_of_fakes_is_run_from_the_first_to_the_last_step(tmp_path):
    text = 'case $1 in --version) echo v4.1.6;; --compress-reference) echo "compressed $2";; *) cp $1 ${8};; esac'
    program = peer("minimac4", str(executable(tmp_path / "mini", text)))
    trials, data = Trials(tmp_path / "runs", 1, 1), [dataset(tmp_path)]
    trials.run([program], data)
    assert trials.failures() == [] and trials.finished(program, data)
    assert trials.output(program, data[0]).read_text() == "compressed panel.vcf.gz\n"


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("real")
    made = simulate(n_sites=150, n_panel=20, seed=5)
    panel, genetic_map = made.panel.save(folder / "panel.vcf.gz"), read_genetic_map(write_map(folder / "map.txt"))
    cast = Cast(panel, targets=frozenset(["P3", "P8"]))
    return make_dataset(folder / "data", cast, thinned(15_000, 1), genetic_map, None, 1)


@pytest.mark.parametrize(
    "name",
    ["npimpute", pytest.param("beagle", marks=needs("beagle")), pytest.param("minimac4", marks=needs("minimac4"))],
)
def test_the_programs_take_their_commands_and_write_what_is_compared(tmp_path, real, name):
    program = variant("ours=--engine li-stephens --ne 1500 --err 1e-4") if name == "npimpute" else peer(name)
    trials = Trials(tmp_path / "runs", 1, 1)
    trials.run([program], [real])
    assert trials.failures() == []
    assert name in ("npimpute", "beagle") or program.label != "Minimac4", "it says its version"
    rows = [row for row in read_rows(trials.output(program, real)) if ("20", *row.key) in real.truth.wanted]
    assert len(rows) > 60
    assert all({"GT", "DS", "GP"} <= row.fields.keys() and len(row.fields["DS"]) == 2 for row in rows)
    used = trials.usage(program, [real])
    assert used["seconds"] > 0.002 and used["peak_mb"] > 3 and used["cpu_seconds"] > 0
    assert (used["warm_up_seconds"] or 0) > 0 if name == "npimpute" else used["warm_up_seconds"] is None
    assert (used["prepare_seconds"] or 0) > 0 if name == "minimac4" else used["prepare_seconds"] is None
