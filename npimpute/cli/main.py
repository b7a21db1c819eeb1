"""The command ``npimpute``: finds the subcommand, and turns errors into one line and an exit status."""

from __future__ import annotations

import signal
import sys

import click

from .. import __version__
from ..errors import NpimputeError
from .kernels import keep_kernels
from .options import LazyGroup

_COMMANDS = {
    "run": "Impute target genotypes from a reference panel.",
    "phase": "Phase genotypes against a reference panel.",
    "panel": "Compile a reference panel, or describe a compiled one.",
    "merge": "Join outputs: batches of samples, or regions.",
    "train": "Train a network on reference panels, or on simulated ones.",
    "dna": "Embed sequence, or score variants, with a long-range model of DNA.",
    "msa": "Make a store of alignments of species, or describe one.",
    "vep": "Score variants with a model of aligned genomes.",
    "benchmark": "Compare with other programs: accuracy, time, memory.",
    "concordance": "How good an imputed file is, where the truth is known.",
    "doctor": "Print what this machine will use.",
}


@click.group(
    cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="npimpute")
def cli():
    """Genotype imputation that reads the reference panel at inference time.

    \b
    npimpute run --ref panel.vcf.gz --target chip.vcf.gz --map map.txt --out imputed.vcf.gz
    """


class _Stopped(BaseException):
    """A signal asks the process to end."""


_signals: list[int] = []  # that asked


def _stop_on(number: int, frame) -> None:
    """Ends the command, unless what an earlier signal began is under way: that cleans up undisturbed.

    Code that is called back from C (a compiler, a finalizer) swallows an exception: the alarm raises it again.
    """
    if number != signal.SIGALRM:
        _signals.append(number)
        signal.signal(signal.SIGALRM, _stop_on)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, _Stopped):
        error = error.__context__
    if error is None:
        raise _Stopped


def main() -> None:
    """Runs the command line.

    Exit status: 0 done, 2 a mistake in the input or the options, 128 + n stopped by signal n (130: Ctrl-C).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _stop_on)
    keep_kernels()
    try:
        try:
            cli(standalone_mode=False)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException as error:
        # An extension module that is being loaded makes an ImportError of any exception.
        if _signals:
            word = "interrupted" if _signals[0] == signal.SIGINT else "stopped"
            _stop(f"{word}; {_left()}", 128 + _signals[0])
        match error:
            case click.exceptions.Exit():
                sys.exit(error.exit_code)
            case click.exceptions.NoArgsIsHelpError():
                error.show()
                sys.exit(2)
            case click.UsageError():
                command = error.ctx.command_path if error.ctx else "npimpute"
                _stop(f"{error.format_message()} ({command} --help)", 2)
            case KeyboardInterrupt() | click.Abort():
                _stop(f"interrupted; {_left()}", 130)
            case NpimputeError():
                _stop(str(error), 2)
            case MemoryError():
                _stop("not enough memory; use a smaller --window, or fewer target samples at a time", 2)
        raise


def _left() -> str:
    """What a command that did not end leaves."""
    goes_on = {"train": "--resume goes on from the last saved step"}
    if "--resume" in sys.argv:
        goes_on["run"] = "the same command goes on with what is not done"
    goes_on["benchmark"] = "the same command goes on with what is not done"
    return goes_on.get("".join(sys.argv[1:2]), "nothing was written")


def _stop(message: str, status: int) -> None:
    print(f"npimpute: error: {message}", file=sys.stderr)
    sys.exit(status)
