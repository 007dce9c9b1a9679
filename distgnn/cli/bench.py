"""``distgnn bench``: what benchmarks asked and reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from distgnn.errors import ConfigError


def bench(
    folder: str = typer.Argument("benchmarks/results", help="Folder that benchmarks wrote.", metavar="FOLDER"),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    as_markdown: bool = typer.Option(False, "--markdown", help="Print the table of the documentation."),
) -> None:
    """Show what benchmarks measured beside what is asked of them.

    "make bench" measures, and writes the results that this command reads.

    Example: distgnn bench docs/results
    """
    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    results = _read(Path(folder))
    lines = [
        {"file": name, **line, "is_reached": _is_reached(line)}
        for name, content in results.items()
        for line in content["asked"]
    ]
    if as_json:
        machines = {name: content["machine"] for name, content in results.items()}
        typer.echo(json.dumps({"lines": lines, "machines": machines}, indent=2))
        return
    header = ("what", "against", "asked", "reached")
    if as_markdown:
        typer.echo(f"| {' | '.join(header)} | reached? |\n{'|---' * len(header)}|---|")
        for line in lines:
            cells = (line["what"], line["against"], _asked(line), ", ".join(_reached(line)))
            typer.echo(f"| {' | '.join(cells)} | {'yes' if line['is_reached'] else 'no'} |")
        return
    console, table = Console(), Table(*header)
    for line in lines:
        told = _reached(line) if line["is_reached"] else [*_reached(line), "not reached"]
        reached = Text("\n".join(told), "green" if line["is_reached"] else "red")
        table.add_row(line["what"], line["against"], _asked(line), reached)
    console.print(table)
    for file, content in results.items():
        machine = content["machine"]
        versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "torch-geometric", "dgl") if machine[name])
        where = f"{machine['threads']} threads, {machine['cpu_capability']}, {machine['allocator']}, {versions}"
        console.print(f"{file}: {machine['date']}, {where}")


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of the files that say what was asked."""
    contents = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is no result of a benchmark: {error}; delete it, and measure again") from error
        if isinstance(content, dict) and content.get("asked"):
            contents[path.name] = content
    if not contents:
        raise ConfigError(
            f"the folder {folder} has no results of benchmarks: 'make bench' in the project's folder measures them, or "
            "name the folder that has them"
        )
    return contents


def _is_reached(line: dict[str, Any]) -> bool:
    values, asked = line["reached"].values(), line["asked"]
    return all(value <= asked if line["at_most"] else value >= asked for value in values)


def _asked(line: dict[str, Any]) -> str:
    return f"at most {line['asked']:.0%}" if line["at_most"] else f"at least {line['asked']:g}x"


def _reached(line: dict[str, Any]) -> list[str]:
    form = "{:.1%}" if line["at_most"] else "{:.2f}x"
    return [f"{name} {form.format(value)}".strip() for name, value in line["reached"].items()]
