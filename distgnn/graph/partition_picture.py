"""A picture of how a graph was cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from distgnn.graph.partition import PartitionReport


def draw_partition(report: PartitionReport, path: Path) -> None:
    """Draw the nodes and edges of each part: its own and its halo's, inner and cut ones."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    numbers = range(len(report.parts))
    inner = [part.edges - part.cut_edges for part in report.parts]
    bars = (
        ("nodes", "own", [part.nodes for part in report.parts], "halo", [part.halo_nodes for part in report.parts]),
        ("in-edges", "from own nodes", inner, "cut", [part.cut_edges for part in report.parts]),
    )
    for axes, (label, name, low, other, high) in zip(figure.subplots(1, 2), bars, strict=True):
        axes.bar(numbers, low, label=name)
        axes.bar(numbers, high, bottom=low, label=other)
        axes.set_xlabel("part")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, axis="y")
        axes.legend()
    figure.suptitle(
        f"{len(report.parts)} parts by {report.method}: {report.edge_cut_ratio:.1%} of the edges cut, largest part "
        f"{report.node_balance:.2f} times the average, {report.halo_ratio:.2f} halo nodes a node"
    )
    figure.savefig(path, dpi=150)
