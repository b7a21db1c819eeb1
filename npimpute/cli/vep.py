"""``npimpute vep``."""

from __future__ import annotations

import click

from .options import DEVICE, PATH, THREADS, cores, set_up_log


@click.command("vep")
@click.option(
    "--model", required=True, help="Directory that 'npimpute train msa' made, or column-frequency, or phylop-style."
)
@click.option("--msa", type=PATH, required=True, help="Store of alignments that 'npimpute msa build' made.")
@click.option(
    "--variants",
    type=PATH,
    required=True,
    help="VCF, BCF, or a table (TSV, CSV, parquet, XLSX) of chrom, pos, ref, alt.",
)
@click.option(
    "--out", type=PATH, required=True, help="The same rows, scored: .tsv, .csv, .vcf (.gz), .bcf or .parquet."
)
@click.option("--batch", type=int, default=64, show_default=True, help="Windows that the model sees at a time.")
@DEVICE
@THREADS
@click.option(
    "--no-reverse-complement", "one_strand", is_flag=True, help="Read the forward strand only: half the time."
)
@click.option("--prefix", default="", metavar="TEXT", help="Before the names of the new columns llr, score and status.")
@click.option("--sheet", metavar="NAME", help="Of an XLSX file.  [default: the first]")
@click.option("--header-row", type=int, default=1, show_default=True, help="Row of a table that names its columns.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
def command(one_strand, threads, **options):
    """Score variants: how much less likely ALT is than REF in its alignment.

    \b
    npimpute vep --model models/msa --msa hg38.msa --variants variants.vcf.gz --out scored.tsv.gz
    """
    set_up_log()
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    # Imported here: numpy and zarr take a while to load.
    from ..msa.vep import VepConfig, run

    config = VepConfig(**options, threads=cores(threads), both_strands=not one_strand)
    with logging_redirect_tqdm(), tqdm(unit=" rows", leave=False, disable=None) as bar:
        statuses = run(config, lambda rows: bar.update(rows - bar.n))
    for status, count in statuses.most_common():
        click.echo(f"{status}\t{count}", err=True)
