"""``npimpute benchmark long-range``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from ..errors import ConfigError
from .options import DEVICE, PATH, THREADS, Numbers, checked, cores, progress, set_up_log

# Of each task: the options that it needs, and those that it takes besides --model, --out, --device and --threads.
_NEEDS = {"mlm": ("fasta", "region"), "cost": (), "labels": ("fasta", "table")}
_TAKES = {"mlm": ("contexts", "segments", "trained_length", "minutes", "seed")}
_TAKES |= {"cost": ("lengths", "chunk", "minutes", "seed"), "labels": ("split",)}


@click.command("long-range")
@click.option(
    "--task",
    type=click.Choice(list(_NEEDS)),
    required=True,
    help="mlm: loss against context; cost: time and memory against length; labels: a fine-tuned model on a table.",
)
@click.option(
    "--model", "models", multiple=True, required=True, metavar="[LABEL=]DIR", help="Directory of a model; repeatable."
)
@click.option("--out", type=PATH, required=True, help="New directory, or one to go on in with the same options.")
@click.option("--fasta", type=PATH, help="mlm, labels: the genome.")
@click.option("--region", metavar="CHR[:START-END]", help="mlm: what the models were not trained on.")
@click.option(
    "--contexts",
    type=Numbers(int),
    metavar="LIST",
    help="mlm: bases.  [default: 2000,4000,... to 1000000, as they fit]",
)
@click.option("--segments", type=int, help="mlm: stretches whose tokens are told.  [default: 16]")
@click.option(
    "--trained-length",
    type=int,
    metavar="BP",
    help="mlm: ntv2's window in training, for interpolation.  [default: 12000]",
)
@click.option("--lengths", type=Numbers(int), metavar="LIST", help="cost: bases.  [default: 10000,... to 1000000]")
@click.option("--chunk", type=int, metavar="TOKENS", help="cost: of a piece.  [default: 8192]")
@click.option("--table", type=PATH, help="labels: TSV, CSV or parquet, with the columns that the model learnt.")
@click.option("--split", help="labels: rows to judge.  [default: test]")
@click.option(
    "--minutes", type=float, help="mlm, cost: a model goes no further after a run that took longer.  [cost: 30]"
)
@click.option("--seed", type=int, help="mlm, cost: of all that is drawn at random.  [default: 1]")
@DEVICE
@THREADS
def command(task, models, out, device, threads, **options):
    """Long-range models of DNA: what context is worth to them, what it costs, and how they tell labels.

    \b
    npimpute benchmark long-range --task mlm --model DIR --model nt=DIR2 --fasta hg38.fa --region chr20 --out OUT
    npimpute benchmark long-range --task cost --model caduceus=DIR --out OUT
    npimpute benchmark long-range --task labels --model DIR --fasta hg38.fa --table eqtl.tsv --out OUT
    """
    given = {name: value for name, value in options.items() if value is not None}
    if lost := [name for name in _NEEDS[task] if name not in given]:
        raise click.UsageError(f"--task {task} needs --{lost[0]}")
    if wrong := sorted(set(given) - {*_NEEDS[task], *_TAKES[task]}):
        raise click.UsageError(f"--{wrong[0].replace('_', '-')} is not for --task {task}")
    set_up_log()
    given |= {"out": out, "device": device, "threads": checked(cores(threads))}
    with progress() as moved:
        results = _run(task, _labelled(models), given, moved)
    from ..benchmark.long_range_report import report_text, write_report

    click.echo(report_text(results))
    click.echo("\nwritten: " + " ".join(map(str, write_report(results, out))), err=True)


def _run(task: str, models: dict[str, Path], given: dict, moved) -> dict:
    from ..benchmark.plots import check_installed

    if task == "labels":
        from ..benchmark.long_range_labels import LabelsConfig, label_benchmark

        if len(models) > 1:
            raise ConfigError("--task labels: give one --model")
        return label_benchmark(LabelsConfig(model=next(iter(models.values())), **given), moved)
    check_installed()
    if task == "cost":
        from ..benchmark.long_range_cost import CostConfig, cost_benchmark

        return cost_benchmark(CostConfig(models=models, **given), moved)
    from ..benchmark.long_range import LossConfig, loss_benchmark

    return loss_benchmark(LossConfig(models=models, **({"minutes": math.inf} | given)), moved)


def _labelled(models: tuple[str, ...]) -> dict[str, Path]:
    """Label -> directory, the directory's name where there is no label. Raises ConfigError for one label twice."""
    found: dict[str, Path] = {}
    for text in models:
        label, equals, path = text.partition("=")
        place = Path(path if equals else text)
        label = label if equals else place.name
        if not label or "/" in label or label in found:
            raise ConfigError(f"--model {text}: every model needs a label of its own, without /: LABEL=DIR")
        found[label] = place
    return found
