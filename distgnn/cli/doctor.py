"""``distgnn doctor``: what this machine has of what distgnn needs."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer


def doctor(*, as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Look at versions, backends, shared memory, the network and data sets; say how to mend what is wrong.

    Every backend is opened, each in a process of its own. The exit code is 1 where something cannot work.

    Example: distgnn doctor
    """
    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from distgnn.cli._doctor import examine  # noqa: PLC0415

    console = Console(quiet=as_json, markup=False)  # square brackets name extras here
    with console.status("looking"):
        findings = list(examine())
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    colors = {"ok": "green", "note": "yellow", "problem": "red"}
    table = Table("", "subject", "found", "to do")
    for finding in findings:
        status = Text(finding.status, colors[finding.status])
        table.add_row(status, finding.subject, finding.found, finding.fix)
    console.print(table)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)
