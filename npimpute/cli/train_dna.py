"""``npimpute train dna``."""

from __future__ import annotations

import click

from .options import PATH
from .training import run_options

_TASKS = ["classification", "regression", "multi-label", "variants"]


class Curriculum(click.ParamType):
    """LENGTH:SHARE with commas between them, as lists."""

    name = "curriculum"

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        try:
            pairs = [word.split(":") for word in value.split(",")]
            return [[int(length), float(share)] for length, share in pairs]
        except ValueError:
            self.fail(f"{value!r}: write LENGTH:SHARE,LENGTH:SHARE, such as 1000:0.5,12000:0.5", param, ctx)


@click.command("dna")
@click.option("--model", type=click.Choice(["caduceus", "hawk", "ntv2"]), required=True, help="The architecture.")
@click.option("--preset", type=click.Choice(["tiny", "base-50m"]), help="Its sizes.  [default: tiny]")
@click.option("--fasta", type=PATH, required=True, help="The genome: FASTA (.fa, .fa.gz) or .2bit.")
@click.option(
    "--out", type=PATH, required=True, help="Directory for the model, the metrics and the state to resume from."
)
@click.option("--length", type=int, help="Bases of a window.  [default: 12000]")
@click.option(
    "--curriculum",
    type=Curriculum(),
    metavar="LENGTH:SHARE,...",
    help="Pretraining: windows cut into pieces of these lengths, each for a share of the steps.",
)
@click.option(
    "--region", "regions", multiple=True, metavar="REGION|BED", help="Pretraining: read only this; repeatable."
)
@click.option(
    "--hold-out",
    multiple=True,
    metavar="REGION|BED",
    help="Pretraining: never read this, such as chr20:1-500,000, but validate on it; repeatable.",
)
@click.option("--init", type=PATH, help="Start from the weights of this model.")
@click.option(
    "--finetune",
    type=PATH,
    metavar="TABLE",
    help="Learn labels: TSV, CSV or parquet with contig, start, end (variants: contig, pos, ref, alt), label columns, "
    "and if wanted strand and split.",
)
@click.option("--task", type=click.Choice(_TASKS), help="Of --finetune: what its labels are.")
@click.option("--labels", metavar="COLUMNS", help="Of --finetune: only these columns, with commas between them.")
@click.option("--validate", type=PATH, metavar="TABLE", help="Of --finetune: rows to validate on.")
@click.option("--freeze", is_flag=True, help="Of --finetune: only the head learns.")
@click.option("--batch", type=int, help="Windows of a draw.")
@run_options
def command(read, run, batch, length, curriculum, **options):
    """Pretrain a long-range DNA model on a genome, or fine-tune one on labels.

    \b
    npimpute train dna --model caduceus --fasta hg38.fa --hold-out chr20 --out DIR
    npimpute train dna --model caduceus --init DIR --fasta hg38.fa --finetune peaks.tsv --task multi-label --out DIR2
    """
    short = {"loop.batch": batch, "data.length": length, "data.curriculum": curriculum}
    values = read({name: value for name, value in short.items() if value is not None})
    labels = _labels({name: options.pop(name) for name in ("finetune", "task", "labels", "validate", "freeze")})
    # Imported here: torch takes seconds, which a misspelt option need not wait for.
    from ..dna.run import Labels, train, train_config

    labels = Labels(**labels) if labels else None
    run(train_config(options.pop("model"), options.pop("preset"), values, labels=labels, **options), train)


def _labels(given: dict) -> dict:
    if given["finetune"] is None:
        if lost := [name for name in ("task", "labels", "validate", "freeze") if given[name]]:
            raise click.UsageError(f"--{lost[0]} belongs to --finetune TABLE")
        return {}
    if given["task"] is None:
        raise click.UsageError(f"--finetune needs --task: {', '.join(_TASKS)}")
    columns = tuple(word.strip() for word in given["labels"].split(",")) if given["labels"] else ()
    table, names = given["finetune"], ("task", "validate", "freeze")
    return {"table": table, "columns": columns} | {name: given[name] for name in names}
