"""``distgnn plan``: what a run will need, before it runs."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from distgnn.cli.facts import show_facts
from distgnn.errors import ConfigError
from distgnn.train.config import SPARSE_OPTIMIZERS, TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

    from distgnn.plan.estimate import Estimate, Pace
    from distgnn.plan.job import Job

_DEFAULT = TrainConfig()
_GRAPH, _MODEL, _MACHINES, _OUTPUT = "Graph", "Model", "Machines", "Output"


def _count(text: str) -> int:
    """Read a whole number, also as 1e9 or 1,000,000."""
    try:
        number = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf") or number != int(number):
        raise typer.BadParameter(f"{text!r} is no whole number, such as 1000000, 1,000,000 or 1e6")
    return int(number)


def plan(
    *,
    nodes: int = typer.Option(None, parser=_count, metavar="N", help="Nodes, as 1e9.", rich_help_panel=_GRAPH),
    edges: int = typer.Option(None, parser=_count, metavar="N", help="Directed edges.", rich_help_panel=_GRAPH),
    graph: str = typer.Option(
        None, help="Instead of both, a folder of distgnn partition, which brings its halos.", rich_help_panel=_GRAPH
    ),
    halo: float = typer.Option(
        None,
        help="Halo nodes for each node, as distgnn partition reports them.  \\[default: of parts at random]",
        rich_help_panel=_GRAPH,
    ),
    num_features: int = typer.Option(0, help="Width of the nodes' features.", rich_help_panel=_GRAPH),
    num_classes: int = typer.Option(8, help="Width of the output.", rich_help_panel=_GRAPH),
    embedding_dim: int = typer.Option(64, help="Width of the embeddings.", rich_help_panel=_MODEL),
    hidden_channels: int = typer.Option(
        _DEFAULT.hidden_channels, help="Width of the hidden layers.", rich_help_panel=_MODEL
    ),
    num_layers: int = typer.Option(3, help="Message passing layers.", rich_help_panel=_MODEL),
    sparse_optimizer: str = typer.Option(
        _DEFAULT.sparse_optimizer,
        help=f"Update rule of the embeddings, one of: {', '.join(SPARSE_OPTIMIZERS)}.",
        rich_help_panel=_MODEL,
    ),
    ranks: str = typer.Option(
        None,
        help="Numbers of machines, a rank on each, as 8,16,32.  \\[default: the fewest that fit, and more]",
        rich_help_panel=_MACHINES,
    ),
    memory: float = typer.Option(64.0, help="Memory of a machine, in GB.", rich_help_panel=_MACHINES),
    network: float = typer.Option(
        10.0, help="What a machine sends while it receives as much, in Gbit/s.", rich_help_panel=_MACHINES
    ),
    measure: bool = typer.Option(
        True, help="Train a small graph for some seconds, to tell the time of a step.", rich_help_panel=_MACHINES
    ),
    picture: str = typer.Option(None, help="Draw memory and time by machines into this .png.", rich_help_panel=_OUTPUT),
    as_json: bool = typer.Option(
        False, "--json", help="Print the estimates as JSON, without progress.", rich_help_panel=_OUTPUT
    ),
) -> None:
    """Estimate what full-graph training over stored embeddings needs: memory, bytes and time, by number of machines.

    It is for distgnn train --mode full --use-dist-embedding on backend pyg, a rank a machine. Sizes follow from what is
    allocated and sent; time from a small run on this machine, extrapolated.

    Example: distgnn plan --nodes 1e9 --edges 1e10 --memory 256
    """
    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports

    from distgnn.plan.estimate import estimate, fewest_machines  # noqa: PLC0415
    from distgnn.plan.job import Job, even_part, parts_of  # noqa: PLC0415

    for name, value in (("memory", memory), ("network", network)):
        if not value > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
    if halo is not None and not halo >= 0:
        raise ConfigError(f"halo must be at least 0, not {halo}")
    model = partial(
        Job,
        embedding_dim=embedding_dim,
        hidden_channels=hidden_channels,
        num_layers=num_layers,
        num_classes=num_classes,
        num_features=num_features,
        rule=sparse_optimizer,
    )
    console = Console(quiet=as_json, highlight=False)
    if graph is not None:
        if any(value is not None for value in (nodes, edges, halo, ranks)):
            raise ConfigError("--graph brings nodes, edges, halos and ranks: leave them out")
        parts = parts_of(Path(graph))
        job = model(int(sum(part.nodes for part in parts)), int(sum(part.edges for part in parts)))
        wanted = {len(parts): max(parts, key=lambda part: part.lookups)}
        fewest = None
    else:
        if nodes is None or edges is None:
            raise ConfigError("say how large the graph is by --nodes and --edges, or give a partition by --graph")
        job = model(nodes, edges)
        fewest = fewest_machines(job, memory * 1e9, halo)
        counts = [fewest * factor for factor in (1, 2, 4)] if ranks is None else _counts(ranks)
        wanted = {count: even_part(job, count, halo) for count in counts}
    pace = _measured(job, console) if measure else None
    estimates = [estimate(job, part, count, pace=pace, network=network * 1e9 / 8) for count, part in wanted.items()]
    if picture is not None:
        from distgnn.plan.figure import draw_estimates  # noqa: PLC0415

        draw_estimates(job, estimates, memory * 1e9, Path(picture))
    if as_json:
        told = {"fewest_machines": fewest, "memory": memory * 1e9, "estimates": [one.as_dict() for one in estimates]}
        typer.echo(json.dumps(told, indent=2))
        return
    _show(job, estimates, fewest, memory, network, console)
    if picture is not None:
        show_facts(console, [("picture", picture)])


def _counts(text: str) -> list[int]:
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ConfigError(f"ranks must be whole numbers from 1, joined by commas, such as 8,16,32, not {text!r}")
    return counts


def _measured(job: Job, console: Console) -> Pace:
    from distgnn.plan.sample import measure_pace  # noqa: PLC0415

    with console.status("training a small graph, to see how fast this machine is"):
        return measure_pace(job, threads=max(1, (os.cpu_count() or 2) // 2))


def _show(
    job: Job, estimates: list[Estimate], fewest: int | None, memory: float, network: float, console: Console
) -> None:
    from rich.filesize import decimal  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    def size(number: float) -> str:
        return decimal(round(number))

    title = f"{job.nodes:,} nodes, {job.edges:,} edges, embeddings of {job.embedding_dim}, {job.num_layers} layers"
    table = Table("machines", *(str(one.ranks) for one in estimates), title=title)
    table.add_section()
    table.add_row("own nodes", *(f"{one.nodes:,.0f}" for one in estimates))
    table.add_row("halo nodes", *(f"{one.halo:,.0f}" for one in estimates))
    table.add_section()
    for name in estimates[0].memory:
        table.add_row(f"memory: {name}", *(size(one.memory[name]) for one in estimates))
    table.add_row("memory a machine", *(size(one.bytes_needed) for one in estimates), style="bold")
    table.add_section()
    for name in estimates[0].sent:
        table.add_row(f"sent: {name}", *(size(one.sent[name]) for one in estimates))
    table.add_row("sent a step", *(size(one.bytes_sent) for one in estimates), style="bold")
    if estimates[0].seconds:
        table.add_section()
        for name in estimates[0].seconds:
            table.add_row(f"time: {name}", *(f"{one.seconds[name]:,.3g} s" for one in estimates))
        table.add_row("steps a second", *(f"{one.steps_a_second:,.3g}" for one in estimates), style="bold")
    console.print(table)
    facts = [("rule", job.rule), ("network", f"{network:g} Gbit/s")]
    if fewest is not None:
        facts.append(("fewest", f"{fewest:,} machine{'s' if fewest > 1 else ''} of {memory:g} GB"))
    show_facts(console, facts)
