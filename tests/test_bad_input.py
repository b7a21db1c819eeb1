"""What a user gets wrong, through the real command: status 2, one line that says what and what to do, nothing left."""

import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import expect_refusal, simulate, write_map

from npimpute.config import RunConfig
from npimpute.panel.panel import compile_panel, open_panel
from npimpute.pipeline import run

CASES = []


class Setup:
    """A sound run, which a case spoils: ``panel`` and ``target`` before they are written, or an option.

    options: --name -> value; None leaves it out, True is a flag. ref, chip: where the files are written.
    """

    def __init__(self, folder: Path):
        made = simulate(n_sites=80, n_panel=8, n_target=3, seed=7)
        self.folder, self.panel, self.target = folder, made.panel, made.target
        self.ref, self.chip = folder / "panel.vcf.gz", folder / "chip.vcf.gz"
        self.options = {"ref": self.ref, "target": self.chip, "map": write_map(folder / "map.txt")}
        self.options |= {"out": folder / "out.vcf.gz", "threads": 2}

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def command(self) -> list[str]:
        """Writes what is not there yet; the command's words."""
        for path, vcf in ((self.ref, self.panel), (self.chip, self.target)):
            if not path.exists():
                vcf.save(path)
        words = ["run"]
        for name, value in self.options.items():
            words += [] if value is None else [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


def bad(*expected, **parameter):
    """Registers a case: ``expected`` are parts of the message. parameter: a name and values, one case each."""

    def register(spoil):
        for name, values in parameter.items() or [(None, [None])]:
            for value in values:
                call = spoil if name is None else partial(spoil, **{name: value})
                words = [word.format(value) for word in expected]
                CASES.append(pytest.param(call, words, id=spoil.__name__ + (f"-{value}" if name else "")))
        return spoil

    return register


def refused(setup, *expected, **options):
    expect_refusal(setup.folder, setup.command(), *expected, **options)


def which(s, name):
    return {"panel": s.panel, "chip": s.target}[name]


@bad("chip.vcf.gz", "no target site is in the panel", "panel.vcf.gz", "7 (", "20", "genome build")
def other_contig(s):
    s.target = s.target.renamed({"20": "7"})


@bad("chip.vcf.gz", "no target site is in the panel", "position not", "genome build")
def other_build(s):
    ours = [r for r in s.target.records if not r.name.startswith("own")]
    s.target.records = [replace(r, pos=r.pos + 1) for r in ours]


@bad("chip.vcf.gz", "no target site is in the panel", "REF and ALT exchanged", "add --swap-alleles")
def all_exchanged(s):
    ours = [r for r in s.target.records if not r.name.startswith("own")]
    s.target.records = [replace(r, ref=r.alt, alt=r.ref) for r in ours]


@bad("{}.vcf.gz", "20:", "comes after", "bcftools sort", file=["panel", "chip"])
def unsorted(s, file):
    records = which(s, file).records
    records[5], records[9] = records[9], records[5]
    which(s, file).save(s.folder / f"{file}.vcf.gz", index=False)


@bad("{}.vcf.gz", "contig 20 comes again", "bcftools sort", file=["panel", "chip"])
def contig_in_two_parts(s, file):
    vcf = which(s, file)
    vcf.contigs["21"] = 1000
    vcf.records.insert(5, replace(vcf.records[0], contig="21", pos=7))
    vcf.save(s.folder / f"{file}.vcf.gz", index=False)


@bad("{}.vcf.gz", "a second record", "bcftools norm -d exact", file=["panel", "chip"])
def repeated_record(s, file):
    records = which(s, file).records
    records.insert(6, records[5])


@bad("no contig 33", "20", "--region", genetic_map=["given", "none"])
def unknown_contig(s, genetic_map):
    s.options["region"] = "33:1-1000"
    s.options["map"] = s.options["map"] if genetic_map == "given" else None


@bad("panel.vcf.gz", "no record in 20:4900000-4990000", "check --region")
def region_without_records(s):
    s.options["region"] = "20:4900000-4990000"


@bad("panel.vcf.gz", "no sample NOBODY", "list of samples", option=["samples", "exclude-samples"])
def unknown_sample(s, option):
    s.options[option] = s.file("list.txt", "P1\nNOBODY\n")


@bad("panel.vcf.gz", "no sample is left")
def no_sample_left(s):
    s.options["exclude-samples"] = s.file("list.txt", "\n".join(s.panel.samples))


@bad("list.txt", "one", content=["", "\n"])
def empty_list_of_samples(s, content):
    s.options["samples"] = s.file("list.txt", content)


MAPS = {
    "cM goes down": ("20 . 0.5 100\n20 . 0.4 200\n", "line 2", "0.5 to 0.4", "sort the map"),
    "bp goes down": ("20 . 0.5 200\n20 . 0.6 100\n", "line 2", "200 to 100", "sort the map"),
    "no map for contig '20'": ("7 . 0.5 100\n7 . 0.6 200\n", "has 7", "give a genetic map"),
    "empty": ("", "give a map"),
    "cannot tell the format": ("hello world\n", "give a map"),
    "damaged or truncated": ("\x1f\x8b\x08", "again"),
}


@pytest.mark.parametrize("fault", MAPS)
def test_map_refused(tmp_path, fault):
    setup = Setup(tmp_path)
    text, *expected = MAPS[fault]
    setup.file("map.txt", text.encode("latin-1"))
    refused(setup, "map.txt", fault, *expected)


@bad("absent-{}", option=["ref", "target", "map", "samples"])
def missing_file(s, option):
    s.options[option] = s.folder / f"absent-{option}"


@bad("sub", option=["ref", "target", "map", "samples"])
def directory_as_input(s, option):
    (s.folder / "sub").mkdir()
    s.options[option] = s.folder / "sub"


OUTPUTS = ["out", "sites-only", "sample-quality", "report", "log"]


@bad("there.vcf.gz", "exists already", "overwrite", option=OUTPUTS[:-1])
def output_exists(s, option):
    s.options[option] = s.file("there.vcf.gz", "precious")


@bad("nowhere", "does not exist", "create it", option=OUTPUTS)
def output_directory_missing(s, option):
    s.options[option] = s.folder / "nowhere" / "file.vcf.gz"


@bad("locked", "writ", option=OUTPUTS)
def unwritable_place(s, option):
    place = s.folder / "locked"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK):  # root may write anywhere but where the kernel has no way to
        place.rmdir()
        place.symlink_to("/proc/self")
    s.options[option] = place / "out.vcf.gz"


@bad("sub.vcf.gz", "is a directory", option=OUTPUTS)
def output_is_a_directory(s, option):
    s.options[option] = s.folder / "sub.vcf.gz"
    s.options[option].mkdir()
    s.options["overwrite"] = True


PAIRS = ["out=ref", "out=target", "sites-only=out", "sample-quality=out", "sample-quality=ref", "sample-quality=map"]


@bad(
    "name of its own",
    pair=[*PAIRS, "report=out", "report=target", "report=map", "log=ref", "log=target", "log=out"],
)
def two_options_one_file(s, pair):
    a, _, b = pair.partition("=")
    s.options[a] = s.options[b]
    s.options["overwrite"] = True


def compiled(s, spoil):
    s.command()
    compile_panel(open_panel(s.ref), s.folder / "panel.npp")
    s.options["ref"] = s.folder / "panel.npp"
    s.options["ref"].write_bytes(spoil(s.options["ref"].read_bytes()))


@bad("panel.npp", "damaged or incomplete", "compile it again", size=[9, 100, 5000, 9000])
def truncated_npp(s, size):
    compiled(s, lambda data: data[:size])


@bad("panel.npp", "{}", change=["damaged or incomplete", "not a compiled panel", "format version 9"])
def changed_npp(s, change):
    was, now = {
        "damaged or incomplete": (b'"dtype": "U8"', b'"dtype": "XX"'),
        "not a compiled panel": (b"npimpute-panel", b"somebodys-else"),
        "format version 9": (b'"version": "1"', b'"version": "9"'),
    }[change]
    compiled(s, lambda data: data.replace(was, now, 1))


DAMAGE = {
    "cut": (".vcf.gz", lambda data: data[: len(data) // 2], "truncated"),
    "without its last block": (".vcf.gz", lambda data: data[:-28], "truncated"),
    "zeros": (".vcf.gz", lambda data: data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :], "damaged"),
    "cut gzip": (".vcf.gz", lambda data: gzip.compress(gzip.decompress(data))[: len(data) // 2], "truncated"),
    "cut BCF": (".bcf", lambda data: data[:-300], "truncated"),
}


@pytest.mark.parametrize("file", ["panel", "chip"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file_refused(tmp_path, name, file):
    setup = Setup(tmp_path)
    suffix, spoil, expected = DAMAGE[name]
    path = which(setup, file).save(tmp_path / f"{file}{suffix}", index=False)
    setup.file(path.name, spoil(path.read_bytes()))
    setup.options["ref" if file == "panel" else "target"] = path
    refused(setup, path.name, expected, "again")


CALLS = {
    (".|.", "panel"): ("genotype .|. is missing", "fill it"),
    ("0|.", "panel"): ("genotype 0|. is missing", "fill it"),
    ("./.", "panel"): ("genotype ./. is missing", "fill it"),
    ("0/1", "panel"): ("genotype 0/1 is not phased", "phase the panel first"),
    ("0/0", "panel"): ("genotype 0/0 is not phased", "phase the panel first"),
    ("0|1|1", "panel"): ("genotype 0|1|1 is neither diploid nor haploid", "bcftools"),
    ("0|9", "panel"): ("beyond the record's ALT", "make it again"),
    ("0/1", "chip"): ("genotype 0/1 is not phased", "phase the file first", "ref=PANEL", "SHAPEIT"),
    ("0|1|1", "chip"): ("genotype 0|1|1 is neither diploid nor haploid", "bcftools"),
    ("0|9", "chip"): ("beyond the record's ALT", "make it again"),
}


@pytest.mark.parametrize("scope", ["one record", "all that follow"])
@pytest.mark.parametrize(("call", "file"), CALLS)
def test_genotype_refused(tmp_path, call, file, scope):
    setup = Setup(tmp_path)
    setup.options["phase"] = "never"
    vcf = which(setup, file)
    at, stop = 8, 9 if scope == "one record" else len(vcf.records)
    vcf.records[at:stop] = [record.with_call(1, call) for record in vcf.records[at:stop]]
    record, sample = vcf.records[at], vcf.samples[1]
    refused(setup, f"{file}.vcf.gz: 20:{record.pos}, sample {sample}: ", *CALLS[call, file])


def without_samples(text: str) -> str:
    return "\n".join("\t".join(line.split("\t")[:8]) for line in text.splitlines()) + "\n"


TEXTS = {
    "not a VCF": (lambda text: "sample,genotype\n1,0\n", "neither VCF nor BCF", "give a VCF"),
    "an image": (lambda text: "\x89PNG\r\n\x1a\n" * 9, "neither VCF nor BCF", "give a VCF"),
    "empty": (lambda text: "", "the file is empty", "again"),
    "no records": (lambda text: text[: text.index("\n20\t") + 1], "no records"),
    "no header": (lambda text: "##fileformat=VCFv4.2\n" + text[text.index("\n20\t") + 1 :], "#CHROM"),
    "no samples": (without_samples, "no samples"),
    "sample twice": (lambda text: text.replace("P1\t", "P0\t").replace("T1\t", "T0\t"), "comes twice", "rename"),
    "a column too few": (lambda text: text[:-5] + "\n", "again"),
    "position": (lambda text: text.replace("\n20\t", "\n20\tx", 1), "again"),
    "no GT": (lambda text: text.replace("\tGT\t", "\tDS\t"), "GT"),
}


@pytest.mark.parametrize("file", ["panel", "chip"])
@pytest.mark.parametrize("name", TEXTS)
def test_file_refused(tmp_path, name, file):
    setup = Setup(tmp_path)
    spoil, *expected = TEXTS[name]
    path = setup.file(f"{file}.vcf", spoil(which(setup, file).text()).encode("latin-1"))
    setup.options["ref" if file == "panel" else "target"] = path
    refused(setup, f"{file}.vcf", *expected)


OPTIONS = {
    "must end in .vcf.gz, .bcf or .vcf": ["out a.txt", "out a", "out a.vcf.bgz", "out .vcf.gz", "sites-only s.tsv"],
    "write chr20": ["region 20:x", "region 20:1-2-3", "region 20:10-5", "region ", "region :5"],
    "choose": ["format GT,XX", "format ", "format GT,GT", "format DS,", "format AP1"],
    "GT first": ["format DS,GT"],
    "between 0 and 1": ["min-r2 2", "min-r2 -0.1", "min-r2 nan"],
    "positive": ["ne -1", "ne 0", "ne nan", "ne inf"],
    "between 0 and 0.5": ["err -1", "err 0", "err 0.7", "err nan"],
    "at least one": ["threads 0", "threads -3"],
    "cM": ["window 0", "window -1", "window nan", "flank -1", "flank nan"],
}


@pytest.mark.parametrize(("words", "remedy"), [(words, remedy) for remedy in OPTIONS for words in OPTIONS[remedy]])
def test_option_refused(tmp_path, words, remedy):
    setup = Setup(tmp_path)
    option, value = words.split(" ")
    setup.options[option] = tmp_path / value if option in ("out", "sites-only") else value
    named = {"out": value, "sites-only": value, "format": "formats", "region": "region"}
    refused(setup, named.get(option, f"--{option} {value}".removesuffix(".0")), remedy)


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory):
    """The sound run is sound, and leaves the kernels loaded for all forks."""
    setup = Setup(tmp_path_factory.mktemp("sound"))
    setup.command()
    run(RunConfig(**setup.options, formats=("GT", "DS", "HDS", "GP", "AP")))
    assert setup.options["out"].stat().st_size > 5_000


@pytest.mark.parametrize(("spoil", "expected"), CASES)
def test_refused(tmp_path, spoil, expected):
    setup = Setup(tmp_path)
    spoil(setup)
    refused(setup, *expected)


# The output takes two pages of memory, so that the data do not fit, or not their index.
@pytest.mark.parametrize("size", ["4k", "8k"], ids=["data", "index"])
def test_no_space_left(tmp_path, size):
    setup = Setup(tmp_path)
    place = tmp_path / "full"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        for suffix in (".vcf.gz", ".bcf", ".vcf"):
            setup.options |= {"out": place / f"out{suffix}", "format": "GT,DS,HDS,GP,AP"}
            refused(setup, f"out{suffix}", "no space left", "free some or write elsewhere")
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("suffix", [".vcf.gz", ".bcf", ".vcf"])
@pytest.mark.parametrize("limit", [100, 5_000])
def test_a_file_that_may_not_grow(tmp_path, suffix, limit):
    setup = Setup(tmp_path)
    setup.options |= {"out": tmp_path / f"out{suffix}", "format": "GT,DS,HDS,GP,AP", "map": None}
    setup.command()
    refused(setup, f"out{suffix}", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_a_run_that_is_stopped_leaves_no_output(tmp_path, data, number):
    out = tmp_path / "out.vcf.gz"
    words = ["run", "--ref", data.ref, "--target", data.chip, "--map", data.map, "--out", out, "--window", 0.02]
    words += ["--flank", 8, "--sites-only", tmp_path / "sites.bcf"]
    command = [sys.executable, "-m", "npimpute", *map(str, words)]
    catch = (
        None if number == signal.SIGKILL else lambda: signal.signal(number, signal.SIG_DFL)
    )  # nohup pytest ignores it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=catch) as process:
        temporary = tmp_path / f".{process.pid}.out.vcf.gz"
        until = time.monotonic() + 30
        while not temporary.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert temporary.exists()
        time.sleep(0.3)
        process.send_signal(number)
        log = process.communicate(timeout=120)[1]  # kernels may be compiling, which ends first
    left = [path.name for path in tmp_path.iterdir()]
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert all(name.startswith(f".{process.pid}.") for name in left)
        return
    assert (process.returncode, left) == (128 + number, []), log
    errors = [line for line in log.split("\n") if line and not line.startswith(("I ", "W "))]
    word = "interrupted" if number == signal.SIGINT else "stopped"
    # Where kernels are being compiled, Python tells first of the callback that the signal ended.
    assert errors[-1:] == [f"npimpute: error: {word}; nothing was written"]
    assert len(errors) == 1 or errors[0].startswith("Exception ignored"), log


def test_a_signal_that_loading_a_module_hides_ends_the_run_all_the_same(tmp_path):
    (tmp_path / "hides.py").write_text(
        "import os, signal\nfrom npimpute.cli import main\n"
        "def cli(**options):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except BaseException:\n        raise ImportError('cannot import') from None\n"
        "main.cli = cli\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "hides.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "npimpute: error: stopped; nothing was written\n")


@pytest.mark.parametrize(
    "clean_up",
    ["time.sleep(1)", "try:\n            1 / 0\n        except ZeroDivisionError:\n            time.sleep(1)"],
)
def test_a_signal_that_code_called_from_c_swallows_is_raised_again_but_not_while_cleaning_up(tmp_path, clean_up):
    (tmp_path / "swallows.py").write_text(
        "import ctypes, os, signal, sys, time\nfrom npimpute.cli import main\n"
        "sys.unraisablehook = lambda hook: None\n"
        "call = ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "def cli(**options):\n    call()\n    print('swallowed', flush=True)\n    try:\n        time.sleep(20)\n"
        f"    finally:\n        {clean_up}\n        print('cleaned', flush=True)\n"
        "main.cli = cli\nmain.main()\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "swallows.py"], capture_output=True, text=True, check=False)
    told = (done.returncode, done.stdout, done.stderr)
    assert told == (143, "swallowed\ncleaned\n", "npimpute: error: stopped; nothing was written\n")


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path, data):
    words = ["run", "--ref", data.ref, "--target", data.chip, "--out", tmp_path / "out.vcf.gz"]
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from npimpute.cli import main as m; "
    code += "hup = lambda: signal.raise_signal(signal.SIGHUP); cli = m.cli; "
    code += "m.cli = lambda **o: (hup(), cli(**o)); m.main()"
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.vcf.gz").exists()
