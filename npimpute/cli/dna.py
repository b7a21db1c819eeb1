"""``npimpute dna``."""

from __future__ import annotations

import click

from .options import DEVICE, PATH, THREADS, all_of, checked, cores, progress, set_up_log


@click.group("dna")
def command():
    """Embed sequence, or score variants, with a model that 'npimpute train dna' made."""


_options = all_of(
    click.option("--model", type=PATH, required=True, help="Directory of a model."),
    click.option("--fasta", type=PATH, required=True, help="The genome: FASTA (.fa, .fa.gz) or .2bit."),
    click.option(
        "--out", type=PATH, required=True, help="Output: .npz, .zarr, .parquet, .tsv or .tsv.gz, by its name."
    ),
    click.option(
        "--pool",
        type=int,
        default=1536,
        show_default=True,
        metavar="BP",
        help="Of variants: bases around one over which states are averaged.",
    ),
    click.option(
        "--chunk",
        type=int,
        metavar="TOKENS",
        help="caduceus, hawk: read windows in pieces of so many tokens, exactly, in little memory.",
    ),
    DEVICE,
    THREADS,
    click.option("--overwrite", is_flag=True, help="Replace an output that exists."),
)


@command.command("embed")
@_options
@click.option("--bed", type=PATH, help="Embed intervals: the mean state over each one's bases.")
@click.option("--vcf", type=PATH, help="Embed variants: the mean state around each one, with either allele.")
@click.option("--bin", type=int, metavar="BP", help="Embed whole contigs: the mean state of every so many bases.")
@click.option("--contig", "contigs", multiple=True, help="Of --bin: only this contig; repeatable.")
@click.option(
    "--length",
    type=int,
    metavar="BP",
    help="Bases of the window around a place.  [default: --vcf 12000; else the interval or contig itself]",
)
def embed(length, bed, vcf, bin, contigs, **options):
    """Embeddings of intervals, variants, or bins along contigs.

    \b
    npimpute dna embed --model DIR --fasta hg38.fa --bed peaks.bed --length 12000 --out peaks.npz
    npimpute dna embed --model DIR --fasta hg38.fa --contig chr20 --bin 128 --out chr20.zarr
    """
    length = 12_000 if length is None and vcf is not None else length
    config = _config(length, options, bed=bed, vcf=vcf, bin=bin, contigs=contigs)
    from ..dna.apply import embed as run

    with progress() as moved:
        run(config, moved)


@command.command("score")
@_options
@click.option("--vcf", type=PATH, required=True, help="Variants: VCF, plain or compressed, or BCF.")
@click.option("--length", type=int, default=12_000, show_default=True, metavar="BP", help="Bases of the window.")
@click.option("--llr-only", is_flag=True, help="Leave the distances of embeddings out: a third of the time.")
def score(length, llr_only, **options):
    """Scores of variants: log-likelihood ratio of the alleles, and how far they move the embedding.

    \b
    npimpute dna score --model DIR --fasta hg38.fa --vcf variants.vcf.gz --out scores.tsv
    """
    config = _config(length, options)
    from ..dna.apply import score as run

    with progress() as moved:
        run(config, not llr_only, moved)


def _config(length, options, **places):
    set_up_log()
    threads = checked(cores(options.pop("threads")))
    # Imported here: torch takes seconds, which a misspelt option need not wait for.
    from ..dna.apply import ApplyConfig, ReadConfig

    read = ReadConfig(length, options.pop("pool"), options.pop("chunk"))
    return ApplyConfig(read=read, threads=threads, **options, **places)
