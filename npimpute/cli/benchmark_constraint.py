"""``npimpute benchmark constraint``."""

from __future__ import annotations

import click

from .benchmark import Words
from .benchmark_vep import ranked
from .options import DEVICE, PATH, SEED, THREADS, cores, set_up_log


@click.command("constraint")
@click.option("--msa", type=PATH, required=True, help="Store of alignments that 'npimpute msa build' made.")
@click.option(
    "--model", "models", multiple=True, required=True, help="As of 'npimpute vep'; may be given several times."
)
@click.option("--features", multiple=True, type=PATH, required=True, help="GFF or BED file (.gz) of named stretches.")
@click.option("--positive-features", type=Words(), required=True, metavar="LIST", help="Under constraint: phastCons.")
@click.option("--negative-features", type=Words(), required=True, metavar="LIST", help="Under none: AR, old repeats.")
@click.option("--hold-out", multiple=True, metavar="REGION|BED", help="Judge only here: what training held out.")
@click.option("--positions", type=int, default=0, help="Score so many of each kind at most, evenly spaced.")
@click.option("--batch", type=int, default=64, show_default=True, help="Windows that a model sees at a time.")
@DEVICE
@THREADS
@click.option("--no-reverse-complement", "one_strand", is_flag=True, help="Models read the forward strand only.")
@click.option("--bootstrap", type=int, default=200, show_default=True, help="Samples of elements, for intervals.")
@SEED
@click.option("--out", type=PATH, required=True, help="New directory for the report.")
def command(one_strand, threads, **options):
    """Whether models tell constrained positions from others: AUROC by position and by element.

    \b
    npimpute benchmark constraint --msa ENr334.msa --model column-frequency --model models/msa
        --features genes.gff --positive-features phastCons --negative-features AR --out DIR
    """
    set_up_log()
    # Imported here: numpy and torch take a while to load.
    from ..benchmark.constraint import ConstraintConfig, benchmark

    ranked(ConstraintConfig(**options, threads=cores(threads), both_strands=not one_strand), benchmark)
