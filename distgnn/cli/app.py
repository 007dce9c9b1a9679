"""The ``distgnn`` command."""

from __future__ import annotations

import sys

import typer

from distgnn._version import __version__
from distgnn.cli.backends import backends
from distgnn.cli.doctor import doctor
from distgnn.cli.partition import partition
from distgnn.cli.train import train
from distgnn.errors import DistGNNError

app = typer.Typer(
    help="Distributed Graph Isomorphism Networks for PyTorch Geometric, with pluggable storage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Options can be written as in Python, --batch_size, or as on most command lines, --batch-size.
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
app.command()(train)
app.command()(partition)
app.command()(backends)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def _options(
    *,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    del debug  # read by main(), which is what catches errors
    if version:
        typer.echo(f"distgnn {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command; a user's mistake ends it with one line and exit code 1, and a usage error with 2."""
    try:
        app()
    except DistGNNError as error:
        if "--debug" in sys.argv:
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("interrupted; the folder of a run keeps what was measured so far", err=True, fg="red")
        sys.exit(130)
