"""``npimpute phase``."""

from __future__ import annotations

import logging
import time

import click

from ..config import PhaseConfig
from .options import PATH, cores, progress, set_up_log


@click.command("phase")
@click.option("--ref", type=PATH, required=True, help="Phased reference panel: VCF, VCF.gz, BCF or .npp.")
@click.option("--target", type=PATH, required=True, help="Genotypes to phase: VCF, VCF.gz or BCF.")
@click.option("--out", type=PATH, required=True, help="Output, .vcf.gz (with .tbi), .bcf (with .csi) or .vcf.")
@click.option("--map", type=PATH, help="Genetic map, as for 'run'.  [default: that of the compiled panel, or 1 cM/Mb]")
@click.option("--region", metavar="CHR[:START-END]", help="Write these positions only.")
@click.option("--ne", type=float, help="Effective population size.  [default: 100000]")
@click.option("--fix-strand", is_flag=True, help="Use target sites on the other strand, turned.")
@click.option("--swap-alleles", is_flag=True, help="Use target sites with REF and ALT exchanged, exchanged back.")
@click.option("--samples", type=PATH, help="Use only these panel samples (file, one a line).")
@click.option("--exclude-samples", type=PATH, help="Do not use these panel samples (file, one a line).")
@click.option("--threads", type=int, help="Threads; results do not depend on it.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def command(threads, **options):
    """Phase heterozygotes against a panel and each other, and fill in missing genotypes.

    Writes the target's sites that the panel has, spelled as there. Phases that are known are kept. 'npimpute run' does
    the same by itself where targets are not phased.
    """
    started = time.perf_counter()
    config = PhaseConfig(**options, threads=cores(threads))
    set_up_log()
    # Imported here: numba and cyvcf2 take a third of a second.
    from ..pipeline import phase

    with progress() as tell:
        written = phase(config, tell)
    seconds = time.perf_counter() - started
    logging.getLogger("npimpute").info("written: %d sites to %s, %.1f seconds", written, config.out, seconds)
