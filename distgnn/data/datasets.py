"""Data sets by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid, TUDataset
from torch_geometric.transforms import Constant, OneHotDegree
from torch_geometric.utils import degree

from distgnn.data.generated import generate_graph
from distgnn.data.notes import note
from distgnn.data.public.planetoid import PLANETOID_PARTS, read_planetoid
from distgnn.data.public.raw_files import DATA_VARIABLE, PublicDataset, find_raw_files, kept, raw_files
from distgnn.data.public.tu import GraphSet, read_graph_set, tell
from distgnn.data.tables.custom import load_custom_graph
from distgnn.errors import UnknownDatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LARGE_GRAPH = "CustomLargeGraph"

MAX_ONE_HOT_DEGREE = 500
TU_PARTS = ("A", "graph_indicator", "graph_labels")


@dataclass(frozen=True, eq=False)
class LoadedDataset:
    """A data set, and the sizes that a model for it needs.

    Every graph carries ``n_id`` and ``e_id``, the int64 ids of its nodes and edges within the whole data set, which
    learned embeddings are looked up with; PyG's ``Batch`` concatenates them as they are.

    Attributes:
        name: Name of the data set.
        task: What is learned: ``"graph"`` or ``"node"``, whether ``y`` holds a class for every graph or for every node,
            ``"node-regression"`` where it holds numbers; ``"link"`` is training's word for one graph of which links are
            predicted.
        graphs: The graphs; one for a node task, then with ``train_mask``, ``val_mask`` and ``test_mask``.
        num_features: Columns of ``x``; 0 if there is no ``x``.
        num_classes: Number of different labels; 0 where they are numbers to be predicted.
        num_nodes: Nodes in all graphs together.
        num_edges: Directed edges in all graphs together.
        edge_dim: Columns of ``edge_attr``; 0 if there is none.
    """

    name: str
    task: str
    graphs: Sequence[Data]
    num_features: int
    num_classes: int
    num_nodes: int
    num_edges: int
    edge_dim: int

    @property
    def graph(self) -> Data:
        """The only graph of a node task."""
        if self.task.startswith("graph"):
            raise AttributeError(f"{self.name} has {len(self.graphs)} graphs and a label for each; use .graphs")
        return self.graphs[0]


def load_dataset(name: str, *, root: str | Path | None = None, **options: Any) -> LoadedDataset:
    """Load a data set by name.

    Raw files are looked for in ``root/NAME/raw``, in ``$DISTGNN_DATA/NAME/raw``, which is only read, and, for MUTAG
    and Cuneiform, in the GraKeL package; only then are they downloaded into ``$DISTGNN_CACHE``, by default
    ``~/.cache/distgnn``, where also is kept what was made of them. No file that is read runs code, and PyG's
    ``processed`` folders are neither read nor written.

    Args:
        name: A `TUDataset <https://chrsmrrs.github.io/datasets>`_ (graph task), whose graphs without node labels get
            one-hot degrees as ``x``, or a constant where degrees exceed 500; ``"Cora"``, ``"CiteSeer"`` or ``"PubMed"``
            (node task, public split); or ``"CustomLargeGraph"`` (node task), a graph of your own or a generated one.
            Any other set of graphs in the layout of a TUDataset must have its raw files on this machine.
        root: Folder with data sets in PyG's layout.
        options: For a TUDataset ``use_node_attr`` and ``use_edge_attr``, as in PyG; by default attributes are used
            where there are no labels of nodes or edges. For ``"CustomLargeGraph"`` what :func:`load_custom_graph` takes
            if ``edges`` is given, and otherwise what :func:`generate_graph` takes, by default 20,000 nodes and 200,000
            edges.

    Raises:
        UnknownDatasetError: No data set has this name; the text lists the known ones.
        DatasetNotFoundError: The files are neither on this machine nor to be downloaded; the text says what to do.
        DataFormatError: The files are not what they should be.
        TypeError: An option that this data set does not take.
    """
    folder = None if root is None else Path(root)
    return DATASETS.get(name, _load_tu)(name, folder, **options)


def _load_tu(
    name: str,
    root: Path | None,
    *,
    use_node_attr: bool | None = None,
    use_edge_attr: bool | None = None,
) -> LoadedDataset:
    files = tuple(f"{name}_{part}.txt" for part in TU_PARTS)
    public = PublicDataset(name, files, f"{TUDataset.url}/{name}.zip")
    if name not in DATASETS and find_raw_files(public, root) is None:
        raise UnknownDatasetError(_unknown(name, files))
    raw = raw_files(public, root)
    found = GraphSet(**kept(public, raw, lambda: vars(read_graph_set(raw, name))))
    if name not in DATASETS:
        tell(found, raw, name)
    graphs = _graphs(found, name, use_node_attr=use_node_attr, use_edge_attr=use_edge_attr)
    if graphs[0].x is None:
        graphs = _with_degrees(graphs)
    return _described(name, "graph", graphs, int(found.y.max()) + 1)


def _graphs(found: GraphSet, name: str, *, use_node_attr: bool | None, use_edge_attr: bool | None) -> list[Data]:
    """Take graphs from a set, with attributes where they are asked for, or where there are no labels."""
    columns = {}
    for kind, asked, attributes, labels in (
        ("node", use_node_attr, found.node_attributes, found.node_labels),
        ("edge", use_edge_attr, found.edge_attributes, found.edge_labels),
    ):
        used = not labels.size(1) if asked is None else asked
        if attributes.size(1) and asked is None and not used and name not in DATASETS:
            note(f"{name}_{kind}_attributes.txt is not used beside {kind} labels; give use_{kind}_attr=True in Python")
        columns[kind] = torch.cat([attributes, labels], dim=1) if used else labels
    counts = found.graph.bincount()
    sizes = counts.tolist()
    owner = found.graph[found.edge_index[0]]
    links = owner.bincount(minlength=len(sizes)).tolist()
    edges = torch.split(found.edge_index - (counts.cumsum(0) - counts)[owner], links, dim=1)
    x, edge_attr = (
        torch.split(rows, lengths) if rows.size(1) else [None] * len(sizes)
        for rows, lengths in ((columns["node"], sizes), (columns["edge"], links))
    )
    graphs = []
    for number, size in enumerate(sizes):
        graph = Data(x=x[number], edge_index=edges[number], edge_attr=edge_attr[number], y=found.y[number : number + 1])
        if graph.x is None:
            graph.num_nodes = size
        graphs.append(graph)
    return graphs


def _load_planetoid(name: str, root: Path | None) -> LoadedDataset:
    files = tuple(f"ind.{name.lower()}.{part}" for part in PLANETOID_PARTS)
    public = PublicDataset(name, files, Planetoid.url)
    raw = raw_files(public, root)
    graph = Data.from_dict(kept(public, raw, lambda: read_planetoid(raw, name).to_dict()))
    return _described(name, "node", [graph], int(graph.y.max()) + 1)


def _load_large_graph(
    name: str, root: Path | None, *, edges: str | Path | None = None, **options: Any
) -> LoadedDataset:
    if edges is None:
        graph = generate_graph(**{"num_nodes": 20_000, "num_edges": 200_000, **options})
    else:
        graph = load_custom_graph(edges, **options)
    del root  # its files are given one by one
    if graph.y is not None and graph.y.is_floating_point():
        return _described(name, "node-regression", [graph], 0)
    num_classes = 0 if graph.y is None else int(graph.y.max()) + 1
    return _described(name, "node", [graph], num_classes)


def _with_degrees(graphs: list[Data]) -> list[Data]:
    """Give graphs without node labels the features of the GIN paper (https://arxiv.org/abs/1810.00826, section 7)."""
    largest = max(int(degree(graph.edge_index[0], graph.num_nodes).max()) for graph in graphs)
    transform = OneHotDegree(largest) if largest <= MAX_ONE_HOT_DEGREE else Constant()
    return [transform(graph) for graph in graphs]


def _described(name: str, task: str, graphs: list[Data], num_classes: int) -> LoadedDataset:
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
    by_lower_case = {known.lower(): known for known in DATASETS}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    meant = f"; did you mean {by_lower_case[close[0]]}?" if close else "."
    return (
        f"no data set is called {name!r}{meant} Known are {', '.join(DATASETS)}. Any other TUDataset is read "
        f"from its raw files: put {', '.join(files)} into DIR/{name}/raw "
        f"and give DIR as {DATA_VARIABLE} or as root (--root)"
    )


DATASETS: Mapping[str, Callable[..., LoadedDataset]] = MappingProxyType(
    {
        "MUTAG": _load_tu,
        "PROTEINS": _load_tu,
        "NCI1": _load_tu,
        "PTC_MR": _load_tu,
        "IMDB-BINARY": _load_tu,
        "IMDB-MULTI": _load_tu,
        "REDDIT-BINARY": _load_tu,
        "REDDIT-MULTI-5K": _load_tu,
        "COLLAB": _load_tu,
        "ENZYMES": _load_tu,
        "DD": _load_tu,
        "Cuneiform": _load_tu,
        "Cora": _load_planetoid,
        "CiteSeer": _load_planetoid,
        "PubMed": _load_planetoid,
        LARGE_GRAPH: _load_large_graph,
    }
)
"""The loaders of data sets by name; other sets of graphs in TU's layout are read as TUDatasets are."""
