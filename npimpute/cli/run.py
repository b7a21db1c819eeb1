"""``npimpute run``."""

from __future__ import annotations

import logging
import resource
import sys
import time
from pathlib import Path

import click

from ..config import ENGINES, PHASES, RunConfig
from ..outputs import file_errors
from .options import PATH, cores, progress


@click.command("run")
@click.option("--ref", type=PATH, required=True, help="Phased reference panel: VCF, VCF.gz, BCF or .npp.")
@click.option("--target", type=PATH, required=True, help="Target genotypes, phased or not: VCF, VCF.gz or BCF.")
@click.option("--out", type=PATH, required=True, help="Output, .vcf.gz (with .tbi), .bcf (with .csi) or .vcf.")
@click.option(
    "--map",
    type=PATH,
    help="Genetic map, plain or gzip: PLINK/Beagle (chr id cM bp), or pos chr cM or HapMap's columns with "
    "a header. Without one: that of the compiled panel, or 1 cM/Mb.",
)
@click.option(
    "--region",
    metavar="CHR[:START-END]",
    help="Impute these positions only; typed sites within --flank on either side are used but not written.",
)
@click.option(
    "--phase",
    type=click.Choice(PHASES),
    default=RunConfig.phase,
    show_default=True,
    help="Phase heterozygotes that are not phased, against the panel and each other, or refuse them.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=RunConfig.engine,
    show_default=True,
    help="How to impute: a network over a copying model, copying models alone, or others for comparison.",
)
@click.option("--model", type=PATH, help="Directory of a trained model, for a network.  [default for npssm: its own]")
@click.option("--context", type=int, help="Panel haplotypes a network or knn reads.  [default: the model's; knn: 10]")
@click.option("--device", help="cpu, cuda or cuda:N, for networks and logistic.  [default: cuda where there is one]")
@click.option("--ne", type=float, help="Effective population size; estimated from the panel if not given.")
@click.option("--err", type=float, help="Allele mismatch probability; estimated from the targets if not given.")
@click.option(
    "--calibrate",
    type=int,
    metavar="N",
    help="Learn of every site from N panel haplotypes that are hidden and imputed, which takes as long as N targets; "
    "0 for none.  [default for npssm: the model's, else 0]",
)
@click.option(
    "--cache",
    type=PATH,
    metavar="DIR",
    help="Keep in this directory what is learnt of the panel (Ne, error rate, what --calibrate tells), and use what is "
    "there: runs of other targets with the same panel and array then take about two thirds of the time.",
)
@click.option(
    "--format",
    "formats",
    default="GT,DS",
    show_default=True,
    metavar="LIST",
    help="FORMAT fields, of GT, DS (dosage), HDS (haploid dosages), GP (genotype probabilities), AP (ALT "
    "probability of each haplotype, AP1 and AP2).",
)
@click.option("--min-r2", type=float, default=0.0, show_default=True, help="Leave out untyped sites with less DR2.")
@click.option(
    "--keep-typed/--impute-typed",
    default=True,
    show_default=True,
    help="Write observed genotypes as they are, or as the model sees them given all data.",
)
@click.option("--all-typed-sites", is_flag=True, help="Also write target sites that are not in the panel.")
@click.option("--fix-strand", is_flag=True, help="Also use target sites that are on the panel's other strand.")
@click.option("--swap-alleles", is_flag=True, help="Also use target sites with the panel's REF and ALT exchanged.")
@click.option("--report", type=PATH, help="Also write a table (TSV) of the target sites that are left out or changed.")
@click.option("--sites-only", type=PATH, help="Also write the sites and their INFO, without samples, to this file.")
@click.option("--sample-quality", type=PATH, help="Also write a table of quality by sample (TSV) to this file.")
@click.option("--samples", type=PATH, help="Use only these panel samples (file, one a line).")
@click.option("--exclude-samples", type=PATH, help="Do not use these panel samples (file, one a line).")
@click.option(
    "--window",
    "core_cm",
    type=float,
    default=20.0,
    show_default=True,
    help="Length of a window, cM; shorter where its panel and dosages would need more than about 1 GB.",
)
@click.option("--flank", "flank_cm", type=float, default=2.0, show_default=True, help="Overlap on either side, cM.")
@click.option("--threads", type=int, default=None, help="Threads; results do not depend on it.  [default: all cores]")
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Chooses the haplotypes that --ne and --err are estimated from, and those that --calibrate hides.",
)
@click.option("--log", type=PATH, help="Also add the log to this file.")
@click.option(
    "--resume",
    is_flag=True,
    help="Keep what is finished in OUT.unfinished until the run is done; the same command then goes on there.",
)
@click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
def command(formats, threads, **options):
    """Impute every panel variant that the targets were not typed at."""
    started = time.perf_counter()
    formats = tuple(name.strip().upper() for name in formats.split(","))
    config = RunConfig(**options, formats=formats, threads=cores(threads))
    _set_up_log(config.log)
    # Imported here: numba and cyvcf2 take a third of a second, which a refused option need not wait for.
    from ..pipeline import run

    with progress() as tell:
        summary = run(config, tell)
    _report(summary, config, time.perf_counter() - started)


def _set_up_log(log_file: Path | None) -> None:
    handlers = [logging.StreamHandler(sys.stderr)]
    if log_file is not None:
        with file_errors(log_file):
            handlers.append(logging.FileHandler(log_file))
    logging.basicConfig(level=logging.INFO, format="%(levelname).1s %(message)s", handlers=handlers, force=True)


def _report(summary, config: RunConfig, seconds: float) -> None:
    log = logging.getLogger("npimpute")
    log.info("panel: %d sites read", summary.panel_sites)
    log.info("targets: %d sites", summary.target_sites)
    for kind, count in sorted(summary.kinds.items()):
        log.info("  %d %s", count, kind.label)
    log.info("written: %d sites to %s, %d of them imputed", summary.written, config.out, summary.imputed)
    if summary.filled and config.keep_typed:
        log.info("  %d typed sites had missing genotypes, now filled in", summary.filled)
    for line in summary.r2.lines():
        log.info("  %s", line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    log.info("%.1f seconds, peak memory %.0f MB", seconds, peak / 1e6)
