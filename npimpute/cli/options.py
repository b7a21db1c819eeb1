"""Options that several subcommands have, and the log of those that report on stdout."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ..errors import ConfigError

PATH = click.Path(path_type=Path)


def all_of(*options: Callable) -> Callable[[Callable], Callable]:
    """One decorator of several options, in their order."""
    return lambda function: functools.reduce(lambda done, option: option(done), reversed(options), function)


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are used: --help must not wait for numba.

    lazy: what --help says of every one of them. NAME is ``command`` in the file NAME.py of this package, or
    PREFIX_NAME.py where ``prefix`` is given; a dash in NAME is _ in the file's.
    """

    def __init__(self, *args, lazy: dict[str, str], prefix: str = "", **options):
        super().__init__(*args, **options)
        self._lazy, self._prefix = lazy, prefix

    def list_commands(self, ctx):
        return [*self.commands, *self._lazy]

    def get_command(self, ctx, name):
        if name not in self._lazy:
            return super().get_command(ctx, name)
        return importlib.import_module(f".{self._prefix}{name.replace('-', '_')}", __package__).command

    def format_commands(self, ctx, formatter):
        known = {name: command.get_short_help_str(80) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(list((known | self._lazy).items()))


class Numbers(click.ParamType):
    """Numbers with commas between them, as a tuple. kind: int or float."""

    name = "numbers"

    def __init__(self, kind: type):
        self._kind = kind

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        try:
            return tuple(self._kind(word) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: numbers with commas between them", param, ctx)


POPULATIONS = click.option(
    "--populations", type=PATH, help="Also report by population: a table of sample and population."
)
MAF_BINS = click.option(
    "--maf-bins",
    type=Numbers(float),
    default="0,0.002,0.005,0.01,0.02,0.05,0.1,0.2,0.5",
    show_default=True,
    metavar="EDGES",
    help="Edges of bins of minor allele frequency.",
)
BOOTSTRAP = click.option(
    "--bootstrap", type=int, default=200, show_default=True, help="Bootstrap samples of people for intervals; 0: none."
)
DEVICE = click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where there is one]")
THREADS = click.option("--threads", type=int, help="Threads of the CPU.  [default: all cores]")
SEED = click.option("--seed", type=int, default=1, show_default=True, help="Of all that is drawn at random.")


def cores(threads: int | None) -> int:
    """``threads``, or all cores where it is None."""
    return len(os.sched_getaffinity(0)) if threads is None else threads


def checked(threads: int) -> int:
    """Raises ConfigError for less than one."""
    if threads < 1:
        raise ConfigError(f"--threads {threads}: at least one thread is needed")
    return threads


@contextlib.contextmanager
def progress() -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, and what moves it to a share done; the log goes above it."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    style = {"bar_format": "{l_bar}{bar}| {elapsed}<{remaining}", "leave": False, "disable": None}
    with logging_redirect_tqdm(), tqdm(total=100, **style) as bar:
        yield lambda share: bar.update(int(100 * share) - bar.n)


def set_up_log(level: int = logging.INFO) -> None:
    """The log to stderr, from ``level``."""
    logging.basicConfig(level=level, format="%(levelname).1s %(message)s", stream=sys.stderr, force=True)
