"""What all ``npimpute train`` commands share: options of a run, its settings, the log and the bar."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from ..errors import ConfigError, InputError
from .options import DEVICE, PATH, THREADS, all_of, checked, cores, set_up_log

# Options that are short for settings of the loop.
_LOOP = ("steps", "accumulate", "lr", "precision", "seed")
_OPTIONS = all_of(
    click.option("--config", "config_file", type=PATH, help="Settings, TOML with tables model, data, loop ..."),
    click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="One setting, such as loop.warmup=50."),
    click.option("--show-settings", is_flag=True, help="Print all settings as they would be used, and stop."),
    click.option("--steps", type=int, help="Short for --set loop.steps=..."),
    click.option("--accumulate", type=int, help="Draws a step, over all processes."),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="bfloat16: mixed precision."),
    click.option("--seed", type=int, help="Of weights, data and validation."),
    click.option("--minutes", type=float, default=math.inf, help="Stop after so long; --resume goes on."),
    click.option("--resume", is_flag=True, help="Go on with the run in --out; its settings must be the same."),
    DEVICE,
    THREADS,
)


def run_options(function: Callable) -> Callable:
    """A command with the options of a run: ``function(*args, read, run, **options)`` gets only its own.

    read(named) gives the tables of settings, ``named`` being those that its options are short for; run(config, train)
    trains, or prints the settings.
    """

    @functools.wraps(function)
    def command(*args, config_file, pairs, show_settings, minutes, resume, device, threads, **options):
        loop = {f"loop.{name}": value for name in _LOOP if (value := options.pop(name)) is not None}

        def run(config, train: Callable) -> None:
            if show_settings:
                click.echo(json.dumps(config.settings(), indent=2))
                return
            with _told(config.out, config.loop.steps) as progress:
                progress.done = train(config, device, checked(cores(threads)), minutes, resume, progress)

        return function(*args, read=lambda named: settings(config_file, pairs, loop | named), run=run, **options)

    return _OPTIONS(command)


class _Progress:
    """Moves a bar of training steps. done: whether the run came to its end, to be set by who runs it."""

    def __init__(self, bar):
        self._bar, self.done = bar, False

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix(loss=f"{metrics['loss']:.4f}", refresh=False)


@contextlib.contextmanager
def _told(out: Path, steps: int) -> Iterator[_Progress]:
    """The log and a bar of a training run; says at its end whether it can go on. Only the first process talks."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    quiet = os.environ.get("RANK", "0") != "0"
    set_up_log(logging.WARNING if quiet else logging.INFO)
    with logging_redirect_tqdm(), tqdm(total=steps, unit="step", disable=True if quiet else None) as bar:
        yield (progress := _Progress(bar))
    logging.getLogger("npimpute").info("%s: %s", out, "trained" if progress.done else "time is over; --resume goes on")


def settings(config_file: Path | None, pairs: tuple[str, ...], named: dict) -> dict:
    """Tables of settings: the file's, then --set's, then the options'."""
    values = {}
    if config_file is not None:
        try:
            values = tomllib.loads(config_file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{config_file}: cannot be read ({error})") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{config_file}: not TOML ({error})") from error
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: write NAME=VALUE, such as objective.mask=rows")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        _put(values, name, value)
    for name, value in named.items():
        _put(values, name, value)
    return values


def _put(values: dict, name: str, value) -> None:
    *tables, last = name.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {name}: {table} is a setting, not a table of settings")
    values[last] = value
