"""``distgnn partition``: cut a graph into parts."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import typer

from distgnn.cli.facts import show_facts

if TYPE_CHECKING:
    from rich.console import Console

    from distgnn.graph.partition.report import PartitionReport

_DATA, _PARTS, _OWN, _OUTPUT = "Data", "Parts", "A graph of your own", "Output"
_SHOWN = 32  # parts


def partition(
    graph: str = typer.Argument(help="Cora, CiteSeer, PubMed, or CustomLargeGraph.", metavar="GRAPH"),
    *,
    parts: int = typer.Option(..., help="Number of parts.", rich_help_panel=_PARTS),
    method: str = typer.Option(
        None,
        help="metis keeps neighbors together; hash and range look at ids alone.  "
        "\\[default: metis, or hash where pymetis is not installed]",
        rich_help_panel=_PARTS,
    ),
    out: str = typer.Option(..., help="Folder to write.", rich_help_panel=_OUTPUT),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Replace a partition that is there.", rich_help_panel=_OUTPUT
    ),
    root: str = typer.Option(None, help="Folder with the data set in PyG's layout.", rich_help_panel=_DATA),
    seed: int = typer.Option(0, help="Seed of METIS, of the hash and of a generated graph.", rich_help_panel=_PARTS),
    edges: str = typer.Option(
        None,
        help="Edge file: .csv, .tsv, .txt (also .gz), .npz or .pt. Without it, a generated graph.",
        rich_help_panel=_OWN,
    ),
    features: str = typer.Option(None, help="Feature file, a row a node.", rich_help_panel=_OWN),
    labels: str = typer.Option(None, help="Label file.", rich_help_panel=_OWN),
    label_column: str = typer.Option(
        None, help="Its column with the label.  \\[default: the one called so]", rich_help_panel=_OWN
    ),
    num_nodes: int = typer.Option(None, help="Number of nodes.", rich_help_panel=_OWN),
    num_edges: int = typer.Option(None, help="Number of edges of a generated graph.", rich_help_panel=_OWN),
    as_json: bool = typer.Option(
        False, "--json", help="Print the report as JSON, without progress.", rich_help_panel=_OUTPUT
    ),
) -> None:
    """Cut a graph into parts, each a folder that one worker loads, and report how well it was cut.

    Example: distgnn partition Cora --parts 4 --out cora-4
    """
    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports

    from distgnn.data.options import load_by_options  # noqa: PLC0415
    from distgnn.errors import ConfigError  # noqa: PLC0415
    from distgnn.graph.partition.assign import check_method, default_method  # noqa: PLC0415
    from distgnn.graph.partition.partitioner import partition_graph  # noqa: PLC0415
    from distgnn.graph.partition.writer import PICTURE  # noqa: PLC0415
    from distgnn.train.progress import TellingProgress  # noqa: PLC0415
    from distgnn.train.tasks import TASKS  # noqa: PLC0415

    if method is None:
        method = default_method()
        if method != "metis":
            typer.secho(
                "note: parts are cut by a hash of ids, for METIS needs pymetis: pip install 'distgnn[metis]'",
                err=True,
                fg="yellow",
            )
    check_method(parts, method)
    own: dict[str, Any] = {
        "edges": edges,
        "features": features,
        "labels": labels,
        "label_column": label_column,
        "num_nodes": num_nodes,
        "num_edges": num_edges,
    }
    dataset = load_by_options(graph, root=root, seed=seed, **own)
    if TASKS[dataset.task].on_graphs:
        raise ConfigError(f"{graph} has {len(dataset.graphs):,} small graphs; partitioning is for one large graph")
    data = dataset.graph
    del data.n_id, data.e_id  # they count from 0, which the partition writes down by itself
    console = Console(quiet=as_json)
    signal.signal(signal.SIGTERM, _end)  # so that what is written so far is removed
    with TellingProgress(console) as progress:
        task = progress.add_task("partitioning", total=parts)
        report = partition_graph(
            data,
            out,
            parts,
            method=method,
            seed=seed,
            overwrite=overwrite,
            progress=lambda done: progress.update(task, completed=done),
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict()))
        return
    show_parts(console, report)
    show_facts(console, [*cut_facts(report), ("picture", f"{out}/{PICTURE}")])


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def show_parts(console: Console, report: PartitionReport) -> None:
    """Print what each part has."""
    from rich.table import Table  # noqa: PLC0415

    title = f"{len(report.parts)} parts by {report.method}"
    table = Table("part", "nodes", "in-edges", "cut", "halo nodes", title=title)
    for number, part in enumerate(report.parts[:_SHOWN]):
        sizes = (part.nodes, part.edges, part.cut_edges, part.halo_nodes)
        table.add_row(str(number), *(f"{size:,}" for size in sizes))
    if len(report.parts) > _SHOWN:
        table.caption = f"and {len(report.parts) - _SHOWN:,} more, which --json prints"
    console.print(table)


def cut_facts(report: PartitionReport) -> list[tuple[str, str]]:
    """Say how well a graph was cut."""
    return [
        ("edge cut", f"{report.edge_cut:,} edges, {report.edge_cut_ratio:.1%}"),
        ("balance", f"{report.node_balance:.3f} by nodes, {report.edge_balance:.3f} by edges (1 is best)"),
        ("halo", f"{report.halo_ratio:.3f} nodes of other parts for each node"),
    ]
