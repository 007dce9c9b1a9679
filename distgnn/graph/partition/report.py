"""The quality of a partition, in numbers and a figure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PartSummary:
    """The contents of one part.

    Args:
        nodes: Nodes of its own.
        edges: Edges, which are those that end in them.
        cut_edges: Of these, edges that come from a node of another part.
        halo_nodes: Nodes of other parts that these come from.
    """

    nodes: int
    edges: int
    cut_edges: int
    halo_nodes: int


@dataclass(frozen=True)
class PartitionReport:
    """The quality of a partition.

    Args:
        folder: Where the parts are.
        method: How nodes were assigned.
        parts: What each part holds.
        left_out: Attributes of the graph that are no rows of nodes or edges, and were not written.
    """

    folder: str
    method: str
    parts: tuple[PartSummary, ...]
    left_out: tuple[str, ...]

    @property
    def edge_cut(self) -> int:
        """Number of edges between nodes of different parts."""
        return sum(part.cut_edges for part in self.parts)

    @property
    def edge_cut_ratio(self) -> float:
        """The same as a share of all edges."""
        return self.edge_cut / max(1, sum(part.edges for part in self.parts))

    @property
    def node_balance(self) -> float:
        """Nodes of the largest part over those of the average part; 1 is best."""
        return balance([part.nodes for part in self.parts])

    @property
    def edge_balance(self) -> float:
        """Edges of the largest part over those of the average part; 1 is best."""
        return balance([part.edges for part in self.parts])

    @property
    def halo_ratio(self) -> float:
        """Halo nodes of all parts over all nodes: how much more memory features take when each part has its halo's."""
        return sum(part.halo_nodes for part in self.parts) / max(1, sum(part.nodes for part in self.parts))

    def as_dict(self) -> dict[str, object]:
        """Return fields and measures as the manifest has them."""
        measures = ("edge_cut", "edge_cut_ratio", "node_balance", "edge_balance", "halo_ratio")
        return asdict(self) | {name: getattr(self, name) for name in measures}


def draw_partition(report: PartitionReport, path: Path) -> None:
    """Draw the nodes and edges of each part: its own and its halo's, inner and cut ones."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # loaders need no plotting library

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
        axes.margins(y=0.18)
        axes.legend(loc="upper right", ncols=2)
    figure.suptitle(
        f"{len(report.parts)} parts by {report.method}: {report.edge_cut_ratio:.1%} of the edges cut, largest part "
        f"{report.node_balance:.2f} times the average, {report.halo_ratio:.2f} halo nodes a node"
    )
    figure.savefig(path, dpi=150)


def balance(sizes: list[int]) -> float:
    """Return the largest size over the average one."""
    return max(sizes) * len(sizes) / max(1, sum(sizes))
