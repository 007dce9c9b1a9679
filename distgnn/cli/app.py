"""The ``distgnn`` command."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from inspect import cleandoc
from typing import TYPE_CHECKING, TextIO

import typer

from distgnn._version import __version__
from distgnn.cli.backends import backends
from distgnn.cli.bench import bench
from distgnn.cli.doctor import doctor
from distgnn.cli.inspect import inspect
from distgnn.cli.partition import partition
from distgnn.cli.plan import plan
from distgnn.cli.predict import embed, evaluate, predict
from distgnn.cli.train import train
from distgnn.errors import (
    BackendError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    ConfigError,
    DataError,
    DistGNNError,
    GraphInputError,
    NonFiniteLossError,
    SpecError,
    TrainingStoppedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_BAD_INPUT = (
    BackendError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    ConfigError,
    DataError,
    GraphInputError,
    SpecError,
)
_EXIT_CODES: dict[tuple[type[BaseException], ...], int] = {
    _BAD_INPUT: 2,
    (TrainingStoppedError,): 3,
    (NonFiniteLossError,): 4,
    (Exception,): 1,
}
_INTERRUPTED = 130

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
for command in (train, predict, embed, evaluate, partition, plan, inspect, backends, doctor, bench):
    about, example = cleandoc(command.__doc__ or "").rsplit("\n\n", 1)  # the example is what a command's help ends with
    app.command(help=about, epilog=example)(command)


@app.callback(invoke_without_command=True)
def _options(
    *,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; may stand anywhere."),
) -> None:
    del debug  # taken out by main(), which is what catches errors
    if version:
        typer.echo(f"distgnn {__version__}")
        raise typer.Exit


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"  # where a launcher has other variables, they are written to RANK


def _show_warning(  # the signature is Python's
    others: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of distgnn's in one line, on one rank; leave the others as they are."""
    if not category.__module__.startswith("distgnn."):
        others(message, category, filename, lineno, file, line)
    elif _is_first_rank():
        typer.secho(f"note: {message}", err=True, fg="yellow")


def main() -> None:
    """Run the command; an error ends it with one line on stderr, and an exit code that says whose it is."""
    # Torch reads it when it is loaded: what it says of lost connections, with frames of C++, the error says in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    # PyG asks for it when imported: nothing that the user of a command could change.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    words = [word for word in sys.argv[1:] if word != "--debug"]
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        app(words)
    except (DistGNNError, OSError) as error:
        if len(words) < len(sys.argv) - 1:
            raise
        if not isinstance(error, NonFiniteLossError) or _is_first_rank():  # every rank has computed the same
            typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(next(code for kinds, code in _EXIT_CODES.items() if isinstance(error, kinds)))
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer ends so, and says nothing
            typer.secho("interrupted", err=True, fg="red")
        raise
