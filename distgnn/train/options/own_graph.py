"""The files or sizes of ``CustomLargeGraph``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distgnn.train.options.setting import setting


@dataclass(frozen=True, kw_only=True)
class OwnGraphOptions:
    """The files or sizes of ``CustomLargeGraph``.

    Args:
        edges: Edge file of ``CustomLargeGraph``; None generates a graph.
        features: Its feature file.
        labels: Its label file.
        label_column: Column of the label file.
        num_nodes: Nodes of a generated graph, or of the edge file where it does not name the last ones.
        num_edges: Edges of a generated graph.
    """

    panel: ClassVar[str] = "A graph of your own"

    edges: str | None = setting(
        None, "Edge file: .csv, .tsv, .txt (also .gz), .npz or .pt. Without it, a generated graph."
    )
    features: str | None = setting(None, "Feature file, a row a node.")
    labels: str | None = setting(None, "Label file.")
    label_column: str | None = setting(None, "Its column with the label. \\[default: the one called so]")
    num_nodes: int | None = setting(None, "Number of nodes.", least=1)
    num_edges: int | None = setting(None, "Number of edges of a generated graph.", least=1)
