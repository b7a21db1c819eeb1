"""Damaged input of every kind is used or refused in one line: no traceback, no crash of htslib, no endless loop.

NPIMPUTE_FUZZ=N makes N damaged files instead of a few hundred, NPIMPUTE_FUZZ_SEED=S begins with number S: what a
failure names is made again by NPIMPUTE_FUZZ=1 NPIMPUTE_FUZZ_SEED=S.
"""

import gzip
import os
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import ALL, impute, simulate, write_map
from test_haploid import draw

from npimpute.benchmark.arrays import read_array
from npimpute.benchmark.genotypes import GenotypeFile, keys_of
from npimpute.config import PhaseConfig, RunConfig
from npimpute.dosage.merge import merge
from npimpute.errors import NpimputeError
from npimpute.panel.panel import compile_panel, open_panel
from npimpute.pipeline import phase, run
from npimpute.vcf.bgzf import BLOCK, DEFAULT_LEVEL, EOF_BLOCK, compress_block

CASES = int(os.environ.get("NPIMPUTE_FUZZ", 300))
FIRST = int(os.environ.get("NPIMPUTE_FUZZ_SEED", 0))
SECONDS, MEMORY = 30, 8 << 30  # of one file, of all
KINDS = (".vcf", ".vcf.gz", ".bcf")
NUMBERS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0")
WORDS = (b"\t", b"\n", b"|", b"/", b".", b"0", b"9", b",", b":", b"\r\n", b"-")


@dataclass
class Data:
    """Sound files of one contig. ref, chip, map: what ``impute`` takes; imputed: what comes out."""

    ref: Path
    chip: Path
    map: Path
    imputed: Path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(Data, the names of its files that are damaged) of an autosome, and of X, where males are haploid."""
    made = []
    for contig in ("20", "X"):
        folder = tmp_path_factory.mktemp(contig)
        if contig == "20":
            drawn = simulate(n_sites=60, n_panel=8, n_target=4)
            panel, target = drawn.panel, drawn.target
        else:
            drawn = draw(n_panel=6, n_targets=4)
            panel, target = drawn.vcf(drawn.panel), drawn.chip()
        calls = [replace(r, calls=tuple(call.replace("|", "/") for call in r.calls)) for r in target.records]
        unphased = replace(target, records=calls)
        for kind in KINDS:
            panel.save(folder / f"panel{kind}", index=False)
            target.save(folder / f"target{kind}", index=False)
            unphased.save(folder / f"target.unphased{kind}", index=False)
        compile_panel(open_panel(folder / "panel.vcf"), folder / "panel.npp")
        data = Data(folder / "panel.npp", folder / "target.bcf", write_map(folder / "map.txt", (contig,)), folder)
        data.imputed = impute(data, folder / "imputed.vcf.gz", formats=ALL)
        (folder / "array.txt").write_text("".join(f"{r.contig}\t{r.pos}\n" for r in target.records))
        made.append((data, sorted(path.name for path in folder.iterdir() if not path.name.endswith(".tbi"))))
    return made


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced, removed, added or repeated, or the end cut off; of half the packed files, what is packed."""
    packed = data[:2] == b"\x1f\x8b" and rng.random() < 0.5
    out = bytearray(gzip.decompress(data) if packed else data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        i, how = rng.randrange(len(out)), rng.randrange(7)
        if how == 0:
            out[i] = rng.randrange(256)
        elif how == 1:
            del out[i : i + rng.choice([1, 2, 10, 100])]
        elif how == 2:
            out[i:i] = rng.randbytes(rng.choice([1, 2, 10]))
        elif how == 3:
            del out[i:]
        elif how == 4:
            j = rng.randrange(len(out))
            out[i:i] = out[j : j + rng.choice([5, 50, 500])]
        elif how == 5:
            out[i : i + 1] = rng.choice(WORDS)
        else:
            out[i : i + 4] = rng.choice(NUMBERS)
        out = out or bytearray(b"x")
    if not packed:
        return bytes(out)
    blocks = (compress_block(bytes(out[i : i + BLOCK]), DEFAULT_LEVEL) for i in range(0, len(out), BLOCK))
    return b"".join(blocks) + EOF_BLOCK


def uses(what: str, path: Path, data: Data, out: Path, rng: random.Random) -> list[Callable[[], object]]:
    """What can be done with such a file."""
    if what == "array":
        return [lambda: read_array(path)]

    def read_genotypes():
        file = GenotypeFile(path)
        keys = {key: i for i, key in enumerate(dict.fromkeys(keys_of(path)))}
        return list(file.copies(file.samples)), list(file.imputed(file.samples, keys))

    if what == "imputed":
        files = [path, data.imputed] if rng.random() < 0.5 else [path]
        return [read_genotypes, lambda: merge(files, out)]
    files = {"ref": data.ref, "target": data.chip, "map": data.map}
    files |= {{"panel": "ref", "target": "target", "map": "map"}[what]: path}
    options = {"engine": "li-stephens", "ne": 1500.0, "err": 1e-4, "threads": rng.choice([1, 2])}
    options |= {"all_typed_sites": rng.random() < 0.5, "fix_strand": rng.random() < 0.5}
    phased = PhaseConfig(**files, out=out.with_name("phased.bcf"), fix_strand=options["fix_strand"])
    imputation = [lambda: run(RunConfig(**files, out=out, **options)), lambda: phase(phased)]
    return [read_genotypes, *imputation] if what == "target" else imputation


def tried(use: Callable[[], object], folder: Path) -> str:
    """ "used" or "refused", or what went wrong; "refused" must leave the folder as it was."""
    before = set(folder.iterdir())
    try:
        use()
        return "used"
    except NpimputeError as error:
        left = [path.name for path in set(folder.iterdir()) - before]
        if left:
            return f"refused, but left {left}: {error}"
        return "refused" if "\n" not in str(error) else f"more than one line: {error!r}"
    except Exception:
        return traceback.format_exc()


def try_files(seeds: range, sound, folder: Path, tell: Callable[[str], None]) -> None:
    """Tells the number and the name of each damaged file, then what came of it. Files that did harm are left."""
    for seed in seeds:
        rng = random.Random(seed)
        data, names = rng.choice(sound)
        name = rng.choice(names)
        path, out = folder / f"{seed}.{name}", folder / f"{seed}.out"
        out.mkdir()
        path.write_bytes(damaged((data.ref.parent / name).read_bytes(), rng))
        tell(f"{seed} ({path}): ")
        signal.alarm(SECONDS)
        told = [tried(use, out) for use in uses(name.partition(".")[0], path, data, out / "out.vcf.gz", rng)]
        signal.alarm(0)
        shutil.rmtree(out)
        if set(told) <= {"used", "refused"}:
            path.unlink()
        tell(f"{', '.join(told)}\0")


def in_a_child(seeds: range, sound, folder: Path) -> tuple[str, int]:
    """All that ``try_files`` told in a process of its own, and its exit status."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 3.12, that other threads are running: they do nothing
        child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # htslib complains
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            warnings.simplefilter("error", RuntimeWarning)
            try_files(seeds, sound, folder, lambda text: os.write(writer, text.encode()))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        told = file.read()
    return told, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_damaged_files_are_used_or_refused(sound, tmp_path):
    """A child is begun anew after a file that ends it."""
    seeds, found, wrong = range(FIRST, FIRST + CASES), Counter(), []
    while seeds:
        told, status = in_a_child(seeds, sound, tmp_path)
        *done, last = told.split("\0")
        for line in done:
            answers = line.partition("): ")[2].split(", ")
            found.update(answers if set(answers) <= {"used", "refused"} else ())
            wrong += [] if set(answers) <= {"used", "refused"} else [line]
        if last or status or len(done) < len(seeds):
            wrong.append(f"{last or 'between two files'}ended with {status}")
        seeds = seeds[len(done) + 1 :] if last else seeds[max(len(done), 1) :]
    assert not wrong, "\n".join([f"{len(wrong)} of {CASES} failed", *wrong])
    assert CASES < 100 or (found["used"] > 0.05 * CASES and found["refused"] > 0.3 * CASES), found
