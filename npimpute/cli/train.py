"""``npimpute train``."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import click

from ..config import NETWORKS
from .options import PATH, LazyGroup
from .training import run_options

_LAZY: dict[str, str] = {
    "dna": "A long-range model of DNA: pretrained on a genome, or fine-tuned on labels.",
    "msa": "A masked-language model of DNA alignments.",
}


@click.group("train", cls=LazyGroup, lazy=_LAZY, prefix="train_")
def command():
    """Train a network: of imputation, or one of those with a command of their own.

    With several GPUs: torchrun --nproc-per-node N -m npimpute train ...
    """


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
@click.option("--batch", type=int, help="Tables (npssm: sequences) of a draw.")
@click.option("--context", type=int, help="Panel haplotypes that the network sees at a time.")
@run_options
def _imputation(architecture, read, run, batch, context, **options):
    """Train on panels, or on simulated ones."""
    name = "model.haplotypes" if architecture == "npssm" else "model.context"
    short = {"loop.batch": batch, name: context}
    values = read({name: value for name, value in short.items() if value is not None})
    # Imported here: torch takes seconds, which a misspelt option need not wait for.
    from ..engine.model_files import default_model
    from ..train.run import train
    from ..train.settings import train_config

    if options["init"] == Path("default"):
        options["init"] = default_model()
    logging.getLogger("msprime").setLevel(logging.WARNING)
    run(train_config(architecture, values, **options), train)


_WHAT = {
    "npssm": "The default of 'run', which corrects Li-Stephens.",
    "npssm-paper": "NPSSM as published, which fills in tables of haplotypes.",
    "msa-transformer": "MSA Transformer, on the same tables.",
    "spin": "SPIN, on the same tables.",
}
for _name in NETWORKS:
    _options = list(reversed(_imputation.__click_params__))
    _help = f"{_WHAT[_name]} {_imputation.__doc__}"
    command.add_command(click.Command(_name, callback=partial(_imputation, _name), params=_options, help=_help))
