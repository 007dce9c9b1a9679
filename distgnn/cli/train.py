"""``distgnn train``: the main job."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import typer

from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator


def _read_config(context: typer.Context, path: Path | None) -> None:
    """Make what a config file says the defaults of the options."""
    if path is not None:
        from distgnn.train.config_file import read_config  # noqa: PLC0415  # a YAML reader only where one is read

        context.default_map = read_config(path)


def train(*, as_json: bool, config: Path | None, **options: Any) -> None:
    """Train a GIN or GINE, with progress, a learning curve and a table of results.

    Example: distgnn train --dataset MUTAG --folds 10 --epochs 350
    """
    del config  # its options are the defaults of the others

    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports

    from distgnn.train import run  # noqa: PLC0415

    def show(summary: dict[str, Any]) -> None:
        if as_json:
            typer.echo(json.dumps(summary))

    run.train(TrainConfig(**options), console=Console(quiet=as_json), show=show)


def _parameters() -> Iterator[inspect.Parameter]:
    """Make a parameter for typer of every field of a run's options."""
    config = typer.Option(
        None,
        is_eager=True,
        callback=_read_config,
        metavar="FILE",
        help="YAML file of options, such as a run's config.yaml; those of the command line come before it.",
        rich_help_panel="Data",
    )
    yield _parameter("config", Path, config)
    hints = get_type_hints(TrainConfig)
    for owner in reversed(TrainConfig.__bases__):
        for field in fields(owner):
            kind = _kind(hints[field.name])
            yield _parameter(field.name, kind, _option(field, kind, vars(owner)["panel"]))
    as_json = typer.Option(
        False, "--json", help="Print the result as JSON, without progress.", rich_help_panel="Output"
    )
    yield _parameter("as_json", bool, as_json)


def _parameter(name: str, kind: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)


def _kind(hint: Any) -> Any:
    """Return the type of a value on the command line: texts for what may be several things."""
    kinds = [one for one in get_args(hint) if one is not type(None)] if get_origin(hint) is types.UnionType else [hint]
    if get_origin(kinds[0]) is Sequence:
        return list[str]
    return kinds[0] if len(kinds) == 1 else str


def _option(field: Field[Any], kind: Any, panel: str) -> Any:
    flag = "--" + field.name.replace("_", "-")
    assert field.default is not MISSING
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}" if field.default else flag
    names = [flag, field.metadata["short"]] if field.metadata["short"] else [flag]
    return typer.Option(
        field.default,
        *names,
        help=field.metadata["help"],
        metavar=field.metadata["metavar"],
        envvar=field.metadata["envvar"],
        rich_help_panel=panel,
    )


_PARAMETERS = list(_parameters())
train.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]
train.__annotations__ = {one.name: one.annotation for one in _PARAMETERS}
