"""The command ``npimpute``: finds the subcommand, and turns errors into one line and an exit status."""

from __future__ import annotations

import importlib
import sys

import click

from .. import __version__
from ..errors import NpimputeError

# Subcommands are imported when they are used: --help must not wait for numba.
_COMMANDS = {
    "run": "Impute target genotypes from a reference panel.",
    "panel": "Compile a reference panel, or describe a compiled one.",
    "doctor": "Print what this machine will use.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx):
        return list(_COMMANDS)

    def get_command(self, ctx, name):
        if name not in _COMMANDS:
            return None
        return importlib.import_module(f".{name}", __package__).command

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="npimpute")
def cli():
    """Genotype imputation that reads the reference panel at inference time.

    \b
    npimpute run --ref panel.vcf.gz --target chip.vcf.gz --map map.txt --out imputed.vcf.gz
    """


def main() -> None:
    """Runs the command line. Exit status: 0 done, 2 a mistake in the input or the options, 130 interrupted."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        _stop(f"{error.format_message()} ({error.ctx.command_path if error.ctx else 'npimpute'} --help)", 2)
    except NpimputeError as error:
        _stop(str(error), 2)
    except (KeyboardInterrupt, click.Abort):
        _stop("interrupted; nothing was written", 130)
    except MemoryError:
        _stop("not enough memory; use a smaller --window, or fewer target samples at a time", 2)


def _stop(message: str, status: int) -> None:
    print(f"npimpute: error: {message}", file=sys.stderr)
    sys.exit(status)
