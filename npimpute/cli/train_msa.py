"""``npimpute train msa``."""

from __future__ import annotations

import click

from .options import PATH
from .training import run_options


@click.command("msa")
@click.option(
    "--out", type=PATH, required=True, help="Directory for the model, the metrics and the state to resume from."
)
@click.option("--msa", type=PATH, help="Alignment to train on, which 'npimpute msa build' made.")
@click.option("--architecture", type=click.Choice(["msamamba", "axial"]), help="The network.  [default: msamamba]")
@click.option("--length", type=int, help="Columns of a window.  [default: 512]")
@click.option(
    "--hold-out",
    multiple=True,
    metavar="REGION|BED",
    help="CHR[:START-END], or a BED file of stretches: not trained on, but validated on. May be repeated.",
)
@click.option(
    "--sparsity", type=float, help="Share of auxiliary rows that skip the scan in a step.  [default: 0.5; axial: 0]"
)
@click.option(
    "--finetune",
    type=PATH,
    metavar="FOLDER",
    help="Train a classifier: train/CLASS and test/CLASS, FASTA files or .csv of intervals of --fasta or --msa.",
)
@click.option("--fasta", type=PATH, help="Genome of --finetune's intervals.")
@click.option("--init", type=PATH, help="Start from the weights of this model, with its architecture and species.")
@click.option(
    "--recompute", is_flag=True, help="Keep less for the backward pass and compute it again: less memory, slower steps."
)
@click.option("--bases", type=int, default=49_152, show_default=True, help="Columns of all windows of a step.")
@run_options
def command(read, run, architecture, length, sparsity, **options):
    """A masked-language model of DNA alignments: MSAMamba, or axial attention; or a classifier made of one.

    \b
    npimpute train msa --msa chr6.msa --hold-out chr6:41,420,000-41,428,000 --length 512 --out model
    npimpute train msa --init model --finetune human_enhancers_cohn --fasta hg38.fa.gz --out classifier
    """
    short = {"model.architecture": architecture, "model.length": length, "data.sparsity": sparsity}
    values = read({name: value for name, value in short.items() if value is not None})
    # Imported here: torch takes seconds, which a misspelt option need not wait for.
    from ..msa.training import train, train_config

    run(train_config(values, **options), train)
