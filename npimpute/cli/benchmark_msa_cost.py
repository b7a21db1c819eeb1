"""``npimpute benchmark msa-cost``."""

from __future__ import annotations

import click

from .benchmark import OUT, REPEAT, THREADS, Words, _ready, _tell
from .options import SEED, Numbers, cores

_NETWORKS = ("msamamba", "msamamba_sparse", "axial", "axial_maps")


@click.command("msa-cost")
@click.option(
    "--lengths", type=Numbers(int), default="128,256,512,1024,2048,4096", show_default=True, metavar="LIST",
    help="Columns of the window, growing.",
)  # fmt: skip
@click.option("--rows", type=Numbers(int), default="10,25,50,100", show_default=True, metavar="LIST", help="Species.")
@click.option("--at-length", type=int, default=512, show_default=True, help="Columns while the rows grow.")
@click.option("--at-rows", type=int, default=25, show_default=True, help="Rows while the columns grow.")
@click.option(
    "--networks", type=Words(), default=",".join(f"{name}{end}" for end in ("", "_recompute") for name in _NETWORKS),
    show_default=True, metavar="LIST", help="What to measure; _recompute: as 'train msa --recompute' does it.",
)  # fmt: skip
@click.option("--width", type=int, default=128, show_default=True, help="Of the model, d_model.")
@click.option("--layers", type=int, default=3, show_default=True, help="Blocks.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
    help="bfloat16: mixed precision.",
)  # fmt: skip
@click.option("--limit-gb", type=float, help="Memory of a process: what needs more is told of, not run. CPU only.")
@THREADS
@REPEAT
@SEED
@OUT
def command(width, layers, threads, **options):
    """Time and memory of MSAMamba and axial attention by columns and rows.

    \b
    npimpute benchmark msa-cost --lengths 128,512,2048 --rows 10,100 --threads 1 --out DIR
    """
    _ready()
    from ..benchmark.msa_cost import CostConfig, benchmark
    from ..benchmark.msa_cost_report import cost_text, write_report

    body = (("d_model", width), ("n_layers", layers))
    config = CostConfig(body=body, threads=cores(threads), **options)
    results = benchmark(config)
    click.echo(cost_text(results))
    _tell(write_report(results, config.out))
