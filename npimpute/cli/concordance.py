"""``npimpute concordance``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import BOOTSTRAP, MAF_BINS, PATH, POPULATIONS, SEED, cores, set_up_log


@click.command("concordance")
@click.option("--truth", type=PATH, required=True, help="True genotypes, phased or not: VCF, VCF.gz or BCF.")
@click.option("--imputed", type=PATH, required=True, help="Imputed genotypes, of any program: VCF, VCF.gz or BCF.")
@click.option("--panel", type=PATH, help="Bin by the allele frequencies of this panel: VCF, BCF or .npp.")
@click.option("--frequencies", type=PATH, help="Bin by those in INFO of this VCF or BCF.  [default: the truth's own]")
@click.option("--af-tag", default="AF", show_default=True, help="Which INFO of --frequencies is that of ALT.")
@click.option("--array", type=PATH, help="Leave out these typed sites: contig and position by line, .bed, .bim or VCF.")
@click.option("--region", metavar="CHR[:START-END]", help="Compare these positions only.")
@click.option("--samples", type=PATH, help="Compare these people only (file, one a line).")
@POPULATIONS
@MAF_BINS
@BOOTSTRAP
@SEED
@click.option("--threads", type=int, help="Threads that inflate files.  [default: all cores]")
@click.option(
    "--out", type=PATH, help="Also write PREFIX.json, PREFIX.tsv and, as GLIMPSE2_concordance does, PREFIX.*.txt.gz."
)
@click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
def command(out, overwrite, threads, **options):
    """How good imputed genotypes are: any imputed file against the truth.

    \b
    npimpute concordance --truth truth.vcf.gz --imputed imputed.vcf.gz --panel panel.vcf.gz --out report
    """
    set_up_log()
    # Imported here: numpy and cyvcf2 take a while to load.
    from ..benchmark.concordance import ConcordanceConfig, concordance
    from ..benchmark.glimpse import FILES, write_glimpse
    from ..benchmark.report import imputation_tables, imputation_text, write_tsv
    from ..benchmark.trials import write_json
    from ..outputs import check_place

    config = ConcordanceConfig(**options, threads=cores(threads))
    if out is not None:
        names = ["json", "tsv", "samples.tsv", *(f"{name}.txt.gz" for name in FILES)]
        for name in names:
            check_place(Path(f"{out}.{name}"), overwrite)
    results, tally, samples = concordance(config)
    click.echo(imputation_text(results))
    if out is not None:
        write_json(Path(f"{out}.json"), results)
        tables = imputation_tables(results)
        write_tsv(Path(f"{out}.tsv"), tables["results"])
        write_tsv(Path(f"{out}.samples.tsv"), tables["samples"])
        write_glimpse(out, tally, samples)
