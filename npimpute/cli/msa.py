"""``npimpute msa``."""

from __future__ import annotations

from pathlib import Path

import click

from .benchmark import Words
from .options import PATH, progress, set_up_log


@click.group("msa")
def command():
    """Alignments of species, as models and 'npimpute vep' read them."""


@command.command("build")
@click.option("--maf", multiple=True, type=PATH, help="Alignment, MAF or MAF.gz; once for each, such as a chromosome.")
@click.option("--alignment", type=PATH, help="Instead: FASTA whose records are rows of one length; needs --contig.")
@click.option("--fasta", type=PATH, help="Reference sequence, FASTA or 2bit: fills what no block covers.")
@click.option("--out", type=PATH, required=True, help="Store to make, a directory such as hg38.msa.")
@click.option("--reference", metavar="NAME", help="Species to anchor on.  [default: that of the first row]")
@click.option("--species", type=Words(), metavar="LIST", help="Other species, in this order.  [default: all]")
@click.option("--exclude", type=Words(), default="", metavar="LIST", help="Species to leave out.")
@click.option("--contig", metavar="NAME", help="Name of the reference's contig, if the file has none.")
@click.option("--offset", type=int, default=0, metavar="BP", help="Add to positions that count from a region's start.")
@click.option("--whole-contigs", is_flag=True, help="Cover all of a contig from --fasta, not blocks alone.")
@click.option("--overwrite", is_flag=True, help="Replace a store that exists.")
def build(out, **options):
    """Make a store of alignments, of which any region is read alone.

    \b
    npimpute msa build --maf chr6.maf.gz --maf chr20.maf.gz --fasta hg38.fa.gz --exclude panTro5 --out hg38.msa
    """
    set_up_log()
    # Imported here: numpy and zarr take a while to load.
    from ..msa.build import BuildConfig
    from ..msa.build import build as make

    config = BuildConfig(out, **options)
    with progress() as bar:
        counts = make(config, bar)
    _tell_counts(counts)
    click.echo(f"\nwritten: {out}", err=True)


@command.command("info")
@click.argument("store", type=PATH)
def info(store: Path):
    """What a store holds: species, contigs, how much of each."""
    from ..msa.store import Alignment

    alignment = Alignment.open(store)
    click.echo("contig\tstart\tend\tlength")
    for name, (start, end) in alignment.contigs.items():
        click.echo(f"{name}\t{start}\t{end}\t{alignment.lengths[name]}")
    click.echo("")
    _tell_counts({**alignment.about.get("counts", {}), "bases": alignment.about.get("bases", {})}, alignment.species)


def _tell_counts(counts: dict, species: tuple[str, ...] | None = None) -> None:
    bases = counts.pop("bases")
    for name, n in counts.items():
        click.echo(f"{name}\t{n}")
    click.echo("\nspecies\taligned bases")
    for name in species or bases:
        click.echo(f"{name}\t{bases.get(name, '.')}")
