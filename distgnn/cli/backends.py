"""``distgnn backends``: which backends there are, and why one can't be used."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer


def backends(*, as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the storage backends that are known here.

    Example: distgnn backends
    """
    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports
    from rich.table import Table  # noqa: PLC0415

    from distgnn.storage.registry import list_backends  # noqa: PLC0415

    found = list_backends()
    if as_json:
        typer.echo(json.dumps([asdict(backend) for backend in found], indent=2))
        return
    table = Table("name", "from", "available", "what it is")
    for backend in found:
        available = "yes" if backend.available else f"no: {backend.reason}"
        table.add_row(backend.name, backend.source, available, backend.about)
    Console(markup=False).print(table)  # square brackets name extras here
