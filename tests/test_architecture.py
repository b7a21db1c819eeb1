"""The lines that the house is built on: who imports whom, what is loaded when, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import npimpute

ROOT = Path(npimpute.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Data flows from left to right; a room imports from rooms to its left and from the basement.
ROOMS = ["vcf", "panel", "phasing", "context", "engine", "dosage", "summary", "resuming", "pipeline", "train"]
ROOMS += ["dna", "msa", "benchmark", "cli", "__main__"]
BASEMENT = ["__init__", "types", "errors", "config", "contigs", "outputs", "scan", "layers"]
COMMANDS = ["benchmark", "concordance", "dna", "doctor", "merge", "msa", "panel", "phase", "run", "train", "vep"]
# Files of the command line that are no subcommand of npimpute's own, but of these.
GROUPS = ("train_", "benchmark_")
NEEDS_TORCH = ["scan", "layers"]
HEAVY = {"numba", "llvmlite", "cyvcf2", "pysam", "torch", "msprime", "matplotlib", "safetensors", "scipy"}
HEAVY |= {"zarr", "pyarrow", "openpyxl", "py2bit"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Full dotted names that a file imports, anywhere or on top level, relative ones resolved."""
    package = ("npimpute", *path.relative_to(ROOT).parts[:-1])
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*base, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    """Rooms of npimpute that a file imports from; a name such as ``npimpute.__version__`` is none."""
    second = {name.split(".")[1] for name in imported(path) if name.startswith("npimpute.")}
    return {name for name in second if (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_are_found():
    assert {"vcf", "panel", "context", "engine", "dosage", "config", "errors"} <= rooms_imported(ROOT / "pipeline.py")
    assert {"errors", "types", "vcf"} <= rooms_imported(ROOT / "vcf" / "write.py") <= {"vcf", *BASEMENT}
    assert "click" in imported(ROOT / "cli" / "run.py")


@pytest.mark.parametrize("path", FILES, ids=short)
def test_a_room_imports_from_its_left_only(path):
    here = room(path)
    assert here in ROOMS + BASEMENT, "give the new room its place in ROOMS"
    allowed = BASEMENT if here in BASEMENT else BASEMENT + ROOMS[: ROOMS.index(here) + 1]
    assert rooms_imported(path) <= set(allowed)


@pytest.mark.parametrize("path", FILES, ids=short)
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "cli"], ids=short)
def test_only_the_command_line_knows_click_prints_and_exits(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"click", "tqdm"}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    called = {ast.unparse(function) for function in calls}
    assert not called & {"print", "exit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_one_file_knows_the_cuda_packages(path):
    known = {name.split(".")[0] for name in imported(path)} & {"mamba_ssm", "causal_conv1d", "triton"}
    assert bool(known) == (path == ROOT / "scan" / "gpu.py")


LIGHT = [path for path in FILES if room(path) in {"cli", *BASEMENT} - set(NEEDS_TORCH)]


@pytest.mark.parametrize("path", LIGHT, ids=short)
def test_nothing_heavy_is_imported_at_the_top_of_what_help_loads(path):
    top = {name.split(".")[0] for name in imported(path, top_level_only=True)}
    assert not top & (HEAVY | {"numpy"} - ({"numpy"} if path.name == "types.py" else set()))


def loaded_by(*words: str) -> tuple[str, set[str]]:
    """What the command prints, and the packages that it has loaded when it is done."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr))\n"
        f"sys.argv = ['npimpute', *{words!r}]\n"
        "from npimpute.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["benchmark", "imputation", "--help"]],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(words):
    printed, packages = loaded_by(*words)
    assert "npimpute" in printed
    assert "click" in packages
    assert not packages & (HEAVY | {"numpy"})


def test_help_names_every_command_and_every_option():
    printed, _ = loaded_by("--help")
    others = ("__init__", "kernels", "main", "options", "training")
    commands = [path.stem for path in (ROOT / "cli").glob("*.py") if path.stem not in others]
    commands = [name for name in commands if not name.startswith(GROUPS)]
    assert sorted(commands) == COMMANDS
    assert all(f"  {name} " in printed for name in commands)
    printed, _ = loaded_by("run", "--help")
    for option in ("--ref", "--target", "--out", "--map", "--region", "--min-r2", "--sample-quality", "--overwrite"):
        assert option in printed
