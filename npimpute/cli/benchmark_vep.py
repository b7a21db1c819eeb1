"""``npimpute benchmark vep``."""

from __future__ import annotations

import click

from .benchmark import Words
from .options import DEVICE, PATH, SEED, THREADS, cores, progress, set_up_log


@click.command("vep")
@click.option("--table", type=PATH, required=True, help="Labelled variants: TSV, CSV (.gz), parquet or XLSX.")
@click.option("--label", required=True, metavar="COLUMN", help="Column that tells positives from negatives.")
@click.option("--positive", type=Words(), required=True, metavar="LIST", help="Its values that are positives: LOF.")
@click.option("--negative", type=Words(), required=True, metavar="LIST", help="Its values that are negatives: FUNC.")
@click.option("--score", "scores", multiple=True, metavar="COLUMN", help="Judge this column; high is positive.")
@click.option("--lower", multiple=True, metavar="COLUMN", help="Judge this column; low is positive, as for llr.")
@click.option("--model", "models", multiple=True, help="Run and judge this, as 'npimpute vep' does.")
@click.option("--msa", type=PATH, help="Store of alignments, for --model.")
@click.option("--by", metavar="COLUMN", help="Also by the values of this column, such as the consequence.")
@click.option("--sheet", metavar="NAME", help="Of an XLSX file.  [default: the first]")
@click.option("--header-row", type=int, default=1, show_default=True, help="Row of the table that names its columns.")
@click.option("--batch", type=int, default=64, show_default=True, help="Windows that a model sees at a time.")
@DEVICE
@THREADS
@click.option("--no-reverse-complement", "one_strand", is_flag=True, help="Models read the forward strand only.")
@click.option("--bootstrap", type=int, default=200, show_default=True, help="Samples of rows, for intervals.")
@SEED
@click.option("--out", type=PATH, required=True, help="New directory for the report.")
def command(one_strand, threads, **options):
    """How well scores of variants tell labels apart: AUROC and AUPRC, side by side.

    \b
    npimpute benchmark vep --table brca1.xlsx --header-row 3 --label func.class --positive LOF --negative FUNC
        --score CADD.score --model models/msa --msa hg19.msa --by consequence --out DIR
    """
    set_up_log()
    # Imported here: numpy and torch take a while to load.
    from ..benchmark.vep import VepBenchmarkConfig, benchmark

    ranked(VepBenchmarkConfig(**options, threads=cores(threads), both_strands=not one_strand), benchmark)


def ranked(config, benchmark) -> None:
    """Runs a comparison of scores, prints it and writes its report."""
    from ..benchmark.ranking_report import check_out, report_text, write_report

    check_out(config.out)
    with progress() as bar:
        results = benchmark(config, bar)
    click.echo(report_text(results))
    click.echo("\nwritten: " + " ".join(map(str, write_report(results, config.out))), err=True)
