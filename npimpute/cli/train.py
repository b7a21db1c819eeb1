"""``npimpute train``."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tomllib
from pathlib import Path

import click

from ..config import NETWORKS
from ..errors import ConfigError, InputError

PATH = click.Path(path_type=Path)
# Options that are short for a setting.
SHORT = {"steps": "loop.steps", "batch": "loop.batch", "accumulate": "loop.accumulate", "lr": "loop.lr"}
SHORT |= {"seed": "loop.seed", "precision": "loop.precision", "context": "model.context"}


@click.command("train")
@click.argument("architecture", type=click.Choice(NETWORKS))
@click.option(
    "--out", type=PATH, required=True, help="Directory for the model, the metrics and the state to resume from."
)
@click.option("--panel", "panels", type=PATH, multiple=True, help="Train on this panel; may be given several times.")
@click.option(
    "--simulate", type=int, default=0, metavar="N", help="Train on N simulated panels (settings: simulation)."
)
@click.option("--map", type=PATH, help="Genetic map: of simulated panels and, for npssm, of all.")
@click.option("--validate", type=PATH, multiple=True, help="Validate on this panel, which is not trained on.")
@click.option(
    "--hold-out",
    type=int,
    default=50,
    show_default=True,
    help="People to leave out of every panel and impute for validation; 0 for none.",
)
@click.option("--hold-out-rows", type=int, default=2000, show_default=True, help="Sites of each panel to validate on.")
@click.option(
    "--init",
    type=PATH,
    help="Start from the weights of this model (a directory, or 'default' for the one that npimpute comes with), whose "
    "body this one has.",
)
@click.option("--config", "config_file", type=PATH, help="Settings, TOML with tables model, objective, data, loop ...")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="One setting, such as objective.mask=rows.")
@click.option("--show-settings", is_flag=True, help="Print all settings as they would be used, and stop.")
@click.option("--steps", type=int, help="Short for --set loop.steps=...")
@click.option("--batch", type=int, help="Tables (npssm: sequences) of a draw.")
@click.option("--accumulate", type=int, help="Draws a step, over all processes.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="bfloat16: mixed precision.")
@click.option("--context", type=int, help="Panel haplotypes that the network sees at a time.")
@click.option("--seed", type=int, help="Of weights, data and validation.")
@click.option("--minutes", type=float, default=math.inf, help="Stop after so long; --resume goes on.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; its settings must be the same.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where there is one]")
@click.option("--threads", type=int, help="Threads of the CPU.  [default: all cores]")
def command(architecture, config_file, pairs, show_settings, minutes, resume, device, threads, **options):
    """Train a network on panels or on simulated ones: npssm, which corrects Li-Stephens, or one that fills in tables.

    With several GPUs: torchrun --nproc-per-node N -m npimpute train ...
    """
    short = SHORT | ({"context": "model.haplotypes"} if architecture == "npssm" else {})
    named = {short[name]: value for name in short if (value := options.pop(name)) is not None}
    values = settings(config_file, pairs, named)
    # Imported here: torch takes seconds, which a misspelt option need not wait for.
    from ..engine.model_files import default_model
    from ..train.settings import train_config

    if options["init"] == Path("default"):
        options["init"] = default_model()
    config = train_config(architecture, values, **options)
    if show_settings:
        click.echo(json.dumps(config.settings(), indent=2))
        return
    _train(config, device, threads, minutes, resume, quiet=os.environ.get("RANK", "0") != "0")


def _train(config, device, threads, minutes, resume, quiet) -> None:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..train.run import train

    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(levelname).1s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("msprime").setLevel(logging.WARNING)
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if threads < 1:
        raise ConfigError(f"--threads {threads}: at least one thread is needed")
    with logging_redirect_tqdm(), tqdm(total=config.loop.steps, unit="step", disable=True if quiet else None) as bar:

        def progress(step, metrics):
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{metrics['loss']:.4f}", refresh=False)

        done = train(config, device, threads, minutes, resume, progress)
    logging.getLogger("npimpute").info("%s: %s", config.out, "trained" if done else "time is over; --resume goes on")


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
