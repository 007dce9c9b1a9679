"""Data sets by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch_geometric.datasets import Planetoid, TUDataset
from torch_geometric.transforms import Constant, OneHotDegree
from torch_geometric.utils import degree

from distgnn.data.custom import load_custom_graph
from distgnn.data.generated import generate_graph
from distgnn.data.raw_files import DATA_VARIABLE, PublicDataset, find_raw_files, open_dataset
from distgnn.errors import UnknownDatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch_geometric.data import Data

TU_DATASETS = (
    "MUTAG",
    "PROTEINS",
    "NCI1",
    "PTC_MR",
    "IMDB-BINARY",
    "IMDB-MULTI",
    "REDDIT-BINARY",
    "REDDIT-MULTI-5K",
    "COLLAB",
    "ENZYMES",
    "DD",
    "Cuneiform",
)
PLANETOID_DATASETS = ("Cora", "CiteSeer", "PubMed")
LARGE_GRAPH = "CustomLargeGraph"
KNOWN_DATASETS = (*TU_DATASETS, *PLANETOID_DATASETS, LARGE_GRAPH)

MAX_ONE_HOT_DEGREE = 500
TU_PARTS = ("A", "graph_indicator", "graph_labels")
PLANETOID_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")


@dataclass(frozen=True, eq=False)
class LoadedDataset:
    """A data set, and the sizes that a model for it needs.

    Every graph carries ``n_id`` and ``e_id``, the int64 ids of its nodes and edges within the whole data set, which
    learned embeddings are looked up with; PyG's ``Batch`` concatenates them as they are.

    Attributes:
        name: Name of the data set.
        task: Whether ``y`` holds a label for every graph or for every node; ``"link"`` is training's word for one
            graph of which links are predicted.
        graphs: The graphs; one for a node task, then with ``train_mask``, ``val_mask`` and ``test_mask``.
        num_features: Columns of ``x``; 0 if there is no ``x``.
        num_classes: Number of different labels.
        num_nodes: Nodes in all graphs together.
        num_edges: Directed edges in all graphs together.
        edge_dim: Columns of ``edge_attr``; 0 if there is none.
    """

    name: str
    task: Literal["graph", "node", "link"]
    graphs: Sequence[Data]
    num_features: int
    num_classes: int
    num_nodes: int
    num_edges: int
    edge_dim: int

    @property
    def graph(self) -> Data:
        """The only graph of a node task."""
        if self.task == "graph":
            raise AttributeError(f"{self.name} has {len(self.graphs)} graphs and a label for each; use .graphs")
        return self.graphs[0]


def load_dataset(name: str, *, root: str | Path | None = None, **options: Any) -> LoadedDataset:
    """Load a data set by name.

    Raw files are looked for in ``root/NAME/raw``, in ``$DISTGNN_DATA/NAME/raw``, which is only read, and, for MUTAG
    and Cuneiform, in the GraKeL package; only then are they downloaded into ``$DISTGNN_CACHE``, by default
    ``~/.cache/distgnn``.

    Args:
        name: A `TUDataset <https://chrsmrrs.github.io/datasets>`_ (graph task), whose graphs without node labels get
            one-hot degrees as ``x``, or a constant where degrees exceed 500; ``"Cora"``, ``"CiteSeer"`` or ``"PubMed"``
            (node task, public split); or ``"CustomLargeGraph"`` (node task), a graph of your own or a generated one.
            A TUDataset that is not in :data:`KNOWN_DATASETS` must have its raw files on this machine.
        root: Folder with data sets in PyG's layout.
        options: For a TUDataset ``use_node_attr`` and ``use_edge_attr``, as in PyG. For ``"CustomLargeGraph"`` what
            :func:`load_custom_graph` takes if ``edges`` is given, and otherwise what :func:`generate_graph` takes, by
            default 20,000 nodes and 200,000 edges.

    Raises:
        UnknownDatasetError: No data set has this name; the text lists the known ones.
        DatasetNotFoundError: The files are neither on this machine nor to be downloaded; the text says what to do.
        DataFormatError: The files are not what they should be.
        TypeError: An option that this data set does not take.
    """
    folder = None if root is None else Path(root)
    if name == LARGE_GRAPH:
        return _load_large_graph(**options)
    if name in PLANETOID_DATASETS:
        return _load_planetoid(name, folder, **options)
    return _load_tu(name, folder, **options)


def _load_tu(
    name: str,
    root: Path | None,
    *,
    use_node_attr: bool = False,
    use_edge_attr: bool = False,
) -> LoadedDataset:
    files = tuple(f"{name}_{part}.txt" for part in TU_PARTS)
    public = PublicDataset(name, TUDataset, files, f"{TUDataset.url}/{name}.zip")
    if name not in TU_DATASETS and find_raw_files(public, root) is None:
        raise UnknownDatasetError(_unknown(name, files))
    dataset = open_dataset(public, root, use_node_attr=use_node_attr, use_edge_attr=use_edge_attr)
    graphs = list(dataset)
    if graphs[0].x is None:
        graphs = _with_degrees(graphs)
    return _described(name, "graph", graphs, dataset.num_classes)


def _load_planetoid(name: str, root: Path | None) -> LoadedDataset:
    files = tuple(f"ind.{name.lower()}.{part}" for part in PLANETOID_PARTS)
    dataset = open_dataset(PublicDataset(name, Planetoid, files, Planetoid.url), root)
    return _described(name, "node", list(dataset), dataset.num_classes)


def _load_large_graph(*, edges: str | Path | None = None, **options: Any) -> LoadedDataset:
    if edges is None:
        graph = generate_graph(**{"num_nodes": 20_000, "num_edges": 200_000, **options})
    else:
        graph = load_custom_graph(edges, **options)
    num_classes = 0 if graph.y is None else int(graph.y.max()) + 1
    return _described(LARGE_GRAPH, "node", [graph], num_classes)


def _with_degrees(graphs: list[Data]) -> list[Data]:
    """Give graphs without node labels the features of the GIN paper (https://arxiv.org/abs/1810.00826, section 7)."""
    largest = max(int(degree(graph.edge_index[0], graph.num_nodes).max()) for graph in graphs)
    transform = OneHotDegree(largest) if largest <= MAX_ONE_HOT_DEGREE else Constant()
    return [transform(graph) for graph in graphs]


def _described(name: str, task: Literal["graph", "node"], graphs: list[Data], num_classes: int) -> LoadedDataset:
    num_nodes = num_edges = 0
    for graph in graphs:
        graph.generate_ids()
        graph.n_id += num_nodes
        graph.e_id += num_edges
        num_nodes += graph.num_nodes
        num_edges += graph.num_edges
    return LoadedDataset(
        name=name,
        task=task,
        graphs=graphs,
        num_features=graphs[0].num_features,
        num_classes=num_classes,
        num_nodes=num_nodes,
        num_edges=num_edges,
        edge_dim=graphs[0].num_edge_features,
    )


def _unknown(name: str, files: Sequence[str]) -> str:
    by_lower_case = {known.lower(): known for known in KNOWN_DATASETS}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    meant = f"; did you mean {by_lower_case[close[0]]}?" if close else "."
    return (
        f"no data set is called {name!r}{meant} Known are {', '.join(KNOWN_DATASETS)}. Any other TUDataset is read "
        f"from its raw files: put {', '.join(files)} into DIR/{name}/raw "
        f"and give DIR as {DATA_VARIABLE} or as root (--root)"
    )
