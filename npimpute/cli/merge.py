"""``npimpute merge``."""

from __future__ import annotations

import os

import click

from ..errors import ConfigError
from .options import PATH, set_up_log


@click.command("merge")
@click.argument("files", nargs=-1, type=PATH, metavar="FILES...")
@click.option("--out", type=PATH, required=True, help="The merged file: .vcf.gz or .bcf, with index, or .vcf.")
@click.option("--threads", type=int, help="Threads.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def command(files, out, threads, overwrite):
    """Join outputs of npimpute run: batches of samples side by side, regions one after the other.

    Files of the same samples are regions, files of different samples are batches; both at once is possible.

    \b
    npimpute merge --out merged.vcf.gz batch1.vcf.gz batch2.vcf.gz
    """
    set_up_log()
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads {threads}: at least one thread is needed")
    # Imported here: numpy and cyvcf2 take a while to load.
    from ..dosage.merge import merge

    merge(list(files), out, len(os.sched_getaffinity(0)) if threads is None else threads, overwrite)
