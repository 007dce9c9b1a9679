"""The options of a loader, checked."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch_geometric.data import Data, FeatureStore, HeteroData

from distgnn.errors import ConfigError, GraphInputError, IdsError
from distgnn.graph.feature_store import Rows, StoreFeatures, as_feature_store
from distgnn.storage.protocols import GraphStore
from distgnn.storage.specs import GraphSpec
from distgnn.storage.toolkit import LocalGraphStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch_geometric.loader import LinkLoader, NodeLoader

    Source: TypeAlias = Data | tuple[FeatureStore | Rows | Mapping[str, Rows] | None, GraphStore]
    Joined: TypeAlias = Data | tuple[FeatureStore, GraphStore]

_ATTRIBUTES = {
    *("batch", "batch_size", "e_id", "edge_index", "input_id", "n_id", "num_nodes"),
    *("num_sampled_edges", "num_sampled_nodes", "ptr", "seed_time"),
}

# Options of PyG's NeighborLoader that ask for nothing, and what to do instead of those that do.
_ONLY = {
    "replace": (False, "neighbors are drawn without replacement"),
    "directed": (True, "ask for subgraph_type='induced'"),
    "weight_attr": (None, "neighbors are drawn with equal chances, and in_degrees= weighs their messages"),
    "time_attr": (None, "a graph store has no times"),
    "input_time": (None, "a graph store has no times"),
    "edge_label_time": (None, "a graph store has no times"),
    "temporal_strategy": ("uniform", "a graph store has no times"),
    "is_sorted": (False, "a graph store sorts its edges itself"),
    "neighbor_sampler": (None, "a sampler of your own goes into torch_geometric.loader.NodeLoader"),
    "link_sampler": (None, "a sampler of your own goes into torch_geometric.loader.LinkLoader"),
    "node_sampler": (None, "a sampler of your own goes into torch_geometric.loader.NodeLoader"),
    "generator": (None, "the order and the samples follow seed="),
    "sampler": (None, "the order follows shuffle= and seed="),
    "batch_sampler": (None, "batches follow batch_size=, shuffle= and seed="),
    "dataset": (None, "what it goes through are the seeds"),
    "collate_fn": (None, "transform= changes each batch"),
    "persistent_workers": (False, "workers are told when an epoch begins by starting with it"),
}


def other_options(loader: type[NodeLoader | LinkLoader], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that go to PyG's loader as they are.

    Raises:
        ConfigError: One that cannot be honored, or that nobody knows.
    """
    known = {*inspect.signature(loader.__init__).parameters, *inspect.signature(DataLoader.__init__).parameters}
    kept = {}
    for name, value in options.items():
        if name in _ONLY:
            default, instead = _ONLY[name]
            if value is not default and not (isinstance(value, str) and value == default):
                raise ConfigError(f"{name} is not taken here: {instead}")
        elif name not in known:
            raise ConfigError(f"no option of this loader is called {name!r}, nor of PyG's {loader.__name__}")
        else:
            kept[name] = value
    return kept


def graph_and_features(data: Source) -> tuple[Joined, GraphStore]:
    """Return what PyG's loader takes the features of nodes from, and the graph to sample from.

    Raises:
        ConfigError: There is no graph, or there are features, of a kind that a loader does not take.
        GraphInputError: Features have fewer rows than the graph has nodes.
    """
    if isinstance(data, HeteroData):
        raise ConfigError(
            "a loader samples from one type of nodes and edges, and this is a HeteroData: give it "
            "data.to_homogeneous(), or sample with torch_geometric.loader.NeighborLoader"
        )
    if isinstance(data, Data):
        return data, _whole(data)
    if not isinstance(data, tuple) or len(data) != 2 or not isinstance(data[1], GraphStore):
        several = isinstance(data, tuple | list)
        kinds = f"({', '.join(type(one).__name__ for one in data)})" if several else type(data).__name__
        raise ConfigError(
            f"data is a Data, or a pair of features (or None) and a graph store, (features, backend.open_graph(...)), "
            f"not {kinds}"
        )
    features, graph = data
    if isinstance(features, Data):
        if features.num_nodes != graph.num_nodes:
            raise GraphInputError(
                f"the features are of a Data of {features.num_nodes} nodes, and the graph has {graph.num_nodes}"
            )
        if isinstance(features.edge_index, Tensor) and features.num_edges == graph.num_edges:
            return features, graph
        features = {attr.attr_name: features[attr.attr_name] for attr in features.get_all_tensor_attrs()}
    named = features if isinstance(features, FeatureStore) else named_features(features, "x", graph.num_nodes)
    return (named, graph), graph


def named_features(features: Rows | Mapping[str, Rows] | None, attr_name: str, count: int) -> StoreFeatures:
    """View features of so many nodes or edges by name.

    Raises:
        StoreError: Something is no store.
        GraphInputError: There are fewer rows.
    """
    view = as_feature_store({} if features is None else features, attr_name=attr_name)
    for attr in view.get_all_tensor_attrs():
        size = view.get_tensor_size(attr)
        if not size or size[0] < count:
            raise GraphInputError(
                f"feature {attr.attr_name!r} has the shape {list(size or ())}, and the graph has {count} "
                f"{'nodes' if attr_name == 'x' else 'edges'}: it needs a row for each"
            )
    return view


def check_names(joined: Joined, added: list[str]) -> None:
    """Refuse features that would be lost in a batch behind another of their name.

    Args:
        joined: What PyG takes the features of nodes from.
        added: What is added to each batch.

    Raises:
        ConfigError: Two have one name, or one has that of what every batch has.
    """
    if isinstance(joined, Data):
        names, reserved = list(joined.keys()), {"e_id", "n_id"} if added else set()
    else:
        names, reserved = [attr.attr_name for attr in joined[0].get_all_tensor_attrs()], _ATTRIBUTES
    every = Counter([*names, *added])
    wrong = [name for name in every if every[name] > 1 or name in reserved or (name in added and name in _ATTRIBUTES)]
    if wrong:
        raise ConfigError(
            f"features called {', '.join(map(repr, wrong))} would be lost, for a batch has something else of that "
            "name; call them something else"
        )


def node_seeds(nodes: object, graph: GraphStore) -> tuple[Tensor, Tensor | None]:
    """Return the ids of the seeds, ``[K]`` int64, and what PyG calls their ``input_id``.

    Raises:
        IdsError: They are no vector of ids, or a mask over another number of nodes.
    """
    if nodes is None:
        return torch.arange(graph.num_nodes), None
    if _is_type(nodes):
        raise IdsError("input_nodes names a type of nodes, and the graph has one type: give the nodes alone")
    ids = _tensor("input_nodes", nodes)
    if ids.dtype == torch.bool:
        if ids.shape != (graph.num_nodes,):
            raise IdsError(
                f"input_nodes is a mask of shape {list(ids.shape)}, and the graph has {graph.num_nodes} nodes"
            )
        ids = ids.nonzero().flatten()
        return ids, ids
    _check_integers("input_nodes", ids)
    if ids.dim() != 1:
        raise IdsError(f"input_nodes has the shape [K], not {list(ids.shape)}; flatten it")
    return ids.long(), None


def edge_seeds(edges: object, graph: GraphStore) -> Tensor:
    """Return the edges to start from, ``[2, K]`` int64; all of the graph, by id, where none are given.

    Raises:
        IdsError: They are no pairs of ids.
    """
    if edges is None:
        found = graph.in_neighbors(torch.arange(graph.num_nodes))
        return torch.stack([found.sources, found.destinations]).index_select(1, found.edge_ids.argsort())
    if _is_type(edges):
        raise IdsError("edge_label_index names a type of edges, and the graph has one type: give the edges alone")
    ids = _tensor("edge_label_index", edges)
    _check_integers("edge_label_index", ids)
    if ids.dim() != 2 or len(ids) != 2:
        turned = "; turn it by .t()" if ids.dim() == 2 and ids.size(1) == 2 else ""
        raise IdsError(f"edge_label_index has the shape [2, K], not {list(ids.shape)}{turned}")
    return ids.long()


def _is_type(given: object) -> bool:
    """Tell whether PyG would see the name of a type of nodes or edges in it."""
    return isinstance(given, str) or (
        isinstance(given, tuple | list) and len(given) > 0 and isinstance(given[0], str | tuple) and _is_type(given[0])
    )


def _tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, tuple | list) and given and all(isinstance(one, Tensor) for one in given):
        given = torch.stack(list(given))
    try:
        return given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    except (TypeError, ValueError):
        raise IdsError(f"{name} holds ids of nodes, not what a {type(given).__name__} has here: {given!r}") from None


def _check_integers(name: str, ids: Tensor) -> None:
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype in {torch.bool, torch.uint8}):
        raise IdsError(f"{name} holds integers, not {ids.dtype}")


def _whole(data: Data) -> GraphStore:
    """Return the graph of a Data, in this process."""
    if not isinstance(data.edge_index, Tensor):
        raise ConfigError("the Data has no edge_index [2, E], which its neighbors would be sampled from")
    edge_index = data.edge_index.cpu().long()
    spec = GraphSpec("data", data.num_nodes or 0, edge_index.size(-1))
    spec.check_edges(edge_index)
    return LocalGraphStore(spec, edge_index, edge_index.device)
