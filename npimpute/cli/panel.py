"""``npimpute panel``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import ConfigError, InputError

PATH = click.Path(path_type=Path)


@click.command("panel")
@click.option("--ref", type=PATH, help="Phased reference panel to compile: VCF, VCF.gz or BCF.")
@click.option("--out", type=PATH, help="The compiled panel, .npp.")
@click.option("--map", "map_file", type=PATH, help="Genetic map to keep with it, for runs that name no other.")
@click.option("--describe", type=PATH, metavar="PANEL.npp", help="Print what a compiled panel holds, and stop.")
@click.option("--threads", type=int, default=None, help="Threads.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
def command(ref, out, map_file, describe, threads, overwrite):
    """Compile a panel into one file that opens at once: read it many times, parse it once."""
    from ..panel.genetic_map import read_genetic_map
    from ..panel.panel import CompiledPanel, compile_panel, is_compiled, open_panel

    if describe is not None:
        if ref or out:
            raise click.UsageError("--describe takes neither --ref nor --out")
        if not is_compiled(describe):
            raise InputError(f"{describe}: not a compiled panel; make one with --ref and --out")
        _describe(CompiledPanel(describe))
        return
    if ref is None or out is None:
        raise click.UsageError("give --ref and --out to compile a panel, or --describe to look at one")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads {threads}: at least one thread is needed")
    genetic_map = read_genetic_map(map_file) if map_file else None
    panel = open_panel(ref, threads=len(os.sched_getaffinity(0)) if threads is None else threads)
    compile_panel(panel, out, genetic_map, overwrite)
    _describe(CompiledPanel(out))


def _describe(panel) -> None:
    click.echo(f"file\t{panel.path}\t{panel.path.stat().st_size / 1e6:.1f} MB")
    for key in ("program", "version", "source", "sha256", "map"):
        click.echo(f"{key}\t{panel.metadata[key]}")
    click.echo(f"samples\t{len(panel.samples)}")
    fewest = panel.fewest_haplotypes
    click.echo(f"haplotypes\t{panel.k}" if fewest == panel.k else f"haplotypes\t{fewest} to {panel.k}")
    for contig, (sites, first, last) in panel.sites_by_contig.items():
        click.echo(f"contig\t{contig}\t{sites} sites\t{first}-{last}")
