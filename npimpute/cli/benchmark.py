"""``npimpute benchmark``."""

from __future__ import annotations

import logging

import click

from ..errors import ConfigError
from .options import BOOTSTRAP, DEVICE, MAF_BINS, PATH, POPULATIONS, SEED, LazyGroup, Numbers, all_of, cores, set_up_log

_LAZY: dict[str, str] = {
    "msa-cost": "Networks over DNA alignments: time and memory by columns and rows.",
    "long-range": "Long-range models of DNA: loss against context, time and memory, labelled tables.",
    "vep": "Scores of variants against labels: AUROC, AUPRC.",
    "constraint": "Whether models tell constrained positions from others.",
}


class Words(click.ParamType):
    """Words with commas between them, as a tuple; "none" is none."""

    name = "words"

    def convert(self, value, param, ctx):
        if not isinstance(value, str):
            return value
        return () if value in ("", "none") else tuple(word.strip() for word in value.split(",") if word.strip())


OUT = click.option(
    "--out", type=PATH, required=True, help="New directory for all output, or one to go on in with the same options."
)
PANEL = click.option("--panel", type=PATH, required=True, help="Phased reference panel: VCF, VCF.gz, BCF or .npp.")
ARRAY = click.option(
    "--array", type=PATH, help="Sites that targets are typed at: contig and position by line, .bed, .bim or VCF."
)
THIN = click.option(
    "--thin",
    type=int,
    metavar="BP",
    help="Instead: one site at random of those with MAF above 5 % in every so many bp.",
)
MAP = click.option("--map", type=PATH, help="Genetic map, for every program.")
REGION = click.option("--region", metavar="CHR[:START-END]", help="Use this part of the panel only.")
ENGINES = click.option(
    "--engines",
    type=Words(),
    default="npssm,li-stephens",
    show_default=True,
    metavar="LIST",
    help="Engines of npimpute, ENGINE or ENGINE:MODEL; 'none' for none.",
)
RUNS = click.option(
    "--run", "runs", multiple=True, metavar="LABEL=OPTIONS", help="npimpute with these options of 'npimpute run'."
)
PEERS = click.option(
    "--peers",
    type=Words(),
    default="beagle,minimac4,impute5",
    show_default=True,
    metavar="LIST",
    help="Other programs, as far as they are installed; 'none' for none.",
)
PATHS = click.option(
    "--program", "paths", multiple=True, metavar="PEER=FILE", help="Where a peer is, an executable or a .jar."
)
THREADS = click.option("--threads", type=int, help="Threads of every program.  [default: all cores]")
REPEAT = click.option(
    "--repeat", type=int, default=1, show_default=True, help="Runs of everything, in turn; times are their medians."
)


DATA = (ARRAY, THIN, MAP, REGION)
PROGRAMS = (ENGINES, RUNS, PEERS, PATHS)


@click.group("benchmark", cls=LazyGroup, lazy=_LAZY, prefix="benchmark_")
def command():
    """Compare npimpute with other programs, on your data."""


@command.command("imputation")
@PANEL
@click.option("--truth", type=PATH, help="True phased genotypes of people who are not in the panel.")
@click.option("--targets", type=int, metavar="N", help="Instead: take N people out of the panel, at random.")
@click.option("--folds", type=int, default=1, show_default=True, help="With --targets: so many times, other people.")
@all_of(*DATA)
@all_of(*PROGRAMS)
@POPULATIONS
@MAF_BINS
@THREADS
@REPEAT
@BOOTSTRAP
@SEED
@OUT
def imputation(engines, runs, peers, paths, threads, **options):
    """Accuracy, time and memory of all programs on the same files.

    \b
    npimpute benchmark imputation --panel panel.vcf.gz --truth truth.vcf.gz --array array.pos --map map.txt --out DIR
    """
    _ready()
    from ..benchmark.imputation import ImputationConfig, benchmark
    from ..benchmark.report import imputation_text, write_report

    config = ImputationConfig(**options, threads=cores(threads))
    results = benchmark(config, _programs(engines, runs, peers, paths))
    click.echo(imputation_text(results))
    _tell(write_report(results, config.out))


@command.command("scaling")
@click.option("--panel", type=PATH, help="Phased reference panel: VCF, VCF.gz, BCF or .npp.")
@click.option("--simulate", type=int, metavar="N", help="Instead: simulate a panel of N people (msprime).")
@click.option("--length-mb", type=float, default=5.0, show_default=True, help="Of the simulated region.")
@all_of(*DATA)
@all_of(*PROGRAMS)
@click.option(
    "--panel-sizes", type=Numbers(int), default=(), metavar="LIST", help="People of the panel to impute from."
)
@click.option("--target-counts", type=Numbers(int), default=(), metavar="LIST", help="People to impute.")
@click.option(
    "--contexts",
    type=Numbers(int),
    default=(),
    metavar="LIST",
    help="Panel haplotypes that engines with --context read.",
)
@THREADS
@REPEAT
@SEED
@OUT
def scaling(engines, runs, peers, paths, threads, **options):
    """Time and memory against the panel's size, the number of targets and the context.

    \b
    npimpute benchmark scaling --simulate 2200 --thin 4000 --panel-sizes 500,1000,2000 --contexts 4,8,16 --out DIR
    """
    _ready()
    from ..benchmark.report import scaling_text, write_report
    from ..benchmark.scaling import ScalingConfig, benchmark

    config = ScalingConfig(**options, threads=cores(threads))
    results = benchmark(config, _programs(engines, runs, peers, paths))
    click.echo(scaling_text(results))
    _tell(write_report(results, config.out))


@command.command("ablation")
@click.option("--panel", "panels", type=PATH, multiple=True, required=True, help="Train on this; may be repeated.")
@click.option("--map", type=PATH, help="Genetic map, for validation.")
@click.option("--validate", type=PATH, multiple=True, help="Judge on this panel, which is not trained on.")
@click.option("--hold-out", type=int, default=30, show_default=True, help="People who are left out, to judge by.")
@click.option("--hold-out-rows", type=int, default=400, show_default=True, help="Sites of each panel to judge by.")
@click.option(
    "--tables", type=Words(), metavar="LIST", help="Of order,mask,rate,objective,auxiliary,context.  [default: all]"
)
@click.option("--budget", type=float, default=60.0, show_default=True, metavar="MINUTES", help="For everything.")
@click.option("--steps", type=int, help="Instead: steps of every run.")
@click.option("--config", "config_file", type=PATH, help="Settings of the base configuration, TOML as for 'train'.")
@DEVICE
@THREADS
@SEED
@OUT
def ablation(panels, tables, config_file, threads, **options):
    """The published NPSSM's ablations, trained on your panels.

    \b
    npimpute benchmark ablation --panel panel.vcf.gz --tables mask,auxiliary --budget 60 --out DIR
    """
    _ready()
    from ..benchmark.ablation import AblationConfig
    from ..benchmark.ablation import ablation as run
    from ..benchmark.report import ablation_text, write_report
    from .training import settings

    given = {} if tables is None else {"tables": tables}
    base = settings(config_file, (), {})
    config = AblationConfig(panels=panels, base=base, threads=cores(threads), **options, **given)
    logging.getLogger("npimpute.train").setLevel(logging.WARNING)  # every run would tell of every panel
    results = run(config)
    click.echo(ablation_text(results))
    _tell(write_report(results, config.out))


def _ready() -> None:
    """The log, and what a report needs."""
    from ..benchmark.plots import check_installed

    set_up_log()
    check_installed()


def _programs(engines, runs, peers, paths) -> list:
    from ..benchmark.programs import engine, peer, variant

    where = {}
    for text in paths:
        name, equals, path = text.partition("=")
        if not equals:
            raise ConfigError(f"--program {text}: write PEER=FILE")
        where[name] = path
    if unused := sorted(set(where) - set(peers)):
        raise ConfigError(f"--program {unused[0]}: not among --peers")
    ours = [*map(engine, engines), *map(variant, runs)]
    return [*ours, *(peer(name, where.get(name)) for name in peers)]


def _tell(paths) -> None:
    click.echo("\nwritten: " + " ".join(map(str, paths)), err=True)
